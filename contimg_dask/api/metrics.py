"""Figures for Prometheus from the catalogue: cheap however many groups there are.

Gauges come from the same summary as the status. Counters and histograms count what has happened
since this process began, by the events that came since they were asked for last.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from contimg_dask.api.verdict import streams_of, tiers_of
from contimg_dask.catalogue import events
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.recent import LiveTimes, RecentGroup, groups_by_key, live_times
from contimg_dask.catalogue.records import Event
from contimg_dask.lifecycle import STATES
from contimg_dask.status import Status

BUCKETS_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper bounds of the histograms [s]; 309 s is what a group takes to be observed."""

_STREAM_FACTS = {
    "contimg_stream_last_file_timestamp_seconds": "last_file_s",
    "contimg_stream_waiting_files": "waiting_files",
    "contimg_stream_collecting_groups": "collecting",
    "contimg_stream_input_free_bytes": "input_free_bytes",
}
_PAGE = 1000
_MOST_PAGES = 50
_Kind = Literal["counter", "gauge", "histogram"]
_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A metric: its name has its unit, and ``_total`` when it is a counter."""

    name: str
    kind: _Kind
    help: str
    labels: tuple[str, ...] = ()


def _declare(name: str, kind: _Kind, text: str, *labels: str) -> Declared:
    return Declared(name=name, kind=kind, help=text, labels=labels)


DECLARED = (
    _declare("contimg_queue_groups", "gauge", "groups in the catalogue by state", "state"),
    _declare("contimg_queue_oldest_waiting_seconds", "gauge", "age of what waits longest; 0: none"),
    _declare("contimg_queue_paused", "gauge", "1 while nothing new is begun by somebody's wish"),
    _declare("contimg_published_hour_groups", "gauge", "groups published within the last hour"),
    _declare("contimg_live_lag_seconds", "gauge", "age of the oldest live group still to come"),
    _declare("contimg_live_start_timestamp_seconds", "gauge", "start of the newest live group"),
    _declare("contimg_live_published_timestamp_seconds", "gauge", "last publication of a live one"),
    _declare("contimg_dispatcher_up", "gauge", "1 while a dispatcher holds its lease"),
    _declare("contimg_dispatcher_waiting", "gauge", "1 while it waits for cluster, room or output"),
    _declare("contimg_dispatcher_held", "gauge", "1 while the output holds the queue", "reason"),
    _declare("contimg_stream_up", "gauge", "1 while a directory is followed", "input"),
    _declare("contimg_stream_last_file_timestamp_seconds", "gauge", "last new file", "input"),
    _declare("contimg_stream_waiting_files", "gauge", "files that are not usable yet", "input"),
    _declare("contimg_stream_collecting_groups", "gauge", "groups that lack files", "input"),
    _declare("contimg_stream_input_free_bytes", "gauge", "free where files arrive", "input"),
    _declare("contimg_node_workers", "gauge", "worker processes when a node was seen last", "node"),
    _declare("contimg_node_seen_age_seconds", "gauge", "time since a node was seen last", "node"),
    _declare("contimg_node_staging_free_bytes", "gauge", "may still be promised", "node", "tier"),
    _declare(
        "contimg_node_staging_promised_bytes", "gauge", "promised to attempts", "node", "tier"
    ),
    _declare("contimg_failed_groups", "gauge", "groups set aside by reason", "state", "reason"),
    _declare("contimg_group_failures_total", "counter", "groups that were set aside", "reason"),
    _declare("contimg_groups_converted_total", "counter", "groups published", "urgency"),
    _declare("contimg_input_bytes_total", "counter", "bytes of subband files converted"),
    _declare("contimg_conversion_step_seconds", "histogram", "time of the steps", "step"),
    _declare("contimg_live_latency_seconds", "histogram", "from last file to product, live groups"),
    _declare("contimg_api_streams", "gauge", "event streams that are open"),
)


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class _Counted:
    """What has happened since this process began."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.published: Counter[str] = Counter({"live": 0, "backlog": 0})
        self.input_bytes = 0
        self.steps: dict[str, _Histogram] = {}
        self.latency = _Histogram()

    def add_failure(self, event: Event) -> None:
        self.failures[str(event.facts.get("code", ""))] += 1

    def add_published(self, group: RecentGroup) -> None:
        self.published["live" if group.live else "backlog"] += 1
        self.input_bytes += group.bytes_in
        for step, seconds in group.seconds.items():
            self.steps.setdefault(step, _Histogram()).add(seconds)
        if group.latency_s is not None:
            self.latency.add(group.latency_s)


