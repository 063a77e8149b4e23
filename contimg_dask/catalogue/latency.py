"""How long live groups took from their last file to the published product."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import and_, select

from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.tables import groups

_DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Live groups published within a time, and how long half, 95 % and all of them took at most [s]."""

    groups: int
    median_s: float
    p95_s: float
    longest_s: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyHistogram:
    """Counts of live groups that took at most each of ``bounds_s`` [s], and of all.

    ``counts`` are cumulative, one per bound, as Prometheus has them.
    """

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    groups: int
    sum_s: float


def recent_latency(catalogue: Catalogue, within_s: float = _DAY_S) -> Latency | None:
    """Return what live groups took that were published lately; None where there were none."""
    taken_s = sorted(_latencies(catalogue, time.time() - within_s))
    if not taken_s:
        return None
    return Latency(
        groups=len(taken_s),
        median_s=_quantile(taken_s, 0.5),
        p95_s=_quantile(taken_s, 0.95),
        longest_s=taken_s[-1],
    )


def latency_histogram(catalogue: Catalogue, bounds_s: Sequence[float]) -> LatencyHistogram:
    """Return how long all live groups took that were ever published.

    Parameters
    ----------
    catalogue
        Where they are.
    bounds_s
        Upper bounds of the histogram, ascending [s].
    """
    taken_s = _latencies(catalogue, None)
    in_bucket = [0] * (len(bounds_s) + 1)
    for one in taken_s:
        in_bucket[bisect_left(bounds_s, one)] += 1
    counts, total = [], 0
    for number in in_bucket[:-1]:
        total += number
        counts.append(total)
    return LatencyHistogram(
        bounds_s=tuple(bounds_s), counts=tuple(counts), groups=len(taken_s), sum_s=sum(taken_s)
    )


def _latencies(catalogue: Catalogue, since_s: float | None) -> list[float]:
    which = and_(groups.c.state == "published", groups.c.live, groups.c.complete_s.is_not(None))
    query = select(groups.c.finished_s - groups.c.complete_s).where(which)
    if since_s is not None:
        query = query.where(groups.c.finished_s >= since_s)
    with catalogue.reading() as connection:
        return [
            max(0.0, taken) for taken in connection.execute(query).scalars() if taken is not None
        ]


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Return the least value that so large a part of all does not exceed."""
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]
