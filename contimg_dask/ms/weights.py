"""WEIGHT and SIGMA of a single window: the median over the whole band needs every subband."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from contimg_dask.geometry import SIGMA, WEIGHT, WEIGHT_SPECTRUM, Geometry
from contimg_dask.ms.tiles import sigma_of_weight

FloatArray = npt.NDArray[np.float32]


def put_band_weights(
    files: dict[str, str], geometry: Geometry, weight_files: list[str], uniform: bool
) -> int:
    """Write WEIGHT and SIGMA of every row and return the bytes written.

    Parameters
    ----------
    files
        Path of the tile file of WEIGHT_SPECTRUM, complete, and of WEIGHT and SIGMA.
    geometry
        Shape of the table.
    weight_files
        Each subband's own WEIGHT, row by row.
    uniform
        In every row of every subband all channels have the same weight: then the median over the
        band is that of the subbands, all of the same number of channels, and nothing is read again.
    """
    weight = (
        _median_of_subbands(geometry, weight_files)
        if uniform
        else _median_of_channels(files[WEIGHT_SPECTRUM.name], geometry)
    )
    written = 0
    for column, values in ((WEIGHT, weight), (SIGMA, sigma_of_weight(weight))):
        with open(files[column.name], "r+b") as file:
            written += file.write(values.tobytes())
    return written


def _median_of_subbands(geometry: Geometry, weight_files: list[str]) -> FloatArray:
    shape = (geometry.subband_rows, geometry.products)
    count = shape[0] * shape[1]
    subbands = np.stack(
        [np.fromfile(path, dtype=np.float32, count=count).reshape(shape) for path in weight_files]
    )
    if np.array_equal(subbands, np.broadcast_to(subbands[0], subbands.shape), equal_nan=True):
        first: FloatArray = subbands[0]
        return first
    median: FloatArray = np.median(subbands, axis=0).astype(np.float32)
    return median


def _median_of_channels(path: str, geometry: Geometry) -> FloatArray:
    """Return the median over the band, tile row by tile row."""
    rows, tile_rows = geometry.subband_rows, geometry.tile_rows
    shape = (geometry.subbands, tile_rows, geometry.channels, geometry.products)
    count = int(np.prod(shape))
    weight = np.empty((rows, geometry.products), dtype=np.float32)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for first in range(0, rows, tile_rows):
            read = os.pread(descriptor, count * 4, first // tile_rows * count * 4)
            tiles = np.frombuffer(read, dtype=np.float32).reshape(shape)
            band = tiles.transpose(1, 0, 2, 3).reshape(tile_rows, -1, geometry.products)
            stop = min(first + tile_rows, rows)
            weight[first:stop] = np.median(band[: stop - first], axis=1)
    finally:
        os.close(descriptor)
    return weight
