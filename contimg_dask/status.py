"""The state of queue and dispatcher, as text for people and as JSON for scripts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from contimg_dask.catalogue import leases, nodes
from contimg_dask.catalogue.latency import Latency, recent_latency
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.overview import JobLine, Overview, overview
from contimg_dask.catalogue.records import Lease, NodeRow, Pause
from contimg_dask.lifecycle import State

SCHEMA = "contimg-dask.status/1"
DISPATCHER = "dispatcher"
STREAMS = "stream "
"""The name of a stream's lease is this and its input directory."""

_NODE_GONE_AFTER_S = 60.0
_ORDER: tuple[State, ...] = (
    "queued", "running", "published", "failed", "quarantined", "collecting", "cancelled", "removed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of a catalogue, or of one job of it, at one moment.

    ``dispatcher`` is None when none holds the lease. ``streams`` are those that follow a directory
    now, ``latency`` that of the live groups of the last day.
    """

    place: str
    overview: Overview
    dispatcher: Lease | None
    pause: Pause | None
    nodes: tuple[NodeRow, ...]
    job: int | None
    streams: tuple[Lease, ...] = ()
    latency: Latency | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``status --json`` prints."""
        document: dict[str, Any] = {"schema": SCHEMA, "catalogue": self.place}
        document |= self.overview.to_json()
        document["dispatcher"] = None
        if self.dispatcher is not None:
            lease = self.dispatcher
            document["dispatcher"] = {
                "holder": lease.holder,
                "since_s": lease.acquired_s,
                "facts": lease.facts,
            }
        document["paused"] = None if self.pause is None else asdict(self.pause)
        document["streams"] = [
            {"holder": lease.holder, "since_s": lease.acquired_s, "facts": lease.facts}
            for lease in self.streams
        ]
        document["live_latency"] = None if self.latency is None else self.latency.to_json()
        document["nodes"] = [asdict(node) for node in self.nodes]
        if self.job is not None:
            (document["job"],) = document.pop("jobs")
        return document


def look(catalogue: Catalogue, job: int | None) -> Status:
    """Return the state of a catalogue, or of one job."""
    lease = leases.current(catalogue, DISPATCHER)
    return Status(
        place=catalogue.url_shown,
        overview=overview(catalogue, job=job),
        dispatcher=lease if lease is not None and lease.expires_s > time.time() else None,
        pause=leases.paused(catalogue),
        nodes=tuple(nodes.list_nodes(catalogue)),
        job=job,
        streams=tuple(leases.list_current(catalogue, STREAMS, time.time())),
        latency=recent_latency(catalogue),
    )


def lines(status: Status) -> Iterator[str]:
    """Yield what people read, most important first."""
    yield from _head(status)
    yield from _streams(status)
    yield from _counts(status.overview)
    for job in status.overview.jobs:
        yield _job_line(job)
    now_s = status.overview.time_s
    for run in status.overview.running:
        stop = "  being stopped" if run.cancel_requested else ""
        again = f"  attempt {run.attempts + 1}" if run.attempts else ""
        yield f"running  {run.id} on {run.node} for {span(now_s - run.since_s)}{again}{stop}"
    for node in status.nodes:
        if now_s - node.last_seen_s < _NODE_GONE_AFTER_S or node.state == "draining":
            seen = span(now_s - node.last_seen_s)
            yield f"node     {node.name}  {node.state}  {node.workers} worker(s), seen {seen} ago"
    for failure in status.overview.failures:
        yield (
            f"{failure.state:8} {failure.count} × [{failure.code}], the last one {failure.id} "
            f"({failure.key}): {failure.text}"
        )


def _head(status: Status) -> Iterator[str]:
    if status.dispatcher is None:
        yield "NO DISPATCHER is running on this catalogue: start one with 'contimg-dask dispatch'"
    else:
        facts = status.dispatcher.facts
        yield f"dispatcher: {status.dispatcher.holder}; {facts.get('state', 'starting')}"
        if facts.get("dashboard"):
            yield f"Dask dashboard: {facts['dashboard']}"
    if status.pause is not None:
        why = f": {status.pause.reason}" if status.pause.reason else ""
        yield f"PAUSED by {status.pause.by}{why}; go on with 'contimg-dask resume'"


def _streams(status: Status) -> Iterator[str]:
    followed = set()
    for lease in status.streams:
        facts = lease.facts
        followed.add(facts.get("input_dir"))
        last_s = facts.get("last_file_s")
        last = "" if last_s is None else f"; last file {span(status.overview.time_s - last_s)} ago"
        yield (
            f"stream: {facts.get('state')} {facts.get('input_dir')} by {facts.get('by')}; "
            f"{facts.get('files')} files, {facts.get('waiting_files')} not usable yet, "
            f"{facts.get('collecting')} group(s) collecting{last}"
        )
    for job in status.overview.jobs:
        if job.state == "streaming" and job.input_dir not in followed:
            yield f"NO STREAM follows {job.input_dir} (job {job.id}) just now"
    if status.latency is not None:
        found = status.latency
        yield (
            f"live latency: median {found.median_s:.1f} s, 95 % within {found.p95_s:.1f} s, longest "
            f"{found.longest_s:.1f} s, of {found.groups} group(s) in a day"
        )


def _counts(found: Overview) -> Iterator[str]:
    counts = [f"{found.counts[state]} {state}" for state in _ORDER if found.counts.get(state)]
    yield f"groups: {', '.join(counts) or 'none'}"
    if found.rate_per_h:
        left = "" if not found.left_s else f"; {span(found.left_s)} left at this rate"
        yield f"rate: {found.rate_per_h:.0f} groups an hour{left}"
    if found.oldest_waiting is not None:
        oldest = found.oldest_waiting
        yield f"oldest waiting: {oldest.id}, for {span(found.time_s - oldest.since_s)}"
    if found.live_lag_s is not None:
        yield f"live: {span(found.live_lag_s)} behind the telescope"


def _job_line(job: JobLine) -> str:
    counts = [f"{job.counts[state]} {state}" for state in _ORDER if job.counts.get(state)]
    text = f"job {job.id}" + (f" ({job.label})" if job.label else "")
    if job.state in ("waiting", "reading"):
        text += f"  {job.state}: {job.files_read} of {job.files or '?'} headers read"
    elif job.state != "read":
        text += f"  {job.state}"
    return f"{text}  {', '.join(counts) or 'no group'}"


def span(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 90:
        return f"{max(seconds, 0.0):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
