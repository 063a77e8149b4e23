"""Several at once on one output: each product is published once, and nothing is left of the rest."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.convert import convert_in_order
from contimg_dask.deciding import Request, decide
from contimg_dask.model import ConversionPlan
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.python_api import find_groups
from contimg_dask.settings import Settings
from contimg_dask.staging.sweeping import Leftover, sweep
from contimg_dask.verification import verify
from tests.reference import memory_directory, new_attempt, tile_files

from .conftest import COMMAND, make_groups, tree

# Several commands each, on a machine that may have other things to do.
pytestmark = pytest.mark.timeout(300)

ROUNDS = 20
GROUPS = 6
_SPAWN = multiprocessing.get_context("spawn")


# ------------------------------------------------------------------------- two attempts at one plan


def take_part(racer: int, plans: Sequence[ConversionPlan], barrier: Any, told: Any) -> None:
    """Convert each plan at the same moment as the other racer; say whose product there is then."""
    for number, plan in enumerate(plans):
        barrier.wait(60)
        # Each gets a head start now and then, so that either can win.
        time.sleep(0.004 * (number % 4) if number % 2 == racer else 0)
        try:
            product = convert_in_order(plan, new_attempt(name_of(plan, racer)))
        except Exception as error:  # noqa: BLE001  told in the other process
            told.send(f"{type(error).__name__}: {error}")
        else:
            told.send(product.attempt)


def name_of(plan: ConversionPlan, racer: int) -> str:
    return f"{plan.group_id}.1.racer{racer}"


def race(plans: Sequence[ConversionPlan]) -> list[list[str]]:
    """Have two processes convert each of the plans at once; return what each was told of each."""
    barrier = _SPAWN.Barrier(2)
    pipes = [_SPAWN.Pipe(duplex=False) for _ in range(2)]
    racers = [
        _SPAWN.Process(target=take_part, args=(number, plans, barrier, pipe[1]))
        for number, pipe in enumerate(pipes)
    ]
    for racer in racers:
        racer.start()
    try:
        found = []
        for _ in plans:
            assert all(ours.poll(60) for ours, _ in pipes), "a racer is stuck"
            found.append([ours.recv() for ours, _ in pipes])
        return found
    finally:
        for racer in racers:
            racer.kill()
            racer.join()


@pytest.fixture(scope="module")
def one_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    make_groups(directory, subbands=2, antennas=4, channels=4)
    return directory


@pytest.mark.parametrize("mode", ["direct", "parts", "direct, copied", "parts, copied"])
def test_of_two_attempts_at_one_plan_the_second_is_told_whose_product_there_is(
    one_group: Path, tmp_path: Path, mode: str
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings: dict[str, Any] = {"direct_ms": mode.startswith("direct")}
    if "copied" in mode:
        settings["scratch_dir"] = str(scratch)
    with memory_directory() as outputs:
        plans: list[ConversionPlan] = []
        for number in range(ROUNDS):
            request = Request(output_dir=outputs / str(number), settings=Settings(**settings))
            (plan,) = decide(find_groups(one_group, 2), request)
            assert isinstance(plan, ConversionPlan)
            plans.append(plan)
        won = Counter()
        good = None
        for number, (plan, told) in enumerate(zip(plans, race(plans), strict=True)):
            product = Path(plan.target)
            manifest = read_manifest(product)
            assert manifest is not None
            assert told == [manifest["attempt"]] * 2
            assert manifest["tier"] == ("scratch" if "copied" in mode else "destination")
            assert manifest["attempt"] in [name_of(plan, racer) for racer in range(2)]
            won[manifest["attempt"]] += 1
            out = outputs / str(number)
            day = product.parent
            assert tree(out) == [str(p.relative_to(out)) for p in (day.parent, day, product)]
            good = good or tile_files(product)
            assert tile_files(product) == good
        assert sum(won.values()) == ROUNDS
        assert len(won) == 2, f"that was no race: {won}"
    assert list(scratch.iterdir()) == []


# ------------------------------------------------------------------------------- two whole commands


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("six")
    make_groups(directory, groups=GROUPS, subbands=2, antennas=16, integrations=4)
    return directory


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The temporary directory of the commands."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


def begin(temporary: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )


def end(command: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a command, and return its report."""
    out, err = command.communicate(timeout=100)
    assert "Traceback" not in err
    assert command.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def skipped_late(report: dict[str, Any]) -> int:
    """How many groups were published by the other while this one worked on them, too."""
    reasons = [record["reason"] or {"text": ""} for record in report["groups"]]
    return sum("by another conversion meanwhile" in reason["text"] for reason in reasons)


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {record["id"]: record["outcome"] for record in report["groups"]}


