"""The quick-look of real conversions, against numpy on what casacore reads back from the product."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import casacore.tables as tables
import h5py
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from contimg_dask.execution import part_steps, steps
from contimg_dask.model import ConversionPlan, ProductOptions
from contimg_dask.ms.structure import check_structure
from contimg_dask.publishing.targets import inspect_target
from contimg_dask.quicklook.store import read_quicklook
from contimg_dask.quicklook.summary import summarise
from contimg_dask.quicklook.writing import QUICKLOOK_NAME
from contimg_dask.simulate import Observation, simulate
from tests.reference import Converted, column, convert, memory_directory, new_attempt, subtable

ATA = sorted((Path(__file__).parents[1] / "data" / "ata_3c286").glob("*.uvh5"))
DEAD, HUGE = 23, 33
"""Antenna numbers: one that is dead, one with amplitudes whose squares overflow float32."""


def wound(path: Path) -> None:
    """Make one antenna dead, one huge, and some values flagged, and some no numbers."""
    chance = np.random.default_rng(int(path.stem[-2:]))
    with h5py.File(path, "r+") as file:
        first, second = (file[f"Header/ant_{k}_array"][()] for k in (1, 2))
        values, flags = file["Data/visdata"][()], file["Data/flags"][()]
        values[(first == HUGE) | (second == HUGE)] *= np.float32(4e36)
        values[(first == DEAD) | (second == DEAD)] = 0
        values[chance.random(values.shape) < 0.01] = np.nan
        flags |= chance.random(flags.shape) < 0.1
        flags[:, :, 0] = True
        file["Data/visdata"][...], file["Data/flags"][...] = values, flags


@pytest.fixture(scope="module")
def incoming() -> Iterator[Path]:
    """Two subbands of 36 antennas, so many that not every cross-baseline is looked at."""
    with memory_directory() as path:
        simulate(path, Observation(subbands=2, antennas=36, integrations=3, channels=4))
        for file in path.glob("*.hdf5"):
            wound(file)
        yield path


@pytest.fixture(scope="module")
def converted(incoming: Path) -> Iterator[Converted]:
    with memory_directory() as path:
        yield convert(sorted(incoming.glob("*.hdf5")), path / "out", expected=2)


def table_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read what the quick-look is about, one window beside the other: (rows, channels, products)."""
    names = ("DATA", "FLAG", "ANTENNA1", "ANTENNA2", "TIME", "UVW", "DATA_DESC_ID")
    every = {name: column(path, name) for name in names}
    windows = np.unique(every["DATA_DESC_ID"])
    of = {w: every["DATA_DESC_ID"] == w for w in windows}
    found = {name: every[name][of[0]] for name in names[2:-1]}
    for name in ("DATA", "FLAG"):
        found[name] = np.concatenate([every[name][of[w]] for w in windows], axis=1)
    found["FREQ"] = subtable(path, "SPECTRAL_WINDOW")["CHAN_FREQ"].ravel()
    found["NAME"] = np.array(subtable(path, "ANTENNA")["NAME"])
    return found