class Metrics:
    """Answers Prometheus. Safe under threads.

    Parameters
    ----------
    catalogue
        Whose figures.
    status
        Returns how things stand; may be some seconds old.
    streams
        Returns how many event streams are open.
    """

    def __init__(
        self, catalogue: Catalogue, status: Callable[[], Status], streams: Callable[[], int]
    ) -> None:
        self._catalogue = catalogue
        self._status = status
        self._streams = streams
        self._lock = threading.Lock()
        self._last = events.latest_id(catalogue)
        self._counted = _Counted()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return everything in the text format.

        Raises
        ------
        CatalogueError
            The catalogue cannot be read.
        """
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """Yield every metric."""
        samples = self._samples()
        for declared in DECLARED:
            family = _FAMILIES[declared.kind](declared.name, declared.help, labels=declared.labels)
            for labels, value in samples[declared.name]:
                if isinstance(value, _Histogram):
                    family.add_metric(labels, _cumulative(value), value.sum_s)
                else:
                    family.add_metric(labels, value)
            yield family

    def _samples(self) -> dict[str, list[tuple[tuple[str, ...], Any]]]:
        status = self._status()
        found = {declared.name: [] for declared in DECLARED}  # type: dict[str, list[Any]]
        for name, value in _summary(status, live_times(self._catalogue)):
            found[name].append(((), value))
        found["contimg_api_streams"].append(((), float(self._streams())))
        for name, labels, value in _by_label(status):
            found[name].append((labels, value))
        with self._lock:
            self._catch_up()
            counted = self._counted
            for failure in status.overview.failures:
                counted.failures[failure.code] += 0  # a counter that is not there has no increase
            for code, count in counted.failures.items():
                found["contimg_group_failures_total"].append(((code,), count))
            for urgency, count in counted.published.items():
                found["contimg_groups_converted_total"].append(((urgency,), count))
            found["contimg_input_bytes_total"].append(((), counted.input_bytes))
            for step, histogram in counted.steps.items():
                found["contimg_conversion_step_seconds"].append(((step,), histogram))
            found["contimg_live_latency_seconds"].append(((), counted.latency))
        return found

    def _catch_up(self) -> None:
        for _ in range(_MOST_PAGES):
            page = events.list_events(self._catalogue, after_id=self._last, limit=_PAGE)
            published = [e.group_key for e in page if e.event == "group-published" and e.group_key]
            for start in range(0, len(published), 500):
                for group in groups_by_key(self._catalogue, published[start : start + 500]):
                    if group.state == "published":
                        self._counted.add_published(group)
            for event in page:
                if event.event in ("group-failed", "group-quarantined"):
                    self._counted.add_failure(event)
            if page:
                self._last = page[-1].id
            if len(page) < _PAGE:
                return


def _summary(status: Status, live: LiveTimes) -> Iterator[tuple[str, float]]:
    """Yield what has no labels; times that are not known are left out."""
    view, now_s = status.overview, time.time()
    oldest = view.oldest_waiting
    yield "contimg_queue_oldest_waiting_seconds", now_s - oldest.since_s if oldest else 0.0
    yield "contimg_queue_paused", float(status.pause is not None)
    yield "contimg_published_hour_groups", float(view.published_hour)
    yield "contimg_live_lag_seconds", view.live_lag_s or 0.0
    if live.newest_start_s is not None:
        yield "contimg_live_start_timestamp_seconds", live.newest_start_s
    if live.last_published_s is not None:
        yield "contimg_live_published_timestamp_seconds", live.last_published_s
    lease = status.dispatcher
    yield "contimg_dispatcher_up", float(lease is not None)
    waits = lease is not None and str(lease.facts.get("state", "")).startswith("waiting")
    yield "contimg_dispatcher_waiting", float(waits)


def _by_label(status: Status) -> Iterator[tuple[str, tuple[str, ...], float]]:
    now_s = time.time()
    for state in STATES:
        yield "contimg_queue_groups", (state,), float(status.overview.counts.get(state, 0))
    for failure in status.overview.failures:
        yield "contimg_failed_groups", (failure.state, failure.code), float(failure.count)
    held = None if status.dispatcher is None else status.dispatcher.facts.get("held")
    if held:
        yield "contimg_dispatcher_held", (str(held),), 1.0
    for stream in streams_of(status):
        followed = (stream.input_dir,)
        yield "contimg_stream_up", followed, float(stream.lease is not None)
        facts = {} if stream.lease is None else stream.lease.facts
        for metric, fact in _STREAM_FACTS.items():
            if isinstance(facts.get(fact), int | float):
                yield metric, followed, float(facts[fact])
    for node in status.nodes:
        yield "contimg_node_workers", (node.name,), float(node.workers)
        yield "contimg_node_seen_age_seconds", (node.name,), now_s - node.last_seen_s
        tiers = {tier.name: tier for tier in tiers_of(node)}
        for name, tier in tiers.items():
            labels = (node.name, name)
            yield "contimg_node_staging_free_bytes", labels, float(tier.free_bytes)
            yield "contimg_node_staging_promised_bytes", labels, float(tier.promised_bytes)


def _cumulative(histogram: _Histogram) -> list[tuple[str, int]]:
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
