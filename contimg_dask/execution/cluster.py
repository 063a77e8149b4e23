"""The Dask cluster a conversion runs on: an embedded one, or one that is already there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from platform import python_version
from typing import Any

import dask
from distributed import Client, LocalCluster

from contimg_dask.errors import ClusterError

_CONNECT_TIMEOUT_S = 10
_START_TIMEOUT_S = 60

_EMBEDDED_CONFIGURATION = {
    # One death of a worker ends the attempt: whether to try again is decided here, not by Dask.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.no-workers-timeout": "120s",
    # Steps keep no bulk data in Dask, so spilling could only hurt.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.admin.large-graph-warning-threshold": "100MB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker says of itself before it gets any work."""

    address: str
    package: str
    python: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """A connected cluster: ``nodes`` maps a host's IP to its number of workers."""

    client: Client
    nodes: dict[str, int]
    dashboard: str | None
    embedded: bool


@contextmanager
def embedded_cluster(workers: int | None, memory_limit: str, dashboard: str) -> Iterator[Cluster]:
    """Start a scheduler in this process and one-thread worker processes on this machine.

    Parameters
    ----------
    workers
        Number of processes; the machine's usable cores when None.
    memory_limit
        Per worker, as Dask reads it.
    dashboard
        Address to bind the dashboard to.
    """
    count = workers or len(os.sched_getaffinity(0))
    with dask.config.set(_EMBEDDED_CONFIGURATION), quiet_distributed():
        local = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=memory_limit,
            dashboard_address=dashboard,
            preload=["contimg_dask.execution.embedded_preload"],
        )
        try:
            with Client(local, set_as_default=False) as client:
                yield _checked(client, embedded=True, dashboard=local.dashboard_link)
        finally:
            local.close(timeout=5)


@contextmanager
def connected_cluster(address: str) -> Iterator[Cluster]:
    """Connect to a scheduler that is already there; it is left running.

    Raises
    ------
    ClusterError
        Nothing answers, there are no workers, or they cannot be used.
    """
    try:
        with quiet_distributed():
            client = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Dask scheduler answers there within {_CONNECT_TIMEOUT_S} s "
            f"({str(error).splitlines()[0][:120]}): check the address and that it runs",
            code="no-scheduler",
        ) from error
    with client:
        yield use_client(client)


def use_client(client: Client) -> Cluster:
    """Use a client somebody else made, and will close.

    Raises
    ------
    ClusterError
        There are no workers, or they lack this package or have another version of it.
    """
    return _checked(client, embedded=False, dashboard=client.dashboard_link)


def _checked(client: Client, *, embedded: bool, dashboard: str | None) -> Cluster:
    info = client.scheduler_info(n_workers=-1)
    workers = info["workers"]
    if not workers:
        raise ClusterError(
            f"{info['address']}: the scheduler has no workers: start some with 'dask "
            f"worker {info['address']} --nthreads 1'",
            code="no-workers",
        )
    wanted = version("contimg-dask")
    for address, facts in client.run(worker_facts, on_error="return").items():
        if not isinstance(facts, WorkerFacts):
            raise ClusterError(
                f"worker {address} cannot import contimg_dask ({str(facts)[:120]}): install "
                f"contimg-dask {wanted} where it runs",
                code="worker-without-package",
            )
        if facts.package != wanted:
            raise ClusterError(
                f"worker {address} has contimg-dask {facts.package}, this is {wanted}: install the "
                f"same version on both",
                code="worker-version",
            )
    return Cluster(client=client, nodes=hosts(client), dashboard=dashboard, embedded=embedded)


def hosts(client: Client) -> dict[str, int]:
    """Return how many workers each host has now, by IP."""
    count: dict[str, int] = {}
    for facts in client.scheduler_info(n_workers=-1)["workers"].values():
        count[facts["host"]] = count.get(facts["host"], 0) + 1
    return count


def worker_facts(dask_worker: Any = None) -> WorkerFacts:
    """Tell what the worker this runs on is (called through ``Client.run``)."""
    return WorkerFacts(
        address=dask_worker.address,
        package=version("contimg-dask"),
        python=python_version(),
        threads=dask_worker.state.nthreads,
    )


@contextmanager
def quiet_distributed() -> Iterator[None]:
    """Keep Dask's own log lines about lost workers and closed connections off the screen.

    What matters of them is told as an outcome.
    """
    names = ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.worker")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    excepthook = threading.excepthook
    try:
        yield
    finally:
        threading.excepthook = excepthook
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
