"""Dates inside and outside the installed tables: a result on each, one warning, no network."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import erfa
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, HADec, SkyCoord
from astropy.time import Time
from astropy.utils import data, iers
from pyuvdata.utils import get_lst_for_time
from pyuvdata.utils.phasing import transform_app_to_icrs

from contimg_dask import offline

SITE = EarthLocation.from_geodetic(-118.2830 * u.deg, 37.2334 * u.deg, 1188.0 * u.m)
DEC_RAD = 0.6
TODAY = Time.now().utc
COVERED = Time("2025-10-05T03:12:06", scale="utc")
# About 2031 and 2045 with the tables of 2026; past the end with any.
LATE = [
    Time(offline.earth_orientation_span().last_mjd + days + 0.2, format="mjd", scale="utc")
    for days in (1311, 6627)
]
LATE_IDS = ["years past the end", "decades past the end"]
SIDEREAL_ARCSEC_PER_S = 15.0411


@pytest.fixture
def packaged() -> Iterator[None]:
    with offline.packaged_tables():
        yield


@pytest.fixture
def strict_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def day_of(time: Time) -> str:
    return (datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=float(time.mjd))).date().isoformat()


def meridian_by_pyuvdata(time: Time) -> tuple[float, float]:
    times_jd = np.array([time.jd])
    lst_rad = get_lst_for_time(times_jd, telescope_loc=SITE)
    ra_rad, dec_rad = transform_app_to_icrs(
        time_array=times_jd,
        app_ra=lst_rad,
        app_dec=np.array([DEC_RAD]),
        telescope_loc=SITE,
        astrometry_library="erfa",
    )
    return float(ra_rad[0]), float(dec_rad[0])


def meridian_by_astropy(time: Time) -> tuple[float, float]:
    frame = HADec(obstime=time, location=SITE)
    icrs = SkyCoord(ha=0 * u.rad, dec=DEC_RAD * u.rad, frame=frame).icrs
    return float(icrs.ra.rad), float(icrs.dec.rad)


@pytest.mark.parametrize("time", [COVERED, TODAY, *LATE], ids=["covered", "today", *LATE_IDS])
def test_every_date_gives_a_direction_without_any_warning_of_the_libraries(
    time: Time, strict_warnings: None, packaged: None
) -> None:
    by_pyuvdata, by_astropy = meridian_by_pyuvdata(time), meridian_by_astropy(time)
    ra_error_rad = (by_pyuvdata[0] - by_astropy[0]) * np.cos(DEC_RAD)
    # 0.01″, the accuracy the product promises: both libraries hold the same values.
    assert abs(ra_error_rad) < np.deg2rad(0.01 / 3600)
    assert abs(by_pyuvdata[1] - by_astropy[1]) < np.deg2rad(0.01 / 3600)


def test_dates_inside_the_tables_are_exactly_what_astropy_gives_without_us() -> None:
    times = Time(np.linspace(55000.3, 61000.7, 50), format="mjd", scale="utc")
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("auto_max_age", None):
        stock = iers.IERS_Auto.read(file=iers.IERS_A_FILE)
    with offline.packaged_tables():
        ours = iers.earth_orientation_table.get()
        for quantity in ("ut1_utc", "pm_xy", "dcip_xy"):
            expected = getattr(stock, quantity)(times)
            found = getattr(ours, quantity)(times)
            np.testing.assert_array_equal(u.Quantity(found).value, u.Quantity(expected).value)


@pytest.mark.parametrize("time", LATE, ids=LATE_IDS)
def test_beyond_the_end_the_last_tabulated_values_are_held(time: Time, packaged: None) -> None:
    last = Time(offline.earth_orientation_span().last_mjd, format="mjd", scale="utc")
    table = iers.earth_orientation_table.get()
    assert table.ut1_utc(time) == table.ut1_utc(last)
    assert table.pm_xy(time)[0] == table.pm_xy(last)[0]
    assert table.pm_xy(time)[1] == table.pm_xy(last)[1]


def test_a_held_value_loses_no_more_than_the_warning_says() -> None:
    # The measured years as a test case: hold any day's UT1−UTC, and see how far it strays.
    with offline.packaged_tables():
        table = iers.earth_orientation_table.get()
        days = Time(np.arange(41684.0, 61336.0, 30.0), format="mjd", scale="utc")
        ut1_utc_s = table.ut1_utc(days).to_value("s")
        polar_motion = u.Quantity(table.pm_xy(days)).to_value("arcsec")
    assert np.abs(ut1_utc_s).max() < 0.9
    assert np.ptp(polar_motion, axis=1).max() < 0.6
    loss_arcsec = 0.9 * SIDEREAL_ARCSEC_PER_S
    assert loss_arcsec == pytest.approx(13.5, abs=0.05)


def test_the_warning_names_the_date_the_end_the_loss_and_the_cure() -> None:
    line = offline.earth_orientation_warning(LATE[0].mjd)
    assert line is not None
    end = day_of(Time(offline.earth_orientation_span().last_mjd, format="mjd"))
    for words in (day_of(LATE[0]), end, "0.9 s", "13.5″", "astropy-iers-data"):
        assert words in line
    assert "\n" not in line


def test_dates_inside_the_tables_have_no_warning() -> None:
    assert offline.earth_orientation_warning(COVERED.mjd) is None
    assert offline.earth_orientation_warning(55000.0) is None


def test_a_date_before_the_tables_is_told_as_such() -> None:
    line = offline.earth_orientation_warning(40000.0)
    assert line is not None
    assert "1968-05-24 lies before" in line


def test_a_date_past_the_leap_second_list_but_not_the_orientation_table_is_told() -> None:
    span = offline.earth_orientation_span()
    if span.leap_seconds_until_mjd >= span.last_mjd:
        pytest.skip("the installed leap second list reaches further than the orientation table")
    line = offline.earth_orientation_warning(span.leap_seconds_until_mjd)
    assert line is not None
    assert "leap second" in line


def test_many_late_groups_make_one_warning_for_the_latest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        line = offline.warn_outside_tables([LATE[1].mjd, COVERED.mjd, LATE[0].mjd])
    assert line is not None
    assert day_of(LATE[1]) in line
    assert [record.getMessage() for record in caplog.records] == [line]


def test_groups_inside_the_tables_make_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert offline.warn_outside_tables([COVERED.mjd]) is None
    assert offline.warn_outside_tables([]) is None
    assert not caplog.records


def test_packaged_tables_leave_astropy_as_it_was() -> None:
    def state() -> tuple[object, ...]:
        return (
            iers.conf.auto_download,
            iers.conf.auto_max_age,
            iers.conf.iers_degraded_accuracy,
            data.conf.allow_internet,
            iers.earth_orientation_table._value,
            list(warnings.filters),
        )

    before = state()
    with offline.packaged_tables():
        assert state() != before
    assert state() == before


# A fresh process, in which the clock can be set and the network taken away before anything runs.
_FRESH_PROCESS = """
import datetime, json, logging, socket, sys, warnings
clock_mjd, *dates_mjd = map(float, sys.argv[1:])

