"""The command that products are handed over to, whatever it does."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from contimg_dask import hand_over
from contimg_dask.errors import UsageError
from contimg_dask.event_log import EventLog
from contimg_dask.hand_over import HandOver
from contimg_dask.model import GroupRecord

SOON_S = 50.0
"""Far more than anything here takes, and far less than what is waited for where it hangs."""


def record(number: int = 0, *notes: str) -> GroupRecord:
    return GroupRecord(
        id=f"2025-10-05T03:12:{number:02d}",
        start_mjd=60953.1,
        present=(0, 1),
        missing=(),
        outcome="published",
        path=f"/products/{number}.ms",
        notes=notes,
    )


@dataclass
class Handing:
    """A hand-over, with what it said and logged."""

    over: HandOver
    log_path: Path
    said: list[str] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def all(self, *records: GroupRecord) -> dict[str, int]:
        """Hand all of these over, wait, and return the counts."""
        for each in records:
            self.over.add(each)
        self.over.wait()
        return self.over.counts


@contextmanager
def handing(tmp_path: Path, command: str | None, timeout_s: float = 60) -> Iterator[Handing]:
    said: list[str] = []
    log_path = tmp_path / "events"
    with (
        EventLog(str(log_path), said.append) as log,
        HandOver(command, timeout_s, log, said.append) as over,
    ):
        yield Handing(over=over, log_path=log_path, said=said)


def script(tmp_path: Path, text: str) -> str:
    """Make an executable and return how to call it."""
    path = tmp_path / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Any) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def read_pid(path: Path) -> int:
    """A number that a script writes, once it is there."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_every_product_is_handed_over_in_turn_with_its_record_on_standard_input(
    tmp_path: Path,
) -> None:
    command = script(tmp_path, f"cat >> {tmp_path}/got")
    records = [record(number) for number in range(5)]
    with handing(tmp_path, command) as hand:
        assert hand.all(*records) == {"handed_over": 5, "hand_overs_failed": 0}
        assert [(e["event"], e["group"], e["path"]) for e in hand.events] == [
            ("handed-over", each.id, each.path) for each in records
        ]
    got = [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()]
    assert got == [json.loads(json.dumps(each.to_json())) for each in records]


def test_without_a_command_nothing_is_run_and_nothing_waits(tmp_path: Path) -> None:
    with handing(tmp_path, None) as hand:
        assert hand.all(record()) == {"handed_over": 0, "hand_overs_failed": 0}
        assert hand.events == []


def test_arguments_are_split_as_a_shell_does_but_no_shell_runs_them(tmp_path: Path) -> None:
    command = script(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/arguments')
    with handing(tmp_path, f"{command} 'two words' $HOME ; > *") as hand:
        assert hand.all(record())["handed_over"] == 1
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "two words",
        "$HOME",
        ";",
        ">",
        "*",
    ]


def test_what_the_command_prints_does_not_reach_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with handing(tmp_path, "sh -c 'echo here; echo there >&2'") as hand:
        assert hand.all(record())["handed_over"] == 1
    assert capfd.readouterr() == ("", "")


def test_a_failure_is_said_with_the_product_the_exit_code_and_the_end_of_what_it_said(
    tmp_path: Path,
) -> None:
    text = f"echo {'x' * 1000} >&2; echo 'archive: no room' >&2; exit 7"
    with handing(tmp_path, script(tmp_path, text)) as hand:
        assert hand.all(record(1), record(2)) == {"handed_over": 0, "hand_overs_failed": 2}
        failed = [event for event in hand.events if event["event"] == "hand-over-failed"]
    assert [event["group"] for event in failed] == [record(1).id, record(2).id]
    first = next(line for line in hand.said if "/products/1.ms" in line)
    for reason in (first, failed[0]["reason"]):
        assert "exit code 7" in reason
        assert reason.endswith("archive: no room")
        assert len(reason) < 500


