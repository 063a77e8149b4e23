"""Everything the page at ``/`` shows, of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from contimg_dask.api.drawing import Plot, hours_until, latency, throughput
from contimg_dask.api.verdict import (
    GROUP_S,
    Stream,
    TierBar,
    Verdict,
    judge,
    streams_of,
    tiers_of,
)
from contimg_dask.catalogue.groups import list_groups
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.overview import FailureLine, RunningLine
from contimg_dask.catalogue.recent import RecentGroup, recent_groups
from contimg_dask.catalogue.records import GroupRow, NodeRow
from contimg_dask.lifecycle import State
from contimg_dask.status import Status, span

DAY_S = 86400.0
HOURS = 24
_MOST_RECENT = 5000
_MOST_TILES = 48
"""Per hour; those without a product come first, the rest is a number."""
_MOST_FAILED = 8
_LETTERS: dict[State, str] = {
    "published": "P", "failed": "F", "quarantined": "Q", "running": "R", "cancelled": "C",
    "removed": "X", "queued": "W", "collecting": "W",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A group in the timeline."""

    key: int
    id: str
    state: State
    letter: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """A line of the timeline; ``more`` published groups have no tile."""

    text: str
    tiles: tuple[Tile, ...]
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Groups that failed for one reason, with the newest of them."""

    line: FailureLine
    groups: tuple[GroupRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLine:
    """A node, what runs there, and its staging tiers."""

    node: NodeRow
    running: int
    seen_ago_s: float
    tiers: tuple[TierBar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What the page shows."""

    status: Status
    verdict: Verdict
    hours: tuple[Hour, ...]
    throughput: Plot
    latency: Plot
    latency_is_live: bool
    nodes: tuple[NodeLine, ...]
    failed: tuple[Failed, ...]
    streams: tuple[Stream, ...]
    dashboard: str | None


def see(catalogue: Catalogue, status: Status) -> Night:
    """Return a night whose status is known already."""
    now_s = status.overview.time_s
    recent = recent_groups(catalogue, hours_until(now_s, HOURS)[0], _MOST_RECENT)
    plot, live = latency(recent, now_s, limit_s=GROUP_S, hours=HOURS)
    return Night(
        status=status,
        verdict=judge(status, recent),
        hours=tuple(timeline(recent, status.overview.running, now_s)),
        throughput=throughput(recent, now_s, HOURS),
        latency=plot,
        latency_is_live=live,
        nodes=tuple(_node_lines(status)),
        failed=tuple(_failed(catalogue, line) for line in status.overview.failures),
        streams=tuple(streams_of(status)),
        dashboard=_dashboard(status),
    )


def timeline(
    recent: Sequence[RecentGroup], running: Sequence[RunningLine], now_s: float
) -> list[Hour]:
    """Return the last hours with their groups, the present hour first; empty ones at its end not."""
    begins = hours_until(now_s, HOURS)
    by_hour: list[list[RecentGroup]] = [[] for _ in begins]
    for group in recent:
        number = int((group.finished_s - begins[0]) // 3600.0)
        if 0 <= number < HOURS:
            by_hour[number].append(group)
    found = [_hour(begin, groups) for begin, groups in zip(begins, by_hour, strict=True)]
    if running:
        now = tuple(_running_tile(line, now_s) for line in running)
        last = found[-1]
        found[-1] = Hour(text=last.text, tiles=last.tiles + now, more=last.more)
    found.reverse()
    while len(found) > 1 and not found[-1].tiles:
        found.pop()
    return found


def _hour(begin_s: float, groups: Sequence[RecentGroup]) -> Hour:
    ordered = sorted(groups, key=lambda group: group.finished_s)
    shown = ordered
    if len(ordered) > _MOST_TILES:
        worst_first = sorted(ordered, key=lambda group: group.state == "published")
        kept = {group.key for group in worst_first[:_MOST_TILES]}
        shown = [group for group in ordered if group.key in kept]
    text = datetime.fromtimestamp(begin_s, tz=UTC).strftime("%H:00")
    tiles = tuple(_tile(group) for group in shown)
    return Hour(text=text, tiles=tiles, more=len(ordered) - len(shown))


def _tile(group: RecentGroup) -> Tile:
    words: list[str] = [group.state]
    if group.reason is not None:
        words.append(group.reason)
    if group.latency_s is not None:
        words.append(f"{group.latency_s:.1f} s after its last file")
    elif group.total_s is not None:
        words.append(f"in {group.total_s:.1f} s")
    if group.node:
        words.append(f"on {group.node}")
    words.append(f"{group.present} of {group.expected} subbands")
    return Tile(
        key=group.key,
        id=group.id,
        state=group.state,
        letter=_LETTERS[group.state],
        detail=", ".join(words),
    )


def _running_tile(line: RunningLine, now_s: float) -> Tile:
    detail = f"running on {line.node} for {span(now_s - line.since_s)}"
    return Tile(key=line.key, id=line.id, state="running", letter="R", detail=detail)


def _node_lines(status: Status) -> list[NodeLine]:
    now_s = status.overview.time_s
    return [
        NodeLine(
            node=node,
            running=sum(line.node == node.name for line in status.overview.running),
            seen_ago_s=now_s - node.last_seen_s,
            tiers=tuple(tiers_of(node)),
        )
        for node in status.nodes
        if now_s - node.last_seen_s < DAY_S or node.state == "draining"
    ]


def _failed(catalogue: Catalogue, line: FailureLine) -> Failed:
    rows = list_groups(
        catalogue, states=(line.state,), reason=line.code, limit=_MOST_FAILED, newest_first=True
    )
    return Failed(line=line, groups=tuple(rows))


def _dashboard(status: Status) -> str | None:
    """Return the address of the Dask dashboard, if it is one a browser may be sent to."""
    address = None if status.dispatcher is None else status.dispatcher.facts.get("dashboard")
    if not isinstance(address, str) or urlsplit(address).scheme not in ("http", "https"):
        return None
    return address