def expected_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The means and shares, by plain arithmetic in double precision."""
    table = table_of(path)
    first, second, flags = table["ANTENNA1"], table["ANTENNA2"], table["FLAG"]
    amplitude = np.abs(table["DATA"].astype(np.complex128))
    numbers = np.unique([first, second])
    place = {number: index for index, number in enumerate(numbers)}
    count = len(numbers)
    step = max(1, min(-(-count * (count - 1) // 2 // 600), count // 8))
    looked = np.array(
        [a == b or (place[a] + place[b]) % step == 0 for a, b in zip(first, second, strict=True)]
    )
    usable = np.ma.array(amplitude, mask=flags)
    times = np.unique(table["TIME"])
    cross = looked & (first != second)
    waterfall = np.ma.array([usable[cross & (table["TIME"] == t)].mean(axis=0) for t in times])
    autos = np.ma.array([usable[(first == n) & (second == n)].mean(axis=0) for n in numbers])
    of_antenna = [looked & ((first == n) | (second == n)) for n in numbers]
    zero = (table["DATA"] == 0) & ~flags
    return {
        "frequency": table["FREQ"],
        "time": times,
        "antenna": table["NAME"][numbers],
        "amplitude": np.ma.filled(usable[cross].mean(axis=0), np.nan).T,
        "waterfall": np.moveaxis(np.ma.filled(waterfall, np.nan), -1, 0),
        "autocorrelation": np.moveaxis(np.ma.filled(autos, np.nan), -1, 0),
        "fraction_flagged": np.array([flags[rows].mean(axis=(0, 1)) for rows in of_antenna]).T,
        "fraction_zero": np.array([zero[rows].mean(axis=(0, 1)) for rows in of_antenna]).T,
    }


def assert_as_the_product(path: Path) -> xr.Dataset:
    """Hold every variable of a quick-look against the product it is in."""
    dataset = read_quicklook(path)
    with np.errstate(invalid="ignore"):
        expected = expected_of(path)
    for name, values in expected.items():
        found = dataset[name].values
        if values.dtype.kind == "U":
            assert found.tolist() == values.tolist(), name
        else:
            np.testing.assert_allclose(found, values, rtol=1e-6, err_msg=name)
    return dataset


def test_every_figure_is_that_of_the_product(converted: Converted) -> None:
    dataset = assert_as_the_product(converted.path)
    assert dataset["product"].values.tolist() == ["XX", "YY"]
    assert dataset["subband"].values.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert np.all(np.diff(dataset["frequency"].values) > 0)
    assert dataset["waterfall"].dims == ("product", "time", "frequency")
    assert float(dataset["autocorrelation"].max()) > 1e36
    sampled, there = dataset.attrs["cross_baselines_sampled"], dataset.attrs["cross_baselines"]
    assert (dataset.attrs["cross_baseline_step"], there) == (2, 36 * 35 // 2)
    assert 0.4 * there < sampled < 0.6 * there
    assert f"{sampled} of {there} cross-baselines" in dataset.attrs["sample"]


def test_the_uv_coverage_is_the_products_own_uvw(converted: Converted) -> None:
    dataset = read_quicklook(converted.path)
    table = table_of(converted.path)
    place = {name: index for index, name in enumerate(table["NAME"].tolist())}
    times = np.unique(table["TIME"])
    assert dataset["uv_time"].values.tolist() == times.tolist()  # three integrations: all of them
    found = {}
    for t, time_mjd_s in enumerate(dataset["uv_time"].values.tolist()):
        for b, names in enumerate(
            zip(
                dataset["antenna1"].values.tolist(),
                dataset["antenna2"].values.tolist(),
                strict=True,
            )
        ):
            pair = tuple(place[name] for name in names)
            found[(time_mjd_s, *pair)] = [float(dataset[name][t, b]) for name in ("u", "v")]
    wanted = {
        (time_mjd_s, first, second): uvw[:2].tolist()
        for time_mjd_s, first, second, uvw in zip(
            table["TIME"].tolist(), table["ANTENNA1"].tolist(), table["ANTENNA2"].tolist(),
            table["UVW"], strict=True,
        )
        if first != second
    }  # fmt: skip
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(map(found.get, wanted)), list(wanted.values()), rtol=1e-6)


def test_an_antenna_that_is_dead_shows_as_zero(converted: Converted) -> None:
    dataset = read_quicklook(converted.path)
    name = dict(
        zip(dataset["antenna_number"].values.tolist(), dataset["antenna"].values, strict=True)
    )
    dead = dataset.sel(antenna=name[DEAD])
    assert np.all(dead["autocorrelation"].isel(frequency=slice(0, 3)).values == 0)
    np.testing.assert_allclose(dead["fraction_zero"] + dead["fraction_flagged"], 1, rtol=1e-6)
    assert float(dataset["fraction_zero"].drop_sel(antenna=name[DEAD]).max()) < 0.2
    facts = summarise(dataset)
    assert facts["dead_antennas"] == [name[DEAD]]
    assert json.loads(json.dumps(facts)) == facts


def test_a_channel_that_is_flagged_throughout_has_no_amplitude(converted: Converted) -> None:
    dataset = read_quicklook(converted.path)
    without = np.isnan(dataset["amplitude"].values).all(axis=0)
    # The file's first channel is the subband's last: its frequencies descend.
    assert np.flatnonzero(without).tolist() == [3, 7]
    assert np.isnan(dataset["waterfall"].values[..., without]).all()


@pytest.mark.parametrize("layout", ["parts", "single", "single parts", "spread"])
def test_it_is_the_same_in_every_layout_and_mode(
    layout: str, incoming: Path, converted: Converted, tmp_path: Path
) -> None:
    files = sorted(incoming.glob("*.hdf5"))
    if layout == "spread":
        path = convert_spread(converted.plan, tmp_path)
    else:
        options = ProductOptions(spw="single" if "single" in layout else "subband")
        path = convert(
            files, tmp_path / "out", expected=2, options=options, direct="parts" not in layout
        ).path
    found, usual = read_quicklook(path), read_quicklook(converted.path)
    found.attrs.pop("plan_hash")
    usual.attrs.pop("plan_hash")
    xr.testing.assert_identical(found, usual)


def convert_spread(plan: ConversionPlan, where: Path) -> Path:
    """Take the steps of a group whose files lie on another node, in order, on this one."""
    subbands = tuple(replace(s, header=replace(s.header, node="10.0.0.1")) for s in plan.subbands)
    tier = replace(plan.tiers[0], root=str(where / "staging"))
    plan = replace(plan, subbands=subbands, target=str(where / "product.ms"), tiers=(tier,))
    attempt, positions = new_attempt(), range(len(subbands))
    described = [part_steps.describe_part(plan, position) for position in positions]
    steps.open_attempt(plan, attempt)
    rows = part_steps.write_rows(plan, attempt, described)
    placed = []
    for position in positions:
        part_steps.open_part(plan, attempt, position)
        part = part_steps.write_part(plan, attempt, position)
        sent = part_steps.send_part(plan, attempt, position)
        part_steps.discard_part(plan, attempt, position)
        placed.append(part_steps.place_part(plan, attempt, position, part, sent))
    return Path(part_steps.reduce_parts(plan, attempt, rows, placed).path)


def test_four_products_and_a_missing_subband(tmp_path: Path) -> None:
    simulate(
        tmp_path / "in",
        Observation(subbands=4, only_subbands=(0, 2, 3), antennas=7, integrations=2, channels=3,
                    products=4, noise_jy=0.5),
    )  # fmt: skip
    made = convert(sorted((tmp_path / "in").glob("*.hdf5")), tmp_path / "out", expected=4)
    dataset = assert_as_the_product(made.path)
    assert dataset["product"].values.tolist() == ["XX", "XY", "YX", "YY"]
    assert np.unique(dataset["subband"].values).tolist() == [0, 2, 3]
    assert summarise(dataset)["subbands_missing"] == [1]


def test_files_of_another_telescope(tmp_path: Path) -> None:
    options = ProductOptions(telescope_name="ATA")
    dataset = assert_as_the_product(convert(ATA, tmp_path / "out", options=options).path)
    assert dataset.sizes["product"] == 4
    assert np.isfinite(dataset["waterfall"].values).any()


def test_rows_in_disorder_and_without_autocorrelations(tmp_path: Path) -> None:
    (group,) = simulate(tmp_path / "in", Observation(subbands=1, antennas=6, integrations=3,
                                                     channels=4, noise_jy=0.1))  # fmt: skip
    keep_rows_of(Path(group.files[0]), lambda first, second: first != second)
    made = convert(group.files, tmp_path / "out")
    dataset = assert_as_the_product(made.path)
    assert np.isnan(dataset["autocorrelation"].values).all()
    assert summarise(dataset)["products"]["XX"]["autocorrelation"] is None


def keep_rows_of(path: Path, wanted: Callable[[Any, Any], Any]) -> None:
    """Keep some rows of a file, and put them in another order."""
    with h5py.File(path, "r+") as file:
        first, second = (file[f"Header/ant_{k}_array"][()] for k in (1, 2))
        rows = np.flatnonzero(wanted(first, second))
        rows = np.random.default_rng(5).permutation(rows)
        for group in ("Header", "Data"):
            for name, found in list(file[group].items()):
                if isinstance(found, h5py.Dataset) and found.shape[:1] == first.shape:
                    values = found[()][rows]
                    del file[group][name]
                    file[group][name] = values
        file["Header/Nblts"][()] = rows.size


def test_the_product_is_the_same_with_a_quicklook_and_without(
    incoming: Path, converted: Converted, tmp_path: Path
) -> None:
    plan = replace(converted.plan, quicklook=False, target=str(tmp_path / "product.ms"))
    attempt = new_attempt()
    steps.open_attempt(plan, attempt)
    rows = steps.write_rows(plan, attempt)
    parts = [steps.write_part(plan, attempt, position) for position in range(2)]
    product = steps.reduce_parts(plan, attempt, rows, parts)
    path = Path(product.path)
    assert plan.plan_hash == converted.plan.plan_hash
    assert not (path / QUICKLOOK_NAME).exists()
    assert product.notes == ()
    assert inspect_target(path, converted.plan).state == "whole"
    for name in ("DATA", "FLAG", "WEIGHT", "UVW"):
        np.testing.assert_array_equal(column(path, name), column(converted.path, name))
    manifests = [json.loads((p / "contimg-manifest.json").read_text()) for p in
                 (path, converted.path)]  # fmt: skip
    assert [manifest["quicklook"] for manifest in manifests] == [None, QUICKLOOK_NAME]
    assert manifests[0]["subbands"].keys() == manifests[1]["subbands"].keys()


def test_one_that_cannot_be_made_is_left_out_with_a_note(
    converted: Converted, tmp_path: Path
) -> None:
    plan = replace(converted.plan, target=str(tmp_path / "product.ms"))
    attempt = new_attempt()
    steps.open_attempt(plan, attempt)
    rows = steps.write_rows(plan, attempt)
    parts = [steps.write_part(plan, attempt, position) for position in range(2)]
    (look,) = Path(plan.home_root, attempt.name).glob("quicklook.sb01.npz")
    look.write_bytes(look.read_bytes()[:1000])
    product = steps.reduce_parts(plan, attempt, rows, parts)
    (note,) = product.notes
    assert note.startswith("without a quick-look: ")
    assert "quicklook.sb01.npz" in note
    manifest = json.loads(Path(product.path, "contimg-manifest.json").read_text())
    assert (manifest["notes"], manifest["quicklook"]) == ([note], None)
    assert not Path(product.path, QUICKLOOK_NAME).exists()
    assert inspect_target(Path(product.path), plan).state == "whole"


def test_a_reducing_step_that_begins_anew_makes_it_anew(
    converted: Converted, tmp_path: Path
) -> None:
    plan = replace(converted.plan, target=str(tmp_path / "product.ms"))
    attempt = new_attempt()
    steps.open_attempt(plan, attempt)
    rows = steps.write_rows(plan, attempt)
    parts = [steps.write_part(plan, attempt, position) for position in range(2)]
    Path(rows.product, QUICKLOOK_NAME, "u").mkdir(parents=True)
    product = steps.reduce_parts(plan, attempt, rows, parts)
    assert product.notes == ()
    assert read_quicklook(product.path).identical(read_quicklook(converted.path))


def test_tools_that_copy_rename_and_delete_tables_are_not_disturbed(
    converted: Converted, tmp_path: Path
) -> None:
    assert check_structure(str(converted.path)) == []
    shutil.copytree(converted.path, tmp_path / "copied.ms")
    with tables.table(str(tmp_path / "copied.ms"), readonly=False, ack=False) as main:
        main.rename(str(tmp_path / "renamed.ms"))
        main.copy(str(tmp_path / "deep.ms"), deep=True).close()
    assert read_quicklook(tmp_path / "renamed.ms").identical(read_quicklook(converted.path))
    tables.tabledelete(str(tmp_path / "renamed.ms"), ack=False)
    assert not (tmp_path / "renamed.ms").exists()
    assert column(tmp_path / "deep.ms", "DATA").shape == column(converted.path, "DATA").shape


@pytest.mark.filterwarnings("error")
def test_any_xarray_opens_it(converted: Converted) -> None:
    where = converted.path / QUICKLOOK_NAME
    usual = read_quicklook(converted.path)
    for consolidated in (True, False):
        with xr.open_zarr(where, chunks=None, consolidated=consolidated) as dataset:
            assert dataset.identical(usual)
    assert {name: usual[name].attrs["units"] for name in ("frequency", "time", "u", "amplitude")} == {
        "frequency": "Hz", "time": "s", "u": "m", "amplitude": "uncalibrated",
    }  # fmt: skip
    for name in usual.variables:
        assert usual[name].attrs["long_name"]
