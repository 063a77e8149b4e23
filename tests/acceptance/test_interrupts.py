"""Ctrl-C and SIGTERM at any moment: stopped within seconds, published is whole, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from contimg_dask.publishing.manifest import read_manifest

from .conftest import COMMAND, make_groups, tree

STOP_LIMIT_S = 20


def begin(incoming: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a conversion as a terminal would: leader of a process group of its own."""
    return subprocess.Popen(
        [COMMAND, "convert", incoming, out, "--expected-subbands", "4", "--json", "--workers", "1",
         *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the command ended before it could be interrupted"
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("moment", "number", "times", "options"),
    [
        ("starting", signal.SIGINT, 1, []),
        # Another thread, which the system may choose to give the signal to.
        ("starting", signal.SIGINT, 1, ["--on-published", "true"]),
        ("first", signal.SIGINT, 1, []),
        ("first", signal.SIGINT, 20, []),
        ("published", signal.SIGINT, 1, []),
        ("published", signal.SIGTERM, 1, []),
        ("published", signal.SIGTERM, 20, ["--on-published", "true"]),
    ],
)
def test_an_interrupted_conversion_leaves_whole_products_and_nothing_else(
    moment: str, number: signal.Signals, times: int, options: list[str], tmp_path: Path
) -> None:
    incoming, out = tmp_path / "in", tmp_path / "out"
    make_groups(incoming, groups=12, subbands=4, antennas=24, integrations=8, channels=48)
    process = begin(incoming, out, *options)
    wait_for(
        {
            "starting": lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 2,
            "first": lambda: list(out.glob(".contimg-staging/*/*.tiles")),
            "published": lambda: list(out.glob("science/*/*.ms")),
        }[moment],
        process,
    )
    workers = psutil.Process(process.pid).children(recursive=True)
    start_s = time.monotonic()
    for _ in range(times):
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal's Ctrl-C goes to every process
        else:
            process.send_signal(number)
        time.sleep(0.02)
    stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - start_s < STOP_LIMIT_S
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    published = [g["path"] for g in json.loads(stdout)["groups"] if g["outcome"] == "published"]
    products = sorted(str(path) for path in out.glob("science/*/*.ms"))
    # One may have been published in the very moment, and not have been heard of any more.
    assert set(published) <= set(products)
    assert len(products) - len(published) <= 1
    assert len(products) < 12
    assert all(read_manifest(Path(path)) for path in products)
    assert [name for name in tree(out) if "science" not in name] == [] if out.exists() else True
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == [], gone
