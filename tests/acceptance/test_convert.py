"""`contimg-dask convert` as a user sees it: outcomes, exit codes, JSON, what stands on disk."""

from __future__ import annotations

import grp
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from casacore.tables import table
from distributed import Client

from contimg_dask import convert_subband_groups_to_ms
from contimg_dask.publishing.manifest import MANIFEST_NAME, read_manifest

from .conftest import COMMAND, make_groups, run, tree

FIRST, SECOND = "2025-10-05T03:12:06", "2025-10-05T03:17:15"
GROUP_KEYS = {
    "id", "start_mjd", "present", "missing", "outcome", "reason", "path", "bytes_in", "bytes_out",
    "mode", "tier", "tier_proposed", "tier_reason", "node", "seconds", "attempts", "unreadable",
    "notes",
}  # fmt: skip
FAILED_KEYS = GROUP_KEYS | {"schema", "inputs", "host"}


def product(output: Path, group_id: str = FIRST, kind: str = "science") -> Path:
    return output / kind / group_id[:10] / f"{group_id}.ms"


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two complete groups and one that lacks a subband."""
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, "missing:2:3", groups=3, subbands=4)
    return directory


@pytest.fixture
def convert(client: Client, incoming: Path, tmp_path: Path) -> Any:
    """Convert the shared groups on the shared cluster; returns records by id."""

    def call(**options: Any) -> dict[str, dict[str, Any]]:
        chosen = {"expected_subbands": 4, "client": client} | options
        records = convert_subband_groups_to_ms(incoming, tmp_path / "out", **chosen)
        return {record["id"]: record for record in records}

    return call


def test_every_complete_group_is_published_and_reported_as_json(
    incoming: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("convert", incoming, out, "--expected-subbands", "4", "--json", "--workers", "1")
    assert done.code == 0, done.err
    report = done.report
    assert set(report) == {"schema", "command", "counts", "seconds", "groups", "hand_overs"}
    assert report["hand_overs"] == {"done": 0, "failed": 0}
    assert report["schema"] == "contimg-dask.report/1"
    assert report["command"] == "convert"
    assert report["counts"] == {
        "groups": 3, "published": 2, "skipped": 0, "failed": 0, "incomplete": 1, "planned": 0,
    }  # fmt: skip
    assert {"discovery", "startup", "total"} <= set(report["seconds"])
    assert all(set(group) == GROUP_KEYS for group in report["groups"])
    first = done.group(FIRST)
    assert first["outcome"] == "published"
    assert first["path"] == str(product(out))
    assert first["present"] == [0, 1, 2, 3]
    assert first["bytes_in"] == sum(f.stat().st_size for f in incoming.glob(f"{FIRST}*"))
    assert first["bytes_out"] > 0
    assert first["mode"] == "direct-parallel"
    assert (first["tier"], first["tier_proposed"]) == ("destination", "destination")
    assert first["tier_reason"].count("MB") == 2
    assert {"rows", "parts", "reduce", "verify", "publish", "total"} <= set(first["seconds"])
    incomplete = report["groups"][2]
    assert incomplete["outcome"] == "incomplete"
    assert incomplete["missing"] == [3]
    assert incomplete["reason"]["code"] == "missing-subbands"
    assert tree(out) == [
        "science",
        "science/2025-10-05",
        f"science/2025-10-05/{FIRST}.ms",
        f"science/2025-10-05/{SECOND}.ms",
    ]
    assert "Dask dashboard: http://127.0.0.1" in done.err
    assert "published" in done.err


def test_a_product_passes_verification_against_its_input(convert: Any, incoming: Path) -> None:
    path = convert()[FIRST]["path"]
    done = run("verify", path, "--input", incoming)
    assert done.code == 0, done.out + done.err
    assert "every value equals its input" in done.out


def test_verification_finds_one_changed_value(convert: Any, incoming: Path) -> None:
    path = Path(convert()[FIRST]["path"])
    tile_file = max(path.glob("table.f*_TSM0"), key=lambda file: file.stat().st_blocks)
    with tile_file.open("r+b") as file:
        file.seek(1003)
        byte = file.read(1)
        file.seek(1003)
        file.write(bytes([byte[0] ^ 1]))
    done = run("verify", path, "--input", incoming)
    assert done.code == 1
    assert "differs from" in done.out
    assert done.out.count("\n") == 1


def test_dry_run_says_what_would_be_done_and_does_nothing(incoming: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("convert", incoming, out, "--expected-subbands", "4", "--dry-run", "--json")
    assert done.code == 0
    assert not out.exists()
    planned = done.group(FIRST)
    assert set(planned) == GROUP_KEYS
    assert planned["outcome"] == "planned"
    assert planned["path"] == str(product(out))
    assert (planned["mode"], planned["tier"]) == ("direct-parallel", "destination")
    assert planned["tier_proposed"] == "destination"
    assert planned["bytes_out"] > 0
    assert "dashboard" not in done.err
    assert f"planned {FIRST} {product(out)}" in done.err


def test_strict_makes_an_incomplete_group_a_failure(incoming: Path, tmp_path: Path) -> None:
    options = ("--expected-subbands", "4", "--dry-run")
    assert run("convert", incoming, tmp_path, *options).code == 0
    assert run("convert", incoming, tmp_path, *options, "--strict").code == 1


def test_nothing_complete_is_an_exit_code_of_its_own(incoming: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("convert", empty, tmp_path / "out").code == 3
    done = run("convert", incoming, tmp_path / "out", "--json")  # 16 subbands are expected
    assert done.code == 3
    assert done.report["counts"]["incomplete"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["convert", "{tmp}/no-such", "{tmp}/out"], "No such file or directory"),
        (["convert", "{tmp}", "{tmp}/out", "--start", "yesterday"], "is not a time"),
        (
            ["convert", "{tmp}", "{tmp}/out", "--start", "2025-10-06", "--end", "2025-10-05"],
            "start",
        ),
        (["convert", "{tmp}", "{tmp}/out", "--min-subbands", "17"], "17"),
        (["convert", "{tmp}", "{tmp}/out", "--workers", "0"], "workers"),
        (["convert", "{tmp}"], "OUTPUT"),
        (["convert", "{tmp}", "{tmp}/out", "--on-existing", "ask"], "ask"),
        (["convert", "{tmp}", "{tmp}/out", "--no-such-option"], "no-such-option"),
        (["convert-group", "{tmp}/out"], "FILE"),
        (["convert-group", "{tmp}/out", "{tmp}/a.uvh5", "--id", "../../etc"], "--id"),
        (["verify", "{tmp}/no-such.ms"], "no Measurement Set"),
        (["simulate", "{tmp}/s", "--fault", "nonsense:0:0"], "nonsense"),
        (["simulate", "{tmp}/s", "--source", "1,2"], "--source"),
        (["simulate", "{tmp}/s", "--groups", "9" * 20], "1 to 200000"),
        (["simulate", "{tmp}/s", "--groups", "200000"], "are to be written"),
        (["config", "show", "--config", "{tmp}/no-such.toml"], "no-such.toml"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    done = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_time_range_is_half_open_and_by_the_first_integration(convert: Any) -> None:
    # The first integration's centre lies 6.44 s after the group's stamp.
    records = convert(
        start_time="2025-10-05T03:12:07", end_time="2025-10-05T03:17:20", dry_run=True
    )
    assert list(records) == [FIRST]
    centre = "2025-10-05T03:17:21.680"
    assert SECOND in convert(start_time=centre, dry_run=True)
    assert FIRST not in convert(start_time=centre, dry_run=True)


def test_a_whole_product_is_skipped_without_being_touched(convert: Any) -> None:
    path = Path(convert()[FIRST]["path"])
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    again = convert()[FIRST]
    assert again["outcome"] == "skipped"
    assert again["path"] == str(path)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_on_existing_fail_reports_and_replace_makes_it_anew(convert: Any) -> None:
    path = Path(convert()[FIRST]["path"])
    inode = path.stat().st_ino
    failed = convert(on_existing="fail")[FIRST]
    assert (failed["outcome"], failed["reason"]["code"]) == ("failed", "already-published")
    assert path.stat().st_ino == inode
    replaced = convert(on_existing="replace")[FIRST]
    assert replaced["outcome"] == "published"
    assert path.stat().st_ino != inode
    assert not (path.parents[2] / "failed").exists()


def spoil_manifest(path: Path) -> None:
    (path / MANIFEST_NAME).write_text("{")


def shorten_bulk(path: Path) -> None:
    file = max(path.glob("table.f*_TSM0"), key=lambda file: file.stat().st_blocks)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)


def empty_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def plain_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("mine")


def remove_table(path: Path) -> None:
    (path / "table.dat").unlink()


@pytest.mark.parametrize(
    "spoil", [spoil_manifest, shorten_bulk, empty_directory, plain_file, remove_table]
)
def test_anything_but_the_whole_product_at_the_target_is_left_alone(
    convert: Any, spoil: Any, tmp_path: Path
) -> None:
    path = Path(convert()[FIRST]["path"])
    spoil(path)
    before = sorted(
        (str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in [path, *path.rglob("*")]
    )
    record = convert()[FIRST]
    assert (record["outcome"], record["reason"]["code"]) == ("failed", "target-occupied")
    assert str(path) in record["reason"]["text"]
    after = sorted(
        (str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in [path, *path.rglob("*")]
    )
    assert after == before
    assert (tmp_path / "out" / "failed" / FIRST[:10] / f"{FIRST}.json").is_file()


def test_other_options_make_another_product_which_does_not_overwrite(convert: Any) -> None:
    convert()
    record = convert(telescope_name="OVRO_MMA")[FIRST]
    assert (record["outcome"], record["reason"]["code"]) == ("failed", "target-occupied")


@pytest.mark.parametrize("kind", ["science", "calibrators"])
def test_the_same_observation_is_found_under_another_id_or_kind(
    convert: Any, tmp_path: Path, kind: str
) -> None:
    path = Path(convert()[FIRST]["path"])
    other = product(tmp_path / "out", "2025-10-05T03:12:05", kind)
    other.parent.mkdir(parents=True, exist_ok=True)
    path.rename(other)
    record = convert()[FIRST]
    assert record["outcome"] == "skipped"
    assert record["path"] == str(other)
    assert not path.exists()


def test_a_later_success_removes_the_record_of_a_failure(convert: Any, tmp_path: Path) -> None:
    target = product(tmp_path / "out")
    target.parent.mkdir(parents=True)
    target.write_text("in the way")
    assert convert()[FIRST]["outcome"] == "failed"
    target.unlink()
    assert convert()[FIRST]["outcome"] == "published"
    assert not (tmp_path / "out" / "failed").exists()


@pytest.mark.parametrize(("direct", "parallel"), [(True, False), (False, True), (False, False)])
def test_every_mode_makes_the_same_bulk_bytes(
    convert: Any, client: Client, incoming: Path, tmp_path: Path, direct: bool, parallel: bool
) -> None:
    usual = Path(convert()[FIRST]["path"])
    records = convert_subband_groups_to_ms(
        incoming,
        tmp_path / "other",
        client=client,
        expected_subbands=4,
        direct_ms=direct,
        parallel_subband=parallel,
    )
    assert records[0]["mode"] == (
        f"{'direct' if direct else 'parts'}-{'parallel' if parallel else 'serial'}"
    )
    other = Path(records[0]["path"])
    names = sorted(file.name for file in usual.glob("table.f*"))
    assert names == sorted(file.name for file in other.glob("table.f*"))
    for name in names:
        assert (usual / name).read_bytes() == (other / name).read_bytes(), name
    assert read_manifest(usual)["plan_hash"] == read_manifest(other)["plan_hash"]


@pytest.mark.parametrize("tier", ["tmpfs", "scratch"])
def test_staging_elsewhere_is_used_on_request_and_left_clean(
    convert: Any, tmp_path: Path, tier: str
) -> None:
    elsewhere = Path("/dev/shm") / f"contimg-test-{tmp_path.name}"
    elsewhere.mkdir()
    try:
        if tier == "tmpfs":
            record = convert(stage_to_tmpfs=True, tmpfs_path=elsewhere)[FIRST]
        else:
            record = convert(scratch_dir=elsewhere)[FIRST]
        assert (record["outcome"], record["tier"]) == ("published", tier)
        assert list(elsewhere.iterdir()) == []
    finally:
        shutil.rmtree(elsewhere)
    assert all("staging" not in name and "incoming" not in name for name in tree(tmp_path / "out"))
    sizes = [
        (f.stat().st_size, f.stat().st_blocks * 512) for f in Path(record["path"]).glob("*TSM0")
    ]
    assert any(allocated < size // 2 for size, allocated in sizes), "holes were filled on the way"


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group whose weights differ from channel to channel and whose flags are not all clear."""
    directory = tmp_path_factory.mktemp("uneven")
    make_groups(directory, subbands=4, antennas=7, integrations=3, channels=5)
    rng = np.random.default_rng(5)
    for file in directory.glob("*.hdf5"):
        with h5py.File(file, "r+") as opened:
            shape = opened["Data/nsamples"].shape
            opened["Data/nsamples"][...] = rng.integers(-1, 97, shape)
            opened["Data/flags"][...] = rng.random(shape) < 0.2
    return directory


