"""Read the inventory of a cluster, ``nodes.toml``: what each host is, has and may take.

Every mistake in it is one line that names the file, the place, the key, what was found and what is
allowed. Nothing is guessed, and nothing unknown is passed over.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from contimg_dask.errors import UsageError
from contimg_dask.settings import check_value, size_bytes

Placement = Literal["group", "subband", "auto"]
Role = Literal["both", "stage", "reduce"]

CERTIFICATE_SUFFIX, KEY_SUFFIX = ".pem", "-key.pem"
CA_NAME, CLIENT_NAME = "ca", "client"

SETTINGS_RENDERED = (
    "scheduler", "tls_ca_file", "tls_cert_file", "tls_key_file", "allow_plain_tcp", "placement",
)  # fmt: skip
"""Settings of the program that follow from the inventory."""


def _is_path(text: str) -> bool:
    # These go into unit files, YAML and TOML as they are: nothing in them may need quoting.
    return re.fullmatch(r"/[\w.,:+=@/-]*", text) is not None


def _is_ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast)


def _is_size(text: str) -> bool:
    try:
        return size_bytes(text) > 0
    except ValueError:
        return False


# What a text may be: the words for people, and the check.
_FORMS: dict[str, tuple[str, Any]] = {
    "name": (
        "letters, digits, '-' and '_', beginning with a letter or digit",
        lambda text: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", text),
    ),
    "path": ("an absolute path of letters, digits and . , : + = @ _ - /", _is_path),
    "ip": ("an IP address such as 10.0.0.11 (Dask never finds a worker by a DNS name)", _is_ip),
    "size": ("a size such as 4GiB", _is_size),
    "place": (
        "an absolute path, or a database URL without quotes and spaces",
        lambda text: _is_path(text) or re.fullmatch(r"[a-z][a-z0-9+]*://[^\s\"'\\$`]+", text),
    ),
}


def _is(form: str | None = None, low: int | None = None, high: int | None = None) -> dict[str, Any]:
    return {"form": form, "low": low, "high": high}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """One node: a ``[[node]]`` table of the inventory.

    Parameters
    ----------
    name, ip
        What people call it, and how Dask finds it.
    workers
        Worker processes, of one thread each.
    memory_limit
        Memory of one worker process, above which Dask restarts it.
    scratch_dir
        Its local disk: staging, and Dask's own files.
    tmpfs_path, tmpfs_budget
        Its memory file system, and the most that groups may take of it together.
    input_dir
        Where it records subbands itself; None: it does not.
    role
        Under ``subband`` placement: ``stage`` writes parts of its own files, ``reduce`` puts groups
        together, ``both``.
    """

    name: str = field(metadata=_is("name"))
    ip: str = field(metadata=_is("ip"))
    workers: int = field(metadata=_is(low=1, high=1024))
    memory_limit: str = field(metadata=_is("size"))
    scratch_dir: str = field(metadata=_is("path"))
    tmpfs_path: str = field(default="/dev/shm", metadata=_is("path"))  # noqa: S108 - the mount
    tmpfs_budget: str = field(metadata=_is("size"))
    input_dir: str | None = field(default=None, metadata=_is("path"))
    role: Role = field(default="both", metadata=_is())

    @property
    def memory_bytes(self) -> int:
        """All its worker processes at their limit [bytes]."""
        return self.workers * size_bytes(self.memory_limit)

    @property
    def tmpfs_bytes(self) -> int:
        """What groups may take of its memory file system together [bytes]."""
        return size_bytes(self.tmpfs_budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEntry:
    """What all hosts share: the ``[cluster]`` table of the inventory.

    Parameters
    ----------
    scheduler_name, scheduler_ip, scheduler_port, dashboard_port
        The host of scheduler, dispatcher and API; it may be one of the nodes. The dashboard
        listens on that host's loopback only.
    environment
        The virtual environment with this package, at the same path on every host.
    user
        Whom all programs run as.
    catalogue
        File or URL of the dispatcher's catalogue.
    input_dir, output_dir
        Where subbands arrive (None where nodes record them) and where products go: the same
        paths on every host.
    tls_dir
        Certificates and keys, on each host its own; None: plain TCP.
    allow_plain_tcp
        Take plain TCP between hosts on purpose.
    placement
        ``group``: all of a group on one node; ``subband``: parts where the files are; ``auto``.
    config_dir
        Where what is rendered lies on the hosts.
    worker_ttl_s
        Seconds without a sign of life after which a worker counts as lost.
    monitoring
        Our own page in Dask's dashboard, and our figures on ``/metrics``.
    """

    scheduler_name: str = field(default="scheduler", metadata=_is("name"))
    scheduler_ip: str = field(metadata=_is("ip"))
    scheduler_port: int = field(default=8786, metadata=_is(low=1, high=65535))
    dashboard_port: int = field(default=8787, metadata=_is(low=1, high=65535))
    environment: str = field(metadata=_is("path"))
    user: str = field(metadata=_is("name"))
    catalogue: str = field(metadata=_is("place"))
    input_dir: str | None = field(default=None, metadata=_is("path"))
    output_dir: str = field(metadata=_is("path"))
    tls_dir: str | None = field(default=None, metadata=_is("path"))
    allow_plain_tcp: bool = field(default=False, metadata=_is())
    placement: Placement = field(default="auto", metadata=_is())
    config_dir: str = field(default="/etc/contimg-dask", metadata=_is("path"))
    worker_ttl_s: int = field(default=60, metadata=_is(low=5, high=3600))
    monitoring: bool = field(default=True, metadata=_is())

    @property
    def scheduler_address(self) -> str:
        """The scheduler as Dask names it."""
        host = f"[{self.scheduler_ip}]" if ":" in self.scheduler_ip else self.scheduler_ip
        return f"{'tls' if self.tls_dir else 'tcp'}://{host}:{self.scheduler_port}"

    def certificate_files(self, name: str) -> tuple[str, str, str]:
        """Return the files of a host or client: authority, certificate, key; "" without TLS."""
        if self.tls_dir is None:
            return "", "", ""
        directory = Path(self.tls_dir)
        names = (CA_NAME + CERTIFICATE_SUFFIX, name + CERTIFICATE_SUFFIX, name + KEY_SUFFIX)
        ca_file, cert_file, key_file = (str(directory / file) for file in names)
        return ca_file, cert_file, key_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """An inventory that is right in itself.

    ``settings`` are the program's own (`contimg_dask.settings`), as the ``[settings]`` table gives
    them to all hosts.
    """

    path: str
    cluster: ClusterEntry
    nodes: tuple[NodeEntry, ...]
    settings: Mapping[str, object]

    def digest_of(self, node: NodeEntry) -> str:
        """Return a digest of all that is said of a node: what is said of others is no matter."""
        known = (asdict(self.cluster), self.placement, dict(self.settings), asdict(node))
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def placement(self) -> Literal["group", "subband"]:
        """The placement; ``auto`` is ``subband`` where a node records subbands itself."""
        if self.cluster.placement != "auto":
            return self.cluster.placement
        return "subband" if any(node.input_dir for node in self.nodes) else "group"

    @property
    def host_names(self) -> tuple[str, ...]:
        """Every host there is: the scheduler's first, then the nodes."""
        return tuple(dict.fromkeys([self.cluster.scheduler_name, *(n.name for n in self.nodes)]))

    def node_named(self, name: str) -> NodeEntry | None:
        """Return the node of this name."""
        return next((node for node in self.nodes if node.name == name), None)

    def node_at(self, ip: str) -> NodeEntry | None:
        """Return the node with this address."""
        wanted = ipaddress.ip_address(ip)
        return next((n for n in self.nodes if ipaddress.ip_address(n.ip) == wanted), None)


