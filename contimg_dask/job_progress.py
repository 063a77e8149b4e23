"""Show a job's progress on standard error: a line that changes on a terminal, else one now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contimg_dask.catalogue.records import Job
from contimg_dask.lifecycle import State

_LINE_EVERY_S = 10.0
_OPEN = ("collecting", "queued", "running")


class JobProgress:
    """Shows how far a job is; called with the job and its groups by state."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._reading = progress.add_task("reading headers", total=None)
        self._groups = progress.add_task("groups", total=None, visible=False)
        self._said: tuple[str, float] = ("", 0.0)

    def __call__(self, job: Job, counts: dict[State, int]) -> None:
        """Bring what is shown up to date."""
        done = sum(count for state, count in counts.items() if state not in _OPEN)
        total = sum(counts.values())
        self._progress.update(
            self._reading,
            total=job.files or None,
            completed=job.files_read,
            visible=job.state != "read",
        )
        self._progress.update(self._groups, total=total, completed=done, visible=total > 0)
        if self._console.is_terminal:
            return
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        line = f"job {job.id}: {job.files_read} of {job.files} headers read; {states or 'no group yet'}"
        said, when_s = self._said
        if line != said and time.monotonic() - when_s >= _LINE_EVERY_S:
            self._console.print(line)
            self._said = (line, time.monotonic())


@contextmanager
def job_progress(console: Console) -> Iterator[JobProgress]:
    """Show progress while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    terminal = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not terminal) as progress:
        yield JobProgress(console, progress)
