"""Endpoints that change something: each needs the token, and calls what the commands call."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

from fastapi import APIRouter, Request

from contimg_dask import steering
from contimg_dask.api import asked
from contimg_dask.api.answers import (
    Draining,
    LogLevelNow,
    Paused,
    Problem,
    Queued,
    Submitted,
)
from contimg_dask.api.context import Here, HereWithToken
from contimg_dask.api.reading import PROBLEMS
from contimg_dask.catalogue import leases
from contimg_dask.catalogue.jobs import add_job
from contimg_dask.errors import UsageError
from contimg_dask.log_levels import logged_from
from contimg_dask.naming import moment_to_mjd
from contimg_dask.settings import Settings, check_value
from contimg_dask.status import DISPATCHER
from contimg_dask.submitting import NOT_OF_A_JOB, Backlog, new_job

router = APIRouter(
    prefix="/api/v1",
    responses=PROBLEMS | {status: {"model": Problem} for status in (401, 403, 408, 413)},
)

_PLACES = frozenset({"tmpfs_path", "scratch_dir"})


@router.post("/jobs", status_code=201)
def submit(context: HereWithToken, request: Request, body: asked.NewJobBody) -> Submitted:
    """Queue a backlog below the configured roots, as 'contimg-dask submit' does."""
    new = new_job(
        Backlog(
            input_dir=context.roots.input_dir(body.input_dir),
            output_dir=context.roots.output_dir(body.output_dir),
            settings=_settings(context.settings, body.options),
            kind=body.kind,
            start_mjd=moment_to_mjd(body.start),
            end_mjd=moment_to_mjd(body.end),
            priority=body.priority,
            label=body.label,
        )
    )
    job = add_job(context.catalogue, replace(new, submitted_by=_who(request)))
    context.changed()
    lease = leases.current(context.catalogue, DISPATCHER)
    there = lease is not None and lease.expires_s > time.time()
    return Submitted(
        job=job.id,
        candidates=job.candidates,
        dispatcher=lease.holder if lease is not None and there else None,
    )


def _settings(own: Settings, options: dict[str, object]) -> Settings:
    """Return the settings of a job: those of this process, changed as asked.

    Raises
    ------
    UsageError
        One is none, is not a job's, names a directory, or does not take its value.
    """
    for name in options:
        if name in NOT_OF_A_JOB or name in _PLACES:
            raise UsageError(f"options: {name[:64]!r} cannot be chosen here")
    checked = {name: check_value(name, value, "options") for name, value in options.items()}
    changed = replace(own, **checked)  # type: ignore[arg-type]  # they were checked just now
    if changed.min_subbands is not None and changed.min_subbands > changed.expected_subbands:
        raise UsageError(
            f"options: min_subbands is {changed.min_subbands}, more than expected_subbands, "
            f"{changed.expected_subbands}"
        )
    return changed


@router.delete("/jobs/{job}")
def cancel_job(context: HereWithToken, job: asked.Number) -> steering.Cancelled:
    """Cancel a job; groups that another job wants go on."""
    done = steering.cancel_job(context.catalogue, job)
    context.changed()
    return done


@router.post("/groups/{key}/cancel")
def cancel_group(context: HereWithToken, key: asked.Number) -> steering.Cancelled:
    """Cancel a group, whichever jobs want it."""
    done = steering.cancel_group(context.catalogue, str(key))
    context.changed()
    return done


@router.post("/retry")
def retry(context: HereWithToken, body: asked.RetryBody) -> Queued:
    """Queue groups again as if nothing had been tried."""
    count = steering.retry(
        context.catalogue,
        body.groups,
        everything=body.all,
        states=tuple(body.states),
        reason=body.reason,
    )
    context.changed()
    return Queued(queued=count)


@router.post("/pause")
def pause(context: HereWithToken, request: Request, body: asked.PauseBody) -> Paused:
    """Begin no more groups; what runs is finished."""
    leases.set_paused(context.catalogue, by=_who(request), reason=body.reason)
    context.changed()
    return Paused(paused=True)


@router.post("/resume")
def resume(context: HereWithToken) -> Paused:
    """Go on after a pause."""
    leases.set_resumed(context.catalogue)
    context.changed()
    return Paused(paused=False)


@router.post("/nodes/{node}/drain")
def drain(context: HereWithToken, node: asked.NodeName) -> Draining:
    """Begin no more groups on a node; what runs there is finished."""
    steering.set_draining(context.catalogue, node, True)
    context.changed()
    return Draining(node=node, draining=True)


@router.post("/nodes/{node}/undrain")
def undrain(context: HereWithToken, node: asked.NodeName) -> Draining:
    """Use a node again."""
    steering.set_draining(context.catalogue, node, False)
    context.changed()
    return Draining(node=node, draining=False)


@router.get("/log-level")
def log_level(context: Here) -> LogLevelNow:
    """From which level on services log."""
    return LogLevelNow(level=leases.log_level(context.catalogue))


@router.put("/log-level")
def set_log_level(
    context: HereWithToken, request: Request, body: asked.LogLevelBody
) -> LogLevelNow:
    """Have whoever dispatches, and the web interface, log from this level on."""
    now = leases.log_level(context.catalogue)
    leases.set_log_level(context.catalogue, body.level, by=_who(request))
    logged_from(body.level, now)
    return LogLevelNow(level=body.level)


def _who(request: Request) -> str:
    client = request.client.host if request.client else "?"
    return f"web interface on {socket.gethostname()}, from {client}"
