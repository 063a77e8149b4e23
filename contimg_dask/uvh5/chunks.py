"""Read an uncompressed data set straight from the file, chunk by chunk, without HDF5's scatter.

HDF5 tells where each chunk lies; the bytes are then read with as few system calls as the file's
order of chunks allows, and copied once into place. A mapped file would be simpler, but one that
shrinks while it is read would kill the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from contimg_dask.errors import InputError

_MOST_BUFFERS_PER_READ = 512
"""Below IOV_MAX, which is 1024 on Linux."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkMap:
    """Where the chunks of one data set lie in its file.

    ``offsets`` has shape (row chunks, channel chunks, product chunks) and holds byte offsets, -1
    for a chunk that was never written and so holds ``fill``. A contiguous data set has one chunk
    per ``chunk_shape[0]`` rows; its last chunk may be shorter than the others.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    chunk_shape: tuple[int, int, int]
    offsets: npt.NDArray[np.int64]
    fill: Any
    contiguous: bool

    @property
    def chunk_bytes(self) -> int:
        """Size of one whole chunk [bytes]."""
        return int(np.prod(self.chunk_shape)) * self.dtype.itemsize


def map_chunks(
    path: str, dataset: h5py.Dataset, dtype: str, contiguous_rows: int
) -> ChunkMap | None:
    """Return where the chunks lie, or None when HDF5 itself must read this data set.

    Only plain bytes can be read directly: chunked or contiguous in this very file, no filter, and
    exactly the wanted little-endian type.

    Parameters
    ----------
    path
        The file, as it was opened.
    dataset
        Of shape (rows, channels, products) or (rows, 1, channels, products).
    dtype
        The numpy type its bytes must have.
    contiguous_rows
        Rows to read at a time from a data set that is not chunked.
    """
    properties = dataset.id.get_create_plist()
    plain = (
        properties.get_layout() in (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS)
        and properties.get_nfilters() == 0
        and properties.get_external_count() == 0
        and dataset.file.filename == path  # not behind a link into another file
        and dataset.file.userblock_size == 0
    )
    if not plain or dataset.dtype != np.dtype(dtype):
        return None
    shape = (dataset.shape[0], *dataset.shape[-2:])
    if dataset.chunks is None:
        return _contiguous(dataset, shape, contiguous_rows)
    chunk_shape = (dataset.chunks[0], *dataset.chunks[-2:])
    counts = tuple(-(-size // chunk) for size, chunk in zip(shape, chunk_shape, strict=True))
    offsets = np.full(counts, -1, dtype=np.int64)

    def note(chunk: Any) -> None:
        first = chunk.chunk_offset
        offsets[
            first[0] // chunk_shape[0], first[-2] // chunk_shape[1], first[-1] // chunk_shape[2]
        ] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return ChunkMap(
        name=dataset.name,
        dtype=dataset.dtype,
        shape=shape,
        chunk_shape=chunk_shape,
        offsets=offsets,
        fill=dataset.fillvalue,
        contiguous=False,
    )


def _contiguous(dataset: h5py.Dataset, shape: tuple[int, int, int], rows: int) -> ChunkMap | None:
    start = dataset.id.get_offset()
    chunk_shape = (min(rows, shape[0]), shape[1], shape[2])
    count = -(-shape[0] // chunk_shape[0])
    step = int(np.prod(chunk_shape)) * dataset.dtype.itemsize
    offsets = np.full(count, -1) if start is None else start + step * np.arange(count)
    return ChunkMap(
        name=dataset.name,
        dtype=dataset.dtype,
        shape=shape,
        chunk_shape=chunk_shape,
        offsets=offsets.astype(np.int64).reshape(count, 1, 1),
        fill=dataset.fillvalue,
        contiguous=True,
    )


class ChunkReader:
    """Reads whole blocks of rows of one data set into the same buffers again and again.

    Parameters
    ----------
    path, descriptor
        The file and an open read-only descriptor of it, which stays the caller's.
    chunks
        Where its chunks lie.
    block_rows
        Rows per block, a multiple of the chunks' rows.
    channels, products
        Where to put the file's channels and products: a slice (reversed for a descending file)
        and an index per product.
    """

    def __init__(
        self,
        path: str,
        descriptor: int,
        chunks: ChunkMap,
        block_rows: int,
        channels: slice,
        products: list[int],
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._chunks = chunks
        self._row_chunks = block_rows // chunks.chunk_shape[0]
        counts = (self._row_chunks, *chunks.offsets.shape[1:])
        self._staging = np.empty((*counts, *chunks.chunk_shape), dtype=chunks.dtype)
        slots = self._staging.reshape(-1, int(np.prod(chunks.chunk_shape)))
        self._slots = [memoryview(slot).cast("B") for slot in slots.view(np.uint8)]
        self._out = np.empty((block_rows, *chunks.shape[1:]), dtype=chunks.dtype)
        self._copies = list(self._plan_copies(channels, products))
        self.bytes_read = 0

    def _plan_copies(
        self, channels: slice, products: list[int]
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield (source, destination) views, so that a block needs no arithmetic."""
        _, channel_step, product_step = self._chunks.chunk_shape
        ordered = self._out.reshape(self._row_chunks, -1, *self._out.shape[1:])[:, :, channels]
        for c in range(self._staging.shape[1]):
            for p in range(self._staging.shape[2]):
                into = products[p * product_step : (p + 1) * product_step]
                for k, product in enumerate(into):
                    target = ordered[:, :, c * channel_step : (c + 1) * channel_step, product]
                    yield self._staging[:, c, p, :, : target.shape[2], k], target

    def read(self, row_start: int) -> npt.NDArray[Any]:
        """Return rows from ``row_start`` (a multiple of the block) on, (rows, channels, products).

        The array is overwritten by the next call.

        Raises
        ------
        InputError
            ``truncated``: the file ends before a chunk does.
        """
        rows = min(self._out.shape[0], self._chunks.shape[0] - row_start)
        first = row_start // self._chunks.chunk_shape[0]
        offsets = self._chunks.offsets[first : first + self._row_chunks].ravel()
        for index in np.flatnonzero(offsets < 0):
            self._staging.reshape(len(self._slots), -1)[index] = self._chunks.fill
        order = np.argsort(offsets, kind="stable")
        order = order[offsets[order] >= 0]
        if order.size:
            self._read_runs(order, offsets, rows)
        for source, target in self._copies:
            target[...] = source
        return self._out[:rows]

    def _read_runs(
        self, order: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], rows: int
    ) -> None:
        """Read the chunks in file order, those that lie side by side in one call."""
        size = self._chunks.chunk_bytes
        breaks = np.flatnonzero(np.diff(offsets[order]) != size) + 1
        for run in np.split(order, breaks):
            for start in range(0, run.size, _MOST_BUFFERS_PER_READ):
                piece = run[start : start + _MOST_BUFFERS_PER_READ]
                buffers = [self._slots[index] for index in piece]
                if self._chunks.contiguous:
                    row_bytes = size // self._chunks.chunk_shape[0]
                    buffers[-1] = buffers[-1][
                        : (rows - piece[-1] * self._chunks.chunk_shape[0]) * row_bytes
                    ]
                self._read_exactly(buffers, int(offsets[piece[0]]))

    def _read_exactly(self, buffers: list[memoryview], offset: int) -> None:
        wanted = sum(buffer.nbytes for buffer in buffers)
        got = os.preadv(self._descriptor, buffers, offset)
        self.bytes_read += got
        while got < wanted:
            rest = _after(buffers, got)
            more = os.preadv(self._descriptor, rest, offset + got)
            if more == 0:
                raise InputError(
                    f"{self._path}: {self._chunks.name} ends at byte {offset + got}, expected "
                    f"{offset + wanted}: the file is truncated; send it again or set it aside",
                    code="truncated",
                    path=self._path,
                )
            self.bytes_read += more
            got += more


def _after(buffers: list[memoryview], done: int) -> list[memoryview]:
    """Return what is left of the buffers after ``done`` bytes."""
    rest = []
    for buffer in buffers:
        if done >= buffer.nbytes:
            done -= buffer.nbytes
        else:
            rest.append(buffer[done:])
            done = 0
    return rest
