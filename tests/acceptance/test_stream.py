"""The daemon, as it is run: files come, it is killed and stopped; what becomes of every group."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.catalogue import groups, leases
from contimg_dask.catalogue.opening import open_catalogue
from tests.acceptance.conftest import COMMAND, make_groups, run
from tests.backlog import contimg
from tests.observing import USUAL, make_night, observe_night
from tests.services import until

TINY = {"subbands": 2, "antennas": 4, "integrations": 2, "channels": 4}


@pytest.mark.slow
def test_a_night_with_every_trouble_and_two_kills_ends_with_every_group_treated_by_rule(
    tmp_path: Path,
) -> None:
    """The short form of benchmarks/stream.py."""
    troubles = [(number, kind) for number, kind in enumerate(USUAL, start=1)]
    night = make_night(tmp_path / "made", len(USUAL) + 3, 5, troubles, integrations=4)
    seen = observe_night(tmp_path / "site", night, cadence_s=1.0, kill_at=(6.0, 14.0))
    assert seen.kills == 2
    assert len(seen.latencies_s) >= 5
    assert all(latency_s > 0 for latency_s in seen.latencies_s)
    # What a killed daemon has open is closed; what one has open does not grow.
    assert max(seen.descriptors) < 200
    lines = (tmp_path / "site/stream.log").read_text().splitlines()
    # Python itself says what a killed process has left.
    said = [json.loads(line) for line in lines if line.startswith("{")]
    actions = {line["action"] for line in said}
    assert {"stream-started", "group-queued", "group-published", "group-failed"} <= actions


@contextmanager
def streaming(site: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the daemon while the block runs."""
    (site / "incoming").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [
            COMMAND, "stream", "--input", str(site / "incoming"), "--output",
            str(site / "products"), "--catalogue", str(site / "catalogue.sqlite"),
            "--expected-subbands", "2", "--workers", "1", *arguments,
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def _environment(more: dict[str, str]) -> dict[str, str]:
    import os

    return os.environ | more


def bring(made: Path, incoming: Path) -> None:
    for path in sorted(made.iterdir()):
        hidden = incoming / f".{path.name}.aBcDeF"
        shutil.copyfile(path, hidden)
        hidden.rename(incoming / path.name)


def states(site: Path) -> list[str]:
    with open_catalogue(str(site / "catalogue.sqlite")) as catalogue:
        return [row.state for row in groups.list_groups(catalogue)]


def test_the_service_manager_hears_of_it_and_status_shows_it(tmp_path: Path) -> None:
    make_groups(tmp_path / "made", groups=1, **TINY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with streaming(tmp_path, **told) as process:
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=watching")
            bring(tmp_path / "made", tmp_path / "incoming")
            until(lambda: states(tmp_path) == ["published"], 60)
            until(lambda: b"WATCHDOG=1" in manager.recv(4096), 20)
            catalogue = str(tmp_path / "catalogue.sqlite")
            status = contimg("status", catalogue=catalogue)
            (stream,) = status["streams"]
            assert stream["facts"]["files"] == 2
            assert stream["facts"]["by"] == "events"
            assert status["live_latency"]["groups"] == 1
            (group,) = contimg("groups", catalogue=catalogue)["groups"]
            assert group["latency_s"] == pytest.approx(status["live_latency"]["median_s"])
            shown = run("status", "--catalogue", catalogue).out
            assert f"stream: watching {tmp_path / 'incoming'} by events; 2 files" in shown
            process.send_signal(signal.SIGTERM)
            until(lambda: b"STOPPING=1" in manager.recv(4096), 60)
            # Asked once: a second request may meet Python on its way out.
            assert process.wait(60) == 0
    assert contimg("status", catalogue=catalogue)["streams"] == []
    assert "NO STREAM follows" in run("status", "--catalogue", catalogue).out


def test_a_second_stream_of_a_directory_is_refused_and_one_of_another_leaves_the_work_to_the_first(
    tmp_path: Path,
) -> None:
    make_groups(tmp_path / "made", groups=1, **TINY)
    first, other = tmp_path / "first", tmp_path / "other"
    with streaming(first, "--catalogue", str(tmp_path / "c.sqlite")) as one:
        until(lambda: _dispatcher(tmp_path), 60)
        second = run(
            "stream", "--input", first / "incoming", "--output", first / "products",
            "--catalogue", tmp_path / "c.sqlite",
        )  # fmt: skip
        assert second.code == 1
        assert f"the stream {first / 'incoming'} lease is held by process {one.pid}" in second.err
        with streaming(other, "--catalogue", str(tmp_path / "c.sqlite")) as two:
            bring(tmp_path / "made", other / "incoming")
            until(lambda: list((other / "products").glob("science/*/*.ms")), 60)
            one.send_signal(signal.SIGTERM)
            assert one.wait(60) == 0
            # The first has ended: the second takes over.
            until(lambda: f"process {two.pid} " in (_dispatcher(tmp_path) or ""), 60)
    said = two.stderr.read() if two.stderr is not None else ""
    assert "another dispatcher works on this catalogue" in said


def _dispatcher(site: Path) -> str | None:
    """Who dispatches, as soon as there is a catalogue to say so."""
    done = run("status", "--json", "--catalogue", site / "c.sqlite")
    dispatcher: dict[str, Any] | None = done.report["dispatcher"] if done.code == 0 else None
    return None if dispatcher is None else str(dispatcher["holder"])


def test_a_disk_that_would_get_full_holds_the_queue_until_there_is_room(tmp_path: Path) -> None:
    make_groups(tmp_path / "made", groups=1, **TINY)
    with streaming(tmp_path, "--disk-reserve", "500TB"):
        bring(tmp_path / "made", tmp_path / "incoming")
        catalogue = str(tmp_path / "catalogue.sqlite")
        assert until(lambda: _held(catalogue), 60) == "no-space"
        assert "waiting: " in run("status", "--catalogue", catalogue).out
        (group,) = contimg("groups", catalogue=catalogue)["groups"]
        assert (group["state"], group["attempts"]) == ("queued", 0)


def _held(catalogue: str) -> str | None:
    with open_catalogue(catalogue) as opened:
        lease = leases.current(opened, "dispatcher")
    return None if lease is None else lease.facts.get("held")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "nowhere", "--output", "out"), "No such file or directory"),
        (("--output", "out"), "Missing option '--input'"),
        (("--input", ".", "--output", "out", "--collecting-timeout", "-1"), "from 0 to"),
        (
            ("--input", ".", "--output", "out", "--min-subbands", "17"),
            "min_subbands is 17",
        ),
        (("--input", ".", "--output", "out", "--log-format", "xml"), "'xml' is not one of"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_in_a_line(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run("stream", *arguments, "--catalogue", tmp_path / "c.sqlite", cwd=tmp_path)
    assert done.code in (1, 2)
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_stop_in_the_first_second_is_a_clean_one(tmp_path: Path) -> None:
    with streaming(tmp_path) as process:
        until(lambda: (tmp_path / "catalogue.sqlite").exists(), 60)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
