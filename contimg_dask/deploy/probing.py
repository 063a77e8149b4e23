"""Ask the hosts of a cluster what they are like: facts for `contimg_dask.deploy.checking`.

Everything goes the way that work goes, through the scheduler to the workers. What is asked of a
worker leaves nothing behind there.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import ssl
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
from distributed import Client

from contimg_dask.deploy.inventory import CLIENT_NAME, Inventory, NodeEntry
from contimg_dask.errors import ClusterError
from contimg_dask.execution.cluster import connected_client
from contimg_dask.execution.encryption import TlsFiles, check_files
from contimg_dask.execution.node import this_node

_TIMEOUT_S = 3.0
_SSH_PORT = 22
_HAS_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""

_PACKAGES = ("contimg-dask", "dask", "distributed", "python-casacore", "numpy", "h5py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory as its node sees it: what is wrong with it (None: nothing), and its size [bytes]."""

    path: str
    fault: str | None
    total_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSaid:
    """What a worker says of itself and its node.

    ``offset_s`` is its clock less ours; ``node`` and ``digest`` are those it took from its
    inventory when it started, None without one.
    """

    address: str
    versions: dict[str, str]
    node: str | None
    digest: str | None
    threads: int
    memory_limit_bytes: int
    memory_bytes: int
    tmpfs: Place
    scratch: Place
    output: Place
    input: Place | None
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What was found out about a node; ``answers`` when something listens or refuses at its address."""

    answers: bool
    workers: tuple[WorkerSaid, ...] = ()
    unusable: tuple[str, ...] = ()
    offset_s: float = 0.0
    uncertainty_s: float = 0.0
    days_left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What was found out about all of it.

    ``fault`` is why the scheduler cannot be spoken to; then nodes are only known to answer or not.
    ``strangers`` are workers at no node's address. Days are those certificates are still good for:
    of the authority, the scheduler, and the client that asked.
    """

    nodes: dict[str, NodeFacts]
    fault: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    scheduler_versions: dict[str, str] = field(default_factory=dict)
    allowed_failures: int = 0
    days_left: dict[str, float | None] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()


