"""Parts put into a product byte by byte: equal to arithmetic of our own, and to the direct way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_dask.geometry import CORRECTED_DATA, FLAG, Geometry, part_of
from contimg_dask.ms.columns import row_convention
from contimg_dask.ms.placing import merge_bits, put_subband, read_subband
from contimg_dask.ms.tiles import TileWriter, sigma_of_weight
from contimg_dask.simulate import Observation, simulate
from contimg_dask.uvh5.header import peek, read_axes
from contimg_dask.uvh5.reader import Block, SubbandReader

Layout = Literal["subband", "single"]


@dataclass(frozen=True)
class Values:
    """What one subband holds."""

    visibilities: npt.NDArray[np.complex64]
    flags: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]

    def blocks(self, rows: int) -> Iterator[Block]:
        for start in range(0, self.flags.shape[0], rows):
            here = slice(start, start + rows)
            yield Block(
                row_start=start, visibilities=self.visibilities[here], flags=self.flags[here],
                weights=self.weights[here],
            )  # fmt: skip


def some_values(shape: tuple[int, int, int], seed: int, flagged: float = 0.3) -> Values:
    chance = np.random.default_rng(seed)
    parts = chance.normal(size=(*shape, 2)).astype(np.float32)
    return Values(
        parts.view(np.complex64)[..., 0],
        chance.random(shape) < flagged,
        chance.integers(1, 5, shape).astype(np.float32),
    )


def geometry(layout: Layout, rows: int, channels: int, products: int, subbands: int) -> Geometry:
    return Geometry(
        subbands=subbands, subband_rows=rows, channels=channels, products=products,
        imaging_columns=True, spw=layout,
    )  # fmt: skip


def tiles_in(directory: Path) -> Callable[[str], str]:
    directory.mkdir(parents=True, exist_ok=True)
    return lambda column: str(directory / column)


def write(shape: Geometry, position: int, values: Values, where: Path, *, copy: bool) -> None:
    """Write a subband the direct way."""
    weight_file = str(where / f"weight-{position}") if shape.spw == "single" else None
    with TileWriter(
        shape, position, tiles_in(where), weight_file=weight_file, copy_data=copy
    ) as writer:
        for block in values.blocks(3):
            writer.write(block)


def place(shape: Geometry, position: int, values: Values, where: Path, *, copy: bool) -> None:
    """Write a part of its own, and put its bytes into the product."""
    own = where.parent / f"{where.name}-part{position}"
    write(part_of(shape), 0, values, own, copy=False)
    columns = read_subband(part_of(shape), tiles_in(own))
    put_subband(shape, position, columns, tiles_in(where), copy_data=copy)


def content(shape: Geometry, where: Path) -> dict[str, bytes]:
    """Return every tile file in full length; what a file does not reach is a hole."""
    found = {}
    for column in shape.subband_columns:
        written = (where / column.name).read_bytes()
        assert len(written) <= shape.file_bytes(column)
        found[column.name] = written.ljust(shape.file_bytes(column), b"\0")
    return found


ODD_SHAPES = [(7, 5, 1), (9, 3, 1), (11, 5, 3), (1, 1, 1), (16, 8, 4), (1031, 5, 1)]
"""(rows, channels, products); of most, the flags of a subband end within a byte."""


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("layout", ["subband", "single"])
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_placed_parts_equal_what_is_written_directly(
    shape: tuple[int, int, int], layout: Layout, copy: bool, tmp_path: Path
) -> None:
    product = geometry(layout, *shape, subbands=3)
    for position in range(3):
        values = some_values(shape, seed=position)
        write(product, position, values, tmp_path / "direct", copy=copy)
        place(product, position, values, tmp_path / "placed", copy=copy)
    assert content(product, tmp_path / "placed") == content(product, tmp_path / "direct")


def test_the_bytes_are_those_of_plain_arithmetic(tmp_path: Path) -> None:
    shape = (7, 5, 1)
    product = geometry("subband", *shape, subbands=4)
    values = [some_values(shape, seed) for seed in range(4)]
    for position in (2, 0, 3, 1):
        place(product, position, values[position], tmp_path / "placed", copy=True)
    found = content(product, tmp_path / "placed")
    weight = np.concatenate([np.median(v.weights, axis=1) for v in values]).astype(np.float32)
    flags = np.concatenate([v.flags.ravel() for v in values])
    expected = {
        "DATA": np.concatenate([v.visibilities for v in values]),
        "CORRECTED_DATA": np.concatenate([v.visibilities for v in values]),
        "WEIGHT_SPECTRUM": np.concatenate([v.weights for v in values]),
        "WEIGHT": weight,
        "SIGMA": sigma_of_weight(weight),
        "FLAG": np.packbits(flags, bitorder="little"),
        "MODEL_DATA": np.zeros(0),
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name] == array.tobytes().ljust(len(found[name]), b"\0"), name


@pytest.mark.parametrize("layout", ["subband", "single"])
def test_parts_of_simulated_files_equal_what_is_written_directly(
    layout: Layout, tmp_path: Path
) -> None:
    simulate(
        tmp_path / "in",
        Observation(
            subbands=3, antennas=5, integrations=3, channels=7, noise_jy=1.0, name_jitter=False
        ),
    )
    files = sorted((tmp_path / "in").glob("*.hdf5"))
    for position, path in enumerate(files):
        header = peek(path)
        product = geometry(layout, header.rows, header.channels, len(header.products), len(files))
        convention = row_convention(read_axes(str(path)), header.products)
        blocks = []
        for block in SubbandReader(header).blocks():
            convention.apply(block)
            blocks.append((block.visibilities.copy(), block.flags.copy(), block.weights.copy()))
        values = Values(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))
        values.flags[:: 5 + position, 2] = True
        write(product, position, values, tmp_path / "direct", copy=True)
        place(product, position, values, tmp_path / "placed", copy=True)
    assert content(product, tmp_path / "placed") == content(product, tmp_path / "direct")


def test_columns_that_are_all_zero_are_not_moved_and_stay_holes(tmp_path: Path) -> None:
    shape = (64, 16, 2)
    product = geometry("subband", *shape, subbands=2)
    silent = some_values(shape, seed=1, flagged=0)
    silent = replace(silent, weights=np.zeros_like(silent.weights))
    write(part_of(product), 0, silent, tmp_path / "part", copy=False)
    columns = read_subband(part_of(product), tiles_in(tmp_path / "part"))
    assert columns.keys() == {"DATA"}
    assert sum(map(len, columns.values())) == 64 * 16 * 2 * 8
    put_subband(product, 1, columns, tiles_in(tmp_path / "placed"), copy_data=False)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "placed").iterdir()}
    assert sizes.pop("DATA") == 2 * 64 * 16 * 2 * 8
    assert set(sizes.values()) == {0}
    assert sizes.keys() == {column.name for column in product.columns} - {"DATA"}


def test_corrected_data_of_a_part_is_never_moved(tmp_path: Path) -> None:
    shape = (5, 3, 2)
    part = geometry("subband", *shape, subbands=1)
    write(part, 0, some_values(shape, 3), tmp_path / "part", copy=True)
    assert CORRECTED_DATA.name not in read_subband(part, tiles_in(tmp_path / "part"))


def test_flags_that_end_early_in_the_file_are_moved_whole(tmp_path: Path) -> None:
    shape = (40, 5, 1)
    part = geometry("subband", *shape, subbands=1)
    values = some_values(shape, 4, flagged=0)
    values.flags[0, 0, 0] = True
    write(part, 0, values, tmp_path / "part", copy=False)
    assert (tmp_path / "part" / FLAG.name).stat().st_size < 25
    columns = read_subband(part, tiles_in(tmp_path / "part"))
    assert columns[FLAG.name] == b"\1" + bytes(24)


def test_placing_a_part_twice_changes_nothing(tmp_path: Path) -> None:
    shape = (7, 5, 1)
    product = geometry("single", *shape, subbands=2)
    for position in (0, 1, 0):
        place(product, position, some_values(shape, position), tmp_path / "twice", copy=True)
    for position in (0, 1):
        place(product, position, some_values(shape, position), tmp_path / "once", copy=True)
    assert content(product, tmp_path / "twice") == content(product, tmp_path / "once")


def _place_again_and_again(shape: Geometry, position: int, where: str) -> None:
    values = some_values((shape.subband_rows, shape.channels, shape.products), position)
    own = Path(f"{where}-part{position}")
    write(part_of(shape), 0, values, own, copy=False)
    columns = read_subband(part_of(shape), tiles_in(own))
    for _ in range(30):
        put_subband(shape, position, columns, tiles_in(Path(where)), copy_data=False)


def test_several_processes_at_once_lose_no_bit_of_their_neighbours(tmp_path: Path) -> None:
    # Flags of a subband end within a byte, which two processes write.
    shape = (1, 3, 1)
    product = geometry("subband", *shape, subbands=6)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_place_again_and_again, args=(product, i, str(tmp_path / "placed")))
        for i in range(6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    for position in range(6):
        values = some_values(shape, position)
        write(product, position, values, tmp_path / "direct", copy=False)
    assert content(product, tmp_path / "placed") == content(product, tmp_path / "direct")


@settings(max_examples=200, deadline=None)
@given(
    before=st.integers(0, 40),
    begin=st.integers(0, 30),
    bits=st.lists(st.booleans(), min_size=1, max_size=70),
    more=st.lists(st.booleans(), max_size=20),
)
def test_bits_go_to_their_place_and_nowhere_else(
    tmp_path_factory: pytest.TempPathFactory,
    before: int,
    begin: int,
    bits: list[bool],
    more: list[bool],
) -> None:
    path = tmp_path_factory.mktemp("bits") / "file"
    size = (before + len(bits)) // 8 + 2
    path.write_bytes(np.packbits(np.arange(8 * size) < before, bitorder="little").tobytes())
    packed = np.packbits([True] * begin + bits + more, bitorder="little")
    with path.open("r+b") as file:
        merge_bits(file.fileno(), packed.data, begin, before, len(bits))
    found = np.unpackbits(np.frombuffer(path.read_bytes(), np.uint8), bitorder="little")
    expected = [*[True] * before, *bits]
    assert found[: len(expected)].tolist() == expected
    assert not found[len(expected) :].any()


def test_a_part_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    part = geometry("subband", 7, 5, 1, subbands=1)
    with pytest.raises(FileNotFoundError):
        read_subband(part, tiles_in(tmp_path / "nothing"))


def test_a_part_that_was_cut_short_is_not_taken_for_zeros(tmp_path: Path) -> None:
    part = geometry("subband", 7, 5, 1, subbands=1)
    write(part, 0, some_values((7, 5, 1), 1), tmp_path / "part", copy=False)
    with (tmp_path / "part" / "DATA").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(OSError, match="100 bytes where 280 were written"):
        read_subband(part, tiles_in(tmp_path / "part"))
