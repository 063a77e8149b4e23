"""The queue: which group is next, who works on it, and what came of it.

Every change is conditional: it happens only while the group is in a state, and in the hands of the
attempt, that allow it. A dispatcher that has lost a group to another one is told so by False.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, insert, or_, select, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.arriving import file_columns
from contimg_dask.catalogue.documents import group_to_json
from contimg_dask.catalogue.moving import (
    AFRESH,
    Telling,
    cancel_open,
    end_attempt,
    held_by,
    move_groups,
)
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.products import put_product
from contimg_dask.catalogue.records import AttemptState, ProductRow, QueuedGroup
from contimg_dask.catalogue.rows import (
    chunks,
    queued_columns,
    queued_from,
    queued_of,
    reason_columns,
)
from contimg_dask.catalogue.tables import attempts, group_documents, groups, leases
from contimg_dask.errors import WorkerLostError
from contimg_dask.lifecycle import State
from contimg_dask.model import Group, Reason

_SET_ASIDE: tuple[State, ...] = ("failed", "quarantined")
_RETRIED: tuple[State, ...] = ("failed", "quarantined", "cancelled", "removed")


def next_queued(
    catalogue: Catalogue, now_s: float, limit: int, exclude: Collection[int] = ()
) -> list[QueuedGroup]:
    """Return the groups whose turn it is: live ones, then by priority, then by start time.

    Parameters
    ----------
    catalogue
        Whose queue.
    now_s
        Groups that wait until later than this are passed over.
    limit
        At most so many.
    exclude
        Keys of groups that are not wanted.
    """
    query = (
        select(*queued_columns)
        .select_from(queued_from)
        .where(groups.c.state == "queued", groups.c.not_before_s <= now_s)
        .order_by(groups.c.live.desc(), groups.c.priority.desc(), groups.c.start_ms)
        .limit(limit)
    )
    if exclude:
        query = query.where(groups.c.key.not_in(exclude))
    with catalogue.reading() as connection:
        return [queued_of(row) for row in connection.execute(query).mappings()]


def running(catalogue: Catalogue) -> list[QueuedGroup]:
    """Return the groups that are being worked on, in time order."""
    query = (
        select(*queued_columns)
        .select_from(queued_from)
        .where(groups.c.state == "running")
        .order_by(groups.c.start_ms, groups.c.key)
    )
    with catalogue.reading() as connection:
        return [queued_of(row) for row in connection.execute(query).mappings()]


def begin_attempt(
    catalogue: Catalogue, lease_token: str, key: int, attempt: str, *, number: int, node: str
) -> bool:
    """Take a queued group, to be worked on by this attempt: queued → running.

    Of any number of processes that try, one succeeds. False when the group was taken or cancelled,
    or the lease is somebody else's. Safe to call twice with the same name.
    """
    held = exists().where(leases.c.token == lease_token)
    free = and_(groups.c.key == key, groups.c.state == "queued", ~groups.c.cancel_requested, held)
    values = {"attempt": attempt, "node": node}
    about = Telling(event="attempt-started", attempt=attempt, facts={"node": node})
    with catalogue.writing() as connection:
        if not move_groups(connection, "running", free, values, about):
            return _holds(connection, held_by(key, attempt), held)
        row = {
            "group_key": key,
            "number": number,
            "name": attempt,
            "node": node,
            "state": "running",
            "counted": False,
            "started_s": time.time(),
        }
        connection.execute(insert(attempts).values(row))
    return True


def publish(
    catalogue: Catalogue,
    key: int,
    attempt: str | None,
    product: ProductRow,
    *,
    seconds: Mapping[str, float],
    node: str | None,
    facts: Mapping[str, Any],
) -> bool:
    """Record that a group's product stands at its place: → published.

    Parameters
    ----------
    catalogue, key, attempt
        The group, and the attempt it runs as; None for one that does not run: its product was
        found.
    product
        Becomes the row of its path, whatever was known of that path before.
    seconds
        How long the steps took.
    node
        Where it was made; None leaves what was known.
    facts
        What else is worth keeping, as plain JSON types.

    Returns
    -------
    bool
        False when the group is not in the hands of this attempt any more. Safe to call twice.
    """
    values: dict[str, Any] = {
        "path": product.path,
        "seconds": dict(seconds),
        "facts": dict(facts),
        **reason_columns(None),
    }
    if node is not None:
        values["node"] = node
    if attempt is not None:
        values["attempts"] = groups.c.attempts + 1
    about = Telling(event="group-published", attempt=attempt, facts={"path": product.path})
    with catalogue.writing() as connection:
        if not move_groups(connection, "published", held_by(key, attempt), values, about):
            at_path = and_(groups.c.state == "published", groups.c.path == product.path)
            return _is_recorded(connection, key, attempt, ("published",), at_path)
        put_product(connection, key, product)
        end_attempt(connection, attempt, "published", counted=True, seconds=seconds)
    return True


def fail(
    catalogue: Catalogue,
    key: int,
    attempt: str | None,
    reason: Reason,
    *,
    quarantine: bool,
    seconds: Mapping[str, float],
) -> bool:
    """Record that a group cannot become a product: → failed, or → quarantined.

    ``attempt`` is None for a group that does not run. False when the group is not in the hands of
    this attempt any more. Safe to call twice.
    """
    after: State = "quarantined" if quarantine else "failed"
    values: dict[str, Any] = {"seconds": dict(seconds), **reason_columns(reason)}
    if attempt is not None:
        values["attempts"] = groups.c.attempts + 1
    facts = events.reason_facts(reason.code, reason.text)
    about = Telling(event=f"group-{after}", attempt=attempt, facts=facts)
    with catalogue.writing() as connection:
        if not move_groups(connection, after, held_by(key, attempt), values, about):
            same = and_(groups.c.state == after, groups.c.reason_code == reason.code)
            return _is_recorded(connection, key, attempt, ("failed", "lost"), same)
        ended: AttemptState = "lost" if reason.code == WorkerLostError.code else "failed"
        end_attempt(connection, attempt, ended, counted=True, reason=reason, seconds=seconds)
    return True


def give_back(
    catalogue: Catalogue,
    key: int,
    attempt: str | None,
    reason: Reason,
    *,
    counted: bool,
    not_before_s: float,
) -> bool:
    """Put a group back into the queue: running → queued, or → cancelled if that was requested.

    Parameters
    ----------
    catalogue, key, attempt
        The group and the attempt it runs as.
    reason
        Why; it stays with the group until it is taken again.
    counted
        Whether the attempt used up one of those a group has, or was only interrupted.
    not_before_s
        When it may be taken again.

    Returns
    -------
    bool
        False when the group is not in the hands of this attempt any more. Safe to call twice.
    """
    counter = groups.c.attempts if counted else groups.c.interruptions
    common = {**reason_columns(reason), counter.name: counter + 1, "attempt": None}
    facts = events.reason_facts(reason.code, reason.text)
    mine = and_(held_by(key, attempt), groups.c.state == "running")
    doomed = and_(mine, groups.c.cancel_requested)
    cancelling = Telling(event="group-cancelled", attempt=attempt, facts=facts)
    queueing = Telling(event="group-given-back", attempt=attempt, facts=facts)
    again = {**common, "not_before_s": not_before_s}
    with catalogue.writing() as connection:
        if not (
            move_groups(connection, "cancelled", doomed, common, cancelling)
            or move_groups(connection, "queued", mine, again, queueing)
        ):
            return _is_recorded(connection, key, attempt, ("failed", "lost", "given-back"), None)
        ended: AttemptState = "given-back"
        if counted:
            ended = "lost" if reason.code == WorkerLostError.code else "failed"
        end_attempt(connection, attempt, ended, counted=counted, reason=reason)
    return True


def mark_cancelled(catalogue: Catalogue, key: int, attempt: str | None) -> bool:
    """Record that a running group was given up on request: → cancelled.

    When a job has asked for it since, it goes back to the queue. False when the group is not in the
    hands of this attempt any more. Safe to call twice.
    """
    mine = held_by(key, attempt)
    runs = groups.c.state == "running"
    doomed = and_(mine, or_(groups.c.cancel_requested, ~runs))
    cancelling = Telling(event="group-cancelled", attempt=attempt)
    queueing = Telling(event="group-given-back", attempt=attempt)
    with catalogue.writing() as connection:
        if not (
            move_groups(connection, "cancelled", doomed, {}, cancelling)
            or move_groups(connection, "queued", and_(mine, runs), {"attempt": None}, queueing)
        ):
            same = groups.c.state == "cancelled"
            return _is_recorded(connection, key, attempt, ("cancelled",), same)
        end_attempt(connection, attempt, "cancelled", counted=False)
    return True


def cancel_groups(
    catalogue: Catalogue, keys: Sequence[int], *, dry_run: bool = False
) -> tuple[int, int]:
    """Cancel groups, whichever jobs want them; a ``dry_run`` only counts.

    Returns
    -------
    cancelled, requested
        How many that waited are cancelled, and of how many that run it is requested. Those that
        have their outcome stay what they are. Safe to call twice.
    """
    cancelled = requested = 0
    with catalogue.writing(dry_run=dry_run) as connection:
        for some in chunks(keys):
            done, asked = cancel_open(connection, groups.c.key.in_(some))
            cancelled, requested = cancelled + done, requested + asked
    return cancelled, requested


def cancel_requests(catalogue: Catalogue) -> frozenset[int]:
    """Return the keys of running groups that are to be given up."""
    query = select(groups.c.key).where(groups.c.state == "running", groups.c.cancel_requested)
    with catalogue.reading() as connection:
        return frozenset(connection.execute(query).scalars())


def retry_groups(
    catalogue: Catalogue,
    keys: Sequence[int] | None = None,
    *,
    states: Collection[State] | None = None,
    dry_run: bool = False,
) -> int:
    """Queue groups again as if nothing had been tried; return how many.

    Parameters
    ----------
    catalogue
        Whose groups.
    keys
        Of which; None for all that failed or are quarantined.
    states
        Only those in one of these states. If not given: failed, quarantined, and with ``keys`` also
        cancelled and removed.
    dry_run
        Only count them.

    Notes
    -----
    A product that was found on disk has no files to be made from until a job brings them. Safe to
    call twice: what is queued stays so.
    """
    if states is None:
        states = _SET_ASIDE if keys is None else _RETRIED
    has_files = exists().where(group_documents.c.group_key == groups.c.key)
    which = and_(groups.c.state.in_(states), groups.c.job_id.is_not(None), has_files)
    queued = {**AFRESH, "queued_s": time.time()}
    told = Telling(event="group-queued", facts={"why": "retry"})
    with catalogue.writing(dry_run=dry_run) as connection:
        if keys is None:
            return len(move_groups(connection, "queued", which, queued, told))
        wanted = [and_(which, groups.c.key.in_(some)) for some in chunks(keys)]
        return sum(len(move_groups(connection, "queued", some, queued, told)) for some in wanted)


def refresh_group(catalogue: Catalogue, key: int, group: Group) -> bool:
    """Give a queued group the files as they are now. False when it is not queued any more."""
    queued = and_(groups.c.key == key, groups.c.state == "queued")
    document = {"document": group_to_json(group)}
    with catalogue.writing() as connection:
        changed = connection.execute(update(groups).where(queued).values(file_columns(group)))
        if changed.rowcount != 1:
            return False
        one = group_documents.c.group_key == key
        connection.execute(update(group_documents).where(one).values(document))
        facts = {"present": len(group.present), "expected": group.expected}
        events.add(connection, "group-refreshed", group_key=key, group_id=group.id, facts=facts)
    return True


def _is_recorded(
    connection: Connection,
    key: int,
    attempt: str | None,
    ended: tuple[AttemptState, ...],
    same: ColumnElement[bool] | None,
) -> bool:
    """Tell whether this very outcome is there already: its first call was not heard of."""
    if attempt is None:
        return same is not None and _holds(connection, and_(groups.c.key == key, same))
    mine = and_(attempts.c.name == attempt, attempts.c.group_key == key)
    state = connection.execute(select(attempts.c.state).where(mine)).scalar()
    return state in ended


def _holds(connection: Connection, *conditions: ColumnElement[bool]) -> bool:
    return connection.execute(select(groups.c.key).where(*conditions)).first() is not None
