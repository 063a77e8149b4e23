"""Bring the groups of submitted jobs into the queue: headers are read here, in the background.

A job is read in order of its file names, so of time, and its first groups are queued while the
last ones are still to be read. Reading a job again is harmless: headers are remembered, and groups
that are known stay what they are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from contimg_dask.catalogue import files as subband_files
from contimg_dask.catalogue import jobs, nodes
from contimg_dask.catalogue.arriving import arrive
from contimg_dask.catalogue.opening import Catalogue, CatalogueError
from contimg_dask.catalogue.records import Arrived, Arriving, Job
from contimg_dask.deciding import Request, record_of
from contimg_dask.discovery import (
    Discovered,
    Listed,
    clusters_by_name,
    list_files,
    read_file,
    starts_within,
)
from contimg_dask.dispatching.requests import request_of
from contimg_dask.errors import ClusterError, ContimgError
from contimg_dask.grouping import group_files
from contimg_dask.model import Group, GroupRecord, Reason, SubbandHeader, UnreadableFile
from contimg_dask.planning import is_convertible
from contimg_dask.recording import keep_record
from contimg_dask.saying import Say

_BATCH_FILES = 512
"""About so many headers are read, and their groups queued, at a time."""
_LOOK_EVERY_S = 1.0

Stat = tuple[int, int]
DiscoverOnNodes = Callable[[str, float | None, float | None], list[Discovered] | None]


class JobReader:
    """A thread that reads every job that waits for it, one after the other, until it is stopped.

    Parameters
    ----------
    catalogue
        Where jobs are found and groups are put.
    on_line
        Is told of jobs that were read, and of what goes wrong.
    on_failed
        Is told of groups that failed with their arrival.
    discover
        Asks the nodes which files they have recorded themselves (`Connection.discover`).
    """

    def __init__(
        self,
        catalogue: Catalogue,
        on_line: Say,
        on_failed: Callable[[GroupRecord], None],
        discover: DiscoverOnNodes,
    ) -> None:
        self._discover = discover
        self._catalogue = catalogue
        self._on_line = on_line
        self._on_failed = on_failed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="job-reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch that is being read; what is left is read by the next dispatcher."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether it runs, or has not begun, or was stopped: it has no reason to end by itself."""
        return self._thread.is_alive() or self._thread.ident is None or self._stopped.is_set()

    def _work(self) -> None:
        said = ""
        while not self._stopped.wait(_LOOK_EVERY_S):
            try:
                for job in jobs.jobs_to_read(self._catalogue):
                    self._read(job)
                said = ""
            except (CatalogueError, ClusterError) as error:
                if str(error) != said:
                    said = str(error)
                    self._on_line(f"reading jobs: {said}; trying again", action="reading-failed")

    def _read(self, job: Job) -> None:
        try:
            if request_of(job).settings.placement == "subband":
                found = read_spread_job(self._catalogue, job, self._discover, self._on_failed)
            else:
                found = read_job(self._catalogue, job, self._stopped.is_set, self._on_failed)
        except (CatalogueError, ClusterError):
            raise
        except ContimgError as error:
            jobs.set_broken(self._catalogue, job.id, Reason(code=error.code, text=str(error)))
            self._on_line(f"job {job.id} cannot be read: {error}", action="job-broken", job=job.id)
            return
        if found is not None:
            self._on_line(
                f"job {job.id} is read: {found} group(s) in {job.input_dir}",
                action="job-read",
                job=job.id,
                groups=found,
            )


def read_job(
    catalogue: Catalogue,
    job: Job,
    stopped: Callable[[], bool] = lambda: False,
    on_failed: Callable[[GroupRecord], None] = lambda record: None,
) -> int | None:
    """Read the headers of a job's files and queue its groups; return how many groups there were.

    None when it was stopped, or cancelled, before the end. Safe to do twice.

    Raises
    ------
    UsageError
        The input directory cannot be listed, or the job's settings are not understood.
    CatalogueError
        The catalogue cannot be used.
    """
    request = request_of(job)
    listed = list_files(Path(job.input_dir), job.start_mjd, job.end_mjd)
    jobs.set_reading(catalogue, job.id, len(listed))
    done = found = 0
    for batch in _batches(clusters_by_name(listed)):
        if stopped() or jobs.get_job(catalogue, job.id).state == "cancelled":
            return None
        arrivals = [
            arriving(group, request)
            for group in group_files(*_headers(catalogue, batch), job.expected_subbands)
            if starts_within(group, job.start_mjd, job.end_mjd)
        ]
        for record in _failures(arrive(catalogue, job, arrivals), arrivals, request):
            on_failed(record)
        found += len(arrivals)
        done += len(batch)
        jobs.progress(catalogue, job.id, done)
    jobs.set_read(catalogue, job.id)
    return found


