"""Every value of a product against pyuvdata's Measurement Set of the same subband file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import casacore.tables as tables
import erfa
import h5py
import hdf5plugin  # noqa: F401  registers the bitshuffle filter
import numpy as np
import pytest
from astropy.coordinates import EarthLocation, HADec, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from contimg_dask.convert import recipe
from contimg_dask.errors import DisagreementError, InputError
from contimg_dask.execution.steps import open_attempt
from contimg_dask.model import ProductOptions
from contimg_dask.planning import propose_tiers
from contimg_dask.simulate import Fault, Observation, simulate
from tests.reference import (
    Array,
    Converted,
    column,
    convert,
    memory_directory,
    new_attempt,
    read_by_pyuvdata,
    read_product_by_pyuvdata,
    reference_ms,
    row_count,
    subtable,
    tile_files,
    without_network,
)

ARCSEC_RAD = np.pi / 180 / 3600
INTEGRATION_S = 12.884901888
ALL_SUBBANDS = 6

# 23 antennas give 1380 rows: more than one block of the reader, and not a whole number of them.
BASE = Observation(
    subbands=ALL_SUBBANDS,
    only_subbands=(1, 2),
    antennas=23,
    integrations=5,
    channels=8,
    noise_jy=0.5,
)

Edit = Callable[[h5py.File, np.random.Generator], None]


# ------------------------------------------------------------------------- what files can hold


def rewritten(file: h5py.File, name: str, values: Array) -> None:
    """Replace a data set by values of another shape, in chunks like the correlator's."""
    old = file[name]
    filters = {"compression": old.compression} if old.compression else {}
    chunks = old.chunks and tuple(min(pair) for pair in zip(old.chunks, values.shape, strict=True))
    del file[name]
    file.create_dataset(name, data=values, chunks=chunks, **filters)


def select_rows(file: h5py.File, rows: Array) -> None:
    for name in ("ant_1_array", "ant_2_array", "time_array", "integration_time", "uvw_array"):
        rewritten(file, f"Header/{name}", file[f"Header/{name}"][()][rows])
    for name in ("visdata", "flags", "nsamples"):
        rewritten(file, f"Data/{name}", file[f"Data/{name}"][()][rows])
    pairs = np.stack([file["Header/ant_1_array"][()], file["Header/ant_2_array"][()]])
    file["Header/Nblts"][()] = rows.size
    file["Header/Nbls"][()] = np.unique(pairs, axis=1).shape[1]
    file["Header/Nants_data"][()] = np.unique(pairs).size


def select_products(file: h5py.File, positions: list[int], codes: list[int]) -> None:
    for name in ("visdata", "flags", "nsamples"):
        rewritten(file, f"Data/{name}", file[f"Data/{name}"][()][..., positions])
    rewritten(file, "Header/polarization_array", np.array(codes))
    file["Header/Npols"][()] = len(codes)


