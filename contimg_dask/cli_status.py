"""The command people look at: status."""

from __future__ import annotations

import json
import time
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from contimg_dask.catalogue import jobs
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.cli_options import CATALOGUE, CONFIG, JSON, NUMBER, shared
from contimg_dask.cli_queue import opened
from contimg_dask.status import lines, look

_LOUD = ("NO DISPATCHER", "PAUSED", "quarantined", "failed ")


@click.command("status")
@click.argument("job", type=NUMBER, required=False, metavar="[JOB]")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@shared(CATALOGUE, CONFIG, JSON)
def status_command(job: int | None, watch: bool, as_json: bool, **options: Any) -> None:
    """Say how the queue does: counts, rate, time left, what runs where, failures with reasons.

    With --watch and --json together, one line of JSON every two seconds.

    \b
    contimg-dask status
    contimg-dask status 3 --watch
    contimg-dask status --json | jq .counts
    """  # fmt: skip
    with opened(options) as catalogue:
        if job is not None:
            jobs.get_job(catalogue, job)
        if not watch:
            _say(catalogue, job, as_json)
        elif as_json:
            while True:
                click.echo(json.dumps(look(catalogue, job).to_json()))
                time.sleep(2.0)
        else:
            _watch(catalogue, job)


def _say(catalogue: Catalogue, job: int | None, as_json: bool) -> None:
    status = look(catalogue, job)
    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
        return
    for line in lines(status):
        click.secho(line, fg="red" if line.startswith(_LOUD) else None)


def _watch(catalogue: Catalogue, job: int | None) -> None:
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            screen = Text()
            for line in lines(look(catalogue, job)):
                screen.append(f"{line}\n", style="red" if line.startswith(_LOUD) else "")
            live.update(screen, refresh=True)
            time.sleep(2.0)
