"""Remove what dead attempts left behind, and nothing of those that live.

An attempt is alive while a step of it runs, or while the process that asked for it does. Where
that process cannot be seen from here, the attempt lives for a while after its last step.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from contimg_dask.copying import allocated_bytes
from contimg_dask.staging.records import (
    LOCK_NAME,
    RECORD_SUFFIX,
    AttemptRecord,
    locked_root,
    read_record,
    read_records,
    record_path,
    seized,
)

_ASIDE = ".removed-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something in a staging place: its paths and size, why it is alive or None, what was done."""

    name: str
    paths: tuple[str, ...]
    size_bytes: int
    alive: str | None
    removed: bool = False


def _owner_decides(record: AttemptRecord) -> bool:
    """Say of no attempt that it was given up."""
    del record
    return False


def sweep(
    root: str,
    *,
    dry_run: bool = False,
    given_up: Callable[[AttemptRecord], bool] = _owner_decides,
) -> list[Leftover]:
    """Remove every dead attempt of a tier, and return all attempts that were found.

    Parameters
    ----------
    root
        The tier's staging directory; none there is nothing to do.
    dry_run
        Only tell.
    given_up
        Tells of an attempt whether its owner has given it up, and lives on.

    Raises
    ------
    OSError
        The directory cannot be written.
    """
    if not os.path.isdir(root):
        return []
    if dry_run and set(os.listdir(root)) <= {LOCK_NAME}:
        return []  # taking the lock would remove it, or leave one
    with locked_root(root):
        return remove_dead(root, dry_run=dry_run, given_up=given_up)


def remove_dead(
    root: str,
    *,
    dry_run: bool = False,
    given_up: Callable[[AttemptRecord], bool] = _owner_decides,
) -> list[Leftover]:
    """Do the work of `sweep`; the caller holds the tier's lock."""
    found = []
    for record in read_records(root):
        with seized(root, record, given_up=given_up(record)) as alive:
            leftover = _leftover(root, record, alive)
            if alive is None and not dry_run:
                _settle(record)
                leftover = _removed(leftover)
            found.append(leftover)
    strays = [_stray(path) for path in _strays(root)]
    return found + (strays if dry_run else [_removed(stray) for stray in strays])


def _leftover(root: str, record: AttemptRecord, alive: str | None) -> Leftover:
    there = paths_of(record.directory, record.beside)
    return Leftover(
        name=record.attempt,
        paths=(*there, record_path(root, record.attempt)),
        size_bytes=sum(map(_size_bytes, there)),
        alive=alive,
    )


def paths_of(directory: str, beside: tuple[str, ...]) -> list[str]:
    """Return what an attempt has made that is still there, also what was being removed."""
    patterns = [f"{glob.escape(directory)}{_ASIDE}*", *(f"{glob.escape(p)}*" for p in beside)]
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    return ([directory] if os.path.lexists(directory) else []) + found


def _settle(record: AttemptRecord) -> None:
    for path in record.beside:
        settle_replaced(path, record.target)


def settle_replaced(path: str, target: str) -> None:
    """Put a product back that was moved aside to be replaced, when nothing has taken its place."""
    if path.endswith(".replaced") and os.path.lexists(path) and not os.path.lexists(target):
        with contextlib.suppress(OSError):  # something has taken its place just now
            os.rename(path, target)


def _strays(root: str) -> Iterator[str]:
    """Yield what stands in the staging directory without a record.

    A record is made before all else of its attempt and removed after it, so this has no owner.
    """
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name == LOCK_NAME:
            continue
        if name.endswith(RECORD_SUFFIX):
            if os.access(path, os.R_OK, effective_ids=True) and read_record(path) is None:
                yield path  # its writer died over it, or the lock could not have been taken
        elif not os.path.exists(record_path(root, name.partition(_ASIDE)[0])):
            yield path


def _stray(path: str) -> Leftover:
    name = os.path.basename(path)
    return Leftover(name=name, paths=(path,), size_bytes=_size_bytes(path), alive=None)


def _size_bytes(path: str) -> int:
    if os.path.isdir(path) and not os.path.islink(path):
        return allocated_bytes(path)
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0  # its owner has removed it just now


def _removed(leftover: Leftover) -> Leftover:
    """Remove it, its record last: until that is gone, all of it can be found again."""
    left = False
    for path in leftover.paths:
        if not path.endswith(RECORD_SUFFIX):
            left |= not remove_tree(path)
        elif not left:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return replace(leftover, removed=not left and not os.path.lexists(leftover.paths[-1]))


def remove_tree(path: str) -> bool:
    """Remove a file or directory, so that no one finds half of it under its name.

    Returns whether nothing of it is left.
    """
    if _ASIDE in os.path.basename(path):
        doomed = path
    else:
        doomed = f"{path}{_ASIDE}{uuid.uuid4().hex[:8]}"
        try:
            os.rename(path, doomed)
        except OSError:
            return not os.path.lexists(path)
    if os.path.isdir(doomed) and not os.path.islink(doomed):
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(doomed)
    return not os.path.lexists(doomed)
