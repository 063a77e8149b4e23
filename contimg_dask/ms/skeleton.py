"""Make a Measurement Set with all its rows and none of its bulk.

python-casacore writes the headers and small columns; the tile files of the bulk columns are put in
place afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import casacore.tables as tables
import numpy as np
import numpy.typing as npt

from contimg_dask.errors import ContimgError, OutputError
from contimg_dask.geometry import IMAGING_COLUMNS, BulkColumn, Geometry
from contimg_dask.ms.columns import RowColumns

_INCREMENTAL = (
    "ARRAY_ID", "DATA_DESC_ID", "EXPOSURE", "FEED1", "FEED2", "FIELD_ID", "FLAG_ROW", "INTERVAL",
    "OBSERVATION_ID", "PROCESSOR_ID", "SCAN_NUMBER", "STATE_ID", "TIME", "TIME_CENTROID",
)  # fmt: skip
"""Columns that keep one value over many rows."""

_SUBTABLES = (
    "ANTENNA", "DATA_DESCRIPTION", "FEED", "FIELD", "FLAG_CMD", "HISTORY", "OBSERVATION",
    "POINTING", "POLARIZATION", "PROCESSOR", "SOURCE", "SPECTRAL_WINDOW", "STATE",
)  # fmt: skip
_EXTRA_COLUMNS = {
    "DATA": ("The visibilities as observed", 0j),
    "WEIGHT_SPECTRUM": ("Weight of each channel: the number of samples in it", 0.0),
    "MODEL_DATA": ("The model visibilities", 0j),
    "CORRECTED_DATA": ("The calibrated visibilities", 0j),
}
"""Bulk columns that are not among the required ones: comment and a value of their type."""

_UVW_TILE_ROWS = 8192
WITHOUT_LOCK = "usernoread"
"""casacore's lock option to read although another program holds the table for writing."""


def table_description(geometry: Geometry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return description and data managers of MAIN.

    The required columns keep casacore's own descriptions (units, measures); only their managers
    change. Every bulk column has a fixed cell shape and a manager of its own.
    """
    description = tables.required_ms_desc("MAIN")
    for name in _INCREMENTAL:
        description[name].update(dataManagerType="IncrementalStMan", dataManagerGroup=name)
    description["UVW"].update(dataManagerType="TiledColumnStMan", dataManagerGroup="TiledUVW")
    description["FLAG_CATEGORY"].update(keywords={"CATEGORY": ["baddata"]})
    for column in geometry.columns:
        # python-casacore lists shapes in C order, the reverse of casacore's.
        shape = list(geometry.cell_shape(column)[::-1])
        if column.name in _EXTRA_COLUMNS:
            comment, value = _EXTRA_COLUMNS[column.name]
            made = tables.makearrcoldesc(column.name, value, shape=shape, comment=comment)
            made["desc"]["valueType"] = column.value_type
            description.update(tables.maketabdesc(made))
        description[column.name].update(
            shape=shape,
            ndim=len(shape),
            option=5,  # direct and of fixed shape
            dataManagerType="TiledColumnStMan",
            dataManagerGroup=f"Tiled{column.name}",
        )
    managers = tables.makedminfo(description)
    tiles = {column.name: geometry.tile_shape(column) for column in geometry.columns}
    tiles["UVW"] = (3, min(_UVW_TILE_ROWS, geometry.rows))
    for manager in managers.values():
        if manager["COLUMNS"][0] in tiles:
            manager["SPEC"] = {
                "DEFAULTTILESHAPE": np.array(tiles[manager["COLUMNS"][0]], dtype=np.int32)
            }
    return description, managers


def make_skeleton(path: str, geometry: Geometry, columns: RowColumns, vis_units: str) -> None:
    """Make the Measurement Set with its small columns; its subtables are empty, its bulk holes.

    Parameters
    ----------
    path
        Where nothing is yet.
    geometry
        Shape of the table.
    columns
        The rows of one window, put into each of them.
    vis_units
        Unit of the visibilities; noted only when it is Jy, other readers know no other.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    description, managers = table_description(geometry)
    with casacore_faults(path):
        # The byte order is set here, because a user's casarc may ask for another one.
        main = tables.table(path, description, dminfo=managers, endian="little", ack=False)
        try:
            main.putinfo({"type": "Measurement Set", "subType": "", "readme": ""})
            files = tile_files(main, geometry)
            with _zero_fill_discarded(path, set(files.values())):
                main.addrows(geometry.rows)
                main.flush()
            _put_row_columns(main, columns, geometry.windows)
            if vis_units == "Jy":
                main.putcolkeyword("DATA", "QuantumUnits", [vis_units])
        finally:
            main.close()
        for column in geometry.columns:
            os.truncate(files[column.name], geometry.file_bytes(column))
        _add_subtables(path)


def tile_files(main: Any, geometry: Geometry) -> dict[str, str]:
    """Return the path of each bulk column's tile file; a column the table lacks is left out."""
    numbers = {
        name: int(manager["SEQNR"])
        for manager in main.getdminfo().values()
        for name in manager["COLUMNS"]
    }
    return {
        column.name: os.path.join(main.name(), f"table.f{numbers[column.name]}_TSM0")
        for column in geometry.columns
        if column.name in numbers
    }


@contextmanager
def _zero_fill_discarded(path: str, files: set[str]) -> Iterator[None]:
    """Let casacore write its zeros for new rows of the bulk columns to /dev/null.

    Adding rows fills every tile file with zeros, 4.9 GB at full scale; all of it would be
    overwritten or is wanted as a hole. casacore keeps the files open, so for as long as rows are
    added their descriptors lead elsewhere; they stay so until the table is closed.
    """
    by_identity = {(status.st_dev, status.st_ino) for status in map(os.stat, files)}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        redirected = 0
        for entry in os.listdir("/proc/self/fd"):
            try:
                status = os.fstat(int(entry))
            except OSError:
                continue  # the descriptor of the listing itself
            if (status.st_dev, status.st_ino) in by_identity:
                os.dup2(null, int(entry), inheritable=False)
                redirected += 1
        if redirected < len(files):
            raise ContimgError(
                f"{path}: casacore holds {redirected} of {len(files)} tile files open, all were "
                f"expected: this version of casacore is not supported"
            )
        yield
    finally:
        os.close(null)


def _add_subtables(path: str) -> None:
    main = tables.table(path, readonly=False, ack=False)
    try:
        for name in _SUBTABLES:
            subtable = tables.default_ms_subtable(name, os.path.join(path, name))
            subtable.close()
            main.putkeyword(name, f"Table: {os.path.join(path, name)}")
    finally:
        main.close()


def _put_row_columns(main: Any, columns: RowColumns, windows: int) -> None:
    """Write the small columns, the same rows for every window."""
    rows = columns.time_mjd_s.size
    in_runs = {
        "TIME": columns.time_mjd_s,
        "TIME_CENTROID": columns.time_mjd_s,
        "INTERVAL": columns.interval_s,
        "EXPOSURE": columns.interval_s,
        "SCAN_NUMBER": columns.scan_number,
        "FIELD_ID": columns.fields.of_row.astype(np.int32),
    }
    per_row = {"ANTENNA1": columns.antenna_1, "ANTENNA2": columns.antenna_2, "UVW": columns.uvw_m}
    for name, values in in_runs.items():
        _put_runs(main, name, np.concatenate([values] * windows))
    _put_runs(main, "DATA_DESC_ID", np.repeat(np.arange(windows, dtype=np.int32), rows))
    for name, values in per_row.items():
        for window in range(windows):
            main.putcol(name, values, window * rows, rows)


def _put_runs(main: Any, name: str, values: npt.NDArray[Any]) -> None:
    """Write a column that keeps one value over many rows.

    Until a new table is closed the incremental manager takes a value as that of all rows after it,
    so only the first row of each run is written: 0.5 s less than row by row at full scale. (Once
    the table has been closed, the same would change that one row.) A column of many short runs
    (data ordered by baseline) is faster as a whole. Columns not written hold 0 in every row.
    """
    starts = np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)
    if starts.size > values.size // 100:
        main.putcol(name, values)
        return
    for row in starts:
        main.putcell(name, int(row), values[row].item())


