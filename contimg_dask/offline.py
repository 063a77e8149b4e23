"""Time and Earth orientation from installed tables only: no network, and a result on every date.

Sidereal time and sky directions need UT1−UTC, polar motion and leap seconds. astropy would fetch
newer tables from the network when its own grow old, and pyuvdata and astropy each do something
else beyond a table's end. Here both read one table, from the installed package
``astropy-iers-data``, continued beyond its ends with its first and last values. Within its dates
nothing changes, bit for bit; beyond them `earth_orientation_warning` says what is lost.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import erfa
from astropy.table import vstack
from astropy.time import Time
from astropy.utils import data, iers

_log = logging.getLogger(__name__)

# The continued table reaches from 1858-11-17 to 2132-08-31: every date a 5-digit MJD can name.
_HELD_FROM_MJD = 0.0
_HELD_TO_MJD = 99999.0

# ERFA calls a year "dubious" when it lies more than five past the release of its own leap second
# list. The packaged list is newer, and its end is part of our own warning.
_DUBIOUS_YEAR = r".*dubious year.*"

_CONFIGURATION = (
    (iers.conf, "auto_download", False),
    (iers.conf, "auto_max_age", None),
    # For tables that a caller sets instead of ours: go on, with astropy's own warning.
    (iers.conf, "iers_degraded_accuracy", "warn"),
    (data.conf, "allow_internet", False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpan:
    """What the installed tables cover, as MJD (UTC).

    Parameters
    ----------
    first_mjd
        First day with UT1−UTC and polar motion.
    measured_until_mjd
        First day whose values are predictions, not measurements.
    last_mjd
        Last day with UT1−UTC and polar motion.
    leap_seconds_until_mjd
        Day until which leap seconds are known to have been announced or not.
    """

    first_mjd: float
    measured_until_mjd: float
    last_mjd: float
    leap_seconds_until_mjd: float


def use_packaged_tables() -> None:
    """Make astropy, ERFA and pyuvdata use the installed tables, for the rest of this process.

    Call it once when a process of ours starts (command line, worker), before the first date is
    converted: astropy looks for leap seconds then, on the network if its own are old. A second
    call changes nothing. In a process that belongs to someone else use `packaged_tables`.
    """
    for conf, name, value in _CONFIGURATION:
        setattr(conf, name, value)
    _read_leap_seconds().update_erfa_leap_seconds()
    iers.earth_orientation_table.set(_continued_table())
    warnings.filterwarnings("ignore", message=_DUBIOUS_YEAR, category=erfa.ErfaWarning)


@contextmanager
def packaged_tables() -> Iterator[None]:
    """Use the installed tables within a ``with`` block, and leave astropy as it was afterwards.

    Notes
    -----
    The state of astropy and of `warnings` belongs to the process: do not enter this in several
    threads at once.
    """
    with ExitStack() as stack:
        for conf, name, value in _CONFIGURATION:
            stack.enter_context(conf.set_temp(name, value))
        stack.enter_context(warnings.catch_warnings())
        # Leap seconds stay: a newer list is right for everyone.
        _read_leap_seconds().update_erfa_leap_seconds()
        warnings.filterwarnings("ignore", message=_DUBIOUS_YEAR, category=erfa.ErfaWarning)
        stack.enter_context(iers.earth_orientation_table.set(_continued_table()))
        yield


@functools.cache
def earth_orientation_span() -> TableSpan:
    """Tell what the installed tables cover; they are read once per process (half a second)."""
    table = _read_table()
    return TableSpan(
        first_mjd=float(table["MJD"][0].value),
        measured_until_mjd=float(table.meta["predictive_mjd"]),
        last_mjd=float(table["MJD"][-1].value),
        leap_seconds_until_mjd=float(_read_leap_seconds().expires.mjd),
    )


def earth_orientation_warning(time_mjd: float) -> str | None:
    """Say in one line what accuracy is lost on a date that the installed tables do not cover.

    Parameters
    ----------
    time_mjd
        Date of the observation, MJD (UTC).

    Returns
    -------
    str or None
        One line with the date, the end of the table, the loss and what to do; None when the
        tables cover the date.
    """
    span = earth_orientation_span()
    if time_mjd < span.first_mjd:
        return _line(time_mjd, "before", "begin", span.first_mjd)
    if time_mjd >= span.last_mjd:
        return _line(time_mjd, "past", "end", span.last_mjd)
    if time_mjd >= span.leap_seconds_until_mjd:
        return (
            f"{_date(time_mjd)} lies past the installed list of leap seconds "
            f"(known until {_date(span.leap_seconds_until_mjd)}): if one has been announced since, "
            f"sidereal times are off by 1 s (15″ in right ascension). "
            f"Install a newer astropy-iers-data."
        )
    return None


def warn_outside_tables(times_mjd: Iterable[float]) -> str | None:
    """Log at most one warning for all the dates of a run, and return its line.

    Parameters
    ----------
    times_mjd
        Dates of the observations, MJD (UTC). Of those outside the tables the latest is named,
        or, if none is late, the earliest.
    """
    dates = sorted(times_mjd)
    candidates = (dates[-1], dates[0]) if dates else ()
    lines = (earth_orientation_warning(date) for date in candidates)
    line = next((line for line in lines if line), None)
    if line:
        _log.warning("%s", line, extra={"action": "earth-orientation-held"})
    return line


def _line(time_mjd: float, side: str, verb: str, limit_mjd: float) -> str:
    # UT1−UTC stays within 0.9 s of 0 as long as leap seconds are made, so a held value may be off
    # by that and its own size; polar motion wanders within 0.6″.
    return (
        f"{_date(time_mjd)} lies {side} the installed Earth-orientation tables, which {verb} on "
        f"{_date(limit_mjd)}: their nearest values are used. UT1−UTC may be off by 0.9 s or more "
        f"(13.5″ in right ascension of every phase centre), polar motion by 0.6″. "
        f"Install a newer astropy-iers-data."
    )


def _date(time_mjd: float) -> str:
    # TAI, because the calendar day of a table's row must not itself depend on leap seconds.
    return str(Time(time_mjd, format="mjd", scale="tai").to_value("iso", subfmt="date"))


@functools.cache
def _read_table() -> iers.IERS_Auto:
    # The file is named because read() without one prefers a finals2000A.all that happens to lie in
    # the working directory. IERS_Auto is astropy's default kind: measured values from IERS-B.
    return iers.IERS_Auto.read(file=iers.IERS_A_FILE)


def _read_leap_seconds() -> iers.LeapSeconds:
    return iers.LeapSeconds.from_iers_leap_seconds(iers.IERS_LEAP_SECOND_FILE)


@functools.cache
def _continued_table() -> iers.IERS_Auto:
    # Repeating the outer rows on far days makes astropy's linear interpolation hold their values,
    # by its public rules and for every reader alike, with no date left for it to fail on.
    table = _read_table()
    before, after = table[:1].copy(), table[-1:].copy()
    before["MJD"] = [_HELD_FROM_MJD] * before["MJD"].unit
    after["MJD"] = [_HELD_TO_MJD] * after["MJD"].unit
    continued = vstack([before, table, after], metadata_conflicts="silent")
    continued.meta["predictive_index"] = table.meta["predictive_index"] + 1
    continued.meta["predictive_mjd"] = table.meta["predictive_mjd"]
    return continued
