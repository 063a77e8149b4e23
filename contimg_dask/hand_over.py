"""Hand published products over: a command of the user's, run once for each, beside the conversion."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import IO

from contimg_dask.errors import UsageError
from contimg_dask.event_log import EventLog
from contimg_dask.execution.interrupts import interrupts_deferred
from contimg_dask.model import GroupRecord
from contimg_dask.settings import user_environment

_MOST_TEXT = 300
_DYING_S = 10.0
"""What was killed ends at once, unless a file system it is busy with hangs."""


class HandOver:
    """Runs the command for one product after the other, in the order of their publication.

    The record goes to its standard input as JSON. A command that fails, or takes too long, is said
    and counted; the conversion never waits for it.

    Parameters
    ----------
    command
        As a shell would split it, but run without one; None does nothing.
    timeout_s
        After which it is killed, with everything it has started.
    log, on_line
        Are told of failures.

    Raises
    ------
    UsageError
        There is no such command.
    """

    def __init__(
        self,
        command: str | None,
        timeout_s: float,
        log: EventLog,
        on_line: Callable[[str], None],
    ) -> None:
        self._arguments = _split(command)
        self._timeout_s = timeout_s
        self._log = log
        self._on_line = on_line
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        # Added and not settled yet: each is settled once, by whoever comes first.
        self._pending: dict[int, GroupRecord] = {}
        self._settling = threading.Lock()
        self._added = 0
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._ended.set()
        self.counts = {"handed_over": 0, "hand_overs_failed": 0}

    def __enter__(self) -> HandOver:
        if self._arguments:
            with interrupts_deferred():
                self._ended.clear()
                threading.Thread(target=self._work, name="hand-over", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; what still waits is counted as failed."""
        with interrupts_deferred():
            self._stopped.set()
            self._waiting.put(None)
            if (running := self._running) is not None:
                _kill(running)
            self._ended.wait(_DYING_S)
            self._settle_the_rest()

    def add(self, record: GroupRecord) -> None:
        """Have the command run for a product, some time soon."""
        if self._arguments:
            number = self._added = self._added + 1
            self._pending[number] = record
            self._waiting.put(number)

    def wait(self) -> None:
        """Return when the command was run for every product that was added."""
        if self._ended.is_set():
            return
        if left := len(self._pending):
            self._say(f"waiting for the on-published command: {left} product(s) left")
        self._waiting.put(None)
        while not self._has_ended(within_s=0.2):
            pass  # in steps, so that Ctrl-C is heard
        self._settle_the_rest()

    def _has_ended(self, within_s: float) -> bool:
        # An exception out of a signal's handler must not meet Python's own code for threads: it
        # would leave locks taken, and Thread.join takes a thread for ended that runs on
        # (until CPython 3.12).
        with interrupts_deferred():
            return self._ended.wait(within_s)

    def _work(self) -> None:
        try:
            while (number := self._waiting.get()) is not None and not self._stopped.is_set():
                self._settle(number, self._run(self._pending[number]))
        finally:
            self._ended.set()

    def _settle_the_rest(self) -> None:
        for number in sorted(self._pending):
            self._settle(number, "it was stopped before")

    def _settle(self, number: int, fault: str | None) -> None:
        """Count and log what came of a product, unless that was done."""
        with self._settling:
            record = self._pending.pop(number, None)
            if record is None:
                return
            if fault is None:
                self.counts["handed_over"] += 1
                self._log.add("handed-over", group=record.id, path=record.path)
                return
            self.counts["hand_overs_failed"] += 1
            self._log.add("hand-over-failed", group=record.id, path=record.path, reason=fault)
        self._say(f"on-published command failed for {record.path}: {fault}")

    def _say(self, text: str) -> None:
        # Where nobody listens any more, the count and the log still tell.
        with contextlib.suppress(OSError, ValueError):
            self._on_line(text)

    def _run(self, record: GroupRecord) -> str | None:
        """Run the command for one product and return why it failed, or None."""
        try:
            # Not a pipe: what the command leaves running in the background may keep that open.
            with tempfile.TemporaryFile() as said:
                return self._run_saying(record, said)
        except OSError as error:
            return f"it cannot be run ({error.strerror})"

    def _run_saying(self, record: GroupRecord, said: IO[bytes]) -> str | None:
        try:
            # In a session of its own: a Ctrl-C in the terminal is ours to deal with.
            running = self._running = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                env=user_environment(),
            )
            if self._stopped.is_set():
                _kill(running)  # whoever stops has looked for it too early
            content = (json.dumps(record.to_json()) + "\n").encode()
            running.communicate(content, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            _kill(running)
            running.wait()
            return f"it took more than {self._timeout_s:g} s and was killed"
        finally:
            self._running = None
        said.seek(0)
        text = said.read().decode(errors="replace").strip()[-_MOST_TEXT:]
        if running.returncode == 0:
            return None
        return f"exit code {running.returncode}" + (f": {text}" if text else "")


def check_command(command: str | None) -> None:
    """Refuse a command that cannot be run, before anything is done.

    Raises
    ------
    UsageError
        There is no such command, or its quotes do not match.
    """
    _split(command)


def _split(command: str | None) -> list[str]:
    if command is None:
        return []
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--on-published {command}: {error}") from error
    if not arguments or shutil.which(arguments[0]) is None:
        name = arguments[0] if arguments else command
        raise UsageError(f"--on-published: there is no command {name!r} that can be run")
    return arguments


def _kill(running: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
