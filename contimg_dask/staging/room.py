"""How many bytes may be staged in a place: free space, and for tmpfs memory as well."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contimg_dask.errors import NoSpaceError

USABLE_PART = 0.8
"""Part of the free space that conversions may plan with."""

_NO_LIMIT_BYTES = 2**60
"""Version 1 of control groups says "no limit" as a number near 2^63, version 2 as "max"."""


def usable_bytes(directory: Path, *, tmpfs: bool) -> int:
    """Return how much conversions may plan with below ``directory``, which need not exist [bytes].

    For tmpfs the machine's available memory and the memory control groups limit it too, because
    its bytes are both.
    """
    status = os.statvfs(existing_ancestor(directory))
    free = status.f_bavail * status.f_frsize
    if tmpfs:
        free = min(free, _available_memory_bytes(), *_cgroup_free_bytes(Path("/")))
    return max(0, int(USABLE_PART * free))


def check_room(directory: Path, bytes_needed: int, reserve_bytes: int = 0) -> None:
    """Refuse what a file system has too little room for, whatever else is going on there.

    Parameters
    ----------
    directory
        On the file system; need not exist.
    bytes_needed, reserve_bytes
        What is to be written, and what has to be free after that.

    Raises
    ------
    NoSpaceError
        With both numbers.
    """
    usable = usable_bytes(directory, tmpfs=False)
    if bytes_needed > usable:
        raise NoSpaceError(
            f"{directory}: {megabytes(usable)} to use ({USABLE_PART:.0%} of what is free), "
            f"{megabytes(bytes_needed)} needed: free some space",
            path=str(directory),
        )
    if reserve_bytes and bytes_needed + reserve_bytes > (free := free_bytes(directory)):
        raise NoSpaceError(
            f"{directory}: {megabytes(free)} free, {megabytes(bytes_needed)} needed and "
            f"{megabytes(reserve_bytes)} to be left free (disk_reserve): free some space",
            path=str(directory),
        )


def free_bytes(directory: Path) -> int:
    """Return how much of the file system of a directory, which need not exist, is free [bytes]."""
    status = os.statvfs(existing_ancestor(directory))
    return status.f_bavail * status.f_frsize


def existing_ancestor(path: Path) -> Path:
    """Return the path itself, or the nearest directory above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cgroup_limit_bytes(root: Path) -> int | None:
    """Return the least memory limit of this process's control groups (versions 1 and 2), if any."""
    return min((limit for limit, _ in _cgroup_memory(root)), default=None)


def _cgroup_free_bytes(root: Path) -> list[int]:
    return [limit - used for limit, used in _cgroup_memory(root)]


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, used) of this process's memory control group and of each above it [bytes]."""
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        # A limit of any ancestor holds too. In a container the path may lead outside of what is
        # mounted; the mount point itself is the group then.
        group = base / path.lstrip("/")
        for place in (group, *group.parents):
            limit, used = (_read_text(place / name).strip() for name in names)
            if limit.isdigit() and int(limit) < _NO_LIMIT_BYTES:
                yield int(limit), int(used) if used.isdigit() else 0
            if place == base:
                break


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def prove_room(directory: str, size_bytes: int) -> None:
    """Take so much space below a directory, and give it back.

    casacore ends the whole process when a disk becomes full under it, so the space for what it is
    about to write is tried first.

    Raises
    ------
    OSError
        ENOSPC, and nothing is left.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)


def megabytes(size_bytes: int) -> str:
    """Return a size as people read it."""
    return f"{size_bytes / 1e6:,.1f} MB"
