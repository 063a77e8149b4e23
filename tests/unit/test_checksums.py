"""A checksum of what was written is that of what is read back, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import casacore.tables as tables
import h5py
import numpy as np
import pytest
import xxhash

from contimg_dask.errors import OutputError
from contimg_dask.geometry import Geometry, geometry_of
from contimg_dask.model import ProductOptions
from contimg_dask.ms import published
from contimg_dask.ms.checksums import CHECKED_COLUMNS, Checksum
from contimg_dask.ms.published import is_untouched, read_checksums
from contimg_dask.publishing.manifest import MANIFEST_NAME, geometry_in
from contimg_dask.simulate import Observation, simulate
from tests.reference import Converted, column, convert
from tests.unit.products import bulk_file, copy

if TYPE_CHECKING:
    from tests.unit import conftest

# 45 rows of 3 channels and 2 products: the flags of a subband do not end with a whole byte.
ODD = Observation(subbands=3, antennas=5, integrations=3, channels=3, noise_jy=0.5)
SUBBANDS = 3


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Subbands with every kind of value, some of them not finite."""
    directory = tmp_path_factory.mktemp("odd")
    simulate(directory, ODD)
    chance = np.random.default_rng(1)
    files = sorted(directory.glob("*.hdf5"))
    for path in files:
        with h5py.File(path, "r+") as file:
            data, shape = file["Data"], file["Data/visdata"].shape
            data["flags"][...] = chance.random(shape) < 0.3
            data["nsamples"][...] = chance.choice([0, 3, 96, -1, 0.25], size=shape)
            values = data["visdata"][()]
            values.flat[::50] = complex(np.nan, 1)
            values.flat[1::60] = complex(-0.0, -0.0)
            data["visdata"][...] = values
    return files


MODES: dict[str, dict[str, Any]] = {
    "direct": {},
    "parts": {"direct": False},
    "direct, one window": {"options": ProductOptions(spw="single")},
    "parts, one window": {"options": ProductOptions(spw="single"), "direct": False},
    "copied": {"options": ProductOptions(imaging_columns="copy")},
}


@pytest.fixture(scope="module")
def products(
    odd_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Converted]:
    """The same group, converted in every mode."""
    directory = tmp_path_factory.mktemp("products")
    return {
        mode: convert(odd_files, directory / mode, **arguments) for mode, arguments in MODES.items()
    }


def in_manifest(product: Path) -> list[dict[str, str]]:
    manifest = json.loads((product / MANIFEST_NAME).read_text())
    return [facts["checksums"] for facts in manifest["subbands"].values()]


def computed(product: Path, geometry: Geometry, position: int) -> dict[str, str]:
    """Checksums of a subband's values, from columns read as a whole."""
    sums = {}
    for name, kind in (("DATA", "<c8"), ("WEIGHT_SPECTRUM", "<f4"), ("FLAG", "u1")):
        values = column(product, name)
        if geometry.spw == "single":
            own = values[:, position * geometry.channels : (position + 1) * geometry.channels]
        else:
            own = values.reshape(SUBBANDS, geometry.subband_rows, *values.shape[1:])[position]
        digest = xxhash.xxh3_128(own.astype(kind).tobytes()).hexdigest()
        sums[name] = f"xxh3-128:{digest}"
    return sums


def all_read(product: Path, geometry: Geometry) -> list[dict[str, str]]:
    return [read_checksums(str(product), geometry, position) for position in range(SUBBANDS)]


# ------------------------------------------------------------------------------ written and read


@pytest.mark.parametrize("mode", MODES)
def test_what_is_read_has_the_checksums_that_were_made_while_it_was_written(
    products: dict[str, Converted], mode: str
) -> None:
    product, geometry = products[mode].path, geometry_of(products[mode].plan)
    written = in_manifest(product)
    assert len(written) == SUBBANDS
    assert all_read(product, geometry) == written
    assert [computed(product, geometry, position) for position in range(SUBBANDS)] == written
    assert [part.checksums for part in products[mode].product.parts] == written
    # Every subband has its own, so none is taken for another.
    for name in CHECKED_COLUMNS:
        assert len({sums[name] for sums in written}) == SUBBANDS


def test_a_checksum_is_the_same_in_every_layout_and_mode(products: dict[str, Converted]) -> None:
    first, *others = [in_manifest(converted.path) for converted in products.values()]
    assert all(other == first for other in others)


def test_a_plain_product_has_the_checksums_of_its_manifest(
    converted: conftest.Converted,
) -> None:
    manifest = json.loads((converted.product / MANIFEST_NAME).read_text())
    geometry = geometry_in(manifest)
    assert geometry == geometry_of(converted.plan)
    assert all_read(converted.product, geometry) == in_manifest(converted.product)


