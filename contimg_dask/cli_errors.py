"""How every command refuses: one line on standard error, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from contimg_dask.errors import ContimgError, UsageError
from contimg_dask.reporting import EXIT_FAILED, EXIT_USAGE


def refuse(error: ContimgError) -> NoReturn:
    """Print an error in one line and exit with 2 for wrong use, else 1."""
    click.echo(f"contimg-dask: {error}", err=True)
    sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn errors of the block into one line and an exit code."""
    try:
        yield
    except ContimgError as error:
        refuse(error)
