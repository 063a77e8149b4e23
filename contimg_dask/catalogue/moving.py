"""Move groups from state to state: the one place where a state is changed, and only as allowed.

Each function works within a transaction of its caller, by one conditional UPDATE, and adds the
events and the end of the attempt that go with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.records import AttemptState
from contimg_dask.catalogue.rows import reason_columns
from contimg_dask.catalogue.tables import attempts, groups
from contimg_dask.lifecycle import FINAL, State, sources_of
from contimg_dask.model import Reason

AFRESH: dict[str, Any] = {
    "attempts": 0,
    "interruptions": 0,
    "not_before_s": 0.0,
    "attempt": None,
    "node": None,
    "finished_s": None,
    "cancel_requested": False,
    "reason_code": None,
    "reason_text": None,
}
"""What a group has that is queued as if nothing had been tried before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What the events of a move say besides the group."""

    event: str
    attempt: str | None = None
    job_id: int | None = None
    facts: Mapping[str, Any] | None = None


def move_groups(
    connection: Connection,
    after: State,
    which: ColumnElement[bool],
    values: Mapping[str, Any],
    telling: Telling,
) -> list[int]:
    """Move those groups that may move; return their keys.

    Parameters
    ----------
    connection
        A transaction of the caller.
    after
        The new state.
    which
        Condition on `groups`; those in a state from which the move is not allowed stay.
    values
        Other columns that change with it.
    telling
        What is said of each.
    """
    now_s = time.time()
    ends = {"finished_s": now_s, "cancel_requested": False} if after in FINAL else {}
    statement = (
        update(groups)
        .where(which, groups.c.state.in_(sources_of(after)))
        .values({"state": after, "state_since_s": now_s, **ends, **values})
        .returning(groups.c.key, groups.c.id)
    )
    moved = connection.execute(statement).all()
    tell(connection, moved, telling)
    return [key for key, _ in moved]


def tell(connection: Connection, changed: Any, telling: Telling) -> None:
    """Add an event for each of these groups, given as key and id."""
    events.add_all(
        connection,
        [
            events.event_row(
                telling.event,
                group_key=key,
                group_id=group_id,
                job_id=telling.job_id,
                attempt=telling.attempt,
                facts=dict(telling.facts or {}),
            )
            for key, group_id in changed
        ],
    )


def held_by(key: int, attempt: str | None) -> ColumnElement[bool]:
    """Return the condition that a group runs as this attempt; without one, that it does not run."""
    if attempt is None:
        return and_(groups.c.key == key, groups.c.state != "running")
    return and_(groups.c.key == key, groups.c.state == "running", groups.c.attempt == attempt)


def end_attempt(
    connection: Connection,
    attempt: str | None,
    state: AttemptState,
    *,
    counted: bool,
    reason: Reason | None = None,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write down how an attempt ended; nothing for None."""
    if attempt is None:
        return
    values = {
        "state": state,
        "counted": counted,
        "ended_s": time.time(),
        "seconds": dict(seconds) if seconds else None,
        **reason_columns(reason),
    }
    connection.execute(update(attempts).where(attempts.c.name == attempt).values(values))


def cancel_open(connection: Connection, which: ColumnElement[bool]) -> tuple[int, int]:
    """Cancel what waits, request it of what runs; return how many of each there are."""
    waits = and_(which, groups.c.state != "running")
    # Not what has its outcome: sources_of("cancelled") are the open states alone.
    cancelled = move_groups(connection, "cancelled", waits, {}, Telling(event="group-cancelled"))
    runs = and_(which, groups.c.state == "running")
    request = (
        update(groups)
        .where(runs, ~groups.c.cancel_requested)
        .values(cancel_requested=True)
        .returning(groups.c.key, groups.c.id)
    )
    tell(connection, connection.execute(request).all(), Telling(event="group-cancel-requested"))
    requested = select(func.count()).select_from(groups).where(runs)
    return len(cancelled), connection.execute(requested).scalar_one()
