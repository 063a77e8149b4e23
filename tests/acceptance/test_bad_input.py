"""One bad file is one clear line; the other groups are converted and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from contimg_dask import convert_subband_groups_to_ms

from .conftest import make_groups, run, tree

# One group each: fault of subband 2, reason code, whether subband 2 is missed or the group disagrees.
FAULTS = {
    "not-hdf5": "not-hdf5",
    "truncated": "truncated",
    "zero-byte": "empty-file",
    "missing-header": "header-incomplete",
    "mjd-55000": "clock-apart",
    "duplicate": "duplicate-subband",
    "overlap": "frequency-overlap",
    "wrong-antennas": "subbands-disagree",
    "wrong-positions": "subbands-disagree",
    "wrong-times": "subbands-disagree",
    "wrong-integrations": "subbands-disagree",
}


def fingerprint(directory: Path) -> dict[str, tuple[str, int]]:
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in directory.iterdir()
    }


@pytest.fixture(scope="module")
def outcome(
    client: Client, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, dict[str, Any]]]:
    """A directory with one group per fault and a good one at the end, converted once."""
    directory = tmp_path_factory.mktemp("faults")
    incoming, out = directory / "in", directory / "out"
    faults = [f"{kind}:{group}:2" for group, kind in enumerate(FAULTS)]
    groups = make_groups(incoming, *faults, groups=len(FAULTS) + 1, subbands=4)
    for name in (
        "2025-10-05T03:12:06_sb03_incomplete.hdf5",
        "x.corrupted",
        ".a.hdf5.Xy12",
        "notes",
    ):
        (incoming / name).write_text("not input")
    before = fingerprint(incoming)
    records = convert_subband_groups_to_ms(incoming, out, client=client, expected_subbands=4)
    assert fingerprint(incoming) == before, "input was touched"
    by_fault = {}
    for kind, group in zip([*FAULTS, "good"], groups, strict=True):
        by_fault[kind] = next(record for record in records if record["id"] == group.stamp)
    assert len(records) == len(groups)
    return incoming, out, by_fault


@pytest.mark.parametrize(("kind", "code"), FAULTS.items())
def test_the_group_fails_with_a_reason_that_names_the_file(
    outcome: tuple[Path, Path, dict[str, dict[str, Any]]], kind: str, code: str
) -> None:
    incoming, out, records = outcome
    record = records[kind]
    assert record["outcome"] == "failed"
    assert record["reason"]["code"] == code
    text = record["reason"]["text"]
    assert "\n" not in text
    assert "Traceback" not in text
    bad = [name for name in os.listdir(incoming) if name in text]
    assert any("_sb02" in name for name in bad), text
    kept = json.loads((out / "failed" / "2025-10-05" / f"{record['id']}.json").read_text())
    assert kept["reason"] == record["reason"]
    assert len(kept["inputs"]) >= 4


def test_the_good_group_is_published_and_only_failed_records_are_left(
    outcome: tuple[Path, Path, dict[str, dict[str, Any]]],
) -> None:
    _, out, records = outcome
    good = records["good"]
    assert good["outcome"] == "published"
    left = [name for name in tree(out) if not name.startswith("failed")]
    assert left == ["science", "science/2025-10-05", f"science/2025-10-05/{good['id']}.ms"]
    assert len(list((out / "failed" / "2025-10-05").iterdir())) == len(FAULTS)


def test_an_unreadable_file_is_listed_when_enough_subbands_are_left(
    client: Client, tmp_path: Path
) -> None:
    make_groups(tmp_path / "in", "truncated:0:2", "mjd-55000:1:0", groups=2, subbands=4)
    records = convert_subband_groups_to_ms(
        tmp_path / "in", tmp_path / "out", client=client, expected_subbands=4, min_subbands=3
    )
    assert [record["outcome"] for record in records] == ["published", "published"]
    assert [record["missing"] for record in records] == [(2,), (0,)]
    assert [record["unreadable"][0]["reason"]["code"] for record in records] == [
        "truncated",
        "clock-apart",
    ]
    assert "sb02" in records[0]["unreadable"][0]["path"]


def test_the_command_prints_one_line_per_failure_and_no_traceback(tmp_path: Path) -> None:
    make_groups(tmp_path / "in", "truncated:0:2", "wrong-antennas:1:2", groups=3, subbands=4)
    done = run("convert", tmp_path / "in", tmp_path / "out", "--expected-subbands", "4")
    assert done.code == 1
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("[truncated]") == 1
    assert done.err.count("[subbands-disagree]") == 1
    assert done.err.count("published 2025") == 1


def test_an_output_that_cannot_be_written_fails_every_group_clearly(
    client: Client, tmp_path: Path
) -> None:
    make_groups(tmp_path / "in", subbands=4)
    (tmp_path / "file").write_text("")
    records = convert_subband_groups_to_ms(
        tmp_path / "in", tmp_path / "file" / "out", client=client, expected_subbands=4
    )
    assert records[0]["outcome"] == "failed"
    assert records[0]["reason"]["code"] == "unwritable-output"
    assert "no record was left" in records[0]["notes"][-1]


@pytest.mark.parametrize("name", ["a.uvh5", "b.dat"])
def test_convert_group_with_a_bad_file_fails_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no")
    done = run("convert-group", tmp_path / "out", tmp_path / name, "--json")
    assert done.code == 1
    assert done.report["groups"][0]["reason"]["code"] == "not-hdf5"
    assert name in done.report["groups"][0]["reason"]["text"]
