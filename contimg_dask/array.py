"""The array that is simulated: site and stations of DSA-110, and the sky seen from there.

Positions and directions share one frame: the axes of the ITRF, with the site as origin. The sky
comes from astropy's HADec frame and nothing else.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation, HADec, SkyCoord
from astropy.time import Time
from numpy.typing import NDArray

from contimg_dask.offline import packaged_tables
from contimg_dask.uvh5.writer import ArrayHeader

SITE_LATITUDE_DEG = 37.2334
SITE_LONGITUDE_DEG = -118.2830
SITE_ALTITUDE_M = 1188.0
STATIONS = 117
DISH_DIAMETER_M = 4.65


def site() -> EarthLocation:
    """Site in the file headers, the reference of the fringe-stopping."""
    return EarthLocation.from_geodetic(
        lon=SITE_LONGITUDE_DEG * u.deg, lat=SITE_LATITUDE_DEG * u.deg, height=SITE_ALTITUDE_M * u.m
    )


@cache
def antenna_positions_m() -> NDArray[np.float64]:
    """Offsets of all antennas from the site.

    Returns
    -------
    ndarray
        (117, 3) in m; the row is the antenna number, which is the station number - 1.
        Read-only.
    """
    table = files(__package__).joinpath("data", "dsa110_stations.csv").read_text("utf-8")
    rows = sorted(csv.DictReader(table.splitlines()), key=lambda row: int(row["station"]))
    stations = EarthLocation.from_geodetic(
        lon=[float(row["longitude_deg"]) for row in rows] * u.deg,
        lat=[float(row["latitude_deg"]) for row in rows] * u.deg,
        height=[float(row["elevation_m"]) for row in rows] * u.m,
    )
    stations_m, site_m = (
        np.stack([axis.to_value(u.m) for axis in place.geocentric], axis=-1)
        for place in (stations, site())
    )
    offsets_m: NDArray[np.float64] = stations_m - site_m
    offsets_m.flags.writeable = False
    return offsets_m


def header() -> ArrayHeader:
    """Describe the array the way its files do."""
    return ArrayHeader(
        latitude_deg=SITE_LATITUDE_DEG,
        longitude_deg=SITE_LONGITUDE_DEG,
        altitude_m=SITE_ALTITUDE_M,
        positions_m=antenna_positions_m(),
        diameter_m=DISH_DIAMETER_M,
    )


def correlator_order(antennas: int) -> NDArray[np.int64]:
    """Active antenna numbers in correlator order.

    They are spread evenly over the station numbers, so that few antennas still give long
    baselines. The order is the upper half ascending, then the lower half descending: as in the
    real array some baselines then have the larger number first.
    """
    numbers = np.rint(np.linspace(0, STATIONS - 1, antennas)).astype(np.int64)
    middle = antennas // 2
    return np.concatenate([numbers[middle:], numbers[:middle][::-1]])


def baseline_places(antennas: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in the correlator order of each baseline's first and second antenna.

    Returns
    -------
    tuple of ndarray
        (Nbls,) each, autocorrelations included: for i, for j <= i, the pair (j, i).
    """
    second, first = np.tril_indices(antennas)
    return first, second


def near_meridian_deg(
    time_jd: float, declination_deg: float, east_deg: float, north_deg: float
) -> tuple[float, float]:
    """Return right ascension and declination (ICRS, deg) of a place beside the meridian.

    The offsets are angles on the sky from (HA 0, apparent declination) at one time (JD UTC),
    along the axes of the ICRS.
    """
    frame = HADec(obstime=Time(time_jd, format="jd", scale="utc"), location=site())
    centre = _transformed(SkyCoord(0 * u.deg, declination_deg * u.deg, frame=frame), "icrs")
    place = centre.spherical_offsets_by(east_deg * u.deg, north_deg * u.deg)
    return float(place.ra.deg), float(place.dec.deg)


def apparent_directions(
    ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], times_jd: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the unit vectors, along the ITRF axes, towards ICRS places; without refraction.

    Parameters
    ----------
    ra_deg, dec_deg
        (Nsources,) ICRS.
    times_jd
        (Ntimes,) JD UTC.

    Returns
    -------
    ndarray
        (Ntimes, Nsources, 3).
    """
    places = SkyCoord(ra_deg[np.newaxis] * u.deg, dec_deg[np.newaxis] * u.deg)
    times = Time(times_jd[:, np.newaxis], format="jd", scale="utc")
    apparent = _transformed(places, HADec(obstime=times, location=site()))
    return itrf_directions(apparent.ha.rad, apparent.dec.rad)


def _transformed(places: SkyCoord, frame: HADec | str) -> SkyCoord:
    # Installed tables of Earth orientation: a simulation is the same on every day and needs no net.
    with packaged_tables():
        return places.transform_to(frame)


def itrf_directions(
    hour_angle_rad: NDArray[np.float64], dec_rad: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the unit vectors towards an hour angle and declination seen from the site.

    Hour angle grows to the west and longitude to the east, so the terrestrial longitude of a
    direction is that of the site less its hour angle.

    Returns
    -------
    ndarray
        Shape of the arguments, and a last axis of 3.
    """
    longitude_rad = np.radians(SITE_LONGITUDE_DEG) - hour_angle_rad
    x = np.cos(dec_rad) * np.cos(longitude_rad)
    y = np.cos(dec_rad) * np.sin(longitude_rad)
    return np.stack([x, y, np.sin(dec_rad)], axis=-1)


def meridian_uvw_m(declination_deg: float) -> NDArray[np.float64]:
    """(117, 3) antenna positions along u (east), v (north) and w of (HA 0, declination), in m."""
    longitude, dec = np.radians([SITE_LONGITUDE_DEG, declination_deg])
    east = [-np.sin(longitude), np.cos(longitude), 0.0]
    north = [
        -np.sin(dec) * np.cos(longitude),
        -np.sin(dec) * np.sin(longitude),
        np.cos(dec),
    ]
    towards = itrf_directions(np.array(0.0), dec)
    uvw_m: NDArray[np.float64] = antenna_positions_m() @ np.array([east, north, towards]).T
    return uvw_m
