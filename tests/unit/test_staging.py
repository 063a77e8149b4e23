"""Where a product is made: a tier with room for it, and a directory per attempt that goes away."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from contimg_dask import staging
from contimg_dask.errors import NoSpaceError, OutputError
from contimg_dask.naming import STAGING_DIRECTORY
from contimg_dask.staging import (
    check_room,
    choose_tier,
    open_attempt_directory,
    remove_attempt_directory,
    usable_bytes,
)

MB = 1_000_000
GB = 1_000_000_000


class Room:
    """Stands in for `usable_bytes`: how much each place has [bytes]."""

    def __init__(self, **places: int) -> None:
        self.places = places
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, directory: Path, *, tmpfs: bool) -> int:
        self.asked.append((str(directory), tmpfs))
        return self.places[str(directory).strip("/")]


# ------------------------------------------------------------------------------------- tiers

CHOICES: dict[str, tuple[dict[str, int], tuple[str | None, str | None], int, str, list[str]]] = {
    # room per place, (tmpfs, scratch) asked for, groups at once, tier, numbers in the reason
    "nothing asked for": ({"out": 9 * GB}, (None, None), 1, "destination", ["default"]),
    "tmpfs has room": ({"shm": 3 * GB}, ("/shm", None), 1, "tmpfs", ["2,000.0 MB", "3,000.0 MB"]),
    "tmpfs is filled to the last byte": ({"shm": 2 * GB}, ("/shm", None), 1, "tmpfs", []),
    "tmpfs lacks a byte": (
        {"shm": 2 * GB - 1, "out": 9 * GB},
        ("/shm", None),
        1,
        "destination",
        ["tmpfs", "2,000.0 MB"],
    ),
    "tmpfs has room, but not for two": (
        {"shm": 3 * GB, "out": 9 * GB},
        ("/shm", None),
        2,
        "destination",
        ["tmpfs", "3,000.0 MB", "4,000.0 MB"],
    ),
    "scratch has room": ({"ssd": 3 * GB}, (None, "/ssd"), 1, "scratch", ["3,000.0 MB"]),
    "tmpfs goes before scratch": (
        {"shm": 3 * GB, "ssd": 9 * GB},
        ("/shm", "/ssd"),
        1,
        "tmpfs",
        ["3,000.0 MB"],
    ),
    "tmpfs is full, scratch is not": (
        {"shm": 1 * GB, "ssd": 3 * GB},
        ("/shm", "/ssd"),
        1,
        "scratch",
        ["3,000.0 MB"],
    ),
    "both are full": (
        {"shm": 1 * GB, "ssd": MB, "out": 9 * GB},
        ("/shm", "/ssd"),
        1,
        "destination",
        ["tmpfs", "1,000.0 MB", "scratch", "1.0 MB", "2,000.0 MB"],
    ),
}


@pytest.mark.parametrize(
    ("places", "asked", "at_once", "tier", "said"), CHOICES.values(), ids=CHOICES.keys()
)
def test_the_first_tier_with_room_is_taken_and_the_reason_has_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
    places: dict[str, int],
    asked: tuple[str | None, str | None],
    at_once: int,
    tier: str,
    said: list[str],
) -> None:
    room = Room(**places)
    monkeypatch.setattr(staging, "usable_bytes", room)
    choice = choose_tier(
        Path("/out"), 2 * GB, at_once=at_once, tmpfs_path=asked[0], scratch_dir=asked[1]
    )
    assert choice.tier == tier
    directory = {"destination": "/out", "tmpfs": "/shm", "scratch": "/ssd"}[tier]
    assert choice.root == f"{directory}/{STAGING_DIRECTORY}"
    assert all(text in choice.reason for text in said), choice.reason
    # Memory counts for tmpfs, and for nothing else.
    assert all(tmpfs == (place == "/shm") for place, tmpfs in room.asked)


@pytest.mark.parametrize("asked", [(None, None), ("/shm", "/ssd")])
def test_a_group_that_fits_nowhere_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[str | None, str | None]
) -> None:
    monkeypatch.setattr(staging, "usable_bytes", Room(shm=1, ssd=1, out=1500 * MB))
    with pytest.raises(NoSpaceError) as caught:
        choose_tier(Path("/out"), 2 * GB, tmpfs_path=asked[0], scratch_dir=asked[1])
    assert "1,500.0 MB" in str(caught.value)
    assert "2,000.0 MB" in str(caught.value)
    assert (caught.value.code, caught.value.path) == ("no-space", "/out")


def test_room_is_checked_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "usable_bytes", Room(out=GB))
    check_room(Path("/out"), GB)
    with pytest.raises(NoSpaceError, match=r"1,000\.0 MB to use"):
        check_room(Path("/out"), GB + 1)


# ----------------------------------------------------------------------------- what may be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine has free [bytes]; None: there is no memory cgroup, or it has no limit."""

    disk: int
    memory: int
    cgroup_limit: int | None = None
    cgroup_used: int | None = None


