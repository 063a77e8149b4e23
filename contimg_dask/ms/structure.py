"""Check that a Measurement Set has what its readers (CASA, WSClean, DP3 …) need to find."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import casacore.tables as tables
import numpy as np
import numpy.typing as npt

from contimg_dask.ms.verify import Finding

_NEEDED_COLUMNS = (
    "DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA", "UVW", "TIME", "TIME_CENTROID",
    "INTERVAL", "EXPOSURE", "ANTENNA1", "ANTENNA2", "SCAN_NUMBER", "FIELD_ID", "DATA_DESC_ID",
    "FLAG_ROW", "FLAG_CATEGORY", "STATE_ID", "OBSERVATION_ID", "PROCESSOR_ID", "ARRAY_ID",
    "FEED1", "FEED2",
)  # fmt: skip
_NEEDED_TABLES = (
    "ANTENNA", "DATA_DESCRIPTION", "FEED", "FIELD", "HISTORY", "OBSERVATION", "POINTING",
    "POLARIZATION", "SOURCE", "SPECTRAL_WINDOW", "STATE",
)  # fmt: skip
_ID_COLUMNS = {
    "ANTENNA1": "ANTENNA",
    "ANTENNA2": "ANTENNA",
    "FIELD_ID": "FIELD",
    "DATA_DESC_ID": "DATA_DESCRIPTION",
    "STATE_ID": "STATE",
    "OBSERVATION_ID": "OBSERVATION",
}
_STANDARD_OBSERVATION = {
    "TIME_RANGE", "LOG", "SCHEDULE", "FLAG_ROW", "OBSERVER", "PROJECT", "RELEASE_DATE",
    "SCHEDULE_TYPE", "TELESCOPE_NAME",
}  # fmt: skip
_DIRECTION_TOLERANCE_RAD = 1e-9
_FINITE_COLUMNS = ("UVW", "TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE")

Check = Callable[[Any, dict[str, Any]], Iterator[Finding]]


def check_structure(path: str) -> list[Finding]:
    """Return what is missing or wrong in the structure of a Measurement Set.

    Every column is looked at as a whole but the bulk ones, whose cells are checked in shape.
    """
    subtables: dict[str, Any] = {}
    try:
        main = tables.table(path, readonly=True, ack=False)
    except RuntimeError as error:
        return [_unreadable(path, error)]
    try:
        missing = list(_missing(main)) or list(_open_subtables(main, subtables))
        if missing:
            return missing
        return [finding for check in _CHECKS for finding in _findings(check, main, subtables)]
    finally:
        for table in (main, *subtables.values()):
            table.close()


def _findings(check: Check, main: Any, subtables: dict[str, Any]) -> list[Finding]:
    try:
        return list(check(main, subtables))
    except RuntimeError as error:
        return [_unreadable("MAIN or a subtable", error)]


def _unreadable(name: str, error: RuntimeError) -> Finding:
    line = (str(error).splitlines() or ["no reason given"])[0]
    return Finding(code="unreadable", text=f"{name}: casacore cannot read it: {line[:200]}")


def _open_subtables(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    """Open every subtable into ``subtables``; POINTING alone may be empty."""
    for name in _NEEDED_TABLES:
        try:
            subtables[name] = tables.table(main.getkeyword(name), readonly=True, ack=False)
        except RuntimeError as error:
            yield _unreadable(name, error)
        else:
            if subtables[name].nrows() == 0 and name != "POINTING":
                yield Finding(code="empty-subtable", text=f"{name} has no rows")


def _missing(main: Any) -> Iterator[Finding]:
    for name in sorted(set(_NEEDED_COLUMNS) - set(main.colnames())):
        yield Finding(code="no-column", text=f"MAIN has no column {name}")
    for name in sorted(set(_NEEDED_TABLES) - set(main.keywordnames())):
        yield Finding(code="no-subtable", text=f"there is no subtable {name}")
    if main.nrows() == 0:
        yield Finding(code="no-rows", text="MAIN has no rows")


def _check_small_columns(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    del subtables
    for name in _FINITE_COLUMNS:
        if not np.all(np.isfinite(main.getcol(name))):
            yield Finding(code="not-finite", text=f"{name} holds values that are not finite")
    for name in ("FLAG_ROW", "PROCESSOR_ID", "ARRAY_ID", "FEED1", "FEED2"):
        if main.getcol(name).min() < 0:
            yield Finding(code="id-range", text=f"{name} has negative values")


def _check_ids(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    for column, table in _ID_COLUMNS.items():
        values = main.getcol(column)
        rows = subtables[table].nrows()
        if values.min() < 0 or values.max() >= rows:
            yield Finding(
                code="id-range",
                text=f"{column} runs from {values.min()} to {values.max()}, but {table} has {rows} "
                f"rows",
            )
    if np.any(main.getcol("ANTENNA1") > main.getcol("ANTENNA2")):
        yield Finding(code="antenna-order", text="some rows have ANTENNA1 > ANTENNA2")
    if main.getcol("SCAN_NUMBER").min() < 1:
        yield Finding(code="scan-number", text="SCAN_NUMBER does not count from 1")


def _check_cells(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    """Check the first and last cell of every window's bulk columns."""
    windows, polarization = subtables["SPECTRAL_WINDOW"], subtables["POLARIZATION"]
    described = subtables["DATA_DESCRIPTION"].getcol("SPECTRAL_WINDOW_ID")
    of_row = main.getcol("DATA_DESC_ID")
    products = int(polarization.getcell("NUM_CORR", 0))
    columns = [
        name
        for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM", "MODEL_DATA", "CORRECTED_DATA")
        if name in main.colnames()
    ]
    for data_description, window in enumerate(described):
        rows = np.flatnonzero(of_row == data_description)
        if rows.size == 0:
            yield Finding(code="empty-window", text=f"window {window} has no rows")
            continue
        expected = (int(windows.getcell("NUM_CHAN", int(window))), products)
        for name in columns:
            for row in (int(rows[0]), int(rows[-1])):
                found = main.getcell(name, row).shape
                if found != expected:
                    yield Finding(
                        code="shape",
                        text=f"{name} in row {row} has shape {found}, expected {expected}",
                    )


