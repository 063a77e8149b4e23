"""Where a product is made before it is published: one directory per attempt, gone afterwards.

The default tier is the destination's own file system, so that publication is a rename. tmpfs and
a scratch disk are taken on request, and only when the group fits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from contimg_dask.errors import NoSpaceError, OutputError
from contimg_dask.naming import STAGING_DIRECTORY

_USABLE_PART = 0.8
"""Part of the free space that one conversion may plan with."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USED = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierChoice:
    """A place to stage in: ``destination``, ``tmpfs`` or ``scratch``, its directory, and why."""

    tier: str
    root: str
    reason: str


def choose_tier(
    output_dir: Path,
    bytes_needed: int,
    *,
    at_once: int = 1,
    tmpfs_path: str | None = None,
    scratch_dir: str | None = None,
) -> TierChoice:
    """Return the first tier asked for that has room, else the destination's file system.

    Parameters
    ----------
    output_dir
        Its file system is the default tier.
    bytes_needed
        By one group.
    at_once
        Groups that may be staged at the same time.
    tmpfs_path, scratch_dir
        Tiers asked for, tried in this order.

    Raises
    ------
    NoSpaceError
        Not even the destination has room, with both numbers.
    """
    skipped = []
    for tier, directory in (("tmpfs", tmpfs_path), ("scratch", scratch_dir)):
        if directory is None:
            continue
        usable = usable_bytes(Path(directory), tmpfs=tier == "tmpfs")
        if at_once * bytes_needed <= usable:
            return TierChoice(
                tier=tier,
                root=os.path.join(directory, STAGING_DIRECTORY),
                reason=f"asked for; needs {_mb(at_once * bytes_needed)} of {_mb(usable)}",
            )
        skipped.append(f"{tier} has {_mb(usable)} to use, {_mb(at_once * bytes_needed)} needed")
    check_room(output_dir, bytes_needed)
    return TierChoice(
        tier="destination",
        root=str(output_dir / STAGING_DIRECTORY),
        reason="; ".join(skipped) or "default",
    )


def check_room(directory: Path, bytes_needed: int) -> None:
    """Raise NoSpaceError when a file system has too little room for these bytes."""
    usable = usable_bytes(directory, tmpfs=False)
    if bytes_needed > usable:
        raise NoSpaceError(
            f"{directory}: {_mb(usable)} to use ({_USABLE_PART:.0%} of what is free), "
            f"{_mb(bytes_needed)} needed: free some space",
            path=str(directory),
        )


def usable_bytes(directory: Path, *, tmpfs: bool) -> int:
    """Return how much a conversion may plan with below ``directory``, which need not exist [bytes].

    For tmpfs the machine's available memory and the memory cgroup limit it too, because its bytes
    are both.
    """
    status = os.statvfs(_existing_ancestor(directory))
    free = status.f_bavail * status.f_frsize
    if tmpfs:
        free = min(free, _available_memory_bytes(), _cgroup_free_bytes(free))
    return int(_USABLE_PART * free)


def _existing_ancestor(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_free_bytes(otherwise: int) -> int:
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
        return otherwise if limit == "max" else int(limit) - int(_CGROUP_USED.read_text())
    except OSError:
        return otherwise


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


def open_attempt_directory(directory: str) -> None:
    """Make the attempt's directory; it must not exist yet.

    Raises
    ------
    OutputError
        ``unwritable-output``, or the attempt was already begun by another task.
    """
    try:
        _make_below_vanishing_root(directory)
    except OSError as error:
        if os.path.isdir(directory):
            raise OutputError(
                f"{directory}: another task has begun this attempt already",
                code="attempt-repeated",
            ) from error
        raise OutputError(
            f"{directory}: cannot be made ({error.strerror}): check the permissions of the output "
            f"directory",
            path=directory,
        ) from error


def _make_below_vanishing_root(directory: str) -> None:
    """Make a directory in one that others remove whenever they find it empty."""
    for _ in range(1000):
        # What stands where the root belongs may also be gone again in the next moment.
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(directory), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.mkdir(directory)
            return
    os.mkdir(directory)


def remove_attempt_directory(directory: str) -> None:
    """Remove everything an attempt wrote, and the staging directory itself when it is empty.

    A task of the attempt that is still running may be writing: what it makes meanwhile is removed
    as well, and afterwards it can make nothing, because its directory is gone.
    """
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.lexists(directory):
            break
    # Other attempts may be at work there, or have removed it already.
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(directory))


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
