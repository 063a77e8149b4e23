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
from contimg_dask.geometry import Geometry
from contimg_dask.model import MJD_JD_OFFSET_D, Subband
from contimg_dask.ms.columns import row_columns, row_convention
from contimg_dask.ms.skeleton import casacore_faults
from contimg_dask.uvh5.header import Axes, read_axes
from contimg_dask.uvh5.reader import Block, read_blocks, read_rows

_ROWS_AT_ONCE = 8192
_UVW_TOLERANCE_M = 1e-3
_DIRECTION_TOLERANCE_RAD = 4.8e-8
"""0.01 seconds of arc."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one subband stands in a product: its first row and its first channel.

    ``whole_window`` is False where its channels are only some of the window's.
    """

    subband: Subband
    first_row: int
    first_channel: int
    whole_window: bool


def placements(geometry: Geometry, subbands: tuple[Subband, ...]) -> tuple[Placement, ...]:
    """Return where each subband of a product stands."""
    single = geometry.spw == "single"
    return tuple(
        Placement(
            subband=subband,
            first_row=0 if single else position * geometry.subband_rows,
            first_channel=position * geometry.channels if single else 0,
            whole_window=not single,
        )
        for position, subband in enumerate(subbands)
    )


def quick_check(
    path: str,
    geometry: Geometry,
    subbands: tuple[Subband, ...],
    axes: Axes,
    *,
    imaging_columns: str,
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
            if main.nrows() != geometry.rows:
                raise VerificationError(f"{path}: {main.nrows()} rows, expected {geometry.rows}")
            _check_subtable_rows(path, main, geometry.windows)
            ends = sorted({0, geometry.subband_rows - 1})
            findings = [
                _compare(main, place, block, axes, imaging_columns)
                for place in placements(geometry, subbands)
                for block in read_rows(place.subband.header, ends)
            ]
            findings += [_compare_band_weight(main, row, 1) for row in ends]
        finally:
            main.close()
    for finding in findings:
        if finding is not None:
            raise VerificationError(f"{path}: {finding.text}")


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
    main: Any, place: Placement, block: Block, axes: Axes, imaging_columns: str
) -> Finding | None:
    """Compare one block of a file with the product's rows; the row ids are compared too."""
    header = place.subband.header
    convention = row_convention(axes, header.products)
    file_rows = slice(block.row_start, block.row_start + block.rows)
    expected = expected_rows(block, convention.swapped[file_rows], convention.partner)
    checks: list[tuple[str, npt.NDArray[Any]]] = [*expected.columns(imaging_columns == "copy")]
    if not place.whole_window:
        checks = [(name, wanted) for name, wanted in checks if wanted.ndim == 3]
    checks += [
        ("ANTENNA1", np.minimum(axes.antenna_1, axes.antenna_2)[file_rows]),
        ("ANTENNA2", np.maximum(axes.antenna_1, axes.antenna_2)[file_rows]),
        ("TIME", (axes.time_jd[file_rows] - MJD_JD_OFFSET_D) * 86400.0),
    ]
    if imaging_columns == "zero":
        zero = np.zeros_like(expected.data)
        checks += [("MODEL_DATA", zero), ("CORRECTED_DATA", zero)]
    for name, wanted in checks:
        found = _cells(main, name, place, block, wanted)
        finding = _difference(name, found, wanted, place, block)
        if finding is not None:
            return finding
    return None