def various(file: h5py.File, rng: np.random.Generator) -> None:
    """Give flags, nsamples and visibilities every kind of value a file may hold."""
    data, shape = file["Data"], file["Data/visdata"].shape
    flags = rng.random(shape) < 0.2
    flags[rng.random(shape[0]) < 0.1] = True
    if file["Header/freq_array"][()].max() < 1.48e9:
        flags[:1100] = False  # a whole block without any, in one subband only
    data["flags"][...] = flags
    samples = rng.choice([-7.5, -1, 0, 0.25, 3, 95, 96, 1e6], size=shape)
    steady = rng.random(shape[0]) < 0.4
    samples[steady] = samples[steady][..., :1, :]
    data["nsamples"][...] = samples.astype(np.float32)
    values = data["visdata"][()]
    # Finite all of them, but neither their squares nor their sum is.
    values.flat[:: values.size // 50] = np.complex64(3e38 + 3e38j)
    values.flat[1 :: values.size // 60] = np.complex64(complex(-0.0, -0.0))
    values.flat[2 :: values.size // 70] = np.complex64(complex(1e-45, -1e-45))
    data["visdata"][...] = values


def one_product(file: h5py.File, rng: np.random.Generator) -> None:
    """One product and an odd number of rows: FLAG of a window ends within a byte."""
    select_products(file, [1], [-6])
    select_rows(file, np.arange(1379))
    various(file, rng)


def aips_order(file: h5py.File, rng: np.random.Generator) -> None:
    select_products(file, [0, 3, 1, 2], [-5, -6, -7, -8])
    various(file, rng)


def circular(file: h5py.File, rng: np.random.Generator) -> None:
    select_products(file, [0, 1, 2, 3], [-1, -3, -4, -2])
    various(file, rng)


def without_an_antenna(file: h5py.File, rng: np.random.Generator) -> None:
    gone = np.unique(file["Header/ant_1_array"][()])[7]
    pairs = np.stack([file["Header/ant_1_array"][()], file["Header/ant_2_array"][()]])
    select_rows(file, np.flatnonzero((pairs != gone).all(axis=0)))
    various(file, rng)


def rows_in_disorder(file: h5py.File, rng: np.random.Generator) -> None:
    """Some baselines absent in some integrations, and the rows in no order at all."""
    order = np.random.default_rng(5)  # the same in every subband
    rows = file["Header/time_array"].size
    select_rows(file, order.permutation(rows)[: rows - 101])
    various(file, rng)


def antennas_in_disorder(file: h5py.File, rng: np.random.Generator) -> None:
    """List the telescope's antennas in another order than that of their numbers."""
    order = np.random.default_rng(6).permutation(117)
    for name in ("antenna_numbers", "antenna_names", "antenna_positions", "antenna_diameters"):
        file[f"Header/{name}"][...] = file[f"Header/{name}"][()][order]
    various(file, rng)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files to convert, and what is special in them.

    ``faults`` are kinds, for every subband, or ``kind:group:subband``. ``readers`` are the ways
    in which the files are expected to be read. ``integration_s`` is the true integration time
    where the header's is wrong.
    """

    observation: Observation = BASE
    faults: tuple[str, ...] = ()
    edit: Edit | None = various
    readers: tuple[str, ...] = ("direct",)
    integration_s: float | None = None

    def all_faults(self) -> list[Fault]:
        numbers = self.observation.written_subbands
        texts = [f"{text}:0:{n}" for text in self.faults if ":" not in text for n in numbers]
        return [Fault.parse(text) for text in (*texts, *(t for t in self.faults if ":" in t))]


CASES = {
    "as the correlator writes": Case(
        observation=replace(BASE, only_subbands=None, antennas=10, channels=48),
        edit=None,
    ),
    "two products": Case(observation=replace(BASE, only_subbands=(0, 1, 2, 3))),
    "four products": Case(observation=replace(BASE, products=4)),
    "AIPS order": Case(observation=replace(BASE, products=4), edit=aips_order),
    "circular": Case(observation=replace(BASE, products=4), edit=circular),
    "one product, odd rows": Case(
        observation=replace(BASE, channels=5, only_subbands=(0, 1, 2, 3)), edit=one_product
    ),
    "odd channels": Case(
        observation=replace(BASE, channels=5, antennas=9, integrations=3, only_subbands=None),
        readers=("h5py",),  # chunks of 135 and of 128 rows have no common block of reasonable size
    ),
    "one channel": Case(observation=replace(BASE, channels=1)),
    "ascending": Case(observation=replace(BASE, ascending_channels=True)),
    "lzf": Case(observation=replace(BASE, compression="lzf"), readers=("h5py",)),
    "gzip": Case(observation=replace(BASE, compression="gzip"), readers=("h5py",)),
    "bitshuffle": Case(
        observation=replace(BASE, compression="bitshuffle", products=4), readers=("h5py",)
    ),
    "one integration": Case(observation=replace(BASE, integrations=1)),
    "an antenna missing": Case(edit=without_an_antenna),
    "rows in disorder": Case(observation=replace(BASE, products=4), edit=rows_in_disorder),
    "antennas in disorder": Case(edit=antennas_in_disorder),
    "subbands missing": Case(observation=replace(BASE, only_subbands=(0, 3, 5))),
    "each file another layout": Case(
        observation=replace(BASE, products=4, only_subbands=(0, 1, 2, 3)),
        faults=("ascending:0:0", "compressed-lzf:0:1", "no-spw-axis:0:2", "ascending:0:2"),
        readers=("direct", "h5py"),
    ),
    "old header": Case(faults=("old-header",), integration_s=INTEGRATION_S),
    "no spw axis": Case(faults=("no-spw-axis",)),
    "no spw axis, four products": Case(
        observation=replace(BASE, products=4), faults=("no-spw-axis",)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A product and, per window, pyuvdata's Measurement Set of the same file."""

    case: Case
    files: list[Path]
    converted: Converted
    references: list[Path]

    def windows(self) -> Iterator[tuple[str, Path, int, int]]:
        """Yield name, reference, first row and number of rows of each window."""
        for subband, reference, window in zip(
            self.converted.plan.subbands, self.references, self.converted.windows, strict=True
        ):
            yield subband.name, reference, window[1], window[2]

    def compare(self, name: str) -> Iterator[tuple[Array, Array]]:
        """Yield a column of each window, as it is and as pyuvdata has it."""
        for _, reference, start, rows in self.windows():
            yield column(self.converted.path, name, start, rows), column(reference, name)


def write_files(case: Case, directory: Path) -> list[Path]:
    (group,) = simulate(directory, case.observation, case.all_faults())
    for seed, path in enumerate(group.files):
        if case.edit is not None:
            with h5py.File(path, "r+") as file:
                case.edit(file, np.random.default_rng(seed))
    return list(group.files)


def make_pair(case: Case, directory: Path) -> Pair:
    files = write_files(case, directory / "in")
    converted = convert(files, directory / "direct", expected=ALL_SUBBANDS)
    ordered = [Path(subband.header.path) for subband in converted.plan.subbands]
    references = reference_ms(ordered, directory / "reference", integration_s=case.integration_s)
    return Pair(case=case, files=files, converted=converted, references=references)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with memory_directory() as directory:
        yield make_pair(CASES[request.param], directory)


@pytest.fixture(scope="module")
def plain() -> Iterator[Pair]:
    """All subbands, as the correlator writes them."""
    with memory_directory() as directory:
        yield make_pair(CASES["as the correlator writes"], directory)


def bits(values: Array) -> Array:
    return np.ascontiguousarray(values).view(np.uint8)


# ------------------------------------------------------------------------------- every case


def test_the_files_hold_what_is_to_be_compared(pair: Pair) -> None:
    with h5py.File(pair.files[0]) as file:
        first, second = (file[f"Header/ant_{k}_array"][()] for k in (1, 2))
        flags, samples = file["Data/flags"][()], file["Data/nsamples"][()]
        visibilities = file["Data/visdata"][()]
    assert 0.2 < np.mean(first > second) < 0.8
    assert np.any(first == second)
    assert np.unique(np.abs(visibilities)).size > 0.5 * np.count_nonzero(visibilities)
    if pair.case.edit is not None:
        assert 0.2 < flags.mean() < 0.4
        assert flags.all(axis=tuple(range(1, flags.ndim))).any()
        assert np.unique(samples).size == 8
        assert {-1, 0, 1} <= set(np.sign(column(pair.references[0], "WEIGHT")).ravel())
        with np.errstate(over="ignore"):
            assert not np.isfinite(np.sum(np.abs(visibilities) ** 2))
    readers = {part.reader for part in pair.converted.product.parts}
    assert readers == set(pair.case.readers)


def test_data_flags_and_weight_spectra_are_pyuvdatas_bit_for_bit(pair: Pair) -> None:
    for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM"):
        for found, expected in pair.compare(name):
            assert found.shape == expected.shape, name
            assert found.dtype == expected.dtype, name
            assert np.array_equal(bits(found), bits(expected)), name


def test_rows_follow_the_file_with_pyuvdatas_antennas_and_times(pair: Pair) -> None:
    for name in ("ANTENNA1", "ANTENNA2", "TIME", "TIME_CENTROID"):
        for found, expected in pair.compare(name):
            assert np.array_equal(found, expected), name
    with h5py.File(pair.files[0]) as file:
        times_jd = file["Header/time_array"][()]
    for found_s, _ in pair.compare("TIME"):
        assert np.abs(found_s - (times_jd - 2400000.5) * 86400).max() < 1e-6


def test_intervals_are_the_integration_time(pair: Pair) -> None:
    for name in ("INTERVAL", "EXPOSURE"):
        for found_s, expected_s in pair.compare(name):
            if pair.case.integration_s is None:
                assert np.array_equal(found_s, expected_s), name
            # A step of the time axis is known to the 40 µs that a Julian date resolves.
            assert np.abs(found_s - INTEGRATION_S).max() < 1e-4, name


def test_uvw_are_pyuvdatas_within_a_millimetre(pair: Pair) -> None:
    for found_m, expected_m in pair.compare("UVW"):
        assert np.abs(expected_m).max() > 500
        miss_m = float(np.abs(found_m - expected_m).max())
        assert miss_m < 1e-3


def test_weight_is_the_median_over_channels_as_pyuvdatas(pair: Pair) -> None:
    for found, expected in pair.compare("WEIGHT"):
        assert np.array_equal(found, expected)
    spectrum = column(pair.converted.path, "WEIGHT_SPECTRUM")
    weight = column(pair.converted.path, "WEIGHT")
    assert np.array_equal(weight, np.median(spectrum, axis=1))


def test_sigma_is_the_inverse_root_of_positive_weights_and_0_elsewhere(pair: Pair) -> None:
    for found, expected in pair.compare("SIGMA"):
        # Where the weight is not positive, pyuvdata leaves NaN or whatever was in memory.
        good = found > 0
        assert found[good] == pytest.approx(expected[good], rel=1e-6)
    weight = column(pair.converted.path, "WEIGHT").astype(np.float64)
    sigma = column(pair.converted.path, "SIGMA")
    good = weight > 0
    assert np.all(sigma[~good] == 0)
    assert sigma[good] == pytest.approx(1 / np.sqrt(weight[good]), rel=1e-6)


def directions_of_rows(path: Path, start: int, rows: int) -> Array:
    direction = subtable(path, "FIELD")["PHASE_DIR"][:, 0]
    values: Array = direction[column(path, "FIELD_ID", start, rows)]
    return values


def test_phase_centres_are_within_a_hundredth_of_an_arcsecond(pair: Pair) -> None:
    for _, reference, start, rows in pair.windows():
        found = directions_of_rows(pair.converted.path, start, rows)
        expected = directions_of_rows(reference, 0, rows)
        apart = erfa.seps(*found.T, *expected.T)
        assert apart.max() < 0.01 * ARCSEC_RAD


def test_every_integration_is_a_field_and_a_scan_of_its_own(pair: Pair) -> None:
    integrations = pair.case.observation.integrations
    field = subtable(pair.converted.path, "FIELD")
    assert field["NAME"] == [f"meridian_icrs_t{index}" for index in range(integrations)]
    assert np.array_equal(field["REFERENCE_DIR"], field["PHASE_DIR"])
    assert np.array_equal(field["DELAY_DIR"], field["PHASE_DIR"])
    with h5py.File(pair.files[0]) as file:
        _, integration = np.unique(file["Header/time_array"][()], return_inverse=True)
    for _, _, start, rows in pair.windows():
        path = pair.converted.path
        assert np.array_equal(column(path, "FIELD_ID", start, rows), integration)
        assert np.array_equal(column(path, "SCAN_NUMBER", start, rows), integration + 1)
        times_s = column(path, "TIME", start, rows)
        assert field["TIME"][integration] == pytest.approx(times_s, abs=1e-3)


def test_windows_ascend_and_keep_the_names_of_their_subbands(pair: Pair) -> None:
    windows = subtable(pair.converted.path, "SPECTRAL_WINDOW")
    numbers = sorted(pair.case.observation.written_subbands, reverse=True)
    assert windows["NAME"] == [f"sb{number:02d}" for number in numbers]
    assert np.all(np.diff(windows["CHAN_FREQ"].ravel()) > 0)
    assert np.all(windows["CHAN_WIDTH"] > 0)
    for index, (name, reference, _, _) in enumerate(pair.windows()):
        (path,) = (path for path in pair.files if f"_{name}" in path.name)
        with h5py.File(path) as file:
            freq_hz = np.sort(np.ravel(file["Header/freq_array"][()]))
        assert np.array_equal(windows["CHAN_FREQ"][index], freq_hz)
        expected = subtable(reference, "SPECTRAL_WINDOW")
        for key in ("NUM_CHAN", "CHAN_FREQ", "CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION",
                    "REF_FREQUENCY", "TOTAL_BANDWIDTH", "MEAS_FREQ_REF"):  # fmt: skip
            assert windows[key][index] == pytest.approx(expected[key][0], rel=1e-12), key


def test_rows_stand_window_by_window_with_one_data_description_each(pair: Pair) -> None:
    count = len(pair.files)
    description = subtable(pair.converted.path, "DATA_DESCRIPTION")
    assert description["SPECTRAL_WINDOW_ID"].tolist() == list(range(count))
    assert description["POLARIZATION_ID"].tolist() == [0] * count
    rows = pair.converted.windows[0][2]
    found = column(pair.converted.path, "DATA_DESC_ID")
    assert np.array_equal(found, np.repeat(np.arange(count), rows))


def test_products_stand_in_the_order_of_measurement_sets(pair: Pair) -> None:
    polarization, feed = (subtable(pair.converted.path, name) for name in ("POLARIZATION", "FEED"))
    types, products = {
        one_product: ([12], ["YY"]),
        circular: ([5, 6, 7, 8], ["RR", "RL", "LR", "LL"]),
    }.get(
        pair.case.edit,
        {2: ([9, 12], ["XX", "YY"]), 4: ([9, 10, 11, 12], ["XX", "XY", "YX", "YY"])}[
            pair.case.observation.products
        ],
    )
    assert polarization["NUM_CORR"].tolist() == [len(types)]
    assert polarization["CORR_TYPE"].tolist() == [types]
    expected = subtable(pair.references[0], "POLARIZATION")
    assert np.array_equal(polarization["CORR_TYPE"], expected["CORR_TYPE"])
    # The receptors that a product names are those that every antenna's feed has.
    receptors = np.reshape(feed["POLARIZATION_TYPE"]["array"], (117, 2))
    for of_antenna in receptors:
        pairs = of_antenna[polarization["CORR_PRODUCT"][0]]
        assert ["".join(pair) for pair in pairs] == products


def test_an_antennas_row_is_its_number(pair: Pair) -> None:
    antennas = subtable(pair.converted.path, "ANTENNA")
    assert antennas["NAME"] == [str(number + 1) for number in range(117)]
    assert antennas["STATION"] == antennas["NAME"]
    expected_m = subtable(pair.references[0], "ANTENNA")["POSITION"]
    assert np.abs(antennas["POSITION"] - expected_m).max() < 1e-6
    assert set(antennas["MOUNT"]) == {"alt-az"}
    assert set(antennas["DISH_DIAMETER"]) == {4.65}
    assert not antennas["FLAG_ROW"].any()


def test_every_id_points_at_a_row_that_exists(pair: Pair) -> None:
    path = pair.converted.path
    for name, table in (
        ("ANTENNA1", "ANTENNA"),
        ("ANTENNA2", "ANTENNA"),
        ("FIELD_ID", "FIELD"),
        ("DATA_DESC_ID", "DATA_DESCRIPTION"),
        ("OBSERVATION_ID", "OBSERVATION"),
        ("STATE_ID", "STATE"),
        ("PROCESSOR_ID", "PROCESSOR"),
    ):
        ids = column(path, name)
        assert ids.min() >= 0, name
        assert ids.max() < row_count(path / table), name
    field, source = subtable(path, "FIELD"), subtable(path, "SOURCE")
    assert set(field["SOURCE_ID"]) == set(source["SOURCE_ID"])
    for name in ("ARRAY_ID", "FEED1", "FEED2"):
        assert not column(path, name).any(), name
    assert not column(path, "FLAG_ROW").any()


def test_part_records_count_what_was_written(pair: Pair) -> None:
    for part, (name, _, start, rows) in zip(
        pair.converted.product.parts, pair.windows(), strict=True
    ):
        flags = column(pair.converted.path, "FLAG", start, rows)
        assert (part.subband, part.rows) == (name, rows)
        assert part.values_flagged == np.count_nonzero(flags)
        assert part.values_not_finite == 0
        assert part.bytes_read > 0


def test_concatenated_parts_are_the_same_bytes(pair: Pair, memory_path: Path) -> None:
    parts = convert(pair.files, memory_path / "parts", expected=ALL_SUBBANDS, direct=False)
    assert parts.plan.mode == "parts-serial"
    assert pair.converted.plan.mode == "direct-serial"
    found, expected = tile_files(parts.path), tile_files(pair.converted.path)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == set()
    assert_equal_small_columns(parts.path, pair.converted.path)


def assert_equal_small_columns(one: Path, other: Path) -> None:
    for name in (
        "TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE", "ANTENNA1", "ANTENNA2", "SCAN_NUMBER",
        "FIELD_ID", "DATA_DESC_ID", "FLAG_ROW",
    ):  # fmt: skip
        assert np.array_equal(column(one, name), column(other, name)), name


def test_parts_may_be_written_in_any_order_and_twice(memory_path: Path) -> None:
    # Here neighbouring windows share bytes of FLAG.
    files = write_files(CASES["one product, odd rows"], memory_path / "in")
    expected = convert(files, memory_path / "once", expected=ALL_SUBBANDS)
    plan = replace(
        expected.plan,
        target=str(memory_path / "again.ms"),
        tiers=propose_tiers(str(memory_path)),
    )
    attempt = new_attempt()
    parts: list[Callable[[], Any]] = []

    def run(name: str, step: Any, *arguments: Any) -> Any:
        if name.startswith("part-"):
            parts.append(partial(step, *arguments))
            return parts[-1]
        if name == "reduce":
            records = {part: part() for part in (*reversed(parts), *parts[::2])}
            arguments = tuple(
                [records[part] for part in argument] if isinstance(argument, list) else argument
                for argument in arguments
            )
        return step(*arguments)

    open_attempt(plan, attempt)
    recipe(plan, attempt, run)
    assert len(parts) == 4
    found, wanted = tile_files(memory_path / "again.ms"), tile_files(expected.path)
    assert found["FLAG"] == wanted["FLAG"]
    assert {name for name in wanted if found[name] != wanted[name]} == set()


# ------------------------------------------------------------------------------- one window


def steady_weights(file: h5py.File, rng: np.random.Generator) -> None:
    """Give all channels of a row one weight, another one in every row, product and subband."""
    various(file, rng)
    shape = file["Data/nsamples"].shape
    samples = rng.choice([-7.5, 0, 3, 95, 96], size=(shape[0], 1, 1, shape[-1]))
    file["Data/nsamples"][...] = np.broadcast_to(samples, shape)


@pytest.mark.parametrize(
    "case",
    [
        CASES["as the correlator writes"],
        CASES["two products"],
        CASES["one product, odd rows"],
        CASES["odd channels"],
        CASES["each file another layout"],
        replace(CASES["two products"], edit=steady_weights),
    ],
    ids=["correlator", "two products", "one product", "odd channels", "layouts", "steady weights"],
)
def test_a_single_window_holds_the_values_of_all_subbands_side_by_side(
    case: Case, memory_path: Path
) -> None:
    files = write_files(case, memory_path / "in")
    options = ProductOptions(spw="single", imaging_columns="copy")
    direct, parts = (
        convert(files, memory_path / str(way), expected=len(files), options=options, direct=way)
        for way in (True, False)
    )
    ordered = [Path(subband.header.path) for subband in direct.plan.subbands]
    references = reference_ms(ordered, memory_path / "reference")
    for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM"):
        expected = np.concatenate([column(path, name) for path in references], axis=1)
        found = column(direct.path, name)
        assert found.shape == expected.shape, name
        assert np.array_equal(bits(found), bits(expected)), name
    weight = np.median(column(direct.path, "WEIGHT_SPECTRUM"), axis=1)
    assert np.array_equal(column(direct.path, "WEIGHT"), weight)
    sigma, good = column(direct.path, "SIGMA"), weight > 0
    assert np.all(sigma[~good] == 0)
    assert sigma[good] == pytest.approx(weight[good] ** -0.5, rel=1e-6)
    for name in ("ANTENNA1", "ANTENNA2", "TIME", "INTERVAL", "EXPOSURE"):
        assert np.array_equal(column(direct.path, name), column(references[0], name)), name
    window = subtable(direct.path, "SPECTRAL_WINDOW")
    frequencies = [subtable(path, "SPECTRAL_WINDOW")["CHAN_FREQ"][0] for path in references]
    assert np.array_equal(window["CHAN_FREQ"], [np.concatenate(frequencies)])
    assert row_count(direct.path / "DATA_DESCRIPTION") == 1
    assert np.array_equal(
        column(direct.path, "CORRECTED_DATA"), column(direct.path, "DATA"), equal_nan=True
    )
    found_bytes, expected_bytes = tile_files(parts.path), tile_files(direct.path)
    assert found_bytes.keys() == expected_bytes.keys()
    assert {n for n in found_bytes if found_bytes[n] != expected_bytes[n]} == set()


# ------------------------------------------------------------------------------- what is refused


def test_rows_cannot_be_swapped_without_both_cross_products(memory_path: Path) -> None:
    def lose_yx(file: h5py.File, _: np.random.Generator) -> None:
        select_products(file, [0, 1, 3], [-5, -7, -6])

    files = write_files(
        Case(observation=replace(BASE, products=4), edit=lose_yx), memory_path / "in"
    )
    with pytest.raises(DisagreementError, match="both cross products") as caught:
        convert(files, memory_path / "out", expected=ALL_SUBBANDS)
    assert caught.value.code == "missing-product"
    assert not (memory_path / "out" / "product.ms").exists()


def test_there_is_no_phase_centre_to_keep_where_none_was_tracked(
    plain: Pair, memory_path: Path
) -> None:
    options = ProductOptions(phase_centre="keep")
    with pytest.raises(InputError, match="--phase-centre meridian") as caught:
        convert(plain.files, memory_path / "out", expected=ALL_SUBBANDS, options=options)
    assert caught.value.code == "phase-centre"


# ------------------------------------------------------------------------------- beyond pyuvdata


def test_phase_centres_are_the_meridian_by_erfas_own_astrometry(plain: Pair) -> None:
    field = subtable(plain.converted.path, "FIELD")
    with h5py.File(plain.files[0]) as file:
        header = file["Header"]
        dec_rad = header["extra_keywords/phase_center_dec"][()]
        latitude_rad, longitude_rad = (
            np.radians(header[name][()]) for name in ("latitude", "longitude")
        )
        altitude_m = header["altitude"][()]
    assert np.unique(field["TIME"]).size == plain.case.observation.integrations
    for (ra_rad, icrs_dec_rad), time_s in zip(field["PHASE_DIR"][:, 0], field["TIME"], strict=True):
        time = Time(time_s / 86400, format="mjd", scale="utc")
        with without_network():
            table = iers.earth_orientation_table.get()
            dut1_s = table.ut1_utc(time).to_value("s")
            xp_rad, yp_rad = (axis.to_value("rad") for axis in table.pm_xy(time))
        no_motion, no_air = (0, 0, 0, 0), (0, 0, 0, 1)
        _, _, hour_angle, declination, _, _ = erfa.atco13(
            ra_rad, icrs_dec_rad, *no_motion, time.jd1, time.jd2, dut1_s,
            longitude_rad, latitude_rad, altitude_m, xp_rad, yp_rad, *no_air,
        )  # fmt: skip
        assert abs(hour_angle) * np.cos(dec_rad) < 0.01 * ARCSEC_RAD
        assert abs(declination - dec_rad) < 0.01 * ARCSEC_RAD
        # Precession since 2000 moves it by minutes of arc: the two frames are not mixed up.
        assert abs(icrs_dec_rad - dec_rad) > 60 * ARCSEC_RAD


def test_uvw_axes_point_east_and_north_as_the_icrs_is_seen_from_the_site(plain: Pair) -> None:
    """Compare with finite differences: no formula for UVW or for a position angle is used.

    pyuvdata takes the position angle at the lower end of a one-degree arc, not at the phase
    centre, which turns its axes by about an arcsecond; the product does as pyuvdata does.
    """
    path = plain.converted.path
    positions_m = subtable(path, "ANTENNA")["POSITION"]
    rows = plain.converted.windows[0][2]
    first, second, field_id = (
        column(path, name, 0, rows) for name in ("ANTENNA1", "ANTENNA2", "FIELD_ID")
    )
    found_m = column(path, "UVW", 0, rows)
    field = subtable(path, "FIELD")
    with h5py.File(plain.files[0]) as file:
        site = EarthLocation.from_geodetic(
            *(file[f"Header/{name}"][()] for name in ("longitude", "latitude", "altitude"))
        )
    for index, (ra_rad, dec_rad) in enumerate(field["PHASE_DIR"][:, 0]):
        time = Time(field["TIME"][index] / 86400, format="mjd", scale="utc")
        axes = sky_axes(ra_rad, dec_rad, time, site)
        mine = field_id == index
        # The sign is the product's convention: position of antenna 1 less that of antenna 2.
        baselines_m = (positions_m[first] - positions_m[second])[mine]
        miss_u_m, miss_v_m, miss_w_m = np.abs(found_m[mine] - baselines_m @ axes.T).max(axis=0)
        length_m = np.linalg.norm(baselines_m, axis=1).max()
        assert miss_w_m < 1e-3
        assert max(miss_u_m, miss_v_m) < 1.5 * ARCSEC_RAD * length_m


def sky_axes(ra_rad: float, dec_rad: float, time: Time, site: EarthLocation) -> Array:
    """Return unit vectors to the east, to the north and to a place in the ICRS, in the ITRF."""
    step = 1e-4
    ra = np.array([ra_rad, ra_rad + step / np.cos(dec_rad), ra_rad - step / np.cos(dec_rad)])
    dec = np.array([dec_rad, dec_rad + step, dec_rad - step])
    with without_network():
        frame = HADec(obstime=time, location=site)
        around = SkyCoord(
            ra=np.array([ra[0], ra[1], ra[2], ra[0], ra[0]]),
            dec=np.array([dec[0], dec[0], dec[0], dec[1], dec[2]]),
            unit="rad",
        ).transform_to(frame)
    longitude = site.lon.rad - around.ha.rad
    vectors = np.stack(
        [
            np.cos(around.dec.rad) * np.cos(longitude),
            np.cos(around.dec.rad) * np.sin(longitude),
            np.sin(around.dec.rad),
        ],
        axis=-1,
    )
    towards, east, north = vectors[0], vectors[1] - vectors[2], vectors[3] - vectors[4]
    return np.stack([v / np.linalg.norm(v) for v in (east, north, towards)])


@pytest.mark.parametrize("products", [2, 4])
@pytest.mark.parametrize("compression", [None, "lzf"])
@pytest.mark.parametrize("direct", [True, False])
def test_values_that_are_not_finite_become_0_flagged_and_counted(
    products: int, compression: Any, direct: bool, memory_path: Path
) -> None:
    observation = replace(
        BASE, products=products, compression=compression, integrations=4, only_subbands=(2,)
    )
    files = write_files(Case(observation=observation, faults=("nan",)), memory_path / "in")
    converted = convert(files, memory_path / "out", expected=ALL_SUBBANDS, direct=direct)
    (reference,) = reference_ms(files, memory_path / "reference")
    data, flags = column(reference, "DATA"), column(reference, "FLAG")
    bad = ~np.isfinite(data)
    assert np.isnan(data).any()
    assert np.isinf(data).any()
    assert (bad & ~flags).any()
    assert not bad.all()
    assert {np.shape(np.unique(axis))[0] for axis in np.nonzero(bad)[1:]} == {8, products}
    found = column(converted.path, "DATA")
    assert np.array_equal(bits(found[~bad]), bits(data[~bad]))
    assert np.all(found[bad] == 0)
    assert np.array_equal(column(converted.path, "FLAG"), flags | bad)
    weights = column(converted.path, "WEIGHT_SPECTRUM")
    assert np.array_equal(bits(weights), bits(column(reference, "WEIGHT_SPECTRUM")))
    (part,) = converted.product.parts
    assert part.values_not_finite == np.count_nonzero(bad)
    assert part.values_flagged == np.count_nonzero(flags | bad)


@pytest.mark.parametrize("direct", [True, False])
def test_weights_that_are_not_finite_stay_and_have_no_sigma(
    direct: bool, memory_path: Path
) -> None:
    def spoil(file: h5py.File, rng: np.random.Generator) -> None:
        various(file, rng)
        samples = file["Data/nsamples"][()]
        samples[rng.random(samples.shape) < 0.01] = np.nan
        samples[rng.random(samples.shape[0]) < 0.1] = np.nan
        samples[rng.random(samples.shape[0]) < 0.1] = np.inf
        file["Data/nsamples"][...] = samples

    files = write_files(Case(edit=spoil), memory_path / "in")
    converted = convert(files, memory_path / "out", expected=ALL_SUBBANDS, direct=direct)
    ordered = [Path(subband.header.path) for subband in converted.plan.subbands]
    references = reference_ms(ordered, memory_path / "reference")
    for (_, start, rows), reference in zip(converted.windows, references, strict=True):
        spectrum, weight, sigma, data, flag = (
            column(converted.path, name, start, rows)
            for name in ("WEIGHT_SPECTRUM", "WEIGHT", "SIGMA", "DATA", "FLAG")
        )
        assert {True, False} == set(np.isnan(weight).any(axis=1))
        assert np.isinf(weight).any()
        assert np.array_equal(bits(spectrum), bits(column(reference, "WEIGHT_SPECTRUM")))
        assert np.array_equal(weight, column(reference, "WEIGHT"), equal_nan=True)
        good = np.isfinite(weight) & (weight > 0)
        assert np.all(sigma[~good] == 0)
        assert sigma[good] == pytest.approx(weight[good] ** -0.5, rel=1e-6)
        assert np.array_equal(bits(data), bits(column(reference, "DATA")))
        assert np.array_equal(flag, column(reference, "FLAG"))
    assert {part.values_not_finite for part in converted.product.parts} == {0}


# ------------------------------------------------------------------------------- imaging columns


@pytest.mark.parametrize("direct", [True, False])
def test_imaging_columns_are_zeros_without_taking_space(
    plain: Pair, direct: bool, memory_path: Path
) -> None:
    converted = convert(plain.files, memory_path / "zero", expected=ALL_SUBBANDS, direct=direct)
    shape = column(converted.path, "DATA").shape
    for name in ("MODEL_DATA", "CORRECTED_DATA"):
        values = column(converted.path, name)
        assert values.shape == shape
        assert values.dtype == np.complex64
        assert not values.any()
    with tables.table(str(converted.path), ack=False) as main:
        files = {m["COLUMNS"][0]: f"table.f{m['SEQNR']}_TSM0" for m in main.getdminfo().values()}
    for name in ("MODEL_DATA", "CORRECTED_DATA"):
        status = (converted.path / files[name]).stat()
        assert status.st_size >= np.prod(shape) * 8
        assert status.st_blocks == 0


@pytest.mark.parametrize("direct", [True, False])
def test_corrected_data_may_be_a_copy_of_data(plain: Pair, direct: bool, memory_path: Path) -> None:
    options = ProductOptions(imaging_columns="copy")
    converted = convert(
        plain.files, memory_path / "copy", expected=ALL_SUBBANDS, options=options, direct=direct
    )
    found, zero = tile_files(converted.path), tile_files(plain.converted.path)
    assert found["CORRECTED_DATA"] == found["DATA"] == zero["DATA"]
    assert np.array_equal(
        column(converted.path, "CORRECTED_DATA"), column(plain.converted.path, "DATA")
    )
    assert not any(found["MODEL_DATA"])


@pytest.mark.parametrize("direct", [True, False])
def test_imaging_columns_may_be_left_out(plain: Pair, direct: bool, memory_path: Path) -> None:
    options = ProductOptions(imaging_columns="none")
    converted = convert(
        plain.files, memory_path / "none", expected=ALL_SUBBANDS, options=options, direct=direct
    )
    found, zero = tile_files(converted.path), tile_files(plain.converted.path)
    assert zero.keys() - found.keys() == {"MODEL_DATA", "CORRECTED_DATA"}
    assert {name for name in found if found[name] != zero[name]} == set()
    with tables.table(str(converted.path), ack=False) as main:
        assert not {"MODEL_DATA", "CORRECTED_DATA"} & set(main.colnames())


def test_imaging_columns_can_be_written_and_leave_the_others_alone(
    plain: Pair, memory_path: Path
) -> None:
    converted = convert(plain.files, memory_path / "calibrated", expected=ALL_SUBBANDS)
    data = column(converted.path, "DATA")
    with tables.table(str(converted.path), readonly=False, ack=False) as main:
        main.putcol("CORRECTED_DATA", 2 * data)
        main.putcell("MODEL_DATA", 7, data[7] + 1)
    assert np.array_equal(column(converted.path, "CORRECTED_DATA"), 2 * data)
    model = column(converted.path, "MODEL_DATA")
    assert np.array_equal(model[7], data[7] + 1)
    assert not np.delete(model, 7, axis=0).any()
    found, before = tile_files(converted.path), tile_files(plain.converted.path)
    changed = {name for name in found if found[name] != before[name]}
    assert changed == {"MODEL_DATA", "CORRECTED_DATA"}


# ------------------------------------------------------------------------------- subtables


def test_the_observation_is_named_covered_and_of_standard_columns(plain: Pair) -> None:
    observation = subtable(plain.converted.path, "OBSERVATION")
    assert observation["TELESCOPE_NAME"] == ["DSA_110"]
    times_s, interval_s = (column(plain.converted.path, name) for name in ("TIME", "INTERVAL"))
    ((begin_s, end_s),) = observation["TIME_RANGE"]
    assert begin_s == pytest.approx((times_s - interval_s / 2).min(), abs=1e-3)
    assert end_s == pytest.approx((times_s + interval_s / 2).max(), abs=1e-3)
    standard = tables.required_ms_desc("OBSERVATION")
    with tables.table(str(plain.converted.path / "OBSERVATION"), ack=False) as table:
        assert table.nrows() == 1
        assert set(table.colnames()) == {name for name in standard if not name.startswith("_")}


def test_the_telescope_can_be_named(plain: Pair, memory_path: Path) -> None:
    options = ProductOptions(telescope_name="OVRO_MMA")
    converted = convert(plain.files[:1], memory_path / "named", expected=1, options=options)
    assert subtable(converted.path, "OBSERVATION")["TELESCOPE_NAME"] == ["OVRO_MMA"]


def test_history_names_every_input_the_missing_and_the_options(
    plain: Pair, memory_path: Path
) -> None:
    present = [plain.files[0], plain.files[3]]
    options = ProductOptions(telescope_name="OVRO_MMA", imaging_columns="none")
    converted = convert(present, memory_path / "few", expected=ALL_SUBBANDS, options=options)
    history = "\n".join(subtable(converted.path, "HISTORY")["MESSAGE"])
    for name, path in (("sb00", plain.files[0]), ("sb03", plain.files[3])):
        assert f"input {name}: {path.name}" in history
    assert plain.files[1].name not in history
    for name in ("sb01", "sb02", "sb04", "sb05"):
        assert f"missing: {name}" in history
    for word in ("contimg-dask", "pyuvdata", "python-casacore", "OVRO_MMA", "none", "direct"):
        assert word in history


def test_one_state_serves_all_rows_and_nothing_is_said_of_pointing(plain: Pair) -> None:
    state = subtable(plain.converted.path, "STATE")
    assert state["OBS_MODE"] == ["OBSERVE_TARGET#ON_SOURCE"]
    assert state["SIG"].tolist() == [True]
    assert row_count(plain.converted.path / "POINTING") == 0


def test_sources_and_feeds_match_fields_and_antennas(plain: Pair) -> None:
    field, source = (subtable(plain.converted.path, name) for name in ("FIELD", "SOURCE"))
    order = np.argsort(source["SOURCE_ID"])[field["SOURCE_ID"]]
    assert np.array_equal(source["DIRECTION"][order], field["PHASE_DIR"][:, 0])
    assert [source["NAME"][index] for index in order] == field["NAME"]
    feed = subtable(plain.converted.path, "FEED")
    assert feed["ANTENNA_ID"].tolist() == list(range(117))
    assert set(feed["SPECTRAL_WINDOW_ID"]) == {-1}
    assert set(feed["NUM_RECEPTORS"]) == {2}


def test_directions_and_units_say_what_they_are_measured_in(plain: Pair) -> None:
    path = plain.converted.path
    for table, name in (("FIELD", "PHASE_DIR"), ("FIELD", "REFERENCE_DIR"),
                        ("FIELD", "DELAY_DIR"), ("SOURCE", "DIRECTION")):  # fmt: skip
        with tables.table(str(path / table), ack=False) as opened:
            assert opened.getcolkeyword(name, "MEASINFO")["Ref"] == "ICRS", name
    with tables.table(str(path), ack=False) as main:
        assert main.getcolkeyword("UVW", "QuantumUnits") == ["m", "m", "m"]
        assert main.getcolkeyword("TIME", "QuantumUnits") == ["s"]
        assert main.getcolkeyword("TIME", "MEASINFO")["Ref"] == "UTC"
        assert main.getkeyword("MS_VERSION") == 2.0
        assert "FLAG_CATEGORY" in main.colnames()
        assert main.info()["type"] == "Measurement Set"


def test_pyuvdata_reads_the_product_back_as_the_files(plain: Pair) -> None:
    found = read_product_by_pyuvdata(plain.converted.path)
    with without_network():
        files = [read_by_pyuvdata(Path(s.header.path)) for s in plain.converted.plan.subbands]
        for expected in files:
            expected.conjugate_bls("ant1<ant2")
            expected.reorder_freqs(channel_order="freq", run_check=False)
    assert found.Nspws == len(files)
    for window, expected in enumerate(files):
        assert found.Nblts == expected.Nblts
        channels = found.flex_spw_id_array == found.spw_array[window]
        assert np.array_equal(found.freq_array[channels], expected.freq_array)
        mine = np.lexsort((found.baseline_array, found.time_array.round(7)))
        theirs = np.lexsort((expected.baseline_array, expected.time_array.round(7)))
        assert np.array_equal(found.baseline_array[mine], expected.baseline_array[theirs])
        for name in ("data_array", "flag_array", "nsample_array"):
            values = getattr(found, name)[mine][:, channels]
            assert np.array_equal(values, getattr(expected, name)[theirs]), name
