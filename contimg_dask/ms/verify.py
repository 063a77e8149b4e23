"""Hold a Measurement Set against its input files, read back through casacore.

What a row should be is worked out here a second time, plainly and slowly: the fast way of
`contimg_dask.ms.tiles` is not trusted to check itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import casacore.tables as tables
import numpy as np
import numpy.typing as npt

from contimg_dask.errors import VerificationError
from contimg_dask.model import Subband
from contimg_dask.ms.columns import row_convention
from contimg_dask.ms.skeleton import casacore_faults
from contimg_dask.uvh5.header import Axes, read_axes
from contimg_dask.uvh5.reader import Block, read_blocks, read_rows

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be: a code for scripts, a line for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpectedRows:
    """What consecutive rows of the product must hold, shapes (rows, channels, products)."""

    data: npt.NDArray[np.complex64]
    flag: npt.NDArray[np.bool_]
    weight_spectrum: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    sigma: npt.NDArray[np.float32]

    def columns(self, corrected: bool) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield column names and values; CORRECTED_DATA only when it should be a copy."""
        yield "DATA", self.data
        yield "FLAG", self.flag
        yield "WEIGHT_SPECTRUM", self.weight_spectrum
        yield "WEIGHT", self.weight
        yield "SIGMA", self.sigma
        if corrected:
            yield "CORRECTED_DATA", self.data


def expected_rows(
    block: Block, swapped: npt.NDArray[np.bool_], partner: tuple[int, ...]
) -> ExpectedRows:
    """Work out from a block of a file what the product's rows must be."""
    turn = swapped[:, None, None]
    exchanged = list(partner)
    data = np.where(turn, block.visibilities[..., exchanged], np.conj(block.visibilities))
    flag = np.where(turn, block.flags[..., exchanged], block.flags)
    weights = np.where(turn, block.weights[..., exchanged], block.weights)
    finite = np.isfinite(data.real) & np.isfinite(data.imag)
    weight = np.median(weights, axis=1).astype(np.float32)
    positive = weight > 0
    sigma = np.where(positive, np.power(np.where(positive, weight, 1), np.float32(-0.5)), 0)
    return ExpectedRows(
        data=np.where(finite, data, 0).astype(np.complex64),
        flag=flag | ~finite,
        weight_spectrum=weights.astype(np.float32),
        weight=weight,
        sigma=sigma.astype(np.float32),
    )


def quick_check(
    path: str, windows: tuple[Subband, ...], axes: Axes, *, imaging_columns: str
) -> None:
    """Check row counts, subtables, and the first and last row of every subband against the input.

    Raises
    ------
    VerificationError
        With the first difference found: nothing of such a product may be published.
    OutputError
        casacore cannot open the product.
    """
    with casacore_faults(path):
        main = tables.table(path, readonly=True, ack=False)
        try:
            rows = windows[0].header.rows
            if main.nrows() != rows * len(windows):
                raise VerificationError(
                    f"{path}: {main.nrows()} rows, expected {rows * len(windows)}"
                )
            _check_subtable_rows(path, main, len(windows))
            for position, window in enumerate(windows):
                for block in read_rows(window.header, sorted({0, rows - 1})):
                    finding = _compare(main, position * rows, block, axes, window, imaging_columns)
                    if finding is not None:
                        raise VerificationError(f"{path}: {finding.text}")
        finally:
            main.close()


def _check_subtable_rows(path: str, main: Any, windows: int) -> None:
    wanted = {"SPECTRAL_WINDOW": windows, "DATA_DESCRIPTION": windows, "POLARIZATION": 1}
    for name, count in wanted.items():
        found = tables.table(main.getkeyword(name), readonly=True, ack=False).nrows()
        if found != count:
            raise VerificationError(f"{path}: {name} has {found} rows, expected {count}")
    for name in ("ANTENNA", "FEED", "FIELD", "SOURCE", "OBSERVATION", "STATE", "HISTORY"):
        if tables.table(main.getkeyword(name), readonly=True, ack=False).nrows() == 0:
            raise VerificationError(f"{path}: {name} is empty")


def _compare(
    main: Any, window_row: int, block: Block, axes: Axes, window: Subband, imaging_columns: str
) -> Finding | None:
    """Compare one block of a file with the product's rows; the row ids are compared too."""
    convention = row_convention(axes, window.header.products)
    file_rows = slice(block.row_start, block.row_start + block.rows)
    expected = expected_rows(block, convention.swapped[file_rows], convention.partner)
    start = window_row + block.row_start
    ids = {
        "ANTENNA1": np.minimum(axes.antenna_1, axes.antenna_2)[file_rows],
        "ANTENNA2": np.maximum(axes.antenna_1, axes.antenna_2)[file_rows],
        "TIME": (axes.time_jd[file_rows] - 2400000.5) * 86400.0,
    }
    checks = [*expected.columns(imaging_columns == "copy"), *ids.items()]
    if imaging_columns == "zero":
        zero = np.zeros_like(expected.data)
        checks += [("MODEL_DATA", zero), ("CORRECTED_DATA", zero)]
    for name, wanted in checks:
        found = main.getcol(name, start, block.rows)
        if found.shape != wanted.shape:
            return Finding(
                code="shape", text=f"{name} of {window.name} has cells of {found.shape[1:]}, "
                f"expected {wanted.shape[1:]}",
            )  # fmt: skip
        if not np.array_equal(found, wanted, equal_nan=found.dtype.kind in "fc"):
            where = np.argwhere(found != wanted)[0]
            return Finding(
                code="values",
                text=f"{name} of {window.name} differs from {window.header.path} in row "
                f"{start + where[0]}: {found[tuple(where)]!s}, expected {wanted[tuple(where)]!s}",
            )
    return None


def compare_with_input(
    path: str,
    windows: tuple[Subband, ...],
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Compare every value of every subband with its file; one finding per subband at most.

    Parameters
    ----------
    path
        The Measurement Set.
    windows
        Its subbands in the order of its spectral windows.
    progress
        Called with (rows done, rows in all).
    """
    findings = []
    main = tables.table(path, readonly=True, ack=False)
    try:
        row = 0
        total = sum(window.header.rows for window in windows)
        for window in windows:
            axes = read_axes(window.header.path)
            for block in read_blocks(window.header, _ROWS_AT_ONCE):
                # Calibration writes the imaging columns after publication: they are not compared.
                finding = _compare(main, row, block, axes, window, "none")
                if finding is not None:
                    findings.append(finding)
                    break
                if progress is not None:
                    progress(row + block.row_start + block.rows, total)
            row += window.header.rows
    finally:
        main.close()
    return findings
