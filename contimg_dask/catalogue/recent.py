"""What became of groups lately: for a picture of the night."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.rows import Row
from contimg_dask.catalogue.tables import groups
from contimg_dask.lifecycle import State

_COLUMNS = (
    "key", "id", "state", "finished_s", "start_ms", "live", "node", "present", "expected",
    "attempts", "reason_code", "bytes_in", "seconds", "complete_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentGroup:
    """A group that has its outcome: when, and why it has no product if it has none.

    ``latency_s`` is how long a live group took from its last file to the product, ``total_s`` the
    attempt that made it [s]; None where that is not known.
    """

    key: int
    id: str
    state: State
    finished_s: float
    start_s: float
    live: bool
    node: str | None
    present: int
    expected: int
    attempts: int
    reason: str | None
    bytes_in: int
    latency_s: float | None
    seconds: dict[str, float]

    @property
    def total_s(self) -> float | None:
        """How long the attempt took that made the product [s]."""
        return self.seconds.get("total") if self.state == "published" else None


def recent_groups(catalogue: Catalogue, since_s: float, limit: int) -> list[RecentGroup]:
    """Return the groups that got their outcome since then, the newest first, at most so many."""
    query = (
        select(*(groups.c[name] for name in _COLUMNS))
        .where(groups.c.finished_s >= since_s)
        .order_by(groups.c.finished_s.desc())
        .limit(limit)
    )
    with catalogue.reading() as connection:
        return [_recent_of(row) for row in connection.execute(query).mappings()]


def groups_by_key(catalogue: Catalogue, keys: list[int]) -> list[RecentGroup]:
    """Return those of these groups that have an outcome now."""
    query = select(*(groups.c[name] for name in _COLUMNS))
    query = query.where(groups.c.key.in_(keys), groups.c.finished_s.is_not(None))
    with catalogue.reading() as connection:
        return [_recent_of(row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTimes:
    """When the newest live group began, and when one was published last [s since 1970]."""

    newest_start_s: float | None
    last_published_s: float | None


def live_times(catalogue: Catalogue) -> LiveTimes:
    """Return when the telescope was heard of last, and what came of it."""
    # The newest are looked at alone: to ask all groups whether they are live takes too long.
    newest = (
        select(groups.c.start_ms, groups.c.live)
        .order_by(groups.c.start_ms.desc())
        .limit(_NEWEST)
        .subquery()
    )
    last = (
        select(groups.c.finished_s, groups.c.live, groups.c.state)
        .where(groups.c.finished_s.is_not(None))
        .order_by(groups.c.finished_s.desc())
        .limit(_NEWEST)
        .subquery()
    )
    published = (last.c.live, last.c.state == "published")
    with catalogue.reading() as connection:
        start_ms = connection.execute(
            select(func.max(newest.c.start_ms)).where(newest.c.live)
        ).scalar()
        finished_s = connection.execute(
            select(func.max(last.c.finished_s)).where(*published)
        ).scalar()
    return LiveTimes(
        newest_start_s=None if start_ms is None else start_ms / 1000.0,
        last_published_s=finished_s,
    )


_NEWEST = 1000


def _recent_of(row: Row) -> RecentGroup:
    complete_s = row["complete_s"]
    published = row["state"] == "published" and row["live"] and complete_s is not None
    return RecentGroup(
        key=row["key"],
        id=row["id"],
        state=row["state"],
        finished_s=row["finished_s"],
        start_s=row["start_ms"] / 1000.0,
        live=row["live"],
        node=row["node"],
        present=row["present"],
        expected=row["expected"],
        attempts=row["attempts"],
        reason=row["reason_code"],
        bytes_in=row["bytes_in"],
        latency_s=max(0.0, row["finished_s"] - complete_s) if published else None,
        seconds=row["seconds"] or {},
    )
