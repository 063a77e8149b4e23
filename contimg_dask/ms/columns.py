"""The small columns of MAIN for one group: one value per row, the same in every window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contimg_dask.errors import DisagreementError, InputError
from contimg_dask.model import MJD_JD_OFFSET_D, PhaseCentre
from contimg_dask.ms.tiles import RowConvention
from contimg_dask.phasing import Fields, meridian_fields, meridian_uvw, site_location
from contimg_dask.uvh5.catalogue import read_tracked_fields
from contimg_dask.uvh5.header import Axes
from contimg_dask.uvh5.reader import product_order

FloatArray = npt.NDArray[np.float64]

CASA_CORRELATION = {-1: 5, -3: 6, -4: 7, -2: 8, -5: 9, -7: 10, -8: 11, -6: 12}
"""AIPS polarization code -> casacore Stokes type (RR 5 … LL 8, XX 9 … YY 12)."""

_WRONG_INTEGRATION = 0.5
"""Part of the time step by which an older file's integration time may be off before the step of
its time axis is taken instead."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowColumns:
    """One window's rows: times MJD UTC [s], UVW [m] of shape (rows, 3), ids from 0."""

    time_mjd_s: FloatArray
    interval_s: FloatArray
    antenna_1: npt.NDArray[np.int32]
    antenna_2: npt.NDArray[np.int32]
    uvw_m: FloatArray
    scan_number: npt.NDArray[np.int32]
    fields: Fields
    notes: tuple[str, ...]


def row_convention(axes: Axes, products: tuple[int, ...]) -> RowConvention:
    """Return which rows are swapped and which products change places in them.

    Raises
    ------
    DisagreementError
        Rows must be swapped but a cross product's counterpart is not in the file.
    """
    swapped = axes.antenna_1 > axes.antenna_2
    ordered = [products[position] for position in product_order(products)]
    conjugate = {-3: -4, -4: -3, -7: -8, -8: -7}
    wanted = [conjugate.get(code, code) for code in ordered]
    if not set(wanted) <= set(ordered):
        if swapped.any():
            raise DisagreementError(
                f"{axes.path}: {np.count_nonzero(swapped)} rows have antenna 1 > antenna 2, and "
                f"swapping them needs both cross products; the file has {ordered}",
                code="missing-product",
                path=axes.path,
            )
        wanted = ordered
    return RowConvention(swapped=swapped, partner=tuple(ordered.index(code) for code in wanted))


def row_columns(axes: Axes, phase_centre: PhaseCentre) -> RowColumns:
    """Return the small columns of one window.

    Raises
    ------
    InputError
        The phase centre cannot be had in the wanted way, or times are not finite.
    """
    if not np.all(np.isfinite(axes.time_jd)):
        raise InputError(f"{axes.path}: time_array holds values that are not times", path=axes.path)
    first = np.minimum(axes.antenna_1, axes.antenna_2)
    second = np.maximum(axes.antenna_1, axes.antenna_2)
    meridian = _wants_meridian(axes, phase_centre)
    if meridian:
        fields, uvw_m = _meridian(axes, first, second)
        interval_s, notes = _integration_time(axes)
    else:
        fields, tracked_uvw_m = read_tracked_fields(axes)
        # Swapping antennas turns a baseline round.
        uvw_m = np.where((axes.antenna_1 > axes.antenna_2)[:, None], -tracked_uvw_m, tracked_uvw_m)
        interval_s, notes = axes.integration_time_s, ()
    integration = np.unique(axes.time_jd, return_inverse=True)[1]
    return RowColumns(
        time_mjd_s=(axes.time_jd - MJD_JD_OFFSET_D) * 86400.0,
        interval_s=np.ascontiguousarray(interval_s),
        antenna_1=first.astype(np.int32),
        antenna_2=second.astype(np.int32),
        # DATA is the conjugate of what pos(2) - pos(1) belongs to, so UVW are turned round too.
        uvw_m=-uvw_m,
        scan_number=(integration + 1).astype(np.int32),
        fields=fields,
        notes=notes,
    )


def _wants_meridian(axes: Axes, phase_centre: PhaseCentre) -> bool:
    if phase_centre == "keep" and axes.phase_type == "drift":
        raise InputError(
            f"{axes.path}: there is no tracked phase centre to keep (phase type drift); use "
            f"--phase-centre meridian",
            code="phase-centre",
            path=axes.path,
        )
    if phase_centre == "meridian" or axes.phase_type == "drift":
        if axes.app_dec_rad is None:
            raise InputError(
                f"{axes.path}: neither extra_keywords/phase_center_dec nor phase_center_app_dec "
                f"gives one declination, so the meridian phase centre is unknown; set the file aside",
                code="phase-centre",
                path=axes.path,
            )
        if phase_centre == "meridian" and axes.phase_type != "drift":
            raise InputError(
                f"{axes.path}: its visibilities follow a tracked phase centre, so labelling them "
                f"with the meridian would be wrong; use --phase-centre keep",
                code="phase-centre",
                path=axes.path,
            )
        return True
    return False


def _meridian(
    axes: Axes, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> tuple[Fields, FloatArray]:
    assert axes.app_dec_rad is not None
    site = site_location(axes.latitude_deg, axes.longitude_deg, axes.altitude_m)
    uvw_m = meridian_uvw(
        axes.time_jd,
        first,
        second,
        axes.antenna_numbers,
        axes.antenna_positions_m,
        axes.app_dec_rad,
        site,
    )
    return meridian_fields(axes.time_jd, axes.app_dec_rad, site), uvw_m


def _integration_time(axes: Axes) -> tuple[FloatArray, tuple[str, ...]]:
    """Return the integration time per row [s], from the time axis where the header's is wrong."""
    times_jd = np.unique(axes.time_jd)
    if times_jd.size < 2:
        return axes.integration_time_s, ()
    step_s = float(np.median(np.diff(times_jd))) * 86400.0
    stated_s = float(np.median(axes.integration_time_s))
    if abs(stated_s - step_s) <= _WRONG_INTEGRATION * step_s:
        return axes.integration_time_s, ()
    note = f"integration_time {stated_s:g} s replaced by the step of time_array, {step_s:.6f} s"
    return np.full(axes.time_jd.size, step_s), (note,)
