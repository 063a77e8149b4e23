"""What is asked of a node rather than of a group: its room, and to clear up what was given up."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from contimg_dask.model import Owner, Tier
from contimg_dask.staging.records import AttemptRecord, locked_root
from contimg_dask.staging.reserving import room_in
from contimg_dask.staging.sweeping import sweep


def measure_room(tiers: tuple[Tier, ...]) -> dict[str, int]:
    """Return, by staging directory, what a tier can still promise on this node [bytes].

    A tier that cannot be used here has no entry.
    """
    room: dict[str, int] = {}
    for tier in tiers:
        with contextlib.suppress(OSError):
            with locked_root(tier.root, shared_between_users=tier.name != "destination"):
                usable, outstanding = room_in(tier)
            room[tier.root] = max(0, usable - outstanding)
    return room


def sweep_given_up(
    roots: tuple[str, ...], owners: tuple[Owner, ...], names: Collection[str]
) -> int:
    """Remove on this node all dead attempts, those of these owners, and those of these names.

    Parameters
    ----------
    roots
        Staging directories; those that are not there are passed over.
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
        return record.owner in owners or record.attempt in names

    removed = 0
    for root in roots:
        with contextlib.suppress(OSError):  # another user's, or not on this node
            removed += sum(left.removed for left in sweep(root, given_up=given_up))
    return removed
