"""The whole command killed (SIGKILL): whole products stay, and a sweep takes away all the rest."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from contimg_dask.verification import verify
from tests.reference import memory_directory

from .conftest import COMMAND, make_groups, tree

# Several commands each, on a machine that may have other things to do.
pytestmark = pytest.mark.timeout(300)

GROUPS = 6
STAGING = ".contimg-staging"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where commands of a test work: input, output, memory, and their temporary directory."""

    incoming: Path
    out: Path
    memory: Path
    temporary: Path

    @property
    def products(self) -> list[Path]:
        """All that is published."""
        return sorted(self.out.glob("science/*/*.ms"))

    def begin(self, *more: str | Path) -> subprocess.Popen[str]:
        """Start a conversion as a terminal would: leader of a process group of its own."""
        return self.start(
            "convert", self.incoming, self.out, "--expected-subbands", "4", "--workers", "2",
            "--json", *more,
        )  # fmt: skip

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start any command."""
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            start_new_session=True,
        )

    def sweep(self, *more: str) -> list[dict[str, Any]]:
        """Sweep, and return what was found."""
        command = self.start("sweep", self.out, "--tmpfs-path", self.memory, "--json", *more)
        attempts: list[dict[str, Any]] = finish(command)["attempts"]
        return attempts

    def everything(self) -> dict[str, tuple[int, int]]:
        """Inode and size of all there is but locks: to see that nothing was touched."""
        roots = (self.out, self.memory, self.temporary)
        paths = [path for root in roots for path in root.rglob("*") if path.name != ".lock"]
        return {str(path): (os.lstat(path).st_ino, os.lstat(path).st_size) for path in paths}

    def is_accounted_for(self, path: Path, listed: set[Path]) -> bool:
        """Tell whether a path is of a product, of what a sweep lists, or a directory on the way."""
        if listed.union(self.products) & {path, *path.parents}:
            return True
        return path.is_dir() or "dask-scratch-space" in path.parts  # Dask's own, two empty locks

    def assert_nothing_but_products(self) -> None:
        """No byte is left but those of products."""
        days = {path.parent for path in self.products}
        way = {*self.products, *days, *({self.out / "science"} if days else ())}
        left = {self.out / name for name in tree(self.out)} - way
        # An empty directory of the layout is no byte; the next conversion uses it.
        left -= {path for path in left if path.is_dir() and not any(path.rglob("*.*"))}
        assert [str(path) for path in left] == []
        assert [str(path) for path in self.memory.rglob("*")] == []
        assert [str(path) for path in self.temporary.glob("contimg-dask-*")] == []

    def assert_products_are_whole(self) -> None:
        """Each holds its input in every value."""
        for product in self.products:
            assert verify(product, self.incoming) == []

    def assert_converts_to_the_end(self) -> None:
        """Another conversion leaves what is published and publishes the rest."""
        before = {path.stem for path in self.products}
        report = finish(self.begin())
        assert {record["id"]: record["outcome"] == "skipped" for record in report["groups"]} == {
            path.stem: path.stem in before for path in self.products
        }
        assert len(self.products) == GROUPS
        self.assert_products_are_whole()
        self.assert_nothing_but_products()


def finish(command: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a command and return its report."""
    out, err = command.communicate(timeout=100)
    assert command.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, groups=GROUPS, subbands=4, antennas=16, integrations=4, channels=48)
    return directory


@pytest.fixture
def site(incoming: Path, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "out").mkdir()
    with memory_directory() as memory:
        yield Site(
            incoming=incoming,
            out=tmp_path / "out",
            memory=memory,
            temporary=tmp_path / "temporary",
        )


def happens(condition: Callable[[], object], command: subprocess.Popen[str]) -> bool:
    """Wait until something has happened; return False when the command ends before."""
    deadline_s = time.monotonic() + 60
    while not condition():
        if command.poll() is not None:
            return False
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    return command.poll() is None


def caught(site: Site, condition: Callable[[], object], *options: str | Path) -> Any:
    """Start a conversion and return it in the very moment; begin anew when that was missed."""
    for _ in range(5):
        command = site.begin(*options)
        if happens(condition, command):
            return command
        # A moment may be shorter than a busy machine lets this process wait.
        finish(command)
        shutil.rmtree(site.out / "science")
    pytest.fail("the moment was missed again and again")


