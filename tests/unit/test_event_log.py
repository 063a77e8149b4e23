"""The event log: whole lines of JSON, whoever else writes to it, and no reason to stop for it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.errors import ContimgError, UsageError
from contimg_dask.event_log import SCHEMA, EventLog, LoggedListener
from contimg_dask.model import ConversionPlan, GroupRecord, OutcomeName
from tests.unit.plans import bare_plan, open_descriptors
from tests.unit.processes import OtherProcess

EVENTS_EACH = 300


def nobody_is_told(text: str) -> None:
    pytest.fail(f"said without need: {text}")


def lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a log; fails when one of them is not a JSON object of its own."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def record(outcome: OutcomeName) -> GroupRecord:
    return GroupRecord(
        id="2025-10-05T03:12:06", start_mjd=60953.1, present=(0,), missing=(1,), outcome=outcome
    )


def test_an_event_is_one_line_with_its_schema_time_name_run_and_facts(tmp_path: Path) -> None:
    path = tmp_path / "events"
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with EventLog(str(path), nobody_is_told) as log:
        log.add("step-done", group="2025-10-05T03:12:06", step="a line\nbreak")
    after = datetime.now(UTC)
    (event,) = lines(path)
    assert set(event) == {"schema", "time", "event", "run", "group", "step"}
    assert (event["schema"], event["event"]) == (SCHEMA, "step-done")
    assert event["step"] == "a line\nbreak"
    assert event["time"].endswith("Z")
    assert before <= datetime.fromisoformat(event["time"]) <= after


@pytest.mark.parametrize("outcome", ["published", "skipped", "failed", "incomplete", "planned"])
def test_the_outcome_of_a_group_is_an_event_of_its_name_with_the_whole_record(
    tmp_path: Path, outcome: OutcomeName
) -> None:
    path = tmp_path / "events"
    with EventLog(str(path), nobody_is_told) as log:
        log.add_record(record(outcome))
    (event,) = lines(path)
    assert event["event"] == f"group-{outcome}"
    assert event["group"] == "2025-10-05T03:12:06"
    assert event["record"] == json.loads(json.dumps(record(outcome).to_json()))


def test_no_file_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with EventLog(None, nobody_is_told) as log:
        log.add("run-started")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_by_an_error_says_so_and_one_that_ends_well_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events"
    with EventLog(str(path), nobody_is_told) as log:
        log.add("run-started")
    with (
        pytest.raises(ContimgError),
        EventLog(str(path), nobody_is_told) as log,
    ):
        raise ContimgError("no scheduler answers")
    with pytest.raises(KeyboardInterrupt), EventLog(str(path), nobody_is_told) as log:
        raise KeyboardInterrupt
    found = [(event["event"], event.get("reason")) for event in lines(path)]
    assert found == [
        ("run-started", None),
        ("run-stopped", "no scheduler answers"),
        ("run-stopped", "KeyboardInterrupt"),
    ]


def test_runs_that_share_a_log_can_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for _ in range(2):
        with EventLog(str(path), nobody_is_told) as log:
            log.add("run-started")
            log.add("run-finished")
    runs = [event["run"] for event in lines(path)]
    assert runs[0] == runs[1] != runs[2] == runs[3]


def test_half_a_line_that_a_killed_writer_left_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text('{"event": "run-started"}\n{"event": "gro')
    with EventLog(str(path), nobody_is_told) as log:
        log.add("run-finished")
    first, half, ours = path.read_text().splitlines()
    assert json.loads(first)["event"] == "run-started"
    assert half == '{"event": "gro'
    assert json.loads(ours)["event"] == "run-finished"


def write_many(path: str, name: str) -> None:
    with EventLog(path, nobody_is_told) as log:
        for number in range(EVENTS_EACH):
            log.add("step-done", group=name, number=number, filler="x" * (number * 37 % 3000))


def write_when_told(path: str) -> Iterator[None]:
    yield None
    write_many(path, "other")


def test_lines_of_two_processes_stay_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with OtherProcess(write_when_told, str(path)) as other:
        other.yielded()
        beside = threading.Thread(target=other.go_on)
        beside.start()
        write_many(str(path), "one")
        beside.join()
    events = lines(path)
    for name in ("one", "other"):
        numbers = [event["number"] for event in events if event["group"] == name]
        assert numbers == list(range(EVENTS_EACH))
    assert len({event["run"] for event in events}) == 2


def test_lines_of_several_threads_of_one_run_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with EventLog(str(path), nobody_is_told) as log:
        threads = [
            threading.Thread(target=lambda: [log.add("x", text="y" * n) for n in range(200)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(lines(path)) == 800


def test_a_full_device_is_said_once_and_hurts_nobody() -> None:
    said: list[str] = []
    before = open_descriptors()
    with EventLog("/dev/full", said.append) as log:
        for _ in range(3):
            log.add("step-done")
        assert open_descriptors() == before
    assert len(said) == 1
    assert "/dev/full" in said[0]
    assert "No space left on device" in said[0]


def fill(path: Path) -> None:
    """Take all the space there is."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_log_on_a_file_system_that_becomes_full_holds_whole_lines_but_for_the_last(
    small_tmpfs: Path,
) -> None:
    said: list[str] = []
    path = small_tmpfs / "events"
    with EventLog(str(path), said.append) as log:
        log.add("run-started")
        fill(small_tmpfs / "ballast")
        for number in range(100):
            log.add("step-done", number=number)
    assert len(said) == 1
    assert str(path) in said[0]
    *whole, last = path.read_text().splitlines(keepends=True)
    assert [json.loads(line).get("number") for line in whole] == [None, *range(len(whole) - 1)]
    assert last.endswith("\n") or len(whole) > 1
    (small_tmpfs / "ballast").unlink()
    with EventLog(str(path), nobody_is_told) as log:
        log.add("run-started")
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "run-started"


@pytest.mark.parametrize("name", ["no/such/directory/events", "."])
def test_a_place_that_cannot_be_written_is_wrong_use(tmp_path: Path, name: str) -> None:
    before = open_descriptors()
    with pytest.raises(UsageError, match="--event-log") as caught:
        EventLog(str(tmp_path / name), nobody_is_told)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert open_descriptors() == before


def test_a_file_of_somebody_else_is_wrong_use(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    path = open_directory / "events"
    path.touch(mode=0o444)
    if os.geteuid() != 0:
        path.chmod(0o444)
    with without_rights(), pytest.raises(UsageError, match="Permission denied"):
        EventLog(str(path), nobody_is_told)


class Heard:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def group_started(self, plan: ConversionPlan) -> None:
        self.calls.append(("started", plan.group_id))

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        self.calls.append(("step", plan.group_id, name))

    def group_done(self, plan: ConversionPlan) -> None:
        self.calls.append(("done", plan.group_id))


def test_a_logged_listener_hears_everything_and_the_log_has_it(tmp_path: Path) -> None:
    plan, heard, path = bare_plan(tmp_path), Heard(), tmp_path / "events"
    with EventLog(str(path), nobody_is_told) as log:
        listener = LoggedListener(heard, log)
        listener.group_started(plan)
        listener.step_done(plan, "part-sb03")
        listener.group_done(plan)
    group = plan.group_id
    assert heard.calls == [("started", group), ("step", group, "part-sb03"), ("done", group)]
    started, step = lines(path)
    assert (started["event"], started["group"], started["mode"]) == (
        "group-started", group, "direct-serial",
    )  # fmt: skip
    assert (step["event"], step["group"], step["step"]) == ("step-done", group, "part-sb03")