def own_versions() -> dict[str, str]:
    """Return the versions of what has to be the same everywhere, in this process."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def client_files(inventory: Inventory) -> TlsFiles:
    """Return the certificate files of a client of this cluster, as the inventory has them."""
    ca_file, cert_file, key_file = inventory.cluster.certificate_files(CLIENT_NAME)
    return TlsFiles(ca_file=ca_file or None, cert_file=cert_file or None, key_file=key_file or None)


def ask_cluster(inventory: Inventory, files: TlsFiles) -> ClusterFacts:
    """Find out everything that can be found out from here."""
    cluster = inventory.cluster
    try:
        with connected_client(
            cluster.scheduler_address, tls=files, allow_plain_tcp=cluster.allow_plain_tcp
        ) as client:
            return _ask(client, inventory, files)
    except ClusterError as error:
        with ThreadPoolExecutor(max_workers=16) as threads:
            answers = threads.map(is_reachable, [node.ip for node in inventory.nodes])
        pairs = zip(inventory.nodes, answers, strict=True)
        nodes = {node.name: NodeFacts(answers=there) for node, there in pairs}
        return ClusterFacts(nodes=nodes, fault=str(error))


def _ask(client: Client, inventory: Inventory, files: TlsFiles) -> ClusterFacts:
    cluster = inventory.cluster
    hosts = _workers_by_host(client)
    days_left: dict[str, float | None] = {}
    if cluster.tls_dir is not None:
        days_left = {
            "the authority": authority_days_left(files),
            "its certificate": peer_days_left(cluster.scheduler_address, files),
            "the client's certificate": own_days_left(files),
        }
    known = {node.ip for node in inventory.nodes}
    return ClusterFacts(
        versions=own_versions(),
        scheduler_versions=client.run_on_scheduler(own_versions),
        allowed_failures=client.run_on_scheduler(allowed_failures),
        days_left=days_left,
        nodes={
            node.name: _ask_node(client, inventory, node, hosts.get(node.ip, []), files)
            for node in inventory.nodes
        },
        strangers=tuple(a for ip, found in hosts.items() if ip not in known for a in found),
    )


def allowed_failures(dask_scheduler: Any = None) -> int:
    """Say how often a scheduler gives a task again whose worker died (called on the scheduler)."""
    return int(dask_scheduler.allowed_failures)


def _workers_by_host(client: Client) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for address, facts in client.scheduler_info(n_workers=-1)["workers"].items():
        found.setdefault(facts["host"], []).append(address)
    return found


def _ask_node(
    client: Client, inventory: Inventory, node: NodeEntry, addresses: list[str], files: TlsFiles
) -> NodeFacts:
    if not addresses:
        return NodeFacts(answers=is_reachable(node.ip))
    said: list[WorkerSaid] = []
    unusable: list[str] = []
    clock = (float("inf"), 0.0)
    for address in addresses:
        before_s = time.time()
        (answer,) = client.run(
            describe_worker, node, inventory.cluster.output_dir, workers=[address],
            on_error="return",
        ).values()  # fmt: skip
        after_s = time.time()
        if not isinstance(answer, WorkerSaid):
            unusable.append(f"{address}: {str(answer).splitlines()[0][:120]}")
            continue
        said.append(answer)
        # The shortest way there and back says most about the clock.
        half_s = (after_s - before_s) / 2
        clock = min(clock, (half_s, answer.now_s - (before_s + half_s)))
    return NodeFacts(
        answers=True,
        workers=tuple(said),
        unusable=tuple(unusable),
        offset_s=clock[1],
        uncertainty_s=clock[0] if said else 0.0,
        days_left=peer_days_left(addresses[0], files),
    )


def is_reachable(ip: str) -> bool:
    """Tell whether a host is there: it takes or refuses a connection, rather than saying nothing."""
    try:
        socket.create_connection((ip, _SSH_PORT), _TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def describe_worker(node: NodeEntry, output_dir: str, dask_worker: Any = None) -> WorkerSaid:
    """Say what this worker and its node are like (called through ``Client.run``)."""
    own = this_node()
    return WorkerSaid(
        address=dask_worker.address,
        versions=own_versions(),
        node=own.name if own else None,
        digest=own.digest if own else None,
        threads=dask_worker.state.nthreads,
        memory_limit_bytes=dask_worker.memory_manager.memory_limit or 0,
        memory_bytes=psutil.virtual_memory().total,
        tmpfs=look_at(node.tmpfs_path, written=True),
        scratch=look_at(node.scratch_dir, written=True),
        output=look_at(output_dir, written=True),
        input=look_at(node.input_dir, written=False) if node.input_dir else None,
        now_s=time.time(),
    )


def look_at(path: str, *, written: bool) -> Place:
    """Return what is wrong with a directory that is to be read, or also written."""
    try:
        if written:
            with tempfile.TemporaryFile(dir=path) as file:
                file.write(b"\0")
        else:
            os.listdir(path)
        status = os.statvfs(path)
    except OSError as error:
        return Place(path=path, fault=error.strerror or str(error))
    return Place(path=path, fault=None, total_bytes=status.f_blocks * status.f_frsize)


def peer_days_left(address: str, files: TlsFiles) -> float | None:
    """Return for how long the certificate that a process uses is still good [d].

    0 when it is not any more; None when there is none, or it cannot be seen.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme != "tls":
        return None
    host, _, port = rest.rpartition(":")
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S) as plain,
            check_files(files).wrap_socket(plain) as encrypted,
        ):
            return _days_until(encrypted.getpeercert())
    except ssl.SSLCertVerificationError as error:
        return 0.0 if error.verify_code == _HAS_EXPIRED else None
    except (OSError, ClusterError):
        return None


def own_days_left(files: TlsFiles) -> float | None:
    """Return for how long the client's certificate is still good [d]; 0 when it is not any more."""
    # Only a handshake reads a certificate: one between two ends in this process.
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = check_files(files)
    here.verify_mode = ssl.CERT_NONE
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_verify_locations(files.ca_file)
    there.load_cert_chain(str(files.cert_file), files.key_file)
    there.verify_mode = ssl.CERT_REQUIRED
    client = here.wrap_bio(inbound, outbound)
    server = there.wrap_bio(outbound, inbound, server_side=True)
    try:
        for end in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
        return _days_until(server.getpeercert())
    except ssl.SSLCertVerificationError as error:
        return 0.0 if error.verify_code == _HAS_EXPIRED else None
    except ssl.SSLError:
        return None


def authority_days_left(files: TlsFiles) -> float | None:
    """Return for how long the authority is still good [d]."""
    ends = [_days_until(found) for found in check_files(files).get_ca_certs()]
    return min((end for end in ends if end is not None), default=None)


def _days_until(certificate: Mapping[str, Any] | None) -> float | None:
    if not certificate:
        return None
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400.0
