"""A job's settings, as they were when it was submitted, turned into what the recipe takes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from contimg_dask.catalogue.records import Job
from contimg_dask.deciding import Request
from contimg_dask.errors import UsageError
from contimg_dask.settings import Settings

_KNOWN = {field.name for field in fields(Settings)}


def request_of(job: Job) -> Request:
    """Return what to do with a job's groups.

    Raises
    ------
    UsageError
        The job was submitted by a version with other settings.
    """
    if unknown := sorted(set(job.settings) - _KNOWN):
        raise UsageError(
            f"job {job.id} was submitted with settings this version does not know "
            f"({', '.join(unknown)}): submit it again"
        )
    return Request(
        output_dir=Path(job.output_dir),
        settings=Settings(**job.settings),
        kind=job.kind,
        min_subbands=job.min_subbands,
    )
