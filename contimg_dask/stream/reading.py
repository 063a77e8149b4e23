"""Open files that are to be looked at, as far as their headers are not remembered."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from contimg_dask.catalogue import files as subband_files
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.discovery import Listed, read_file
from contimg_dask.grouping import name_and_header_apart
from contimg_dask.model import SubbandHeader, UnreadableFile
from contimg_dask.naming import parse_file_name
from contimg_dask.stream.finishing import Seen
from contimg_dask.stream.listing import look_at

_PIECE_FILES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of looking at a file: a header, or why there is none.

    ``seen`` is the file as it was to be looked at, ``now`` as it is after that; None when it is gone.
    """

    path: str
    seen: Seen
    now: Seen | None
    header: SubbandHeader | None = None
    unreadable: UnreadableFile | None = None


class FileReader:
    """Reads headers, and has the catalogue remember them.

    Parameters
    ----------
    catalogue
        What remembers.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @staticmethod
    def in_pieces(files: Sequence[tuple[str, Seen]]) -> Iterator[Sequence[tuple[str, Seen]]]:
        """Cut files so that a piece takes a moment."""
        for start in range(0, len(files), _PIECE_FILES):
            yield files[start : start + _PIECE_FILES]

    def read(self, files: Sequence[tuple[str, Seen]], first: Collection[str]) -> list[Found]:
        """Return what these files are now, in the same order.

        What is remembered counts for files that are looked at for the first time; the others are
        opened again, whatever was found before.
        """
        stats = {path: seen.stat for path, seen in files}
        known = subband_files.recall(self._catalogue, {path: stats[path] for path in first})
        new = {path: read_path(path) for path, _ in files if path not in known}
        now = dict(look_at(path for path, _ in files))
        subband_files.remember(
            self._catalogue,
            [one for path, one in new.items() if _is_as_seen(now[path], stats[path])],
            stats,
        )
        return [_found(path, seen, now[path], known.get(path) or new[path]) for path, seen in files]


def _is_as_seen(now: Seen | None, stat: tuple[int, int]) -> bool:
    return now is not None and now.stat == stat


def read_path(path: str) -> SubbandHeader | UnreadableFile:
    """Read the header of a file with a subband's name, or say why that cannot be done."""
    name = parse_file_name(os.path.basename(path))
    assert name is not None  # nothing else is listed
    return read_file(Listed(path, name))


def _found(path: str, seen: Seen, now: Seen | None, one: SubbandHeader | UnreadableFile) -> Found:
    if isinstance(one, UnreadableFile):
        return Found(path=path, seen=seen, now=now, unreadable=one)
    clock = name_and_header_apart(one)
    if clock is None:
        return Found(path=path, seen=seen, now=now, header=one)
    unreadable = UnreadableFile(
        path=path, name_stamp=one.name_stamp, name_number=one.name_number, reason=clock
    )
    return Found(path=path, seen=seen, now=now, unreadable=unreadable)
