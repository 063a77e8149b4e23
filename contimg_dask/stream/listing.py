"""What a directory says of its subband files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISREG

from contimg_dask.errors import InputError
from contimg_dask.naming import parse_file_name
from contimg_dask.stream.finishing import Seen


def scan(directory: Path) -> dict[str, Seen]:
    """Return every file with a subband's name, by path.

    Raises
    ------
    InputError
        The directory cannot be listed.
    """
    found = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if parse_file_name(entry.name) is None:
                    continue
                seen = _seen(entry.path)
                if seen is not None:
                    found[entry.path] = seen
    except OSError as error:
        raise InputError(
            f"{directory}: {error.strerror}: check its mount and its permissions",
            path=str(directory),
        ) from error
    return found


def look_at(paths: Iterable[str]) -> Iterator[tuple[str, Seen | None]]:
    """Yield what is to be said of those that have a subband's name; None where there is no file."""
    for path in paths:
        if parse_file_name(os.path.basename(path)) is not None:
            yield path, _seen(path)


def _seen(path: str) -> Seen | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not S_ISREG(found.st_mode):
        return None
    return Seen(size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns)
