"""A cluster of several hosts on one machine: a scheduler and nodes that can die and be cut off.

Each host is a network namespace with an address of its own on one bridge; each node has a scratch
directory and a memory file system of a fixed size. The real ``dask scheduler`` and ``dask worker``
commands run there with what ``contimg-dask cluster render`` renders, encrypted, with certificates
from ``cluster/make-certificates``. It needs root. Where namespaces are not allowed, hosts are
addresses 127.0.77.x, links cannot be cut, and `Bed.word` says so; likewise for file systems. What
uses it is run from the directory above this one, as ``python -m cluster.NAME``.

    with bring_up(Path("/tmp/bed")) as bed:
        bed.run("contimg-dask", "convert", "incoming", "products")
        bed.stop("node2")
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster.hosts import MARK, Loopback, Namespaces, quiet, remove_dead_beds
from contimg_dask.deploy.inventory import Inventory, read_inventory
from contimg_dask.deploy.rendering import (
    render_host,
    scheduler_arguments,
    worker_arguments,
    write_files,
)

SCHEDULER = "scheduler"
NO_WORDS: Mapping[str, str] = {}
_MAKE_CERTIFICATES = Path(__file__).with_name("make-certificates")
_WORKERS_OF = """
import json, sys, urllib.request
for line in sys.stdin:
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            found = [w["host"] for w in json.load(answer)["workers"].values()]
    except (OSError, ValueError):
        found = []
    print(json.dumps(found), flush=True)
