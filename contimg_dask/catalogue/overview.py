"""Everything that fits on one screen: how much is done, what runs, what fails, what is late."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, true

from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import JobState
from contimg_dask.catalogue.tables import groups, jobs, jobs_groups
from contimg_dask.lifecycle import OPEN, State

_HOUR_S = 3600.0
_MOMENT_S = 600.0
_MOST_JOBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """A job, how far it is read, and its groups by state."""

    id: int
    label: str
    input_dir: str
    state: JobState
    live: bool
    priority: int
    files: int
    files_read: int
    candidates: int
    submitted_s: float
    counts: dict[State, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLine:
    """A group that is being worked on, where and since when."""

    key: int
    id: str
    node: str
    attempt: str
    since_s: float
    attempts: int
    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingLine:
    """The group that waits longest, and since when."""

    key: int
    id: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLine:
    """How many groups have a reason code, and the newest of them."""

    code: str
    state: State
    count: int
    key: int
    id: str
    since_s: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A catalogue, or one job of it, at one moment.

    ``published_hour`` and ``published_moment`` count what was published within the last hour and
    the last ten minutes; ``moment_s`` is how long ago the first of these was [s]. ``live_lag_s`` is
    how long ago the oldest live group that is still to be published began [s]; None where there is
    none.
    """

    time_s: float
    counts: dict[State, int]
    jobs: tuple[JobLine, ...]
    published_hour: int
    published_moment: int
    moment_s: float
    oldest_waiting: WaitingLine | None
    running: tuple[RunningLine, ...]
    failures: tuple[FailureLine, ...]
    live_lag_s: float | None

    @property
    def rate_per_h(self) -> float:
        """Groups published per hour, by the last ten minutes or, if they say nothing, the hour.

        A conversion that began a moment ago is measured from its first product on.
        """
        if self.published_moment > 1:
            return (self.published_moment - 1) * _HOUR_S / max(self.moment_s, 1.0)
        return float(self.published_hour)

    @property
    def left_s(self) -> float | None:
        """How long what is queued or running will take at this rate [s]; None without a rate."""
        left = self.counts.get("queued", 0) + self.counts.get("running", 0)
        if not left:
            return 0.0
        return left / self.rate_per_h * _HOUR_S if self.rate_per_h else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self) | {"rate_per_h": self.rate_per_h, "left_s": self.left_s}


def overview(catalogue: Catalogue, *, job: int | None = None) -> Overview:
    """Return the state of a catalogue, or of one job, all of the same moment."""
    now_s = time.time()
    mine: ColumnElement[bool] = true()
    if job is not None:
        keys = select(jobs_groups.c.group_key).where(jobs_groups.c.job_id == job)
        mine = groups.c.key.in_(keys)
    with catalogue.reading() as connection:
        recent, since_s = _published(connection, mine, now_s - _MOMENT_S)
        by_state = (
            select(groups.c.state, func.count().label("n")).where(mine).group_by(groups.c.state)
        )
        return Overview(
            time_s=now_s,
            counts={row.state: row.n for row in connection.execute(by_state)},
            jobs=_jobs(connection, job),
            published_hour=_published(connection, mine, now_s - _HOUR_S)[0],
            published_moment=recent,
            moment_s=now_s - since_s,
            oldest_waiting=_oldest_waiting(connection, mine),
            running=_running(connection, mine),
            failures=_failures(connection, mine),
            live_lag_s=_live_lag(connection, mine, now_s),
        )


