"""What happened, one row each, in the order in which it was committed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Event
from contimg_dask.catalogue.rows import storable
from contimg_dask.catalogue.tables import events

_EVENT = [field.name for field in fields(Event)]


def event_row(
    event: str,
    *,
    group_key: int | None = None,
    group_id: str | None = None,
    job_id: int | None = None,
    attempt: str | None = None,
    facts: dict[str, Any] | None = None,
    time_s: float | None = None,
) -> dict[str, Any]:
    """Return an event as a row; ``time_s`` is now if not given."""
    return {
        "time_s": time.time() if time_s is None else time_s,
        "event": event,
        "group_key": group_key,
        "group_id": group_id,
        "job_id": job_id,
        "attempt": attempt,
        "facts": facts or {},
    }


def add_all(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    """Add events within the transaction of what they tell of."""
    new = list(rows)
    if new:
        connection.execute(insert(events), new)


def add(connection: Connection, event: str, **about: Any) -> None:
    """Add one event (`event_row`) within the transaction of what it tells of."""
    add_all(connection, [event_row(event, **about)])


def list_events(
    catalogue: Catalogue,
    *,
    after_id: int = 0,
    group: int | None = None,
    job: int | None = None,
    limit: int = 1000,
) -> list[Event]:
    """Return events in order, the first after an id first.

    Parameters
    ----------
    catalogue
        Where they are.
    after_id
        The last one already known.
    group, job
        Only those of this key or id.
    limit
        At most so many.
    """
    query = select(events).where(events.c.id > after_id).order_by(events.c.id).limit(limit)
    if group is not None:
        query = query.where(events.c.group_key == group)
    if job is not None:
        query = query.where(events.c.job_id == job)
    with catalogue.reading() as connection:
        rows = connection.execute(query).mappings().all()
    return [Event(**{name: row[name] for name in _EVENT}) for row in rows]


def tell(
    catalogue: Catalogue,
    event: str,
    *,
    group_key: int | None = None,
    group_id: str | None = None,
    job_id: int | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Add an event that goes with no change of the catalogue."""
    with catalogue.writing() as connection:
        add(connection, event, group_key=group_key, group_id=group_id, job_id=job_id, facts=facts)


def latest_id(catalogue: Catalogue) -> int:
    """Return the id of the last event; 0 where there is none."""
    with catalogue.reading() as connection:
        return connection.execute(select(func.max(events.c.id))).scalar() or 0


def prune(catalogue: Catalogue, before_s: float) -> int:
    """Remove events older than a time [s since 1970]; return how many. Safe to call twice."""
    with catalogue.writing() as connection:
        return connection.execute(delete(events).where(events.c.time_s < before_s)).rowcount


def reason_facts(code: str, text: str) -> dict[str, str]:
    """Return a reason as facts of an event."""
    return {"code": code, "text": storable(text)}
