"""No more processes read from one device at the same time than were allowed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from contimg_dask.uvh5.readers import reader_slot


def read_once(path: str, most: int | None, log: str, hold_s: float) -> None:
    with reader_slot(path, most), open(log, "a", buffering=1) as file:
        file.write(f"{time.monotonic()} 1\n")
        time.sleep(hold_s)
        file.write(f"{time.monotonic()} -1\n")


def most_at_once(log: Path) -> int:
    events = sorted(
        (float(at), int(change))
        for at, change in (line.split() for line in log.read_text().splitlines())
    )
    running, most = 0, 0
    for _, change in events:
        running += change
        most = max(most, running)
    return most


@pytest.mark.parametrize(("bound", "expected"), [(1, 1), (2, 2), (None, 4)])
def test_readers_of_a_device_are_bounded(tmp_path: Path, bound: int | None, expected: int) -> None:
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("fork")
    readers = [
        spawn.Process(target=read_once, args=(str(tmp_path), bound, str(log), 0.4))
        for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert most_at_once(log) == expected


def test_a_reader_that_is_killed_gives_its_place_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fork = multiprocessing.get_context("fork")
    stuck = fork.Process(target=read_once, args=(str(tmp_path), 1, str(log), 60.0))
    stuck.start()
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    assert stuck.pid is not None
    os.kill(stuck.pid, signal.SIGKILL)
    stuck.join(10)
    start_s = time.monotonic()
    read_once(str(tmp_path), 1, str(log), 0.0)
    assert time.monotonic() - start_s < 5