def _jobs(connection: Connection, job: int | None) -> tuple[JobLine, ...]:
    """Return one job, or those with something still to come and the newest, the newest first."""
    if job is not None:
        wanted: Iterable[int] = (job,)
    else:
        newest = select(jobs.c.id).order_by(jobs.c.id.desc()).limit(_MOST_JOBS)
        open_ones = (
            select(jobs_groups.c.job_id)
            .distinct()
            .join(groups, groups.c.key == jobs_groups.c.group_key)
            .where(groups.c.state.in_(OPEN))
        )
        wanted = set(connection.execute(newest).scalars())
        wanted |= set(connection.execute(open_ones).scalars())
        streams = select(jobs.c.id).where(jobs.c.state == "streaming")
        wanted |= set(connection.execute(streams).scalars())
    counts: dict[int, dict[State, int]] = {}
    by_state = (
        select(jobs_groups.c.job_id, groups.c.state, func.count())
        .join(groups, groups.c.key == jobs_groups.c.group_key)
        .where(jobs_groups.c.job_id.in_(wanted))
        .group_by(jobs_groups.c.job_id, groups.c.state)
    )
    for job_id, state, count in connection.execute(by_state):
        counts.setdefault(job_id, {})[state] = count
    query = select(jobs).where(jobs.c.id.in_(wanted)).order_by(jobs.c.id.desc())
    return tuple(
        JobLine(
            counts=counts.get(row["id"], {}),
            **{name: row[name] for name in JobLine.__slots__ if name != "counts"},
        )
        for row in connection.execute(query).mappings()
    )


def _published(
    connection: Connection, mine: ColumnElement[bool], since_s: float
) -> tuple[int, float]:
    """Return how many groups were published since then, and when the first of them was."""
    recent = and_(mine, groups.c.state == "published", groups.c.finished_s > since_s)
    query = select(func.count(), func.min(groups.c.finished_s)).where(recent)
    count, first_s = connection.execute(query).one()
    return count, since_s if first_s is None else first_s


def _oldest_waiting(connection: Connection, mine: ColumnElement[bool]) -> WaitingLine | None:
    query = (
        select(groups.c.key, groups.c.id, groups.c.queued_s)
        .where(mine, groups.c.state == "queued")
        .order_by(groups.c.queued_s, groups.c.start_ms)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else WaitingLine(key=row.key, id=row.id, since_s=row.queued_s)


def _running(connection: Connection, mine: ColumnElement[bool]) -> tuple[RunningLine, ...]:
    query = select(groups).where(mine, groups.c.state == "running").order_by(groups.c.state_since_s)
    return tuple(
        RunningLine(
            key=row["key"],
            id=row["id"],
            node=row["node"] or "",
            attempt=row["attempt"] or "",
            since_s=row["state_since_s"],
            attempts=row["attempts"],
            cancel_requested=row["cancel_requested"],
        )
        for row in connection.execute(query).mappings()
    )


def _failures(connection: Connection, mine: ColumnElement[bool]) -> tuple[FailureLine, ...]:
    """Return one line per reason, the most frequent first."""
    same = (groups.c.state, groups.c.reason_code)
    newest = (groups.c.state_since_s.desc(), groups.c.key.desc())
    ranked = (
        select(
            groups.c.key,
            groups.c.id,
            groups.c.state,
            groups.c.state_since_s,
            groups.c.reason_code,
            groups.c.reason_text,
            func.count().over(partition_by=same).label("count"),
            func.row_number().over(partition_by=same, order_by=newest).label("rank"),
        )
        .where(mine, groups.c.state.in_(("failed", "quarantined")))
        .subquery()
    )
    query = (
        select(ranked)
        .where(ranked.c.rank == 1)
        .order_by(ranked.c.count.desc(), ranked.c.reason_code)
    )
    return tuple(
        FailureLine(
            code=row["reason_code"] or "",
            state=row["state"],
            count=row["count"],
            key=row["key"],
            id=row["id"],
            since_s=row["state_since_s"],
            text=row["reason_text"] or "",
        )
        for row in connection.execute(query).mappings()
    )


def _live_lag(connection: Connection, mine: ColumnElement[bool], now_s: float) -> float | None:
    late = and_(mine, groups.c.live, groups.c.state.in_(OPEN))
    start_ms = connection.execute(select(func.min(groups.c.start_ms)).where(late)).scalar()
    return None if start_ms is None else now_s - start_ms / 1000.0
