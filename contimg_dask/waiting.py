"""Follow a job in the catalogue until it is done, without having any part in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from contimg_dask.catalogue import jobs
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Job
from contimg_dask.lifecycle import State
from contimg_dask.model import Reason

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """What came of a job: its groups by state; ``broken`` when it could not be read."""

    counts: dict[State, int]
    broken: Reason | None = None


def wait_for_job(
    catalogue: Catalogue, job_id: int, show: Callable[[Job, dict[State, int]], None]
) -> JobEnd:
    """Return when a job is done, broken or cancelled.

    Parameters
    ----------
    catalogue, job_id
        Whose job.
    show
        Called twice a second with the job and its groups by state.

    Raises
    ------
    CatalogueError
        The catalogue cannot be read; the job is not touched by that.
    """
    while True:
        job = jobs.get_job(catalogue, job_id)
        # Asked before the groups are counted: what is counted of a job that is done is its end.
        done = jobs.is_job_done(catalogue, job_id)
        counts = jobs.job_counts(catalogue, job_id)
        show(job, counts)
        if job.state == "broken":
            return JobEnd(counts=counts, broken=job.reason)
        # A cancelled job may still have groups that run.
        if done or (job.state == "cancelled" and not counts.get("running")):
            return JobEnd(counts=counts)
        time.sleep(_LOOK_EVERY_S)
