"""Render what one host of the cluster needs: systemd units, Dask's YAML, environment, settings.

Pure but for reading the templates: an inventory and a host's name in, paths and texts out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from contimg_dask.deploy.inventory import CLIENT_NAME, Inventory, NodeEntry
from contimg_dask.errors import UsageError
from contimg_dask.settings import PROCESS_ENVIRONMENT, toml_value

_UNIT_DIRECTORY = "/etc/systemd/system"
_SCHEDULER_UNITS = (
    "dask-scheduler.service",
    "contimg-dispatch.service",
    "contimg-stream.service",
    "contimg-api.service",
)
_WORKER_UNIT = "dask-worker@.service"
_MARGIN_BYTES = 2**30
"""For the nannies, and what a worker takes above its limit before Dask looks (every 100 ms)."""


def render_host(inventory: Inventory, host: str) -> dict[str, str]:
    """Return the files of a host: absolute path there -> content.

    Raises
    ------
    UsageError
        The inventory has no such host.
    """
    if host not in inventory.host_names:
        raise UsageError(
            f'{inventory.path}: there is no host "{host}". There are: '
            f"{', '.join(inventory.host_names)}"
        )
    cluster, node = inventory.cluster, inventory.node_named(host)
    units = [_WORKER_UNIT] if node is not None else []
    if host == cluster.scheduler_name:
        units = [unit for unit in _SCHEDULER_UNITS if _is_wanted(unit, inventory)] + units
    known = _facts(inventory, host)
    files = {posixpath.join(_UNIT_DIRECTORY, unit): _render(unit, known) for unit in units}
    for name in ("dask.yaml", "environment", "contimg-dask.toml"):
        files[posixpath.join(cluster.config_dir, name)] = _render(name, known)
    files[posixpath.join(cluster.config_dir, "nodes.toml")] = Path(inventory.path).read_text()
    return files


def _is_wanted(unit: str, inventory: Inventory) -> bool:
    return unit != "contimg-stream.service" or inventory.cluster.input_dir is not None


def write_files(files: Mapping[str, str], output: Path) -> list[Path]:
    """Write rendered files below a directory, which stands for ``/`` of the host.

    Raises
    ------
    UsageError
        The directory cannot be written.
    """
    written = []
    for name, text in files.items():
        path = output / name.lstrip("/")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
        written.append(path)
    return written


def scheduler_arguments(inventory: Inventory) -> list[str]:
    """Return the arguments of ``dask`` that start the scheduler."""
    cluster = inventory.cluster
    return [
        "scheduler",
        *("--host", cluster.scheduler_ip),
        *("--port", str(cluster.scheduler_port)),
        *("--protocol", "tls" if cluster.tls_dir else "tcp"),
        # The dashboard has no login.
        *("--dashboard-address", f"127.0.0.1:{cluster.dashboard_port}"),
    ]


def worker_arguments(inventory: Inventory, node: NodeEntry) -> list[str]:
    """Return the arguments of ``dask`` that start the workers of a node."""
    cluster = inventory.cluster
    return [
        *("worker", cluster.scheduler_address),
        *("--host", node.ip),
        *("--protocol", "tls" if cluster.tls_dir else "tcp"),
        *("--name", node.name),
        *("--nworkers", str(node.workers)),
        # casacore and HDF5 are not thread-safe.
        *("--nthreads", "1"),
        *("--memory-limit", node.memory_limit.replace(" ", "")),
        *("--local-directory", posixpath.join(node.scratch_dir, "dask")),
        *("--dashboard-address", "127.0.0.1:0"),
        *("--death-timeout", "60"),
        # Dask reads a nanny's preload from here only, not from its configuration.
        *("--preload-nanny", "contimg_dask.deploy.nanny_node"),
    ]


def memory_max_bytes(node: NodeEntry) -> int:
    """Return the limit of the control group of a node's workers [bytes].

    What a process writes to tmpfs counts in its control group, so the budget is on top.
    """
    return node.memory_bytes + node.tmpfs_bytes + _MARGIN_BYTES


def _facts(inventory: Inventory, host: str) -> dict[str, Any]:
    """Return everything a template may name."""
    cluster, node = inventory.cluster, inventory.node_named(host)
    dask = posixpath.join(cluster.environment, "bin", "dask")
    on_scheduler_host = host == cluster.scheduler_name
    ca_file, cert_file, key_file = cluster.certificate_files(host)
    _, client_cert, client_key = cluster.certificate_files(CLIENT_NAME)
    return {
        "cluster": cluster,
        "node": node,
        "host": host,
        "scheduler_command": " ".join([dask, *scheduler_arguments(inventory)]),
        "worker_command": " ".join([dask, *worker_arguments(inventory, node)]) if node else "",
        "memory_max_bytes": memory_max_bytes(node) if node else 0,
        "ca_file": ca_file,
        "cert_file": cert_file,
        "key_file": key_file,
        "client_cert": client_cert if on_scheduler_host else cert_file,
        "client_key": client_key if on_scheduler_host else key_file,
        "catalogue_dir": _directory_of(cluster.catalogue),
        "process_environment": PROCESS_ENVIRONMENT,
        "settings": {
            name: toml_value(value)
            for name, value in sorted(inventory.settings.items())
            if value is not None
        },
        "placement": inventory.placement,
    }


def _directory_of(catalogue: str) -> str | None:
    return posixpath.dirname(catalogue) if catalogue.startswith("/") else None


def _render(template: str, known: Mapping[str, Any]) -> str:
    return _templates().get_template(f"{template}.j2").render(known)


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("contimg_dask.deploy"),
        # Unit files, YAML and TOML are no HTML; the inventory lets nothing in that needs quoting.
        autoescape=False,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
