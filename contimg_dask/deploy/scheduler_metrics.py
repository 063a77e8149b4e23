"""Dask scheduler preload: groups in flight and our tasks, on its ``/metrics`` for Prometheus.

docs/monitoring.md has the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from contimg_dask.deploy.exposition import Figure, expose
from contimg_dask.deploy.group_watch import GroupWatch, watch_of

_WATCHES: list[GroupWatch] = []
"""At most one: that of the scheduler that was started last in this process."""


def dask_setup(scheduler: Any) -> None:
    """Watch a starting scheduler."""
    _WATCHES[:] = [watch_of(scheduler)]


def dask_teardown(scheduler: Any) -> None:
    """Let go of a scheduler that ends."""
    del scheduler
    _WATCHES.clear()


def scheduler_figures() -> Iterator[Figure]:
    """Yield every metric of the scheduler in this process."""
    groups: Counter[tuple[str, ...]] = Counter()
    tasks: Counter[tuple[str, ...]] = Counter()
    for watch in _WATCHES:
        # A node without groups has a zero: a graph of it does not end.
        groups.update(dict.fromkeys(((name,) for name in watch.node_names().values()), 0))
        groups.update((group.node,) for group in watch.in_flight())
        tasks.update((k.step, "live" if k.live else "backlog", s) for k, _, s in watch.tasks())
    yield Figure(
        name="contimg_groups_in_flight",
        kind="gauge",
        help="Groups that have tasks, by the node they are on",
        labels=("node",),
        samples=list(groups.items()),
    )
    yield Figure(
        name="contimg_tasks",
        kind="gauge",
        help="Tasks of this program that the scheduler knows",
        labels=("step", "urgency", "state"),
        samples=list(tasks.items()),
    )


expose(scheduler_figures)
