"""Put the bulk of one-subband parts into the product: a byte copy, because the tiles are the same.

A part whose tiles are not as planned (another casacore, another writer) is copied by casacore.
"""

from __future__ import annotations

import os
from typing import Any

import casacore.tables as tables
import numpy as np

from contimg_dask.copying import copy_range
from contimg_dask.geometry import IMAGING_COLUMNS, MODEL_DATA, BulkColumn, Geometry, part_of
from contimg_dask.ms.skeleton import casacore_faults, open_tile_files

_ROWS_AT_ONCE = 8192


def copy_parts(product: str, geometry: Geometry, parts: list[str]) -> tuple[str, ...]:
    """Copy the bulk of every part to its place; return a line for each that needed casacore.

    Parameters
    ----------
    product, geometry
        A skeleton with all rows, and its shape.
    parts
        The one-subband Measurement Sets in the product's order.

    Raises
    ------
    OSError, OutputError
        Something cannot be read or written.
    """
    notes = []
    for position, part in enumerate(parts):
        difference = layout_difference(part, part_of(geometry))
        if difference is None:
            _copy_tiles(product, geometry, part, position)
        else:
            _copy_by_casacore(product, geometry, part, position)
            notes.append(f"{os.path.basename(part)} was copied by casacore: {difference}")
    return tuple(notes)


def layout_difference(part: str, shape: Geometry) -> str | None:
    """Return in what the tiles of a part are not as planned, or None."""
    with casacore_faults(part):
        table = tables.table(part, readonly=True, ack=False)
        try:
            managers = table.getdminfo().values()
            big_endian = table.endianformat() != "little"
        finally:
            table.close()
    if big_endian:
        return "its tiles are big-endian"
    of_column = {name: manager for manager in managers for name in manager["COLUMNS"]}
    files = open_tile_files(part, shape)
    for column in shape.columns:
        if (
            text := _column_difference(column, shape, of_column.get(column.name), files)
        ) is not None:
            return text
    return None


def _column_difference(
    column: BulkColumn, shape: Geometry, manager: Any, files: dict[str, str]
) -> str | None:
    if manager is None or manager["TYPE"] != "TiledColumnStMan" or len(manager["COLUMNS"]) != 1:
        return f"{column.name} has no TiledColumnStMan of its own"
    tile = tuple(int(n) for n in manager["SPEC"]["HYPERCUBES"]["*1"]["TileShape"])
    if tile != shape.tile_shape(column):
        return f"{column.name} has tiles of {tile}, planned were {shape.tile_shape(column)}"
    size = os.path.getsize(files[column.name])
    if size < shape.file_bytes(column):
        return f"{column.name} has {size} bytes of tiles, planned were {shape.file_bytes(column)}"
    return None


def _copy_by_casacore(product: str, geometry: Geometry, part: str, position: int) -> None:
    single = geometry.spw == "single"
    first_row = 0 if single else position * geometry.subband_rows
    first_channel = position * geometry.channels if single else 0
    columns = [column for column in geometry.subband_columns if column != MODEL_DATA]
    with casacore_faults(part):
        source = tables.table(part, readonly=True, ack=False)
        target = tables.table(product, readonly=False, ack=False)
        try:
            for row in range(0, geometry.subband_rows, _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, geometry.subband_rows - row)
                for column in columns:
                    values = source.getcol(column.name, row, rows)
                    if column in IMAGING_COLUMNS and not values.any():
                        continue  # a hole reads as zero, and takes no space
                    _put(target, column, values, first_row + row, first_channel)
        finally:
            source.close()
            target.close()


def _put(target: Any, column: BulkColumn, values: Any, row: int, first_channel: int) -> None:
    if column.cell == "products":
        target.putcol(column.name, values, row, len(values))
        return
    last = (first_channel + values.shape[1] - 1, values.shape[2] - 1)
    target.putcolslice(column.name, values, (first_channel, 0), last, [], row, len(values))


def part_weight_file(part: str, shape: Geometry, otherwise: str) -> str:
    """Return where a part's WEIGHT stands as a plain array; made at ``otherwise`` if need be."""
    if layout_difference(part, shape) is None:
        return open_tile_files(part, shape)["WEIGHT"]
    with casacore_faults(part):
        table = tables.table(part, readonly=True, ack=False)
        try:
            table.getcol("WEIGHT").astype("<f4").tofile(otherwise)
        finally:
            table.close()
    return otherwise


def _copy_tiles(product: str, geometry: Geometry, part: str, position: int) -> None:
    into, out_of = open_tile_files(product, geometry), open_tile_files(part, part_of(geometry))
    for column in geometry.subband_columns:
        if column != MODEL_DATA:
            _copy_subband(out_of[column.name], into[column.name], geometry, column, position)


def _copy_subband(
    source: str, target: str, geometry: Geometry, column: BulkColumn, position: int
) -> None:
    row_bits = geometry.row_bits(column)
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    write = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        for run in geometry.runs(column, position, 0, geometry.subband_rows):
            begin, bits = run.first_row * row_bits, run.rows * row_bits
            if run.start_bit % 8 == 0 and begin % 8 == 0 and bits % 8 == 0:
                copy_range(read, begin // 8, write, run.start_bit // 8, bits // 8)
            else:
                _copy_bits(read, begin, write, run.start_bit, bits)
    finally:
        os.close(read)
        os.close(write)


def _copy_bits(read: int, begin: int, write: int, start_bit: int, bits: int) -> None:
    """Copy bits of FLAG that do not begin or end with a whole byte."""
    first, lead = divmod(begin, 8)
    packed = np.frombuffer(os.pread(read, -(-(lead + bits) // 8), first), dtype=np.uint8)
    values = np.unpackbits(packed, bitorder="little")[lead : lead + bits]
    shifted = np.packbits(
        np.concatenate([np.zeros(start_bit % 8, dtype=np.uint8), values]), bitorder="little"
    )
    present = np.frombuffer(os.pread(write, shifted.size, start_bit // 8), dtype=np.uint8)
    shifted[: present.size] |= present
    os.pwrite(write, shifted.data, start_bit // 8)
