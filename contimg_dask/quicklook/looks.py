"""What is kept of a subband's blocks while they are converted: sums per integration and antenna.

Amplitudes are summed in double precision, over values that are not flagged. A look is left in the
attempt's directory as a small file, from where the reducing step takes it.
"""

from __future__ import annotations

import io
import uuid
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from contimg_dask.errors import QuicklookError
from contimg_dask.quicklook.sampling import Sample

_LARGEST = np.finfo(np.float32).max
_ROWS_AT_ONCE = 1024


class Values(Protocol):
    """Consecutive rows in the product's convention, as `contimg_dask.uvh5.reader.Block` has them."""

    @property
    def row_start(self) -> int:
        """Number of the first row."""

    @property
    def visibilities(self) -> npt.NDArray[np.complex64]:
        """(rows, channels, products), all finite."""

    @property
    def flags(self) -> npt.NDArray[np.bool_]:
        """The same shape."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """Arrays by name, which one step leaves in a file for another."""

    def save(self, path: str) -> None:
        """Write it to a file, in one stroke: the step may run twice at the same time."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(buffer, **arrays)
        put_bytes(path, buffer.getbuffer())

    @classmethod
    def load(cls, path: str) -> Self:
        """Read it back.

        Raises
        ------
        QuicklookError
            There is none, or it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**file)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise QuicklookError(f"{path}: cannot be read: {error}", path=path) from error
        except TypeError as error:
            raise QuicklookError(f"{path}: not a {cls.__name__}: {error}", path=path) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubbandLook(Look):
    """What was seen of one subband, on the rows of its sample.

    ``sums`` (slots, channels, products) of amplitudes and ``counts`` of how many values; slots as
    in `Sample`. ``flagged`` and ``zero`` (antennas, products) count values of each antenna's rows,
    out of ``values`` (antennas,) per product; what is flagged is not counted as zero.
    """

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.uint32]
    flagged: npt.NDArray[np.int64]
    zero: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]


def look_path(directory: str, name: str) -> str:
    """Return where an attempt keeps the look at a subband, or at its rows."""
    return f"{directory}/quicklook.{name}.npz"


def put_bytes(path: str, content: bytes | memoryview) -> None:
    """Write a file, in one stroke."""
    unfinished = Path(f"{path}.{uuid.uuid4().hex[:8]}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


class SubbandLooker:
    """Looks at the blocks of one subband as they pass.

    Parameters
    ----------
    sample
        The rows to look at.
    channels, products
        Of the subband.

    Notes
    -----
    Safe under threads: no. Blocks may come in any order, each once; they are left as they are.
    """

    def __init__(self, sample: Sample, channels: int, products: int) -> None:
        self._sample = sample
        self._sums = np.zeros((sample.slot_count, channels, products))
        self._counts = np.zeros(self._sums.shape, dtype=np.uint32)
        self._flagged = np.zeros((sample.rows.size, products), dtype=np.int64)
        self._zero = np.zeros_like(self._flagged)
        # Rows wait here until there are enough of them: numpy's calls cost more than few rows.
        self._values = np.empty((_ROWS_AT_ONCE, channels, products), dtype=np.complex64)
        self._flags = np.empty(self._values.shape, dtype=bool)
        self._begin = self._waiting = 0

    def look(self, block: Values) -> None:
        """Take in the rows of the sample that are in a block."""
        stop = block.row_start + block.visibilities.shape[0]
        begin, end = (int(n) for n in self._sample.rows.searchsorted((block.row_start, stop)))
        if begin != self._begin + self._waiting:
            self._take_in()
            self._begin = begin
        while begin < end:
            count = min(end - begin, _ROWS_AT_ONCE - self._waiting)
            rows = self._sample.rows[begin : begin + count] - block.row_start
            here = slice(self._waiting, self._waiting + count)
            block.visibilities.take(rows, axis=0, out=self._values[here], mode="clip")
            block.flags.take(rows, axis=0, out=self._flags[here], mode="clip")
            begin += count
            self._waiting += count
            if self._waiting == _ROWS_AT_ONCE:
                self._take_in()

    def _take_in(self) -> None:
        """Add the rows that wait to the sums."""
        here = slice(self._begin, self._begin + self._waiting)
        amplitude = _amplitude(self._values[: self._waiting])
        flags = self._flags[: self._waiting]
        self._begin, self._waiting = here.stop, 0
        if here.start == here.stop:
            return
        any_flagged = bool(flags.any())
        if not amplitude.all():
            self._zero[here] = np.count_nonzero((amplitude == 0) & ~flags, axis=1)
        if any_flagged:
            self._flagged[here] = np.count_nonzero(flags, axis=1)
            amplitude[flags] = 0
        self._add(self._sample.slots[here], amplitude, ~flags if any_flagged else None)

    def _add(
        self,
        slots: npt.NDArray[np.int64],
        amplitude: npt.NDArray[np.float32],
        used: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Add rows to their slots; ``used`` are the values that are not flagged, None: all."""
        order = np.argsort(slots, kind="stable")
        heads = np.flatnonzero(np.diff(slots[order], prepend=-1))
        into = slots[order][heads]
        self._sums[into] += np.add.reduceat(amplitude[order], heads, axis=0, dtype=np.float64)
        if used is None:
            self._counts[into] += np.diff(heads, append=slots.size).astype(np.uint32)[:, None, None]
        else:
            self._counts[into] += np.add.reduceat(used[order], heads, axis=0, dtype=np.uint32)

    def result(self) -> SubbandLook:
        """Return what was seen."""
        self._take_in()
        sample = self._sample
        rows = np.bincount(sample.first, minlength=sample.antennas.size)
        cross = sample.second[sample.first != sample.second]
        rows += np.bincount(cross, minlength=sample.antennas.size)
        return SubbandLook(
            sums=self._sums,
            counts=self._counts,
            flagged=_per_antenna(sample, self._flagged),
            zero=_per_antenna(sample, self._zero),
            values=rows * self._sums.shape[1],
        )


def _amplitude(visibilities: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    # The amplitude of two huge components may be more than float32 holds: it stays at the largest.
    with np.errstate(over="ignore"):
        amplitude: npt.NDArray[np.float32] = np.abs(visibilities)
    return np.minimum(amplitude, _LARGEST, out=amplitude)


def _per_antenna(sample: Sample, of_row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sum (rows, products) over the rows of each antenna, an autocorrelation once."""
    total = np.zeros((sample.antennas.size, of_row.shape[1]), dtype=np.int64)
    if not of_row.any():
        return total
    cross = sample.first != sample.second
    np.add.at(total, sample.first, of_row)
    np.add.at(total, sample.second[cross], of_row[cross])
    return total
