"""What was changed since publication, as tools do, told apart from what is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import casacore.tables as tables
import numpy as np
import pytest

from contimg_dask.integrity import Integrity, check_integrity
from contimg_dask.model import ImagingColumns, ProductOptions, SpectralWindows
from contimg_dask.publishing.manifest import MANIFEST_VERSION, read_manifest
from contimg_dask.simulate import Observation, simulate
from tests.reference import convert
from tests.unit.products import bulk_file, change_manifest

CHANNELS = 8
LAYOUTS: list[tuple[SpectralWindows, ImagingColumns, bool]] = [
    ("subband", "zero", True),
    ("subband", "copy", False),
    ("single", "zero", False),
    ("single", "copy", True),
    ("subband", "none", True),
]


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("incoming")
    observed = Observation(
        subbands=3, antennas=5, integrations=2, channels=CHANNELS, noise_jy=0.3, name_jitter=False
    )
    simulate(directory, observed)
    return sorted(directory.iterdir())


@pytest.fixture(scope="module")
def products(
    incoming: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[SpectralWindows, ImagingColumns, bool], Path]:
    made = {}
    for number, layout in enumerate(LAYOUTS):
        spw, imaging, direct = layout
        options = ProductOptions(spw=spw, imaging_columns=imaging)
        out = tmp_path_factory.mktemp("made") / str(number)
        made[layout] = convert(incoming, out, expected=3, options=options, direct=direct).path
    return made


@pytest.fixture(params=LAYOUTS, ids=lambda layout: "-".join(map(str, layout)))
def layout(request: pytest.FixtureRequest) -> tuple[SpectralWindows, ImagingColumns, bool]:
    chosen: tuple[SpectralWindows, ImagingColumns, bool] = request.param
    return chosen


@pytest.fixture
def product(
    products: dict[tuple[SpectralWindows, ImagingColumns, bool], Path],
    layout: tuple[SpectralWindows, ImagingColumns, bool],
    tmp_path: Path,
) -> Path:
    path = tmp_path / "product.ms"
    shutil.copytree(products[layout], path)
    return path


def imaging_columns(product: Path) -> list[str]:
    with tables.table(str(product), ack=False) as table:
        return [name for name in ("MODEL_DATA", "CORRECTED_DATA") if name in table.colnames()]


def change(product: Path, column: str) -> None:
    """Change one value of the last row the way a tool does, through casacore."""
    with tables.table(str(product), readonly=False, ack=False) as table:
        row = table.nrows() - 1
        cell = table.getcell(column, row)
        value = cell[-1, -1]
        cell[-1, -1] = not value if column == "FLAG" else value + 1
        table.putcell(column, row, cell)


def flip_a_byte(product: Path, column: str) -> str:
    """Change one byte in the middle of a tile file; return the subband whose value it was.

    Which one it was is found by reading the whole column through casacore before and after.
    """

    def values() -> np.ndarray:
        with tables.table(str(product), ack=False) as table:
            found: np.ndarray = table.getcol(column)
            return found

    before = values()
    with bulk_file(product, column).open("r+b") as file:
        place = before.nbytes // 2 if column != "FLAG" else before.size // 16
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    ((row, channel, _),) = np.argwhere(values() != before)
    with tables.table(str(product), ack=False) as table:
        window = table.getcell("DATA_DESC_ID", int(row))
        names = tables.table(table.getkeyword("SPECTRAL_WINDOW"), ack=False).getcol("NAME")
    if len(names) == 1:  # sb00-sb02: the highest subband last
        return f"sb{2 - int(channel) // CHANNELS:02d}"
    name: str = names[window]
    return name


def test_a_product_nobody_has_touched_is_as_it_was_published(product: Path) -> None:
    assert check_integrity(product) == Integrity(findings=(), changes=())


def test_what_calibration_writes_is_named_and_is_no_finding(product: Path) -> None:
    for column in ("FLAG", *imaging_columns(product)):
        before = check_integrity(product).changes
        change(product, column)
        found = check_integrity(product)
        assert found.findings == ()
        assert found.changes == (*before, column)


def test_a_changed_byte_of_data_or_weights_is_damage_and_names_the_subband(
    product: Path, layout: tuple[SpectralWindows, ImagingColumns, bool]
) -> None:
    for column in ("DATA", "WEIGHT_SPECTRUM"):
        subband = flip_a_byte(product, column)
        found = check_integrity(product)
        damaged = [finding for finding in found.findings if f"{column} of" in finding.text]
        assert [finding.code for finding in found.findings] == ["damaged"] * len(found.findings)
        (finding,) = damaged
        assert f"{column} of {subband} " in finding.text
        assert str(product) in finding.text
        if layout[1] != "copy":
            assert found.changes == ()


def test_damage_to_data_does_not_make_its_copy_a_change(
    products: dict[tuple[SpectralWindows, ImagingColumns, bool], Path], tmp_path: Path
) -> None:
    product = tmp_path / "product.ms"
    shutil.copytree(products["subband", "copy", False], product)
    flip_a_byte(product, "DATA")
    assert check_integrity(product).changes == ()


def test_flags_that_changed_on_disk_are_a_change(product: Path) -> None:
    flip_a_byte(product, "FLAG")
    assert check_integrity(product) == Integrity(findings=(), changes=("FLAG",))


@pytest.mark.parametrize("layout", [("subband", "zero", True)])
def test_a_manifest_of_the_first_version_has_no_checksums_to_hold_it_against(
    product: Path,
) -> None:
    manifest = read_manifest(product)
    assert manifest is not None
    subbands = {
        name: {
            "rows": facts["rows"],
            "values_flagged": facts["values_flagged"],
            "values_not_finite": 0,
            "reader": facts["reader"],
        }
        for name, facts in manifest["subbands"].items()
    }
    change_manifest(product, manifest_version=1, tier_proposed=..., subbands=subbands)
    (finding,) = check_integrity(product).findings
    assert finding.code == "no-checksums"
    assert "version 1" in finding.text
    assert "--input" in finding.text


@pytest.mark.parametrize("layout", [("subband", "zero", True)])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"manifest_version": MANIFEST_VERSION + 1}, f"version {MANIFEST_VERSION + 1}"),
        ({"geometry": ...}, "geometry"),
        ({"inputs": ...}, "inputs"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_a_finding(
    product: Path, changes: dict[str, object], says: str
) -> None:
    change_manifest(product, **changes)
    (finding,) = check_integrity(product).findings
    assert finding.code == ("manifest-version" if "version" in says else "damaged")
    assert says in finding.text


@pytest.mark.parametrize("layout", [("subband", "zero", True)])
@pytest.mark.parametrize("column", ["DATA", "WEIGHT_SPECTRUM", "FLAG"])
def test_a_checksum_that_is_not_in_the_manifest_is_a_finding(product: Path, column: str) -> None:
    manifest = read_manifest(product)
    assert manifest is not None
    del manifest["subbands"]["sb01"]["checksums"][column]
    change_manifest(product, subbands=manifest["subbands"])
    (finding,) = check_integrity(product).findings
    assert finding.code == "no-checksums"


@pytest.mark.parametrize("layout", [("subband", "zero", True)])
def test_a_product_that_is_not_whole_is_not_read_through(product: Path) -> None:
    (product / "table.dat").write_bytes(b"")
    calls: list[tuple[int, int]] = []
    found = check_integrity(product, lambda done, total: calls.append((done, total)))
    assert [finding.code for finding in found.findings] == ["damaged"]
    assert calls == []


@pytest.mark.parametrize("layout", [("single", "zero", False)])
def test_progress_is_told_per_subband(product: Path) -> None:
    calls: list[tuple[int, int]] = []
    check_integrity(product, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
