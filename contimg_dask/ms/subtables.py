"""Fill the subtables of a product: what CASA, WSClean and others need to find there, no more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import casacore.tables as tables
import numpy as np
import numpy.typing as npt

from contimg_dask.ms.columns import CASA_CORRELATION, RowColumns
from contimg_dask.ms.skeleton import casacore_faults
from contimg_dask.phasing import site_location
from contimg_dask.uvh5.header import Axes
from contimg_dask.uvh5.reader import product_order

_DSA_DISH_DIAMETER_M = 4.65
_LONG_INTERVAL_S = 1e30
"""An interval that covers every time: the row is valid for the whole observation."""
_TOPOCENTRIC = 5
"""casacore's code of the TOPO frequency reference."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """A spectral window: its name, channel centres (ascending) and channel width [Hz]."""

    name: str
    freq_hz: npt.NDArray[np.float64]
    channel_width_hz: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """What the subtables are made from.

    ``products`` are AIPS codes in the file's order.
    """

    axes: Axes
    columns: RowColumns
    windows: tuple[Window, ...]
    products: tuple[int, ...]
    telescope_name: str
    history: tuple[str, ...]

    @property
    def middle_mjd_s(self) -> float:
        """Middle of the observation, MJD UTC [s]."""
        return float(0.5 * (self.columns.time_mjd_s.min() + self.columns.time_mjd_s.max()))


def put_subtables(path: str, observed: Observed) -> None:
    """Write every subtable of the skeleton at ``path``.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with casacore_faults(path):
        for name, fill in _FILL.items():
            table = tables.table(os.path.join(path, name), readonly=False, ack=False)
            try:
                fill(table, observed)
            finally:
                table.close()


def _rows(table: Any, count: int, columns: dict[str, Any]) -> None:
    """Add rows and put columns into them; a value that is no list is the same in every row."""
    table.addrows(count)
    for name, values in columns.items():
        if isinstance(values, np.ndarray | list):
            table.putcol(name, values)
        else:
            table.putcol(name, [values] * count)


def _antenna(table: Any, observed: Observed) -> None:
    # A row's place is the antenna number; numbers that no antenna has become flagged rows.
    axes = observed.axes
    count = int(axes.antenna_numbers.max()) + 1
    names, position_m = [""] * count, np.zeros((count, 3))
    diameter_m = np.full(count, _DSA_DISH_DIAMETER_M)
    filler = np.ones(count, dtype=bool)
    site = site_location(axes.latitude_deg, axes.longitude_deg, axes.altitude_m)
    site_m = np.array([coordinate.to_value("m") for coordinate in site.geocentric])
    for index, number in enumerate(axes.antenna_numbers):
        names[number] = axes.antenna_names[index]
        position_m[number] = axes.antenna_positions_m[index] + site_m
        filler[number] = False
    if axes.antenna_diameters_m is not None:
        known_m = np.broadcast_to(axes.antenna_diameters_m, axes.antenna_numbers.shape)
        diameter_m[:] = known_m[0]
        diameter_m[axes.antenna_numbers] = known_m
    columns = {"NAME": names, "STATION": names, "TYPE": "GROUND-BASED", "MOUNT": "alt-az"}
    _rows(table, count, {
        **columns,
        "POSITION": position_m,
        "OFFSET": np.zeros((count, 3)),
        "DISH_DIAMETER": diameter_m,
        "FLAG_ROW": filler,
    })  # fmt: skip


def _data_description(table: Any, observed: Observed) -> None:
    count = len(observed.windows)
    _rows(table, count, {
        "SPECTRAL_WINDOW_ID": np.arange(count, dtype=np.int32),
        "POLARIZATION_ID": np.zeros(count, dtype=np.int32),
        "FLAG_ROW": np.zeros(count, dtype=bool),
    })  # fmt: skip


def _feed(table: Any, observed: Observed) -> None:
    count = int(observed.axes.antenna_numbers.max()) + 1
    circular = observed.products[0] >= -4
    receptors = ["R", "L"] if circular else ["X", "Y"]
    _rows(table, count, {
        "ANTENNA_ID": np.arange(count, dtype=np.int32),
        "FEED_ID": np.zeros(count, dtype=np.int32),
        "SPECTRAL_WINDOW_ID": np.full(count, -1, dtype=np.int32),
        "TIME": np.full(count, observed.middle_mjd_s),
        "INTERVAL": np.full(count, _LONG_INTERVAL_S),
        "NUM_RECEPTORS": np.full(count, 2, dtype=np.int32),
        "BEAM_ID": np.full(count, -1, dtype=np.int32),
        "BEAM_OFFSET": np.zeros((count, 2, 2)),
        "POLARIZATION_TYPE": np.array([receptors] * count),
        "POL_RESPONSE": np.broadcast_to(np.eye(2, dtype=np.complex64), (count, 2, 2)).copy(),
        "POSITION": np.zeros((count, 3)),
        "RECEPTOR_ANGLE": np.zeros((count, 2)),
    })  # fmt: skip


def _directions(observed: Observed) -> npt.NDArray[np.float64]:
    fields = observed.columns.fields
    return np.stack([fields.lon_rad, fields.lat_rad], axis=-1)


def _field_times(observed: Observed) -> npt.NDArray[np.float64]:
    """Return the mean time of each field's rows, MJD UTC [s]."""
    of_row = observed.columns.fields.of_row
    total_s = np.bincount(of_row, weights=observed.columns.time_mjd_s - observed.middle_mjd_s)
    return observed.middle_mjd_s + total_s / np.bincount(of_row)


