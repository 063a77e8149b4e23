"""Dask worker preload for the nodes of an inventory.

A worker finds its node by the address it listens on, takes over what the inventory says of it,
removes what dead attempts have left in the node's tiers and at the destination, and warms up. One
whose address is not in the inventory ends with one line in its log. What is rendered for a host
loads this by itself.
"""

from __future__ import annotations

from typing import Any

from contimg_dask.deploy.node_lookup import log, node_or_end
from contimg_dask.execution import preload
from contimg_dask.execution.node import NodeSettings, set_this_node, staging_roots
from contimg_dask.staging.room import megabytes
from contimg_dask.staging.sweeping import sweep


def dask_setup(worker: Any) -> None:
    """Make a starting worker one of its node, or end its process."""
    node = node_or_end(worker)
    set_this_node(node)
    log.info("this is node %s of the inventory", node.name)
    _sweep(node)
    preload.dask_setup(worker)


def _sweep(node: NodeSettings) -> None:
    for root in staging_roots(node):
        try:
            gone = [leftover for leftover in sweep(root) if leftover.removed]
        except OSError as error:
            log.warning("%s: cannot be swept: %s", root, error.strerror)
            continue
        for leftover in gone:
            size = megabytes(leftover.size_bytes)
            log.info("%s: removed %s that %s had left", root, size, leftover.name)