def _check_imaging_columns(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    del subtables
    present = {"MODEL_DATA", "CORRECTED_DATA"} & set(main.colnames())
    if len(present) == 1:
        yield Finding(code="imaging-columns", text=f"only {present.pop()} exists of the two")


def _check_weights(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    del subtables
    weight, sigma = main.getcol("WEIGHT"), main.getcol("SIGMA")
    if not np.all(np.isfinite(sigma)):
        count = int(np.count_nonzero(~np.isfinite(sigma)))
        yield Finding(code="sigma", text=f"{count} values of SIGMA are not finite")
    if np.any(sigma[weight <= 0] != 0):
        yield Finding(code="sigma", text="SIGMA is not 0 everywhere where WEIGHT is not positive")


def _check_windows(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    del main
    table = subtables["SPECTRAL_WINDOW"]
    if subtables["DATA_DESCRIPTION"].nrows() != table.nrows():
        yield Finding(
            code="data-description",
            text=f"DATA_DESCRIPTION has {subtables['DATA_DESCRIPTION'].nrows()} rows for "
            f"{table.nrows()} windows",
        )
    last_hz = 0.0
    names = [table.getcell("NAME", row) for row in range(table.nrows())]
    for row in range(table.nrows()):
        freq_hz, width_hz = table.getcell("CHAN_FREQ", row), table.getcell("CHAN_WIDTH", row)
        # Written so that NaN is found too.
        if not (np.all(np.diff(np.append(last_hz, freq_hz)) > 0) and np.all(width_hz > 0)):
            yield Finding(code="channels", text=f"the channels of window {row} do not ascend")
        last_hz = float(freq_hz[-1])
    if len(set(names)) != len(names):
        yield Finding(code="window-names", text=f"window names are not unique: {names}")


def _check_directions(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    del main
    field, source = subtables["FIELD"], subtables["SOURCE"]
    phase = field.getcol("PHASE_DIR")
    for name in ("REFERENCE_DIR", "DELAY_DIR"):
        if not np.max(np.abs(field.getcol(name) - phase)) <= _DIRECTION_TOLERANCE_RAD:
            yield Finding(code="directions", text=f"{name} and PHASE_DIR differ in FIELD")
    if not set(field.getcol("SOURCE_ID")) <= set(source.getcol("SOURCE_ID")):
        yield Finding(code="source-id", text="FIELD names a SOURCE_ID that SOURCE has not")


def _check_antennas(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    del main
    antenna, feed = subtables["ANTENNA"], subtables["FEED"]
    if feed.nrows() < antenna.nrows():
        text = f"FEED has {feed.nrows()} rows for {antenna.nrows()} antennas"
        yield Finding(code="feed", text=text)
    window = feed.getcol("SPECTRAL_WINDOW_ID")
    if window.min() < -1 or window.max() >= subtables["SPECTRAL_WINDOW"].nrows():
        yield Finding(code="feed", text="FEED names a SPECTRAL_WINDOW_ID that is not there")
    if subtables["POINTING"].nrows() > antenna.nrows():
        yield Finding(
            code="pointing",
            text=f"POINTING has {subtables['POINTING'].nrows()} rows, more than one per antenna: "
            f"every later tool gets slow",
        )
    used = ~antenna.getcol("FLAG_ROW")
    if not np.all(antenna.getcol("DISH_DIAMETER")[used] > 0):
        yield Finding(code="antenna", text="an antenna in ANTENNA has no DISH_DIAMETER")
    if not np.all(np.array(antenna.getcol("MOUNT"))[used] != ""):
        yield Finding(code="antenna", text="an antenna in ANTENNA has no MOUNT")


def _check_observation(main: Any, subtables: dict[str, Any]) -> Iterator[Finding]:
    table = subtables["OBSERVATION"]
    extra = sorted(set(table.colnames()) - _STANDARD_OBSERVATION)
    if extra:
        yield Finding(code="observation", text=f"OBSERVATION has columns CASA trips over: {extra}")
    begin_s, end_s = table.getcell("TIME_RANGE", 0)
    times_s = main.getcol("TIME")
    if begin_s > times_s.min() or end_s < times_s.max():
        yield Finding(code="time-range", text="OBSERVATION/TIME_RANGE does not cover TIME")
    if not table.getcell("TELESCOPE_NAME", 0):
        yield Finding(code="observation", text="TELESCOPE_NAME is empty")


_CHECKS: tuple[Check, ...] = (
    _check_small_columns,
    _check_ids,
    _check_cells,
    _check_imaging_columns,
    _check_weights,
    _check_windows,
    _check_directions,
    _check_antennas,
    _check_observation,
)


def window_facts(path: str) -> tuple[float, list[npt.NDArray[np.float64]]]:
    """Return a product's start, MJD UTC [d], and the channel centres [Hz] of each window."""
    main = tables.table(path, readonly=True, ack=False)
    try:
        start_mjd = float(main.getcol("TIME").min()) / 86400.0
        windows = tables.table(os.path.join(path, "SPECTRAL_WINDOW"), readonly=True, ack=False)
        facts = [windows.getcell("CHAN_FREQ", row) for row in range(windows.nrows())]
    finally:
        main.close()
    return start_mjd, facts