def read_inventory(path: Path) -> Inventory:
    """Read and check an inventory.

    Raises
    ------
    UsageError
        The file cannot be read, or something in it is wrong.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also of a giant number
        raise UsageError(f"{path}: not a readable TOML file: {error}", path=str(path)) from error
    _refuse_unknown(document, ("cluster", "node", "settings"), str(path), "a table of it")
    cluster = ClusterEntry(
        **_read_table(ClusterEntry, document.get("cluster"), f"{path}: [cluster]")
    )
    nodes = tuple(_read_nodes(document.get("node"), path))
    inventory = Inventory(
        path=str(path),
        cluster=cluster,
        nodes=nodes,
        settings=_read_settings(document.get("settings", {}), path),
    )
    _check_together(inventory)
    return inventory


def _read_settings(table: object, path: Path) -> dict[str, object]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: settings is no table: write [settings] and lines below it")
    where = f"{path}: [settings]"
    for name in table:
        if name in SETTINGS_RENDERED:
            raise UsageError(f"{where}: {name} follows from [cluster] and [[node]]: leave it out")
    return {name: check_value(name, value, where) for name, value in table.items()}


def _read_nodes(tables: object, path: Path) -> Iterable[NodeEntry]:
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path}: there is no [[node]]: write one for each node")
    for number, table in enumerate(tables, start=1):
        name = table.get("name") if isinstance(table, dict) else None
        where = f'node "{name}"' if isinstance(name, str) else f"[[node]] number {number}"
        yield NodeEntry(**_read_table(NodeEntry, table, f"{path}: {where}"))


def _read_table(kind: type, table: object, where: str) -> dict[str, Any]:
    """Return the values of a table as the data class takes them, each one checked."""
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: there is no such table, or it is something else: write one")
    known = {declared.name: declared for declared in fields(kind)}
    _refuse_unknown(table, tuple(known), where, "a key")
    for name, declared in known.items():
        if name not in table and declared.default is MISSING:
            raise UsageError(f"{where}: {name} is missing, it takes {_allowed(kind, declared)}")
        if name in table and not _is_allowed(kind, declared, table[name]):
            raise UsageError(
                f"{where}: {name} is {_shown(table[name])}, allowed is {_allowed(kind, declared)}"
            )
    return dict(table)


def _refuse_unknown(
    table: Mapping[str, object], known: tuple[str, ...], where: str, what: str
) -> None:
    for name in table:
        if name not in known:
            raise UsageError(f"{where}: {name!r} is not {what}. There are: {', '.join(known)}")


def _kinds(kind: type, name: str) -> tuple[type, ...]:
    hint = get_type_hints(kind)[name]
    return (str,) if get_origin(hint) is Literal else get_args(hint) or (hint,)


def _choices(kind: type, name: str) -> tuple[str, ...]:
    hint = get_type_hints(kind)[name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _is_allowed(kind: type, declared: Field[Any], value: Any) -> bool:
    # bool is an int to isinstance, but `workers = true` is a mistake.
    if type(value) not in _kinds(kind, declared.name):
        return False
    if choices := _choices(kind, declared.name):
        return value in choices
    limits = declared.metadata
    if type(value) is int:
        return bool(limits["low"] <= value <= limits["high"])
    return type(value) is bool or bool(_FORMS[limits["form"]][1](value))


def _allowed(kind: type, declared: Field[Any]) -> str:
    if choices := _choices(kind, declared.name):
        return " | ".join(choices)
    kinds, limits = _kinds(kind, declared.name), declared.metadata
    if bool in kinds:
        return "true | false"
    if int in kinds:
        return f"a whole number from {limits['low']} to {limits['high']}"
    return str(_FORMS[limits["form"]][0])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _check_together(inventory: Inventory) -> None:
    path, cluster, nodes = inventory.path, inventory.cluster, inventory.nodes
    for key in ("name", "ip"):
        seen: dict[Any, NodeEntry] = {}
        for number, node in enumerate(nodes, start=1):
            value = getattr(node, key)
            same = seen.setdefault(ipaddress.ip_address(value) if key == "ip" else value, node)
            if same is not node:
                other = nodes.index(same) + 1
                raise UsageError(
                    f'{path}: node "{node.name}": {key} is "{value}", as that of "{same.name}" '
                    f"([[node]] number {other} and {number}): each node has its own"
                )
    _check_scheduler(inventory)
    _check_placement(inventory)
    addresses = [cluster.scheduler_ip, *(node.ip for node in nodes)]
    beyond = [ip for ip in addresses if not ipaddress.ip_address(ip).is_loopback]
    if beyond and cluster.tls_dir is None and not cluster.allow_plain_tcp:
        raise UsageError(
            f"{path}: [cluster]: tls_dir is missing, and {beyond[0]} is not a loopback address: give "
            f"the directory of the certificates, or allow_plain_tcp = true if anyone on that "
            f"network may run programs on the nodes"
        )


def _check_scheduler(inventory: Inventory) -> None:
    path, cluster = inventory.path, inventory.cluster
    named, there = inventory.node_named(cluster.scheduler_name), None
    there = inventory.node_at(cluster.scheduler_ip)
    if named is not there:
        node = named or there
        assert node is not None  # they differ, so one of them is a node
        raise UsageError(
            f'{path}: [cluster]: scheduler_name is "{cluster.scheduler_name}" and scheduler_ip is '
            f'"{cluster.scheduler_ip}", node "{node.name}" has ip "{node.ip}": when the scheduler '
            f"runs on a node, both are that node's"
        )
    if CLIENT_NAME in inventory.host_names or CA_NAME in inventory.host_names:
        raise UsageError(
            f'{path}: a host is called "{CLIENT_NAME}" or "{CA_NAME}", which are names of '
            f"certificate files: call it otherwise"
        )


def _check_placement(inventory: Inventory) -> None:
    path, nodes = inventory.path, inventory.nodes
    if all(node.role == "stage" for node in nodes):
        raise UsageError(f'{path}: every node has role "stage": one at least is "both" or "reduce"')
    for node in nodes:
        if node.role == "reduce" and node.input_dir:
            raise UsageError(
                f'{path}: node "{node.name}" has role "reduce" and an input_dir: what it records '
                f'would be left out; give it role "both", or no input_dir'
            )
    if inventory.placement == "subband" and not any(node.input_dir for node in nodes):
        raise UsageError(
            f'{path}: [cluster]: placement is "subband", but no node has an input_dir: give the '
            f"directory in which each node records, or placement = group"
        )
