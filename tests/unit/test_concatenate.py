"""Parts are put together by copying bytes; those made otherwise by casacore, with equal result."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import casacore.tables as tables
import h5py
import numpy as np
import pytest

from contimg_dask.convert import convert_in_order
from contimg_dask.errors import OutputError
from contimg_dask.execution import steps
from contimg_dask.execution.joining import join
from contimg_dask.geometry import Geometry, geometry_of, part_geometry
from contimg_dask.grouping import assemble_any
from contimg_dask.model import (
    AttemptFiles,
    ConversionPlan,
    PartRecord,
    ProductOptions,
    Publication,
)
from contimg_dask.ms import concatenate
from contimg_dask.ms.concatenate import copy_parts, layout_difference, part_weight_file
from contimg_dask.planning import plan_group, propose_tiers
from contimg_dask.simulate import Observation, simulate
from contimg_dask.staging.attempts import find_attempt
from contimg_dask.uvh5.header import peek
from tests.reference import column, new_attempt, tile_files
from tests.unit.products import bulk_file, copy

# 45 rows of 3 channels and 2 products: the flags of a part do not end with a whole byte.
ODD = Observation(subbands=3, antennas=5, integrations=3, channels=3, noise_jy=0.5)
BULK = ("DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA", "MODEL_DATA", "CORRECTED_DATA")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """An attempt that has come as far as its parts, and the product made without any."""

    plan: ConversionPlan
    skeleton: Path
    records: list[PartRecord]
    direct: Path

    @property
    def geometry(self) -> Geometry:
        """Shape of the product."""
        return geometry_of(self.plan)


def make_parts(files: list[Path], output: Path, options: ProductOptions) -> Parts:
    plan = plan_group(
        assemble_any([peek(str(path)) for path in files]),
        kind="science",
        options=options,
        target=str(output / "product.ms"),
        tiers=propose_tiers(str(output)),
        direct=False,
        parallel=False,
        on_existing="fail",
        publication=Publication(output_dir=str(output)),
    )
    attempt = new_attempt("parts")
    steps.open_attempt(plan, attempt)
    rows = steps.write_rows(plan, attempt)
    records = [steps.write_part(plan, attempt, position) for position in range(3)]
    directly = dataclasses.replace(plan, direct=True)
    product = convert_in_order(directly, new_attempt("direct"))
    assert find_attempt(plan, attempt).directory in rows.product
    return Parts(plan=plan, skeleton=Path(rows.product), records=records, direct=Path(product.path))


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("odd")
    simulate(directory, ODD)
    chance = np.random.default_rng(1)
    files = sorted(directory.glob("*.hdf5"))
    for path in files:
        with h5py.File(path, "r+") as file:
            data, shape = file["Data"], file["Data/visdata"].shape
            data["flags"][...] = chance.random(shape) < 0.3
            data["nsamples"][...] = chance.choice([0, 3, 96, 0.25], size=shape)
    return files


LAYOUTS: dict[str, ProductOptions] = {
    "a window each": ProductOptions(),
    "one window": ProductOptions(spw="single"),
    "one window, copied": ProductOptions(spw="single", imaging_columns="copy"),
    "a window each, no imaging columns": ProductOptions(imaging_columns="none"),
}


@pytest.fixture(scope="module")
def all_parts(
    odd_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Parts]:
    """The parts of each layout, made when they are first asked for."""
    directory = tmp_path_factory.mktemp("parts")
    made: dict[str, Parts] = {}

    def parts(layout: str) -> Parts:
        if layout not in made:
            output = directory / layout
            output.mkdir()
            made[layout] = make_parts(odd_files, output, LAYOUTS[layout])
        return made[layout]

    return parts


@pytest.fixture(params=["a window each", "one window"])
def parts(request: pytest.FixtureRequest, all_parts: Callable[[str], Parts]) -> Parts:
    return all_parts(request.param)


def joined(
    parts: Parts, into: Path, remade: dict[int, Callable[[str, str], None]]
) -> tuple[Path, tuple[str, ...]]:
    """Join the parts, some of them made anew by another writer; return product and notes."""
    product = into / "product.ms"
    copy(parts.skeleton, product)
    records = list(parts.records)
    for position, remake in remade.items():
        record = records[position]
        assert record.part is not None
        other = str(into / f"{record.subband}.ms")
        remake(record.part, other)
        records[position] = dataclasses.replace(record, part=other)
    files = AttemptFiles(directory=str(into), tier="destination", tier_reason="")
    return product, join(parts.plan, files, str(product), records)


def assert_equal_to_the_direct_product(product: Path, parts: Parts) -> None:
    names = [c for c in BULK if c in tables.table(str(product), ack=False).colnames()]
    assert len(names) >= 5
    for name in names:
        np.testing.assert_array_equal(column(product, name), column(parts.direct, name), name)
    assert tile_files(product) == tile_files(parts.direct)


# ------------------------------------------------------------------------- parts by another writer


def rewritten(part: str, other: str, *, endian: str = "little", **specs: Any) -> None:
    """Let casacore write all values of a part anew, with other storage managers.

    ``specs`` are (type, specification) by column; the columns not named keep theirs.
    """
    with tables.table(part, ack=False) as table:
        managers = table.getdminfo()
        left = {}
        for number, manager in enumerate(managers.values()):
            kept = [name for name in manager["COLUMNS"] if name not in specs]
            if kept:
                left[f"*{number}"] = manager | {"COLUMNS": kept}
        for number, (name, (kind, specification)) in enumerate(specs.items(), len(managers)):
            left[f"*{number}"] = {
                "COLUMNS": [name],
                "TYPE": kind,
                "NAME": f"Other{name}",
                "SEQNR": number,
                "SPEC": specification,
            }
        copied = table.copy(other, deep=True, valuecopy=True, dminfo=left, endian=endian)
        copied.close()


def tiles_of(*shape: int) -> dict[str, Any]:
    return {"DEFAULTTILESHAPE": np.array(shape, dtype=np.int32)}


def with_other_tiles(part: str, other: str) -> None:
    rewritten(part, other, DATA=("TiledColumnStMan", tiles_of(2, 3, 5)))


def with_other_tiles_of_flags(part: str, other: str) -> None:
    rewritten(part, other, FLAG=("TiledColumnStMan", tiles_of(1, 3, 64)))


def with_other_tiles_of_weights(part: str, other: str) -> None:
    rewritten(part, other, WEIGHT=("TiledColumnStMan", tiles_of(2, 7)))


def in_the_standard_manager(part: str, other: str) -> None:
    standard = ("StandardStMan", {"BUCKETSIZE": 4096})
    rewritten(part, other, DATA=standard, FLAG=standard, WEIGHT=standard)


def with_tiles_of_any_shape(part: str, other: str) -> None:
    rewritten(part, other, WEIGHT_SPECTRUM=("TiledShapeStMan", tiles_of(2, 3, 48)))


def big_endian(part: str, other: str) -> None:
    rewritten(part, other, endian="big")


OTHER_WRITERS: dict[str, tuple[Callable[[str, str], None], str]] = {
    "other tiles": (with_other_tiles, "DATA has tiles of (2, 3, 5), planned were (2, 3, 48)"),
    "other tiles of flags": (with_other_tiles_of_flags, "FLAG has tiles of (1, 3, 64)"),
    "other tiles of weights": (with_other_tiles_of_weights, "WEIGHT has tiles of (2, 7)"),
    "standard manager": (in_the_standard_manager, "DATA has no TiledColumnStMan of its own"),
    "any shape": (with_tiles_of_any_shape, "WEIGHT_SPECTRUM has no TiledColumnStMan of its own"),
    "big-endian": (big_endian, "its tiles are big-endian"),
}


def part_of(parts: Parts, position: int) -> str:
    part = parts.records[position].part
    assert part is not None
    return part


@pytest.mark.parametrize(("remake", "difference"), OTHER_WRITERS.values(), ids=OTHER_WRITERS.keys())
def test_a_part_by_another_writer_is_copied_by_casacore_with_equal_result_and_a_note(
    parts: Parts, tmp_path: Path, remake: Callable[[str, str], None], difference: str
) -> None:
    product, notes = joined(parts, tmp_path, {1: remake})
    (note,) = notes
    assert note.startswith("sb01.ms was copied by casacore: ")
    assert difference in note
    assert_equal_to_the_direct_product(product, parts)


def test_the_parts_of_another_writer_hold_the_same_values(parts: Parts, tmp_path: Path) -> None:
    # Otherwise the test before this one would show nothing.
    part = part_of(parts, 1)
    for name, (remake, _) in OTHER_WRITERS.items():
        remake(part, str(tmp_path / name))
        for values in ("DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA"):
            np.testing.assert_array_equal(
                column(tmp_path / name, values), column(Path(part), values)
            )


@pytest.mark.parametrize(
    "remade",
    [
        {0: with_other_tiles, 2: big_endian},
        {0: big_endian, 1: in_the_standard_manager, 2: with_tiles_of_any_shape},
        {2: with_other_tiles_of_flags},
    ],
)
def test_any_number_of_parts_may_be_by_other_writers(
    parts: Parts, tmp_path: Path, remade: dict[int, Callable[[str, str], None]]
) -> None:
    product, notes = joined(parts, tmp_path, remade)
    assert [note.split(".")[0] for note in notes] == [
        parts.plan.subbands[position].name for position in sorted(remade)
    ]
    assert_equal_to_the_direct_product(product, parts)


@pytest.mark.parametrize("layout", ["one window, copied", "a window each, no imaging columns"])
@pytest.mark.parametrize("remade", [{}, {1: big_endian}])
def test_imaging_columns_are_copied_too_where_there_are_any(
    all_parts: Callable[[str], Parts],
    tmp_path: Path,
    layout: str,
    remade: dict[int, Callable[[str, str], None]],
) -> None:
    parts = all_parts(layout)
    product, notes = joined(parts, tmp_path, remade)
    assert len(notes) == len(remade)
    assert_equal_to_the_direct_product(product, parts)


@pytest.mark.parametrize("rows_at_once", [1, 7, 44, 46])
def test_it_does_not_matter_how_many_rows_casacore_copies_at_once(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(concatenate, "_ROWS_AT_ONCE", rows_at_once)
    product, _ = joined(parts, tmp_path, {1: big_endian})
    assert_equal_to_the_direct_product(product, parts)


def test_columns_of_zeros_stay_holes_when_casacore_copies(parts: Parts, tmp_path: Path) -> None:
    # Their space was not planned for.
    product, _ = joined(parts, tmp_path, {1: with_other_tiles})
    for name in ("MODEL_DATA", "CORRECTED_DATA"):
        assert bulk_file(product, name).stat().st_blocks == 0


# ----------------------------------------------------------------------------- parts as planned


def test_parts_as_planned_are_copied_byte_for_byte_without_a_word(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concatenate, "_copy_by_casacore", None)
    product, notes = joined(parts, tmp_path, {})
    assert notes == ()
    assert_equal_to_the_direct_product(product, parts)
    for name in ("MODEL_DATA", "CORRECTED_DATA"):
        assert bulk_file(product, name).stat().st_blocks == 0


def test_parts_may_be_copied_twice(parts: Parts, tmp_path: Path) -> None:
    product = tmp_path / "product.ms"
    copy(parts.skeleton, product)
    tables_of = [part_of(parts, position) for position in range(3)]
    for _ in range(2):
        assert copy_parts(str(product), parts.geometry, tables_of) == ()
    np.testing.assert_array_equal(column(product, "FLAG"), column(parts.direct, "FLAG"))
    np.testing.assert_array_equal(column(product, "DATA"), column(parts.direct, "DATA"))


def test_a_part_as_planned_has_no_difference(parts: Parts) -> None:
    shape = part_geometry(parts.plan)
    assert [layout_difference(part_of(parts, n), shape) for n in range(3)] == [None] * 3


def test_a_part_that_lacks_bytes_is_told_and_not_passed_over(parts: Parts, tmp_path: Path) -> None:
    part = tmp_path / "sb01.ms"
    copy(Path(part_of(parts, 1)), part)
    file = bulk_file(part, "DATA")
    size = file.stat().st_size
    os.truncate(file, size - 1)
    difference = layout_difference(str(part), part_geometry(parts.plan))
    assert difference == f"DATA has {size - 1} bytes of tiles, planned were {size}"


@pytest.mark.parametrize("name", ["DATA", "FLAG", "WEIGHT_SPECTRUM"])
def test_a_part_that_lacks_bytes_is_never_taken_for_one_of_zeros(
    parts: Parts, tmp_path: Path, name: str
) -> None:
    def cut(part: str, other: str) -> None:
        copy(Path(part), Path(other))
        os.truncate(bulk_file(Path(other), name), 16)

    with pytest.raises(OutputError):
        joined(parts, tmp_path, {1: cut})


@pytest.mark.parametrize("damage", ["gone", "without its table"])
def test_a_part_that_cannot_be_read_is_an_error(parts: Parts, tmp_path: Path, damage: str) -> None:
    def damaged(part: str, other: str) -> None:
        if damage != "gone":
            shutil.copytree(part, other)
            Path(other, "table.dat").unlink()

    with pytest.raises(OutputError) as caught:
        joined(parts, tmp_path, {1: damaged})
    assert caught.value.code == "casacore-error"
    assert caught.value.path == str(tmp_path / "sb01.ms")


@pytest.mark.parametrize("remake", [None, big_endian, in_the_standard_manager])
def test_the_weights_of_a_part_are_had_as_a_plain_array(
    parts: Parts, tmp_path: Path, remake: Callable[[str, str], None] | None
) -> None:
    part = part_of(parts, 1)
    if remake is not None:
        remake(part, str(tmp_path / "sb01.ms"))
        part = str(tmp_path / "sb01.ms")
    path = part_weight_file(part, part_geometry(parts.plan), str(tmp_path / "WEIGHT.sb01"))
    assert (path == str(tmp_path / "WEIGHT.sb01")) == (remake is not None)
    wanted = column(Path(part_of(parts, 1)), "WEIGHT")
    found = np.fromfile(path, dtype="<f4", count=wanted.size).reshape(wanted.shape)
    np.testing.assert_array_equal(found, wanted)


# ---------------------------------------------------------------------------- a whole conversion


def test_a_conversion_notes_which_part_casacore_had_to_copy(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if this node's casacore laid out its tables in another way.
    write_part = steps.write_part

    def by_another_writer(plan: ConversionPlan, attempt: Any, position: int) -> PartRecord:
        record = write_part(plan, attempt, position)
        if position == 1:
            assert record.part is not None
            os.rename(record.part, f"{record.part}.first")
            with_other_tiles(f"{record.part}.first", record.part)
        return record

    monkeypatch.setattr(steps, "write_part", by_another_writer)
    plan = dataclasses.replace(
        parts.plan,
        target=str(tmp_path / "product.ms"),
        tiers=propose_tiers(str(tmp_path)),
        publication=Publication(output_dir=str(tmp_path)),
    )
    product = convert_in_order(plan, new_attempt("a"))
    assert [note for note in product.notes if "copied by casacore" in note] == list(product.notes)
    assert len(product.notes) == 1
    assert_equal_to_the_direct_product(Path(product.path), parts)
