"""Commands about what is published: `inputs`, `verify --checksums`, `sweep`, as a user sees them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore.tables import table
from distributed import Client

from contimg_dask import convert_subband_groups_to_ms
from contimg_dask.faults import Fault
from contimg_dask.publishing.manifest import MANIFEST_NAME, read_manifest
from contimg_dask.simulate import Observation, simulate

from .conftest import COMMAND, SMALL, make_groups, run, tree

FIRST, SECOND, THIRD = "2025-10-05T03:12:06", "2025-10-05T03:17:15", "2025-10-05T03:22:24"
LATER = "2025-10-06T03:12:06"
SPACE, BREAK = "in coming", "line\nbreak"
"""Directories whose names scripts stumble over."""


def where(output: Path, group_id: str) -> Path:
    """Place of a product."""
    return output / "science" / group_id[:10] / f"{group_id}.ms"


def convert_all(incoming: Path, out: Path, client: Client, **options: Any) -> list[dict[str, Any]]:
    return convert_subband_groups_to_ms(
        incoming, out, client=client, expected_subbands=3, **options
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Path:
    """Input in two directories and their products in one output.

    The second of the three groups has an unreadable file, the third lacks one; both are converted
    without it.
    """
    top = tmp_path_factory.mktemp("made")
    make_groups(top / SPACE, "truncated:1:1", "missing:2:2", groups=3, subbands=3)
    make_groups(top / BREAK, start=LATER, subbands=3)
    for name in (SPACE, BREAK):
        records = convert_all(top / name, top / "out", client, min_subbands=2)
        assert {record["outcome"] for record in records} == {"published"}
    return top


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """The same, for a test to spoil; the manifests name the copies."""
    for name in (SPACE, BREAK, "out"):
        shutil.copytree(made / name, tmp_path / name)
    for path in tmp_path.glob(f"out/*/*/*.ms/{MANIFEST_NAME}"):
        manifest = json.loads(path.read_text())
        for entry in manifest["inputs"]:
            entry["path"] = str(tmp_path / Path(entry["path"]).relative_to(made))
        path.write_text(json.dumps(manifest))
    return tmp_path


def converted_files(place: Path, *groups: str) -> list[str]:
    """The files of these groups that were read, known from how they were simulated."""
    unread = {f"{SECOND}_sb01.hdf5"}
    files = [*(place / SPACE).iterdir(), *(place / BREAK).iterdir()]
    return sorted(
        str(file) for file in files if file.name[:19] in groups and file.name not in unread
    )


def test_exactly_the_files_of_whole_products_are_listed(place: Path) -> None:
    done = run("inputs", "--published", place / "out")
    assert done.code == 0
    assert sorted(done.out.splitlines()) == converted_files(place, FIRST, SECOND, THIRD)
    # A name with a line break cannot be listed line by line; nothing that looks like one is.
    assert done.err.count("use -0") == 3
    null = run("inputs", "--published", place / "out", "-0")
    assert null.code == 0
    assert null.out.endswith("\0")
    assert sorted(null.out.split("\0")[:-1]) == converted_files(place, FIRST, SECOND, THIRD, LATER)
    assert null.err == ""


def test_the_list_can_be_moved_away_by_xargs_and_nothing_else_moves(place: Path) -> None:
    archive = place / "archive"
    archive.mkdir()
    expected = converted_files(place, FIRST, SECOND, THIRD, LATER)
    pipe = 'set -e; "$1" inputs --published "$2" -0 | xargs -0 -r mv -t "$3"'
    arguments = [COMMAND, str(place / "out"), str(archive)]
    subprocess.run(["sh", "-c", pipe, "sh", *arguments], check=True)
    assert sorted(file.name for file in archive.iterdir()) == sorted(
        os.path.basename(file) for file in expected
    )
    assert [file.name for file in (place / SPACE).iterdir()] == [f"{SECOND}_sb01.hdf5"]
    again = run("inputs", "--published", place / "out", "-0")
    assert (again.code, again.out) == (0, "")
    assert again.err.count("No such file") == len(expected)


def cut_bulk_short(product: Path) -> None:
    file = max(product.glob("table.f*_TSM0"), key=lambda path: path.stat().st_blocks)
    os.truncate(file, file.stat().st_size - 1)


def test_a_damaged_product_is_named_and_its_files_are_not_listed(place: Path) -> None:
    out = place / "out"
    cut_bulk_short(where(out, FIRST))
    (where(out, SECOND) / MANIFEST_NAME).unlink()
    (where(out, LATER) / "table.dat").unlink()
    done = run("inputs", "--published", out, "-0")
    assert done.code == 1
    assert sorted(done.out.split("\0")[:-1]) == converted_files(place, THIRD)
    for group in (FIRST, SECOND, LATER):
        (line,) = [line for line in done.err.splitlines() if str(where(out, group)) in line]
        assert ": not listed: " in line


def test_files_that_were_sent_again_or_have_gone_are_left_out_with_a_reason(place: Path) -> None:
    again, touched, gone = converted_files(place, FIRST)
    with open(again, "ab") as file:
        file.write(b"more")
    os.utime(touched)
    os.unlink(gone)
    done = run("inputs", "--published", place / "out", "--json")
    assert done.code == 0
    document = done.report
    assert set(document) == {"schema", "output", "products"}
    assert document["schema"] == "contimg-dask.inputs/1"
    assert document["output"] == str(place / "out")
    entries = {Path(entry["product"]).stem: entry for entry in document["products"]}
    assert all(set(e) == {"product", "files", "doubt", "left_out"} for e in entries.values())
    assert entries[FIRST]["files"] == []
    assert entries[FIRST]["doubt"] is None
    reasons = "\n".join(entries[FIRST]["left_out"])
    for path in (again, touched, gone):
        assert reasons.count(path) == 1
    listed = [path for entry in entries.values() for path in entry["files"]]
    assert sorted(listed) == converted_files(place, SECOND, THIRD, LATER)


def test_calibration_takes_no_file_off_the_list_and_a_flipped_byte_is_found_on_request(
    place: Path,
) -> None:
    calibrate(where(place / "out", FIRST))
    flip_a_byte(where(place / "out", SECOND), "DATA")
    quick = run("inputs", "--published", place / "out", "-0")
    assert quick.code == 0
    everything = converted_files(place, FIRST, SECOND, THIRD, LATER)
    assert sorted(quick.out.split("\0")[:-1]) == everything
    thorough = run("inputs", "--published", place / "out", "-0", "--checksums")
    assert thorough.code == 1
    left = converted_files(place, FIRST, THIRD, LATER)
    assert sorted(thorough.out.split("\0")[:-1]) == left
    assert f"{where(place / 'out', SECOND)}: not listed: " in thorough.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["inputs", "--published", "{tmp}/no-such"],
        ["inputs", "--published", "{tmp}/file"],
        ["sweep", "{tmp}/no-such"],
        ["verify", "{tmp}/no-such.ms", "--checksums"],
    ],
)
def test_wrong_use_is_exit_code_2_and_prints_nothing_on_standard_output(
    arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


# --------------------------------------------------------------------------- verify --checksums


def calibrate(product: Path) -> None:
    """Write what calibration and flagging write, through casacore."""
    with table(str(product), readonly=False, ack=False) as main:
        main.putcol("FLAG", ~main.getcol("FLAG"))
        main.putcol("MODEL_DATA", main.getcol("DATA") + 1)
        main.putcol("CORRECTED_DATA", main.getcol("DATA") * 2)


def flip_a_byte(product: Path, column: str) -> None:
    """Change one byte of the first value of a column on disk."""
    with table(str(product), ack=False) as main:
        (number,) = (m["SEQNR"] for m in main.getdminfo().values() if column in m["COLUMNS"])
    with (product / f"table.f{number}_TSM0").open("r+b") as file:
        (byte,) = file.read(1)
        file.seek(0)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(("spw", "imaging"), [("subband", "zero"), ("single", "copy")])
def test_a_product_is_as_published_then_used_then_damaged(
    client: Client, tmp_path: Path, spw: str, imaging: str
) -> None:
    make_groups(tmp_path / "in", subbands=3)
    (record,) = convert_all(
        tmp_path / "in", tmp_path / "out", client, spw=spw, imaging_columns=imaging
    )
    product = Path(record["path"])
    untouched = run("verify", product, "--checksums")
    assert untouched.code == 0
    assert untouched.out == f"{product}: DATA and WEIGHT_SPECTRUM are as they were published\n"

    with table(str(product), readonly=False, ack=False) as main:
        columns = [c for c in ("FLAG", "MODEL_DATA", "CORRECTED_DATA") if c in main.colnames()]
        for column in columns:
            values = main.getcol(column)
            main.putcol(column, ~values if column == "FLAG" else values + 1)
    assert len(columns) == 3
    used = run("verify", product, "--checksums", "--json")
    assert used.code == 0
    assert set(used.report) == {
        "schema", "product", "compared_with", "findings", "changed_since_publication",
    }  # fmt: skip
    assert used.report["findings"] == []
    assert used.report["changed_since_publication"] == columns

    flip_a_byte(product, "WEIGHT_SPECTRUM")
    damaged = run("verify", product, "--checksums")
    assert damaged.code == 1
    first, second = damaged.out.splitlines()
    assert first.startswith(f"damaged: {product}: WEIGHT_SPECTRUM of sb02 ")
    assert second == f"{product}: changed since publication: {', '.join(columns)}"


def test_without_checksums_nothing_is_said_of_changes(place: Path) -> None:
    product = where(place / "out", FIRST)
    calibrate(product)
    flip_a_byte(product, "DATA")
    done = run("verify", product, "--json")
    assert done.code == 0
    assert done.report["changed_since_publication"] is None


def test_a_product_of_the_first_version_has_no_checksums(place: Path) -> None:
    path = where(place / "out", FIRST) / MANIFEST_NAME
    manifest = json.loads(path.read_text()) | {"manifest_version": 1}
    for name in ("tier_proposed", "tier_reason"):
        del manifest[name]
    for facts in manifest["subbands"].values():
        del facts["checksums"]
        facts["values_not_finite"] = facts.pop("values_zeroed")
    path.write_text(json.dumps(manifest))
    done = run("verify", path.parent, "--checksums")
    assert done.code == 1
    assert done.out.startswith("no-checksums: ")
    assert run("verify", path.parent).code == 0


# -------------------------------------------------------------------------- manifest and history


def test_manifest_and_history_tell_how_the_product_was_made(client: Client, tmp_path: Path) -> None:
    incoming = tmp_path / "in"
    observed = Observation(**SMALL, subbands=3, start=FIRST, name_jitter=False)
    simulate(incoming, observed, [Fault.parse("nan:0:1")])
    (record,) = convert_all(incoming, tmp_path / "out", client, spw="single")
    product = Path(record["path"])
    manifest = read_manifest(product)
    assert manifest is not None
    assert manifest["manifest_version"] == 2
    files = {entry["subband"]: Path(entry["path"]) for entry in manifest["inputs"]}
    assert sorted(files.values()) == sorted(incoming.iterdir())
    for entry in manifest["inputs"]:
        status = os.stat(entry["path"])
        assert (entry["size_bytes"], entry["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
    assert manifest["windows"] == {"sb00": 0, "sb01": 0, "sb02": 0}
    with table(str(product), ack=False) as main:
        rows, flags = main.nrows(), main.getcol("FLAG")
    channels = SMALL["channels"]
    for name, facts in manifest["subbands"].items():
        position = 2 - int(name[2:])  # sb02 is the lowest in frequency
        flagged = np.count_nonzero(flags[:, position * channels : (position + 1) * channels])
        assert (facts["rows"], facts["values_flagged"]) == (rows, flagged)
        assert (facts["values_zeroed"] > 0) == (name == "sb01")
        assert set(facts["checksums"]) == {"DATA", "WEIGHT_SPECTRUM", "FLAG"}
    with table(f"{product}::HISTORY", ack=False) as history:
        lines = history.getcol("MESSAGE")
    assert any(line.startswith("made in tier destination (") for line in lines)
    for name, facts in manifest["subbands"].items():
        (line,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert f"{facts['values_zeroed']} zeroed" in line
        assert line.endswith(f"DATA {facts['checksums']['DATA']}")


# ----------------------------------------------------------------------------------------- sweep


def test_sweep_tells_what_it_found_and_touches_no_product(place: Path) -> None:
    out = place / "out"
    before = tree(out)
    empty = run("sweep", out, "--tmpfs-path", place, "--scratch-dir", place / "scratch")
    assert (empty.code, empty.out) == (0, "nothing was left behind\n")
    stray = out / ".contimg-staging" / "2025-10-05T03:12:06.1.0a1b2c3d"
    stray.mkdir(parents=True)
    (stray / "DATA.tiles").write_bytes(b"x" * 100_000)
    look = run("sweep", out, "--tmpfs-path", place, "--dry-run", "--json")
    assert look.code == 0
    assert set(look.report) == {"schema", "dry_run", "attempts"}
    assert (look.report["schema"], look.report["dry_run"]) == ("contimg-dask.sweep/1", True)
    (found,) = look.report["attempts"]
    assert set(found) == {"name", "paths", "size_bytes", "alive", "removed"}
    assert (found["name"], found["paths"]) == (stray.name, [str(stray)])
    assert found["size_bytes"] >= 100_000
    assert (found["alive"], found["removed"]) == (None, False)
    assert stray.is_dir()
    done = run("sweep", out, "--tmpfs-path", place)
    assert done.code == 0
    assert done.out.startswith(f"removed  {stray.name}  0.1 MB")
    assert tree(out) == before
