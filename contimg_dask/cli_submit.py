"""The command that brings a backlog into the queue: submit. It answers at once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from contimg_dask.catalogue import leases
from contimg_dask.catalogue.jobs import add_job
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import Job
from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import JSON, product_options, settings_of
from contimg_dask.foreseeing import document_of, foresee, lines_of
from contimg_dask.job_progress import job_progress
from contimg_dask.naming import moment_to_mjd
from contimg_dask.progress import Counting, error_console
from contimg_dask.reporting import EXIT_FAILED, EXIT_NOTHING, EXIT_OK
from contimg_dask.settings import catalogue_place
from contimg_dask.submitting import Backlog, new_job
from contimg_dask.waiting import wait_for_job

_DISPATCHER = "dispatcher"


@click.command("submit")
@click.argument("input_dir", type=click.Path(path_type=Path), metavar="INPUT")
@click.argument("output_dir", type=click.Path(path_type=Path), metavar="OUTPUT")
@click.option("--start", metavar="ISO", help="First integration at or after this time (UTC).")
@click.option("--end", metavar="ISO", help="First integration before this time (UTC).")
@click.option("--expected-subbands", type=int, metavar="N", help="In a complete group [16].")
@click.option("--min-subbands", type=int, metavar="N", help="Convert from this many on [all].")
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    metavar="N",
    help="Jobs with a higher one go first [0].",
)
@click.option("--label", default="", metavar="TEXT", help="What people call it in status.")
@product_options
@click.option("--wait", is_flag=True, help="Show the job's progress until it is done.")
@click.option(
    "--dry-run", is_flag=True, help="Read headers now, and only print what would be done."
)
@JSON
def submit_command(input_dir: Path, output_dir: Path, **options: Any) -> None:
    """Queue every complete group in the directory INPUT for conversion to OUTPUT.

    Returns at once: headers are read, and groups converted, by the dispatcher.

    \b
    contimg-dask submit archive/ products/
    contimg-dask submit archive/ products/ --start 2025-10-01 --end 2025-10-08 --label week-40
    contimg-dask submit archive/ products/ --dry-run
    contimg-dask submit archive/ products/ --wait
    """  # fmt: skip
    own = {name: options.pop(name) for name in
           ("start", "end", "priority", "label", "wait", "dry_run", "as_json", "kind")}  # fmt: skip
    settings = settings_of(options)
    console = error_console()
    with refusals():
        backlog = Backlog(
            input_dir=input_dir,
            output_dir=output_dir,
            settings=settings,
            kind=own["kind"],
            start_mjd=moment_to_mjd(own["start"]),
            end_mjd=moment_to_mjd(own["end"]),
            priority=own["priority"],
            label=own["label"],
        )
        place = catalogue_place(settings)
        if own["dry_run"]:
            counting = Counting(console, "reading headers")
            with open_catalogue(place, create=False, missing_ok=True) as known:
                found = foresee(known, backlog, counting)
            if own["as_json"]:
                click.echo(json.dumps(document_of(found), indent=1))
            else:
                click.echo("\n".join(lines_of(found)))
            sys.exit(EXIT_OK if found else EXIT_NOTHING)
        new = new_job(backlog)  # refused before there is a catalogue
        with open_catalogue(place) as catalogue:
            job = add_job(catalogue, new)
            _say_submitted(catalogue, job, own["as_json"], console)
            sys.exit(_waited(catalogue, job, console) if own["wait"] else EXIT_OK)


def _say_submitted(catalogue: Catalogue, job: Job, as_json: bool, console: Any) -> None:
    lease = leases.current(catalogue, _DISPATCHER)
    working = lease is not None and lease.expires_s > time.time()
    if as_json:
        document = {
            "schema": "contimg-dask.submit/1",
            "job": job.id,
            "candidates": job.candidates,
            "catalogue": catalogue.url_shown,
            "dispatcher": lease.holder if lease is not None and working else None,
        }
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(f"job {job.id}: {job.candidates} candidate group(s) by name in {job.input_dir}")
    if not working:
        console.print(
            "no dispatcher is running on this catalogue: nothing happens until one is started "
            "with 'contimg-dask dispatch'"
        )


def _waited(catalogue: Catalogue, job: Job, console: Any) -> int:
    console.print("Ctrl-C leaves the job alone and ends this command")
    try:
        with job_progress(console) as show:
            done = wait_for_job(catalogue, job.id, show)
    except KeyboardInterrupt:
        console.print(f"job {job.id} goes on; see 'contimg-dask status {job.id}'")
        raise
    if done.broken is not None:
        console.print(f"job {job.id} cannot be read: {done.broken.text}")
        return EXIT_FAILED
    counts = ", ".join(f"{count} {state}" for state, count in sorted(done.counts.items()))
    console.print(f"job {job.id} is done: {counts or 'no group was found'}")
    if not done.counts:
        return EXIT_NOTHING
    return EXIT_OK if set(done.counts) == {"published"} else EXIT_FAILED
