"""Ctrl-C in front of every line: what was begun to be handed over is told of, and the log ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import contimg_dask
from contimg_dask import batch
from contimg_dask.batch import convert_groups
from contimg_dask.cli_convert import _Interrupts
from contimg_dask.deciding import Request
from contimg_dask.event_log import EventLog
from contimg_dask.execution.interrupts import _Deferral, interrupts_deferred
from contimg_dask.hand_over import HandOver
from contimg_dask.model import Group, GroupRecord
from contimg_dask.settings import Settings

PACKAGE = str(Path(contimg_dask.__file__).parent)
TRACED = (PACKAGE, threading.__file__)
NO_GROUP = Group(id="unused", start_jd=None, subbands=(), expected=0)
Line = tuple[str, int]


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Handlers as Python sets them, and afterwards as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record(number: int) -> GroupRecord:
    return GroupRecord(
        id=f"2025-10-05T03:12:{number:02d}",
        start_mjd=None,
        present=(0,),
        missing=(),
        outcome="published",
        path=f"/products/{number}.ms",
    )


# --------------------------------------------------------------------------------- putting them off


def ran_in_full(act: Callable[[], object]) -> bool:
    """Call a function in which there is an interrupt; return whether it was heard afterwards only."""
    done = False
    try:
        with interrupts_deferred():
            act()
            done = True
    except KeyboardInterrupt:
        return done
    pytest.fail("the interrupt was lost")


def test_an_interrupt_is_heard_when_the_block_has_ended() -> None:
    assert ran_in_full(lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_another_thread_gets_is_put_off_too() -> None:
    def interrupt_beside() -> None:
        beside = threading.Thread(
            target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        )
        beside.start()
        beside.join()
        time.sleep(0.05)

    assert ran_in_full(interrupt_beside)


def test_putting_off_within_putting_off_ends_with_the_outer_block() -> None:
    def interrupt_within() -> None:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)

    assert ran_in_full(interrupt_within)


def test_sigterm_goes_to_its_own_handler() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    with interrupts_deferred():
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_deferred():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_outside_of_the_main_thread_nothing_changes() -> None:
    found: list[Any] = []

    def look() -> None:
        with interrupts_deferred():
            found.append(signal.getsignal(signal.SIGINT))

    beside = threading.Thread(target=look)
    beside.start()
    beside.join()
    assert found == [signal.default_int_handler]


# ------------------------------------------------------------------------------- at every line of it


class Watch:
    """Sees every line of the package, and of Python's threading, that this thread passes.

    In front of ``at``, the first time, there is a Ctrl-C.
    """

    def __init__(self, at: Line | None = None) -> None:
        self.lines: dict[Line, None] = {}
        self.struck = False
        self._at = at

    def begin(self) -> None:
        """Look from here on, also at what is called later by those who have called this."""
        sys.settrace(
            lambda frame, *_: self._line if frame.f_code.co_filename.startswith(TRACED) else None
        )

    def end(self) -> None:
        sys.settrace(None)

    def _line(self, frame: Any, event: str, _: Any) -> Any:
        line = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and line not in self.lines:
            self.lines[line] = None
            if line == self._at:
                self.struck = True
                signal.raise_signal(signal.SIGINT)
        return self._line


@pytest.fixture(autouse=True)
def no_tracing_afterwards() -> Iterator[None]:
    """A tracer of somebody else's, as coverage has one, is put back."""
    before = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(before)


def test_an_interrupt_in_front_of_any_line_leaves_no_handler_that_keeps_the_next() -> None:
    def act(watch: Watch) -> None:
        watch.begin()
        with interrupts_deferred():
            pass
        watch.end()

    act(first := Watch())
    assert len(first.lines) > 15
    for line in first.lines:
        with pytest.raises(KeyboardInterrupt):
            act(Watch(line))
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


