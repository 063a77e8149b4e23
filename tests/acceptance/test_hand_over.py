"""What scripts hear of a conversion: a command per product, and a log of events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from contimg_dask import UsageError, convert_subband_groups_to_ms

from .conftest import COMMAND, Ran, make_groups, run

IDS = ["2025-10-05T03:12:06", "2025-10-05T03:17:15", "2025-10-05T03:22:24", "2025-10-05T03:27:33"]
FAILED, INCOMPLETE = IDS[1], IDS[2]
COMMON_KEYS = {"schema", "time", "event", "run"}
KEYS = {
    "run-started": {"groups", "output"},
    "group-started": {"group", "mode"},
    "step-done": {"group", "step"},
    "group-published": {"group", "record"},
    "group-skipped": {"group", "record"},
    "group-failed": {"group", "record"},
    "group-incomplete": {"group", "record"},
    "handed-over": {"group", "path"},
    "hand-over-failed": {"group", "path", "reason"},
    "run-finished": {"handed_over", "hand_overs_failed"},
    "run-stopped": {"reason"},
}
"""Kinds of events, and what each says beside the common keys (docs/json.md)."""


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four groups: one fails when its subbands are joined, one lacks a subband."""
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, "wrong-times:1:1", "missing:2:1", groups=4, subbands=2)
    return directory


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five whole groups."""
    directory = tmp_path_factory.mktemp("good")
    make_groups(directory, groups=5, subbands=2)
    return directory


@pytest.fixture
def command(client: Client) -> Callable[..., Ran]:
    """Run the real command on the shared cluster."""

    def call(incoming: Path, out: Path, *options: str | Path) -> Ran:
        return run("convert", incoming, out, "--expected-subbands", "2", *on(client), *options)

    return call


def on(client: Client) -> tuple[str, str]:
    """The option that makes a command use the shared cluster."""
    return "--scheduler", str(client.scheduler_info()["address"])


def hook(directory: Path, text: str) -> str:
    """Make a command to hand products over to; its arguments are its own directory."""
    path = directory / "hook.sh"
    path.write_text(f'#!/bin/sh\ncd "$1"\n{text}\n')
    path.chmod(0o755)
    spool = directory / "spool"
    spool.mkdir()
    return f"{path} {spool}"


KEEP = 'cat > "record.$(ls | wc -l)"'
"""A command that keeps what it gets: a file per call, numbered."""


def handed(directory: Path) -> list[dict[str, Any]]:
    """What a command that keeps what it gets was given, call by call."""
    files = sorted((directory / "spool").glob("record.*"), key=lambda path: int(path.suffix[1:]))
    return [json.loads(file.read_text()) for file in files]


def events_in(path: Path) -> list[dict[str, Any]]:
    """Every event of a log; each line must be one, with the keys its kind has."""
    text = path.read_text()
    assert text.endswith("\n")
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        assert event["schema"] == "contimg-dask.event/1"
        assert set(event) == COMMON_KEYS | KEYS[event["event"]]
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
    return events


def of_group(events: list[dict[str, Any]], group: str) -> list[str]:
    """What happened to a group, in order; of steps their names."""
    times = [event["time"] for event in events if event.get("group") == group]
    assert times == sorted(times)
    return [event.get("step", event["event"]) for event in events if event.get("group") == group]


def test_each_product_is_handed_over_once_with_its_record_and_logged(
    command: Callable[..., Ran], client: Client, incoming: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    log, out = tmp_path / "events", tmp_path / "out"
    done = command(
        incoming, out, "--json", "--on-published", hook(tmp_path, KEEP), "--event-log", log
    )
    assert done.code == 1  # one group failed
    published = [group for group in done.report["groups"] if group["outcome"] == "published"]
    assert [group["id"] for group in published] == [IDS[0], IDS[3]]
    given = handed(tmp_path)
    assert sorted(given, key=lambda record: record["id"]) == published
    assert done.report["hand_overs"] == {"done": 2, "failed": 0}

    events = events_in(log)
    assert len({event["run"] for event in events}) == 1
    first, last = events[0], events[-1]
    assert (first["event"], first["groups"], first["output"]) == ("run-started", 4, str(out))
    assert (last["event"], last["handed_over"]) == ("run-finished", 2)
    assert last["hand_overs_failed"] == 0
    for group in published:
        started, opened, *steps, over, delivered = of_group(events, group["id"])
        assert (started, opened) == ("group-started", "open")
        assert sorted(steps) == ["part-sb00", "part-sb01", "rows"]
        assert (over, delivered) == ("group-published", "handed-over")
    assert of_group(events, INCOMPLETE) == ["group-incomplete"]
    assert of_group(events, FAILED)[0] == "group-started"
    assert of_group(events, FAILED)[-1] == "group-failed"
    records = {event["group"]: event["record"] for event in events if "record" in event}
    assert records == {group["id"]: group for group in done.report["groups"]}

    # Nothing is new the second time, and so nothing is handed over.
    monkeypatch.setenv("CONTIMG_DASK_ON_PUBLISHED", f"{tmp_path}/hook.sh {tmp_path}/spool")
    monkeypatch.setenv("CONTIMG_DASK_EVENT_LOG", str(log))
    again = convert_subband_groups_to_ms(incoming, out, expected_subbands=2, client=client)
    assert [r["outcome"] for r in again] == ["skipped", "failed", "incomplete", "skipped"]
    assert handed(tmp_path) == given
    both = events_in(log)
    assert both[: len(events)] == events
    assert len({event["run"] for event in both}) == 2
    assert "group-skipped" in of_group(both[len(events) :], IDS[0])


def test_a_dry_run_hands_nothing_over_and_logs_nothing(
    incoming: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_ON_PUBLISHED", hook(tmp_path, KEEP))
    monkeypatch.setenv("CONTIMG_DASK_EVENT_LOG", str(tmp_path / "events"))
    records = convert_subband_groups_to_ms(
        incoming, tmp_path / "out", expected_subbands=2, client=client, dry_run=True
    )
    assert records[0]["outcome"] == "planned"
    assert handed(tmp_path) == []
    assert not (tmp_path / "events").exists()


MISBEHAVING = """
number=$(ls call.* 2>/dev/null | wc -l); touch call.$number
case $number in
0) echo "archive: no room" >&2; exit 3 ;;
1) exec sleep 100 ;;
2) sleep 100 & echo $! > background; exit 0 ;;
3) kill -9 $$ ;;
4) exit 0 ;;
esac
"""
"""Fails, hangs, leaves something behind, is killed, ends without reading: call by call."""


def test_whatever_the_command_does_all_groups_are_published_and_its_failures_counted(
    command: Callable[..., Ran], good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_ON_PUBLISHED_TIMEOUT_S", "1")
    log = tmp_path / "events"
    calls = hook(tmp_path, MISBEHAVING)
    done = command(good, tmp_path / "out", "--json", "--on-published", calls, "--event-log", log)
    background = psutil.Process(int((tmp_path / "spool" / "background").read_text()))
    assert background.is_running()
    background.kill()
    assert done.code == 0, done.err
    assert done.report["counts"]["published"] == 5
    assert done.report["hand_overs"] == {"done": 2, "failed": 3}
    events = [event for event in events_in(log) if "hand" in event["event"]]
    assert [event["event"] for event in events] == [
        "hand-over-failed", "hand-over-failed", "handed-over", "hand-over-failed", "handed-over",
    ]  # fmt: skip
    assert events[0]["reason"] == "exit code 3: archive: no room"
    assert events[1]["reason"] == "it took more than 1 s and was killed"
    for event in events:
        if "reason" in event:
            line = f"on-published command failed for {event['path']}: {event['reason']}"
            assert line in done.err.splitlines()


def test_the_conversion_does_not_wait_for_the_command(
    good: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first call ends when all five products are there, and fails when they never come.
    text = """
    for try in $(seq 200); do
        test "$(ls -d ../out/science/*/*.ms | wc -l)" = 5 && exit 0
        sleep 0.1
    done
    exit 1
    """
    log = tmp_path / "events"
    monkeypatch.setenv("CONTIMG_DASK_ON_PUBLISHED", hook(tmp_path, text))
    monkeypatch.setenv("CONTIMG_DASK_EVENT_LOG", str(log))
    convert_subband_groups_to_ms(good, tmp_path / "out", expected_subbands=2, client=client)
    kinds = [event["event"] for event in events_in(log)]
    assert kinds.count("handed-over") == 5
    assert kinds[-1] == "run-finished"


def begin(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command as a terminal would: leader of a process group of its own."""
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@dataclass
class Doomed:
    """A conversion of five groups whose command for the first product does not end."""

    process: subprocess.Popen[str]
    log: Path
    pids: Path
    children: list[int] = field(default_factory=list)
    said: str = ""

    def wait_until_all_are_published(self) -> None:
        """Return when the log says so; only the command is waited for then, or soon."""
        deadline_s = time.monotonic() + 60
        while not (self.pids.exists() and self.log.read_text().count('"group-published"') == 5):
            assert self.process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        self.children = [int(text) for text in self.pids.read_text().split()]

    def wait_until_it_says_that_it_waits(self) -> None:
        """Return when the command says that it waits for the products that are left."""
        assert self.process.stderr is not None
        while "waiting for the on-published command" not in self.said:
            self.said += self.process.stderr.readline()
            assert self.process.poll() is None

    def assert_ended_in_order(self) -> None:
        """All that was published is told to have failed to be handed over, and nothing runs on."""
        start_s = time.monotonic()
        stdout, stderr = self.process.communicate(timeout=60)
        assert time.monotonic() - start_s < 10
        assert self.process.returncode == 130
        assert "Traceback" not in self.said + stderr
        assert json.loads(stdout)["counts"]["published"] == 5
        deadline_s = time.monotonic() + 5
        while any(is_running(pid) for pid in self.children):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        kinds = [event["event"] for event in events_in(self.log)]
        assert kinds.count("hand-over-failed") == 5
        assert kinds[-1] == "run-stopped"


