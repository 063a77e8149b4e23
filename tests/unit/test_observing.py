"""Who watches the steps: nobody by default, and never at the cost of a conversion."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.deploy.worker_figures import BUCKETS_S, Histogram, WorkerFigures
from contimg_dask.errors import InputError
from contimg_dask.execution.observing import observe_no_more, observe_with, observed
from contimg_dask.model import Tier
from contimg_dask.staging.attempts import open_attempt
from contimg_dask.staging.reserving import usage_of
from tests.unit.plans import BLOCK, ID, MB, attempt_called, bare_plan, write_blocks

ATTEMPT = attempt_called(f"{ID}.1.00000000")


class Heard:
    """An observer that remembers, or breaks."""

    def __init__(self, broken: bool = False) -> None:
        self.events: list[Any] = []
        self.broken = broken

    def note(self, *facts: Any) -> None:
        self.events.append(facts)
        if self.broken:
            raise ZeroDivisionError

    def step_began(self, plan: Any, attempt: Any, step: str) -> None:
        self.note("began", step)

    def step_done(self, plan: Any, attempt: Any, step: str, seconds: float, result: Any) -> None:
        assert seconds >= 0
        self.note("done", step, result)

    def step_failed(self, plan: Any, attempt: Any, step: str, seconds: float, error: Any) -> None:
        self.note("failed", step, error.code)


@pytest.fixture(params=[False, True], ids=["well", "broken"])
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    observer = Heard(broken=request.param)
    observe_with(observer)
    observe_with(observer)
    yield observer
    observe_no_more(observer)


def test_an_observer_hears_every_step_once_and_cannot_hurt_it(heard: Heard, tmp_path: Path) -> None:
    @observed("part")
    def step(plan: Any, attempt: Any, value: int) -> int:
        if value < 0:
            raise InputError("bad")
        return value

    plan = bare_plan(tmp_path)
    assert step(plan, ATTEMPT, 7) == 7
    with pytest.raises(InputError):
        step(plan, ATTEMPT, -1)
    assert heard.events == [
        ("began", "part"), ("done", "part", 7), ("began", "part"), ("failed", "part", InputError.code)
    ]  # fmt: skip


def test_without_the_preloads_nothing_of_monitoring_is_loaded() -> None:
    code = (
        "import contimg_dask.execution.preload, contimg_dask.execution.runner, sys\n"
        "print([m for m in sys.modules if m.startswith('prometheus_client') or 'deploy' in m"
        " and m.startswith('contimg_dask')])\n"
        "from contimg_dask.execution.observing import _OBSERVERS; print(_OBSERVERS)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    # Dask itself loads it where it is installed, for its own figures.
    assert "contimg_dask" not in lines[0]
    assert lines[1] == "[]"


def test_metrics_are_left_out_where_prometheus_client_is_not_installed() -> None:
    code = (
        "import sys, logging; logging.basicConfig()\n"
        "sys.modules['prometheus_client'] = None\n"
        "import contimg_dask.deploy.worker_metrics, contimg_dask.deploy.scheduler_metrics"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'contimg-dask[metrics]'" in done.stderr


def test_a_histogram_counts_a_value_below_its_bound() -> None:
    histogram = Histogram()
    for seconds in (0.05, 0.1, 0.11, 1e6):
        histogram.add(seconds)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-1] == 1
    assert len(histogram.counts) == len(BUCKETS_S) + 1
    assert histogram.sum_s == pytest.approx(1e6 + 0.26)


def test_how_a_tier_stands_is_told_without_making_or_locking_anything(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tier = Tier(name="scratch", root=str(scratch / ".contimg-staging"), budget_bytes=10 * MB)
    assert usage_of(tier).promised_bytes == 0
    assert list(scratch.iterdir()) == []
    plan = bare_plan(tmp_path / "out", tier)
    files = open_attempt(plan, ATTEMPT)
    write_blocks(Path(files.directory) / "file", 3)
    found = usage_of(tier)
    assert (found.promised_bytes, found.used_bytes) == (2 * MB, 3 * BLOCK)
    assert found.free_bytes == 10 * MB - 2 * MB


class Worker:
    """A worker, as far as figures look at it."""

    address = "tcp://127.0.0.1:4000"

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.events: list[Any] = []

    def log_event(self, topic: str, message: Any) -> None:
        self.events.append((topic, message))


def test_a_failure_is_counted_by_its_reason_and_told_to_the_scheduler(tmp_path: Path) -> None:
    figures, worker = WorkerFigures(), Worker()
    threads = threading.active_count()
    figures.attach(worker)
    figures.attach(worker)
    assert threading.active_count() == threads + 1
    figures.step_failed(bare_plan(tmp_path), ATTEMPT, "part", 0.1, InputError("no such file"))
    figures.step_failed(bare_plan(tmp_path), ATTEMPT, "part", 0.1, InputError("x" * 9999))
    figures.detach()
    assert figures.counts.failures == {("part", InputError.code): 2}
    (topic, first), (_, second) = worker.events
    assert topic == "contimg"
    assert first == {
        "kind": "failed", "group": ID, "step": "part", "code": InputError.code,
        "text": "no such file", "node": "127.0.0.1",
    }  # fmt: skip
    assert len(second["text"]) == 300
    assert worker.metrics["contimg"](worker)["node"] is None
