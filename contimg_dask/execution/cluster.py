"""The Dask cluster a conversion runs on: an embedded one, or one that is already there."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import resource_tracker
from platform import python_version
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.client import ClosedClientError

from contimg_dask.errors import ClusterError
from contimg_dask.execution.encryption import TlsFiles, explain_refused, security_for
from contimg_dask.execution.interrupts import interrupts_deferred
from contimg_dask.execution.scratch import scratch_directory

_CONNECT_TIMEOUT_S = 5
_NO_FILES = TlsFiles()

_EMBEDDED_CONFIGURATION = {
    # One death of a worker ends the attempt: whether to try again is decided here, not by Dask.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.no-workers-timeout": "120s",
    # A nanny brings its worker back. Dask looks 15 s after a death whether it has, and stops the
    # nanny for good when it finds the worker dead again at that moment.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Steps keep no bulk data in Dask, so spilling could only hurt.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # A host of a cluster has the link of that cluster's dashboard here.
    "distributed.dashboard.link": "{scheme}://{host}:{port}/status",
    "distributed.admin.large-graph-warning-threshold": "100MB",
    # The last messages of every connection, whole, for who debugs Dask: a tenth of the usual number.
    "distributed.admin.low-level-log-length": 100,
    # The page of ours in the dashboard. By name: what watches a cluster is above what runs it.
    "distributed.scheduler.preload": [
        "contimg_dask.execution.spans",
        "contimg_dask.deploy.dashboard_page",
    ],
}
_WORKER_PRELOADS = [
    "contimg_dask.execution.embedded_preload",
    "contimg_dask.deploy.worker_figures",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker says of itself before it gets any work."""

    address: str
    package: str
    python: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """A connected cluster.

    ``nodes`` maps a host's IP to its number of workers. ``halt`` stops the workers of an embedded
    cluster at once, whatever they are doing; it is None where the cluster is somebody else's.
    """

    client: Client
    nodes: dict[str, int]
    dashboard: str | None
    halt: Callable[[], None] | None

    @property
    def embedded(self) -> bool:
        """Whether the cluster is this process's own."""
        return self.halt is not None


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
    with (
        dask.config.set(_EMBEDDED_CONFIGURATION),
        quiet_distributed(),
        scratch_directory() as scratch,
    ):
        with _in_full():
            # A cluster that is half up cannot be taken down in order.
            local = _start(count, memory_limit, dashboard, scratch)
            client = Client(local, set_as_default=False)
        try:
            yield _checked(client, dashboard=local.dashboard_link, halt=lambda: _close(local))
        finally:
            with _in_full():
                client.close()
                _close(local)


def _close(local: LocalCluster) -> None:
    local.close()


def _start(workers: int, memory_limit: str, dashboard: str, scratch: str) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=memory_limit,
            dashboard_address=dashboard,
            local_directory=scratch,
            preload=_WORKER_PRELOADS,
        )
    except (RuntimeError, OSError) as error:
        raise ClusterError(
            f"the embedded cluster did not start ({str(error).splitlines()[0][:160]}): see "
            f"'contimg-dask doctor'"
        ) from error


@contextmanager
def _in_full() -> Iterator[None]:
    """Start or stop a cluster without being interrupted in the middle of it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread only
        return
    # A blocked signal stays blocked in the threads and processes started meanwhile: the workers
    # never see a Ctrl-C, which the terminal sends to all of them. Only the resource tracker would
    # unblock it when it starts, so it is started before.
    resource_tracker.ensure_running()
    was_blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with interrupts_deferred():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, was_blocked)


@contextmanager
def connected_cluster(
    address: str, *, tls: TlsFiles = _NO_FILES, allow_plain_tcp: bool = False
) -> Iterator[Cluster]:
    """Connect to a scheduler that is already there; it is left running.

    Parameters
    ----------
    address
        ``tls://HOST:PORT``, or ``tcp://HOST:PORT`` on this machine.
    tls
        Certificates for ``tls://``; none given: those of Dask's own configuration.
    allow_plain_tcp
        Take ``tcp://`` to another machine too.

    Raises
    ------
    ClusterError
        Nothing answers, there are no workers, or they cannot be used; certificates are missing or
        wrong, or plain TCP would leave this machine.
    """
    with connected_client(address, tls=tls, allow_plain_tcp=allow_plain_tcp) as client:
        yield use_client(client)


@contextmanager
def connected_client(
    address: str, *, tls: TlsFiles = _NO_FILES, allow_plain_tcp: bool = False
) -> Iterator[Client]:
    """Connect as `connected_cluster` does, whatever the workers are."""
    security = security_for(address, tls, allow_plain_tcp=allow_plain_tcp)
    with quiet_distributed():
        try:
            client = Client(
                address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False, security=security
            )
        except (OSError, ValueError) as error:
            raise explain_refused(address, tls) or ClusterError(
                f"{address}: no Dask scheduler answers there within {_CONNECT_TIMEOUT_S} s "
                f"({str(error).splitlines()[0][:120]}): check the address and that it runs",
                code="no-scheduler",
            ) from error
        with client:
            yield client


def use_client(client: Client) -> Cluster:
    """Use a client somebody else made, and will close.

    Raises
    ------
    ClusterError
        There are no workers, or they lack this package or have another version of it.
    """
    return _checked(client, dashboard=client.dashboard_link, halt=None)


def _checked(client: Client, *, dashboard: str | None, halt: Callable[[], None] | None) -> Cluster:
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
    return Cluster(client=client, nodes=hosts(client), dashboard=dashboard, halt=halt)


def hosts(client: Client) -> dict[str, int]:
    """Return how many workers each host has now, by IP."""
    count: dict[str, int] = {}
    for facts in _workers(client).values():
        count[facts["host"]] = count.get(facts["host"], 0) + 1
    return count


def silent_after_s(workers: int) -> float:
    """Return after how long without a sign a worker counts as silent, among so many [s]."""
    # Workers tell of themselves every 0.5 s, and n of them at least every 1 + n/200 s.
    return 3.0 + workers / 50


def silent_hosts(client: Client) -> set[str]:
    """Return the hosts that have said nothing for a while, by IP: they may be gone, or very busy.

    Dask takes a worker for lost after a minute (``worker-ttl``) only. Until then whatever is given
    to a host that is cut off or frozen is lost with it.
    """
    heard_s: dict[str, float] = {}
    workers = _workers(client)
    for facts in workers.values():
        heard_s[facts["host"]] = max(heard_s.get(facts["host"], 0.0), facts["last_seen"])
    # Held against the latest sign of any, so that no two clocks are compared.
    since_s = max(heard_s.values(), default=0.0) - silent_after_s(len(workers))
    return {host for host, at_s in heard_s.items() if at_s < since_s}


def workers_on(client: Client, nodes: set[str]) -> list[str]:
    """Return the addresses of the workers on these hosts, by IP."""
    workers = _workers(client)
    return [address for address, facts in workers.items() if facts["host"] in nodes]


def _workers(client: Client) -> dict[str, Any]:
    """Return what the scheduler knows of its workers; nothing when it is gone."""
    try:
        found: dict[str, Any] = client.scheduler_info(n_workers=-1).get("workers", {})
    except (OSError, ClosedClientError):
        return {}
    return found


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
    names = ("client", "comm", "core", "nanny", "scheduler", "utils", "worker")
    loggers = [logging.getLogger(f"distributed.{name}") for name in names]
    loggers.append(logging.getLogger("distributed"))
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
