"""Commands that list groups and steer the queue: retry, cancel, pause, resume, drain, undrain."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from contimg_dask.catalogue import groups, jobs, leases
from contimg_dask.catalogue.identity import number_in
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import GroupRow
from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import CATALOGUE, CONFIG, JSON, NUMBER, required, settings_of, shared
from contimg_dask.lifecycle import STATES, State
from contimg_dask.reporting import EXIT_NOTHING
from contimg_dask.settings import catalogue_place
from contimg_dask.steering import cancel_group, cancel_job, retry, set_draining

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say how many groups that are.")
_CATALOGUE_OPTIONS = (CATALOGUE, CONFIG, JSON)


@contextmanager
def opened(options: dict[str, Any]) -> Iterator[Catalogue]:
    """Open the catalogue of a command that has nothing to do where there is none."""
    with refusals():
        place = catalogue_place(settings_of(options))
        with open_catalogue(place, create=False, missing_ok=True) as found:
            yield required(found, place)


@click.command("groups")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="May be repeated."
)
@click.option("--job", type=NUMBER, metavar="ID", help="Only groups this job has brought.")
@click.option("--reason", metavar="CODE", help="Only groups with this reason code.")
@click.option("--limit", type=NUMBER, metavar="N", help="At most so many [all].")
@shared(_CATALOGUE_OPTIONS)
def groups_command(
    states: tuple[State, ...],
    job: int | None,
    reason: str | None,
    limit: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """List groups in order of time, with what became of them and why.

    \b
    contimg-dask groups --state failed --state quarantined
    contimg-dask groups --job 3 --json | jq '.groups[] | select(.attempts > 1)'
    """  # fmt: skip
    with opened(options) as catalogue:
        if job is not None:
            jobs.get_job(catalogue, job)
        rows = groups.list_groups(
            catalogue, states=states or None, job=job, reason=reason, limit=limit
        )
    if as_json:
        document = {"schema": "contimg-dask.groups/1", "groups": [row.to_json() for row in rows]}
        click.echo(json.dumps(document, indent=1))
        return
    for row in rows:
        click.echo(group_line(row))
    click.echo(f"{len(rows)} group(s)", err=True)


def group_line(row: GroupRow) -> str:
    """Return a group as lists show it to people."""
    text = f"{row.key:>6}  {row.id}  {row.state:11}  {row.present}/{row.expected}"
    if row.attempts:
        text += f"  attempts {row.attempts}"
    if row.state == "running":
        return f"{text}  on {row.node} since {clock(row.state_since_s)}"
    if row.path is not None:
        return f"{text}  {row.path}"
    return text if row.reason is None else f"{text}  [{row.reason.code}] {row.reason.text}"


def clock(moment_s: float) -> str:
    """Return a moment as people read it, UTC."""
    return datetime.fromtimestamp(moment_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _answer(as_json: bool, text: str, **facts: Any) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "contimg-dask.steer/1", **facts}, indent=1))
    else:
        click.echo(text)


@click.command("retry")
@click.argument("names", nargs=-1, metavar="[GROUP]…")
@click.option("--all", "everything", is_flag=True, help="All failed and quarantined groups.")
@click.option(
    "--state",
    "states",
    multiple=True,
    help="With --all: only these states.",
    type=click.Choice(["failed", "quarantined", "cancelled", "removed"]),
)
@click.option("--reason", metavar="CODE", help="With --all: only those with this reason code.")
@_DRY_RUN
@shared(_CATALOGUE_OPTIONS)
def retry_command(
    names: tuple[str, ...],
    everything: bool,
    states: tuple[State, ...],
    reason: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Queue groups again that failed, used up their attempts, were cancelled or moved away.

    GROUP is an id or a number from 'contimg-dask groups'.

    \b
    contimg-dask retry 2025-10-05T03:12:06
    contimg-dask retry --all
    contimg-dask retry --all --reason no-space --dry-run
    contimg-dask retry --all --state removed
    """  # fmt: skip
    with opened(options) as catalogue:
        count = retry(
            catalogue, names, everything=everything, states=states, reason=reason, dry_run=dry_run
        )
    would = "would be " if dry_run else ""
    _answer(as_json, f"{count} group(s) {would}queued again", queued=count, dry_run=dry_run)
    sys.exit(EXIT_NOTHING if count == 0 else 0)


@click.command("cancel")
@click.argument("what", metavar="JOB|GROUP")
@click.option(
    "--group", "is_group", is_flag=True, help="A number is that of a group, not of a job."
)
@_DRY_RUN
@shared(_CATALOGUE_OPTIONS)
def cancel_command(what: str, is_group: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Cancel a job, or a group. What runs is stopped within seconds; products stay.

    JOB is a number as submit printed it; GROUP an id, or with --group its number. Groups of a job
    that another job wants as well go on.

    \b
    contimg-dask cancel 3 --dry-run
    contimg-dask cancel 3
    contimg-dask cancel 2025-10-05T03:12:06
    contimg-dask cancel --group 1207
    """  # fmt: skip
    with opened(options) as catalogue:
        if (job := number_in(what)) is not None and not is_group:
            done = cancel_job(catalogue, job, dry_run=dry_run)
        else:
            done = cancel_group(catalogue, what, dry_run=dry_run)
    text = f"{done.cancelled} group(s) cancelled, {done.requested} being stopped"
    if dry_run:
        text = f"{done.cancelled} group(s) would be cancelled, {done.requested} stopped"
    _answer(as_json, text, cancelled=done.cancelled, requested=done.requested, dry_run=dry_run)


@click.command("pause")
@click.option("--reason", default="", metavar="TEXT", help="Shown in status.")
@shared(_CATALOGUE_OPTIONS)
def pause_command(reason: str, as_json: bool, **options: Any) -> None:
    """Begin no more groups, until resumed; what runs is finished.

    \b
    contimg-dask pause --reason 'disk is being exchanged'
    """  # fmt: skip
    with opened(options) as catalogue:
        leases.set_paused(catalogue, by=_person(), reason=reason)
    _answer(as_json, "paused", paused=True)


@click.command("resume")
@shared(_CATALOGUE_OPTIONS)
def resume_command(as_json: bool, **options: Any) -> None:
    """Go on after a pause."""
    with opened(options) as catalogue:
        leases.set_resumed(catalogue)
    _answer(as_json, "resumed", paused=False)


@click.command("drain")
@click.argument("node", metavar="NODE")
@shared(_CATALOGUE_OPTIONS)
def drain_command(node: str, as_json: bool, **options: Any) -> None:
    """Begin no more groups on a node, by its IP address; what runs there is finished."""
    _set_draining(node, True, as_json, options)


@click.command("undrain")
@click.argument("node", metavar="NODE")
@shared(_CATALOGUE_OPTIONS)
def undrain_command(node: str, as_json: bool, **options: Any) -> None:
    """Use a node again."""
    _set_draining(node, False, as_json, options)


def _set_draining(node: str, draining: bool, as_json: bool, options: dict[str, Any]) -> None:
    with opened(options) as catalogue:
        set_draining(catalogue, node, draining)
    _answer(
        as_json, f"{node} is {'draining' if draining else 'active'}", node=node, draining=draining
    )


def _person() -> str:
    return f"user {os.getuid()} on {socket.gethostname()}"
