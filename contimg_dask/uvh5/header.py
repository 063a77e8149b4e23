"""Read what a UVH5 file says of itself: a peek for grouping, the axes for conversion.

Both forms are understood: the telescope's own (a spectral-window axis in the data, scalar channel
width, ``phase_type``) and UVH5 1.x of newer pyuvdata (no such axis, a phase-centre catalogue).
Files are opened read-only and without locking.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the bitshuffle, lz4, zstd … filters with HDF5
import numpy as np
import numpy.typing as npt

from contimg_dask.errors import InputError
from contimg_dask.model import SubbandHeader
from contimg_dask.naming import parse_file_name

_NEEDED = (
    "time_array", "ant_1_array", "ant_2_array", "integration_time", "freq_array",
    "channel_width", "polarization_array", "antenna_numbers", "antenna_names",
    "antenna_positions", "latitude", "longitude", "altitude",
)  # fmt: skip
_DATA = ("visdata", "flags", "nsamples")
_REGULAR_TOLERANCE = 0.1
"""Part of a channel width by which channels may miss a regular grid."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axes:
    """The row, antenna and site axes of one file.

    Shapes: (rows,) for the row arrays, (rows, 3) for ``uvw_m``, (antennas,) and (antennas, 3) for
    the telescope's. ``app_dec_rad`` is the apparent declination of the fringe-stopping, None where
    the file has none. ``phase_type`` is ``drift``, ``phased`` or ``catalogue``.
    """

    path: str
    time_jd: FloatArray
    integration_time_s: FloatArray
    antenna_1: IntArray
    antenna_2: IntArray
    uvw_m: FloatArray
    antenna_numbers: IntArray
    antenna_names: tuple[str, ...]
    antenna_positions_m: FloatArray
    antenna_diameters_m: FloatArray | None
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    phase_type: str
    app_dec_rad: float | None
    vis_units: str

    def digests(self) -> dict[str, str]:
        """Return a digest per axis, to compare the files of a group without sending arrays."""
        site = np.array([self.latitude_deg, self.longitude_deg, self.altitude_m])
        dec = np.array([np.nan if self.app_dec_rad is None else self.app_dec_rad])
        return {
            "times": _digest(self.time_jd),
            "integration times": _digest(self.integration_time_s),
            "baselines": _digest(self.antenna_1, self.antenna_2),
            "antenna numbers": _digest(self.antenna_numbers),
            "antenna positions": _digest(self.antenna_positions_m, site),
            "phase centres": _digest(dec) + self.phase_type,
            "UVW": _digest(self.uvw_m) if self.phase_type != "drift" else "",
        }