@pytest.mark.parametrize("rows_at_once", [1, 7, 44, 45, 46])
@pytest.mark.parametrize("mode", ["direct", "direct, one window"])
def test_it_does_not_matter_how_many_rows_are_read_at_once(
    products: dict[str, Converted],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(published, "_ROWS_AT_ONCE", rows_at_once)
    product, geometry = products[mode].path, geometry_of(products[mode].plan)
    assert all_read(product, geometry) == in_manifest(product)


def test_a_checksum_is_that_of_all_values_however_they_came() -> None:
    values = np.arange(60, dtype="<c8").reshape(5, 4, 3)
    wanted = f"xxh3-128:{xxhash.xxh3_128(values.tobytes()).hexdigest()}"
    for pieces in ([values], [values[:2], values[2:]], [values[:0], values]):
        checksum = Checksum()
        for piece in pieces:
            checksum.add(piece)
        assert checksum.text == wanted
    turned = Checksum()
    turned.add(np.asfortranarray(values))
    assert turned.text == wanted
    assert Checksum().text != wanted


# ---------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("mode", ["direct", "direct, one window"])
@pytest.mark.parametrize("name", CHECKED_COLUMNS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_changed_bit_is_noticed_in_its_column_and_subband_and_nowhere_else(
    products: dict[str, Converted], tmp_path: Path, mode: str, name: str, position: int
) -> None:
    geometry = geometry_of(products[mode].plan)
    product = tmp_path / "product.ms"
    copy(products[mode].path, product)
    before = all_read(product, geometry)
    (shape,) = [column for column in geometry.columns if column.name == name]
    # A bit in the middle of a row in the middle of the subband.
    (run,) = geometry.runs(shape, position, 20, 1)
    flip(bulk_file(product, name), run.start_bit + geometry.row_bits(shape) // 2)
    after = all_read(product, geometry)
    changed = {
        (number, found)
        for number in range(SUBBANDS)
        for found in CHECKED_COLUMNS
        if before[number][found] != after[number][found]
    }
    assert changed == {(position, name)}


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


def test_a_zero_that_changed_its_sign_is_noticed(
    products: dict[str, Converted], tmp_path: Path
) -> None:
    product = tmp_path / "product.ms"
    copy(products["direct"].path, product)
    geometry = geometry_of(products["direct"].plan)
    before = read_checksums(str(product), geometry, 0)
    with tables.table(str(product), readonly=False, ack=False) as table:
        values = table.getcol("DATA", 0, geometry.subband_rows)
        assert (values == 0).any()
        table.putcol("DATA", np.where(values == 0, -values, values), 0, geometry.subband_rows)
    after = read_checksums(str(product), geometry, 0)
    assert {name for name in before if before[name] != after[name]} == {"DATA"}


def test_what_calibration_may_change_leaves_the_measured_columns_as_they_were(
    products: dict[str, Converted], tmp_path: Path
) -> None:
    product = tmp_path / "product.ms"
    copy(products["direct"].path, product)
    geometry = geometry_of(products["direct"].plan)
    with tables.table(str(product), readonly=False, ack=False) as table:
        for name in ("MODEL_DATA", "CORRECTED_DATA", "WEIGHT", "SIGMA"):
            table.putcol(name, table.getcol(name) + 1)
    assert all_read(product, geometry) == in_manifest(product)


@pytest.mark.parametrize("damage", ["no table", "no such file", "no DATA"])
def test_a_table_that_cannot_be_read_is_an_error_of_one_line(
    products: dict[str, Converted], tmp_path: Path, damage: str
) -> None:
    product = tmp_path / "product.ms"
    copy(products["direct"].path, product)
    if damage == "no table":
        (product / "table.dat").unlink()
    elif damage == "no DATA":
        with tables.table(str(product), readonly=False, ack=False) as table:
            table.removecols("DATA")
    else:
        product = tmp_path / "elsewhere.ms"
    geometry = geometry_of(products["direct"].plan)
    with pytest.raises(OutputError) as caught:
        read_checksums(str(product), geometry, 0)
    assert caught.value.code == "casacore-error"
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------- imaging columns


@pytest.mark.parametrize(("mode", "copied"), [("direct", False), ("copied", True)])
@pytest.mark.parametrize("rows_at_once", [7, 8192])
def test_imaging_columns_are_untouched_as_they_are_published(
    products: dict[str, Converted],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    copied: bool,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(published, "_ROWS_AT_ONCE", rows_at_once)
    product, geometry = str(products[mode].path), geometry_of(products[mode].plan)
    assert is_untouched(product, "MODEL_DATA", geometry, copied=False)
    assert is_untouched(product, "CORRECTED_DATA", geometry, copied=copied)
    # A copy is not zero, and zero is no copy.
    assert not is_untouched(product, "CORRECTED_DATA", geometry, copied=not copied)


@pytest.mark.parametrize(("mode", "copied"), [("direct", False), ("copied", True)])
@pytest.mark.parametrize("row", [0, 67, 134])
def test_one_changed_value_of_an_imaging_column_is_noticed(
    products: dict[str, Converted],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    copied: bool,
    row: int,
) -> None:
    monkeypatch.setattr(published, "_ROWS_AT_ONCE", 40)
    product = tmp_path / "product.ms"
    copy(products[mode].path, product)
    with tables.table(str(product), readonly=False, ack=False) as table:
        values = table.getcell("CORRECTED_DATA", row)
        values[1, 1] += 1e-3
        table.putcell("CORRECTED_DATA", row, values)
    geometry = geometry_of(products[mode].plan)
    assert not is_untouched(str(product), "CORRECTED_DATA", geometry, copied=copied)
    assert is_untouched(str(product), "MODEL_DATA", geometry, copied=False)


def test_an_imaging_column_that_was_taken_away_is_not_as_it_was_published(
    products: dict[str, Converted], tmp_path: Path
) -> None:
    product = tmp_path / "product.ms"
    copy(products["direct"].path, product)
    with tables.table(str(product), readonly=False, ack=False) as table:
        table.removecols("MODEL_DATA")
    geometry = geometry_of(products["direct"].plan)
    assert not is_untouched(str(product), "MODEL_DATA", geometry, copied=False)
    assert is_untouched(str(product), "CORRECTED_DATA", geometry, copied=False)