@pytest.mark.parametrize("which", ["incoming", "uneven"])
@pytest.mark.parametrize("direct", [True, False])
def test_a_single_window_holds_the_values_of_the_windows_per_subband(
    request: pytest.FixtureRequest, client: Client, tmp_path: Path, which: str, direct: bool
) -> None:
    source = request.getfixturevalue(which)
    paths = {}
    for spw in ("subband", "single"):
        record = convert_subband_groups_to_ms(
            source, tmp_path / spw, client=client, expected_subbands=4, spw=spw,
            direct_ms=direct, imaging_columns="copy",
        )[0]  # fmt: skip
        assert record["outcome"] == "published", record["reason"]
        paths[spw] = record["path"]
    done = run("verify", paths["single"], "--input", source)
    assert done.code == 0, done.out
    several, single = (table(paths[spw], ack=False) for spw in ("subband", "single"))
    rows = single.nrows()
    assert several.nrows() == 4 * rows
    for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM", "CORRECTED_DATA", "MODEL_DATA"):
        windows = np.split(several.getcol(name), 4)
        assert np.array_equal(np.concatenate(windows, axis=1), single.getcol(name)), name
    for name in ("TIME", "ANTENNA1", "ANTENNA2", "UVW", "FIELD_ID", "SCAN_NUMBER", "INTERVAL"):
        assert np.array_equal(several.getcol(name)[:rows], single.getcol(name)), name
    weight = np.median(single.getcol("WEIGHT_SPECTRUM"), axis=1)
    assert np.array_equal(single.getcol("WEIGHT"), weight)
    positive = np.where(weight > 0, weight, 1)
    assert np.array_equal(
        single.getcol("SIGMA"), np.where(weight > 0, positive**-0.5, 0).astype("f4")
    )
    windows = table(paths["single"] + "::SPECTRAL_WINDOW", ack=False)
    assert windows.nrows() == 1
    assert np.all(np.diff(windows.getcell("CHAN_FREQ", 0)) > 0)
    assert windows.getcell("NAME", 0) == "sb00-sb03"


