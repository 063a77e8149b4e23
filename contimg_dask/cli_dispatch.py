"""The command that works on the queue: dispatch."""

from __future__ import annotations

from typing import Any

import click

from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import dispatcher_options, settings_of
from contimg_dask.dispatching.service import run_dispatcher
from contimg_dask.offline import use_packaged_tables
from contimg_dask.saying import LogLines
from contimg_dask.settings import catalogue_place
from contimg_dask.stopping import StopSignals, hear_libraries, write_line


@click.command("dispatch")
@click.option("--groups-in-flight", type=int, metavar="N", help="At the same time per node [2].")
@click.option(
    "--stop-timeout",
    "--stop-timeout-s",
    "stop_timeout_s",
    type=int,
    metavar="S",
    help="What still runs so long after SIGTERM is given back [60].",
)
@dispatcher_options
def dispatch_command(**options: Any) -> None:
    """Convert what is queued, until stopped; one dispatcher per catalogue.

    SIGTERM or Ctrl-C: groups that run are finished; a second one gives them back at once.

    \b
    contimg-dask dispatch
    contimg-dask dispatch --scheduler tcp://10.0.0.1:8786 --catalogue /var/lib/contimg/catalogue.sqlite
    """  # fmt: skip
    settings = settings_of(options)
    say = LogLines(settings.log_format, write_line)
    hear_libraries(say)
    use_packaged_tables()
    stop = StopSignals()
    with refusals(), open_catalogue(catalogue_place(settings)) as catalogue:
        run_dispatcher(
            catalogue,
            settings,
            stop_asked=lambda: stop.count,
            stop_timeout_s=settings.stop_timeout_s,
            on_line=say,
        )