class FileSystem:
    """What statvfs says of a file system with this much free for everyone but root."""

    def __init__(self, free: int) -> None:
        self.f_frsize = 1
        self.f_bavail = free
        self.f_bfree = 2 * free
        self.f_bsize = 4096


@pytest.mark.parametrize(
    ("machine", "disk_usable", "tmpfs_usable"),
    [
        (Machine(disk=1000, memory=2000), 800, 800),
        (Machine(disk=1000, memory=500), 800, 400),
        (Machine(disk=1000, memory=2000, cgroup_limit=900, cgroup_used=300), 800, 480),
        (Machine(disk=1000, memory=500, cgroup_limit=900, cgroup_used=300), 800, 400),
        (Machine(disk=1000, memory=2000, cgroup_limit=9000, cgroup_used=300), 800, 800),
        (Machine(disk=1000, memory=2000, cgroup_used=300), 800, 800),
        (Machine(disk=0, memory=2000), 0, 0),
    ],
)
def test_four_fifths_of_what_is_free_may_be_used_of_tmpfs_also_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    machine: Machine,
    disk_usable: int,
    tmpfs_usable: int,
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: FileSystem(machine.disk))
    monkeypatch.setattr(staging, "_available_memory_bytes", lambda: machine.memory)
    monkeypatch.setattr(staging, "_CGROUP_LIMIT", tmp_path / "max")
    monkeypatch.setattr(staging, "_CGROUP_USED", tmp_path / "current")
    if machine.cgroup_used is not None:
        limit = "max" if machine.cgroup_limit is None else str(machine.cgroup_limit)
        (tmp_path / "max").write_text(f"{limit}\n")
        (tmp_path / "current").write_text(f"{machine.cgroup_used}\n")
    assert usable_bytes(tmp_path, tmpfs=False) == disk_usable
    assert usable_bytes(tmp_path, tmpfs=True) == tmpfs_usable