def test_a_single_window_refuses_a_band_with_a_gap(convert: Any) -> None:
    records = convert(spw="single", min_subbands=3)
    partial = next(record for record in records.values() if record["missing"])
    assert (partial["outcome"], partial["reason"]["code"]) == ("failed", "band-not-whole")
    assert records[FIRST]["outcome"] == "published"


# --------------------------------------------------------------------------- kinds, owners, tiers


def test_the_kind_decides_the_branch_and_the_other_branch_is_looked_into_first(
    convert: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    calibrator = convert(kind="calibrator")[FIRST]
    assert calibrator["outcome"] == "published"
    assert calibrator["path"] == str(product(out, kind="calibrators"))
    manifest = read_manifest(Path(calibrator["path"]))
    assert manifest is not None
    assert manifest["kind"] == "calibrator"
    science = convert(kind="science")[FIRST]
    assert (science["outcome"], science["path"]) == ("skipped", calibrator["path"])
    replaced = convert(kind="science", on_existing="replace")[FIRST]
    assert (replaced["outcome"], replaced["reason"]["code"]) == ("failed", "already-published")
    assert not (out / "science").exists()


def modes(directory: Path, below: str) -> dict[str, set[str]]:
    """Permissions of all directories and of all files below one, in octal."""
    paths = [directory / below, *(directory / below).rglob("*")]
    found: dict[str, set[str]] = {"directories": set(), "files": set()}
    for path in paths:
        kind = "directories" if path.is_dir() else "files"
        found[kind].add(f"{stat.S_IMODE(path.stat().st_mode):o}")
    return found


def test_permissions_follow_the_umask_of_the_command(incoming: Path, tmp_path: Path) -> None:
    command = [COMMAND, "convert", incoming, tmp_path / "out", "--expected-subbands", "4"]
    script = 'umask 077; exec "$@" --workers 1'
    subprocess.run(["sh", "-c", script, "sh", *command], check=True, capture_output=True)
    assert modes(tmp_path, "out") == {"directories": {"700"}, "files": {"600"}}


@pytest.mark.parametrize("tier", ["destination", "tmpfs"])
@pytest.mark.parametrize(
    ("mode", "files", "directories"), [("664", "664", "775"), ("0640", "640", "750")]
)
def test_permissions_are_those_asked_for_whatever_the_umask(
    convert: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: Path,
    tier: str,
    mode: str,
    files: str,
    directories: str,
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_PRODUCT_MODE", mode)
    record = convert(stage_to_tmpfs=tier == "tmpfs", tmpfs_path=elsewhere)[FIRST]
    assert (record["outcome"], record["tier"]) == ("published", tier)
    assert modes(tmp_path, "out") == {"directories": {directories}, "files": {files}}


@pytest.fixture
def other_group() -> grp.struct_group:
    """A group that files may be given to, and that new files do not have anyway."""
    ours = os.getgroups() if os.geteuid() else [entry.gr_gid for entry in grp.getgrall()]
    for number in ours:
        if number != os.getegid():
            return grp.getgrgid(number)
    pytest.skip("this user is in one group only")


def owners(directory: Path) -> set[int]:
    return {path.stat().st_gid for path in [directory, *directory.rglob("*")]}


def test_the_group_asked_for_owns_everything_that_is_made(
    convert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_group: grp.struct_group
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_PRODUCT_GROUP", other_group.gr_name)
    assert convert()[FIRST]["outcome"] == "published"
    assert owners(tmp_path / "out") == {other_group.gr_gid}
    assert all(int(mode, 8) & stat.S_ISGID for mode in modes(tmp_path, "out")["directories"])


@pytest.mark.parametrize("tier", ["destination", "tmpfs"])
def test_a_set_group_id_output_hands_its_group_on(
    convert: Any, tmp_path: Path, elsewhere: Path, other_group: grp.struct_group, tier: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, -1, other_group.gr_gid)
    out.chmod(0o2775)
    record = convert(stage_to_tmpfs=tier == "tmpfs", tmpfs_path=elsewhere)[FIRST]
    assert (record["outcome"], record["tier"]) == ("published", tier)
    assert owners(out) == {other_group.gr_gid}
    assert all(int(mode, 8) & stat.S_ISGID for mode in modes(tmp_path, "out")["directories"])
    assert not any(int(mode, 8) & stat.S_ISGID for mode in modes(tmp_path, "out")["files"])


def test_an_unknown_group_is_one_clear_line_and_publishes_nothing(
    incoming: Path, tmp_path: Path, client: Client
) -> None:
    done = run(
        "convert", incoming, tmp_path / "out", "--expected-subbands", "4",
        "--scheduler", scheduler_of(client), "--group", "no-such-group-here",
    )  # fmt: skip
    assert done.code == 2
    assert "there is no group 'no-such-group-here' on this machine" in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("*.ms"))


def scheduler_of(client: Client) -> str:
    """Address of the shared cluster, for commands that need none of their own."""
    return str(client.scheduler_info()["address"])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, for staging."""
    directory = Path("/dev/shm") / f"contimg-test-{tmp_path.name}"
    directory.mkdir()
    try:
        yield directory
        assert list(directory.iterdir()) == []
    finally:
        shutil.rmtree(directory)


def test_a_budget_keeps_groups_out_of_memory_and_the_record_says_why(
    convert: Any, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_TMPFS_BUDGET", "1MB")
    record = convert(stage_to_tmpfs=True, tmpfs_path=elsewhere)[FIRST]
    assert record["outcome"] == "published"
    assert (record["tier_proposed"], record["tier"]) == ("tmpfs", "destination")
    assert record["tier_reason"].startswith("tmpfs is too full (")
    assert "1.0 MB to use" in record["tier_reason"]
    manifest = read_manifest(Path(record["path"]))
    assert manifest is not None
    for key in ("tier", "tier_proposed", "tier_reason"):
        assert manifest[key] == record[key]
    history = table(record["path"] + "::HISTORY", ack=False).getcol("MESSAGE")
    assert any(f"made in tier destination ({record['tier_reason']})" in line for line in history)


def test_a_budget_with_room_is_used(
    convert: Any, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_TMPFS_BUDGET", "1GB")
    record = convert(stage_to_tmpfs=True, tmpfs_path=elsewhere)[FIRST]
    assert (record["tier_proposed"], record["tier"]) == ("tmpfs", "tmpfs")


def test_where_a_group_was_staged_otherwise_than_asked_for_is_said(
    incoming: Path, tmp_path: Path, client: Client, elsewhere: Path
) -> None:
    done = run(
        "convert", incoming, tmp_path / "out", "--expected-subbands", "4", "--scheduler",
        scheduler_of(client), "--stage-to-tmpfs", "--tmpfs-path", elsewhere, "--tmpfs-budget", "1MB",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.err.count("staged in tier destination: tmpfs is too full") == 2


# -------------------------------------------------------------------------------- failed groups


@pytest.fixture
def disagreeing(tmp_path: Path) -> Path:
    """A group that fails when all of its subbands have been written."""
    directory = tmp_path / "disagreeing"
    make_groups(directory, "wrong-times:0:1", subbands=4)
    return directory


def failed_files(out: Path, group_id: str = FIRST) -> tuple[Path, Path]:
    """Where the record of a failed group is, and what is kept of it."""
    directory = out / "failed" / group_id[:10]
    return directory / f"{group_id}.json", directory / f"{group_id}.ms"


def convert_from(directory: Path, out: Path, client: Client, **options: Any) -> dict[str, Any]:
    """Convert the only group of a directory on the shared cluster."""
    (record,) = convert_subband_groups_to_ms(
        directory, out, expected_subbands=4, client=client, **options
    )
    return record


def test_a_failed_group_leaves_its_reason_attempts_and_inputs(
    disagreeing: Path, tmp_path: Path, client: Client
) -> None:
    record = convert_from(disagreeing, tmp_path / "out", client)
    path, kept = failed_files(tmp_path / "out")
    content = json.loads(path.read_text())
    assert set(content) == FAILED_KEYS
    assert content["schema"] == 1
    assert content["reason"]["code"] == "subbands-disagree"
    assert f"{FIRST}_sb01.hdf5" in content["reason"]["text"]
    assert content["attempts"] == 1
    assert sorted(content["inputs"]) == sorted(str(file) for file in disagreeing.iterdir())
    assert {key: content[key] for key in GROUP_KEYS} == json.loads(json.dumps(record))
    assert not kept.exists()
    assert tree(tmp_path / "out") == [
        "failed",
        f"failed/{FIRST[:10]}",
        f"failed/{FIRST[:10]}/{path.name}",
    ]


def test_unreadable_files_are_among_the_inputs_of_a_failed_group(
    tmp_path: Path, client: Client
) -> None:
    make_groups(tmp_path / "in", "truncated:0:2", subbands=4)
    assert convert_from(tmp_path / "in", tmp_path / "out", client)["outcome"] == "failed"
    content = json.loads(failed_files(tmp_path / "out")[0].read_text())
    assert content["attempts"] == 0
    assert len(content["inputs"]) == 4
    assert [file["path"] for file in content["unreadable"]] == [
        str(tmp_path / "in" / f"{FIRST}_sb02.hdf5")
    ]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("tier", ["destination", "tmpfs"])
def test_what_a_failed_group_got_to_is_kept_on_request_until_it_succeeds(
    disagreeing: Path,
    tmp_path: Path,
    client: Client,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    direct: bool,
    tier: str,
) -> None:
    out = tmp_path / "out"
    options = {
        "direct_ms": direct, "stage_to_tmpfs": tier == "tmpfs", "tmpfs_path": elsewhere,
    }  # fmt: skip
    monkeypatch.setenv("CONTIMG_DASK_KEEP_FAILED", "yes")
    assert convert_from(disagreeing, out, client, **options)["outcome"] == "failed"
    record_path, kept = failed_files(out)
    assert json.loads(record_path.read_text())["kept"] == str(kept)
    with table(str(kept), ack=False) as main:
        assert main.nrows() > 0
        assert main.getcol("DATA").shape[0] == main.nrows()
        assert np.any(main.getcol("DATA")) == direct  # parts are separate until they are joined
    with table(f"{kept}::SPECTRAL_WINDOW", ack=False) as windows:
        assert windows.nrows() == 4
    assert [name for name in tree(out) if not name.startswith("failed")] == []
    make_groups(disagreeing, subbands=4)
    assert convert_from(disagreeing, out, client, **options)["outcome"] == "published"
    assert not (out / "failed").exists()


def test_a_later_failure_takes_the_place_of_what_was_kept_before(
    disagreeing: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_KEEP_FAILED", "yes")
    for _ in range(2):
        assert convert_from(disagreeing, tmp_path / "out", client)["outcome"] == "failed"
    record_path, kept = failed_files(tmp_path / "out")
    assert sorted(path.name for path in record_path.parent.iterdir()) == [
        record_path.name, kept.name,
    ]  # fmt: skip


def test_a_group_that_failed_before_anything_was_made_keeps_nothing(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_KEEP_FAILED", "yes")
    make_groups(tmp_path / "in", "truncated:0:2", subbands=4)
    assert convert_from(tmp_path / "in", tmp_path / "out", client)["outcome"] == "failed"
    record_path, kept = failed_files(tmp_path / "out")
    assert set(json.loads(record_path.read_text())) == FAILED_KEYS
    assert not kept.exists()
