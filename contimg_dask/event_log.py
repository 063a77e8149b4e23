"""Everything that happens, as lines of JSON in a file: for scripts that follow conversions."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from contimg_dask.errors import UsageError
from contimg_dask.execution.interrupts import interrupts_deferred
from contimg_dask.execution.runner import Listener
from contimg_dask.model import ConversionPlan, GroupRecord

SCHEMA = "contimg-dask.event/1"


class EventLog:
    """Appends events to a file; does nothing when there is none.

    Every event is one line, written in one call at the end of the file, so several conversions may
    share it. A log that cannot be written any more is said once, and does not stop a conversion.

    Parameters
    ----------
    path
        The file; None keeps no log.
    on_line
        Is told when the log cannot be written.

    Raises
    ------
    UsageError
        The file cannot be opened.
    """

    def __init__(self, path: str | None, on_line: Callable[[str], None]) -> None:
        self._path = path
        self._on_line = on_line
        self._run = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._descriptor = None if path is None else _open(path)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with interrupts_deferred():
            if error is not None:
                self.add("run-stopped", reason=str(error) or type(error).__name__)
            with self._lock:
                self._close()

    def add(self, event: str, **facts: Any) -> None:
        """Write an event with these facts beside its time and the run it belongs to."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = {"schema": SCHEMA, "time": moment, "event": event, "run": self._run, **facts}
        line = (json.dumps(content) + "\n").encode()
        with self._lock:
            if self._descriptor is None:
                return
            reason: str | None
            try:
                written, reason = os.write(self._descriptor, line), "the disk is full"
            except OSError as error:
                written, reason = 0, error.strerror
            if written < len(line):
                self._on_line(
                    f"{self._path}: the event log cannot be written any more ({reason}); the "
                    f"conversion goes on without it"
                )
                self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def add_record(self, record: GroupRecord) -> None:
        """Write the outcome of a group."""
        self.add(f"group-{record.outcome}", group=record.id, record=record.to_json())


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        size = os.fstat(descriptor).st_size
        # A writer that was killed may have left half a line: it is ended, so that ours is whole.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
    except OSError as error:
        raise UsageError(
            f"{path}: the event log cannot be written ({error.strerror}): give another file with "
            f"--event-log",
            path=path,
        ) from error
    return descriptor


class LoggedListener:
    """A listener that also writes what it hears to the event log."""

    def __init__(self, listener: Listener, log: EventLog) -> None:
        self._listener = listener
        self._log = log

    def group_started(self, plan: ConversionPlan) -> None:
        """An attempt at a group was handed to the cluster."""
        self._log.add("group-started", group=plan.group_id, mode=plan.mode)
        self._listener.group_started(plan)

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        """A step of a group is done."""
        self._log.add("step-done", group=plan.group_id, step=name)
        self._listener.step_done(plan, name)

    def group_done(self, plan: ConversionPlan) -> None:
        """Nothing more will be done for a group."""
        self._listener.group_done(plan)
