"""Owner group and permissions of what is published: never those of a private temporary directory."""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from pathlib import Path

from contimg_dask.errors import OutputError, UsageError
from contimg_dask.model import Publication


def group_id(name: str) -> int:
    """Return the number of a group.

    Raises
    ------
    OutputError
        ``unknown-group``.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OutputError(
            f"there is no group {name!r} on this machine: see 'getent group'", code="unknown-group"
        ) from None


def check_group(name: str | None) -> None:
    """Refuse a group that this machine does not know, before anything is done for it.

    Raises
    ------
    UsageError
        ``unknown-group``.
    """
    if name is not None:
        try:
            group_id(name)
        except OutputError as error:
            raise UsageError(str(error), code=error.code) from error


def make_directories(directory: Path, publication: Publication) -> list[Path]:
    """Make a directory and those above it, owned as asked for; return those that were made."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            _own(path, os.stat(path.parent), publication)
    except (OSError, OutputError):
        for path in missing:
            with contextlib.suppress(OSError):  # not made, or others use it already
                path.rmdir()
        raise
    return missing


def own_tree(directory: str, beside: Path, publication: Publication) -> None:
    """Give a staged product the group and permissions that it is to have beside others.

    Files get what was asked for, else 0666 less the umask; directories the same and the right to
    search where there is one to read. The group is the one asked for, else that of the directory
    the product goes to where its set-group-id bit is set, and then directories have the bit too.
    """
    parent = os.stat(beside)
    for path, _, files in os.walk(directory):
        _own(Path(path), parent, publication)
        for name in files:
            _own(Path(path, name), parent, publication)


def own_file(path: str, publication: Publication) -> None:
    """Give a single file the group and permissions of what is published."""
    _own(Path(path), os.stat(os.path.dirname(path)), publication)


def _own(path: Path, parent: os.stat_result, publication: Publication) -> None:
    inherits = bool(parent.st_mode & stat.S_ISGID)
    found = os.lstat(path)
    group = parent.st_gid if inherits else found.st_gid
    if publication.group is not None:
        group = group_id(publication.group)
    if group != found.st_gid:
        os.chown(path, -1, group)
    mode = 0o666 & ~_umask() if publication.mode is None else publication.mode
    if stat.S_ISDIR(found.st_mode):
        mode |= (mode & 0o444) >> 2
        if inherits or publication.group is not None:
            mode |= stat.S_ISGID
    if mode != stat.S_IMODE(found.st_mode):
        os.chmod(path, mode)


def _umask() -> int:
    """Return the umask; os.umask could only tell by changing it, also for other threads."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022  # a kernel before 4.7
