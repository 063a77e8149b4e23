"""Which input files are safely converted: those of whole products that are as they were, no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import casacore.tables as tables
import pytest

from contimg_dask.errors import UsageError
from contimg_dask.inputs import Published, published_inputs
from contimg_dask.publishing.manifest import MANIFEST_NAME, MANIFEST_VERSION, read_manifest
from tests.unit.conftest import Converted
from tests.unit.products import bulk_file, change_manifest, state_of


class Place:
    """The converted group with input and output of the test's own."""

    def __init__(self, converted: Converted, directory: Path) -> None:
        source = Path(converted.plan.subbands[0].header.path).parent
        self.incoming = directory / "in"
        shutil.copytree(source, self.incoming)  # times are kept to the nanosecond
        self.output = directory / "out"
        self.product = self.output / "science" / "2025-10-05" / converted.product.name
        shutil.copytree(converted.product, self.product)
        manifest = read_manifest(self.product)
        assert manifest is not None
        self.files = [str(self.incoming / Path(e["path"]).name) for e in manifest["inputs"]]
        entries = [
            entry | {"path": path}
            for entry, path in zip(manifest["inputs"], self.files, strict=True)
        ]
        change_manifest(self.product, inputs=entries)

    def published(self, **options: Any) -> Published:
        """What is said of the only product."""
        (product,) = published_inputs(self.output, **options)
        assert product.product == str(self.product)
        return product


@pytest.fixture
def place(converted: Converted, tmp_path: Path) -> Place:
    return Place(converted, tmp_path)


def test_the_files_of_a_whole_product_are_listed_and_no_others(place: Place) -> None:
    shutil.copy2(place.files[0], place.incoming / "2025-10-05T03:12:06_sb15.hdf5")
    found = place.published()
    assert sorted(found.files) == sorted(place.files)
    assert (found.doubt, found.left_out) == (None, ())


@pytest.mark.parametrize("checksums", [False, True])
def test_looking_changes_nothing(place: Place, checksums: bool) -> None:
    def state() -> list[Any]:
        paths = sorted([place.output, *place.output.rglob("*"), *place.incoming.rglob("*")])
        return [(str(path), state_of(path)) for path in paths]

    before = state()
    place.published(checksums=checksums)
    assert state() == before


def test_a_file_that_was_sent_again_with_another_size_is_left_out(place: Place) -> None:
    changed, *others = place.files
    status = os.stat(changed)
    with open(changed, "ab") as file:
        file.write(b"more")
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = place.published()
    assert list(found.files) == others
    (reason,) = found.left_out
    assert reason.startswith(changed)
    assert str(status.st_size) in reason
    assert str(status.st_size + 4) in reason


def test_a_file_that_was_written_again_with_the_same_size_is_left_out(place: Place) -> None:
    *others, changed = place.files
    status = os.stat(changed)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    found = place.published()
    assert list(found.files) == others
    assert found.left_out == (f"{changed}: written again since it was converted",)


def test_a_file_that_is_gone_is_left_out_with_a_word(place: Place) -> None:
    gone, *others = place.files
    os.unlink(gone)
    found = place.published()
    assert list(found.files) == others
    assert found.left_out == (f"{gone}: No such file or directory",)
    assert found.doubt is None


def cut_bulk_short(product: Path) -> None:
    file = bulk_file(product, "DATA")
    os.truncate(file, file.stat().st_size - 1)


def cut_table(product: Path) -> None:
    (product / "table.dat").write_bytes(b"")


