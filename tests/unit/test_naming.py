"""Which names are input, what a name says, and where a product belongs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_dask import create_path_mapper
from contimg_dask.naming import (
    STAGING_DIRECTORY,
    date_of,
    failed_record_path,
    parse_file_name,
    product_path,
    stamp_of_jd,
    stamp_to_mjd,
)

ID = "2025-10-05T03:12:06"
OUTPUT = Path("/data/out")


@pytest.mark.parametrize(
    ("name", "stamp", "number"),
    [
        ("2025-10-05T03:12:06_sb00.hdf5", ID, 0),
        ("2025-10-05T03:12:06_sb07.hdf5", ID, 7),
        ("2025-10-05T03:12:06_sb15.hdf5", ID, 15),
        ("2025-10-05T03:12:06_sb31.hdf5", ID, 31),
        ("2025-10-05T03:12:06.hdf5", ID, None),
        ("2024-02-29T23:59:59_sb01.hdf5", "2024-02-29T23:59:59", 1),
    ],
)
def test_a_finished_file_is_named_by_its_stamp_and_number(
    name: str, stamp: str, number: int | None
) -> None:
    assert parse_file_name(name) == (stamp, number)


NOT_INPUT = [
    # still being written, on the node or by rsync
    "2025-10-05T03:12:06_sb07_incomplete.hdf5",
    "2025-10-05T03:12:06_incomplete.hdf5",
    ".2025-10-05T03:12:06_sb07.hdf5.aB3xYz",
    ".2025-10-05T03:12:06_sb07.hdf5",
    "2025-10-05T03:12:06_sb07.hdf5.part",
    "2025-10-05T03:12:06_sb07.hdf5~",
    # set aside
    "2025-10-05T03:12:06_sb07.hdf5.corrupted",
    "2025-10-05T03:12:06_sb07.corrupted",
    "corrupted_2025-10-05T03:12:06_sb07.hdf5",
    # no date, or no time of day
    "2025-13-05T03:12:06_sb07.hdf5",
    "2025-13-40T03:12:06_sb07.hdf5",
    "2025-02-29T03:12:06_sb07.hdf5",
    "2025-10-00T03:12:06_sb07.hdf5",
    "2025-10-05T24:00:00_sb07.hdf5",
    "2025-10-05T03:60:06_sb07.hdf5",
    "0000-10-05T03:12:06_sb07.hdf5",
    # other forms
    "2025-10-05 03:12:06_sb07.hdf5",
    "2025-10-05T031206_sb07.hdf5",
    "2025-10-05T03:12:06.5_sb07.hdf5",
    "2025-10-05T03:12:06_sb7.hdf5",
    "2025-10-05T03:12:06_sb007.hdf5",
    "2025-10-05T03:12:06_sb.hdf5",
    "2025-10-05T03:12:06_SB07.hdf5",
    "2025-10-05T03:12:06_sb07.h5",
    "2025-10-05T03:12:06_sb07",
    "2025-10-05T03:12:06_sb07.hdf5\n",
    "copy of 2025-10-05T03:12:06_sb07.hdf5",
    "ata.LoA.C0352.uvh5",
    "",
]


@pytest.mark.parametrize("name", NOT_INPUT)
def test_other_names_are_no_input(name: str) -> None:
    assert parse_file_name(name) is None


@pytest.mark.parametrize(
    ("stamp", "mjd"),
    [
        ("1970-01-01T00:00:00", 40587.0),
        ("2009-06-18T00:00:00", 55000.0),
        ("2000-01-01T12:00:00", 51544.5),
        ("2025-10-05T03:12:06", 60953 + (3 * 3600 + 12 * 60 + 6) / 86400),
    ],
)
def test_a_stamp_is_a_date(stamp: str, mjd: float) -> None:
    assert stamp_to_mjd(stamp) == pytest.approx(mjd, abs=1e-9)
    # A thousandth of a second later it is still the same second.
    assert stamp_of_jd(mjd + 2400000.5 + 0.002 / 86400) == stamp


@settings(max_examples=50, deadline=None)
@given(seconds=st.integers(0, 4_000_000_000))
def test_whole_seconds_survive_the_way_through_a_julian_date(seconds: int) -> None:
    # A Julian date resolves 0.05 ms, so a whole second may fall a little short of itself in it.
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    assert stamp_of_jd(2440587.5 + seconds / 86400) == f"{moment:%Y-%m-%dT%H:%M:%S}"


def test_a_start_is_cut_to_its_second_not_rounded() -> None:
    assert stamp_of_jd(2400000.5 + 60953 + 0.999 / 86400) == "2025-10-05T00:00:00"


@pytest.mark.parametrize(
    ("group_id", "date"),
    [(ID, "2025-10-05"), ("3c286", "undated"), ("2025-13-05T03:12:06", "undated")],
)
def test_a_group_is_filed_under_the_date_in_its_id(group_id: str, date: str) -> None:
    assert date_of(group_id) == date


def test_products_lie_under_kind_and_date() -> None:
    places = [product_path(OUTPUT, ID, kind) for kind in ("science", "calibrator")]
    assert places == [
        Path("/data/out/science/2025-10-05/2025-10-05T03:12:06.ms"),
        Path("/data/out/calibrators/2025-10-05/2025-10-05T03:12:06.ms"),
    ]
    record = failed_record_path(OUTPUT, ID)
    assert record == Path("/data/out/failed/2025-10-05/2025-10-05T03:12:06.json")


@pytest.mark.parametrize(
    ("flags", "top"),
    [
        ({}, "science"),
        ({"is_calibrator": True}, "calibrators"),
        ({"is_failed": True}, "failed"),
        ({"is_calibrator": True, "is_failed": True}, "failed"),
    ],
)
@pytest.mark.parametrize("base_name", [ID, f"{ID}.ms"])
def test_the_path_mapper_places_products_in_the_dated_layout(
    flags: dict[str, bool], top: str, base_name: str
) -> None:
    mapper = create_path_mapper("/data/out", **flags)
    assert mapper(base_name, "/elsewhere") == f"/data/out/{top}/2025-10-05/{ID}.ms"


@pytest.mark.parametrize(("is_calibrator", "kind"), [(False, "science"), (True, "calibrator")])
def test_the_path_mapper_and_the_layout_agree(is_calibrator: bool, kind: str) -> None:
    mapper = create_path_mapper(OUTPUT, is_calibrator=is_calibrator)
    assert mapper(ID, "") == str(product_path(OUTPUT, ID, kind))  # type: ignore[arg-type]


def test_the_staging_directory_is_hidden() -> None:
    assert STAGING_DIRECTORY.startswith(".")