def read_spread_job(
    catalogue: Catalogue,
    job: Job,
    discover: DiscoverOnNodes,
    on_failed: Callable[[GroupRecord], None] = lambda record: None,
) -> int | None:
    """Queue the groups of a job whose files lie on the nodes; return how many there were.

    None while there is no cluster to ask, or a node that was seen before is gone: that one may have
    files, and is waited for as long as groups wait for it. Safe to do twice.

    Raises
    ------
    ClusterError, UsageError
        As `Connection.discover`.
    CatalogueError
        The catalogue cannot be used.
    """
    request = request_of(job)
    known = {row.name for row in nodes.list_nodes(catalogue) if row.state == "active"}
    found = discover(job.input_dir, job.start_mjd, job.end_mjd)
    if found is None:
        return None
    headers = [header for one in found for header in one.headers]
    unreadable = [file for one in found for file in one.unreadable]
    away = sorted(known - {one.node for one in found})
    waited_s = time.time() - job.submitted_s
    if away and waited_s < request.settings.node_wait_s:
        return None
    jobs.set_reading(catalogue, job.id, len(headers) + len(unreadable))
    arrivals = [
        arriving(group, request, away)
        for group in group_files(headers, unreadable, job.expected_subbands)
        if starts_within(group, job.start_mjd, job.end_mjd)
    ]
    for record in _failures(arrive(catalogue, job, arrivals), arrivals, request):
        on_failed(record)
    jobs.progress(catalogue, job.id, len(headers) + len(unreadable))
    jobs.set_read(catalogue, job.id)
    return len(arrivals)


def _batches(clusters: Iterable[list[Listed]]) -> Iterator[list[Listed]]:
    """Put whole clusters together, so that no group is cut."""
    batch: list[Listed] = []
    for cluster in clusters:
        batch += cluster
        if len(batch) >= _BATCH_FILES:
            yield batch
            batch = []
    if batch:
        yield batch


def _headers(
    catalogue: Catalogue, batch: Sequence[Listed]
) -> tuple[list[SubbandHeader], list[UnreadableFile]]:
    """Return the headers of these files, from memory where they have not changed since."""
    stats = {file.path: stat for file in batch if (stat := _stat(file.path)) is not None}
    known = subband_files.recall(catalogue, stats)
    new = [read_file(file) for file in batch if file.path in stats and file.path not in known]
    subband_files.remember(catalogue, new, stats)
    found = [*known.values(), *new]
    return (
        [one for one in found if isinstance(one, SubbandHeader)],
        [one for one in found if isinstance(one, UnreadableFile)],
    )


def _stat(path: str) -> Stat | None:
    try:
        found = os.stat(path)
    except OSError:
        return None  # moved away since it was listed
    return found.st_size, found.st_mtime_ns


def arriving(group: Group, request: Request, away: Sequence[str] = ()) -> Arriving:
    """Return a group as it enters the queue: whole, or with the reason why it cannot be converted.

    Of an incomplete one it is said which nodes, by IP, may have the rest of it and are ``away``.
    """
    note: tuple[str, ...] = ()
    if away and group.missing:
        note = (f"node {', '.join(away)} was away when the job was read: its files are not known",)
    minimum = request.min_subbands or group.expected
    fault = is_convertible(group, minimum, request.settings.spw)
    if fault is not None and fault.code == "missing-subbands":
        text = "; ".join((fault.text, *note, "submit again when they have come"))
        fault = replace(fault, text=text)
    group = replace(group, notes=(*group.notes, *note))
    return Arriving(group=group, whole=fault is None, fault=fault)


def _failures(
    arrived: Iterable[Arrived], arrivals: Iterable[Arriving], request: Request
) -> Iterator[GroupRecord]:
    """Yield the record of every group that failed with its arrival, once it is on disk."""
    for there, came in zip(arrived, arrivals, strict=True):
        if there.changed and there.state == "failed":
            group = replace(came.group, id=there.id)
            record = record_of(group, "failed", reason=came.fault)
            yield keep_record(record, group, request.publication)
