"""What the service manager hears, on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contimg_dask.settings import notify_address, watchdog_s
from contimg_dask.stream.notifying import Notifier, Pulse


@pytest.fixture(params=["path", "abstract"])
def listening(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        if request.param == "path":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            listener.bind("")
            address = f"@{listener.getsockname()[1:].decode()}"
        yield address, listener


def heard(listener: socket.socket) -> dict[str, str]:
    lines = listener.recv(4096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_it_hears_that_we_are_ready_well_and_stopping(
    listening: tuple[str, socket.socket],
) -> None:
    address, listener = listening
    pulse = Pulse()
    pulse.beat("ingest")
    notifier = Notifier(address, 0.1, pulse, lambda: "watching")
    notifier.ready()
    assert heard(listener) == {"READY": "1", "STATUS": "watching"}
    for _ in range(3):
        assert heard(listener) == {"STATUS": "watching", "WATCHDOG": "1"}
    notifier.close()
    notifier.stopping()
    last = heard(listener)
    while "WATCHDOG" in last:
        last = heard(listener)
    assert last == {"STOPPING": "1"}


def test_a_part_that_is_stuck_keeps_the_watchdog_silent(
    listening: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, listener = listening
    pulse = Pulse()
    pulse.beat("ingest")
    pulse.beat("dispatcher")
    later_s = time.monotonic() + 3600
    notifier = Notifier(address, 0.1, pulse, lambda: "watching")
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    pulse.beat("dispatcher")
    notifier.ready()
    assert heard(listener)["READY"] == "1"
    assert heard(listener) == {"STATUS": "stuck: ingest"}
    pulse.stop("ingest")  # it has nothing to do any more
    while "WATCHDOG" not in heard(listener):
        pass
    notifier.close()


def test_without_a_manager_nothing_is_said_and_nothing_breaks() -> None:
    notifier = Notifier(None, None, Pulse(), lambda: "watching")
    notifier.ready()
    notifier.stopping()
    notifier.close()


def test_a_manager_that_has_gone_does_not_end_us(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "nobody"), 0.1, Pulse(), lambda: "watching")
    notifier.ready()
    notifier.close()


def test_the_manager_says_where_it_listens_and_how_often() -> None:
    assert notify_address({}) is None
    assert notify_address({"NOTIFY_SOCKET": "@here"}) == "@here"
    assert watchdog_s({}) is None
    assert watchdog_s({"WATCHDOG_USEC": "30000000"}) == 30.0
    assert watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None  # another process
