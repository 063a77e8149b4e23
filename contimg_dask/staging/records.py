"""The record of an attempt: what it was promised, where it writes, and whether it is still alive.

A record is a small file in the staging directory of a tier, made and removed under that
directory's lock. While a step of the attempt runs it holds a shared lock on the record, which the
kernel takes back when the step's process dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from contimg_dask.errors import AttemptGoneError
from contimg_dask.model import Owner
from contimg_dask.staging.owners import is_running

RECORD_SUFFIX = ".attempt.json"
LOCK_NAME = ".lock"
LEASE_S = 900.0
"""An attempt whose owner cannot be seen lives so long after a step of it last began or ended [s]."""

_MOST_TRIES = 10_000
_SHARED_ROOT_MODE = 0o1777


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """What stands in a record.

    ``promised_bytes`` are of this tier's file system; ``directory`` is the attempt's own,
    ``beside`` are hidden paths next to the target that it may make, ``target`` where its product
    belongs.
    """

    attempt: str
    owner: Owner
    promised_bytes: int
    directory: str
    beside: tuple[str, ...] = ()
    target: str = ""
    reason: str = ""

    def path_in(self, root: str) -> str:
        """Return where the record lies in a tier."""
        return record_path(root, self.attempt)


_FIELDS = {field.name for field in fields(AttemptRecord)}


def record_path(root: str, attempt: str) -> str:
    """Return the path of an attempt's record in a tier."""
    return os.path.join(root, attempt + RECORD_SUFFIX)


@contextmanager
def locked_root(root: str, *, shared_between_users: bool = False) -> Iterator[None]:
    """Hold the lock of a tier's staging directory, made if need be, removed when left empty.

    Raises
    ------
    OSError
        The directory cannot be made or written.
    """
    descriptor = _lock(root, shared_between_users)
    try:
        yield
    finally:
        # Nobody else can be in here; whoever waits for the lock finds the directory gone, and
        # makes it again.
        with contextlib.suppress(OSError):
            if os.listdir(root) == [LOCK_NAME]:
                os.unlink(os.path.join(root, LOCK_NAME))
                os.rmdir(root)
        os.close(descriptor)


def _lock(root: str, shared_between_users: bool) -> int:
    path = os.path.join(root, LOCK_NAME)
    for _ in range(_MOST_TRIES):
        try:
            _make_root(root, shared_between_users)
            descriptor = _open_lock(path)
        except FileNotFoundError:
            continue  # its last user has just removed it
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "it vanishes as soon as it is made", root)


def _make_root(root: str, shared_between_users: bool) -> None:
    if not shared_between_users:
        # A mount for all users of the node is there, or not to be used.
        os.makedirs(os.path.dirname(root), exist_ok=True)
    elif not os.path.isdir(os.path.dirname(root)):
        raise NotADirectoryError(errno.ENOTDIR, "there is no such directory", os.path.dirname(root))
    try:
        os.mkdir(root)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            raise
        return
    # Memory and scratch disks belong to all users of a node, like /tmp; elsewhere whoever may write
    # beside it may stage in it.
    beside = stat.S_IMODE(os.stat(os.path.dirname(root)).st_mode)
    os.chmod(root, _SHARED_ROOT_MODE if shared_between_users else beside)


def _open_lock(path: str) -> int:
    # Opened before it is made: the kernel may forbid O_CREAT on another user's file in a sticky
    # directory.
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.fchmod(descriptor, os.stat(os.path.dirname(path)).st_mode & 0o666)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _is_at(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def write_record(root: str, record: AttemptRecord) -> None:
    """Write a record, as a whole or not at all; the caller holds the tier's lock."""
    path = record.path_in(root)
    half = f"{path}.half"
    Path(half).write_text(json.dumps(asdict(record)) + "\n")
    # Whoever shares the tier has to see what is promised, and that the attempt lives.
    os.chmod(half, 0o644)
    os.replace(half, path)


def read_records(root: str) -> list[AttemptRecord]:
    """Return every record of a tier that can be read; the caller holds its lock."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    paths = [os.path.join(root, name) for name in names if name.endswith(RECORD_SUFFIX)]
    return [record for path in paths if (record := read_record(path)) is not None]


def read_record(path: str) -> AttemptRecord | None:
    """Return one record, or None when it is gone, not ours to read, or half written."""
    try:
        content = json.loads(Path(path).read_text())
        owner = Owner(**content.pop("owner"))
        content["beside"] = tuple(content["beside"])
        # One of a newer version may say more.
        known = {name: content[name] for name in _FIELDS if name in content}
        return AttemptRecord(owner=owner, **known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def held(path: str) -> Iterator[None]:
    """Keep an attempt alive while a step of it runs, by its record.

    Raises
    ------
    AttemptGoneError
        Its record was removed: the attempt was given up, or taken for dead.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _gone(path) from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the lease must do
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_at(descriptor, path):
            raise _gone(path)
        os.utime(descriptor)
        yield
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def _gone(path: str) -> AttemptGoneError:
    name = os.path.basename(path).removesuffix(RECORD_SUFFIX)
    return AttemptGoneError(f"attempt {name} was given up meanwhile: its record {path} is gone")


@contextmanager
def seized(root: str, record: AttemptRecord, *, given_up: bool = False) -> Iterator[str | None]:
    """Take hold of a record when its attempt is dead; yields why it is alive, or None.

    While it is held no step of the attempt can begin. An attempt that was ``given_up`` is dead
    also while its owner lives, but not while a step of it runs.
    """
    try:
        descriptor = os.open(record.path_in(root), os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        yield None if isinstance(error, FileNotFoundError) else f"its record: {error.strerror}"
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield "a step of it is running"
            return
        except OSError:
            pass  # a file system without locks
        yield None if given_up else _why_alive(record.owner, os.fstat(descriptor).st_mtime)
    finally:
        os.close(descriptor)


def _why_alive(owner: Owner, renewed_s: float) -> str | None:
    running = is_running(owner)
    if running is not None:
        return f"process {owner.pid}, which asked for it, is running" if running else None
    left_s = renewed_s + LEASE_S - time.time()
    if left_s <= 0:
        return None
    return (
        f"{owner.host} asked for it, and its last step was {LEASE_S - left_s:.0f} s ago "
        f"(given up after {LEASE_S:.0f} s)"
    )
