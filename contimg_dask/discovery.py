"""A directory in, finished subband files and their headers out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from contimg_dask.errors import InputError, UsageError
from contimg_dask.grouping import NAME_REACH_S
from contimg_dask.model import MJD_JD_OFFSET_D, Group, Reason, SubbandHeader, UnreadableFile
from contimg_dask.naming import FileName, parse_file_name, stamp_to_mjd
from contimg_dask.uvh5.header import peek

_NAME_MARGIN_D = 660.0 / 86400.0
"""Names this far outside a wanted time range cannot belong to a group inside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """Readable and unreadable files with a subband's name; ``node`` (IP) when only that sees them."""

    headers: tuple[SubbandHeader, ...]
    unreadable: tuple[UnreadableFile, ...]
    node: str | None = None


def discover(
    directory: Path,
    *,
    start_mjd: float | None = None,
    end_mjd: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Discovered:
    """Read the header of every finished subband file in a directory.

    Parameters
    ----------
    directory
        Searched without its subdirectories. Files still being written, set aside, hidden or
        otherwise named are not looked at.
    start_mjd, end_mjd
        Names far outside this range [MJD UTC d] are not opened; the exact choice is by header,
        and the caller's.
    progress
        Called with (files done, files in all).

    Raises
    ------
    UsageError
        The directory does not exist or cannot be listed.
    """
    listed = list_files(directory, start_mjd, end_mjd)
    found = []
    for done, file in enumerate(listed, start=1):
        found.append(read_file(file))
        if progress is not None:
            progress(done, len(listed))
    return Discovered(
        headers=tuple(one for one in found if isinstance(one, SubbandHeader)),
        unreadable=tuple(one for one in found if isinstance(one, UnreadableFile)),
    )


@dataclass(frozen=True, slots=True)
class Listed:
    """A file with a subband's name, not opened yet."""

    path: str
    name: FileName


def list_files(directory: Path, start_mjd: float | None, end_mjd: float | None) -> list[Listed]:
    """Return the files with a subband's name, in order of name, so of time.

    Names far outside the range [MJD UTC d] are left out.

    Raises
    ------
    UsageError
        The directory does not exist or cannot be listed.
    """
    return [
        Listed(path, name)
        for path in _listing(directory)
        if (name := parse_file_name(os.path.basename(path))) is not None
        and _name_within(name, start_mjd, end_mjd)
    ]


def clusters_by_name(files: Sequence[Listed]) -> list[list[Listed]]:
    """Split files in order of name where their stamps are so far apart that no group spans the gap.

    A cluster is a candidate for a group; after a restart it may hold more than one, which only the
    headers can tell.
    """
    clusters: list[list[Listed]] = []
    last_mjd = -inf
    for file in files:
        mjd = stamp_to_mjd(file.name.stamp)
        assert mjd is not None  # a parsed name holds a date
        if (mjd - last_mjd) * 86400.0 > NAME_REACH_S:
            clusters.append([])
        clusters[-1].append(file)
        last_mjd = mjd
    return clusters


def read_file(file: Listed) -> SubbandHeader | UnreadableFile:
    """Read the header of one file, or say why that cannot be done."""
    try:
        return peek(file.path)
    except InputError as error:
        return UnreadableFile(
            path=file.path,
            name_stamp=file.name.stamp,
            name_number=file.name.number,
            reason=Reason(code=error.code, text=str(error)),
        )


def _listing(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if not entry.is_dir())
    except OSError as error:
        raise UsageError(
            f"{directory}: {error.strerror}: give the directory the subband files are in",
            path=str(directory),
        ) from error


def _name_within(name: FileName, start_mjd: float | None, end_mjd: float | None) -> bool:
    mjd = stamp_to_mjd(name.stamp)
    assert mjd is not None  # a parsed name holds a date
    after = start_mjd is None or mjd >= start_mjd - _NAME_MARGIN_D
    return after and (end_mjd is None or mjd < end_mjd + _NAME_MARGIN_D)


def starts_within(group: Group, start_mjd: float | None, end_mjd: float | None) -> bool:
    """Tell whether a group's first integration lies in the half-open range [start, end).

    A group without a readable file goes by its name.
    """
    if group.start_jd is not None:
        mjd: float | None = group.start_jd - MJD_JD_OFFSET_D
    else:
        mjd = stamp_to_mjd(group.id)
    if mjd is None:
        return True
    return (start_mjd is None or mjd >= start_mjd) and (end_mjd is None or mjd < end_mjd)
