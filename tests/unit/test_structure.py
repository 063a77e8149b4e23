"""The structure check passes a good product, and finds each single thing that is broken in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import casacore.tables as tables
import numpy as np
import pytest

from contimg_dask.ms.structure import check_structure, window_facts

if TYPE_CHECKING:
    from tests.unit.conftest import Converted

Table = Any


@pytest.fixture
def product(converted: Converted, tmp_path: Path) -> Path:
    """A good product of one's own, to break."""
    return Path(shutil.copytree(converted.product, tmp_path / "product.ms"))


def opened(product: Path, name: str = "") -> Table:
    return tables.table(str(product / name), readonly=False, ack=False)


def codes(product: Path) -> set[str]:
    return {finding.code for finding in check_structure(str(product))}


# ------------------------------------------------------------------------- ways to break a product

Break = Callable[[Path], None]


def value(table: str, column: str, row: int, broken: Any) -> Break:
    """Put one wrong value into a cell."""

    def put(product: Path) -> None:
        with opened(product, table) as subtable:
            rows = subtable.nrows()
            subtable.putcell(column, row % rows, broken)

    return put


def change(table: str, column: str, row: int, function: Callable[[Any], Any]) -> Break:
    """Change one cell by a function of what is in it."""

    def put(product: Path) -> None:
        with opened(product, table) as subtable:
            cell = row % subtable.nrows()
            subtable.putcell(column, cell, function(subtable.getcell(column, cell)))

    return put


def column_of(column: str, broken: Any) -> Break:
    """Put one wrong value into all rows of MAIN."""

    def put(product: Path) -> None:
        with opened(product) as main:
            main.putcol(column, np.full_like(main.getcol(column), broken))

    return put


def without_column(column: str) -> Break:
    def remove(product: Path) -> None:
        with opened(product) as main:
            main.removecols([column])

    return remove


def without_keyword(name: str) -> Break:
    def remove(product: Path) -> None:
        with opened(product) as main:
            main.removekeyword(name)

    return remove


def without_directory(name: str) -> Break:
    def remove(product: Path) -> None:
        shutil.rmtree(product / name)

    return remove


def with_rows(table: str, more: int) -> Break:
    def add(product: Path) -> None:
        with opened(product, table) as subtable:
            subtable.addrows(more)

    return add


def without_rows(table: str, keep: int = 0) -> Break:
    def remove(product: Path) -> None:
        with opened(product, table) as subtable:
            subtable.removerows(range(keep, subtable.nrows()))

    return remove


def with_a_telescope_location(product: Path) -> None:
    with opened(product, "OBSERVATION") as observation:
        description = tables.makearrcoldesc("TELESCOPE_LOCATION", 0.0, shape=[3], ndim=1)
        observation.addcols(tables.maketabdesc(description))


def with_descending_channels(product: Path) -> None:
    with opened(product, "SPECTRAL_WINDOW") as windows:
        windows.putcell("CHAN_FREQ", 1, windows.getcell("CHAN_FREQ", 1)[::-1])


def with_windows_in_another_order(product: Path) -> None:
    with opened(product, "SPECTRAL_WINDOW") as windows:
        first, second = (windows.getcell("CHAN_FREQ", row) for row in (0, 1))
        windows.putcell("CHAN_FREQ", 0, second)
        windows.putcell("CHAN_FREQ", 1, first)


def with_swapped_antennas(product: Path) -> None:
    with opened(product) as main:
        row = int(np.argmax(main.getcol("ANTENNA1") != main.getcol("ANTENNA2")))
        one, two = main.getcell("ANTENNA1", row), main.getcell("ANTENNA2", row)
        main.putcell("ANTENNA1", row, two)
        main.putcell("ANTENNA2", row, one)


def with_all_rows_in_one_window(product: Path) -> None:
    with opened(product) as main:
        ids = main.getcol("DATA_DESC_ID")
        main.putcol("DATA_DESC_ID", np.where(ids == 1, 0, ids).astype(np.int32))


def with_a_pointing_per_antenna_and_time(product: Path) -> None:
    with opened(product, "ANTENNA") as antennas:
        count = antennas.nrows()
    with_rows("POINTING", 2 * count)(product)


