"""Two real files of another telescope: neighbouring subbands of 3C286, seen by the ATA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import erfa
import h5py
import numpy as np
import pytest

from contimg_dask.errors import InputError
from contimg_dask.model import ProductOptions
from tests.reference import (
    Converted,
    column,
    convert,
    memory_directory,
    read_by_pyuvdata,
    read_product_by_pyuvdata,
    reference_ms,
    row_count,
    subtable,
    tile_files,
    without_network,
)

FILES = sorted((Path(__file__).parents[1] / "data" / "ata_3c286").glob("*.uvh5"))
ARCSEC_RAD = np.pi / 180 / 3600
# 3C286 in the ICRS, from the VLBI catalogue of calibrators: 13:31:08.28806, +30:30:32.9589.
RA_3C286_RAD = np.radians(15 * (13 + 31 / 60 + 8.28806 / 3600))
DEC_3C286_RAD = np.radians(30 + 30 / 60 + 32.9589 / 3600)


@pytest.fixture(scope="module", params=[True, False], ids=["direct", "parts"])
def converted(request: pytest.FixtureRequest) -> Iterator[Converted]:
    options = ProductOptions(telescope_name="ATA")
    with memory_directory() as path:
        # Against their order in frequency, which alone decides.
        yield convert(FILES[::-1], path / "out", options=options, direct=request.param)


@pytest.fixture(scope="module")
def references() -> Iterator[list[Path]]:
    """Return pyuvdata's Measurement Set of each file, of ascending frequency."""
    with memory_directory() as path:
        yield reference_ms(FILES, path / "out")


def test_the_files_hold_what_makes_them_difficult() -> None:
    assert len(FILES) == 2
    for path in FILES:
        with h5py.File(path) as file:
            first, second = (file[f"Header/ant_{k}_array"][()] for k in (1, 2))
            samples, numbers = file["Data/nsamples"][()], file["Header/antenna_numbers"][()]
            values = file["Data/visdata"][()]
            assert file["Header/polarization_array"][()].tolist() == [-5, -7, -8, -6]
        assert np.any(first > second)
        assert np.any(first < second)
        assert samples.max() < 0
        assert numbers.tolist() == list(range(1, 43))
        values = values["r"] + 1j * values["i"] if values.dtype.names else values
        assert np.abs(values).max() > 1e36


def test_values_are_pyuvdatas_of_each_file(converted: Converted, references: list[Path]) -> None:
    assert row_count(converted.path) == 2 * 406
    for (path, start, rows), expected, reference in zip(
        converted.windows, FILES, references, strict=True
    ):
        assert path == expected
        for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "ANTENNA1", "ANTENNA2",
                     "TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE", "FIELD_ID"):  # fmt: skip
            found, wanted = column(converted.path, name, start, rows), column(reference, name)
            assert found.shape == wanted.shape, name
            assert np.array_equal(found, wanted), name
        shift_m = column(converted.path, "UVW", start, rows) - column(reference, "UVW")
        assert float(np.abs(shift_m).max()) < 1e-3
    assert {part.values_not_finite for part in converted.product.parts} == {0}


def test_a_negative_weight_has_no_sigma(converted: Converted) -> None:
    assert column(converted.path, "WEIGHT").max() < 0
    assert not column(converted.path, "SIGMA").any()


def test_the_tracked_phase_centre_is_kept(converted: Converted, references: list[Path]) -> None:
    field = subtable(converted.path, "FIELD")
    assert field["NAME"] == ["3c286"]
    for name in ("PHASE_DIR", "REFERENCE_DIR", "DELAY_DIR"):
        ((found,),) = field[name]
        assert erfa.seps(*found, RA_3C286_RAD, DEC_3C286_RAD) < 0.1 * ARCSEC_RAD
        assert np.array_equal(field[name], subtable(references[0], "FIELD")[name])
    assert set(column(converted.path, "SCAN_NUMBER")) == {1}


def test_both_files_are_windows_of_one_product(
    converted: Converted, references: list[Path]
) -> None:
    windows = subtable(converted.path, "SPECTRAL_WINDOW")
    assert windows["NAME"] == ["sb01", "sb00"]
    assert windows["CHAN_FREQ"][:, 0].tolist() == [1252e6, 1260e6]
    assert np.all(np.diff(windows["CHAN_FREQ"].ravel()) == 0.5e6)
    for index, reference in enumerate(references):
        expected = subtable(reference, "SPECTRAL_WINDOW")
        for name in ("CHAN_FREQ", "CHAN_WIDTH", "TOTAL_BANDWIDTH", "NUM_CHAN"):
            assert np.array_equal(windows[name][index], expected[name][0]), name
    assert np.array_equal(column(converted.path, "DATA_DESC_ID"), np.repeat([0, 1], 406))
    assert subtable(converted.path, "POLARIZATION")["CORR_TYPE"].tolist() == [[9, 10, 11, 12]]


def test_an_antenna_number_that_none_has_is_a_flagged_row(
    converted: Converted, references: list[Path]
) -> None:
    antennas, expected = (subtable(path, "ANTENNA") for path in (converted.path, references[0]))
    assert len(antennas["NAME"]) == 43
    assert antennas["NAME"] == expected["NAME"]
    assert antennas["NAME"][0] == ""
    assert antennas["FLAG_ROW"].tolist() == [True] + [False] * 42
    assert float(np.abs(antennas["POSITION"] - expected["POSITION"]).max()) < 1e-6
    assert set(antennas["DISH_DIAMETER"][1:]) == {6.1}
    assert column(converted.path, "ANTENNA1").min() > 0


def test_pyuvdata_reads_the_product_back_as_the_files(converted: Converted) -> None:
    found = read_product_by_pyuvdata(converted.path)
    assert found.Nspws == 2
    assert found.telescope.name == "ATA"
    assert [entry["cat_name"] for entry in found.phase_center_catalog.values()] == ["3c286"]
    for window, path in enumerate(FILES):
        with without_network():
            expected = read_by_pyuvdata(path)
            expected.conjugate_bls("ant1<ant2")
            expected.reorder_pols("CASA")
            found.reorder_pols("CASA", run_check=False)
        channels = found.flex_spw_id_array == found.spw_array[window]
        mine, theirs = np.argsort(found.baseline_array), np.argsort(expected.baseline_array)
        assert np.array_equal(found.baseline_array[mine], expected.baseline_array[theirs])
        for name in ("data_array", "flag_array", "nsample_array"):
            values = getattr(found, name)[mine][:, channels]
            assert np.array_equal(values, getattr(expected, name)[theirs]), name
        shift_m = found.uvw_array[mine] - expected.uvw_array[theirs]
        assert float(np.abs(shift_m).max()) < 1e-3


def test_both_ways_of_writing_give_the_same_bytes(memory_path: Path) -> None:
    direct, parts = (
        tile_files(convert(FILES, memory_path / str(way), direct=way).path) for way in (True, False)
    )
    assert {name for name in direct if direct[name] != parts[name]} == set()
    assert direct.keys() == parts.keys()


def test_the_meridian_is_refused_for_a_tracked_phase_centre(memory_path: Path) -> None:
    with pytest.raises(InputError, match="--phase-centre keep") as caught:
        convert(FILES, memory_path / "out", options=ProductOptions(phase_centre="meridian"))
    assert caught.value.code == "phase-centre"
    assert not (memory_path / "out" / "product.ms").exists()
