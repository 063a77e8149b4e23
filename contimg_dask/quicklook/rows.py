"""What a quick-look needs of a group's rows: its labels, and where baselines lie in the uv plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contimg_dask.model import MJD_JD_OFFSET_D, Subband
from contimg_dask.ms.columns import RowColumns
from contimg_dask.quicklook.looks import Look
from contimg_dask.quicklook.sampling import sample_rows
from contimg_dask.uvh5.header import Axes
from contimg_dask.uvh5.reader import product_order

_PRODUCT_NAMES = {
    -1: "RR", -3: "RL", -4: "LR", -2: "LL", -5: "XX", -7: "XY", -8: "YX", -6: "YY",
}  # fmt: skip
_UV_INTEGRATIONS = 3
"""The first, the middle and the last: the sky turns by about a degree in between."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowLook(Look):
    """Labels of every axis, and the uv coverage.

    ``freq_hz`` and ``subband`` (channels of the product,), ascending in frequency; ``antenna_names``
    and ``antenna_numbers`` (antennas,) of those that have rows; ``time_mjd_s`` (integrations,).
    ``u_m`` and ``v_m`` (uv times, baselines) at the centres ``uv_time_mjd_s``, NaN where a baseline
    has no row then; ``first`` and ``second`` are positions among the antennas. ``cross_baselines``
    is how many there are and how many of them are looked at.
    """

    antenna_names: npt.NDArray[np.str_]
    antenna_numbers: npt.NDArray[np.int64]
    time_mjd_s: npt.NDArray[np.float64]
    freq_hz: npt.NDArray[np.float64]
    subband: npt.NDArray[np.int64]
    products: npt.NDArray[np.str_]
    units: npt.NDArray[np.str_]
    uv_time_mjd_s: npt.NDArray[np.float64]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    u_m: npt.NDArray[np.float32]
    v_m: npt.NDArray[np.float32]
    cross_baselines: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]


def look_at_rows(
    subbands: tuple[Subband, ...],
    axes: Axes,
    columns: RowColumns,
    freq_hz: tuple[npt.NDArray[np.float64], ...],
) -> RowLook:
    """Return what is to be kept of the rows of a group.

    Parameters
    ----------
    subbands
        In the product's order.
    axes
        Of the first subband.
    columns
        The product's own rows: its times and UVW.
    freq_hz
        (channels,) of each subband, ascending.
    """
    sample = sample_rows(axes.antenna_1, axes.antenna_2, axes.time_jd)
    products = subbands[0].header.products
    names = dict(zip(axes.antenna_numbers.tolist(), axes.antenna_names, strict=True))
    first = np.searchsorted(sample.antennas, columns.antenna_1)
    second = np.searchsorted(sample.antennas, columns.antenna_2)
    there = _baselines(first, second, sample.antennas.size)
    sampled = there & (np.add.outer(*[np.arange(sample.antennas.size)] * 2) % sample.step == 0)
    return RowLook(
        antenna_names=np.array([names.get(n, str(n)) for n in sample.antennas.tolist()]),
        antenna_numbers=sample.antennas,
        time_mjd_s=(sample.times_jd - MJD_JD_OFFSET_D) * 86400.0,
        freq_hz=np.concatenate(freq_hz),
        subband=np.repeat([s.number for s in subbands], [one.size for one in freq_hz]),
        products=np.array([_PRODUCT_NAMES[products[i]] for i in product_order(products)]),
        units=np.array(axes.vis_units if axes.vis_units == "Jy" else "uncalibrated"),
        cross_baselines=np.array([np.count_nonzero(there), np.count_nonzero(sampled)]),
        step=np.array(sample.step),
        **_uv(columns, first, second, there),
    )


def _baselines(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], antennas: int
) -> npt.NDArray[np.bool_]:
    """Return which cross-baselines have a row, (antennas, antennas) above the diagonal."""
    there = np.zeros((antennas, antennas), dtype=bool)
    there[first, second] = True
    np.fill_diagonal(there, val=False)
    return there


def _uv(
    columns: RowColumns,
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    there: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """Return u and v of every baseline at a few integrations."""
    heads = np.flatnonzero(np.diff(columns.time_mjd_s, prepend=np.nan) != 0)
    times = np.unique(columns.time_mjd_s[heads])
    chosen = times[np.unique(np.linspace(0, times.size - 1, _UV_INTEGRATIONS).round().astype(int))]
    of_first, of_second = np.nonzero(there)
    place = np.zeros(there.shape, dtype=np.int64)
    place[of_first, of_second] = np.arange(of_first.size)
    uv_m = np.full((2, chosen.size, of_first.size), np.nan, dtype=np.float32)
    for index, time_mjd_s in enumerate(chosen):
        rows = np.flatnonzero((columns.time_mjd_s == time_mjd_s) & (first != second))
        uv_m[:, index, place[first[rows], second[rows]]] = columns.uvw_m[rows, :2].T
    return {
        "uv_time_mjd_s": chosen, "first": of_first, "second": of_second,
        "u_m": uv_m[0], "v_m": uv_m[1],
    }  # fmt: skip
