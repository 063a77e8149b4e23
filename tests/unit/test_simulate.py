"""Simulated files: the correlator's layout, the sky pyuvdata expects, the faults asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the bitshuffle filter
import numpy as np
import pytest
from astropy.constants import c as speed_of_light
from pyuvdata import UVData
from pyuvdata.utils import phasing

from contimg_dask.errors import ContimgError, OutputError, UsageError
from contimg_dask.faults import FAULT_KINDS, name_offsets_s
from contimg_dask.simulate import Fault, Observation, PointSource, SimulatedGroup, simulate
from contimg_dask.uvh5.writer import SubbandContent, write_subband

REAL_FILE_BYTES = 145_348_600
SMALL = Observation(
    subbands=3, antennas=5, integrations=2, channels=8, name_jitter=False, noise_jy=0.1
)


def header(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {k: v[()] for k, v in file["Header"].items() if isinstance(v, h5py.Dataset)}


def data(path: Path, name: str = "visdata") -> np.ndarray:
    with h5py.File(path) as file:
        return file["Data"][name][()]


def read_by_pyuvdata(path: Path) -> UVData:
    # The correlator's float32 uvw fails pyuvdata's check; everything else has to pass it.
    uv = UVData.from_file(str(path), file_type="uvh5", run_check=False)
    uv.uvw_array = uv.uvw_array.astype(np.float64)
    uv.check(check_extra=True, run_check_acceptability=False)
    return uv


# ------------------------------------------------------------------------------- layout


@pytest.fixture(scope="module")
def full_scale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedGroup]:
    directory = tmp_path_factory.mktemp("full")
    yield simulate(directory, Observation(only_subbands=(3,)))[0]
    # pytest keeps the directories of its last runs: not 145 MB of each.
    shutil.rmtree(directory)


def test_full_scale_file_has_the_size_of_a_real_one(full_scale: SimulatedGroup) -> None:
    assert full_scale.files[0].stat().st_size == pytest.approx(REAL_FILE_BYTES, rel=1e-3)


def test_full_scale_data_sets_have_the_correlators_shapes_and_chunks(
    full_scale: SimulatedGroup,
) -> None:
    with h5py.File(full_scale.files[0]) as file:
        layout = {k: (d.dtype.str, d.shape, d.chunks) for k, d in file["Data"].items()}
        filters = [d.compression for d in file["Data"].values()]
        flagged, samples = file["Data/flags"][()].any(), np.unique(file["Data/nsamples"][()])
        chunks = file["Data/visdata"].id.get_num_chunks()
    shape = (111744, 1, 48, 2)
    assert layout == {
        "visdata": ("<c8", shape, (128, 1, 12, 1)),
        "flags": ("|b1", shape, (256, 1, 24, 1)),
        "nsamples": ("<f4", shape, (256, 1, 12, 1)),
    }
    assert filters == [None] * 3
    assert chunks == 6984
    assert not flagged
    assert samples.tolist() == [96]


def test_header_has_the_correlators_entries_and_no_others(full_scale: SimulatedGroup) -> None:
    found = header(full_scale.files[0])
    scalars = {k: v.item() for k, v in found.items() if np.ndim(v) == 0 and k != "history"}
    assert scalars == {
        "latitude": 37.2334,
        "longitude": -118.2830,
        "altitude": 1188.0,
        "telescope_name": b"OVRO_MMA",
        "instrument": b"DSA",
        "object_name": b"search",
        "phase_type": b"drift",
        "phase_center_app_dec": np.radians(16.28),
        "channel_width": 244140.625,
        "Nants_data": 96,
        "Nants_telescope": 117,
        "Nbls": 4656,
        "Nblts": 111744,
        "Nfreqs": 48,
        "Npols": 2,
        "Ntimes": 24,
        "Nspws": 1,
    }
    assert {k: (v.dtype.str, v.shape) for k, v in found.items() if np.ndim(v) > 0} == {
        "antenna_diameters": ("<f8", (117,)),
        "antenna_names": ("|S4", (117,)),
        "antenna_numbers": ("<i8", (117,)),
        "antenna_positions": ("<f8", (117, 3)),
        "ant_1_array": ("<i8", (111744,)),
        "ant_2_array": ("<i8", (111744,)),
        "uvw_array": ("<f4", (111744, 3)),
        "time_array": ("<f8", (111744,)),
        "integration_time": ("<f8", (111744,)),
        "freq_array": ("<f8", (1, 48)),
        "spw_array": ("<i8", (1,)),
        "polarization_array": ("<i8", (2,)),
    }
    assert found["polarization_array"].tolist() == [-5, -6]
    assert found["antenna_names"][[0, 116]].tolist() == [b"1", b"117"]
    assert set(found["integration_time"]) == {12.884901888}


def test_extra_keywords_say_how_fringes_were_stopped(full_scale: SimulatedGroup) -> None:
    with h5py.File(full_scale.files[0]) as file:
        extra = {k: v[()] for k, v in file["Header/extra_keywords"].items()}
    assert extra["phase_center_dec"] == np.radians(16.28)
    assert extra["ha_phase_center"] == 0.0
    assert extra["phase_center_epoch"] == b"HADEC"
    assert {"fs_table", "applied_delays_ns"} < set(extra)


def test_rows_are_time_major_in_an_order_that_is_not_numeric(full_scale: SimulatedGroup) -> None:
    found = header(full_scale.files[0])
    ant_1, ant_2 = (found[f"ant_{k}_array"].reshape(24, 4656) for k in (1, 2))
    assert (ant_1 == ant_1[0]).all()
    assert (ant_2 == ant_2[0]).all()
    order = [ant_1[0][i * (i + 1) // 2 + i] for i in range(96)]
    expected = [(order[j], order[i]) for i in range(96) for j in range(i + 1)]
    assert list(zip(ant_1[0], ant_2[0], strict=True)) == expected
    assert 0.2 < (ant_1[0] > ant_2[0]).mean() < 0.8
    times = found["time_array"].reshape(24, 4656)
    assert (times == times[:, :1]).all()
    assert np.diff(times[:, 0]) * 86400 == pytest.approx(12.884901888, abs=1e-4)


def test_uvw_block_repeats_and_agrees_with_pyuvdata(full_scale: SimulatedGroup) -> None:
    uv = UVData.from_file(
        str(full_scale.files[0]), file_type="uvh5", run_check=False, read_data=False
    )
    assert (uv.uvw_array.reshape(24, 4656, 3) == uv.uvw_array[:4656]).all()
    expected = uvw_by_pyuvdata(uv, uv.lst_array, np.full(uv.Nblts, np.radians(16.28)))
    assert uv.uvw_array == pytest.approx(expected, abs=1e-3)


def test_subbands_of_a_group_share_their_times_and_tile_the_band(tmp_path: Path) -> None:
    observation = replace(SMALL, subbands=16, integrations=1, channels=2, groups=2)
    first, second = simulate(tmp_path, observation)
    headers = [header(path) for path in first.files]
    assert {found["time_array"][0] for found in headers} == {first.start_jd}
    freq_hz = np.concatenate([found["freq_array"][0] for found in headers])
    assert np.diff(freq_hz) == pytest.approx(-11.71875e6 / 2)
    assert freq_hz[[0, -1]] == pytest.approx([1498.75e6 - 2929687.5, 1311.25e6 + 2929687.5])
    assert (second.start_jd - first.start_jd) * 86400 == pytest.approx(309.2376, abs=1e-3)
    assert [first.stamp, second.stamp] == ["2025-10-05T03:12:06", "2025-10-05T03:17:15"]


def test_small_files_have_chunks_no_larger_than_the_data(tmp_path: Path) -> None:
    path = simulate(tmp_path, SMALL)[0].files[0]
    with h5py.File(path) as file:
        assert file["Data/visdata"].chunks == (30, 1, 8, 1)


# ------------------------------------------------------------------------------- physics


def uvw_by_pyuvdata(uv: UVData, app_ra: np.ndarray, app_dec: np.ndarray) -> np.ndarray:
    return phasing.calc_uvw(
        app_ra=app_ra,
        app_dec=app_dec,
        frame_pa=np.zeros(uv.Nblts),
        lst_array=uv.lst_array,
        use_ant_pos=True,
        antenna_positions=uv.telescope.antenna_positions,
        antenna_numbers=uv.telescope.antenna_numbers,
        ant_1_array=uv.ant_1_array,
        ant_2_array=uv.ant_2_array,
        telescope_lat=uv.telescope.location.lat.rad,
        telescope_lon=uv.telescope.location.lon.rad,
    )


def w_by_pyuvdata(uv: UVData, source: PointSource) -> np.ndarray:
    app_ra, app_dec = phasing.calc_app_coords(
        lon_coord=np.radians(source.ra_deg),
        lat_coord=np.radians(source.dec_deg),
        coord_frame="icrs",
        time_array=uv.time_array,
        lst_array=uv.lst_array,
        telescope_loc=uv.telescope.location,
    )
    return uvw_by_pyuvdata(uv, app_ra, app_dec)[:, 2]


def test_visibilities_are_those_of_pyuvdatas_w_terms(tmp_path: Path) -> None:
    observation = replace(SMALL, antennas=12, noise_jy=0, integrations=4, subbands=16)
    group = simulate(tmp_path, replace(observation, only_subbands=(0, 15)))[0]
    for path in group.files:
        uv = read_by_pyuvdata(path)
        meridian = uvw_by_pyuvdata(uv, uv.lst_array, np.full(uv.Nblts, np.radians(16.28)))[:, 2]
        expected = np.zeros((uv.Nblts, uv.Nfreqs), dtype=complex)
        for source in group.sources:
            delay_s = (w_by_pyuvdata(uv, source) - meridian) / speed_of_light.value
            expected += source.flux_jy * np.exp(2j * np.pi * delay_s[:, None] * uv.freq_array)
        for product in range(2):
            assert np.abs(uv.data_array[..., product] - expected).max() < 1e-5


def test_default_sources_lie_near_the_meridian_at_mid_observation(tmp_path: Path) -> None:
    group = simulate(tmp_path, replace(SMALL, subbands=1, integrations=24))[0]
    uv = read_by_pyuvdata(group.files[0])
    middle_ra = np.degrees(uv.lst_array.mean())
    # Half a degree from apparent to ICRS right ascension, by 25 years of precession.
    offsets = [(s.ra_deg - middle_ra, s.dec_deg - 16.28) for s in group.sources]
    assert all(np.hypot(*offset) < 1.2 for offset in offsets)
    assert [s.flux_jy for s in group.sources] == [2.0, 1.0, 0.5]


def test_noise_is_seeded_gaussian_and_real_in_autocorrelations(tmp_path: Path) -> None:
    noisy = replace(SMALL, sources=(), noise_jy=0.7, antennas=20, products=4, channels=48)
    one, again, other = (
        data(simulate(tmp_path / name, replace(noisy, seed=seed, only_subbands=(1,)))[0].files[0])
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    whole = data(simulate(tmp_path / "whole", replace(noisy, seed=1))[0].files[1])
    assert np.array_equal(one, again)
    assert np.array_equal(one, whole)
    assert not np.array_equal(one, other)
    found = header(next((tmp_path / "one").iterdir()))
    autos = found["ant_1_array"] == found["ant_2_array"]
    assert not one[autos].imag.any()
    for part in (one[~autos].real, one[~autos].imag):
        assert part.std() == pytest.approx(0.7, rel=0.02)
        assert part.mean() == pytest.approx(0, abs=0.02)


def test_four_products_hold_the_sources_in_the_parallel_hands_only(tmp_path: Path) -> None:
    path = simulate(tmp_path, replace(SMALL, noise_jy=0, products=4, subbands=1))[0].files[0]
    assert header(path)["polarization_array"].tolist() == [-5, -7, -8, -6]
    visdata = data(path)
    assert np.array_equal(visdata[..., 0], visdata[..., 3])
    assert np.abs(visdata[..., 0]).max() > 1
    assert not visdata[..., 1:3].any()


@pytest.mark.parametrize("compression", ["lzf", "gzip", "bitshuffle"])
def test_compression_and_channel_order_change_no_value(tmp_path: Path, compression: Any) -> None:
    plain = simulate(tmp_path / "plain", replace(SMALL, noise_jy=0))[0].files[1]
    other = replace(SMALL, noise_jy=0, compression=compression, ascending_channels=True)
    packed = simulate(tmp_path / "packed", other)[0].files[1]
    assert np.array_equal(header(packed)["freq_array"], header(plain)["freq_array"][:, ::-1])
    assert np.array_equal(data(packed), data(plain)[:, :, ::-1])
    with h5py.File(packed) as file:
        assert file["Data/visdata"].id.get_create_plist().get_nfilters() > 0


# ------------------------------------------------------------------------------- names


def test_name_stamps_spread_as_often_as_those_of_real_groups() -> None:
    rng = np.random.default_rng(3)
    offsets = np.array([name_offsets_s(16, rng) for _ in range(4000)])
    spread = offsets.max(axis=1) - offsets.min(axis=1)
    assert (offsets[:, 0] == 0).all()
    assert (spread == 0).mean() == pytest.approx(0.02, abs=0.01)
    assert (spread <= 1).mean() == pytest.approx(0.86, abs=0.02)
    assert (spread <= 2).mean() == pytest.approx(0.91, abs=0.02)
    assert ((spread >= 9) & (spread <= 22)).mean() == pytest.approx(0.08, abs=0.015)
    assert 0.001 < (spread >= 59).mean() < 0.01
    assert spread.max() <= 82


def test_names_without_jitter_are_the_groups_stamp(tmp_path: Path) -> None:
    group = simulate(tmp_path, SMALL)[0]
    assert [path.name for path in group.files] == [f"{group.stamp}_sb0{k}.hdf5" for k in range(3)]
    assert sorted(tmp_path.iterdir()) == sorted(group.files)


def test_progress_counts_subbands(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    observation = replace(SMALL, groups=2, only_subbands=(0, 2))
    simulate(tmp_path, observation, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# ------------------------------------------------------------------------------- faults

STAMP = "2025-10-05T03:12:06"


def names(files: list[Path]) -> list[str]:
    return [path.name.removeprefix(STAMP) for path in files]


def changed_entries(good: Path, bad: Path) -> set[str]:
    ours, theirs = header(good), header(bad)
    return {k for k in ours if k not in theirs or not np.array_equal(ours[k], theirs[k])}


def is_missing(good: Path, bad: list[Path]) -> bool:
    return bad == []


def is_truncated(good: Path, bad: list[Path]) -> bool:
    with pytest.raises(OSError, match="truncated"):
        h5py.File(bad[0])
    return bad[0].name == good.name


def is_named(*expected: str) -> Callable[[Path, list[Path]], bool]:
    def check(good: Path, bad: list[Path]) -> bool:
        same = [np.array_equal(data(good), data(path)) for path in bad]
        return names(bad) == list(expected) and all(same)

    return check


def differs_in(*entries: str) -> Callable[[Path, list[Path]], bool]:
    return lambda good, bad: changed_entries(good, bad[0]) == set(entries)


def has_broken_values(good: Path, bad: list[Path]) -> bool:
    values = data(bad[0])
    return np.isnan(values).any() and np.isinf(values).any() and np.isfinite(values).mean() > 0.9


def has_other_pairs(good: Path, bad: list[Path]) -> bool:
    ours, theirs = header(good), header(bad[0])
    same_set = set(ours["ant_1_array"]) == set(theirs["ant_1_array"])
    changed = changed_entries(good, bad[0])
    return same_set and changed == {"ant_1_array", "ant_2_array", "uvw_array"}


def has_one_antenna_moved(good: Path, bad: list[Path]) -> bool:
    moved = header(bad[0])["antenna_positions"] - header(good)["antenna_positions"]
    return (moved.any(axis=1).sum(), moved.max()) == (1, pytest.approx(5.0))


def has_later_times_only(good: Path, bad: list[Path]) -> bool:
    ours, theirs = header(good)["time_array"], header(bad[0])["time_array"]
    return ours[0] == theirs[0] and (theirs[-1] - ours[-1]) * 86400 == pytest.approx(1, abs=1e-3)


def has_one_integration_less(good: Path, bad: list[Path]) -> bool:
    rows = len(data(bad[0]))
    return header(bad[0])["Ntimes"] == 1 and rows == header(bad[0])["Nblts"] == len(data(good)) / 2


def is_dated_2009(good: Path, bad: list[Path]) -> bool:
    times = header(bad[0])["time_array"]
    return times[0] == 2455000.5 and bad[0].name == good.name


def is_ascending(good: Path, bad: list[Path]) -> bool:
    return (np.diff(header(bad[0])["freq_array"]) > 0).all()


def is_shifted_by_half(good: Path, bad: list[Path]) -> bool:
    shift = header(bad[0])["freq_array"] - header(good)["freq_array"]
    return np.allclose(shift, 11.71875e6 / 2)


def is_filtered(good: Path, bad: list[Path]) -> bool:
    with h5py.File(bad[0]) as file:
        filters = file["Data/visdata"].id.get_create_plist().get_nfilters()
    return filters > 0 and np.array_equal(data(good), data(bad[0]))


def is_old(good: Path, bad: list[Path]) -> bool:
    with h5py.File(bad[0]) as file:
        epoch = file["Header/extra_keywords/phase_center_epoch"][()]
    changed = changed_entries(good, bad[0])
    return epoch == 2000 and changed == {"integration_time", "phase_center_app_dec"}


def has_no_window_axis(good: Path, bad: list[Path]) -> bool:
    uv = read_by_pyuvdata(bad[0])
    assert header(bad[0])["freq_array"].shape == header(bad[0])["channel_width"].shape == (8,)
    return np.array_equal(uv.data_array, data(good)[:, 0])


EFFECTS: dict[str, Callable[[Path, list[Path]], bool]] = {
    "missing": is_missing,
    "truncated": is_truncated,
    "incomplete": is_named("_sb01_incomplete.hdf5"),
    "zero-byte": lambda good, bad: bad[0].stat().st_size == 0 and bad[0].name == good.name,
    "not-hdf5": lambda good, bad: not h5py.is_hdf5(bad[0]) and bad[0].name == good.name,
    "nan": has_broken_values,
    "wrong-antennas": has_other_pairs,
    "wrong-positions": has_one_antenna_moved,
    "wrong-times": has_later_times_only,
    "wrong-integrations": has_one_integration_less,
    "mjd-55000": is_dated_2009,
    "two-sb00": is_named("2025-10-05T03:12:07_sb00.hdf5"),
    "duplicate": is_named("_sb01.hdf5", "2025-10-05T03:12:08_sb01.hdf5"),
    "no-number": is_named("2025-10-05T03:12:07.hdf5"),
    "ascending": is_ascending,
    "overlap": is_shifted_by_half,
    "compressed-lzf": is_filtered,
    "compressed-gzip": is_filtered,
    "compressed-bitshuffle": is_filtered,
    "missing-header": differs_in("polarization_array"),
    "old-header": is_old,
    "no-spw-axis": has_no_window_axis,
}


def test_every_kind_of_fault_has_its_effect_tested() -> None:
    assert set(EFFECTS) == set(FAULT_KINDS)


@pytest.mark.parametrize("kind", EFFECTS)
def test_fault_changes_its_own_subband_and_no_other(tmp_path: Path, kind: str) -> None:
    good = simulate(tmp_path / "good", SMALL)[0].files
    fault = Fault.parse(f"{kind}:0:1")
    bad = list(simulate(tmp_path / "bad", SMALL, [fault])[0].files)
    assert EFFECTS[kind](good[1], bad[1:-1])
    assert [path.name for path in (bad[0], bad[-1])] == [good[0].name, good[2].name]
    assert np.array_equal(data(bad[0]), data(good[0]))
    assert sorted(bad) == sorted((tmp_path / "bad").iterdir())


def test_faults_of_one_subband_add_up(tmp_path: Path) -> None:
    faults = [Fault.parse(text) for text in ("duplicate:0:1", "ascending:0:1", "truncated:0:1")]
    files = simulate(tmp_path, SMALL, faults)[0].files
    assert len(files) == 4
    assert files[1].stat().st_size == files[2].stat().st_size < files[0].stat().st_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing", "kind:group:subband"),
        ("missing:0", "kind:group:subband"),
        ("missing:0:3:1", "kind:group:subband"),
        ("missing:a:3", "kind:group:subband"),
        ("missing:0:-3", "kind:group:subband"),
        ("melted:0:3", "unknown fault kind 'melted'; known kinds: missing, truncated"),
    ],
)
def test_unreadable_fault_is_refused_with_the_form_or_the_kinds(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fault.parse(text)


@pytest.mark.parametrize("text", ["missing:1:0", "missing:0:3"])
def test_fault_outside_the_observation_is_refused_before_anything_is_written(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(UsageError, match="outside the observation"):
        simulate(tmp_path, SMALL, [Fault.parse(text)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["wrong-times", "wrong-integrations"])
def test_fault_of_several_integrations_is_refused_with_one(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="at least 2 integrations, not 1"):
        simulate(tmp_path, replace(SMALL, integrations=1), [Fault.parse(f"{kind}:0:0")])


def test_sb00_cannot_be_a_second_sb00(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other than 0"):
        simulate(tmp_path, SMALL, [Fault.parse("two-sb00:0:0")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": "yesterday"},
        {"start": "9999-12-31T23:59:59"},
        {"start": "0001-01-01T00:00:00+05:00"},
        {"sources": (PointSource(ra_deg=float("nan"), dec_deg=0, flux_jy=1),)},
        {"sources": (PointSource(ra_deg=0, dec_deg=91, flux_jy=1),)},
        {"groups": 0},
        {"groups": 10**20},
        {"channels": 10**20},
        {"subbands": 17},
        {"only_subbands": (3,)},
        {"antennas": 118},
        {"integrations": 0},
        {"channels": 0},
        {"declination_deg": 91.0},
        {"noise_jy": float("nan")},
        {"seed": -1},
        {"products": 3},
        {"compression": "zip"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_observation_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(SMALL, **wrong)


def test_start_with_an_offset_from_utc_is_turned_into_utc(tmp_path: Path) -> None:
    local = replace(SMALL, start="2025-10-05T05:12:06+02:00", subbands=1)
    group = simulate(tmp_path, local)[0]
    assert group.stamp == STAMP


# ------------------------------------------------------------------------------- writing


def small_content() -> SubbandContent:
    visdata = np.ones((6, 1, 4, 2), dtype=np.complex64)
    return SubbandContent(
        header={"instrument": "DSA"},
        extra_keywords={},
        visdata=visdata,
        flags=np.zeros(visdata.shape, dtype=bool),
        nsamples=np.ones(visdata.shape, dtype=np.float32),
    )


def test_failed_write_leaves_the_older_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a_sb00.hdf5"
    path.write_text("older")

    def disk_full(partial: Path) -> None:
        assert partial.name.startswith(".")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_subband(path, small_content(), before_rename=disk_full)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["older"]


def test_write_returns_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a_sb00.hdf5"
    assert write_subband(path, small_content()) == path.stat().st_size


def test_directory_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ContimgError, match="cannot make") as caught:
        simulate(tmp_path / "file" / "below", SMALL)
    assert caught.value.code == "unwritable-output"