def test_one_failure_does_not_keep_the_others_back(tmp_path: Path) -> None:
    command = script(tmp_path, f"test ! -e {tmp_path}/once && touch {tmp_path}/once && exit 1; :")
    with handing(tmp_path, command) as hand:
        assert hand.all(record(1), record(2)) == {"handed_over": 1, "hand_overs_failed": 1}
        assert [event["event"] for event in hand.events] == ["hand-over-failed", "handed-over"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o644), "Permission denied"),
        (lambda path: path.write_text("neither a script nor a program"), "Exec format error"),
    ],
)
def test_a_command_that_went_bad_meanwhile_is_a_failure(
    tmp_path: Path, spoil: Any, says: str
) -> None:
    command = script(tmp_path, ":")
    with handing(tmp_path, command) as hand:
        spoil(Path(command))
        assert hand.all(record()) == {"handed_over": 0, "hand_overs_failed": 1}
    assert any(says in line for line in hand.said)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_command_that_never_reads_its_input_is_no_failure(tmp_path: Path, size: int) -> None:
    # The larger record is more than a pipe holds.
    start_s = time.monotonic()
    with handing(tmp_path, "true") as hand:
        assert hand.all(record(1, "n" * size)) == {"handed_over": 1, "hand_overs_failed": 0}
    assert time.monotonic() - start_s < SOON_S


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path, size: int) -> None:
    text = f"echo $$ > {tmp_path}/parent; sleep 100 & echo $! > {tmp_path}/child; wait"
    start_s = time.monotonic()
    with handing(tmp_path, script(tmp_path, text), timeout_s=0.5) as hand:
        assert hand.all(record(1, "n" * size)) == {"handed_over": 0, "hand_overs_failed": 1}
    assert time.monotonic() - start_s < SOON_S
    assert any("took more than 0.5 s and was killed" in line for line in hand.said)
    for name in ("parent", "child"):
        pid = read_pid(tmp_path / name)
        wait_until(lambda pid=pid: not is_running(pid))


def test_what_a_command_leaves_in_the_background_is_not_waited_for_and_lives(
    tmp_path: Path,
) -> None:
    # It holds the command's standard input and output open.
    command = script(tmp_path, f"sleep 100 & echo $! > {tmp_path}/child")
    start_s = time.monotonic()
    with handing(tmp_path, command) as hand:
        assert hand.all(record()) == {"handed_over": 1, "hand_overs_failed": 0}
    assert time.monotonic() - start_s < SOON_S
    child = psutil.Process(read_pid(tmp_path / "child"))
    assert child.is_running()
    child.kill()


def test_adding_does_not_wait_for_the_command(tmp_path: Path) -> None:
    command = script(tmp_path, f"while test ! -e {tmp_path}/go; do sleep 0.01; done")
    with handing(tmp_path, command) as hand:
        for number in range(100):
            hand.over.add(record(number))
        (tmp_path / "go").touch()  # which the first one waits for
        hand.over.wait()
        assert hand.over.counts == {"handed_over": 100, "hand_overs_failed": 0}


def test_how_many_are_left_is_said_before_they_are_waited_for(tmp_path: Path) -> None:
    command = script(tmp_path, f"while test ! -e {tmp_path}/go; do sleep 0.01; done")
    with handing(tmp_path, command) as hand:
        for number in range(4):
            hand.over.add(record(number))
        hand.over._on_line = lambda text: (hand.said.append(text), (tmp_path / "go").touch())
        hand.over.wait()
    assert next(line for line in hand.said if "left" in line).startswith("waiting for")


def test_a_single_slow_command_is_not_waited_for_in_silence(tmp_path: Path) -> None:
    command = script(tmp_path, f"touch {tmp_path}/begun; sleep 0.3")
    with handing(tmp_path, command) as hand:
        hand.over.add(record())
        wait_until((tmp_path / "begun").exists)
        hand.over.wait()
    assert any("waiting for" in line for line in hand.said)


def test_leaving_early_kills_the_running_command_and_counts_the_waiting_ones(
    tmp_path: Path,
) -> None:
    text = f"echo $$ > {tmp_path}/parent; sleep 100 & echo $! > {tmp_path}/child; wait"
    start_s = time.monotonic()
    with (
        suppress(KeyboardInterrupt),
        handing(tmp_path, script(tmp_path, text), timeout_s=100) as hand,
    ):
        for number in range(3):
            hand.over.add(record(number))
        pids = [read_pid(tmp_path / name) for name in ("parent", "child")]
        raise KeyboardInterrupt
    assert time.monotonic() - start_s < SOON_S
    assert hand.over.counts == {"handed_over": 0, "hand_overs_failed": 3}
    *failed, last = hand.events
    assert [event["group"] for event in failed] == [record(number).id for number in range(3)]
    assert last["event"] == "run-stopped"
    for pid in pids:
        wait_until(lambda pid=pid: not is_running(pid))


