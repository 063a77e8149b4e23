"""Remembered headers: a file whose size and time of modification have not changed is not read again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, insert, select

from contimg_dask.catalogue.documents import header_from_json, header_to_json
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.rows import Row, chunks, reason_columns, reason_of
from contimg_dask.catalogue.tables import subband_files
from contimg_dask.errors import InputError
from contimg_dask.model import SubbandHeader, UnreadableFile
from contimg_dask.naming import parse_file_name

Stat = tuple[int, int]
"""Size in bytes, and time of modification in nanoseconds since 1970."""


def recall(
    catalogue: Catalogue, stats: Mapping[str, Stat]
) -> dict[str, SubbandHeader | UnreadableFile]:
    """Return what is remembered of files that are still the same.

    Parameters
    ----------
    catalogue
        What remembers.
    stats
        Size [bytes] and time of modification [ns since 1970] by path, as they are now.
    """
    found: dict[str, SubbandHeader | UnreadableFile] = {}
    with catalogue.reading() as connection:
        for paths in chunks(list(stats)):
            query = select(subband_files).where(subband_files.c.path.in_(paths))
            for row in connection.execute(query).mappings():
                if (row["size_bytes"], row["mtime_ns"]) == stats[row["path"]]:
                    known = _file_of(row)
                    if known is not None:
                        found[row["path"]] = known
    return found


def remember(
    catalogue: Catalogue,
    found: Iterable[SubbandHeader | UnreadableFile],
    stats: Mapping[str, Stat],
) -> None:
    """Remember what was read, instead of what was known of these paths. Safe to call twice.

    A file that could not be read for a reason outside of it (``unreadable-input``: permissions, a
    disk) is not remembered, because its size and time would not tell when that is over.

    Parameters
    ----------
    catalogue
        To remember it.
    found
        Headers, which know size and time themselves, and files that cannot be used.
    stats
        Size [bytes] and time of modification [ns since 1970] by path, from before the reading.
    """
    now_s = time.time()
    rows = {row["path"]: row for one in found if (row := _row_of(one, stats, now_s)) is not None}
    if not rows:
        return
    with catalogue.writing() as connection:
        for some in chunks(list(rows.values())):
            paths = [row["path"] for row in some]
            connection.execute(delete(subband_files).where(subband_files.c.path.in_(paths)))
            connection.execute(insert(subband_files), list(some))


def forget(catalogue: Catalogue, paths: Sequence[str]) -> int:
    """Forget files; return how many were remembered. Safe to call twice."""
    with catalogue.writing() as connection:
        return sum(
            connection.execute(delete(subband_files).where(subband_files.c.path.in_(some))).rowcount
            for some in chunks(paths)
        )


def paths_below(catalogue: Catalogue, directory: str) -> set[str]:
    """Return the remembered files of a directory."""
    below = subband_files.c.path.startswith(directory.rstrip("/") + "/", autoescape=True)
    with catalogue.reading() as connection:
        return set(connection.execute(select(subband_files.c.path).where(below)).scalars())


def forget_older(catalogue: Catalogue, before_s: float) -> int:
    """Forget files that were read before a time [s since 1970]; return how many. Safe to call twice."""
    with catalogue.writing() as connection:
        old = subband_files.c.read_s < before_s
        return connection.execute(delete(subband_files).where(old)).rowcount


def _row_of(
    one: SubbandHeader | UnreadableFile, stats: Mapping[str, Stat], now_s: float
) -> dict[str, Any] | None:
    if isinstance(one, SubbandHeader):
        size, mtime = one.size_bytes, one.mtime_ns
        header, reason = header_to_json(one), None
    else:
        if one.path not in stats or one.reason.code == InputError.code:
            return None
        size, mtime = stats[one.path]
        header, reason = None, one.reason
    return {
        "path": one.path,
        "size_bytes": size,
        "mtime_ns": mtime,
        "header": header,
        **reason_columns(reason),
        "read_s": now_s,
    }


def _file_of(row: Row) -> SubbandHeader | UnreadableFile | None:
    """Return what a row remembers; None when an older version wrote less than is needed now."""
    if row["header"] is not None:
        try:
            return header_from_json(row["header"])
        except (KeyError, TypeError, ValueError):
            return None
    reason = reason_of(row)
    name = parse_file_name(os.path.basename(row["path"]))
    if reason is None:
        return None
    return UnreadableFile(
        path=row["path"],
        name_stamp=None if name is None else name.stamp,
        name_number=None if name is None else name.number,
        reason=reason,
    )
