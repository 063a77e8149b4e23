"""Find the node a Dask process is on, by the address it listens on; end it when there is none.

The inventory is where Dask's configuration has it, as ``contimg.inventory``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from pathlib import Path
from typing import Any

import dask
from distributed.comm.addressing import get_address_host

from contimg_dask.deploy.inventory import read_inventory
from contimg_dask.errors import ClusterError, ContimgError
from contimg_dask.execution.node import NodeSettings

EXIT_REFUSED = 78
"""EX_CONFIG: something is wrong with the configuration."""

log = logging.getLogger("distributed.contimg")


def node_or_end(server: Any) -> NodeSettings:
    """Return the node of a worker or nanny, or end its process with one line in its log."""
    try:
        return find_node(server.address)
    except ContimgError as error:
        # Dask logs what a preload raises, and starts the worker nevertheless.
        log.critical("worker refused: %s", error)
        logging.shutdown()
        sys.stderr.flush()
        os._exit(EXIT_REFUSED)


def find_node(address: str) -> NodeSettings:
    """Return what the inventory says of the node a worker address is on.

    Raises
    ------
    ClusterError
        Code ``not-in-inventory``.
    UsageError
        The inventory cannot be read.
    """
    path = dask.config.get("contimg.inventory", None)
    if not path:
        raise ClusterError(
            "Dask's configuration has no contimg.inventory: set DASK_CONFIG to what 'contimg-dask "
            "cluster render' wrote for this host",
            code="not-in-inventory",
        )
    inventory = read_inventory(Path(path))
    ip = str(ipaddress.ip_address(get_address_host(address).strip("[]")))
    node = inventory.node_at(ip)
    if node is None:
        known = ", ".join(f"{entry.name} {entry.ip}" for entry in inventory.nodes)
        raise ClusterError(
            f"{path}: no node has the address {ip}, there are: {known}: add the node to the "
            f"inventory, or start the worker with --host and its node's address",
            code="not-in-inventory",
        )
    return NodeSettings(
        name=node.name,
        ip=node.ip,
        scratch_dir=node.scratch_dir,
        tmpfs_path=node.tmpfs_path,
        tmpfs_budget_bytes=node.tmpfs_bytes,
        input_dir=node.input_dir,
        output_dir=inventory.cluster.output_dir,
        workers=node.workers,
        digest=inventory.digest_of(node),
        role=node.role,
    )