def open_tile_files(path: str, geometry: Geometry) -> dict[str, str]:
    """Return the path of each bulk column's tile file in a Measurement Set."""
    with casacore_faults(path):
        main = tables.table(path, readonly=True, ack=False, lockoptions=WITHOUT_LOCK)
        try:
            return tile_files(main, geometry)
        finally:
            main.close()


def place_tile_files(path: str, geometry: Geometry, staged: dict[str, str]) -> None:
    """Move finished tile files to where the table expects them.

    Parameters
    ----------
    staged
        Path of a tile file per bulk column; a column not in it stays a hole.
    """
    files = open_tile_files(path, geometry)
    for column in geometry.columns:
        if column.name in staged:
            os.truncate(staged[column.name], geometry.file_bytes(column))
            os.rename(staged[column.name], files[column.name])


@contextmanager
def casacore_faults(path: str) -> Iterator[None]:
    """Turn casacore's RuntimeError into an OutputError of one line."""
    try:
        yield
    except RuntimeError as error:
        lines = str(error).splitlines() or ["casacore gave no reason"]
        raise OutputError(
            f"{path}: casacore: {lines[0][:200]}", code="casacore-error", path=path
        ) from error


def row_count(path: str) -> int:
    """Return the number of rows of a table, without waiting for whoever has it locked."""
    table = tables.table(path, readonly=True, ack=False, lockoptions=WITHOUT_LOCK)
    try:
        return int(table.nrows())
    finally:
        table.close()


def first_short_bulk_column(path: Path, geometry: Geometry) -> BulkColumn | None:
    """Return the first bulk column that is missing or whose tile file is short, or None.

    Tools may remove the imaging columns of a product that is published; that is no damage.
    """
    files = open_tile_files(str(path), geometry)
    for column in geometry.columns:
        if column in IMAGING_COLUMNS and column.name not in files:
            continue
        file = Path(files.get(column.name, ""))
        if not file.is_file() or file.stat().st_size < geometry.file_bytes(column):
            return column
    return None
