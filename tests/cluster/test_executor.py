"""Groups on real clusters: workers that die, threads, wrong workers, a scheduler of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from contimg_dask import convert_subband_groups_to_ms
from contimg_dask.batch import Request, decide
from contimg_dask.convert import convert_in_order, recipe
from contimg_dask.errors import ClusterError, WorkerLostError
from contimg_dask.execution.cluster import Cluster, connected_cluster, embedded_cluster
from contimg_dask.execution.executor import Completion, DaskExecutor
from contimg_dask.model import ConversionPlan
from contimg_dask.python_api import find_groups
from contimg_dask.settings import Settings
from contimg_dask.verification import verify
from tests.acceptance.conftest import make_groups, run, tree

DASK = str(Path(sys.executable).with_name("dask"))
PRELOAD = ("--preload", "contimg_dask.execution.preload")


class Heard:
    """A listener that runs a function at every event."""

    def __init__(self, at_step: Any = lambda plan, name: None) -> None:
        self.at_step = at_step
        self.events: list[tuple[str, str]] = []

    def group_started(self, plan: ConversionPlan) -> None:
        self.events.append(("started", plan.group_id))

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        self.events.append((name, plan.group_id))
        self.at_step(plan, name)

    def group_done(self, plan: ConversionPlan) -> None:
        self.events.append(("done", plan.group_id))


def plans_of(incoming: Path, out: Path, **settings: Any) -> list[ConversionPlan]:
    request = Request(output_dir=out, settings=Settings(**settings))
    plans = decide(find_groups(incoming, 4), request)
    assert all(isinstance(plan, ConversionPlan) for plan in plans)
    return plans  # type: ignore[return-value]


def execute(
    cluster: Cluster, plans: list[ConversionPlan], heard: Heard, steps: Any = recipe
) -> list[Completion]:
    executor = DaskExecutor(cluster, steps, convert_in_order, heard, groups_per_node=2)
    return list(executor.run(plans))


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, groups=3, subbands=4)
    return directory


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    with embedded_cluster(2, "2GiB", "127.0.0.1:0") as cluster:
        yield cluster


def one_worker_pid() -> int:
    """Process id of a worker of the embedded cluster."""
    workers = [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    return max(workers)


def failing(group_id: str, how: Callable[[], object], *, attempts: int = 2) -> Any:
    """Return the recipe, but for the first attempts of one group, whose only step is ``how``."""

    def recipe_of(plan: ConversionPlan, attempt: Any, run_step: Any) -> Any:
        if plan.group_id == group_id and attempt.number <= attempts:
            return run_step("reduce", how)
        return recipe(plan, attempt, run_step)

    return recipe_of


def execute_pair(
    pair: Cluster, plans: list[ConversionPlan], steps: Any, out: Path
) -> tuple[Completion, Completion]:
    """Run two groups, of which the second must come to its product and nothing must be left."""
    completions = {c.plan.group_id: c for c in execute(pair, plans, Heard(), steps)}
    first, second = (completions[plan.group_id] for plan in plans)
    assert second.product is not None
    assert all("staging" not in name for name in tree(out))
    return first, second


def test_a_worker_killed_in_the_middle_is_survived(
    pair: Cluster, incoming: Path, tmp_path: Path
) -> None:
    killed = []

    def kill_one(plan: ConversionPlan, name: str) -> None:
        if name.startswith("part") and not killed:
            killed.append(one_worker_pid())
            os.kill(killed[0], signal.SIGKILL)

    heard = Heard(kill_one)
    completions = execute(pair, plans_of(incoming, tmp_path), heard)
    assert killed
    assert [completion.error for completion in completions] == [None, None, None]
    assert [event for event, _ in heard.events].count("done") == 3
    for completion in completions:
        assert completion.product is not None
        assert verify(Path(completion.product.path), incoming) == []
    assert all("staging" not in name for name in tree(tmp_path))


def test_a_group_whose_worker_dies_is_run_once_more(
    pair: Cluster, incoming: Path, tmp_path: Path
) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    plans = plans_of(incoming, tmp_path)[:2]
    unlucky, _ = execute_pair(pair, plans, failing(plans[0].group_id, die, attempts=1), tmp_path)
    assert unlucky.product is not None
    assert unlucky.attempts == 2


def test_a_group_that_kills_its_worker_twice_fails_and_the_others_go_on(
    pair: Cluster, incoming: Path, tmp_path: Path
) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    plans = plans_of(incoming, tmp_path)[:2]
    deadly, _ = execute_pair(pair, plans, failing(plans[0].group_id, die), tmp_path)
    assert isinstance(deadly.error, WorkerLostError)
    assert deadly.attempts == 2


def test_an_error_nobody_foresaw_fails_its_group_only(
    pair: Cluster, incoming: Path, tmp_path: Path
) -> None:
    def divide() -> float:
        return 1 / 0

    plans = plans_of(incoming, tmp_path)[:2]
    odd, _ = execute_pair(pair, plans, failing(plans[0].group_id, divide), tmp_path)
    assert odd.error is not None
    assert (odd.error.code, "ZeroDivisionError" in str(odd.error)) == ("internal-error", True)
    assert odd.attempts == 1


def test_leaving_the_loop_early_leaves_nothing_behind(incoming: Path, tmp_path: Path) -> None:
    with embedded_cluster(1, "2GiB", "127.0.0.1:0") as cluster:
        executor = DaskExecutor(cluster, recipe, convert_in_order, Heard(), groups_per_node=2)
        completions = executor.run(plans_of(incoming, tmp_path))
        first = next(completions)
        completions.close()  # type: ignore[attr-defined]
    assert first.product is not None
    assert all("staging" not in name for name in tree(tmp_path))
    assert len(list(tmp_path.glob("science/*/*.ms"))) <= 2


@contextmanager
def dask_process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [DASK, *arguments],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler of its own on loopback, through the real command."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    options = (
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    )
    with (
        dask_process("scheduler", *options),
        Client(scheduler_file=str(file), timeout=60) as client,
    ):
        yield str(client.scheduler_info()["address"])


@contextmanager
def worker(scheduler: str, *arguments: str, **environment: str) -> Iterator[None]:
    with (
        dask_process(
            "worker", scheduler, "--host", "127.0.0.1", "--no-dashboard", "--no-nanny",
            *arguments, **environment,
        ),
        Client(scheduler) as client,
    ):  # fmt: skip
        client.wait_for_workers(1, timeout=60)
        yield
    with Client(scheduler) as client:
        while client.scheduler_info()["workers"]:
            pass


def test_a_running_scheduler_and_a_worker_with_threads_are_used_safely(
    scheduler: str, incoming: Path, tmp_path: Path
) -> None:
    with worker(scheduler, "--nthreads", "4", *PRELOAD):
        options = ("--expected-subbands", "4", "--json", "--scheduler", scheduler)
        done = run("convert", incoming, tmp_path, *options)
        assert done.code == 0, done.err
        assert done.report["counts"]["published"] == 3
        assert done.group("2025-10-05T03:12:06")["node"]
        for product in tmp_path.glob("science/*/*.ms"):
            assert verify(product, incoming) == []
        with Client(scheduler) as client:
            assert len(client.scheduler_info()["workers"]) == 1, "the cluster is somebody else's"


def test_workers_without_the_package_or_with_another_version_are_refused(
    scheduler: str, incoming: Path, tmp_path: Path
) -> None:
    lacking, other = tmp_path / "lacking", tmp_path / "other"
    lacking.mkdir()
    (lacking / "contimg_dask.py").write_text("raise ImportError('not here')")
    metadata = other / "contimg_dask-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: contimg-dask\nVersion: 9.9\n")
    for path, code in ((lacking, "worker-without-package"), (other, "worker-version")):
        with worker(scheduler, "--nthreads", "1", PYTHONPATH=str(path)):
            with pytest.raises(ClusterError) as caught, connected_cluster(scheduler):
                pass
            assert caught.value.code == code
            assert "\n" not in str(caught.value)
    done = run("convert", incoming, tmp_path / "out", "--expected-subbands", "4",
               "--scheduler", scheduler)  # fmt: skip
    assert done.code == 1
    assert "has no workers" in done.err
    assert "Traceback" not in done.err


def test_a_scheduler_that_is_not_there_is_one_clear_line(incoming: Path, tmp_path: Path) -> None:
    done = run("convert", incoming, tmp_path, "--expected-subbands", "4",
               "--scheduler", "tcp://127.0.0.1:1")  # fmt: skip
    assert done.code == 1
    assert "no Dask scheduler answers" in done.err
    assert "Traceback" not in done.err


def test_a_cluster_in_this_process_is_used_safely_too(incoming: Path, tmp_path: Path) -> None:
    with Client(
        n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None
    ) as client:
        records = convert_subband_groups_to_ms(
            incoming, tmp_path, expected_subbands=4, client=client
        )
    assert [record["outcome"] for record in records] == ["published"] * 3


def test_a_scheduler_that_dies_ends_the_run_with_a_reason_for_every_group(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    incoming, out = tmp_path / "in", tmp_path / "out"
    make_groups(incoming, groups=8, subbands=4, antennas=24, integrations=8, channels=48)
    file = tmp_path_factory.mktemp("doomed") / "scheduler.json"
    options = (
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    )
    with dask_process("scheduler", *options) as process:
        with Client(scheduler_file=str(file), timeout=60) as client:
            address = str(client.scheduler_info()["address"])
        worker_options = ("--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--nthreads", "1")
        with dask_process("worker", address, *worker_options, *PRELOAD):
            with Client(address) as client:
                client.wait_for_workers(1, timeout=60)

            def kill_scheduler(plan: ConversionPlan, name: str) -> None:
                if name.startswith("part") and process.poll() is None:
                    process.kill()
                    process.wait()

            with connected_cluster(address) as cluster:
                completions = execute(cluster, plans_of(incoming, out), Heard(kill_scheduler))
    assert len(completions) == 8
    errors = [completion.error for completion in completions if completion.product is None]
    assert errors
    assert {error.code for error in errors if error is not None} == {"scheduler-lost"}
    assert all("staging" not in name for name in tree(out))
