"""Simulate groups of UVH5 subband files: known sources, known faults, the correlator's layout.

The physics is kept apart from the converter's. Delays come from ITRF antenna positions and
astropy's HADec frame alone, and a visibility is literally ``conj(E1) * E2`` of the voltages of two
antennas, so that an error of sign or frame in the converter cannot cancel against the same error
here. A source has a flat spectrum, no polarisation and no attenuation by a primary beam; an
integration and a channel are points in time and frequency (no smearing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import numpy as np
from astropy.constants import c as speed_of_light
from astropy.time import Time
from numpy.typing import NDArray

from contimg_dask import array
from contimg_dask.errors import OutputError
from contimg_dask.faults import (
    Fault,
    FaultKind,
    SubbandSetup,
    combined_kind,
    file_name,
    name_offsets_s,
    require_targets,
)
from contimg_dask.observation import PRODUCTS, SUBBANDS, Observation, PointSource
from contimg_dask.uvh5.writer import (
    ObservationHeader,
    SubbandContent,
    write_subband,
)

__all__ = ["Fault", "Observation", "PointSource", "SimulatedGroup", "simulate"]

FloatArray: TypeAlias = NDArray[np.float64]

INTEGRATION_S = 12.884901888
CADENCE_INTEGRATIONS = 24
BAND_TOP_HZ = 1498.75e6
SUBBAND_WIDTH_HZ = 11.71875e6
SAMPLES_PER_VISIBILITY = 96.0
SECONDS_PER_DAY = 86400.0
PARALLEL_HANDS = (-5, -6)

# Offsets east and north of the meridian position at mid-observation (deg), and flux (Jy). No two
# are mirror images, in either coordinate or through the centre: a sky flipped by a wrong sign
# matches none of them.
DEFAULT_SOURCES = ((0.30, -0.20, 2.0), (-0.45, 0.35, 1.0), (0.10, 0.60, 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedGroup:
    """What was written for one group."""

    start_jd: float
    """``time_array[0]`` of all its subbands, bit for bit (JD UTC)."""
    stamp: str
    """Start to the whole second, ``YYYY-MM-DDTHH:MM:SS``; the name stamp of sb00."""
    files: tuple[Path, ...]
    """Files in order of subband number, faulty ones and duplicates included."""
    sources: tuple[PointSource, ...]
    """The sources in its visibilities."""


def simulate(
    directory: Path,
    observation: Observation,
    faults: Sequence[Fault] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[SimulatedGroup]:
    """Write the subband files of an observation.

    Parameters
    ----------
    directory
        Where to write; made if it is not there. A file appears under its name when it is complete
        (faults included), and replaces an older one of that name.
    observation
        What to simulate. The same observation gives the same values.
    faults
        What shall be wrong; those of one subband act in the order given.
    progress
        Called with (subbands done, subbands in all) after each subband.

    Returns
    -------
    list of SimulatedGroup
        One per group, in order of time.

    Raises
    ------
    UsageError
        A fault names a subband that is not written, or cannot be made in this observation.
    OutputError
        A file could not be written. The complete ones stay.
    """
    require_targets(faults, observation.groups, observation.written_subbands)
    _make_directory(directory)
    total = observation.groups * len(observation.written_subbands)
    done = 0
    groups = []
    for index in range(observation.groups):
        start, times_jd = _group_clock(observation, index)
        sources = _group_sources(observation, times_jd)
        paths: list[Path] = []
        for setup in _setups(observation, index, start, times_jd):
            fault = combined_kind(faults, index, setup.subband)
            paths += _write(directory, observation, sources, setup, fault)
            done += 1
            if progress is not None:
                progress(done, total)
        groups.append(
            SimulatedGroup(
                start_jd=float(times_jd[0]),
                stamp=f"{start:%Y-%m-%dT%H:%M:%S}",
                files=tuple(paths),
                sources=sources,
            )
        )
    return groups


def _write(
    directory: Path,
    observation: Observation,
    sources: Sequence[PointSource],
    setup: SubbandSetup,
    fault: FaultKind,
) -> list[Path]:
    """Write one subband under each of its names; returns the paths."""
    setup = fault.setup(setup)
    if not setup.names:
        return []
    content = fault.content(_content(observation, sources, setup))
    paths = [directory / name for name in setup.names]
    for path in paths:
        write_subband(path, content, before_rename=fault.file)
    return paths


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {directory}: {error}", path=str(directory)) from error


def _group_clock(observation: Observation, index: int) -> tuple[datetime, FloatArray]:
    """Start (UTC) of a group, and the centres of its integrations (JD UTC)."""
    cadence_s = max(CADENCE_INTEGRATIONS, observation.integrations) * INTEGRATION_S
    start = observation.start_utc + timedelta(seconds=index * cadence_s)
    centres_s = (np.arange(observation.integrations) + 0.5) * INTEGRATION_S
    return start, Time(start, scale="utc").jd + centres_s / SECONDS_PER_DAY


def _setups(
    observation: Observation, index: int, start: datetime, times_jd: FloatArray
) -> Iterator[SubbandSetup]:
    """How each written subband of a group is set up when nothing is wrong."""
    width_hz = SUBBAND_WIDTH_HZ / observation.channels
    # The place after the subbands' own keeps the jitter's random numbers apart from the noise's.
    rng = np.random.default_rng((observation.seed, index, SUBBANDS))
    offsets_s = name_offsets_s(observation.subbands, rng) * int(observation.name_jitter)
    for number in observation.written_subbands:
        stamp = start + timedelta(seconds=int(offsets_s[number]))
        below_top = number * observation.channels + np.arange(observation.channels) + 0.5
        freq_hz: FloatArray = np.float64(BAND_TOP_HZ) - below_top * width_hz
        yield SubbandSetup(
            group=index,
            subband=number,
            group_stamp=start,
            stamp=stamp,
            names=(file_name(stamp, number),),
            times_jd=times_jd,
            freq_hz=np.sort(freq_hz) if observation.ascending_channels else freq_hz,
            channel_width_hz=width_hz,
            antenna_order=array.correlator_order(observation.antennas),
            compression=observation.compression,
        )


def _group_sources(observation: Observation, times_jd: FloatArray) -> tuple[PointSource, ...]:
    if observation.sources is not None:
        return observation.sources
    middle_jd = float(times_jd.mean())
    places = [
        (array.near_meridian_deg(middle_jd, observation.declination_deg, east, north), flux_jy)
        for east, north, flux_jy in DEFAULT_SOURCES
    ]
    return tuple(PointSource(ra_deg=ra, dec_deg=dec, flux_jy=jy) for (ra, dec), jy in places)


def _content(
    observation: Observation,
    sources: Sequence[PointSource],
    setup: SubbandSetup,
) -> SubbandContent:
    polarizations = PRODUCTS[observation.products]
    header = _observation_header(observation, sources, setup)
    visibilities = _visibilities(observation, sources, setup)
    visdata = np.zeros((*visibilities.shape, len(polarizations)), dtype=np.complex64)
    parallel = [polarizations.index(hand) for hand in PARALLEL_HANDS]
    visdata[..., parallel] = visibilities[..., np.newaxis]
    if observation.noise_jy > 0:
        rng = np.random.default_rng((observation.seed, setup.group, setup.subband))
        _add_noise(visdata, header.ant_1 == header.ant_2, observation.noise_jy, rng)
    visdata = visdata.reshape(-1, 1, *visdata.shape[2:])
    return SubbandContent(
        header={**array.header().entries(), **header.entries()},
        extra_keywords=header.extra_keywords(),
        visdata=visdata,
        flags=np.broadcast_to(np.False_, visdata.shape),
        nsamples=np.broadcast_to(np.float32(SAMPLES_PER_VISIBILITY), visdata.shape),
        compression=setup.compression,
    )


def _observation_header(
    observation: Observation, sources: Sequence[PointSource], setup: SubbandSetup
) -> ObservationHeader:
    first, second = (
        setup.antenna_order[place] for place in array.baseline_places(setup.antenna_order.size)
    )
    uvw_m = array.meridian_uvw_m(observation.declination_deg)
    return ObservationHeader(
        times_jd=setup.times_jd,
        integration_s=INTEGRATION_S,
        ant_1=first,
        ant_2=second,
        uvw_m=uvw_m[second] - uvw_m[first],
        freq_hz=setup.freq_hz,
        channel_width_hz=setup.channel_width_hz,
        polarizations=PRODUCTS[observation.products],
        declination_rad=math.radians(observation.declination_deg),
        history=f"contimg_dask.simulate: {len(sources)} point source(s), seed {observation.seed}",
    )


def _stopped_delays_s(
    sources: Sequence[PointSource], times_jd: FloatArray, declination_deg: float
) -> FloatArray:
    """Delays left after fringe-stopping to (HA 0, apparent declination).

    Returns
    -------
    ndarray
        (Ntimes, Nsources, 117) in s: how much earlier than at the site a source's wave arrives
        at each antenna, less the same for the direction of the fringe-stopping.
    """
    ra_deg = np.array([source.ra_deg for source in sources])
    dec_deg = np.array([source.dec_deg for source in sources])
    directions = array.apparent_directions(ra_deg, dec_deg, times_jd)
    stopped = array.itrf_directions(np.array(0.0), np.radians(declination_deg))
    light_m_s = speed_of_light.to_value("m/s")
    delays_s: FloatArray = (directions - stopped) @ array.antenna_positions_m().T / light_m_s
    return delays_s


def _visibilities(
    observation: Observation, sources: Sequence[PointSource], setup: SubbandSetup
) -> NDArray[np.complex64]:
    """Sum ``conj(E1) * E2`` over the sources: (Ntimes, Nbls, Nfreqs) in Jy.

    A wave ``exp(2 pi i f t)`` that reaches antenna k earlier by d_k gives the voltage
    ``E_k = exp(2 pi i f (t + d_k))``, so a visibility's phase is ``2 pi f (d_2 - d_1)``, with
    (d_2 - d_1) = (pos_2 - pos_1) . s / c.
    """
    delays_s = _stopped_delays_s(sources, setup.times_jd, observation.declination_deg)
    fluxes_jy = np.array([source.flux_jy for source in sources], dtype=np.float32)
    first, second = array.baseline_places(setup.antenna_order.size)
    shape = (setup.times_jd.size, first.size, setup.freq_hz.size)
    visibilities = np.zeros(shape, dtype=np.complex64)
    for total, delays in zip(visibilities, delays_s[..., setup.antenna_order], strict=True):
        # Turns are reduced in double precision; the voltages' single precision is the file's.
        turns = delays[..., np.newaxis] * setup.freq_hz
        voltages = np.exp(2j * np.pi * turns).astype(np.complex64)
        for flux_jy, voltage in zip(fluxes_jy, voltages, strict=True):
            total += voltage.conj()[first] * (flux_jy * voltage)[second]
    visibilities.imag[:, first == second] = 0
    return visibilities


def _add_noise(
    visdata: NDArray[np.complex64],
    autocorrelation: NDArray[np.bool_],
    noise_jy: float,
    rng: np.random.Generator,
) -> None:
    """Add independent noise in place to (Ntimes, Nbls, Nfreqs, Npols), time by time."""
    for integration in visdata:
        parts = rng.standard_normal((*integration.shape, 2), dtype=np.float32)
        parts[autocorrelation, ..., 1] = 0
        integration += np.float32(noise_jy) * parts.view(np.complex64)[..., 0]
