"""Jobs: what was submitted, how far it is read, and what became of its groups."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, and_, bindparam, exists, func, insert, select, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.moving import cancel_open
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import CancelledCounts, Job, JobState, NewJob
from contimg_dask.catalogue.rows import job_of, reason_columns, storable
from contimg_dask.catalogue.tables import groups, jobs, jobs_groups
from contimg_dask.errors import NotFoundError, UsageError
from contimg_dask.lifecycle import OPEN, State
from contimg_dask.model import Reason

_TO_READ: tuple[JobState, ...] = ("waiting", "reading")


def add_job(catalogue: Catalogue, new: NewJob) -> Job:
    """Record a job, to be read by the dispatcher. Called twice, it makes two."""
    with catalogue.writing() as connection:
        return insert_job(connection, new)


def insert_job(connection: Connection, new: NewJob) -> Job:
    """Record a job within a transaction of the caller."""
    values = asdict(new) | {
        "label": storable(new.label),
        "state": "waiting",
        "files": 0,
        "files_read": 0,
        "submitted_s": time.time(),
    }
    row = connection.execute(insert(jobs).values(values).returning(*jobs.c)).mappings().one()
    facts = {"candidates": new.candidates, "by": new.submitted_by}
    events.add(connection, "job-submitted", job_id=row["id"], facts=facts)
    return job_of(row)


def open_stream(catalogue: Catalogue, new: NewJob) -> Job:
    """Return the job of a stream: the one it had before, with the settings it has now, or a new one.

    A stream is told by where it reads and writes and by its options; those that it had with other
    options are closed. Safe to call twice.
    """
    places = and_(
        jobs.c.live, jobs.c.input_dir == new.input_dir, jobs.c.output_dir == new.output_dir
    )
    streams = and_(places, jobs.c.state == "streaming")
    same = select(jobs.c.id).where(streams, jobs.c.options_hash == new.options_hash)
    with catalogue.writing() as connection:
        job_id = connection.execute(same.order_by(jobs.c.id.desc()).limit(1)).scalar()
        if job_id is None:
            job_id = insert_job(connection, new).id
        closing = {"state": "read", "read_s": time.time()}
        closed = update(jobs).where(streams, jobs.c.id != job_id).values(closing)
        old = connection.execute(closed.returning(jobs.c.id)).scalars().all()
        # Nobody waits for the rest of these any more; they come again under the new options.
        cancel_open(connection, and_(groups.c.job_id.in_(old), groups.c.state == "collecting"))
        values = asdict(new) | {"label": storable(new.label), "state": "streaming"}
        one = update(jobs).where(jobs.c.id == job_id).values(values).returning(*jobs.c)
        return job_of(connection.execute(one).mappings().one())


def get_job(catalogue: Catalogue, job_id: int) -> Job:
    """Return a job.

    Raises
    ------
    NotFoundError
        There is none of this id.
    """
    with catalogue.reading() as connection:
        return job_of(_row(connection, job_id, catalogue.url_shown))


def list_jobs(
    catalogue: Catalogue,
    *,
    states: Collection[JobState] | None = None,
    limit: int | None = None,
) -> list[Job]:
    """Return jobs, the newest first; all states and all jobs unless bounded."""
    query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if states is not None:
        query = query.where(jobs.c.state.in_(states))
    with catalogue.reading() as connection:
        return [job_of(row) for row in connection.execute(query).mappings()]


def jobs_to_read(catalogue: Catalogue) -> list[Job]:
    """Return the jobs that are still to be read, the oldest first.

    Those a dispatcher was reading when it died are among them.
    """
    query = select(jobs).where(jobs.c.state.in_(_TO_READ)).order_by(jobs.c.id)
    with catalogue.reading() as connection:
        return [job_of(row) for row in connection.execute(query).mappings()]


def set_reading(catalogue: Catalogue, job_id: int, files: int) -> bool:
    """Say that a job's headers are being read; ``files`` is how many there are.

    Safe to call twice. False when the job was cancelled meanwhile.
    """
    return _change(catalogue, job_id, {"state": "reading", "files": files, "files_read": 0})


def progress(catalogue: Catalogue, job_id: int, files_read: int) -> bool:
    """Say how many headers are read. Safe to call twice; False when the job was cancelled."""
    return _change(catalogue, job_id, {"files_read": files_read})


def set_read(catalogue: Catalogue, job_id: int) -> bool:
    """Say that all of a job is in the queue. Safe to call twice; False when it was cancelled."""
    return _change(catalogue, job_id, {"state": "read", "read_s": time.time()}, event="job-read")


def set_broken(catalogue: Catalogue, job_id: int, reason: Reason) -> bool:
    """Say why a job cannot be read. Safe to call twice; False when it was cancelled or read."""
    values = {"state": "broken", **reason_columns(reason)}
    facts = events.reason_facts(reason.code, reason.text)
    return _change(catalogue, job_id, values, event="job-broken", facts=facts)


def cancel_job(catalogue: Catalogue, job_id: int, *, dry_run: bool = False) -> CancelledCounts:
    """Cancel a job, and those of its groups that no other job wants; a ``dry_run`` only counts.

    What waits is cancelled at once; what runs is requested of the dispatcher. A group that another
    job wants goes on for that one, by its settings. Safe to call twice.

    Raises
    ------
    NotFoundError
        There is no such job.
    UsageError
        It is a stream, which goes on as long as its service runs.
    """
    with catalogue.writing(dry_run=dry_run) as connection:
        row = _row(connection, job_id, catalogue.url_shown)
        if row["state"] == "streaming":
            raise UsageError(
                f"job {job_id} is the stream from {row['input_dir']}: stop its service instead, or "
                f"cancel single groups"
            )
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(state="cancelled"))
        if row["state"] != "cancelled":
            events.add(connection, "job-cancelled", job_id=job_id)
        wanted = _wanted_by_others(job_id)
        mine = and_(jobs_groups.c.group_key == groups.c.key, jobs_groups.c.job_id == job_id)
        here = exists().where(mine)
        cancelled, requested = cancel_open(connection, and_(here, ~wanted))
        _hand_on(connection, job_id)
        total = select(func.count()).where(jobs_groups.c.job_id == job_id)
        kept = connection.execute(total).scalar_one() - cancelled - requested
    return CancelledCounts(cancelled=cancelled, requested=requested, kept=kept)


def job_counts(catalogue: Catalogue, job_id: int) -> dict[State, int]:
    """Return how many groups of a job are in which state; states without any are left out."""
    query = (
        select(groups.c.state, func.count().label("n"))
        .join(jobs_groups, jobs_groups.c.group_key == groups.c.key)
        .where(jobs_groups.c.job_id == job_id)
        .group_by(groups.c.state)
    )
    with catalogue.reading() as connection:
        return {row.state: row.n for row in connection.execute(query)}


def is_job_done(catalogue: Catalogue, job_id: int) -> bool:
    """Tell whether a job is read and nothing of it is still to come."""
    still = (
        select(jobs_groups.c.group_key)
        .join(groups, jobs_groups.c.group_key == groups.c.key)
        .where(jobs_groups.c.job_id == job_id, groups.c.state.in_(OPEN))
        .limit(1)
    )
    with catalogue.reading() as connection:
        row = _row(connection, job_id, catalogue.url_shown)
        return row["state"] == "read" and connection.execute(still).first() is None


def _row(connection: Connection, job_id: int, shown: str) -> Any:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no job {job_id} in {shown}: see 'contimg-dask status'")
    return row


def _change(
    catalogue: Catalogue,
    job_id: int,
    values: dict[str, Any],
    *,
    event: str | None = None,
    facts: dict[str, Any] | None = None,
) -> bool:
    """Change a job that is still to be read."""
    mine = and_(jobs.c.id == job_id, jobs.c.state.in_(_TO_READ))
    with catalogue.writing() as connection:
        changed = connection.execute(update(jobs).where(mine).values(values)).rowcount == 1
        if changed and event is not None:
            events.add(connection, event, job_id=job_id, facts=facts)
    return changed


def _wanted_by_others(job_id: int) -> Any:
    return exists().where(
        jobs_groups.c.group_key == groups.c.key,
        jobs_groups.c.job_id == jobs.c.id,
        jobs.c.id != job_id,
        jobs.c.state != "cancelled",
    )


def _hand_on(connection: Connection, job_id: int) -> None:
    """Let open groups that had a cancelled job's settings and turn have those of another one."""
    others = (
        select(jobs.c.id, jobs.c.priority, jobs.c.live, jobs.c.kind, jobs_groups.c.group_key)
        .join(jobs_groups, jobs_groups.c.job_id == jobs.c.id)
        .join(groups, groups.c.key == jobs_groups.c.group_key)
        .where(groups.c.job_id == job_id, groups.c.state.in_(OPEN), jobs.c.state != "cancelled")
        .order_by(jobs.c.priority, jobs.c.id.desc())  # the last one of a group decides
    )
    heirs: dict[int, dict[str, Any]] = {}
    for row in connection.execute(others).mappings():
        before = heirs.get(row["group_key"])
        heirs[row["group_key"]] = {
            "at_key": row["group_key"],
            "job_id": row["id"],
            "priority": row["priority"],
            "kind": row["kind"],
            "live": row["live"] or (before is not None and before["live"]),
        }
    if heirs:
        one = update(groups).where(groups.c.key == bindparam("at_key"))
        connection.execute(one, list(heirs.values()))