def _cells(
    main: Any, name: str, place: Placement, block: Block, wanted: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Read the rows of a column, of its channels only the subband's."""
    start = place.first_row + block.row_start
    if wanted.ndim < 3 or place.whole_window:
        found: npt.NDArray[Any] = main.getcol(name, start, block.rows)
        return found
    last = (place.first_channel + wanted.shape[1] - 1, wanted.shape[2] - 1)
    part: npt.NDArray[Any] = main.getcolslice(
        name, (place.first_channel, 0), last, [], start, block.rows
    )
    return part


def _difference(
    name: str,
    found: npt.NDArray[Any],
    wanted: npt.NDArray[Any],
    place: Placement,
    block: Block,
) -> Finding | None:
    window = place.subband.name
    if found.shape != wanted.shape:
        text = f"{name} of {window} has cells of {found.shape[1:]}, expected {wanted.shape[1:]}"
        return Finding(code="shape", text=text)
    if np.array_equal(found, wanted, equal_nan=found.dtype.kind in "fc"):
        return None
    where = np.argwhere(found != wanted)[0]
    row = place.first_row + block.row_start + where[0]
    return Finding(
        code="values",
        text=f"{name} of {window} differs from {place.subband.header.path} in row {row}: "
        f"{found[tuple(where)]!s}, expected {wanted[tuple(where)]!s}",
    )


def _compare_rows(main: Any, place: Placement, axes: Axes) -> Finding | None:
    """Compare a subband's small columns and its fields' directions with the header's."""
    columns = row_columns(axes, "auto")
    rows = axes.time_jd.size
    path, window = place.subband.header.path, place.subband.name
    wanted = {
        "UVW": (columns.uvw_m, _UVW_TOLERANCE_M),
        "TIME_CENTROID": (columns.time_mjd_s, 0.0),
        "INTERVAL": (columns.interval_s, 0.0),
        "EXPOSURE": (columns.interval_s, 0.0),
        "SCAN_NUMBER": (columns.scan_number, 0.0),
        "FIELD_ID": (columns.fields.of_row, 0.0),
    }
    for name, (values, tolerance) in wanted.items():
        apart = np.max(np.abs(main.getcol(name, place.first_row, rows) - values))
        if not apart <= tolerance:
            text = f"{name} of {window} differs from what {path} gives by up to {apart:g}"
            return Finding(code="rows", text=text)
    field = tables.table(main.getkeyword("FIELD"), readonly=True, ack=False)
    found = field.getcol("PHASE_DIR")[:, 0]
    field.close()
    ours = np.stack([columns.fields.lon_rad, columns.fields.lat_rad], axis=-1)
    if found.shape != ours.shape or not np.all(_apart_rad(found, ours) <= _DIRECTION_TOLERANCE_RAD):
        text = f"the directions in FIELD are not those of {path}"
        return Finding(code="directions", text=text)
    return None


def _apart_rad(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> Any:
    """Return angles between (lon, lat) directions, good for small ones [rad]."""
    east = np.angle(np.exp(1j * (one[:, 0] - two[:, 0]))) * np.cos(two[:, 1])
    return np.hypot(east, one[:, 1] - two[:, 1])


def _compare_band_weight(main: Any, row: int, rows: int) -> Finding | None:
    """Hold WEIGHT against the median over the channels of WEIGHT_SPECTRUM."""
    weight = main.getcol("WEIGHT", row, rows)
    wanted = np.median(main.getcol("WEIGHT_SPECTRUM", row, rows), axis=1).astype(np.float32)
    if np.array_equal(weight, wanted, equal_nan=True):
        return None
    text = f"WEIGHT is not the median of WEIGHT_SPECTRUM over channels near row {row}"
    return Finding(code="weight", text=text)


def compare_with_input(
    path: str,
    places: tuple[Placement, ...],
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Compare every value of every subband with its file; one finding per subband at most.

    Parameters
    ----------
    path
        The Measurement Set.
    places
        Its subbands, and where they stand.
    progress
        Called with (rows done, rows in all).
    """
    findings = []
    main = tables.table(path, readonly=True, ack=False)
    try:
        done, total = 0, sum(place.subband.header.rows for place in places)
        for place in places:
            header = place.subband.header
            axes = read_axes(header.path)
            if (finding := _compare_rows(main, place, axes)) is not None:
                findings.append(finding)
            for block in read_blocks(header, _ROWS_AT_ONCE):
                # Calibration writes the imaging columns after publication: they are not compared.
                finding = _compare(main, place, block, axes, "none")
                if finding is not None:
                    findings.append(finding)
                    break
                if progress is not None:
                    progress(done + block.row_start + block.rows, total)
            done += header.rows
        for row in range(0, main.nrows(), _ROWS_AT_ONCE):
            rows = min(_ROWS_AT_ONCE, main.nrows() - row)
            if not findings and (finding := _compare_band_weight(main, row, rows)) is not None:
                findings.append(finding)
    finally:
        main.close()
    return findings
