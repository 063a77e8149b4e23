"""Put the bulk of one-subband parts into the product: a byte copy, because the tiles are the same."""

from __future__ import annotations

import os

import numpy as np

from contimg_dask.copying import copy_range
from contimg_dask.geometry import MODEL_DATA, BulkColumn, Geometry
from contimg_dask.ms.skeleton import open_tile_files


def copy_parts(product: str, geometry: Geometry, parts: list[str]) -> int:
    """Copy the tile bytes of every part to its place and return the bytes written.

    Parameters
    ----------
    product, geometry
        A skeleton with all rows, and its shape.
    parts
        The one-subband Measurement Sets in the product's order.
    """
    into = open_tile_files(product, geometry)
    written = 0
    for position, part in enumerate(parts):
        out_of = open_tile_files(part, geometry)
        for column in geometry.subband_columns:
            if column != MODEL_DATA:
                written += _copy_subband(
                    out_of[column.name], into[column.name], geometry, column, position
                )
    return written


def _copy_subband(
    source: str, target: str, geometry: Geometry, column: BulkColumn, position: int
) -> int:
    row_bits = geometry.row_bits(column)
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    write = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    written = 0
    try:
        for run in geometry.runs(column, position, 0, geometry.subband_rows):
            begin, bits = run.first_row * row_bits, run.rows * row_bits
            if run.start_bit % 8 == 0 and begin % 8 == 0 and bits % 8 == 0:
                written += copy_range(read, begin // 8, write, run.start_bit // 8, bits // 8)
            else:
                written += _copy_bits(read, begin, write, run.start_bit, bits)
    finally:
        os.close(read)
        os.close(write)
    return written


def _copy_bits(read: int, begin: int, write: int, start_bit: int, bits: int) -> int:
    """Copy bits of FLAG that do not begin or end with a whole byte."""
    first, lead = divmod(begin, 8)
    packed = np.frombuffer(os.pread(read, -(-(lead + bits) // 8), first), dtype=np.uint8)
    values = np.unpackbits(packed, bitorder="little")[lead : lead + bits]
    shifted = np.packbits(
        np.concatenate([np.zeros(start_bit % 8, dtype=np.uint8), values]), bitorder="little"
    )
    present = np.frombuffer(os.pread(write, shifted.size, start_bit // 8), dtype=np.uint8)
    shifted[: present.size] |= present
    return os.pwrite(write, shifted.data, start_bit // 8)
