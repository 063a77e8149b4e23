"""Tracked phase centres of UVH5 files, read by pyuvdata: its catalogue has many forms."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from contimg_dask.errors import InputError
from contimg_dask.phasing import Fields
from contimg_dask.uvh5.header import Axes

_CASACORE_FRAME = {
    ("icrs", None): "ICRS",
    ("fk5", 2000.0): "J2000",
    ("fk4", 1950.0): "B1950",
    ("galactic", None): "GALACTIC",
}


def read_tracked_fields(axes: Axes) -> tuple[Fields, npt.NDArray[np.float64]]:
    """Return the file's own phase centres and the UVW [m] that belong to them, (rows, 3).

    Raises
    ------
    InputError
        pyuvdata cannot read the header, or a phase centre is no fixed direction on the sky.
    """
    from pyuvdata import UVData

    data = UVData()
    try:
        with warnings.catch_warnings():
            # What pyuvdata remarks about optional entries of a header is of no use to an operator.
            warnings.simplefilter("ignore")
            data.read_uvh5(axes.path, read_data=False, run_check=False)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise InputError(
            f"{axes.path}: its phase centre cannot be read ({str(error).splitlines()[0][:120]})",
            code="phase-centre",
            path=axes.path,
        ) from error
    used = [key for key in data.phase_center_catalog if np.any(data.phase_center_id_array == key)]
    entries = [data.phase_center_catalog[key] for key in used]
    frames = {_frame(axes.path, entry) for entry in entries}
    if len(frames) != 1:
        raise InputError(
            f"{axes.path}: phase centres in several frames ({', '.join(sorted(frames))}); split it",
            code="phase-centre",
            path=axes.path,
        )
    of_row = np.searchsorted(np.sort(used), data.phase_center_id_array)
    position = np.argsort(used)[of_row]
    fields = Fields(
        names=tuple(str(entry["cat_name"]) for entry in entries),
        frame=frames.pop(),
        lon_rad=np.array([float(entry["cat_lon"]) for entry in entries]),
        lat_rad=np.array([float(entry["cat_lat"]) for entry in entries]),
        of_row=position.astype(np.int64),
    )
    return fields, np.asarray(data.uvw_array, dtype=float)


def _frame(path: str, entry: dict[str, object]) -> str:
    name, kind = str(entry.get("cat_frame")), entry.get("cat_type")
    epoch = entry.get("cat_epoch")
    frame = _CASACORE_FRAME.get((name, None)) or _CASACORE_FRAME.get(
        (name, None if epoch is None else float(str(epoch)))
    )
    if kind != "sidereal" or frame is None:
        raise InputError(
            f"{path}: phase centre {entry.get('cat_name')!r} is of type {kind} in frame {name} "
            f"{epoch}: only fixed directions in ICRS, J2000, B1950 or galactic coordinates can be "
            f"kept; re-phase the data with pyuvdata first",
            code="phase-centre",
            path=path,
        )
    return frame
