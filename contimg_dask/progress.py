"""Show a conversion while it runs, on standard error: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TaskID as BarId
from rich.table import Table

from contimg_dask.model import ConversionPlan, GroupRecord

_SILENT_S = 2.0
_STYLES = {
    "published": "green",
    "skipped": "cyan",
    "planned": "cyan",
    "incomplete": "yellow",
    "failed": "bold red",
}


def error_console() -> Console:
    """Return a console on standard error that leaves brackets and numbers as they are."""
    return Console(file=sys.stderr, highlight=False, markup=False, soft_wrap=True)


class Bars:
    """A bar per group in flight and one over all of them."""

    def __init__(
        self, progress: Progress, plans: Sequence[ConversionPlan], check: Callable[[], None]
    ) -> None:
        self._progress = progress
        self._check = check
        self._overall = progress.add_task("all groups", total=len(plans))
        self._bars: dict[str, BarId] = {}

    def group_started(self, plan: ConversionPlan) -> None:
        """Begin the group's bar, or begin it again for another attempt."""
        self._check()
        steps = len(plan.subbands) + 3 if plan.parallel else 1
        if plan.group_id in self._bars:
            self._progress.reset(self._bars[plan.group_id], total=steps)
        else:
            self._bars[plan.group_id] = self._progress.add_task(plan.group_id, total=steps)

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        """Move the group's bar on."""
        del name
        self._check()
        self._progress.advance(self._bars[plan.group_id])

    def group_done(self, plan: ConversionPlan) -> None:
        """Take the group's bar away and move the overall one on."""
        if plan.group_id in self._bars:
            self._progress.remove_task(self._bars.pop(plan.group_id))
        self._progress.advance(self._overall)


@contextmanager
def bars(
    console: Console,
    plans: Sequence[ConversionPlan],
    dashboard: str | None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Bars]:
    """Show bars while groups are converted; without a terminal only the closing table follows.

    ``check`` is called at every event, and may raise to stop everything.
    """
    if dashboard is not None:
        console.print(f"Dask dashboard: {dashboard}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    terminal = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not terminal) as progress:
        yield Bars(progress, plans, check)


class Counting:
    """Says how far a long loop is, once it has taken more than two seconds."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._last_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Print a line every two seconds, and nothing for what is quick."""
        if time.monotonic() - self._last_s >= _SILENT_S:
            self._last_s = time.monotonic()
            self._console.print(f"{self._what}: {done} of {total}")


def say_record(console: Console) -> Callable[[GroupRecord], None]:
    """Return what prints a line per group as it ends, for logs."""

    def say(record: GroupRecord) -> None:
        text = f"{record.outcome} {record.id}"
        if record.path is not None:
            text += f"  {record.path}"
        if "total" in record.seconds:
            text += f"  {record.seconds['total']:.2f} s"
        console.print(text)

    return say


def closing_table(console: Console, records: Sequence[GroupRecord]) -> None:
    """Print what came of every group, and below it each reason in full."""
    if not records:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("group", "outcome", "subbands", "in", "out", "seconds"):
        table.add_column(name, justify="left" if name in ("group", "outcome") else "right")
    for record in records:
        total = len(record.present) + len(record.missing)
        table.add_row(
            record.id,
            f"{record.outcome}",
            f"{len(record.present)}/{total}",
            _size(record.bytes_in),
            _size(record.bytes_out),
            f"{record.seconds['total']:.2f}" if "total" in record.seconds else "",
            style=_STYLES[record.outcome] if record.outcome == "failed" else None,
        )
    console.print(table)
    for record in records:
        _say_details(console, record)


def _say_details(console: Console, record: GroupRecord) -> None:
    if record.outcome == "planned":
        console.print(f"planned {record.id} {record.path} ({record.mode}, tier {record.tier})")
    if record.outcome == "published" and record.tier != record.tier_proposed:
        console.print(f"note {record.id} staged in tier {record.tier}: {record.tier_reason}")
    if record.reason is not None:
        console.print(f"{record.outcome} {record.id} [{record.reason.code}] {record.reason.text}")
    for file in record.unreadable:
        if record.reason is None or file.reason.text not in record.reason.text:
            console.print(f"unreadable {record.id} [{file.reason.code}] {file.reason.text}")
    for note in record.notes:
        console.print(f"note {record.id} {note}")


def _size(size_bytes: int) -> str:
    return "" if size_bytes == 0 else f"{size_bytes / 1e6:,.1f} MB"
