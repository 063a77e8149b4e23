"""Dask scheduler preload: no spans are kept, so that a scheduler can run for months.

Dask opens a span whenever tasks come to an idle scheduler, which is once per group while the
telescope observes, and keeps it and its task groups for as long as it lives
(https://github.com/dask/distributed/issues/7977): about 20 kB per group here, and in each worker the
figures of every span. Nothing of ours looks at spans; the dashboard's figures by task prefix are
kept apart from them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from distributed import Scheduler
from distributed.spans import SpansSchedulerExtension


class NoSpans(SpansSchedulerExtension):
    """Takes what Dask tells of spans, and keeps nothing of it."""

    def observe_tasks(self, *arguments: Any, **options: Any) -> dict[Any, dict[Any, Any]]:
        """Put no task into a span."""
        return {}

    def heartbeat(self, ws: Any, data: Mapping[tuple[Hashable, ...], float]) -> None:
        """Forget what a worker says of spans."""


def dask_setup(scheduler: Scheduler) -> None:
    """Take the place of Dask's own."""
    if "spans" in scheduler.extensions:
        scheduler.extensions["spans"] = NoSpans(scheduler)
