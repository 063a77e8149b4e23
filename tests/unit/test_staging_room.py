"""How much may be planned with: four fifths of what is free, and memory too where it is tmpfs."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from contimg_dask.errors import NoSpaceError
from contimg_dask.staging import room
from contimg_dask.staging.room import check_room, prove_room, usable_bytes
from tests.unit.plans import MB

GB = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine has free [bytes], and (limit, used) of its memory control groups."""

    disk: int
    memory: int
    cgroups: tuple[tuple[int, int], ...] = ()


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
        (Machine(disk=1000, memory=2000, cgroups=((900, 300),)), 800, 480),
        (Machine(disk=1000, memory=500, cgroups=((900, 300),)), 800, 400),
        (Machine(disk=1000, memory=2000, cgroups=((9000, 300),)), 800, 800),
        # The least that is left counts, not the least limit.
        (Machine(disk=1000, memory=2000, cgroups=((900, 0), (5000, 4500))), 800, 400),
        # A limit that was lowered below what is in use.
        (Machine(disk=1000, memory=2000, cgroups=((900, 901),)), 800, 0),
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
    monkeypatch.setattr(room, "_available_memory_bytes", lambda: machine.memory)
    monkeypatch.setattr(room, "_cgroup_memory", lambda _: iter(machine.cgroups))
    assert usable_bytes(tmp_path, tmpfs=False) == disk_usable
    assert usable_bytes(tmp_path, tmpfs=True) == tmpfs_usable


def test_this_machine_has_memory() -> None:
    assert MB < usable_bytes(Path("/dev/shm"), tmpfs=True) < 10**15


def test_a_real_file_system_has_four_fifths_of_what_is_free(small_tmpfs: Path) -> None:
    assert usable_bytes(small_tmpfs, tmpfs=True) == int(0.8 * 8 * 1024**2)
    (small_tmpfs / "other").write_bytes(bytes(4 << 20))
    assert usable_bytes(small_tmpfs, tmpfs=True) == int(0.8 * 4 * 1024**2)
    assert usable_bytes(small_tmpfs, tmpfs=False) == int(0.8 * 4 * 1024**2)


def test_a_directory_that_is_not_there_yet_has_the_room_of_the_one_above(
    small_tmpfs: Path,
) -> None:
    below = usable_bytes(small_tmpfs / "not" / "there", tmpfs=False)
    assert below == usable_bytes(small_tmpfs, tmpfs=False)
    assert not (small_tmpfs / "not").exists()


# ------------------------------------------------------------------------------ control groups


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


CGROUPS: dict[str, tuple[str, dict[str, str], list[tuple[int, int]]]] = {
    "no limit": ("0::/a\n", {"sys/fs/cgroup/a/memory.max": "max\n"}, []),
    "one limit": (
        "0::/a\n",
        {"sys/fs/cgroup/a/memory.max": "4096\n", "sys/fs/cgroup/a/memory.current": "96\n"},
        [(4096, 96)],
    ),
    "those above hold too": (
        "0::/a/b\n",
        {
            "sys/fs/cgroup/a/b/memory.max": "9000\n",
            "sys/fs/cgroup/a/b/memory.current": "1\n",
            "sys/fs/cgroup/a/memory.max": "5000\n",
            "sys/fs/cgroup/a/memory.current": "2\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
        [(9000, 1), (5000, 2)],
    ),
    # A container sees the path of its host, and only its own group mounted.
    "in a container": (
        "0::/docker/123\n",
        {"sys/fs/cgroup/memory.max": "7000\n", "sys/fs/cgroup/memory.current": "3\n"},
        [(7000, 3)],
    ),
    "version 1": (
        "5:cpu,cpuacct:/x\n4:memory:/x\n",
        {
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "6000\n",
            "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "500\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "800\n",
        },
        [(6000, 500)],
    ),
    "version 1, its use unreadable": (
        "4:memory:/\n",
        {"sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n"},
        [(6000, 0)],
    ),
    "none of memory": ("1:name=systemd:/user\n", {}, []),
}


@pytest.mark.parametrize(("groups", "files", "found"), CGROUPS.values(), ids=CGROUPS.keys())
def test_the_limits_of_all_control_groups_above_the_process_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    found: list[tuple[int, int]],
) -> None:
    write(tmp_path, {"proc/self/cgroup": groups} | files)
    assert list(room._cgroup_memory(tmp_path)) == found
    assert room.cgroup_limit_bytes(tmp_path) == min((limit for limit, _ in found), default=None)
    of_machine = room._cgroup_memory
    monkeypatch.setattr(room, "_cgroup_memory", lambda _: of_machine(tmp_path))
    left = min((limit - used for limit, used in found), default=None)
    if left is not None:
        assert usable_bytes(Path("/dev/shm"), tmpfs=True) == int(0.8 * left)


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert room.cgroup_limit_bytes(tmp_path) is None


# ------------------------------------------------------------------------------- room, tried


def test_room_is_checked_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "usable_bytes", lambda *_, **__: GB)
    check_room(Path("/out"), GB)
    with pytest.raises(NoSpaceError, match=r"1,000\.0 MB to use .* 1,000\.0 MB needed") as caught:
        check_room(Path("/out"), GB + 1)
    assert (caught.value.code, caught.value.path) == ("no-space", "/out")


def test_room_is_proved_by_taking_it_and_given_back(small_tmpfs: Path) -> None:
    free = os.statvfs(small_tmpfs).f_bavail
    prove_room(str(small_tmpfs), 7 << 20)
    with pytest.raises(OSError) as caught:
        prove_room(str(small_tmpfs), 9 << 20)
    assert caught.value.errno == errno.ENOSPC
    assert list(small_tmpfs.iterdir()) == []
    assert os.statvfs(small_tmpfs).f_bavail == free


def test_what_is_to_be_left_free_is_refused_with_the_numbers(small_tmpfs: Path) -> None:
    status = os.statvfs(small_tmpfs)
    free = status.f_bavail * status.f_frsize
    check_room(small_tmpfs, 1000, free - 1000)
    with pytest.raises(NoSpaceError, match=r"MB free, .* needed and .* to be left free"):
        check_room(small_tmpfs, 1001, free - 1000)
