"""Services as an operator runs them: started for good, and started again whenever they end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

DASK = str(Path(sys.executable).with_name("dask"))
COMMAND = str(Path(sys.executable).with_name("contimg-dask"))
LOOPBACK = "127.0.0.1"

DASK_SETTINGS = {
    # As the cluster's configuration has them: one death of a worker ends an attempt.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "60s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1000 days",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
}


@dataclass(kw_only=True)
class Service:
    """A command that is started again whenever it ends, until it is stopped.

    Its processes are a session of their own, killed together as a unit's are.
    """

    name: str
    arguments: Sequence[str | Path]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.3
    starts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> Service:
        """Start it, and keep it going."""
        self._thread.start()
        return self

    def _keep(self) -> None:
        while not self._stopped.is_set():
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [str(argument) for argument in self.arguments],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=os.environ | self.environment,
                    start_new_session=True,
                )
            self.starts += 1
            if self._stopped.is_set():
                self.kill()
            self.exit_codes.append(self.process.wait())
            self._stopped.wait(self.pause_s)

    def kill(self) -> None:
        """Kill all its processes at once; it is started again.

        Only Python's resource trackers are left to end by themselves: they remove what the others
        had in /dev/shm.
        """
        process = self.process
        if process is None:
            return
        try:
            found = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for child in found:
            if not _says(child, "resource_tracker"):
                _kill(child.pid)
        _kill(process.pid)

    def kill_child(self) -> bool:
        """Kill one of its children, as the kernel does for memory; tell whether there was one."""
        try:
            children = psutil.Process(self.process.pid).children() if self.process else []
        except psutil.NoSuchProcess:
            return False
        workers = [child for child in children if _says(child, "spawn_main")]
        if workers:
            _kill(workers[0].pid)
        return bool(workers)

    def memory_bytes(self) -> int:
        """Resident memory of its main process."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Stop it in order, and return its exit code; what does not end is killed."""
        self._stopped.set()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._thread.join()
        return self.exit_codes[-1]


def _says(process: psutil.Process, word: str) -> bool:
    """Tell whether a word is in the command line of a process."""
    try:
        return word in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on just now."""
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])


@dataclass(kw_only=True)
class Deployment:
    """A scheduler, workers and a dispatcher on this machine, each a service."""

    catalogue: str
    address: str
    scheduler: Service
    pools: dict[str, Service]
    dispatcher: Service

    @property
    def workers(self) -> Service:
        """The workers of the first node."""
        return next(iter(self.pools.values()))

    def services(self) -> tuple[Service, ...]:
        """All of them."""
        return self.scheduler, *self.pools.values(), self.dispatcher


@contextmanager
def deployed(
    directory: Path,
    catalogue: str,
    *dispatch: str | Path,
    workers: int = 2,
    nodes: Sequence[str] = (LOOPBACK,),
    preload: Sequence[str | Path] = (),
    **settings: Any,
) -> Iterator[Deployment]:
    """Run scheduler, workers and dispatcher while the block runs; logs go to the directory.

    Parameters
    ----------
    directory, catalogue
        Where logs go, and the dispatcher's catalogue.
    dispatch
        More arguments of the dispatcher.
    workers, nodes
        How many workers on each of these addresses of the loopback, which stand for machines.
    preload
        What workers load besides what they always do.
    settings
        The dispatcher's, by name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    address = f"tcp://{LOOPBACK}:{port}"
    scratch = directory / "dask"
    scheduler = Service(
        name="scheduler",
        arguments=[
            DASK,
            "scheduler",
            "--host",
            LOOPBACK,
            "--port",
            str(port),
            "--no-dashboard",
            "--preload",
            "contimg_dask.execution.spans",
        ],
        log=directory / "scheduler.log",
        environment=DASK_SETTINGS,
    )
    preloads = [
        part
        for name in ("contimg_dask.execution.preload", *preload)
        for part in ("--preload", name)
    ]
    pools = {
        node: Service(
            name=f"workers of {node}",
            arguments=[
                DASK, "worker", address, "--host", node, "--nworkers", str(workers),
                "--nthreads", "1", "--memory-limit", "2GiB", "--no-dashboard",
                "--local-directory", scratch, "--death-timeout", "20", *preloads,
            ],
            log=directory / f"workers-{node}.log",
            environment=DASK_SETTINGS,
        )
        for node in nodes
    }  # fmt: skip
    own = {f"CONTIMG_DASK_{name.upper()}": str(value) for name, value in settings.items()}
    dispatcher = Service(
        name="dispatcher",
        arguments=[
            COMMAND, "dispatch", "--catalogue", catalogue, "--scheduler", address, *dispatch,
        ],
        log=directory / "dispatcher.log",
        environment=own,
    )  # fmt: skip
    everything = Deployment(
        catalogue=catalogue,
        address=address,
        scheduler=scheduler,
        pools=pools,
        dispatcher=dispatcher,
    )
    try:
        for service in everything.services():
            service.start()
        yield everything
    finally:
        for service in reversed(everything.services()):
            service.stop()


def until(what: Any, timeout_s: float, every_s: float = 0.2) -> Any:
    """Return the first true answer; fail when there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if answer := what():
            return answer
        assert time.monotonic() < deadline_s, f"nothing within {timeout_s} s"
        time.sleep(every_s)
