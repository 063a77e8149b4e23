"""Looking at blocks of rows, the pictures of a quick-look, and the command that shows them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from PIL import Image

from contimg_dask.cli import cli
from contimg_dask.deciding import Request, decide
from contimg_dask.discovery import discover
from contimg_dask.errors import QuicklookError, UsageError
from contimg_dask.grouping import group_files
from contimg_dask.model import ConversionPlan
from contimg_dask.quicklook.looks import SubbandLook, SubbandLooker, look_path
from contimg_dask.quicklook.rendering import KINDS, SIZES, render
from contimg_dask.quicklook.rows import RowLook
from contimg_dask.quicklook.sampling import MOST_CROSS_BASELINES, baseline_step, sample_rows
from contimg_dask.quicklook.store import read_quicklook
from contimg_dask.quicklook.writing import QUICKLOOK_NAME, Content, Labelled, write_quicklook
from contimg_dask.settings import Settings, load_settings
from contimg_dask.submitting import Backlog, new_job
from tests.unit.conftest import Converted

ORANGE, BLUE, GREY, GROUND = (255, 127, 42), (86, 180, 233), (58, 66, 77), (17, 21, 26)


@dataclass(frozen=True)
class Rows:
    """Rows as a reader hands them over."""

    row_start: int
    visibilities: npt.NDArray[np.complex64]
    flags: npt.NDArray[np.bool_]


def rows_of(antennas: int, integrations: int) -> tuple[Any, Any, Any]:
    first, second = np.triu_indices(antennas)
    times = np.repeat(2460953.5 + np.arange(integrations) / 1000, first.size)
    return np.tile(first, integrations), np.tile(second, integrations), times


@pytest.mark.parametrize("antennas", [1, 2, 17, 35, 36, 96, 117, 512, 2000])
def test_the_sample_is_small_and_has_baselines_of_every_antenna(antennas: int) -> None:
    first, second, times = rows_of(min(antennas, 600), 1)
    sample = sample_rows(first, second, times)
    of_all = baseline_step(antennas)
    assert of_all == 1 if antennas <= 35 else 1 < of_all <= antennas / 8
    cross = sample.first != sample.second
    assert np.count_nonzero(~cross) == min(antennas, 600)
    per_antenna = np.bincount(
        np.concatenate([sample.first[cross], sample.second[cross]]), minlength=1
    )
    if antennas > 1:
        assert per_antenna.min() >= min(antennas - 1, 7)
        assert per_antenna.max() <= per_antenna.min() + 2
    if antennas in (36, 96, 117):
        assert 0.5 * MOST_CROSS_BASELINES < np.count_nonzero(cross) < 1.1 * MOST_CROSS_BASELINES


def test_it_is_the_same_baselines_at_every_integration_in_whatever_order() -> None:
    first, second, times = rows_of(40, 3)
    usual = sample_rows(first, second, times)
    order = np.random.default_rng(1).permutation(first.size)
    mixed = sample_rows(second[order], first[order], times[order])
    assert set(order[mixed.rows]) == set(usual.rows)
    per_slot = np.bincount(usual.slots)
    assert len(set(per_slot[:3])) == 1
    assert per_slot[3:].tolist() == [3] * 40
    assert np.array_equal(np.bincount(mixed.slots), per_slot)


def test_blocks_of_any_size_give_the_same_look() -> None:
    first, second, times = rows_of(9, 4)
    chance = np.random.default_rng(2)
    parts = chance.normal(size=(first.size, 3, 2, 2)).astype(np.float32)
    values = parts.view(np.complex64)[..., 0]
    values[chance.random(values.shape) < 0.1] = 0
    flags = chance.random(values.shape) < 0.2
    sample = sample_rows(first, second, times)
    looks = []
    for size in (1, 7, first.size):
        looker = SubbandLooker(sample, 3, 2)
        for start in range(0, first.size, size):
            here = slice(start, start + size)
            looker.look(Rows(start, values[here], flags[here]))
        looks.append(looker.result())
    for look in looks[1:]:
        np.testing.assert_allclose(look.sums, looks[0].sums, rtol=1e-12)
        for name in ("counts", "flagged", "zero", "values"):
            assert np.array_equal(getattr(look, name), getattr(looks[0], name)), name


def test_the_largest_values_that_there_are_do_not_overflow() -> None:
    first, second, times = rows_of(3, 2)
    most = np.finfo(np.float32).max
    values = np.full((first.size, 2, 1), complex(most, most), dtype=np.complex64)
    looker = SubbandLooker(sample_rows(first, second, times), 2, 1)
    looker.look(Rows(0, values, np.zeros(values.shape, dtype=bool)))
    look = looker.result()
    np.testing.assert_allclose(look.sums / look.counts, most)


def test_a_look_that_is_damaged_is_told_by_its_file(tmp_path: Path) -> None:
    path = look_path(str(tmp_path), "sb03")
    with pytest.raises(QuicklookError, match=r"quicklook\.sb03\.npz"):
        SubbandLook.load(path)
    for content in (b"", b"PK no archive"):
        Path(path).write_bytes(content)
        with pytest.raises(QuicklookError, match="cannot be read"):
            SubbandLook.load(path)
    with open(path, "wb") as file:
        np.savez(file, sums=np.zeros(3))
    for kind in (SubbandLook, RowLook):
        with pytest.raises(QuicklookError, match=f"not a {kind.__name__}"):
            kind.load(path)


# ---------------------------------------------------------------------------------- pictures


def a_quicklook(
    products: int = 2, antennas: int = 20, dead: int | None = None, gap: bool = False
) -> xr.Dataset:
    """A quick-look of a made-up product."""
    chance = np.random.default_rng(4)
    names = ["XX", "XY", "YX", "YY"][:products]
    freq_hz = 1.4e9 + 1e6 * np.arange(24)
    if gap:
        freq_hz[12:] += 12e6
    channels, integrations = freq_hz.size, 5
    autos = chance.uniform(3, 5, (products, antennas, channels)).astype(np.float32)
    zero = np.zeros((products, antennas), dtype=np.float32)
    if dead is not None:
        autos[:, dead], zero[:, dead] = 0, 1
    baselines = antennas * (antennas - 1) // 2
    labels = np.array([str(number + 1) for number in range(antennas)])
    uv = chance.normal(0, 300, (2, 3, baselines)).astype(np.float32)
    unit = {"units": "Jy", "long_name": "amplitude"}
    return xr.Dataset(
        {
            "amplitude": (
                ("product", "frequency"), chance.uniform(1, 2, (products, channels)), unit,
            ),
            "waterfall": (
                ("product", "time", "frequency"),
                chance.uniform(1, 2, (products, integrations, channels)), unit,
            ),
            "autocorrelation": (("product", "antenna", "frequency"), autos, unit),
            "fraction_flagged": (("product", "antenna"), np.zeros_like(zero)),
            "fraction_zero": (("product", "antenna"), zero),
            "u": (("uv_time", "baseline"), uv[0]),
            "v": (("uv_time", "baseline"), uv[1]),
        },
        coords={
            "product": names, "frequency": freq_hz, "antenna": labels,
            "time": 5e9 + 12.9 * np.arange(integrations),
        },
        attrs={"group": "2025-10-05T03:12:06", "subbands_missing": [], "sample": "all rows: of 20"},
    )  # fmt: skip


def pixels(picture: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def share_of(picture: bytes, colour: tuple[int, int, int]) -> float:
    return float(np.mean(np.all(pixels(picture) == colour, axis=-1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_its_size_and_something_in_it(kind: str) -> None:
    picture = pixels(render(a_quicklook(), kind))
    assert picture.shape == (SIZES[kind][1], SIZES[kind][0], 3)
    assert tuple(picture[0, 0]) == GROUND
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 30
    # Neither half is empty.
    for half in (picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]):
        assert np.mean(np.any(half != GROUND, axis=-1)) > 0.3


def test_a_dead_antenna_is_an_orange_line_of_the_image() -> None:
    alive, dead = (
        share_of(render(a_quicklook(dead=where), "autocorrelations"), ORANGE) for where in (None, 7)
    )
    assert alive == 0
    # One of 20 lines of two images that fill about half of the picture.
    assert 0.01 < dead < 0.05
    assert share_of(render(a_quicklook(dead=7), "antennas"), ORANGE) > 0.01


def test_missing_subbands_are_a_grey_gap_of_their_own_width() -> None:
    gap, whole = (
        share_of(render(a_quicklook(gap=gap), "waterfall"), GREY) for gap in (True, False)
    )
    assert gap > 0.15
    assert whole < 0.02


@pytest.mark.parametrize("what", ["nothing", "one", "huge", "four"])
def test_odd_products_have_pictures_too(what: str) -> None:
    dataset = a_quicklook(products=4 if what == "four" else 1, antennas=3)
    if what == "nothing":
        for name in ("amplitude", "waterfall", "autocorrelation"):
            dataset[name] = dataset[name] * np.nan
        dataset = dataset.isel(baseline=slice(0, 0))
    elif what == "one":
        dataset = dataset.isel(frequency=[0], time=[0], antenna=[0])
    elif what == "huge":
        for name in ("amplitude", "waterfall"):
            dataset[name] = dataset[name] * 1e38
        dataset["autocorrelation"][0, 0] = 1e-30
    # The overview has every panel.
    assert pixels(render(dataset, "overview")).shape[:2] == SIZES["overview"][::-1]


def test_pictures_can_be_drawn_in_several_threads() -> None:
    dataset = a_quicklook()
    alone = [render(dataset, kind) for kind in KINDS[1:]]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda kind: render(dataset, kind), KINDS[1:])) == alone


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="bandpass, waterfall"):
        render(a_quicklook(), "closure")


def test_what_lacks_a_variable_is_called_damaged() -> None:
    with pytest.raises(QuicklookError, match="waterfall") as caught:
        render(a_quicklook().drop_vars("waterfall"), "overview")
    assert caught.value.code == "damaged-quicklook"


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("contimg_dask.quicklook.")]:
        if name.rpartition(".")[2] in ("figures", "images", "panels"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("contimg_dask.quicklook.figures", raising=False)
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(QuicklookError, match=r"contimg-dask\[plots\]") as caught:
        render(a_quicklook(), "uv")
    assert caught.value.code == "no-matplotlib"


# --------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def product(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    copy = tmp_path_factory.mktemp("quicklook") / "product.ms"
    shutil.copytree(converted.product, copy)
    yield copy
    shutil.rmtree(copy)


def quicklook(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["quicklook", *map(str, words)])


def test_the_command_says_what_there_is_to_see(product: Path, converted: Converted) -> None:
    done = quicklook(product)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (
        f"group {converted.plan.group_id}: 4 antennas, 2 integrations, 12 channels" in done.stdout
    )
    assert "dead antennas: none" in done.stdout
    assert "XX: 0.0% flagged" in done.stdout


def test_the_command_writes_a_picture_and_json(product: Path, tmp_path: Path) -> None:
    picture = tmp_path / "uv.png"
    done = quicklook(product, "-o", picture, "--kind", "uv", "--json")
    assert done.exit_code == 0
    assert pixels(picture.read_bytes()).shape == (*SIZES["uv"][::-1], 3)
    document = json.loads(done.stdout)
    assert document["schema"] == "contimg-dask.quicklook/1"
    assert (document["picture"], document["antennas"]) == (str(picture), 4)
    assert [path.name for path in tmp_path.iterdir()] == ["uv.png"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{product}", "--kind", "uv"), 2, "with -o PNG"),
        (("{product}", "-o", "/nowhere/there.png"), 2, "/nowhere/there.png"),
        (("{product}", "-o", "/dev/null/there.png"), 2, "/dev/null/there.png"),
        (("{product}", "-o", "/tmp/picture.pdf"), 2, "pictures are PNG files"),
        (("{product}", "--kind", "closure"), 2, "closure"),
        (("/nowhere.ms",), 1, "there is no quick-look in it"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: tuple[str, ...], code: int, said: str, product: Path
) -> None:
    done = quicklook(*(word.format(product=product) for word in words))
    assert done.exit_code == code
    assert said in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("lost", [".zmetadata", "u/0.0"])
def test_a_damaged_quicklook_is_told_in_one_line(lost: str, product: Path, tmp_path: Path) -> None:
    copy = tmp_path / "product.ms"
    shutil.copytree(product / QUICKLOOK_NAME, copy / QUICKLOOK_NAME)
    (copy / QUICKLOOK_NAME / lost).write_text("{")
    done = quicklook(copy)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "cannot be read" in done.stderr


def test_what_is_written_is_read_back_with_its_types(tmp_path: Path) -> None:
    variables = {
        "seen": Labelled(dims=("name", "none"), values=np.zeros((2, 0), dtype=np.float32)),
        "big": Labelled(dims=("name",), values=np.array([0.0, np.nan], dtype=">f8")),
    }
    names = Labelled(dims=("name",), values=np.array(["XX", "Ünüe"]), attrs={"long_name": "é"})
    content = Content(variables=variables, coordinates={"name": names}, attrs={"list": [1, 2]})
    write_quicklook(str(tmp_path / QUICKLOOK_NAME), content)
    found = read_quicklook(tmp_path)
    assert found["name"].values.tolist() == ["XX", "Ünüe"]
    assert found["seen"].shape == (2, 0)
    assert found["big"].values[0] == 0
    assert np.isnan(found["big"].values[1])
    assert found.attrs == {"list": [1, 2]}
    assert found["name"].attrs == {"long_name": "é"}


# ------------------------------------------------------------------------------------ the setting


def test_no_quicklook_goes_with_a_job(converted: Converted, tmp_path: Path) -> None:
    settings = load_settings({"quicklook": False}, environ={}).settings
    incoming = Path(converted.plan.subbands[0].header.path).parent
    job = new_job(Backlog(input_dir=incoming, output_dir=tmp_path, settings=settings))
    assert job.settings["quicklook"] is False
    request = Request(output_dir=tmp_path, settings=Settings(**job.settings), min_subbands=3)
    found = discover(incoming)
    (plan,) = decide(group_files(found.headers, found.unreadable, 3), request)
    assert isinstance(plan, ConversionPlan)
    assert (plan.quicklook, plan.plan_hash) == (False, converted.plan.plan_hash)


def test_conversions_load_none_of_what_readers_need() -> None:
    asked = (
        "import sys, contimg_dask.cli_convert, contimg_dask.execution.preload as preload\n"
        "preload.dask_setup(None)\n"
        "print(sorted({'matplotlib', 'pandas', 'xarray', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