@pytest.fixture
def doomed(good: Path, tmp_path: Path, client: Client) -> Doomed:
    """A conversion that is running."""
    text = "sleep 100 & echo $$ $! > pids.new; mv pids.new pids; wait"
    log = tmp_path / "events"
    process = begin(
        "convert", good, tmp_path / "out", "--expected-subbands", "2", *on(client), "--json",
        "--on-published", hook(tmp_path, text), "--event-log", log,
    )  # fmt: skip
    return Doomed(process=process, log=log, pids=tmp_path / "spool" / "pids")


def test_an_interrupt_ends_the_command_with_what_it_started(doomed: Doomed) -> None:
    doomed.wait_until_all_are_published()
    os.killpg(doomed.process.pid, signal.SIGINT)
    doomed.assert_ended_in_order()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_only_the_command_is_waited_for_ends_it_in_the_same_way(
    doomed: Doomed, number: signal.Signals
) -> None:
    doomed.wait_until_all_are_published()
    doomed.wait_until_it_says_that_it_waits()
    time.sleep(0.1)
    os.killpg(doomed.process.pid, number)
    doomed.assert_ended_in_order()


@pytest.mark.parametrize("pause_s", [0, 0.002, 0.05])
def test_an_impatient_ctrl_c_again_and_again_ends_it_in_the_same_way(
    doomed: Doomed, pause_s: float
) -> None:
    doomed.wait_until_all_are_published()
    doomed.wait_until_it_says_that_it_waits()
    with suppress(ProcessLookupError):
        for _ in range(20):
            os.killpg(doomed.process.pid, signal.SIGINT)
            time.sleep(pause_s)
    doomed.assert_ended_in_order()


