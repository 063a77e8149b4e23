"""Groups: how they come into the catalogue (`arrive`), and how people and programs look them up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, func, select, tuple_

from contimg_dask.catalogue.arriving import arrive
from contimg_dask.catalogue.identity import number_in, start_ms_of
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arrived, Arriving, AttemptRow, GroupRow, QueuedGroup
from contimg_dask.catalogue.rows import (
    attempt_of,
    group_rows_of,
    queued_columns,
    queued_from,
    queued_of,
)
from contimg_dask.catalogue.tables import attempts, groups, jobs, jobs_groups
from contimg_dask.errors import NotFoundError
from contimg_dask.lifecycle import State

__all__ = [
    "Arrived",
    "Arriving",
    "arrive",
    "attempts_of",
    "count_by_state",
    "find_groups",
    "get_group",
    "get_row",
    "list_groups",
    "live_jobs_of",
]

_LAST = groups.alias("last")
"""The last group of the page before."""


def get_group(catalogue: Catalogue, key: int) -> QueuedGroup:
    """Return a group with its files.

    Raises
    ------
    NotFoundError
        There is none of this key, or it was found on disk and its files are not known.
    """
    query = select(*queued_columns).select_from(queued_from).where(groups.c.key == key)
    with catalogue.reading() as connection:
        row = connection.execute(query.where(groups.c.job_id.is_not(None))).mappings().first()
    if row is None:
        raise NotFoundError(
            f"there is no group {key} with known files in {catalogue.url_shown}: submit the "
            f"directory that has them"
        )
    return queued_of(row)


def get_row(catalogue: Catalogue, key: int) -> GroupRow:
    """Return a group as lists show it.

    Raises
    ------
    NotFoundError
        There is none of this key.
    """
    found = _rows(catalogue, select(groups).where(groups.c.key == key))
    if not found:
        raise NotFoundError(
            f"there is no group {key} in {catalogue.url_shown}: see 'contimg-dask groups'"
        )
    return found[0]


def find_groups(catalogue: Catalogue, text: str, output_dir: str | None = None) -> list[GroupRow]:
    """Return the groups a person means by an id, or by a key; several outputs may have the same id."""
    query = select(groups).order_by(groups.c.key)
    if (key := number_in(text)) is not None:
        query = query.where(groups.c.key == key)
    else:
        query = query.where(groups.c.id == text)
    if output_dir is not None:
        query = query.where(groups.c.output_dir == output_dir)
    return _rows(catalogue, query)


def list_groups(
    catalogue: Catalogue,
    *,
    states: Collection[State] | None = None,
    job: int | None = None,
    output_dir: str | None = None,
    reason: str | None = None,
    start_mjd: float | None = None,
    end_mjd: float | None = None,
    after: int | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> list[GroupRow]:
    """Return groups in time order.

    Parameters
    ----------
    catalogue
        Where they are.
    states, job, output_dir, reason
        Only those in one of these states, brought by this job, going there, with this reason code.
    start_mjd, end_mjd
        First integration within [start, end) [MJD UTC d]; a group without one goes by its name.
    after
        Key of the last one of the page before.
    limit
        At most so many.
    newest_first
        Turn the order round.
    """
    query = _narrowed(select(groups), job=job, output_dir=output_dir)
    if states is not None:
        query = query.where(groups.c.state.in_(states))
    if reason is not None:
        query = query.where(groups.c.reason_code == reason)
    if start_mjd is not None:
        query = query.where(groups.c.start_ms >= start_ms_of(start_mjd))
    if end_mjd is not None:
        query = query.where(groups.c.start_ms < start_ms_of(end_mjd))
    place = tuple_(groups.c.start_ms, groups.c.key)
    if after is not None:
        last = select(_LAST.c.start_ms, _LAST.c.key).where(_LAST.c.key == after)
        there = last.scalar_subquery()
        query = query.where(place < there if newest_first else place > there)
    order = (groups.c.start_ms, groups.c.key)
    query = query.order_by(*((column.desc() for column in order) if newest_first else order))
    return _rows(catalogue, query.limit(limit))


def count_by_state(
    catalogue: Catalogue, *, job: int | None = None, output_dir: str | None = None
) -> dict[State, int]:
    """Return how many groups are in which state; states without any are left out."""
    query = _narrowed(
        select(groups.c.state, func.count().label("n")).group_by(groups.c.state),
        job=job,
        output_dir=output_dir,
    )
    with catalogue.reading() as connection:
        return {row.state: row.n for row in connection.execute(query)}


def attempts_of(catalogue: Catalogue, key: int) -> list[AttemptRow]:
    """Return every attempt at a group, the first one first."""
    query = select(attempts).where(attempts.c.group_key == key).order_by(attempts.c.id)
    with catalogue.reading() as connection:
        return [attempt_of(row) for row in connection.execute(query).mappings()]


def live_jobs_of(catalogue: Catalogue, key: int) -> tuple[int, ...]:
    """Return the jobs that have brought a group and were not cancelled."""
    query = (
        select(jobs.c.id)
        .join(jobs_groups, jobs_groups.c.job_id == jobs.c.id)
        .where(jobs_groups.c.group_key == key, jobs.c.state != "cancelled")
        .order_by(jobs.c.id)
    )
    with catalogue.reading() as connection:
        return tuple(connection.execute(query).scalars())


def _narrowed(query: Select[Any], *, job: int | None, output_dir: str | None) -> Select[Any]:
    if job is not None:
        query = query.join(jobs_groups, jobs_groups.c.group_key == groups.c.key)
        query = query.where(jobs_groups.c.job_id == job)
    if output_dir is not None:
        query = query.where(groups.c.output_dir == output_dir)
    return query


def _rows(catalogue: Catalogue, query: Select[Any]) -> list[GroupRow]:
    with catalogue.reading() as connection:
        return group_rows_of(connection, connection.execute(query).mappings())
