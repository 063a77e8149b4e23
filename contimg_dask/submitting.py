"""Submit a backlog: a job in the catalogue, and how many candidates its directory holds by name.

No header is read here: the dispatcher does that in the background.
"""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from contimg_dask.catalogue import jobs
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Job, NewJob
from contimg_dask.discovery import clusters_by_name, list_files
from contimg_dask.errors import UsageError
from contimg_dask.model import Kind
from contimg_dask.planning import options_of
from contimg_dask.settings import Settings

NOT_OF_A_JOB = frozenset(
    {
        "workers",
        "scheduler",
        "worker_memory_limit",
        "dashboard_address",
        "tls_ca_file",
        "tls_cert_file",
        "tls_key_file",
        "allow_plain_tcp",
        "groups_in_flight",
        "on_published",
        "on_published_timeout_s",
        "event_log",
        "catalogue",
        "retry_delay_s",
        "stop_timeout_s",
        "dispatcher_lease_s",
        "api_host",
        "api_port",
        "api_names",
        "api_token_file",
        "input_roots",
        "output_roots",
        "collecting_timeout_s",
        "settle_s",
        "rescan_s",
        "poll",
        "live_within_s",
        "keep_events_days",
        "log_format",
    }
)
"""Settings of a process, not of a job; all others go with the job that was submitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is to be converted: groups of a directory whose first integration lies in [start, end).

    Times are MJD UTC [d].
    """

    input_dir: Path
    output_dir: Path
    settings: Settings
    kind: Kind = "science"
    start_mjd: float | None = None
    end_mjd: float | None = None
    priority: int = 0
    label: str = ""


def submit(catalogue: Catalogue, backlog: Backlog) -> Job:
    """Record a job, and return it with its number of candidates by name.

    Raises
    ------
    UsageError
        The directory cannot be listed, or the time range is empty.
    CatalogueError
        The catalogue cannot be written; nothing was submitted.
    """
    return jobs.add_job(catalogue, new_job(backlog))


def new_job(backlog: Backlog) -> NewJob:
    """Return a backlog as the job it becomes, with its number of candidates by name.

    Files that lie on the nodes are seen by the nodes alone, and not counted here.

    Raises
    ------
    UsageError
        The directory cannot be listed, or the time range is empty.
    """
    check_range(backlog)
    if backlog.settings.placement == "subband":
        return job_of(backlog, 0)
    listed = list_files(backlog.input_dir, backlog.start_mjd, backlog.end_mjd)
    return job_of(backlog, len(clusters_by_name(listed)))


def job_of_stream(backlog: Backlog) -> NewJob:
    """Return the job that the groups of a stream belong to: from its input to its output."""
    return replace(job_of(backlog, 0), live=True)


def job_of(backlog: Backlog, candidates: int) -> NewJob:
    """Return a backlog as the job it becomes."""
    settings = backlog.settings
    return NewJob(
        label=backlog.label,
        input_dir=str(backlog.input_dir.absolute()),
        output_dir=str(backlog.output_dir.absolute()),
        start_mjd=backlog.start_mjd,
        end_mjd=backlog.end_mjd,
        kind=backlog.kind,
        expected_subbands=settings.expected_subbands,
        min_subbands=settings.min_subbands,
        priority=backlog.priority,
        live=False,
        settings=job_settings(settings),
        options_hash=options_of(settings).digest,
        candidates=candidates,
        submitted_by=_submitter(),
    )


def job_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that go with a job, as plain JSON types."""
    return {name: value for name, value in asdict(settings).items() if name not in NOT_OF_A_JOB}


def _submitter() -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def check_range(backlog: Backlog) -> None:
    """Refuse an empty time range.

    Raises
    ------
    UsageError
        The start is not before the end.
    """
    start, end = backlog.start_mjd, backlog.end_mjd
    if start is not None and end is not None and start >= end:
        raise UsageError("the start of the time range is not before its end: nothing lies between")
