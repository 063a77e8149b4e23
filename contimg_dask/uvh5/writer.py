"""Write one UVH5 subband file: its name shows a whole file or is not there at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from contimg_dask.errors import OutputError

Compression: TypeAlias = Literal["lzf", "gzip", "bitshuffle"]
HeaderValue: TypeAlias = str | int | float | NDArray[Any]

COMPRESSIONS: tuple[Compression, ...] = ("lzf", "gzip", "bitshuffle")

# The correlator appends integration by integration, so everything with a row axis is extendable
# and chunked; these are the shapes h5py once chose for it. Without a spectral-window axis the
# second entry goes.
DATA_CHUNKS = {
    "visdata": (128, 1, 12, 1),
    "flags": (256, 1, 24, 1),
    "nsamples": (256, 1, 12, 1),
}
ROW_CHUNKS = {
    "ant_1_array": (1024,),
    "ant_2_array": (1024,),
    "time_array": (1024,),
    "lst_array": (1024,),
    "integration_time": (1024,),
    "uvw_array": (512, 3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SubbandContent:
    """Everything one UVH5 file holds.

    The layout follows the arrays: four axes give the older layout with a spectral-window axis,
    three the newer one without. Nothing is checked against the header, so that wrong files can be
    written on purpose.
    """

    header: Mapping[str, HeaderValue]
    """Entries of ``Header/``; text becomes a fixed-length byte string."""
    extra_keywords: Mapping[str, HeaderValue]
    """Entries of ``Header/extra_keywords/``."""
    visdata: NDArray[np.complex64]
    """(Nblts, 1, Nfreqs, Npols) or (Nblts, Nfreqs, Npols)."""
    flags: NDArray[np.bool_]
    """Shape of `visdata`; may be a broadcast view."""
    nsamples: NDArray[np.float32]
    """Shape of `visdata`; may be a broadcast view."""
    compression: Compression | None = None
    """Filter on the three data sets of ``Data/``; none in the correlator's own files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayHeader:
    """The telescope's part of a header."""

    latitude_deg: float
    """Of the site, north positive."""
    longitude_deg: float
    """Of the site, east positive."""
    altitude_m: float
    """Of the site."""
    positions_m: NDArray[np.float64]
    """(Nants_telescope, 3) ITRF offsets from the site, by antenna number."""
    diameter_m: float
    """Of every dish."""

    def entries(self) -> dict[str, HeaderValue]:
        """``Header/`` entries of the array; an antenna's name is its number + 1."""
        stations = len(self.positions_m)
        numbers = np.arange(stations, dtype=np.int64)
        return {
            "latitude": self.latitude_deg,
            "longitude": self.longitude_deg,
            "altitude": self.altitude_m,
            "telescope_name": "OVRO_MMA",
            "instrument": "DSA",
            "Nants_telescope": stations,
            "antenna_diameters": np.full(stations, self.diameter_m),
            "antenna_names": np.array([str(number + 1) for number in numbers], dtype="S4"),
            "antenna_numbers": numbers,
            "antenna_positions": self.positions_m,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationHeader:
    """The observation's part of a header, per integration, baseline and channel."""

    times_jd: NDArray[np.float64]
    """(Ntimes,) centres of the integrations, JD UTC."""
    integration_s: float
    """Length of an integration."""
    ant_1: NDArray[np.int64]
    """(Nbls,) number of each baseline's first antenna."""
    ant_2: NDArray[np.int64]
    """(Nbls,) number of each baseline's second antenna."""
    uvw_m: NDArray[np.float64]
    """(Nbls, 3) position of the second antenna less that of the first, along u, v, w."""
    freq_hz: NDArray[np.float64]
    """(Nfreqs,) channel centres in file order."""
    channel_width_hz: float
    """Positive."""
    polarizations: tuple[int, ...]
    """Correlation products, by AIPS number."""
    declination_rad: float
    """Apparent declination of the fringe-stopping."""
    history: str
    """Where the file is from."""

    def entries(self) -> dict[str, HeaderValue]:
        """``Header/`` entries of the observation: rows time by time, the same uvw each time."""
        integrations, baselines = self.times_jd.size, self.ant_1.size
        rows = integrations * baselines
        return {
            "object_name": "search",
            "history": self.history,
            "phase_type": "drift",
            "phase_center_app_dec": self.declination_rad,
            "Nants_data": self._antennas(),
            "Nbls": baselines,
            "Nblts": rows,
            "Nfreqs": self.freq_hz.size,
            "Npols": len(self.polarizations),
            "Ntimes": integrations,
            "Nspws": 1,
            "ant_1_array": np.tile(self.ant_1, integrations),
            "ant_2_array": np.tile(self.ant_2, integrations),
            "uvw_array": np.tile(self.uvw_m.astype(np.float32), (integrations, 1)),
            "time_array": np.repeat(self.times_jd, baselines),
            "integration_time": np.full(rows, self.integration_s),
            "freq_array": self.freq_hz[np.newaxis],
            "channel_width": self.channel_width_hz,
            "spw_array": np.array([1]),
            "polarization_array": np.array(self.polarizations),
        }

    def extra_keywords(self) -> dict[str, HeaderValue]:
        """``Header/extra_keywords/`` entries: how the fringes were stopped."""
        return {
            "phase_center_dec": self.declination_rad,
            "ha_phase_center": 0.0,
            "phase_center_epoch": "HADEC",
            "fs_table": "none",
            "applied_delays_ns": " ".join(["0"] * 2 * self._antennas()),
        }

    def _antennas(self) -> int:
        return int(np.union1d(self.ant_1, self.ant_2).size)


def write_subband(
    path: Path, content: SubbandContent, *, before_rename: Callable[[Path], None] | None = None
) -> int:
    """Write `content` to `path`, replacing a file that is already there.

    Parameters
    ----------
    path
        Final name. The file grows under a hidden temporary name beside it and is renamed when
        it is complete.
    content
        What to write.
    before_rename
        Called with the temporary path of the closed file, to change its bytes unseen.

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    OutputError
        The file could not be written. No file is left behind, and an older one of the same name
        is untouched.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:6]}")
    try:
        # "earliest": superblock and chunk index as in the correlator's files.
        with h5py.File(partial, "x", libver="earliest") as file:
            _write_header(file.create_group("Header"), content)
            _write_data(file.create_group("Data"), content)
        if before_rename is not None:
            before_rename(partial)
        size_bytes = partial.stat().st_size
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}", path=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
    return size_bytes


def _write_header(group: h5py.Group, content: SubbandContent) -> None:
    for name, value in content.header.items():
        if name in ROW_CHUNKS and isinstance(value, np.ndarray):
            _write_rows(group, name, value, ROW_CHUNKS[name], {})
        else:
            group[name] = _encoded(value)
    extra = group.create_group("extra_keywords")
    for name, value in content.extra_keywords.items():
        extra[name] = _encoded(value)


def _write_data(group: h5py.Group, content: SubbandContent) -> None:
    filters = _filters(content.compression)
    for name, chunks in DATA_CHUNKS.items():
        values = getattr(content, name)
        fitting = chunks if values.ndim == len(chunks) else chunks[:1] + chunks[2:]
        _write_rows(group, name, values, fitting, filters)


def _write_rows(
    group: h5py.Group,
    name: str,
    values: NDArray[Any],
    chunks: tuple[int, ...],
    filters: Mapping[str, Any],
) -> None:
    """Create a data set that could grow along its row axis, as the correlator's do."""
    group.create_dataset(
        name,
        data=values,
        maxshape=(None, *values.shape[1:]),
        chunks=tuple(min(pair) for pair in zip(chunks, values.shape, strict=True)),
        **filters,
    )


def _filters(compression: Compression | None) -> Mapping[str, Any]:
    if compression is None:
        return {}
    if compression == "bitshuffle":
        bitshuffle: Mapping[str, Any] = hdf5plugin.Bitshuffle()
        return bitshuffle
    return {"compression": compression}


def _encoded(value: HeaderValue) -> Any:
    return np.bytes_(value.encode()) if isinstance(value, str) else value
