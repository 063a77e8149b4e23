"""Take the bytes of a part out of its tile files, and put them into the product's."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from contimg_dask.geometry import CORRECTED_DATA, DATA, FLAG, MODEL_DATA, BulkColumn, Geometry

_NEVER_MOVED = (MODEL_DATA, CORRECTED_DATA)
"""Zero, or a copy of DATA."""


def read_subband(shape: Geometry, tile_file: Callable[[str], str]) -> dict[str, bytes]:
    """Return the plain array of each bulk column of a part, without those that are all zero.

    Parameters
    ----------
    shape
        Of the part: one subband with a window of its own.
    tile_file
        Path of a column's tile file.

    Raises
    ------
    OSError
        A file cannot be read, or is shorter than its column.
    """
    found: dict[str, bytes] = {}
    for column in shape.columns:
        if column in _NEVER_MOVED:
            continue
        size = -(-shape.subband_rows * shape.row_bits(column) // 8)
        with open(tile_file(column.name), "rb") as file:
            content = file.read(size)
        # Flags that nobody has set are a hole, also at the end; all else was written in full.
        if len(content) < size and column != FLAG:
            raise OSError(
                errno.EIO, f"{len(content)} bytes where {size} were written", tile_file(column.name)
            )
        if np.frombuffer(content, dtype=np.uint8).any():
            found[column.name] = content.ljust(size, b"\0")
    return found


def put_subband(
    geometry: Geometry,
    position: int,
    columns: Mapping[str, bytes],
    tile_file: Callable[[str], str],
    *,
    copy_data: bool,
) -> None:
    """Write the plain arrays of one subband to its place in the product's tile files.

    Parameters
    ----------
    geometry, position
        Of the product, and which subband of it.
    columns
        By name; what is not there stays a hole.
    tile_file
        Path of a column's tile file, made here where it does not exist.
    copy_data
        Write DATA into CORRECTED_DATA as well.

    Raises
    ------
    OSError
        Among others ENOSPC.

    Notes
    -----
    Safe under processes, also within one column; safe to repeat.
    """
    for column in geometry.subband_columns:
        source = DATA.name if column == CORRECTED_DATA and copy_data else column.name
        content = columns.get(source)
        if column == CORRECTED_DATA and not copy_data:
            content = None
        _put_column(geometry, position, column, content, tile_file(column.name))


def _put_column(
    geometry: Geometry, position: int, column: BulkColumn, content: bytes | None, path: str
) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if content is None:
            return
        row_bits = geometry.row_bits(column)
        view = memoryview(content)
        for run in geometry.runs(column, position, 0, geometry.subband_rows):
            begin, bits = run.first_row * row_bits, run.rows * row_bits
            if run.start_bit % 8 == 0 and begin % 8 == 0 and bits % 8 == 0:
                write_all(descriptor, view[begin // 8 : (begin + bits) // 8], run.start_bit // 8)
            else:
                merge_bits(descriptor, view, begin, run.start_bit, bits)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of it at an offset of a file."""
    done = 0
    while done < data.nbytes:
        done += os.pwrite(descriptor, data[done:], offset + done)


def merge_bits(
    descriptor: int, packed: memoryview, begin_bit: int, start_bit: int, bits: int
) -> None:
    """Write bits that do not begin or end with a whole byte, beside those of neighbours.

    Parameters
    ----------
    descriptor
        Of the file they go to.
    packed, begin_bit
        Where they come from: bytes, least significant bit first, and the first of them.
    start_bit, bits
        Where they go, and how many.
    """
    first, lead = divmod(begin_bit, 8)
    source = np.frombuffer(packed[first : first - (-(lead + bits) // 8)], dtype=np.uint8)
    values = np.unpackbits(source, bitorder="little")[lead : lead + bits]
    zeros = np.zeros(start_bit % 8, dtype=np.uint8)
    shifted = np.packbits(np.concatenate([zeros, values]), bitorder="little")
    with _locked(descriptor):
        present = np.frombuffer(os.pread(descriptor, shifted.size, start_bit // 8), dtype=np.uint8)
        shifted[: present.size] |= present
        write_all(descriptor, shifted.data, start_bit // 8)


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Hold the file for a moment: a byte that is shared is read and written by several processes."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
