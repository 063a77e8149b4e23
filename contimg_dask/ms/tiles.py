"""Write one subband's bulk columns as tile bytes, in the product's convention.

Every row gets antenna 1 <= antenna 2 and DATA is the complex conjugate of the file's value; a row
with its antennas the other way round is swapped instead, which conjugates once more, and its cross
products change places. Values that are not finite become 0 and are flagged.

Several processes may write their own subbands of one column at the same time, and a subband may
be written twice: the bytes are the same.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contimg_dask.geometry import (
    CORRECTED_DATA,
    DATA,
    FLAG,
    SIGMA,
    WEIGHT,
    WEIGHT_SPECTRUM,
    BulkColumn,
    Geometry,
)
from contimg_dask.ms.checksums import CHECKED_COLUMNS, Checksum
from contimg_dask.uvh5.reader import Block

_SIGN_OF_IMAGINARY = np.uint64(1) << np.uint64(63)


@dataclass(slots=True, kw_only=True)
class Counts:
    """What was met on the way: flagged values, bytes written, whether weights vary in a row."""

    values_flagged: int = 0
    bytes_written: int = 0
    weights_uniform: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowConvention:
    """What turns a file's rows into the product's.

    ``swapped`` (rows,) marks rows whose antennas change places; ``partner`` gives for every
    product (in MS order) the one it changes places with.
    """

    swapped: npt.NDArray[np.bool_]
    partner: tuple[int, ...]

    def apply(self, block: Block) -> int:
        """Convert a block in place and return how many values were not finite."""
        rows = slice(block.row_start, block.row_start + block.rows)
        swapped = self.swapped[rows]
        identity = self.partner == tuple(range(len(self.partner)))
        if not identity and swapped.any():
            partner = list(self.partner)
            for values in (block.visibilities, block.flags, block.weights):
                values[swapped] = values[swapped][:, :, partner]
        # Conjugation is a change of one sign bit: exact for every value, and one pass in cache.
        sign = np.where(swapped, np.uint64(0), _SIGN_OF_IMAGINARY)
        block.visibilities.view(np.uint64)[...] ^= sign[:, None, None]
        return _zero_and_flag_not_finite(block)


def _zero_and_flag_not_finite(block: Block) -> int:
    # A sum with a NaN or an infinity in it is never finite; one that overflows is looked at again.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(block.visibilities.view(np.float32))):
            return 0
    bad = ~np.isfinite(block.visibilities)
    count = int(np.count_nonzero(bad))
    if count:
        block.visibilities[bad] = 0
        block.flags[bad] = True
    return count


def band_weight(
    weights: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], bool]:
    """Return WEIGHT, the median over channels, and whether all channels of each row are equal.

    Shapes (rows, channels, products) in, (rows, products) out.
    """
    first = weights[:, 0]
    # Most blocks hold one value throughout, which two passes in cache tell.
    if weights.min() == weights.max():
        return first.copy(), True
    if np.array_equal(weights, np.broadcast_to(first[:, None], weights.shape)):
        return first.copy(), True
    return np.median(weights, axis=1).astype(np.float32), False


def sigma_of_weight(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return SIGMA = WEIGHT^-1/2, 0 where the weight is not positive (or not a number)."""
    sigma = np.zeros_like(weight)
    np.power(weight, np.float32(-0.5), out=sigma, where=weight > 0)
    return sigma