def is_running(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_command_that_is_not_there_is_told_before_anything_is_done(
    command: Callable[..., Ran], good: Path, tmp_path: Path
) -> None:
    done = command(good, tmp_path / "out", "--on-published", "no-such-command-here --fast")
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("contimg-dask: ")
    assert "'no-such-command-here'" in last
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONTIMG_DASK_ON_PUBLISHED", "no-such-command-here"),
        ("CONTIMG_DASK_EVENT_LOG", "{tmp}/no/such/events"),
        ("CONTIMG_DASK_EVENT_LOG", "{tmp}"),
    ],
)
def test_from_python_what_cannot_be_used_is_a_usage_error(
    good: Path,
    tmp_path: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    value = value.format(tmp=tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=value):
        convert_subband_groups_to_ms(good, tmp_path / "out", expected_subbands=2, client=client)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_file_system(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for a few events."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "contimg-test", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_log_that_cannot_grow_any_more_is_said_once_and_the_conversion_goes_on(
    command: Callable[..., Ran], good: Path, tmp_path: Path, full_file_system: Path
) -> None:
    log = full_file_system / "events"
    (full_file_system / "ballast").write_bytes(bytes(4096))
    done = command(good, tmp_path / "out", "--json", "--event-log", log)
    assert done.code == 0, done.err
    assert done.report["counts"]["published"] == 5
    assert done.err.count("the event log cannot be written any more") == 1
    *whole, _ = log.read_text().splitlines()
    assert json.loads(whole[0])["event"] == "run-started"
    assert all(json.loads(line)["run"] == json.loads(whole[0])["run"] for line in whole)


def test_two_conversions_share_one_log(good: Path, tmp_path: Path, client: Client) -> None:
    log = tmp_path / "events"
    started = [
        begin(
            "convert", good, tmp_path / name, "--expected-subbands", "2", *on(client),
            "--event-log", log,
        )
        for name in ("one", "other")
    ]  # fmt: skip
    for process in started:
        _, stderr = process.communicate(timeout=100)
        assert process.returncode == 0, stderr
    events = events_in(log)
    runs = {event["run"]: event["output"] for event in events if event["event"] == "run-started"}
    assert sorted(runs.values()) == [str(tmp_path / name) for name in ("one", "other")]
    for number, output in runs.items():
        own = [event for event in events if event["run"] == number]
        paths = [e["record"]["path"] for e in own if e["event"] == "group-published"]
        assert len(paths) == 5
        assert all(path.startswith(f"{output}/") for path in paths)
        assert (own[0]["event"], own[-1]["event"]) == ("run-started", "run-finished")
