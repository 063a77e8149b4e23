"""Dask worker preload: count what the steps of this process do, and tell the scheduler.

How the node's tiers stand goes with every heartbeat; a group that is published, or a step that
fails, is an event. The page in the dashboard (`dashboard_page`) shows both, `worker_metrics` has
the counts for Prometheus. Without this preload steps do the same work, unobserved.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import Any

from distributed.comm.addressing import get_address_host

from contimg_dask.errors import ContimgError
from contimg_dask.execution.node import NodeSettings, this_node
from contimg_dask.execution.observing import observe_no_more, observe_with
from contimg_dask.model import Attempt, ConversionPlan, PartRecord, Product, Tier
from contimg_dask.planning import propose_tiers
from contimg_dask.staging.reserving import TierUsage, usage_of

METRIC = "contimg"
"""Name of what goes with heartbeats, and of the topic of events."""

BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 300.0)
"""Upper bounds of the histograms [s]; 300 s is what a group takes to be observed."""

_LOOK_EVERY_S = 1.0
_LOOKING_PART = 0.01
"""Part of the time that may go into looking at the tiers: on a slow file system it is done less."""
_MOST_TIERS = 8
_LONGEST_TEXT = 300


@dataclass(slots=True)
class Histogram:
    """How many values lie between the bounds of `BUCKETS_S`, and what they are together [s]."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a value."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Counts:
    """Everything counted since this process began; failures by (step, reason code)."""

    steps: dict[str, Histogram] = field(default_factory=dict)
    groups: Histogram = field(default_factory=Histogram)
    read_bytes: int = 0
    written_bytes: int = 0
    published: int = 0
    failures: dict[tuple[str, str], int] = field(default_factory=dict)


class WorkerFigures:
    """Observes the steps of this process. Safe under threads: steps tell, heartbeats ask."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.lock = threading.Lock()
        self._worker: Any = None
        self._tiers: dict[str, Tier] = {}
        self._usage: list[TierUsage] = []
        self._stop = threading.Event()

    def attach(self, worker: Any) -> None:
        """Observe the steps of this process, and tell this worker's scheduler of them."""
        if self._worker is worker:
            return
        self.detach()
        self._worker, self._stop = worker, threading.Event()
        worker.metrics[METRIC] = self.heartbeat
        observe_with(self)
        watch = threading.Thread(target=self._look, args=(self._stop,), name="tiers", daemon=True)
        watch.start()

    def detach(self) -> None:
        """Observe no more; what was counted stays."""
        self._stop.set()
        observe_no_more(self)
        self._worker = None

    def step_began(self, plan: ConversionPlan, attempt: Attempt, step: str) -> None:
        """Learn which tiers there are, where no inventory says it."""
        del attempt, step
        with self.lock:
            for tier in plan.tiers:
                self._tiers.pop(tier.root, None)
                self._tiers[tier.root] = tier
            for root in list(self._tiers)[:-_MOST_TIERS]:
                del self._tiers[root]

    def step_done(
        self, plan: ConversionPlan, attempt: Attempt, step: str, seconds: float, result: object
    ) -> None:
        """Count a step; tell of a group that it published."""
        with self.lock:
            self.counts.steps.setdefault(step, Histogram()).add(seconds)
            if isinstance(result, PartRecord):
                self.counts.read_bytes += result.bytes_read
                self.counts.written_bytes += result.bytes_written
            # Another attempt's product is counted where that one published it.
            if not isinstance(result, Product) or result.attempt != attempt.name:
                return
            self.counts.published += 1
            self.counts.groups.add(result.seconds["total"])
        self._tell(
            kind="published",
            group=plan.group_id,
            seconds=result.seconds["total"],
            bytes=result.bytes_out,
        )

    def step_failed(
        self, plan: ConversionPlan, attempt: Attempt, step: str, seconds: float, error: Exception
    ) -> None:
        """Count a failure by its reason, and tell of it."""
        del attempt, seconds
        code = error.code if isinstance(error, ContimgError) else ContimgError.code
        with self.lock:
            self.counts.failures[step, code] = self.counts.failures.get((step, code), 0) + 1
        text = str(error)[:_LONGEST_TEXT] or type(error).__name__
        self._tell(kind="failed", group=plan.group_id, step=step, code=code, text=text)

    def _tell(self, **facts: Any) -> None:
        worker = self._worker
        if worker is not None:
            worker.log_event(METRIC, facts | {"node": self._node_name(worker)})

    @staticmethod
    def _node_name(worker: Any) -> str:
        node = this_node()
        return node.name if node is not None else str(get_address_host(worker.address))

    def usage(self) -> list[TierUsage]:
        """Return how the tiers stood when they were last looked at."""
        with self.lock:
            return list(self._usage)

    def heartbeat(self, worker: Any) -> dict[str, Any]:
        """Return what goes to the scheduler with a heartbeat, which must not wait for any disk."""
        node = this_node()
        return {
            "node": node.name if node is not None else None,
            "tiers": [asdict(usage) for usage in self.usage()],
        }

    def _look(self, stop: threading.Event) -> None:
        pause_s = 0.0
        while not stop.wait(pause_s):
            began_s = time.monotonic()
            usage = [found for tier in self._known_tiers() if (found := _look_at(tier))]
            with self.lock:
                self._usage = usage
            pause_s = max(_LOOK_EVERY_S, (time.monotonic() - began_s) / _LOOKING_PART)

    def _known_tiers(self) -> list[Tier]:
        node = this_node()
        with self.lock:
            seen = list(self._tiers.values())
        own = _tiers_of(node) if node is not None else []
        return own + [tier for tier in seen if tier.root not in {known.root for known in own}]


def _tiers_of(node: NodeSettings) -> list[Tier]:
    return [*node.tiers, *propose_tiers(node.output_dir)]


def _look_at(tier: Tier) -> TierUsage | None:
    try:
        return usage_of(tier)
    except OSError:
        return None  # it is not there, or not ours: steps say what is wrong with it


FIGURES = WorkerFigures()
"""Those of this process."""


def dask_setup(worker: Any) -> None:
    """Observe a starting worker."""
    FIGURES.attach(worker)


def dask_teardown(worker: Any) -> None:
    """Let go of a worker that ends."""
    del worker
    FIGURES.detach()
