"""Read the bulk of one subband file in blocks of rows: channels ascending, products in MS order.

Each byte is read once. Uncompressed files are read chunk by chunk (`contimg_dask.uvh5.chunks`),
all others through h5py; both give the same values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from contimg_dask.errors import InputError
from contimg_dask.model import SubbandHeader
from contimg_dask.uvh5.chunks import ChunkMap, ChunkReader, map_chunks
from contimg_dask.uvh5.header import open_uvh5

_DTYPES = {"visdata": "<c8", "flags": "?", "nsamples": "<f4"}
_TARGET_ROWS = 1024
"""Rows per block: its visibilities (0.8 MB at full scale) stay in a core's own cache."""
_MOST_ROWS = 16384


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Consecutive rows of one file; the arrays are valid until the next block.

    ``visibilities`` complex64, ``flags`` bool, ``weights`` float32 (nsamples), all of shape
    (rows, channels, products).
    """

    row_start: int
    visibilities: npt.NDArray[np.complex64]
    flags: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]

    @property
    def rows(self) -> int:
        """Number of rows in the block."""
        return int(self.visibilities.shape[0])


def product_order(products: tuple[int, ...]) -> list[int]:
    """Return the positions in the file of the products in MS order (XX, XY, YX, YY).

    AIPS codes order as -5 XX, -6 YY, -7 XY, -8 YX; a Measurement Set wants the cross products
    between the parallel ones. The same holds for circular products (-1 to -4).
    """
    rank = {-1: 0, -3: 1, -4: 2, -2: 3, -5: 0, -7: 1, -8: 2, -6: 3}
    return sorted(range(len(products)), key=lambda position: rank[products[position]])


class SubbandReader:
    """Reads one subband file once, from the first row to the last.

    Parameters
    ----------
    header
        What a peek found; the file must still have that size and modification time.

    Attributes
    ----------
    method : str
        ``direct`` or ``h5py``.
    bytes_read : int
        Bytes of bulk data read so far, from the file system's view.
    """

    def __init__(self, header: SubbandHeader) -> None:
        self._header = header
        self._block_rows = _TARGET_ROWS
        self.bytes_read = 0
        with open_uvh5(header.path, header.size_bytes) as file:
            self._check_unchanged()
            freq_hz = np.atleast_1d(np.squeeze(file["Header/freq_array"][()]))
            self._descending = bool(freq_hz[0] > freq_hz[-1])
            self._maps = self._plan(file)
        self.method = "h5py" if self._maps is None else "direct"

    def _plan(self, file: h5py.File) -> dict[str, ChunkMap] | None:
        """Choose the rows per block, and return the chunks where they can be read directly."""
        path = self._header.path
        maps = {
            name: map_chunks(path, file["Data"][name], dtype, _TARGET_ROWS)
            for name, dtype in _DTYPES.items()
        }
        chunk_rows = [
            chunks.chunk_shape[0] if chunks is not None else (file["Data"][name].chunks or (1,))[0]
            for name, chunks in maps.items()
        ]
        common = math.lcm(*chunk_rows)
        if common > _MOST_ROWS:
            # No block of reasonable size holds whole chunks of all three data sets.
            self._block_rows = _MOST_ROWS
            return None
        self._block_rows = common * max(1, _TARGET_ROWS // common)
        found = {name: chunks for name, chunks in maps.items() if chunks is not None}
        return found if len(found) == len(_DTYPES) else None

    def blocks(self) -> Iterator[Block]:
        """Yield every block in row order.

        Raises
        ------
        InputError
            The file is truncated, was changed while it was read, or cannot be read.
        """
        yield from self._direct_blocks() if self._maps is not None else self._hdf5_blocks()
        self._check_unchanged()

    def _direct_blocks(self) -> Iterator[Block]:
        assert self._maps is not None
        # The reader puts file product k at position `into[k]`: the inverse of the MS order.
        into = np.argsort(product_order(self._header.products)).tolist()
        channels = slice(None, None, -1 if self._descending else 1)
        self._check_unchanged()
        descriptor = os.open(self._header.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            readers = {
                name: ChunkReader(
                    self._header.path, descriptor, chunks, self._block_rows, channels, into
                )
                for name, chunks in self._maps.items()
            }
            for row_start in range(0, self._header.rows, self._block_rows):
                arrays = {name: reader.read(row_start) for name, reader in readers.items()}
                self.bytes_read = sum(reader.bytes_read for reader in readers.values())
                yield _block(row_start, arrays)
        finally:
            os.close(descriptor)

    def _hdf5_blocks(self) -> Iterator[Block]:
        yield from read_blocks(self._header, self._block_rows)
        with open_uvh5(self._header.path) as file:
            self.bytes_read = sum(file["Data"][name].id.get_storage_size() for name in _DTYPES)

    def _check_unchanged(self) -> None:
        try:
            status = os.stat(self._header.path)
        except OSError as error:
            raise InputError(
                f"{self._header.path}: {error.strerror}: it was there when the group was planned",
                path=self._header.path,
            ) from error
        if (status.st_size, status.st_mtime_ns) != (self._header.size_bytes, self._header.mtime_ns):
            raise InputError(
                f"{self._header.path}: the file changed while it was read ({self._header.size_bytes} "
                f"bytes before, {status.st_size} now): convert it when it is finished",
                code="truncated"
                if status.st_size < self._header.size_bytes
                else "changed-while-read",
                path=self._header.path,
            )


def read_blocks(header: SubbandHeader, rows_at_once: int) -> Iterator[Block]:
    """Yield every block of a file through h5py, whatever its layout: the plain way."""
    with open_uvh5(header.path, header.size_bytes) as file:
        for row_start in range(0, header.rows, rows_at_once):
            yield _rows(file, header, row_start, rows_at_once)


def read_rows(header: SubbandHeader, rows: list[int]) -> list[Block]:
    """Return single rows of a file through h5py."""
    with open_uvh5(header.path) as file:
        return [_rows(file, header, row, 1) for row in rows]


def _rows(file: h5py.File, header: SubbandHeader, row_start: int, rows: int) -> Block:
    freq_hz = np.atleast_1d(np.squeeze(file["Header/freq_array"][()]))
    step = -1 if freq_hz[0] > freq_hz[-1] else 1
    order = product_order(header.products)
    return _block(
        row_start,
        {
            name: np.ascontiguousarray(
                _plain(file["Data"][name], row_start, row_start + rows, dtype)[:, ::step][
                    ..., order
                ]
            )
            for name, dtype in _DTYPES.items()
        },
    )


def _block(row_start: int, arrays: dict[str, npt.NDArray[Any]]) -> Block:
    return Block(
        row_start=row_start,
        visibilities=arrays["visdata"],
        flags=arrays["flags"],
        weights=arrays["nsamples"],
    )


def _plain(dataset: h5py.Dataset, row_start: int, row_stop: int, dtype: str) -> npt.NDArray[Any]:
    """Read rows as (rows, channels, products) of the wanted type, whatever the file holds."""
    values = dataset[row_start:row_stop]
    if values.ndim == 4:
        values = values[:, 0]
    if values.dtype.names is not None:
        # Visibilities as a compound of integers, or of floats in the other byte order.
        pair = np.empty(values.shape, dtype=dtype)
        pair.real, pair.imag = values["r"], values["i"]
        return pair
    return np.asarray(values, dtype=dtype)
