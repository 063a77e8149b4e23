"""See that a group's files are still the ones its headers were read from, before it is converted.

Only the group's own files are looked at: nothing is searched for again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import PurePath

from contimg_dask.discovery import Listed, read_file
from contimg_dask.grouping import group_files
from contimg_dask.model import (
    SAME_START_TOLERANCE_D,
    Group,
    SubbandHeader,
    UnreadableFile,
)
from contimg_dask.naming import FileName


def is_fresh(group: Group) -> bool:
    """Tell whether every readable file still has the size and time of modification it had."""
    return all(_unchanged(subband.header) for subband in group.subbands)


def _unchanged(header: SubbandHeader) -> bool:
    if header.node is not None:
        return True  # seen from its node alone: whoever reads it there compares
    try:
        found = os.stat(header.path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (header.size_bytes, header.mtime_ns)


def freshened(group: Group) -> Group:
    """Return the group from its own files as they are now, under the id it has.

    Files that were sent again are read again; one that is gone, or belongs to another observation
    by now, is missing.
    """
    found = [_read(subband.header) for subband in group.subbands]
    headers = [one for one in found if isinstance(one, SubbandHeader)]
    bad = [one for one in found if isinstance(one, UnreadableFile)]
    for other in group_files(headers, [*group.unreadable, *bad], group.expected):
        if _same_start(other, group):
            return replace(other, id=group.id)
    # None of its files is left, or none of them is of this observation any more.
    unreadable = (*group.unreadable, *bad)
    return replace(group, subbands=(), unreadable=unreadable)


def _same_start(one: Group, other: Group) -> bool:
    if one.start_jd is None or other.start_jd is None:
        return one.start_jd is other.start_jd
    return abs(one.start_jd - other.start_jd) <= SAME_START_TOLERANCE_D


def _read(header: SubbandHeader) -> SubbandHeader | UnreadableFile:
    if _unchanged(header):
        return header
    stamp = header.name_stamp or PurePath(header.path).name
    return read_file(Listed(header.path, FileName(stamp, header.name_number)))
