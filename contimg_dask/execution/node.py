"""What this worker's own node is like: where it stages, and how much it may take.

A plan names tiers as the command that made it sees them. On a worker that knows its node, each is
replaced by the node's own, so that every node of a cluster may have its disks elsewhere.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Concatenate, ParamSpec, TypeVar

from contimg_dask.model import ConversionPlan, Tier
from contimg_dask.planning import propose_tiers

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What the inventory says of a node.

    ``digest`` is of all the inventory says of it, ``tmpfs_budget_bytes`` what groups may take of
    ``tmpfs_path`` together, ``role`` what it does for groups of several nodes: ``stage``,
    ``reduce`` or ``both``.
    """

    name: str
    ip: str
    scratch_dir: str
    tmpfs_path: str
    tmpfs_budget_bytes: int
    input_dir: str | None
    output_dir: str
    workers: int
    digest: str
    role: str = "both"

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers that are this node's alone."""
        return propose_tiers(
            "",
            tmpfs_path=self.tmpfs_path,
            tmpfs_budget_bytes=self.tmpfs_budget_bytes,
            scratch_dir=self.scratch_dir,
        )[:-1]


_KNOWN: list[NodeSettings] = []
"""At most one: a process is a worker of one node for as long as it lives."""


def set_this_node(node: NodeSettings | None) -> None:
    """Say which node this process is on; None forgets it."""
    _KNOWN[:] = [] if node is None else [node]


def this_node() -> NodeSettings | None:
    """Return the node this process is on, if it was told."""
    return _KNOWN[0] if _KNOWN else None


def at_this_node(plan: ConversionPlan) -> ConversionPlan:
    """Return the plan with this node's own tiers in the place of those it names."""
    if this_node() is None:
        return plan
    return replace(plan, tiers=tuple(map(own_tier, plan.tiers)))


def own_tier(tier: Tier) -> Tier:
    """Return this node's own tier of that name; the tier itself where it has none."""
    node = this_node()
    own = () if node is None else node.tiers
    found = next((one for one in own if one.name == tier.name), tier)
    return replace(found, kept_bytes=tier.kept_bytes)


def on_this_node(
    step: Callable[Concatenate[ConversionPlan, P], R],
) -> Callable[Concatenate[ConversionPlan, P], R]:
    """Let a step see the plan as it is on the node it runs on."""

    @functools.wraps(step)
    def run(plan: ConversionPlan, /, *arguments: P.args, **options: P.kwargs) -> R:
        return step(at_this_node(plan), *arguments, **options)

    return run


def staging_roots(node: NodeSettings) -> list[str]:
    """Return the staging directories of a node that are there, and the one all nodes share."""
    tiers = propose_tiers(node.output_dir, tmpfs_path=node.tmpfs_path, scratch_dir=node.scratch_dir)
    return [tier.root for tier in tiers if os.path.isdir(tier.root)]