BROKEN: dict[str, tuple[Break, set[str]]] = {
    # MAIN: columns and subtables
    **{
        f"no column {name}": (without_column(name), {"no-column"})
        for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM", "SIGMA", "UVW", "SCAN_NUMBER")
    },
    **{
        f"no subtable {name}": (without_keyword(name), {"no-subtable"})
        for name in ("SOURCE", "STATE", "POINTING", "HISTORY", "OBSERVATION")
    },
    "MODEL_DATA without CORRECTED_DATA": (without_column("CORRECTED_DATA"), {"imaging-columns"}),
    "CORRECTED_DATA without MODEL_DATA": (without_column("MODEL_DATA"), {"imaging-columns"}),
    # MAIN: ids
    "negative FIELD_ID": (value("", "FIELD_ID", 3, -1), {"id-range"}),
    "FIELD_ID past the last": (value("", "FIELD_ID", -1, 2), {"id-range"}),
    "negative STATE_ID": (column_of("STATE_ID", -1), {"id-range"}),
    "no rows in STATE": (without_rows("STATE"), {"empty-subtable"}),
    "OBSERVATION_ID past the last": (column_of("OBSERVATION_ID", 1), {"id-range"}),
    "ANTENNA2 past the last": (value("", "ANTENNA2", -1, 117), {"id-range"}),
    "DATA_DESC_ID past the last": (value("", "DATA_DESC_ID", -1, 3), {"id-range"}),
    "antennas the wrong way round": (with_swapped_antennas, {"antenna-order"}),
    "SCAN_NUMBER from 0": (column_of("SCAN_NUMBER", 0), {"scan-number"}),
    # MAIN: values
    "NaN in SIGMA": (value("", "SIGMA", 5, np.array([np.nan, 0.1], np.float32)), {"sigma"}),
    "infinity in SIGMA": (value("", "SIGMA", -1, np.array([0.1, np.inf], np.float32)), {"sigma"}),
    "SIGMA where there is no WEIGHT": (
        value("", "WEIGHT", 7, np.array([0.0, 96.0], np.float32)),
        {"sigma"},
    ),
    # windows
    "a surplus DATA_DESCRIPTION row": (
        with_rows("DATA_DESCRIPTION", 1),
        {"data-description", "empty-window"},
    ),
    "a window without rows": (with_all_rows_in_one_window, {"empty-window"}),
    "another number of channels": (value("SPECTRAL_WINDOW", "NUM_CHAN", 1, 5), {"shape"}),
    "another number of products": (value("POLARIZATION", "NUM_CORR", 0, 4), {"shape"}),
    "descending channels": (with_descending_channels, {"channels"}),
    "descending windows": (with_windows_in_another_order, {"channels"}),
    "negative CHAN_WIDTH": (change("SPECTRAL_WINDOW", "CHAN_WIDTH", 0, np.negative), {"channels"}),
    "CHAN_WIDTH of 0": (change("SPECTRAL_WINDOW", "CHAN_WIDTH", -1, np.zeros_like), {"channels"}),
    "NaN in CHAN_FREQ": (
        change("SPECTRAL_WINDOW", "CHAN_FREQ", 1, lambda hz: hz * np.nan),
        {"channels"},
    ),
    "two windows of one name": (value("SPECTRAL_WINDOW", "NAME", 0, "sb00"), {"window-names"}),
    # fields
    "another REFERENCE_DIR": (
        change("FIELD", "REFERENCE_DIR", 1, lambda rad: rad + 1e-6),
        {"directions"},
    ),
    "another DELAY_DIR": (change("FIELD", "DELAY_DIR", 0, lambda rad: rad - 1e-6), {"directions"}),
    "NaN in PHASE_DIR": (change("FIELD", "PHASE_DIR", 0, lambda rad: rad * np.nan), {"directions"}),
    "SOURCE_ID without a source": (value("FIELD", "SOURCE_ID", 1, 2), {"source-id"}),
    "negative SOURCE_ID": (value("FIELD", "SOURCE_ID", 0, -1), {"source-id"}),
    # antennas
    "fewer feeds than antennas": (without_rows("FEED", keep=116), {"feed"}),
    "a feed of a window that is not there": (value("FEED", "SPECTRAL_WINDOW_ID", 3, 3), {"feed"}),
    "a pointing per antenna and time": (with_a_pointing_per_antenna_and_time, {"pointing"}),
    # observation
    "TELESCOPE_LOCATION": (with_a_telescope_location, {"observation"}),
    "no TELESCOPE_NAME": (value("OBSERVATION", "TELESCOPE_NAME", 0, ""), {"observation"}),
    "TIME_RANGE begins too late": (
        change("OBSERVATION", "TIME_RANGE", 0, lambda s: s + np.array([10, 0])),
        {"time-range"},
    ),
    "TIME_RANGE ends too early": (
        change("OBSERVATION", "TIME_RANGE", 0, lambda s: s - np.array([0, 10])),
        {"time-range"},
    ),
}


def test_a_good_product_has_no_findings(converted: Converted) -> None:
    assert check_structure(str(converted.product)) == []


