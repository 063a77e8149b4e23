"""What is asked of a node rather than of a group: its room, its files, and to clear up."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contimg_dask.discovery import Discovered, discover
from contimg_dask.execution.node import own_tier, staging_roots, this_node
from contimg_dask.model import Owner, Tier
from contimg_dask.staging.records import AttemptRecord, locked_root
from contimg_dask.staging.reserving import TierUsage, usage_of
from contimg_dask.staging.sweeping import sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a node says of itself.

    ``room_bytes`` is what each tier can still promise, by the staging directory that was asked for,
    without those that cannot be used there; ``tiers`` how they stand; ``reduces`` whether groups
    whose parts come from other nodes may be reduced there.
    """

    room_bytes: Mapping[str, int]
    reduces: bool
    tiers: tuple[TierUsage, ...] = ()


def measure(tiers: tuple[Tier, ...]) -> Measured:
    """Return what there is to know of this node before it is given a group."""
    node = this_node()
    usage = _usage_of(tiers)
    return Measured(
        room_bytes={root: tier.free_bytes for root, tier in usage.items()},
        reduces=node is None or node.role != "stage",
        tiers=tuple({tier.root: tier for tier in usage.values()}.values()),
    )


def _usage_of(tiers: tuple[Tier, ...]) -> dict[str, TierUsage]:
    usage: dict[str, TierUsage] = {}
    for asked in tiers:
        tier = own_tier(asked)
        between_users = tier.name != "destination"
        with (
            contextlib.suppress(OSError),
            locked_root(tier.root, shared_between_users=between_users),
        ):
            usage[asked.root] = usage_of(tier)
    return usage


def sweep_given_up(
    roots: tuple[str, ...], owners: Collection[Owner], names: Collection[str]
) -> int:
    """Remove on this node the attempts that were given up, and all dead ones.

    Parameters
    ----------
    roots
        Staging directories, beside this node's own; those that are not there are passed over.
    owners
        Processes that are known to be gone, wherever they ran.
    names
        Attempts that were given up, although their owner runs. Not "all but those that are alive":
        this may run long after it was asked for, when others have begun.

    Returns
    -------
    int
        How many attempts were removed.
    """

    def given_up(record: AttemptRecord) -> bool:
        if record.owner in owners:
            return True
        return any(
            record.attempt == name or record.attempt.startswith(f"{name}.") for name in names
        )

    removed = 0
    node = this_node()
    own = [] if node is None else staging_roots(node)
    for root in dict.fromkeys((*roots, *own)):
        with contextlib.suppress(OSError):  # another user's, or not on this node
            removed += sum(left.removed for left in sweep(root, given_up=given_up))
    return removed


def discover_here(
    directory: str, node: str, start_mjd: float | None, end_mjd: float | None
) -> Discovered:
    """Read the headers of the files that this node has recorded itself.

    Parameters
    ----------
    directory
        Where they lie, unless the inventory gives this node another place.
    node
        This node, by IP: its name is written into every header.
    start_mjd, end_mjd
        As `discover` takes them.

    Raises
    ------
    UsageError
        The directory cannot be listed, and this node should have one.
    """
    known = this_node()
    if known is not None and known.input_dir is None:
        return Discovered(headers=(), unreadable=(), node=node)  # it records nothing
    place = directory if known is None or known.input_dir is None else known.input_dir
    found = discover(Path(place), start_mjd=start_mjd, end_mjd=end_mjd)
    headers = tuple(replace(header, node=node) for header in found.headers)
    return replace(found, headers=headers, node=node)
