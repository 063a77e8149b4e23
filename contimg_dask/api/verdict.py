"""Is the night going well? Pure: one line, and everything that speaks against it, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from contimg_dask.catalogue.recent import RecentGroup
from contimg_dask.catalogue.records import Lease, NodeRow
from contimg_dask.lifecycle import OPEN
from contimg_dask.status import Status, span

Level = Literal["good", "look", "bad"]

GROUP_S = 309.24
"""A group of the telescope takes so long to be observed [s]."""
_LATE_S, _VERY_LATE_S = 2.5 * GROUP_S, 6 * GROUP_S
_HOUR_S = 3600.0
_BAD_PART = 0.2
"""Part of an hour's groups that have no product."""
_NODE_LOST_AFTER_S, _NODE_FORGOTTEN_AFTER_S = 60.0, 86400.0
_STILL_S = 1200.0
_FULL_PART = 0.1
_HEADLINES: dict[Level, str] = {
    "good": "Going well",
    "look": "Needs a look",
    "bad": "Not going well",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a person may have to do something about."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer; ``text`` is the worst finding, or what is going on when there is none."""

    level: Level
    headline: str
    text: str
    findings: tuple[Finding, ...]


def judge(status: Status, recent: Sequence[RecentGroup]) -> Verdict:
    """Return the verdict on the night.

    Parameters
    ----------
    status
        How things stand.
    recent
        What became of groups within the last day.
    """
    order = {"bad": 0, "look": 1, "good": 2}
    found = sorted(_findings(status, recent), key=lambda finding: order[finding.level])
    level: Level = found[0].level if found else "good"
    text = found[0].text if found else _calm(status)
    return Verdict(level=level, headline=_HEADLINES[level], text=text, findings=tuple(found))


def _calm(status: Status) -> str:
    view = status.overview
    published = f"{view.published_hour} published within the last hour"
    running = len(view.running)
    if running:
        return f"{published}, {running} running, {view.counts.get('queued', 0)} waiting."
    queued = view.counts.get("queued", 0)
    return f"{published}, {queued} waiting." if queued else f"{published}, nothing is waiting."


def _findings(status: Status, recent: Sequence[RecentGroup]) -> Iterator[Finding]:
    yield from _of_the_dispatcher(status)
    yield from _of_streams(status)
    yield from _of_lateness(status)
    yield from _of_failures(status, recent)
    yield from _of_nodes(status)


def _of_the_dispatcher(status: Status) -> Iterator[Finding]:
    is_open = any(status.overview.counts.get(state) for state in OPEN)
    if status.dispatcher is None:
        level: Level = "bad" if is_open else "look"
        yield Finding(
            level=level, text="No dispatcher is running: nothing is converted until one is started."
        )
        return
    if status.pause is not None:
        why = f": {status.pause.reason}" if status.pause.reason else ""
        yield Finding(level="look", text=f"Paused by {status.pause.by}{why}.")
        return
    state = str(status.dispatcher.facts.get("state", ""))
    if state.startswith("waiting"):
        yield Finding(level="bad" if is_open else "look", text=f"The dispatcher is {state}.")
    elif is_open and _is_still(status):
        yield Finding(
            level="look", text=f"Groups wait, and none was begun or published for {span(_STILL_S)}."
        )


def _of_streams(status: Status) -> Iterator[Finding]:
    for stream in streams_of(status):
        if stream.lease is None:
            yield Finding(level="bad", text=f"No stream follows {stream.input_dir}.")
        elif (state := stream.lease.facts.get("state")) not in ("watching", "first look"):
            yield Finding(level="look", text=f"The stream has trouble: {state}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A directory that is to be followed, and the process that does so; None where there is none."""

    input_dir: str
    lease: Lease | None


def streams_of(status: Status) -> list[Stream]:
    """Return the streams that are there, and those that should be."""
    found = {str(lease.facts.get("input_dir")): lease for lease in status.streams}
    wanted = {job.input_dir for job in status.overview.jobs if job.state == "streaming"}
    return [Stream(input_dir=name, lease=found.get(name)) for name in sorted({*found, *wanted})]


def _is_still(status: Status) -> bool:
    view = status.overview
    waits = view.oldest_waiting
    return (
        not view.running
        and view.published_moment == 0
        and waits is not None
        and view.time_s - waits.since_s > _STILL_S
    )


def _of_lateness(status: Status) -> Iterator[Finding]:
    lag_s = status.overview.live_lag_s
    if lag_s is None or lag_s < _LATE_S:
        return
    level: Level = "bad" if lag_s > _VERY_LATE_S else "look"
    yield Finding(level=level, text=f"Live conversion is {span(lag_s)} behind the telescope.")


def _of_failures(status: Status, recent: Sequence[RecentGroup]) -> Iterator[Finding]:
    since_s = status.overview.time_s - _HOUR_S
    hour = [group for group in recent if group.finished_s > since_s]
    lost = [group for group in hour if group.state in ("failed", "quarantined")]
    if not lost:
        return
    level: Level = "bad" if len(lost) > _BAD_PART * len(hour) and len(lost) > 1 else "look"
    reasons = sorted({group.reason or "?" for group in lost})
    groups = "group" if len(lost) == 1 else "groups"
    yield Finding(
        level=level,
        text=f"{len(lost)} {groups} of the last hour's {len(hour)} failed ({', '.join(reasons)}).",
    )


def _of_nodes(status: Status) -> Iterator[Finding]:
    now_s, gone = status.overview.time_s, []
    for node in status.nodes:
        age_s = now_s - node.last_seen_s
        if _NODE_LOST_AFTER_S < age_s < _NODE_FORGOTTEN_AFTER_S:
            gone.append(node.name)
        for tier in tiers_of(node):
            if tier.is_nearly_full and age_s < _NODE_LOST_AFTER_S:
                yield Finding(
                    level="look", text=f"Staging in {tier.name} of node {node.name} is nearly full."
                )
    # Without a dispatcher nobody looks for nodes.
    if gone and status.dispatcher is not None:
        nodes = "Node" if len(gone) == 1 else "Nodes"
        yield Finding(level="look", text=f"{nodes} not seen for a minute: {', '.join(gone)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBar:
    """A staging tier of a node [bytes]: written, promised and not written, still to be promised."""

    name: str
    root: str
    used_bytes: int
    promised_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return max(self.used_bytes, self.promised_bytes) + self.free_bytes

    @property
    def is_nearly_full(self) -> bool:
        """Whether less than a tenth is left."""
        return self.total_bytes > 0 and self.free_bytes < _FULL_PART * self.total_bytes


def tiers_of(node: NodeRow) -> list[TierBar]:
    """Return what a node has said of its staging tiers."""
    found = []
    for tier in node.facts.get("tiers", []):
        try:
            found.append(TierBar(**{name: tier[name] for name in TierBar.__slots__}))
        except (KeyError, TypeError):
            continue  # another version wrote it
    return found
