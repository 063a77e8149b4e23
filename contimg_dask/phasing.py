"""Meridian directions and UVW: arrays in, arrays out.

The correlator fringe-stops every integration to hour angle 0 at one apparent declination, so the
visibilities need no rotation: each integration is labelled with the ICRS direction of that point
at its own time, and its UVW are the baselines seen from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
import numpy.typing as npt
from astropy.coordinates import ICRS, EarthLocation, HADec, SkyCoord
from astropy.time import Time

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fields:
    """The directions of a product: one FIELD row each.

    ``lon_rad`` and ``lat_rad`` have shape (fields,), in ``frame`` (a casacore direction
    reference: ICRS, J2000, B1950 …); ``of_row`` has shape (rows,) and gives each row's field.
    """

    names: tuple[str, ...]
    frame: str
    lon_rad: FloatArray
    lat_rad: FloatArray
    of_row: IntArray


def site_location(latitude_deg: float, longitude_deg: float, altitude_m: float) -> EarthLocation:
    """Return the site on the WGS84 ellipsoid."""
    return EarthLocation.from_geodetic(
        lon=longitude_deg * u.deg, lat=latitude_deg * u.deg, height=altitude_m * u.m
    )


def meridian_fields(time_jd: FloatArray, app_dec_rad: float, site: EarthLocation) -> Fields:
    """Return the ICRS direction of (hour angle 0, apparent declination) per integration.

    Parameters
    ----------
    time_jd
        Centre of the integration of every row, Julian date UTC [d], shape (rows,).
    app_dec_rad
        Apparent declination of the fringe-stopping [rad]. It is not an ICRS declination: taking
        it for one would be wrong by minutes of arc.
    site
        The site of the fringe-stopping.
    """
    times_jd, of_row = np.unique(time_jd, return_inverse=True)
    moments = Time(times_jd, format="jd", scale="utc")
    apparent = SkyCoord(
        ha=np.zeros(times_jd.size) * u.rad,
        dec=np.full(times_jd.size, app_dec_rad) * u.rad,
        frame=HADec(obstime=moments, location=site),
    )
    icrs = apparent.transform_to(ICRS())
    return Fields(
        names=tuple(f"meridian_icrs_t{index}" for index in range(times_jd.size)),
        frame="ICRS",
        lon_rad=icrs.ra.rad,
        lat_rad=icrs.dec.rad,
        of_row=of_row.astype(np.int64),
    )


def meridian_uvw(
    time_jd: FloatArray,
    antenna_1: IntArray,
    antenna_2: IntArray,
    antenna_numbers: IntArray,
    antenna_positions_m: FloatArray,
    app_dec_rad: float,
    site: EarthLocation,
) -> FloatArray:
    """Return pos(antenna 2) − pos(antenna 1) as UVW of the meridian direction, shape (rows, 3) [m].

    The axes are turned by the position angle between the apparent and the ICRS frame (0.07° to
    0.2° in the 2020s), so that v points to the ICRS pole as the FIELD table says; leaving it out
    moves the ends of long baselines by metres.
    """
    from pyuvdata.utils import get_lst_for_time
    from pyuvdata.utils.phasing import calc_frame_pos_angle, calc_uvw

    times_jd, of_row = np.unique(time_jd, return_inverse=True)
    lst_rad = get_lst_for_time(times_jd, telescope_loc=site)
    dec_rad = np.full(times_jd.size, app_dec_rad)
    frame_pa_rad = calc_frame_pos_angle(
        time_array=times_jd,
        app_ra=lst_rad,
        app_dec=dec_rad,
        telescope_loc=site,
        ref_frame="icrs",
    )
    uvw = np.empty((time_jd.size, 3))
    for index, lst in enumerate(lst_rad):
        # One integration at a time: calc_uvw takes rows of the same hour angle and declination,
        # which ours all are, for rows of the same position angle.
        rows = np.flatnonzero(of_row == index)
        each = np.ones(rows.size)
        uvw[rows] = calc_uvw(
            app_ra=lst * each,
            app_dec=app_dec_rad * each,
            frame_pa=frame_pa_rad[index] * each,
            lst_array=lst * each,
            use_ant_pos=True,
            antenna_positions=antenna_positions_m,
            antenna_numbers=antenna_numbers,
            ant_1_array=antenna_1[rows],
            ant_2_array=antenna_2[rows],
            telescope_lat=site.lat.rad,
            telescope_lon=site.lon.rad,
        )
    return uvw