def _field(table: Any, observed: Observed) -> None:
    fields = observed.columns.fields
    count = len(fields.names)
    direction = _directions(observed)[:, None, :]
    _rows(table, count, {
        "NAME": list(fields.names),
        "CODE": "",
        "TIME": _field_times(observed),
        "NUM_POLY": np.zeros(count, dtype=np.int32),
        "SOURCE_ID": np.arange(count, dtype=np.int32),
        "FLAG_ROW": np.zeros(count, dtype=bool),
    } | dict.fromkeys(("DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR"), direction))  # fmt: skip
    for column in ("DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR"):
        _set_frame(table, column, fields.frame)


def _set_frame(table: Any, column: str, frame: str) -> None:
    measure = table.getcolkeyword(column, "MEASINFO")
    measure["Ref"] = frame
    table.putcolkeyword(column, "MEASINFO", measure)


def _source(table: Any, observed: Observed) -> None:
    fields = observed.columns.fields
    count = len(fields.names)
    _rows(table, count, {
        "NAME": list(fields.names),
        "CODE": "",
        "SOURCE_ID": np.arange(count, dtype=np.int32),
        "SPECTRAL_WINDOW_ID": np.full(count, -1, dtype=np.int32),
        "CALIBRATION_GROUP": np.zeros(count, dtype=np.int32),
        "NUM_LINES": np.zeros(count, dtype=np.int32),
        "TIME": _field_times(observed),
        "INTERVAL": np.full(count, _LONG_INTERVAL_S),
        "DIRECTION": _directions(observed),
        "PROPER_MOTION": np.zeros((count, 2)),
    })  # fmt: skip
    _set_frame(table, "DIRECTION", fields.frame)


def _history(table: Any, observed: Observed) -> None:
    _put_history(table, observed.history, observed.middle_mjd_s)


def _put_history(table: Any, lines: tuple[str, ...], time_mjd_s: float) -> None:
    first = table.nrows()
    table.addrows(len(lines))
    for row, line in enumerate(lines, start=first):
        for name, value in (
            ("TIME", time_mjd_s),
            ("OBSERVATION_ID", 0),
            ("MESSAGE", line),
            ("PRIORITY", "INFO"),
            ("ORIGIN", "contimg-dask"),
            ("APPLICATION", "contimg-dask"),
            ("OBJECT_ID", 0),
            ("CLI_COMMAND", [""]),
            ("APP_PARAMS", [""]),
        ):
            table.putcell(name, row, value)


