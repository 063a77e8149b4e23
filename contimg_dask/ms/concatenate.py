"""Put the bulk of one-subband parts into the product: a byte copy, because the tiles are the same."""

from __future__ import annotations

import os

import numpy as np

from contimg_dask.copying import copy_range
from contimg_dask.geometry import MODEL_DATA, BulkColumn, Geometry
from contimg_dask.ms.skeleton import open_tile_files


def copy_parts(product: str, geometry: Geometry, parts: list[str]) -> int:
    """Copy the tile bytes of every part to its window and return the bytes written.

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
        for column in geometry.columns:
            if column != MODEL_DATA:
                written += _copy_window(
                    out_of[column.name], into[column.name], geometry, column, position
                )
    return written


def _copy_window(
    source: str, target: str, geometry: Geometry, column: BulkColumn, position: int
) -> int:
    start_bit = geometry.window_start_bit(column, position)
    bits = geometry.window_bits(column)
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    write = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        if start_bit % 8 == 0 and bits % 8 == 0:
            return copy_range(read, 0, write, start_bit // 8, bits // 8)
        return _copy_bits(read, write, start_bit, bits)
    finally:
        os.close(read)
        os.close(write)


def _copy_bits(read: int, write: int, start_bit: int, bits: int) -> int:
    """Copy a window of FLAG that does not begin or end with a whole byte."""
    packed = np.frombuffer(os.pread(read, -(-bits // 8), 0), dtype=np.uint8)
    values = np.unpackbits(packed, bitorder="little")[:bits]
    shifted = np.packbits(
        np.concatenate([np.zeros(start_bit % 8, dtype=np.uint8), values]), bitorder="little"
    )
    present = np.frombuffer(os.pread(write, shifted.size, start_bit // 8), dtype=np.uint8)
    shifted[: present.size] |= present
    return os.pwrite(write, shifted.data, start_bit // 8)
