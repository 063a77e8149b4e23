"""The states of a group, the moves between them, and what a group that comes again does: tables."""

from __future__ import annotations

from typing import Literal, get_args

State = Literal[
    "collecting",
    "queued",
    "running",
    "published",
    "failed",
    "quarantined",
    "cancelled",
    "removed",
]
Arrival = Literal["queue", "collect", "fail", "refresh", "keep"]
"""What becomes of a group that comes; ``refresh`` leaves its state and takes the new files."""

STATES: tuple[State, ...] = get_args(State)

MOVES: dict[State, frozenset[State]] = {
    # Published: a plain convert has made it meanwhile, and reconciling found it.
    "collecting": frozenset({"queued", "failed", "cancelled", "published"}),
    # Published: it stood there already. Failed: its input has gone bad since.
    "queued": frozenset({"running", "published", "failed", "quarantined", "cancelled"}),
    # Queued: it was given back, or another attempt follows.
    "running": frozenset({"published", "failed", "quarantined", "cancelled", "queued"}),
    # Removed: somebody has moved the product away. Queued: only when asked to make it again.
    "published": frozenset({"removed", "queued"}),
    # Published: it was brought back. Queued: only when asked.
    "removed": frozenset({"queued", "published"}),
    # Queued: asked for again, or with other files. Published: a plain convert has made it.
    "failed": frozenset({"queued", "published"}),
    "quarantined": frozenset({"queued", "published"}),
    "cancelled": frozenset({"queued", "published"}),
}
"""Every allowed move; whatever is not here is refused by the catalogue."""

FINAL: frozenset[State] = frozenset({"published", "failed", "quarantined", "cancelled", "removed"})
"""States a group stays in until somebody, or another file, asks for more."""

OPEN: frozenset[State] = frozenset({"collecting", "queued", "running"})
"""States in which something is still to come."""

# Per state, for a group that is whole with the same files as before, whole with others, not whole
# with the same, not whole with others.
_ARRIVALS: dict[State | None, tuple[Arrival, Arrival, Arrival, Arrival]] = {
    None: ("queue", "queue", "collect", "collect"),
    "collecting": ("queue", "queue", "keep", "refresh"),
    "queued": ("keep", "refresh", "keep", "keep"),
    "running": ("keep", "keep", "keep", "keep"),
    "published": ("keep", "keep", "keep", "keep"),
    "removed": ("keep", "keep", "keep", "keep"),
    "failed": ("keep", "queue", "keep", "refresh"),
    "quarantined": ("keep", "queue", "keep", "refresh"),
    "cancelled": ("queue", "queue", "keep", "keep"),
}


def is_allowed(before: State, after: State) -> bool:
    """Tell whether a group may move from one state to another."""
    return after in MOVES[before]


def sources_of(after: State) -> frozenset[State]:
    """Return the states from which a group may move to this one."""
    return frozenset(before for before, allowed in MOVES.items() if after in allowed)


def arrival(
    state: State | None,
    *,
    whole: bool,
    same_files: bool,
    replace: bool = False,
    faulty: bool = False,
    again: bool = False,
    untried: bool = False,
) -> Arrival:
    """Return what becomes of a group that a job brings.

    Parameters
    ----------
    state
        What it is now; None when nobody knows it yet.
    whole
        It can be converted as it comes.
    same_files
        Its files are those it had before.
    replace
        The job asks for products to be made again.
    faulty
        It is not whole and there is nothing more to wait for.
    again
        The same job has brought it before: reading a job twice asks for nothing new.
    untried
        It was never attempted: it failed by the rules of the job that brought it.

    Notes
    -----
    A re-sent file never moves a published group back; only ``replace`` does.
    """
    usual = _ARRIVALS[state][(0 if whole else 2) + (0 if same_files else 1)]
    if state in (None, "collecting") and faulty and not whole:
        return "fail"
    if state in ("published", "removed") and whole and replace and not again:
        return "queue"
    if state == "failed" and whole and untried and not again:
        return "queue"
    if state == "cancelled" and again:
        return "keep"
    return usual
