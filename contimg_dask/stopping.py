"""What services do at their edges: count requests to stop, print lines."""

from __future__ import annotations

import logging
import signal

import click

from contimg_dask.saying import Say


def write_line(line: str) -> None:
    """Print a line of a log."""
    click.echo(line, err=True)


def hear_libraries(say: Say) -> None:
    """Have what libraries warn of become lines of ours."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Heard(say)], force=True)


class _Heard(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(
            record.getMessage(), action="log", logger=record.name, level=record.levelname.lower()
        )


class StopSignals:
    """Counts SIGTERM and SIGINT, and interrupts nothing."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, *_: object) -> None:
        self.count += 1
