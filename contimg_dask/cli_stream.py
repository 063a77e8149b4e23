"""The daemon that follows the telescope: stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import settings_of, stream_options
from contimg_dask.foreseeing import document_of, foresee, lines_of
from contimg_dask.offline import use_packaged_tables
from contimg_dask.progress import Counting, error_console
from contimg_dask.saying import LogLines
from contimg_dask.settings import Settings, catalogue_place, notify_address, watchdog_s
from contimg_dask.stopping import StopSignals, hear_libraries, write_line
from contimg_dask.stream.collecting import arriving_now
from contimg_dask.stream.notifying import Notifier, Pulse
from contimg_dask.stream.service import Streaming, backlog_of, check_input, run_stream

_OWN = ("kind", "input_dir", "output_dir")


@click.command("stream")
@click.option(
    "--input",
    "input_dir",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the telescope's files come to.",
)
@click.option(
    "--output",
    "output_dir",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where products go.",
)
@click.option("--expected-subbands", type=int, metavar="N", help="In a complete group [16].")
@click.option("--min-subbands", type=int, metavar="N", help="Convert from this many on [all].")
@click.option(
    "--collecting-timeout",
    "collecting_timeout_s",
    type=int,
    metavar="S",
    help="Wait so long for missing subbands after the last one [600].",
)
@click.option("--poll", is_flag=True, default=None, help="Look every two seconds; no events.")
@click.option("--groups-in-flight", type=int, metavar="N", help="At the same time per node [2].")
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=int,
    metavar="S",
    help="What still runs so long after SIGTERM is given back [60].",
)
@click.option(
    "--dry-run", is_flag=True, help="Only print what would be done with the files of now."
)
@stream_options
def stream_command(dry_run: bool, **options: Any) -> None:
    """Convert what the telescope writes, as it comes, until stopped.

    Groups are queued the moment their last subband is finished, go before every backlog, and are
    converted here unless another dispatcher works on the catalogue. SIGTERM or Ctrl-C: groups that
    run are finished; a second one gives them back at once.

    \b
    contimg-dask stream --input /data/incoming --output /data/products
    contimg-dask stream --input incoming --output products --min-subbands 12 --collecting-timeout 300
    contimg-dask stream --input /nfs/incoming --output products --poll --log-format json
    contimg-dask stream --input /data/incoming --output /data/products --dry-run
    """  # fmt: skip
    own = {name: options.pop(name) for name in _OWN}
    settings = settings_of(options)
    if dry_run:
        _say_foreseen(Streaming(**own), settings)
        return
    say = LogLines(settings.log_format, write_line)
    hear_libraries(say)
    use_packaged_tables()
    stop = StopSignals()
    streaming = Streaming(**own)
    with refusals():
        check_input(streaming)  # refused before there is a catalogue
        with open_catalogue(catalogue_place(settings)) as catalogue:
            run_stream(
                catalogue,
                settings,
                streaming,
                stop_asked=lambda: stop.count,
                notifier_of=_notifier,
                on_line=say,
            )


def _say_foreseen(streaming: Streaming, settings: Settings) -> None:
    use_packaged_tables()
    counting = Counting(error_console(), "reading headers")
    with (
        refusals(),
        open_catalogue(catalogue_place(settings), create=False, missing_ok=True) as known,
    ):
        found = foresee(known, backlog_of(streaming, settings), counting, arriving_now)
    if settings.log_format == "json":
        click.echo(json.dumps(document_of(found)))
    else:
        click.echo("\n".join(lines_of(found)))


def _notifier(pulse: Pulse, status: Callable[[], str]) -> Notifier:
    return Notifier(notify_address(), watchdog_s(), pulse, status)