@pytest.mark.parametrize("interrupts", [1, 3])
def test_ctrl_c_while_waiting_loses_no_failure_however_slow_the_log_and_often_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupts: int
) -> None:
    usual = EventLog.add

    def slow(log: EventLog, event: str, **facts: Any) -> None:
        time.sleep(0.2)
        usual(log, event, **facts)

    def interrupt() -> None:
        for _ in range(interrupts):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    monkeypatch.setattr(EventLog, "add", slow)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with (
        suppress(KeyboardInterrupt),
        handing(tmp_path, script(tmp_path, "touch $0.begun; sleep 100")) as hand,
    ):
        for number in range(3):
            hand.over.add(record(number))
        wait_until((tmp_path / "hook.begun").exists)
        threading.Timer(0.3, interrupt).start()
        hand.over.wait()
    assert hand.over.counts == {"handed_over": 0, "hand_overs_failed": 3}
    kinds = [event["event"] for event in hand.events]
    assert kinds == ["hand-over-failed"] * 3 + ["run-stopped"]


def test_what_does_not_die_is_not_waited_for_for_ever_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a process that hangs on a file system which does not answer.
    monkeypatch.setattr(hand_over, "_kill", lambda running: None)
    monkeypatch.setattr(hand_over, "_DYING_S", 0.2)
    start_s = time.monotonic()
    with (
        suppress(KeyboardInterrupt),
        handing(tmp_path, script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 100")) as hand,
    ):
        for number in range(3):
            hand.over.add(record(number))
        pid = read_pid(tmp_path / "pid")
        raise KeyboardInterrupt
    assert time.monotonic() - start_s < SOON_S
    psutil.Process(pid).kill()
    wait_until(hand.over._ended.is_set)
    assert hand.over.counts == {"handed_over": 0, "hand_overs_failed": 3}
    *failed, last = hand.events
    assert [event["group"] for event in failed] == [record(number).id for number in range(3)]
    assert last["event"] == "run-stopped"


def test_leaving_in_the_moment_a_command_starts_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = hand_over.subprocess.Popen

    def slow_to_start(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "starting").touch()
        time.sleep(0.2)
        return usual(*arguments, **options)

    monkeypatch.setattr(hand_over.subprocess, "Popen", slow_to_start)
    start_s = time.monotonic()
    with suppress(KeyboardInterrupt), handing(tmp_path, "sleep 100", timeout_s=100) as hand:
        hand.over.add(record())
        wait_until((tmp_path / "starting").exists)
        raise KeyboardInterrupt
    assert time.monotonic() - start_s < SOON_S


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_room_for_what_the_command_says_is_a_failure_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with handing(tmp_path, "true") as hand:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no-such-directory"))
        assert hand.all(record(1), record(2)) == {"handed_over": 0, "hand_overs_failed": 2}


@pytest.mark.parametrize(
    "command", ["no-such-command-anywhere --now", "{tmp}/not-executable", "{tmp}", "'open"]
)
def test_a_command_that_cannot_be_run_is_wrong_use(tmp_path: Path, command: str) -> None:
    (tmp_path / "not-executable").write_text("#!/bin/sh\n")
    threads = set(threading.enumerate())
    with (
        EventLog(None, print) as log,
        pytest.raises(UsageError, match="--on-published") as caught,
    ):
        HandOver(command.format(tmp=tmp_path), 1, log, print)
    assert "\n" not in str(caught.value)
    assert set(threading.enumerate()) <= threads


def test_nothing_is_left_open_after_many(tmp_path: Path) -> None:
    with handing(tmp_path, "true") as hand:
        hand.all(record())
    before = len(os.listdir("/proc/self/fd"))
    with handing(tmp_path, "true") as hand:
        hand.all(*(record(number) for number in range(50)))
    assert len(os.listdir("/proc/self/fd")) == before