def test_this_machine_has_memory() -> None:
    assert MB < usable_bytes(Path("/dev/shm"), tmpfs=True) < 10**15


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A real tmpfs of 8 MiB."""
    mount = tmp_path / "tmpfs"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "contimg-test", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems can not be mounted here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_real_tmpfs_is_taken_while_there_is_room_in_it(small_tmpfs: Path, tmp_path: Path) -> None:
    def choose() -> staging.TierChoice:
        return choose_tier(tmp_path, 4 * MB, tmpfs_path=str(small_tmpfs))

    assert usable_bytes(small_tmpfs, tmpfs=True) == int(0.8 * 8 * 1024**2)
    assert choose().tier == "tmpfs"
    (small_tmpfs / "other").write_bytes(bytes(4 * MB))
    assert choose().tier == "destination"
    assert choose().root == str(tmp_path / STAGING_DIRECTORY)
    assert "tmpfs has 3.5 MB to use, 4.0 MB needed" in choose().reason
    (small_tmpfs / "other").unlink()
    assert choose().tier == "tmpfs"


def test_a_full_destination_is_refused(small_tmpfs: Path) -> None:
    with pytest.raises(NoSpaceError, match=r"6\.7 MB to use .* 8\.0 MB needed"):
        choose_tier(small_tmpfs, 8 * MB)


def test_a_directory_that_is_not_there_yet_has_the_room_of_the_one_above(
    small_tmpfs: Path,
) -> None:
    below = usable_bytes(small_tmpfs / "not" / "there", tmpfs=False)
    assert below == usable_bytes(small_tmpfs, tmpfs=False)
    assert choose_tier(small_tmpfs / "not" / "there", MB).tier == "destination"
    assert not (small_tmpfs / "not").exists()


# ------------------------------------------------------------------------- attempts' directories


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out" / STAGING_DIRECTORY


def test_an_attempt_gets_a_directory_of_its_own(root: Path) -> None:
    open_attempt_directory(str(root / "a"))
    open_attempt_directory(str(root / "b"))
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]


def test_an_attempt_can_be_begun_only_once(root: Path) -> None:
    open_attempt_directory(str(root / "a"))
    (root / "a" / "mine").write_bytes(b"mine")
    with pytest.raises(OutputError) as caught:
        open_attempt_directory(str(root / "a"))
    assert caught.value.code == "attempt-repeated"
    assert str(root / "a") in str(caught.value)
    assert (root / "a" / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("in_the_way", ["output", "staging", "staging link"])
def test_a_file_where_the_directories_belong_makes_the_output_unwritable(
    root: Path, in_the_way: str
) -> None:
    if in_the_way == "output":
        root.parent.write_bytes(b"")
    else:
        root.parent.mkdir()
        if in_the_way == "staging":
            root.write_bytes(b"")
        else:
            root.symlink_to("nowhere")
    with pytest.raises(OutputError) as caught:
        open_attempt_directory(str(root / "a"))
    assert caught.value.code == "unwritable-output"


def test_an_output_directory_without_permission_is_unwritable(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    output = open_directory / "out"
    output.mkdir()
    output.chmod(0o555)
    with without_rights(), pytest.raises(OutputError, match="permissions") as caught:
        open_attempt_directory(str(output / STAGING_DIRECTORY / "a"))
    assert caught.value.code == "unwritable-output"
    assert list(output.iterdir()) == []


def test_everything_an_attempt_wrote_is_removed_and_the_empty_staging_directory_too(
    root: Path,
) -> None:
    open_attempt_directory(str(root / "a"))
    (root / "a" / "product.ms" / "SOURCE").mkdir(parents=True)
    (root / "a" / "product.ms" / "SOURCE" / "table.dat").write_bytes(b"x")
    (root / "a" / "link").symlink_to(root)
    remove_attempt_directory(str(root / "a"))
    assert not root.exists()
    assert root.parent.is_dir()


def test_another_attempts_directory_stays_and_so_does_the_staging_directory(root: Path) -> None:
    open_attempt_directory(str(root / "a"))
    open_attempt_directory(str(root / "b"))
    remove_attempt_directory(str(root / "a"))
    assert [path.name for path in root.iterdir()] == ["b"]
    remove_attempt_directory(str(root / "b"))
    assert not root.exists()


def test_an_attempt_may_be_removed_twice_and_before_it_began(root: Path) -> None:
    remove_attempt_directory(str(root / "a"))
    open_attempt_directory(str(root / "a"))
    remove_attempt_directory(str(root / "a"))
    remove_attempt_directory(str(root / "a"))
    assert not root.exists()


def test_what_a_link_in_an_attempt_leads_to_is_not_removed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "sb00").write_bytes(b"x")
    open_attempt_directory(str(root / "a"))
    (root / "a" / "in").symlink_to(tmp_path / "input")
    remove_attempt_directory(str(root / "a"))
    assert (tmp_path / "input" / "sb00").read_bytes() == b"x"


def test_an_attempt_that_is_still_being_written_is_removed_for_good(root: Path) -> None:
    directory = root / "a"
    open_attempt_directory(str(directory))
    begun = threading.Event()
    ended: list[OSError] = []

    def write() -> None:
        try:
            for number in range(1_000_000):
                (directory / f"{number}").write_bytes(b"x")
                if number == 50:
                    begun.set()
        except OSError as error:
            ended.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(30)
    remove_attempt_directory(str(directory))
    writer.join(30)
    assert not writer.is_alive()
    assert isinstance(ended[0], FileNotFoundError)
    assert not directory.exists()


def test_what_a_task_makes_while_its_attempt_is_removed_is_removed_as_well(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "a"
    open_attempt_directory(str(directory))
    late = ["DATA.tiles", "product.ms", "SIGMA.tiles"]
    rmtree = shutil.rmtree

    def written_meanwhile(path: str, ignore_errors: bool = False) -> None:
        rmtree(path, ignore_errors=ignore_errors)
        if late:
            directory.mkdir()
            (directory / late.pop()).write_bytes(b"x")

    monkeypatch.setattr(shutil, "rmtree", written_meanwhile)
    remove_attempt_directory(str(directory))
    assert late == []
    assert not root.exists()


def test_an_attempt_begins_also_when_another_removes_the_empty_staging_directory_just_then(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_attempt_directory(str(root / "a"))
    makedirs = os.makedirs
    removals = ["a"]

    def removed_at_once(path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        makedirs(path, mode, exist_ok)
        while removals:
            remove_attempt_directory(str(root / removals.pop()))

    monkeypatch.setattr(os, "makedirs", removed_at_once)
    open_attempt_directory(str(root / "b"))
    assert [path.name for path in root.iterdir()] == ["b"]


def test_attempts_begin_and_end_side_by_side(root: Path) -> None:
    failures: list[Exception] = []

    def attempts(name: str) -> None:
        for number in range(300):
            directory = str(root / f"{name}{number}")
            try:
                open_attempt_directory(directory)
                remove_attempt_directory(directory)
            except OutputError as error:
                failures.append(error)

    workers = [threading.Thread(target=attempts, args=(name,)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert failures == []
    assert not root.exists()