class TileWriter:
    """Writes the rows of one subband, in order, to the tile files of its columns.

    Parameters
    ----------
    geometry
        Shape of the table the tiles belong to.
    position
        The subband's place in it, in ascending frequency.
    tile_file
        Path of a column's tile file, made here where it does not exist (holes read as zero).
    weight_file
        Where to leave the subband's own WEIGHT, row by row, when the table's single window needs
        that of every subband; None when each subband has a window.
    copy_data
        Write DATA into CORRECTED_DATA as well.

    Notes
    -----
    Safe under threads: no. Safe under processes: yes, also within one column. Safe to repeat: yes.
    """

    def __init__(
        self,
        geometry: Geometry,
        position: int,
        tile_file: Callable[[str], str],
        *,
        weight_file: str | None = None,
        copy_data: bool,
    ) -> None:
        self._geometry = geometry
        self._position = position
        self._copy_data = copy_data
        self._weight_of_band = weight_file is not None
        self._checksums = {name: Checksum() for name in CHECKED_COLUMNS}
        self._descriptors: dict[str, int] = {}
        self.counts = Counts()
        paths = {column.name: tile_file(column.name) for column in geometry.subband_columns}
        if weight_file is not None:
            paths[WEIGHT.name] = weight_file
        try:
            for name, path in paths.items():
                self._descriptors[name] = os.open(
                    path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
                )
        except OSError:
            self.close()
            raise

    def __enter__(self) -> TileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def checksums(self) -> dict[str, str]:
        """Of the values written so far, by column."""
        return {name: checksum.text for name, checksum in self._checksums.items()}

    def close(self) -> None:
        """Close the tile files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def write(self, block: Block) -> None:
        """Write a block that is already in the product's convention.

        Raises
        ------
        OSError
            Among others ENOSPC, as the file system reports it.
        """
        self._write_values(DATA, block.row_start, block.visibilities)
        if self._copy_data:
            self._write_values(CORRECTED_DATA, block.row_start, block.visibilities)
        self._write_values(WEIGHT_SPECTRUM, block.row_start, block.weights)
        self._checksums[DATA.name].add(block.visibilities)
        self._checksums[WEIGHT_SPECTRUM.name].add(block.weights)
        self._checksums[FLAG.name].add(block.flags)
        self._write_weights(block)
        self._write_flags(block)

    def _write_weights(self, block: Block) -> None:
        weight, uniform = band_weight(block.weights)
        self.counts.weights_uniform &= uniform
        if self._weight_of_band:
            self._write_all(WEIGHT, _bytes(weight), block.row_start * weight[0].nbytes)
            return
        self._write_values(WEIGHT, block.row_start, weight)
        self._write_values(SIGMA, block.row_start, sigma_of_weight(weight))

    def _write_values(self, column: BulkColumn, row: int, values: npt.NDArray[np.generic]) -> None:
        for run in self._geometry.runs(column, self._position, row, values.shape[0]):
            part = values[run.first_row : run.first_row + run.rows]
            self._write_all(column, _bytes(part), run.start_bit // 8)

    def _write_flags(self, block: Block) -> None:
        for run in self._geometry.runs(FLAG, self._position, block.row_start, block.rows):
            flags = block.flags[run.first_row : run.first_row + run.rows]
            flagged = int(np.count_nonzero(flags))
            if flagged == 0:
                continue  # the tile file is a hole here, and reads as "not flagged"
            self.counts.values_flagged += flagged
            self._write_bits(flags.reshape(-1), run.start_bit)

    def _write_bits(self, flags: npt.NDArray[np.bool_], start_bit: int) -> None:
        lead = start_bit % 8
        bits = np.concatenate([np.zeros(lead, dtype=bool), flags])
        packed = np.packbits(bits, bitorder="little")
        if lead == 0 and bits.size % 8 == 0:
            self._write_all(FLAG, packed.data, start_bit // 8)
        else:
            self._merge_flags(packed, start_bit // 8)

    def _merge_flags(self, packed: npt.NDArray[np.uint8], offset: int) -> None:
        """Set bits where the first or last byte is shared with a neighbouring subband's rows."""
        descriptor = self._descriptors[FLAG.name]
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            present = np.frombuffer(os.pread(descriptor, packed.size, offset), dtype=np.uint8)
            packed[: present.size] |= present
            self._write_all(FLAG, packed.data, offset)
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)

    def _write_all(self, column: BulkColumn, data: memoryview, offset: int) -> None:
        descriptor = self._descriptors[column.name]
        done = 0
        while done < data.nbytes:
            done += os.pwrite(descriptor, data[done:], offset + done)
        self.counts.bytes_written += done


def _bytes(values: npt.NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1).data
