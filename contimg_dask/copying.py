"""Copy bytes between files inside the kernel, and leave holes as holes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_FILES_AT_ONCE = 4
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def data_extents(descriptor: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of every stretch of written bytes between ``start`` and ``stop``."""
    position = start
    while position < stop:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        if begin >= stop:
            return
        end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), stop)
        yield begin, end - begin
        position = end


def copy_range(
    source: int, source_offset: int, target: int, target_offset: int, length: int
) -> int:
    """Copy ``length`` bytes between two open files and return how many were written.

    Holes of the source are not written: the target must read as zero there already.

    Raises
    ------
    OSError
        Among others ENOSPC, or EIO when the source ends early.
    """
    written = 0
    _check_length(source, source_offset + length)
    for begin, size in data_extents(source, source_offset, source_offset + length):
        _copy_bytes(source, begin, target, target_offset + begin - source_offset, size)
        written += size
    # What was cut off meanwhile would have looked like a hole.
    _check_length(source, source_offset + length)
    return written


def _check_length(source: int, stop: int) -> None:
    size = os.fstat(source).st_size
    if size < stop:
        raise OSError(errno.EIO, f"the file ends at byte {size}, {stop} needed")


def _copy_bytes(
    source: int, source_offset: int, target: int, target_offset: int, size: int
) -> None:
    done = 0
    while done < size:
        try:
            moved = os.copy_file_range(
                source, target, size - done, source_offset + done, target_offset + done
            )
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            # Between file systems copy_file_range refuses; sendfile writes at the file's position.
            os.lseek(target, target_offset + done, os.SEEK_SET)
            moved = os.sendfile(target, source, source_offset + done, size - done)
        if moved == 0:
            raise OSError(errno.EIO, "the file ended before all of it was copied")
        done += moved


def copy_file(source: str, target: str) -> int:
    """Copy one file to a new path, holes kept, and return the bytes written.

    Raises
    ------
    OSError
        The target exists, or the file system is full or refuses. It names the target also where
        the system does not, as when a write fails.
    """
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(read).st_size
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with _naming(target):
                os.ftruncate(write, size)
                return copy_range(read, 0, write, 0, size)
        finally:
            os.close(write)
    finally:
        os.close(read)


def copy_tree(source: str, target: str) -> int:
    """Copy a directory to a new path, several files at once, and return the bytes written.

    Raises
    ------
    OSError
        The first that a file met; some of the tree may be there then.
    """
    files: list[tuple[str, str]] = []
    for parent, _, names in os.walk(source):
        into = os.path.normpath(os.path.join(target, os.path.relpath(parent, source)))
        os.mkdir(into)
        files += [(os.path.join(parent, name), os.path.join(into, name)) for name in names]
    # Largest first, so that no thread is left with one at the end.
    files.sort(key=lambda pair: os.lstat(pair[0]).st_size, reverse=True)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        return sum(threads.map(lambda pair: copy_file(*pair), files))


def sync_tree(directory: str) -> None:
    """Bring every file and directory below (and the directory itself) to stable storage."""
    for parent, _, files in os.walk(directory, topdown=False):
        for name in files:
            sync_path(os.path.join(parent, name))
        sync_path(parent)


def sync_path(path: str) -> None:
    """Bring one file or directory to stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let errors name the file, so that of several file systems the right one is looked at."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def allocated_bytes(directory: str) -> int:
    """Return the space a directory takes on its file system, holes not counted [bytes]."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # it may be removed meanwhile
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