class Clock(datetime.datetime):
    __slots__ = ()

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp((clock_mjd - 40587) * 86400, tz)

datetime.datetime = Clock

def no_network(*args, **kwargs):
    raise AssertionError(f"network access: {args}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
lines = []
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
warnings.simplefilter("always")
warnings.showwarning = lambda message, *rest, **more: lines.append(str(message))

from contimg_dask import offline
offline.use_packaged_tables()
import erfa
from astropy.time import Time
from tests.unit.test_offline import meridian_by_astropy, meridian_by_pyuvdata
times = [Time(date, format="mjd", scale="utc") for date in dates_mjd]
offline.warn_outside_tables(dates_mjd)
directions = [meridian_by_pyuvdata(time) + meridian_by_astropy(time) for time in times]
json.dump({"today": Time.now().mjd, "directions": directions, "warnings": lines}, sys.stdout)
"""


@pytest.mark.parametrize(
    ("clock", "dates", "expected_lines"),
    [
        (TODAY, [COVERED], 0),
        (TODAY, [LATE[0], LATE[1]], 1),
        (LATE[0], [LATE[0], COVERED], 1),
    ],
    ids=["today", "data past the end", "clock and data past the end"],
)
def test_a_fresh_process_without_network_gives_results_and_at_most_one_line(
    clock: Time, dates: list[Time], expected_lines: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FRESH_PROCESS, *(str(time.mjd) for time in (clock, *dates))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["today"] == pytest.approx(clock.mjd, abs=1e-6)
    assert len(result["directions"]) == len(dates)
    assert np.isfinite(result["directions"]).all()
    assert result["warnings"] == []
    assert len(done.stderr.splitlines()) == expected_lines, done.stderr


def test_leap_seconds_are_those_of_the_installed_package(packaged: None) -> None:
    installed = iers.LeapSeconds.from_iers_leap_seconds(iers.IERS_LEAP_SECOND_FILE)
    assert erfa.leap_seconds.get()["tai_utc"][-1] == installed["tai_utc"][-1]
    assert erfa.leap_seconds.expires.date().isoformat() == installed.expires.iso[:10]