def family(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """The command's process and all that it has started."""
    process = psutil.Process(command.pid)
    return [process, *process.children(recursive=True)]


def assert_gone(processes: list[psutil.Process], within_s: float) -> None:
    """They have ended, or do so in time."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def kill_all(command: subprocess.Popen[str]) -> None:
    """Kill the command and its workers at one stroke."""
    processes = family(command)
    os.killpg(command.pid, signal.SIGKILL)
    command.communicate(timeout=60)
    assert_gone(processes, 30)


MOMENTS: dict[str, Callable[[Site], object]] = {
    "scratch": lambda site: list(site.temporary.glob("contimg-dask-*-*/*")),
    "opened": lambda site: list(site.out.glob(f"{STAGING}/*.attempt.json")),
    "tiles": lambda site: list(site.memory.glob(f"{STAGING}/*/*.tiles")),
    "copied": lambda site: list(site.out.glob("science/*/.*.incoming*")),
    "published": lambda site: site.products,
    "half": lambda site: len(site.products) >= GROUPS // 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_command_leaves_whole_products_and_a_sweep_nothing_else(
    site: Site, moment: str
) -> None:
    tiers = ("--stage-to-tmpfs", "--tmpfs-path", site.memory)
    command = caught(site, lambda: MOMENTS[moment](site), *tiers)
    kill_all(command)
    assert len(site.products) < GROUPS
    site.assert_products_are_whole()
    before = site.everything()
    told = site.sweep("--dry-run")
    assert site.everything() == before
    assert told
    assert [attempt for attempt in told if attempt["alive"] or attempt["removed"]] == []
    listed = {Path(path) for attempt in told for path in attempt["paths"]}
    assert [path for path in map(Path, before) if not site.is_accounted_for(path, listed)] == []
    done = site.sweep()
    assert {attempt["name"] for attempt in done} == {attempt["name"] for attempt in told}
    assert all(attempt["removed"] for attempt in done)
    site.assert_nothing_but_products()
    if moment in ("copied", "half"):
        site.assert_converts_to_the_end()


@pytest.mark.parametrize("direct", ["--direct-ms", "--no-direct-ms"])
def test_the_next_conversion_sweeps_by_itself_and_publishes_the_rest(
    site: Site, direct: str
) -> None:
    staged = f"{STAGING}/*/*-product.ms"
    command = caught(site, lambda: site.products and list(site.out.glob(staged)), direct)
    kill_all(command)
    assert list(site.out.glob(f"{STAGING}/*"))
    site.assert_converts_to_the_end()


def test_workers_whose_command_is_killed_end_by_themselves(site: Site) -> None:
    tiers = ("--stage-to-tmpfs", "--tmpfs-path", site.memory)
    command = caught(site, lambda: list(site.memory.glob(f"{STAGING}/*/*.tiles")), *tiers)
    processes = family(command)
    assert len(processes) >= 3
    command.kill()
    command.communicate(timeout=60)
    assert_gone(processes, 30)
    site.assert_products_are_whole()
    done = site.sweep()
    assert done
    assert all(attempt["removed"] for attempt in done)
    site.assert_nothing_but_products()


# -------------------------------------------------------------- one of two in one output is killed


@contextmanager
def stopped(site: Site, command: subprocess.Popen[str]) -> Iterator[None]:
    """Let a command and its workers stand still, and none of them hold a lock of a tier."""
    os.killpg(command.pid, signal.SIGSTOP)
    try:
        while any(map(is_locked, [site.out / STAGING, site.memory / STAGING])):
            os.killpg(command.pid, signal.SIGCONT)
            time.sleep(0.01)
            os.killpg(command.pid, signal.SIGSTOP)
        yield
    finally:
        os.killpg(command.pid, signal.SIGCONT)


def is_locked(root: Path) -> bool:
    """Tell whether somebody holds the lock of a tier."""
    try:
        with (root / ".lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def test_a_sweep_tells_the_attempts_of_a_killed_command_from_those_of_one_that_runs(
    site: Site, tmp_path: Path
) -> None:
    tiers = ("--stage-to-tmpfs", "--tmpfs-path", site.memory)
    living = caught(site, lambda: list(site.memory.glob(f"{STAGING}/*/*.tiles")), *tiers)
    with stopped(site, living):
        of_the_living = {path.name for path in site.memory.glob(f"{STAGING}/*/")}
        doomed = site.begin(*tiers, "--no-direct-ms")
        parts = f"{STAGING}/*/*-sb*.ms"
        assert happens(
            lambda: {path.parent.name for path in site.memory.glob(parts)} - of_the_living, doomed
        )
        kill_all(doomed)
        before = site.everything()
        for dry_run in (True, False):
            found = site.sweep(*["--dry-run"] * dry_run)
            alive = {attempt["name"] for attempt in found if attempt["alive"]}
            dead = [attempt for attempt in found if not attempt["alive"]]
            assert alive == of_the_living
            assert dead
            assert all(attempt["removed"] is not dry_run for attempt in dead)
            assert not alive & {attempt["name"] for attempt in dead}
            if dry_run:
                assert site.everything() == before
        untouched = {path for path in before if any(name in path for name in of_the_living)}
        assert untouched <= set(site.everything())
        # Neither side has anything but what belongs to those who live, and their own scratch.
        assert {path.name for path in site.memory.glob(f"{STAGING}/*/")} == of_the_living
        assert len(list(site.temporary.glob("contimg-dask-*"))) == 1
    report = finish(living)
    assert {record["outcome"] for record in report["groups"]} == {"published"}
    assert {record["attempts"] for record in report["groups"]} == {1}
    site.assert_products_are_whole()
    site.assert_nothing_but_products()
