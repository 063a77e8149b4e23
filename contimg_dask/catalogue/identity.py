"""Which group is which: by start time, output and options; and an id that no other one has.

A group is the same when it starts within a millisecond, goes to the same output and is converted
by the same options. Its id is a label, given once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import Connection, select

from contimg_dask.catalogue.rows import Row, chunks
from contimg_dask.catalogue.tables import groups
from contimg_dask.model import MJD_JD_OFFSET_D, SAME_START_TOLERANCE_D, Group
from contimg_dask.naming import stamp_of_jd, stamp_to_mjd

LARGEST_NUMBER = 2**53 - 1
"""Of jobs, groups and events: every database takes it, and JavaScript has it exactly."""
_MJD_OF_UNIX_EPOCH_D = 40587.0
_DAY_MS = 86400e3
_ROUNDING_D = 1e-10
"""Far below the tolerance, above what a Julian date in double precision loses in a difference."""


def number_in(text: str) -> int | None:
    """Return the number of a job or a group, or None for a text that is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_NUMBER))):
        return None
    number = int(text)
    return number if 1 <= number <= LARGEST_NUMBER else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a group is known by; ``start_mjd`` is None when none of its files could be read."""

    id: str
    start_ms: int
    start_mjd: float | None


def identity_of(group: Group) -> Identity:
    """Return what a group is known by; without a start it goes by its name."""
    if group.start_jd is not None:
        return identity_at(group.id, group.start_jd - MJD_JD_OFFSET_D)
    stamps = (group.id, *(file.name_stamp or "" for file in group.unreadable))
    named = next((mjd for stamp in stamps if (mjd := stamp_to_mjd(stamp)) is not None), None)
    start_ms = 0 if named is None else start_ms_of(named)
    return Identity(id=group.id, start_ms=start_ms, start_mjd=None)


def identity_at(group_id: str, start_mjd: float) -> Identity:
    """Return what a group is known by that starts at this time [MJD UTC d]."""
    return Identity(id=group_id, start_ms=start_ms_of(start_mjd), start_mjd=start_mjd)


def start_ms_of(start_mjd: float) -> int:
    """Return a time [MJD UTC d] in whole milliseconds since 1970."""
    return round((start_mjd - _MJD_OF_UNIX_EPOCH_D) * _DAY_MS)


def is_same_start(known: Row, wanted: Identity) -> bool:
    """Tell whether a row of `groups` is the group of this start, or of this name if one has none."""
    if known["start_mjd"] is None or wanted.start_mjd is None:
        return bool(known["id"] == wanted.id)
    apart_d = abs(known["start_mjd"] - wanted.start_mjd)
    return bool(apart_d <= SAME_START_TOLERANCE_D + _ROUNDING_D)


class Known:
    """The groups of one output that may be those that are looked for, or have their ids.

    Parameters
    ----------
    connection
        For further questions.
    output_dir, options_hash
        Of the groups that are looked for.
    wanted
        All that will be asked for.
    """

    def __init__(
        self,
        connection: Connection,
        output_dir: str,
        options_hash: str,
        wanted: Sequence[Identity],
    ) -> None:
        self._connection = connection
        self._output_dir = output_dir
        self._options_hash = options_hash
        self._by_start: dict[int, list[Row]] = {}
        self._by_id: dict[str, list[Row]] = {}
        # A start may fall to either side of a millisecond.
        starts = sorted({w.start_ms + step for w in wanted for step in (-1, 0, 1)})
        for some in chunks(starts):
            for row in self._rows(groups.c.start_ms.in_(some)):
                if row["options_hash"] == options_hash:
                    self._by_start.setdefault(row["start_ms"], []).append(row)
        for ids in chunks(sorted({w.id for w in wanted})):
            self._remember_ids(ids)

    def find(self, wanted: Identity) -> Row | None:
        """Return the row of the group itself, if it is known."""
        near = [
            row
            for step in (0, -1, 1)
            for row in self._by_start.get(wanted.start_ms + step, ())
            if row["start_mjd"] is not None and wanted.start_mjd is not None
        ]
        named = [
            row
            for row in self._by_id.get(wanted.id, ())
            if row["options_hash"] == self._options_hash
        ]
        return next((row for row in (*near, *named) if is_same_start(row, wanted)), None)

    def id_for(self, wanted: Identity) -> str:
        """Return an id for a new group that no other start of this output has, and keep it."""
        for candidate in _candidates(wanted):
            if candidate not in self._by_id:
                self._remember_ids([candidate])
            others = self._by_id[candidate]
            if all(_is_other_options(row, wanted) for row in others):
                others.append({"id": candidate, "options_hash": "", "start_mjd": wanted.start_mjd})
                return candidate
        raise AssertionError("the candidates never end")

    def _remember_ids(self, ids: Sequence[str]) -> None:
        for one in ids:
            self._by_id[one] = []
        for row in self._rows(groups.c.id.in_(ids)):
            self._by_id[row["id"]].append(row)

    def _rows(self, condition: Any) -> Iterator[Row]:
        query = select(groups).where(condition, groups.c.output_dir == self._output_dir)
        yield from self._connection.execute(query).mappings()


def _is_other_options(row: Row, wanted: Identity) -> bool:
    """Tell whether a row is the same observation: converted by other options it has the same id."""
    if row["start_mjd"] is None or wanted.start_mjd is None:
        return False
    return is_same_start(row, wanted)


def _candidates(wanted: Identity) -> Iterator[str]:
    """Yield the label it comes with, then the stamp of its start, then one a second later, …."""
    yield wanted.id
    label = wanted.id
    if wanted.start_mjd is not None:
        label = stamp_of_jd(wanted.start_mjd + MJD_JD_OFFSET_D)
        yield label
    for number in count(1):
        mjd = stamp_to_mjd(label)
        if mjd is None:
            yield f"{wanted.id}-{number + 1}"
        else:
            label = stamp_of_jd(mjd + 1 / 86400.0 + MJD_JD_OFFSET_D)
            yield label