@pytest.mark.parametrize(("spoil", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_found_and_nothing_else(
    product: Path, spoil: Break, expected: set[str]
) -> None:
    spoil(product)
    assert codes(product) == expected


@pytest.mark.parametrize(
    "name",
    ["ANTENNA", "DATA_DESCRIPTION", "FEED", "FIELD", "OBSERVATION", "POLARIZATION", "SOURCE",
     "SPECTRAL_WINDOW", "STATE"],
)  # fmt: skip
@pytest.mark.parametrize("how", [without_rows, without_directory])
def test_a_subtable_that_is_empty_or_gone_is_a_finding_that_names_it(
    product: Path, how: Callable[[str], Break], name: str
) -> None:
    how(name)(product)
    findings = check_structure(str(product))
    assert any(name in finding.text for finding in findings)
    assert all("\n" not in finding.text for finding in findings)


def without_tiles(column: str) -> Break:
    def remove(product: Path) -> None:
        with opened(product) as main:
            (number,) = (
                manager["SEQNR"]
                for manager in main.getdminfo().values()
                if column in manager["COLUMNS"]
            )
        (product / f"table.f{number}_TSM0").unlink()

    return remove


def without_small_columns(product: Path) -> None:
    (product / "table.f0").unlink()


@pytest.mark.parametrize(
    "spoil",
    [without_tiles("DATA"), without_tiles("UVW"), without_small_columns],
    ids=["DATA", "UVW", "small columns"],
)
def test_a_file_of_main_that_is_gone_is_a_finding(product: Path, spoil: Break) -> None:
    spoil(product)
    findings = check_structure(str(product))
    assert findings
    assert all("\n" not in finding.text for finding in findings)


@pytest.mark.parametrize(
    "allowed",
    [
        with_rows("POINTING", 117),
        with_rows("HISTORY", 3),
        with_rows("FEED", 1),
        value("OBSERVATION", "TELESCOPE_NAME", 0, "OVRO_MMA"),
        value("", "WEIGHT", 7, np.array([1.0, 2.0], np.float32)),
        change("FIELD", "DELAY_DIR", 0, lambda rad: rad + 1e-11),
    ],
    ids=["a pointing per antenna", "history", "feeds", "telescope", "weight", "rounding"],
)
def test_what_readers_can_live_with_is_no_finding(product: Path, allowed: Break) -> None:
    allowed(product)
    assert codes(product) == set()


def test_a_product_without_imaging_columns_is_good(product: Path) -> None:
    without_column("MODEL_DATA")(product)
    without_column("CORRECTED_DATA")(product)
    assert codes(product) == set()


def test_findings_say_in_one_line_what_is_wrong(product: Path) -> None:
    value("", "FIELD_ID", 3, -1)(product)
    with_rows("DATA_DESCRIPTION", 1)(product)
    texts = [finding.text for finding in check_structure(str(product))]
    assert "FIELD_ID runs from -1 to 1, but FIELD has 2 rows" in texts
    assert "DATA_DESCRIPTION has 4 rows for 3 windows" in texts
    assert all("\n" not in text for text in texts)


def test_all_that_is_missing_is_listed_at_once(product: Path) -> None:
    without_column("SIGMA")(product)
    without_keyword("SOURCE")(product)
    without_keyword("STATE")(product)
    assert [finding.text for finding in check_structure(str(product))] == [
        "MAIN has no column SIGMA",
        "there is no subtable SOURCE",
        "there is no subtable STATE",
    ]


def test_a_table_without_rows_is_found(tmp_path: Path) -> None:
    tables.default_ms(str(tmp_path / "empty.ms")).close()
    assert "no-rows" in codes(tmp_path / "empty.ms")


@pytest.mark.parametrize("what", ["nothing", "a file", "a directory", "half a table"])
def test_what_is_no_table_is_unreadable_in_one_line(
    product: Path, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "x.ms"
    if what == "a file":
        path.write_bytes(b"x")
    elif what == "a directory":
        path.mkdir()
    elif what == "half a table":
        path = product
        (path / "table.dat").write_bytes((path / "table.dat").read_bytes()[:100])
    (finding,) = check_structure(str(path))
    assert finding.code == "unreadable"
    assert finding.text.startswith(f"{path}: ")
    assert "\n" not in finding.text


def test_looking_changes_nothing(product: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in product.rglob("*")
            if path.is_file()
        }

    before = state()
    check_structure(str(product))
    window_facts(str(product))
    assert state() == before


def test_a_product_tells_its_start_and_its_windows(converted: Converted) -> None:
    start_mjd, windows = window_facts(str(converted.product))
    assert start_mjd == pytest.approx(converted.plan.start_mjd, abs=1e-9)
    assert [float(freq_hz.mean()) for freq_hz in windows] == pytest.approx(
        [subband.header.centre_freq_hz for subband in converted.plan.subbands], abs=1e-3
    )
