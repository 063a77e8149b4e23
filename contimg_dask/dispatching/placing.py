"""Choose the node for a group: pure, from what is known of the nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A group in flight: ``alone`` when nothing else may run beside it."""

    bytes_staged: int
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, by IP, and what runs there.

    ``room_bytes`` is what its first tier can still promise, None where that is not known. Groups
    handed over since it was measured are in ``unseen_bytes``. Where ``reduces`` is false, parts are
    made, but none of other nodes put together. A ``silent`` one has not been heard of for a while:
    it may be gone.
    """

    name: str
    workers: int
    loads: tuple[Load, ...] = ()
    room_bytes: int | None = None
    unseen_bytes: int = 0
    draining: bool = False
    reduces: bool = True
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a group asks of a node.

    ``alone`` keeps others away: when a worker dies, every group with a task queued there is lost,
    so a group that kills its workers must not take others along. ``avoid`` is the node of its last
    attempt. ``spread``: its parts come from several nodes. ``kept_bytes`` it leaves to others.
    """

    bytes_staged: int
    kept_bytes: int = 0
    alone: bool = False
    avoid: str | None = None
    live: bool = False
    spread: bool = False


def choose(nodes: Iterable[Node], need: Need, groups_per_node: int) -> str | None:
    """Return the node to run a group on, or None when it has to wait for room.

    Live groups find one place more per node than others may take, and the room that those leave.
    A node whose first tier has no room left is only taken when nothing runs there: then waiting
    would not help, and the next tier has to do. A silent one is not taken: it is known soon
    whether it is gone, and what is given to it until then may be lost.
    """
    most = groups_per_node + (1 if need.live else 0)
    usable = [
        node
        for node in nodes
        if not node.draining and node.workers > 0 and (node.reduces or not need.spread)
    ]
    elsewhere = [node for node in usable if node.name != need.avoid] or usable
    free = [node for node in elsewhere if not node.silent and _takes(node, need, most)]
    best = min(free, key=lambda node: (len(node.loads) / node.workers, node.name), default=None)
    return None if best is None else best.name


def _takes(node: Node, need: Need, most: int) -> bool:
    if any(load.alone for load in node.loads):
        return False
    if not node.loads:
        return True
    if need.alone or len(node.loads) >= most:
        return False
    wanted = need.bytes_staged + need.kept_bytes
    return node.room_bytes is None or node.room_bytes - node.unseen_bytes >= wanted
