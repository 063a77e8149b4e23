"""The daemon: follows a directory, and dispatches as long as nobody else does; until it is stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from contimg_dask.catalogue import jobs, leases
from contimg_dask.catalogue.leases import LeaseHeldError
from contimg_dask.catalogue.opening import Catalogue, CatalogueError
from contimg_dask.catalogue.records import Job, NewJob
from contimg_dask.dispatching.dispatcher import LeaseLostError
from contimg_dask.dispatching.leasing import LEASE_NAME, LeaseKeeper
from contimg_dask.dispatching.requests import request_of
from contimg_dask.dispatching.service import run_dispatcher
from contimg_dask.errors import ContimgError, UsageError
from contimg_dask.event_log import EventLog
from contimg_dask.model import GroupRecord, Kind
from contimg_dask.saying import Say
from contimg_dask.settings import Settings
from contimg_dask.staging.owners import is_running
from contimg_dask.status import STREAMS
from contimg_dask.stream.arrivals import Arrivals
from contimg_dask.stream.housekeeping import Housekeeping
from contimg_dask.stream.ingest import Ingest
from contimg_dask.stream.notifying import Notifier, Pulse
from contimg_dask.stream.reading import FileReader
from contimg_dask.submitting import Backlog, job_of_stream

_LOOK_EVERY_S = 0.5
_LEASE_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """Which directory is followed, and where its products go."""

    input_dir: Path
    output_dir: Path
    kind: Kind = "science"


def run_stream(
    catalogue: Catalogue,
    settings: Settings,
    streaming: Streaming,
    *,
    stop_asked: Callable[[], int],
    notifier_of: Callable[[Pulse, Callable[[], str]], Notifier],
    on_line: Say,
) -> None:
    """Queue what arrives, and convert it unless another dispatcher does, until asked to stop.

    Parameters
    ----------
    catalogue
        Where groups are queued.
    settings
        Of the stream, of its groups, and of the dispatcher.
    streaming
        From where to where.
    stop_asked
        How often the process was asked to stop: once finishes what runs, as long as
        ``stop_timeout_s`` allows; twice gives it back at once.
    notifier_of
        Makes what tells the service manager of us.
    on_line
        Is told what operators want to know.

    Raises
    ------
    LeaseHeldError
        Another stream follows this directory.
    UsageError
        The event log or the hand-over cannot be used.
    ContimgError
        A thread has died.
    """
    service = _Service(catalogue, settings, streaming, stop_asked, on_line)
    notifier = notifier_of(service.pulse, service.status)
    try:
        service.run(notifier)
    finally:
        notifier.close()


def check_input(streaming: Streaming) -> None:
    """Refuse an input directory that cannot be followed.

    Raises
    ------
    UsageError
        It cannot be listed.
    """
    try:
        with os.scandir(streaming.input_dir):
            pass
    except OSError as error:
        raise UsageError(
            f"{streaming.input_dir}: {error.strerror}: give the directory the subband files come to",
            path=str(streaming.input_dir),
        ) from error


def backlog_of(streaming: Streaming, settings: Settings) -> Backlog:
    """Return what is in the directory now, and is to come, as something to be queued."""
    return Backlog(
        input_dir=streaming.input_dir,
        output_dir=streaming.output_dir,
        settings=settings,
        kind=streaming.kind,
        label="stream",
    )


class _Service:
    """What runs while the stream does."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Settings,
        streaming: Streaming,
        stop_asked: Callable[[], int],
        on_line: Say,
    ) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._streaming = streaming
        self._stop_asked = stop_asked
        self._on_line = on_line
        self._ingest: Ingest | None = None
        self._dispatching = "not dispatching yet"
        self.pulse = Pulse()

    def status(self) -> str:
        """Return a line on what is done, for the service manager."""
        if self._ingest is None:
            return "starting"
        facts = self._ingest.facts()
        return (
            f"{facts['state']}: {facts['files']} files, {facts['waiting_files']} not usable yet, "
            f"{facts['collecting']} group(s) collecting; {self._dispatching}"
        )

    def run(self, notifier: Notifier) -> None:
        """Work, and begin anew when the catalogue was away for long."""
        held_before = False
        while not self._stop_asked():
            try:
                self._run_once(notifier, first=not held_before)
            except LeaseHeldError:
                if not held_before:
                    raise
            except (LeaseLostError, CatalogueError) as error:
                if not held_before:
                    raise
                self._on_line(f"{error}; beginning anew", action="stream-restarted")
            held_before = True
            if not self._stop_asked():
                time.sleep(_LEASE_AGAIN_S)

    def _run_once(self, notifier: Notifier, *, first: bool) -> None:
        job = jobs.open_stream(self._catalogue, self._new_job())
        name = f"{STREAMS}{job.input_dir}"
        with ExitStack() as stack:
            log = stack.enter_context(EventLog(self._settings.event_log, self._on_line))
            ingest = self._ingest = self._ingest_of(job, log)
            lease_s = self._settings.dispatcher_lease_s
            keeper = LeaseKeeper(self._catalogue, ingest.facts, lease_s, name)
            stack.enter_context(keeper)
            self._on_line(
                f"following {job.input_dir} as job {job.id} of {self._catalogue.url_shown}",
                action="stream-started",
                job=job.id,
            )
            stack.callback(self.pulse.stop, "ingest")
            stack.callback(ingest.stop)
            self.pulse.beat("ingest")
            ingest.start()
            self._until_scanned(ingest)
            if first:
                notifier.ready()
            self._dispatch(ingest, keeper)
            notifier.stopping()

    def _new_job(self) -> NewJob:
        return job_of_stream(backlog_of(self._streaming, self._settings))

    def _ingest_of(self, job: Job, log: EventLog) -> Ingest:
        request = request_of(job)
        # What is the process' own does not go with the job.
        request = replace(request, settings=self._settings)
        input_dir = self._streaming.input_dir.absolute()
        return Ingest(
            input_dir,
            self._settings,
            housekeeping=Housekeeping(
                self._catalogue, input_dir, self._settings.keep_events_days, self._on_line
            ),
            reader=FileReader(self._catalogue),
            arrivals=Arrivals(self._catalogue, job, request, self._on_line, self._failed_to(log)),
            on_line=self._on_line,
            on_turn=lambda: self.pulse.beat("ingest"),
        )

    def _failed_to(self, log: EventLog) -> Callable[[GroupRecord], None]:
        def failed(record: GroupRecord) -> None:
            log.add_record(record)
            reason = record.reason
            assert reason is not None  # only what failed comes here
            self._on_line(
                f"failed {record.id} [{reason.code}] {reason.text}",
                action="group-failed",
                group=record.id,
                code=reason.code,
            )

        return failed

    def _until_scanned(self, ingest: Ingest) -> None:
        while not ingest.scanned.wait(_LOOK_EVERY_S):
            if self._asked(ingest):
                return

    def _asked(self, ingest: Ingest) -> int:
        return self._stop_asked() if ingest.healthy else 2

    def _dispatch(self, ingest: Ingest, keeper: LeaseKeeper) -> None:
        """Dispatch, or wait for the chance to, until asked to stop."""
        while not self._asked(ingest):
            if keeper.lost:
                raise LeaseLostError("the catalogue was away for longer than a lease lasts")
            if self._is_another():
                self._look_on(ingest)
                continue
            self._dispatching = "dispatching"
            try:
                run_dispatcher(
                    self._catalogue,
                    self._settings,
                    stop_asked=lambda: self._asked(ingest),
                    stop_timeout_s=self._settings.stop_timeout_s,
                    on_line=self._on_line,
                    on_turn=lambda: self.pulse.beat("dispatcher"),
                )
            except LeaseHeldError:
                continue
            finally:
                self.pulse.stop("dispatcher")
        if not ingest.healthy:
            raise ContimgError("the thread that follows the directory has died: see its traceback")

    def _is_another(self) -> bool:
        lease = leases.current(self._catalogue, LEASE_NAME)
        if lease is None or lease.expires_s <= time.time():
            return False
        return is_running(lease.owner) is not False

    def _look_on(self, ingest: Ingest) -> None:
        """Leave the work to another dispatcher as long as there is one."""
        self._dispatching = "another dispatcher works"
        self._on_line("another dispatcher works on this catalogue: groups are queued for it",
                      action="not-dispatching")  # fmt: skip
        looked_s = time.monotonic()
        while not self._asked(ingest):
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic() - looked_s >= _LEASE_AGAIN_S:
                looked_s = time.monotonic()
                if not self._is_another():
                    return