"""


@dataclass(slots=True, kw_only=True, eq=False)
class Host:
    """A host of the bed and the process group that runs on it, if one does."""

    name: str
    ip: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the host, which share a process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


@dataclass(slots=True, kw_only=True, eq=False)
class Bed:
    """A running test bed."""

    directory: Path
    inventory: Inventory
    network: Namespaces | Loopback
    word: str
    more_environment: dict[str, str] = field(default_factory=dict)
    scheduler_environment: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    _asking: subprocess.Popen[str] | None = None

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return [node.name for node in self.inventory.nodes]

    @property
    def scheduler_address(self) -> str:
        """Where the scheduler listens."""
        return self.inventory.cluster.scheduler_address

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a host's programs, as the rendered file has it."""
        rendered = self.directory / "hosts" / name / self.inventory.cluster.config_dir.lstrip("/")
        lines = (rendered / "environment").read_text().splitlines()
        pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
        # Hosts of the bed share a file system, so each reads its own rendered directory.
        here = {
            "DASK_CONFIG": str(rendered / "dask.yaml"),
            "CONTIMG_DASK_CONFIG": str(rendered / "contimg-dask.toml"),
        }
        return dict(os.environ) | dict(pairs) | here | self.more_environment  # type: ignore[arg-type]

    def _command(self, name: str) -> list[str]:
        dask = str(Path(sys.prefix) / "bin" / "dask")
        if name == SCHEDULER:
            return [dask, *scheduler_arguments(self.inventory)]
        node = self.inventory.node_named(name)
        assert node is not None, name
        return [dask, *worker_arguments(self.inventory, node)]

    def start(self, name: str) -> None:
        """Start a host's programs, again and again when they end, as systemd does."""
        host = self.hosts[name]
        if host.process is not None:
            return
        again = ["bash", "-c", 'while :; do "$@"; sleep 0.5; done', "again", *self._command(name)]
        with host.log.open("ab") as log:
            host.process = subprocess.Popen(
                [*self.network.inside(name), *again],
                env=self.environment(name)
                | (self.scheduler_environment if name == SCHEDULER else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str) -> None:
        """Kill everything on a host at once, as a power cut does; its disks stay as they are."""
        host = self.hosts[name]
        host.signal(signal.SIGKILL)
        if host.process is not None:
            host.process.wait(timeout=30)
        host.process = None

    def restart_scheduler(self) -> None:
        """Kill the scheduler and start it again."""
        self.stop(SCHEDULER)
        self.start(SCHEDULER)

    def cut(self, name: str) -> None:
        """Pull a host's network cable."""
        self.network.set_link(name, "down")

    def restore(self, name: str) -> None:
        """Plug it in again."""
        self.network.set_link(name, "up")

    def freeze(self, name: str) -> None:
        """Stop all processes of a host where they are."""
        self.hosts[name].signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let them go on."""
        self.hosts[name].signal(signal.SIGCONT)

    def pids(self, name: str) -> list[int]:
        """Return the processes of a host."""
        process = self.hosts[name].process
        if process is None:
            return []
        first = psutil.Process(process.pid)
        return [first.pid, *(child.pid for child in first.children(recursive=True))]

    def workers(self) -> dict[str, int]:
        """Return how many workers of each node the scheduler knows; empty when it does not answer."""
        asking = self._asked()
        assert asking.stdin is not None
        assert asking.stdout is not None
        asking.stdin.write("\n")
        asking.stdin.flush()
        addresses = json.loads(asking.stdout.readline())
        names = {host.ip: name for name, host in self.hosts.items()}
        return {names.get(ip, ip): addresses.count(ip) for ip in addresses}

    def _asked(self) -> subprocess.Popen[str]:
        """Return a process on the scheduler's host that tells the workers' addresses, line by line.

        One for all questions: starting Python takes as long as the answer many times over.
        """
        if self._asking is None:
            url = f"http://127.0.0.1:{self.inventory.cluster.dashboard_port}/json/identity.json"
            self._asking = subprocess.Popen(
                [*self.network.inside(SCHEDULER), sys.executable, "-S", "-c", _WORKERS_OF, url],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        return self._asking

    def wait_until(self, true: Callable[[dict[str, int]], bool], timeout_s: float = 90.0) -> None:
        """Return when this is true of the workers; not while the scheduler does not tell them.

        Raises
        ------
        TimeoutError
            It has not become true; the message has what there is, and ends of the logs.
        """
        deadline_s = time.monotonic() + timeout_s
        # Dask's page fails now and then while data are moved.
        while not (there := self.workers()) or not true(there):
            if time.monotonic() > deadline_s:
                logs = [f"{h.name}: {h.log.read_text()[-1500:]}" for h in self.hosts.values()]
                raise TimeoutError(f"after {timeout_s} s there are {there}\n" + "\n".join(logs))
            time.sleep(0.3)

    def wait_for_all(self, timeout_s: float = 90.0) -> None:
        """Return when every node has all its workers, and nobody else has any."""
        wanted = {node.name: node.workers for node in self.inventory.nodes}
        self.wait_until(lambda there: there == wanted, timeout_s)

    def popen(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a command on the scheduler's host; the programs of this environment come first."""
        environment = self.environment(SCHEDULER)
        environment["PATH"] = f"{Path(sys.prefix) / 'bin'}:{environment['PATH']}"
        return subprocess.Popen(
            [*self.network.inside(SCHEDULER), *map(str, command)],
            env=environment,
            text=True,
            **options,
        )

    def run(
        self, *command: str | Path, timeout_s: float = 100.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the scheduler's host and return what it did."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.popen(*command, **pipes) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def close(self) -> None:
        """Kill every process of the bed."""
        if self._asking is not None:
            self._asking.communicate()  # it ends with its input
        for name in self.hosts:
            self.thaw(name)
            self.stop(name)


@contextmanager
def bring_up(
    directory: Path,
    *,
    nodes: int = 4,
    workers: int = 1,
    tmpfs: str = "64MiB",
    worker_ttl_s: int = 10,
    settings: str = "",
    roles: Mapping[str, str] = NO_WORDS,
    environment: Mapping[str, str] = NO_WORDS,
    scheduler_environment: Mapping[str, str] = NO_WORDS,
) -> Iterator[Bed]:
    """Bring a test bed up below a directory, and take it down whatever happens.

    Parameters
    ----------
    nodes, workers
        How many nodes, and worker processes on each.
    tmpfs
        Size of each node's memory file system, which is its budget too.
    worker_ttl_s
        Seconds after which a silent worker counts as lost.
    settings
        Lines of the inventory's ``[settings]``.
    roles
        Of nodes that are not to be ``both``, by name.
    environment, scheduler_environment
        More variables for all programs, and for the scheduler alone.
    """
    remove_dead_beds()
    names = [SCHEDULER, *(f"node{number}" for number in range(1, nodes + 1))]
    with ExitStack() as stack:
        network, word = _network(names)
        stack.callback(network.close)
        for name in names[1:]:
            word += _make_disks(directory / "disks" / name, tmpfs, stack)
        inventory = _write_inventory(
            directory, network, workers=workers, tmpfs=tmpfs, ttl_s=worker_ttl_s,
            settings=settings, roles=roles,
        )  # fmt: skip
        _make_certificates(inventory, network)
        bed = Bed(
            directory=directory, inventory=inventory, network=network, word=word,
            more_environment=dict(environment),
            scheduler_environment=dict(scheduler_environment),
        )  # fmt: skip
        (directory / "logs").mkdir(exist_ok=True)
        for name in names:
            write_files(render_host(inventory, name), directory / "hosts" / name)
            log = directory / "logs" / f"{name}.log"
            log.touch()
            bed.hosts[name] = Host(name=name, ip=network.addresses[name], log=log)
        stack.callback(bed.close)
        for name in names:
            bed.start(name)
        bed.wait_for_all()
        yield bed


def _network(names: list[str]) -> tuple[Namespaces | Loopback, str]:
    try:
        return Namespaces(names), ""
    except OSError as error:
        reason = str(error).splitlines()[0]
        return Loopback(names), f"no network namespaces here, hosts are 127.0.77.x ({reason})\n"


def _make_disks(directory: Path, size: str, stack: ExitStack) -> str:
    """Make a node's scratch directory and mount its memory file system; return a word if it fails."""
    for name in ("scratch", "tmpfs", "incoming"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    place, bound = str(directory / "tmpfs"), f"size={size.removesuffix('iB').removesuffix('B')}"
    try:
        quiet("mount", "-t", "tmpfs", "-o", bound, f"{MARK}{os.getpid()}", place)
    except OSError as error:
        return f"{place} is an ordinary directory ({error})\n"
    stack.callback(quiet, "umount", "--lazy", place)
    return ""


def _write_inventory(
    directory: Path,
    network: Namespaces | Loopback,
    *,
    workers: int,
    tmpfs: str,
    ttl_s: int,
    settings: str,
    roles: Mapping[str, str],
) -> Inventory:
    config = directory / "config"
    config.mkdir(parents=True, exist_ok=True)
    (directory / "products").mkdir(exist_ok=True)
    lines = [
        "[cluster]",
        f'scheduler_ip = "{network.addresses[SCHEDULER]}"',
        f"scheduler_port = {network.port(8786)}",
        f"dashboard_port = {network.port(8787)}",
        f'environment = "{sys.prefix}"',
        'user = "contimg"',
        f'catalogue = "{directory}/catalogue.sqlite"',
        f'output_dir = "{directory}/products"',
        f'tls_dir = "{config}/tls"',
        f'config_dir = "{config}"',
        f"worker_ttl_s = {ttl_s}",
        'placement = "group"',
        "[settings]",
        settings,
    ]
    for name, ip in network.addresses.items():
        if name == SCHEDULER:
            continue
        disks = directory / "disks" / name
        lines += [
            "[[node]]",
            f'name = "{name}"',
            f'ip = "{ip}"',
            f"workers = {workers}",
            f'role = "{roles.get(name, "both")}"',
            'memory_limit = "2GiB"',
            f'scratch_dir = "{disks}/scratch"',
            f'input_dir = "{disks}/incoming"',
            f'tmpfs_path = "{disks}/tmpfs"',  # noqa: S108 - below the bed's own directory
            f'tmpfs_budget = "{tmpfs}"',
        ]
    path = config / "nodes.toml"
    path.write_text("\n".join(lines) + "\n")
    return read_inventory(path)


def _make_certificates(inventory: Inventory, network: Namespaces | Loopback) -> None:
    directory = str(inventory.cluster.tls_dir)
    shutil.rmtree(directory, ignore_errors=True)  # of an earlier bed in this place
    quiet(str(_MAKE_CERTIFICATES), directory, "--days", "90",
           *(f"{name}={ip}" for name, ip in network.addresses.items()))  # fmt: skip
