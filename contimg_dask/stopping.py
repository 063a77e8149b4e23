"""What services do at their edges: count requests to stop, print lines."""

from __future__ import annotations

import signal

import click


def write_line(line: str) -> None:
    """Print a line of a log."""
    click.echo(line, err=True)


class StopSignals:
    """Counts SIGTERM and SIGINT, and interrupts nothing."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, *_: object) -> None:
        self.count += 1
