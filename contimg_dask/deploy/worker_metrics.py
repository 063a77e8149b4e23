"""Dask worker preload: what this worker's steps did, on its ``/metrics`` for Prometheus.

It counts nothing itself: `worker_figures` does, and is loaded with it. docs/monitoring.md has the
names.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from contimg_dask.deploy.exposition import Figure, expose
from contimg_dask.deploy.worker_figures import FIGURES, dask_setup, dask_teardown

__all__ = ["dask_setup", "dask_teardown"]


def worker_figures() -> Iterator[Figure]:
    """Yield every metric of this process."""
    with FIGURES.lock:
        counts = deepcopy(FIGURES.counts)
    yield Figure(
        name="contimg_step_seconds",
        kind="histogram",
        help="Wall-clock time of steps that were done",
        labels=("step",),
        samples=[((step,), times) for step, times in counts.steps.items()],
    )
    yield Figure(
        name="contimg_group_seconds",
        kind="histogram",
        help="From the submission of an attempt until its product was published",
        samples=[((), counts.groups)],
    )
    for name, value, text in (
        ("read_bytes", counts.read_bytes, "Bytes read from subband files"),
        ("written_bytes", counts.written_bytes, "Bytes of bulk columns written"),
        ("groups_published", counts.published, "Groups published by this worker"),
    ):
        yield Figure(name=f"contimg_{name}_total", kind="counter", help=text, samples=[((), value)])
    yield Figure(
        name="contimg_step_failures_total",
        kind="counter",
        help="Steps that ended with an error, by reason code",
        labels=("step", "code"),
        samples=list(counts.failures.items()),
    )
    yield from _staging_figures()


def _staging_figures() -> Iterator[Figure]:
    usage = FIGURES.usage()
    for name, text in (
        ("promised", "Bytes promised to attempts in a staging tier"),
        ("used", "Bytes that attempts have written in a staging tier"),
        ("free", "Bytes that may still be promised in a staging tier"),
    ):
        yield Figure(
            name=f"contimg_staging_{name}_bytes",
            kind="gauge",
            help=text,
            labels=("tier", "root"),
            samples=[((u.name, u.root), getattr(u, f"{name}_bytes")) for u in usage],
        )


expose(worker_figures)