def append_history(path: str, lines: tuple[str, ...]) -> None:
    """Add lines to the HISTORY of a Measurement Set, which has some already.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with casacore_faults(path):
        table = tables.table(os.path.join(path, "HISTORY"), readonly=False, ack=False)
        try:
            _put_history(table, lines, float(table.getcell("TIME", 0)))
        finally:
            table.close()


def _observation(table: Any, observed: Observed) -> None:
    times_s, interval_s = observed.columns.time_mjd_s, observed.columns.interval_s
    first, last = int(np.argmin(times_s)), int(np.argmax(times_s))
    time_range_s = [
        times_s[first] - 0.5 * interval_s[first],
        times_s[last] + 0.5 * interval_s[last],
    ]
    _rows(table, 1, {
        "TELESCOPE_NAME": observed.telescope_name,
        "OBSERVER": observed.telescope_name,
        "PROJECT": "",
        "SCHEDULE_TYPE": "",
        "RELEASE_DATE": np.zeros(1),
        "TIME_RANGE": np.array([time_range_s]),
        "FLAG_ROW": np.zeros(1, dtype=bool),
    })  # fmt: skip
    table.putcell("LOG", 0, [""])
    table.putcell("SCHEDULE", 0, [""])


def _polarization(table: Any, observed: Observed) -> None:
    products = observed.products
    codes = [CASA_CORRELATION[products[position]] for position in product_order(products)]
    receptors = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}
    table.addrows(1)
    table.putcell("NUM_CORR", 0, len(codes))
    table.putcell("CORR_TYPE", 0, np.array(codes, dtype=np.int32))
    pairs = np.array([receptors[(code - 5) % 4] for code in codes], dtype=np.int32)
    table.putcell("CORR_PRODUCT", 0, pairs)
    table.putcell("FLAG_ROW", 0, False)


def _processor(table: Any, observed: Observed) -> None:
    _rows(table, 1, {
        "TYPE": "CORRELATOR",
        "SUB_TYPE": observed.telescope_name,
        "TYPE_ID": np.full(1, -1, dtype=np.int32),
        "MODE_ID": np.full(1, -1, dtype=np.int32),
        "FLAG_ROW": np.zeros(1, dtype=bool),
    })  # fmt: skip


def _spectral_window(table: Any, observed: Observed) -> None:
    table.addrows(len(observed.windows))
    for row, window in enumerate(observed.windows):
        freq_hz = window.freq_hz
        width_hz = np.full(freq_hz.size, window.channel_width_hz)
        for name, value in (
            ("NAME", window.name),
            ("NUM_CHAN", freq_hz.size),
            ("CHAN_FREQ", freq_hz),
            ("CHAN_WIDTH", width_hz),
            ("EFFECTIVE_BW", width_hz),
            ("RESOLUTION", width_hz),
            ("REF_FREQUENCY", float(freq_hz[0])),
            ("TOTAL_BANDWIDTH", float(width_hz.sum())),
            ("MEAS_FREQ_REF", _TOPOCENTRIC),
            ("NET_SIDEBAND", 1),
            ("IF_CONV_CHAIN", 0),
            ("FREQ_GROUP", 0),
            ("FREQ_GROUP_NAME", ""),
            ("FLAG_ROW", False),
        ):
            table.putcell(name, row, value)


def _state(table: Any, observed: Observed) -> None:
    del observed
    _rows(table, 1, {
        "SIG": np.ones(1, dtype=bool),
        "REF": np.zeros(1, dtype=bool),
        "CAL": np.zeros(1),
        "LOAD": np.zeros(1),
        "SUB_SCAN": np.zeros(1, dtype=np.int32),
        "OBS_MODE": "OBSERVE_TARGET#ON_SOURCE",
        "FLAG_ROW": np.zeros(1, dtype=bool),
    })  # fmt: skip


_FILL = {
    "ANTENNA": _antenna,
    "DATA_DESCRIPTION": _data_description,
    "FEED": _feed,
    "FIELD": _field,
    "HISTORY": _history,
    "OBSERVATION": _observation,
    "POLARIZATION": _polarization,
    "PROCESSOR": _processor,
    "SOURCE": _source,
    "SPECTRAL_WINDOW": _spectral_window,
    "STATE": _state,
}
"""POINTING and FLAG_CMD stay empty: a row per antenna and time would slow every later tool."""