class Handing:
    """Three products, the command of the first one runs; the end is waited for, or interrupted."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.log = directory / "events"
        self.pids = directory / "pids"
        self.added: list[str] = []
        hook = directory / "hook"
        hook.write_text(f"#!/bin/sh\necho $$ >> {self.pids}\nexec sleep 100\n")
        hook.chmod(0o755)
        self.command = str(hook)

    def run(self, watch: Watch, *, to_the_end: bool) -> None:
        """Hand over and wait; or be interrupted when the first command has begun."""
        try:
            with (
                EventLog(str(self.log), lambda text: None) as log,
                HandOver(self.command, 5, log, lambda text: None) as over,
            ):
                watch.begin()
                for number in range(3):
                    with interrupts_deferred():
                        self.added.append(record(number).id)
                        over.add(record(number))
                if to_the_end:
                    over.wait()
                self.be_interrupted()
        finally:
            watch.end()

    def be_interrupted(self) -> None:
        """Let the first command begin, and end as by a first Ctrl-C."""
        while not self.pids.exists():
            time.sleep(0.001)
        raise KeyboardInterrupt

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def assert_told(self) -> None:
        """Each that was added has failed once, the run has stopped last, and no command runs."""
        events = self.events
        failed = [event["group"] for event in events if event["event"] == "hand-over-failed"]
        assert failed == self.added
        assert (events[-1]["event"], events[-1]["reason"]) == ("run-stopped", "KeyboardInterrupt")
        for pid in self.pids.read_text().split() if self.pids.exists() else ():
            assert not is_running(int(pid))


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def lines_passed(directory: Path, *, to_the_end: bool) -> tuple[list[Line], int]:
    """Every line on the way, by the first time, and the number of the first one of the end."""
    watch = Watch()
    with suppress(KeyboardInterrupt):
        Handing(directory).run(watch, to_the_end=to_the_end)
    lines = list(watch.lines)
    return lines, next(n for n, line in enumerate(lines) if is_of(line, HandOver.__exit__))


def is_of(line: Line, function: Any) -> bool:
    code = function.__code__
    return line[0] == code.co_filename and line[1] in {number for *_, number in code.co_lines()}


def test_ctrl_c_in_front_of_any_line_loses_no_product_that_was_added(tmp_path: Path) -> None:
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    lines, end = lines_passed(tmp_path / "first", to_the_end=True)
    heard = (n for n, line in enumerate(lines) if is_of(line, _Deferral._keep))
    before = lines[: min([end, *heard])]
    assert len(before) > 40
    for number, line in enumerate(before):
        handing = Handing(tmp_path / str(number))
        with pytest.raises(KeyboardInterrupt):
            handing.run(Watch(line), to_the_end=True)
        handing.assert_told()


def test_another_ctrl_c_in_front_of_any_line_of_the_end_changes_nothing(tmp_path: Path) -> None:
    lines, end = lines_passed(tmp_path / "first", to_the_end=False)
    assert len(lines) - end > 20
    _Interrupts()
    for number, line in enumerate(lines[end:]):
        handing, watch = Handing(tmp_path / str(number)), Watch(line)
        with pytest.raises(KeyboardInterrupt):
            handing.run(watch, to_the_end=False)
        assert watch.struck
        handing.assert_told()


def test_ctrl_c_while_outcomes_are_told_leaves_record_log_and_hand_over_of_one_mind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(directory: Path, watch: Watch) -> Handing:
        handing = Handing(directory)
        settings = Settings(on_published=handing.command, event_log=str(handing.log))
        request = Request(output_dir=directory / "out", settings=settings)

        def converted(*arguments: Any) -> float:
            tell = next(each for each in arguments if getattr(each, "__name__", "") == "tell")
            watch.begin()
            for number in range(3):
                tell(record(number), NO_GROUP)
            handing.be_interrupted()
            return 0.0

        monkeypatch.setattr(batch, "_convert", converted)
        try:
            convert_groups(
                [], request, listener=None, on_record=lambda each: handing.added.append(each.id)
            )
        except KeyboardInterrupt:
            return handing
        finally:
            watch.end()
        pytest.fail("the interrupt was lost")

    first = Watch()
    assert told(tmp_path / "first", first).added == [record(number).id for number in range(3)]
    lines = list(first.lines)
    end = next(n for n, line in enumerate(lines) if is_of(line, HandOver.__exit__))
    assert end > 40
    for number, line in enumerate(lines[:end]):
        handing = told(tmp_path / str(number), watch := Watch(line))
        assert watch.struck
        handing.assert_told()
        published = [e["group"] for e in handing.events if e["event"] == "group-published"]
        assert published == handing.added