def fewer_rows(product: Path) -> None:
    with tables.table(str(product), readonly=False, ack=False) as table:
        table.addrows(1)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "bulk file cut short": (cut_bulk_short, "DATA is missing or short"),
    "bulk file gone": (lambda p: bulk_file(p, "FLAG").unlink(), ""),
    "no manifest": (lambda p: (p / MANIFEST_NAME).unlink(), "no manifest"),
    "half a manifest": (lambda p: os.truncate(p / MANIFEST_NAME, 200), "no manifest"),
    "a manifest of no object": (lambda p: (p / MANIFEST_NAME).write_text("[]"), "no manifest"),
    "no table.dat": (lambda p: (p / "table.dat").unlink(), ""),
    "empty table.dat": (cut_table, ""),
    "other number of rows": (fewer_rows, "rows"),
    "no inputs in the manifest": (lambda p: change_manifest(p, inputs=...), "inputs"),
    "no geometry in the manifest": (lambda p: change_manifest(p, geometry={}), "geometry"),
    "a newer manifest": (
        lambda p: change_manifest(p, manifest_version=MANIFEST_VERSION + 1),
        f"version {MANIFEST_VERSION + 1}",
    ),
    "nothing inside": (lambda p: (shutil.rmtree(p), p.mkdir()), "no manifest"),
    "a plain file": (lambda p: (shutil.rmtree(p), p.write_text("mine")), "no manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_product_that_is_not_whole_no_file_is_listed(place: Place, damage: str) -> None:
    spoil, says = DAMAGES[damage]
    spoil(place.product)
    found = place.published()
    assert found.files == ()
    assert found.doubt
    assert says in found.doubt
    assert "\n" not in found.doubt


@pytest.mark.parametrize("entry", ["a text", {"path": "no\0path"}])
def test_an_entry_of_the_manifest_that_makes_no_sense_is_a_doubt_and_no_crash(
    place: Place, entry: Any
) -> None:
    change_manifest(place.product, inputs=[entry])
    assert place.published().files == ()


def test_a_damaged_product_does_not_hide_the_others(place: Place) -> None:
    other = place.output / "calibrators" / "2025-10-06" / "2025-10-06T00:00:00.ms"
    shutil.copytree(place.product, other)
    cut_bulk_short(place.product)
    damaged, whole = published_inputs(place.output)
    assert (damaged.product, damaged.files) == (str(place.product), ())
    assert (whole.product, sorted(whole.files)) == (str(other), sorted(place.files))


def test_only_the_dated_layout_is_looked_at(place: Place) -> None:
    day = place.product.parent
    for elsewhere in (
        day / f".{place.product.name}.incoming.ms",
        place.output / "failed" / "2025-10-05" / place.product.name,
        place.output / ".contimg-staging" / "attempt" / place.product.name,
        place.output / place.product.name,
    ):
        shutil.copytree(place.product, elsewhere)
    assert [found.product for found in published_inputs(place.output)] == [str(place.product)]


def test_a_product_that_calibration_has_changed_still_holds_its_input(place: Place) -> None:
    with tables.table(str(place.product), readonly=False, ack=False) as table:
        table.putcol("FLAG", ~table.getcol("FLAG"))
        table.putcol("MODEL_DATA", table.getcol("DATA") + 1)
        table.putcol("CORRECTED_DATA", table.getcol("DATA") * 2)
    for checksums in (False, True):
        assert sorted(place.published(checksums=checksums).files) == sorted(place.files)


def test_a_product_whose_model_was_taken_away_still_holds_its_input(place: Place) -> None:
    # As CASA's delmod(scr=True) does.
    with tables.table(str(place.product), readonly=False, ack=False) as table:
        table.removecols("MODEL_DATA")
    assert sorted(place.published().files) == sorted(place.files)


def test_only_reading_a_product_through_finds_a_changed_byte(place: Place) -> None:
    with bulk_file(place.product, "DATA").open("r+b") as file:
        (byte,) = file.read(1)
        file.seek(0)
        file.write(bytes([byte ^ 1]))
    assert place.published().doubt is None
    doubted = place.published(checksums=True)
    assert doubted.files == ()
    assert doubted.doubt is not None
    assert "DATA of sb" in doubted.doubt


def test_a_product_of_the_first_version_counts_but_not_when_it_should_be_read_through(
    place: Place,
) -> None:
    manifest = read_manifest(place.product)
    assert manifest is not None
    subbands = {
        name: {key: value for key, value in facts.items() if key != "checksums"}
        for name, facts in manifest["subbands"].items()
    }
    change_manifest(place.product, manifest_version=1, tier_proposed=..., subbands=subbands)
    assert sorted(place.published().files) == sorted(place.files)
    doubted = place.published(checksums=True)
    assert doubted.files == ()
    assert doubted.doubt is not None
    assert "no checksums" in doubted.doubt


def test_progress_is_told_per_product(place: Place) -> None:
    calls: list[tuple[int, int]] = []
    shutil.copytree(place.product, place.product.with_name("2025-10-05T04:00:00.ms"))
    published_inputs(place.output, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_an_output_without_products_lists_nothing(tmp_path: Path) -> None:
    assert published_inputs(tmp_path) == []


@pytest.mark.parametrize("name", ["no-such-directory", "a-file"])
def test_what_is_no_directory_is_wrong_use(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(UsageError, match="no such directory"):
        published_inputs(tmp_path / name)
