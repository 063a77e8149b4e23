"""File name <-> (stamp, subband number), group id and dated product path: the one home of patterns."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from contimg_dask.errors import UsageError
from contimg_dask.model import MJD_JD_OFFSET_D, Kind

_SUBBAND_FILE = re.compile(
    r"(?P<stamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:_sb(?P<number>\d\d))?\.hdf5"
)
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_UNFINISHED = re.compile(r"(?P<stem>[^.].*)_incomplete\.hdf5")
# As rsync calls a file that it has not received in full.
_UNDER_WAY = re.compile(r"\.(?P<stem>[^.].*)\.hdf5\.[A-Za-z0-9]{6}")
_MJD_OF_UNIX_EPOCH = 40587.0
_DIRECTORY_OF_KIND: dict[Kind, str] = {"science": "science", "calibrator": "calibrators"}

STAMP_FORMAT = "%Y-%m-%dT%H:%M:%S"
FAILED_DIRECTORY = "failed"
STAGING_DIRECTORY = ".contimg-staging"
"""Below the output directory; hidden, so that no reader of the dated layout meets it."""
PRODUCT_DIRECTORIES = tuple(_DIRECTORY_OF_KIND.values())

PathMapper = Callable[[str, str], str]


class FileName(NamedTuple):
    """Stamp and subband number in a file name; the number is None in older files without one."""

    stamp: str
    number: int | None


def parse_file_name(name: str) -> FileName | None:
    """Return stamp and subband number, or None when this is not the name of a finished subband.

    Files still being written (``…_incomplete.hdf5``), set aside (``*.corrupted``), hidden or
    otherwise named are not input.

    Examples
    --------
    >>> parse_file_name("2025-10-05T03:12:06_sb07.hdf5")
    FileName(stamp='2025-10-05T03:12:06', number=7)
    >>> parse_file_name("2025-10-05T03:12:06_sb07_incomplete.hdf5") is None
    True
    """
    match = _SUBBAND_FILE.fullmatch(name)
    if match is None or stamp_to_mjd(match["stamp"]) is None:
        return None
    return FileName(match["stamp"], None if match["number"] is None else int(match["number"]))


def final_name(name: str) -> str | None:
    """Return the name a file gets that is still being written under this one, or None.

    Examples
    --------
    >>> final_name("2025-10-05T03:12:06_sb07_incomplete.hdf5")
    '2025-10-05T03:12:06_sb07.hdf5'
    >>> final_name(".2025-10-05T03:12:06_sb07.hdf5.x2Vb9Q")
    '2025-10-05T03:12:06_sb07.hdf5'
    """
    match = _UNFINISHED.fullmatch(name) or _UNDER_WAY.fullmatch(name)
    if match is None:
        return None
    final = match["stem"] + ".hdf5"
    return final if parse_file_name(final) is not None else None


def stamp_to_mjd(stamp: str) -> float | None:
    """Return a stamp as MJD UTC [d], or None when it is no date."""
    # strptime takes ten times as long, and directories of a hundred thousand files are read.
    if _STAMP.fullmatch(stamp) is None:
        return None
    try:
        moment = datetime.fromisoformat(stamp).replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() / 86400.0 + _MJD_OF_UNIX_EPOCH


def moment_to_mjd(text: str | None) -> float | None:
    """Return an ISO date or time (UTC) as MJD UTC [d]; None for None.

    Raises
    ------
    UsageError
        The text is no time.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text!r} is not a time: give UTC as in 2025-10-05T03:12:06") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() / 86400.0 + _MJD_OF_UNIX_EPOCH


def stamp_of_jd(start_jd: float) -> str:
    """Return the stamp of a Julian date (UTC), cut to the second: the id of a group without names."""
    seconds = round((start_jd - MJD_JD_OFFSET_D - _MJD_OF_UNIX_EPOCH) * 86400.0, 3)
    return datetime.fromtimestamp(seconds, tz=UTC).strftime(STAMP_FORMAT)


def date_of(group_id: str) -> str:
    """Return the date a group is filed under: the first ten characters of its id, a stamp."""
    return group_id[:10] if stamp_to_mjd(group_id) is not None else "undated"


def product_path(output_dir: Path, group_id: str, kind: Kind) -> Path:
    """Return ``OUTPUT/science/YYYY-MM-DD/<id>.ms``, or below ``calibrators/``."""
    return output_dir / _DIRECTORY_OF_KIND[kind] / date_of(group_id) / f"{group_id}.ms"


def failed_record_path(output_dir: Path, group_id: str) -> Path:
    """Return ``OUTPUT/failed/YYYY-MM-DD/<id>.json``."""
    return output_dir / FAILED_DIRECTORY / date_of(group_id) / f"{group_id}.json"


def create_path_mapper(
    ms_base_dir: str | Path, is_calibrator: bool = False, is_failed: bool = False
) -> PathMapper:
    """Return a function that places a product in the dated layout.

    Parameters
    ----------
    ms_base_dir
        Root of the layout.
    is_calibrator
        Below ``calibrators/`` instead of ``science/``.
    is_failed
        Below ``failed/``, whatever the kind.

    Returns
    -------
    callable
        ``mapper(base_name, output_dir) -> path`` where ``base_name`` is a group id such as
        ``2025-10-05T03:12:06``. ``output_dir`` is not used: the layout's root decides.
    """
    top = (
        "failed" if is_failed else _DIRECTORY_OF_KIND["calibrator" if is_calibrator else "science"]
    )

    def mapper(base_name: str, output_dir: str) -> str:
        del output_dir
        name = base_name.removesuffix(".ms")
        return str(Path(ms_base_dir) / top / date_of(name) / f"{name}.ms")

    return mapper
