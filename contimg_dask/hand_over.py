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
from contimg_dask.model import GroupRecord
from contimg_dask.settings import user_environment

_MOST_TEXT = 300


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
        self._waiting: queue.Queue[GroupRecord | None] = queue.Queue()
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hand-over", daemon=True)
        # Not Thread.join: when a signal's exception passes through it, CPython 3.11 takes the
        # thread for ended although it runs on.
        self._ended = threading.Event()
        self._began = False
        self._added = 0
        self.counts = {"handed_over": 0, "hand_overs_failed": 0}

    def __enter__(self) -> HandOver:
        if self._arguments:
            self._began = True
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; what still waits is counted as failed."""
        self._stopped.set()
        self._waiting.put(None)
        if (running := self._running) is not None:
            _kill(running)
        if self._began:
            _wait_through(self._ended)

    def add(self, record: GroupRecord) -> None:
        """Have the command run for a product, some time soon."""
        if self._arguments:
            self._added += 1
            self._waiting.put(record)

    def wait(self) -> None:
        """Return when the command was run for every product that was added."""
        if not self._began or self._ended.is_set():
            return
        if left := self._added - sum(self.counts.values()):
            self._say(f"waiting for the on-published command: {left} product(s) left")
        self._waiting.put(None)
        # In steps, so that Ctrl-C is heard.
        while not self._ended.wait(timeout=0.2):
            pass

    def _work(self) -> None:
        try:
            self._work_off()
        finally:
            self._ended.set()

    def _work_off(self) -> None:
        while (record := self._waiting.get()) is not None:
            fault = "it was stopped before" if self._stopped.is_set() else self._run(record)
            if fault is None:
                self.counts["handed_over"] += 1
                self._log.add("handed-over", group=record.id, path=record.path)
                continue
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


def _wait_through(ended: threading.Event) -> None:
    """Wait for the end of what was killed, also when Ctrl-C comes again meanwhile."""
    interrupt: KeyboardInterrupt | None = None
    while not ended.is_set():
        try:
            ended.wait(timeout=0.2)
        except KeyboardInterrupt as again:
            interrupt = again
    if interrupt is not None:
        raise interrupt


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