def _digest(*arrays: npt.NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextmanager
def open_uvh5(path: str, expected_bytes: int = 0) -> Iterator[h5py.File]:
    """Open a file read-only; whatever HDF5 finds wrong with it becomes one line.

    A file shorter than ``expected_bytes`` is called truncated, whatever HDF5 says of it.

    Raises
    ------
    InputError
        ``empty-file``, ``not-hdf5``, ``truncated`` or ``unreadable-input``.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise _explained(path, error, expected_bytes) from error
    except KeyError as error:
        raise InputError(
            f"{path}: {str(error.args[0])[:120]}: the file lacks a part every UVH5 file has; set it "
            f"aside or send it again",
            code="header-incomplete",
            path=path,
        ) from error


def _explained(path: str, error: Exception, expected_bytes: int) -> InputError:
    text = str(error)
    try:
        size_bytes = os.stat(path).st_size
    except OSError as missing:
        return InputError(f"{path}: {missing.strerror}", path=path)
    if size_bytes == 0:
        what, code = "the file is empty (0 bytes)", "empty-file"
    elif size_bytes < expected_bytes or "truncated" in text or "eof" in text:
        what, code = f"the file is truncated at {size_bytes} bytes", "truncated"
    elif "signature not found" in text:
        what, code = "this is not an HDF5 file", "not-hdf5"
    elif isinstance(error, PermissionError):
        what, code = "no permission to read it", "unreadable-input"
    else:
        what, code = f"HDF5 cannot read it ({text.splitlines()[0][:160]})", "unreadable-input"
    return InputError(f"{path}: {what}; send the file again or set it aside", code=code, path=path)


def peek(path: str) -> SubbandHeader:
    """Read what grouping needs, in about two milliseconds.

    Raises
    ------
    InputError
        The file cannot be opened, lacks a needed entry, or has one of the wrong shape.
    """
    name = parse_file_name(os.path.basename(path))
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", path=path) from error
    with open_uvh5(path) as file:
        header = _header_group(file, path)
        freq_hz = np.atleast_1d(np.squeeze(header["freq_array"][()])).astype(float)
        width_hz = _channel_width(path, header, freq_hz)
        rows = int(header["time_array"].shape[0])
        products = tuple(int(code) for code in header["polarization_array"][()])
        _check_shapes(file, path, rows, freq_hz.size, len(products))
        start_jd = float(header["time_array"][0])
        integrations = _count_integrations(header)
    if not np.isfinite(start_jd):
        raise InputError(
            f"{path}: time_array starts with {start_jd}; set the file aside",
            code="header-incomplete",
            path=path,
        )
    return SubbandHeader(
        path=path,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        name_stamp=name.stamp if name else None,
        name_number=name.number if name else None,
        start_jd=start_jd,
        integrations=integrations,
        rows=rows,
        channels=freq_hz.size,
        products=products,
        lowest_freq_hz=float(freq_hz.min()),
        highest_freq_hz=float(freq_hz.max()),
        channel_width_hz=width_hz,
    )


def _header_group(file: h5py.File, path: str) -> h5py.Group:
    missing = [f"Header/{name}" for name in _NEEDED if f"Header/{name}" not in file]
    missing += [f"Data/{name}" for name in _DATA if f"Data/{name}" not in file]
    if missing:
        raise InputError(
            f"{path}: {', '.join(missing[:4])} missing: not a whole UVH5 file; send it again or set "
            f"it aside",
            code="header-incomplete",
            path=path,
        )
    return file["Header"]


def _count_integrations(header: h5py.Group) -> int:
    if "Ntimes" in header:
        return int(header["Ntimes"][()])
    return int(np.unique(header["time_array"][()]).size)


def _channel_width(path: str, header: h5py.Group, freq_hz: FloatArray) -> float:
    widths_hz = np.unique(np.abs(np.atleast_1d(header["channel_width"][()]).astype(float)))
    width_hz = float(widths_hz[-1])
    if not np.all(np.isfinite(freq_hz)) or not width_hz > 0:
        raise InputError(
            f"{path}: freq_array or channel_width holds no usable frequency; set the file aside",
            code="header-incomplete",
            path=path,
        )
    steps_hz = np.abs(np.diff(freq_hz))
    tolerance_hz = _REGULAR_TOLERANCE * width_hz
    if widths_hz[-1] - widths_hz[0] > tolerance_hz or np.any(
        np.abs(steps_hz - width_hz) > tolerance_hz
    ):
        raise InputError(
            f"{path}: channels are not regular (steps {steps_hz.min() / 1e3:.3f} to "
            f"{steps_hz.max() / 1e3:.3f} kHz, width {width_hz / 1e3:.3f} kHz): one file must be one "
            f"spectral window; split it first",
            code="channels-irregular",
            path=path,
        )
    return width_hz


def _check_shapes(file: h5py.File, path: str, rows: int, channels: int, products: int) -> None:
    header = file["Header"]
    expected: dict[str, tuple[int, ...]] = {
        f"Header/{name}": (rows,) for name in ("ant_1_array", "ant_2_array")
    }
    expected["Header/integration_time"] = (rows,)
    expected["Header/antenna_positions"] = (int(header["antenna_numbers"].shape[0]), 3)
    for name, shape in expected.items():
        found = file[name].shape
        # A scalar integration time is allowed by older writers.
        if found != shape and not (name.endswith("integration_time") and found == ()):
            raise _shape_error(path, name, found, shape)
    for name in _DATA:
        found = file[f"Data/{name}"].shape
        if found not in ((rows, channels, products), (rows, 1, channels, products)):
            raise _shape_error(path, f"Data/{name}", found, (rows, channels, products))
    if rows == 0:
        raise InputError(
            f"{path}: the file holds no rows; set it aside", code="header-incomplete", path=path
        )


def _shape_error(
    path: str, name: str, found: tuple[int, ...], expected: tuple[int, ...]
) -> InputError:
    return InputError(
        f"{path}: {name} has shape {found}, expected {expected}; set the file aside",
        code="wrong-shape",
        path=path,
    )


def read_axes(path: str) -> Axes:
    """Read the row, antenna and site axes of one file.

    Raises
    ------
    InputError
        As `peek`, or values in the header that cannot be meant.
    """
    with open_uvh5(path) as file:
        header = _header_group(file, path)
        rows = int(header["time_array"].shape[0])
        return Axes(
            path=path,
            time_jd=header["time_array"][()].astype(float),
            integration_time_s=np.broadcast_to(
                np.asarray(header["integration_time"][()], dtype=float), (rows,)
            ),
            antenna_1=header["ant_1_array"][()].astype(np.int64),
            antenna_2=header["ant_2_array"][()].astype(np.int64),
            uvw_m=_uvw(header, rows),
            antenna_numbers=header["antenna_numbers"][()].astype(np.int64),
            antenna_names=tuple(_text(name) for name in header["antenna_names"][()]),
            antenna_positions_m=header["antenna_positions"][()].astype(float),
            antenna_diameters_m=(
                np.atleast_1d(header["antenna_diameters"][()]).astype(float)
                if "antenna_diameters" in header
                else None
            ),
            latitude_deg=float(header["latitude"][()]),
            longitude_deg=float(header["longitude"][()]),
            altitude_m=float(header["altitude"][()]),
            phase_type=_phase_type(header),
            app_dec_rad=_apparent_declination(header),
            vis_units=_text(header["vis_units"][()]) if "vis_units" in header else "uncalib",
        )


def _uvw(header: h5py.Group, rows: int) -> FloatArray:
    if "uvw_array" in header and header["uvw_array"].shape == (rows, 3):
        uvw: FloatArray = header["uvw_array"][()].astype(float)
        return uvw
    return np.full((rows, 3), np.nan)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _phase_type(header: h5py.Group) -> str:
    if "phase_center_catalog" in header:
        types = {
            _text(entry["cat_type"][()])
            for entry in header["phase_center_catalog"].values()
            if "cat_type" in entry
        }
        return "drift" if types == {"unprojected"} else "catalogue"
    if "phase_type" in header and _text(header["phase_type"][()]) == "phased":
        return "phased"
    return "drift"


def _apparent_declination(header: h5py.Group) -> float | None:
    """Return the declination of the fringe-stopping [rad]: apparent, as the correlator used it."""
    extra = header.get("extra_keywords", {})
    for value in (extra.get("phase_center_dec"), header.get("phase_center_app_dec")):
        if value is not None:
            values = np.unique(np.atleast_1d(value[()]).astype(float))
            if values.size == 1 and np.isfinite(values[0]) and abs(values[0]) <= np.pi / 2:
                return float(values[0])
    return None


def read_frequencies(path: str) -> FloatArray:
    """Return the channel centres of one file, ascending [Hz]."""
    with open_uvh5(path) as file:
        freq_hz = np.atleast_1d(np.squeeze(file["Header/freq_array"][()])).astype(float)
    return np.sort(freq_hz)