def assert_published(incoming: Path, out: Path) -> list[Path]:
    """Every group has one product that holds its input, and there is nothing else."""
    products = sorted(out.glob("science/*/*.ms"))
    assert len(products) == GROUPS
    for product in products:
        assert verify(product, incoming) == []
    assert tree(out) == sorted(
        ["science", "science/2025-10-05", *(str(path.relative_to(out)) for path in products)]
    )
    return products


@pytest.mark.parametrize("options", ["", "--no-direct-ms", "--stage-to-tmpfs", "--scratch-dir"])
def test_two_conversions_into_one_output_publish_every_group_once(
    incoming: Path, tmp_path: Path, temporary: Path, options: str
) -> None:
    with ExitStack() as stack:
        memory = stack.enter_context(memory_directory())
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        more = {
            "--stage-to-tmpfs": ["--stage-to-tmpfs", "--tmpfs-path", str(memory)],
            "--scratch-dir": ["--scratch-dir", str(scratch)],
        }.get(options, options.split())
        out = tmp_path / "out"
        arguments = ["convert", incoming, out, "--expected-subbands", "2", "--workers", "1"]
        commands = [begin(temporary, *arguments, "--json", *more) for _ in range(2)]
        reports = [end(command) for command in commands]
        assert_published(incoming, out)
        assert [path for root in (memory, scratch) for path in root.rglob("*")] == []
    first, second = (outcomes(report) for report in reports)
    assert {frozenset((first[name], second[name])) for name in first} == {
        frozenset({"published", "skipped"})
    }
    assert sum(map(skipped_late, reports)) > 0, "that was no race"
    assert list(temporary.glob("contimg-dask-*")) == []


def test_two_conversions_that_replace_publish_every_group_and_one_of_them_stays(
    incoming: Path, tmp_path: Path, temporary: Path
) -> None:
    out = tmp_path / "out"
    arguments = [
        "convert", incoming, out, "--expected-subbands", "2", "--workers", "1",
        "--on-existing", "replace", "--json",
    ]  # fmt: skip
    commands = [begin(temporary, *arguments) for _ in range(2)]
    for command in commands:
        assert set(outcomes(end(command)).values()) == {"published"}
    products = assert_published(incoming, out)
    # And once more, over what is there, with other options.
    commands = [begin(temporary, *arguments, "--spw", "single") for _ in range(2)]
    for command in commands:
        assert set(outcomes(end(command)).values()) == {"published"}
    assert assert_published(incoming, out) == products
    for product in products:
        assert (read_manifest(product) or {})["options"]["spw"] == "single"


# ---------------------------------------------------------------------- a sweep beside a conversion


def test_a_sweep_that_never_rests_removes_nothing_that_lives(
    incoming: Path, tmp_path: Path, temporary: Path
) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["convert", incoming, out, "--expected-subbands", "2", "--workers", "2", "--json"]
    conversion = begin(temporary, *arguments, "--scratch-dir", scratch)
    found: list[Leftover] = []
    commands: list[dict[str, Any]] = []

    def sweep_on() -> None:
        while conversion.poll() is None:
            for root in (out, scratch):
                found.extend(sweep(str(root / ".contimg-staging")))

    sweeper = threading.Thread(target=sweep_on)
    sweeper.start()
    try:
        while conversion.poll() is None:
            swept = begin(temporary, "sweep", out, "--scratch-dir", scratch, "--json")
            code_out, code_err = swept.communicate(timeout=60)
            # Before the conversion has made it there is no output to sweep.
            assert swept.returncode == 0 or "no such directory" in code_err, code_err
            if swept.returncode == 0:
                commands.append(json.loads(code_out))
    finally:
        report = end(conversion)
        sweeper.join()
    assert set(outcomes(report).values()) == {"published"}
    assert {record["attempts"] for record in report["groups"]} == {1}
    assert_published(incoming, out)
    assert [left for left in found if left.removed or left.alive is None] == []
    assert len({left.name for left in found}) == GROUPS
    assert commands
    attempts = [attempt for command in commands for attempt in command["attempts"]]
    assert [attempt for attempt in attempts if attempt["alive"] is None] == []
    assert list(scratch.iterdir()) == []
