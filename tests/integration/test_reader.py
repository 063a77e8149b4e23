"""The block reader gives what the file holds, whatever its layout, and reads no byte twice."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from contimg_dask.errors import InputError
from contimg_dask.uvh5.header import peek
from contimg_dask.uvh5.reader import Block, SubbandReader, read_blocks, read_rows
from tests.reference import memory_directory

Array = npt.NDArray[Any]

PLAIN = {"visdata": "<c8", "flags": "?", "nsamples": "<f4"}
INTEGERS = np.dtype([("r", "<i4"), ("i", "<i4")])
SHORT_INTEGERS = np.dtype([("r", ">i2"), ("i", ">i2")])
DTYPES: dict[str, Sequence[Any]] = {
    "visdata": ("<c8", ">c8", "<c16", INTEGERS, SHORT_INTEGERS),
    "flags": ("?", "u1"),
    "nsamples": ("<f4", ">f4", "<f8", "<i4"),
}
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "gzip": {"compression": "gzip", "shuffle": True},
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "checksum": {"fletcher32": True},
}
# Measurement Sets want the parallel products outside, the cross products between them.
ORDERS = {
    (-5,): (-5,),
    (-6, -5): (-5, -6),
    (-5, -6): (-5, -6),
    (-5, -7, -8, -6): (-5, -7, -8, -6),
    (-5, -6, -7, -8): (-5, -7, -8, -6),
    (-8, -6, -5, -7): (-5, -7, -8, -6),
    (-2, -3, -1, -4): (-1, -3, -4, -2),
    (-1, -2): (-1, -2),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one data set is stored."""

    dtype: Any
    chunks: tuple[int, int, int] | None
    filters: str = "none"
    extendable: bool = False
    written: tuple[slice, ...] = (slice(None),)
    """Ranges of rows that are written; what lies outside them holds the fill value."""
    fill: bool = False

    def plain(self, name: str) -> bool:
        return self.filters == "none" and np.dtype(self.dtype) == np.dtype(PLAIN[name])

    def block_rows(self, rows: int) -> int:
        """Rows that are stored together; a file that is not chunked may be cut anywhere."""
        return min(1024, rows) if self.chunks is None else self.chunks[0]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A file to write."""

    rows: int
    channels: int
    products: tuple[int, ...]
    descending: bool
    spw_axis: bool
    layouts: dict[str, Layout]

    @property
    def direct(self) -> bool:
        """Whether nothing keeps the bytes from being read where they lie."""
        plain = all(layout.plain(name) for name, layout in self.layouts.items())
        together = math.lcm(*(layout.block_rows(self.rows) for layout in self.layouts.values()))
        return plain and together <= 16384


@st.composite
def layouts(draw: st.DrawFn, name: str, shape: tuple[int, int, int], plain: bool) -> Layout:
    rows, channels, products = shape
    filters = "none" if plain else draw(st.sampled_from(["none"] * 6 + list(FILTERS)))
    extendable = draw(st.booleans())
    chunks = None
    if filters != "none" or extendable or draw(st.integers(0, 3)):
        # A chunk may be larger than what is in it, and sizes may share no factor; small ones are
        # for short files, because making a great many chunks takes long.
        limit = 2 * rows if extendable else rows
        sizes = (1, 7, 16) if rows < 100 else (64, 100, 128, 256, 333, 2048)
        fitting = [n for n in sizes if n <= limit]
        chunks = (
            draw(st.sampled_from(fitting)),
            draw(st.integers(1, channels)),
            draw(st.integers(1, products)),
        )
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=4)))
    return Layout(
        dtype=PLAIN[name] if plain else draw(st.sampled_from(DTYPES[name])),
        chunks=chunks,
        filters=filters,
        extendable=extendable,
        written=(slice(None),)
        if draw(st.booleans())
        else tuple(slice(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)),
        fill=draw(st.booleans()),
    )


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    # Up to and beyond two blocks of the reader.
    rows = draw(st.one_of(st.integers(1, 70), st.integers(1000, 2600)))
    channels = draw(st.integers(1, 9))
    products = draw(st.sampled_from(sorted(ORDERS)))
    plain = draw(st.booleans())
    shape = (rows, channels, len(products))
    return Spec(
        rows=rows,
        channels=channels,
        products=products,
        descending=draw(st.booleans()),
        spw_axis=draw(st.booleans()),
        layouts={name: draw(layouts(name, shape, plain)) for name in PLAIN},
    )


def random_values(name: str, dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = np.dtype(dtype)
    if name == "flags":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.names is not None:
        values = np.empty(shape, dtype)
        for part in dtype.names:
            values[part] = rng.integers(-30000, 30000, shape)
        return values
    if dtype.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    return (100 * rng.normal(size=shape)).astype(dtype)


def write_header(file: h5py.File, spec: Spec) -> None:
    header = file.create_group("Header")
    freq_hz = 1.4e9 + 1e6 * np.arange(spec.channels)
    if spec.descending:
        freq_hz = freq_hz[::-1]
    for name, value in {
        "time_array": np.full(spec.rows, 2460953.5),
        "integration_time": np.full(spec.rows, 12.884901888),
        "ant_1_array": np.zeros(spec.rows, dtype=int),
        "ant_2_array": np.ones(spec.rows, dtype=int),
        "freq_array": freq_hz[np.newaxis] if spec.spw_axis else freq_hz,
        "channel_width": 1e6,
        "polarization_array": np.array(spec.products),
        "antenna_numbers": np.arange(2),
        "antenna_names": np.array([b"1", b"2"]),
        "antenna_positions": np.zeros((2, 3)),
        "latitude": 37.0,
        "longitude": -118.0,
        "altitude": 1188.0,
    }.items():
        header[name] = value


def write_file(path: Path, spec: Spec) -> dict[str, Array]:
    """Write the file; return what each data set holds, (rows, channels, products)."""
    rng = np.random.default_rng(spec.rows)
    shape = (spec.rows, spec.channels, len(spec.products))
    axes: Callable[[tuple[int, ...]], tuple[int, ...]] = (
        (lambda s: (s[0], 1, *s[1:])) if spec.spw_axis else (lambda s: s)
    )
    held = {}
    with h5py.File(path, "w", libver="earliest") as file:
        write_header(file, spec)
        for name, layout in spec.layouts.items():
            values = random_values(name, layout.dtype, shape, rng)
            fill = values[0, 0, 0] if layout.fill else np.zeros((), values.dtype)[()]
            # h5py creates no compound data set with a fill value of its own.
            given_fill = {} if values.dtype.names is not None else {"fillvalue": fill}
            if values.dtype.names is not None:
                fill = np.zeros((), values.dtype)[()]
            dataset = file.create_dataset(
                f"Data/{name}",
                shape=axes(shape),
                dtype=layout.dtype,
                chunks=layout.chunks and axes(layout.chunks),
                maxshape=(None, *axes(shape)[1:]) if layout.extendable else None,
                **given_fill,
                **FILTERS[layout.filters],
            )
            held[name] = np.full(shape, fill, dtype=values.dtype)
            for rows in layout.written:
                if values[rows].size:
                    dataset[rows] = values[rows].reshape(axes(values[rows].shape))
                    held[name][rows] = values[rows]
    return held


def expected_block(held: dict[str, Array], spec: Spec) -> dict[str, Array]:
    """Return the whole file as one block: channels ascending, products in MS order."""
    positions = [spec.products.index(code) for code in ORDERS[spec.products]]
    block = {}
    for name, values in held.items():
        if values.dtype.names is not None:
            values = values["r"].astype(np.float64) + 1j * values["i"].astype(np.float64)
        ascending = values[:, ::-1] if spec.descending else values
        block[name] = ascending[..., positions].astype(PLAIN[name])
    return block


def allocated_bytes(path: Path) -> int:
    """Return the bytes of the data sets that take up space in the file."""
    with h5py.File(path) as file:
        return sum(file[f"Data/{name}"].id.get_storage_size() for name in PLAIN)


def joined(blocks: Sequence[Block]) -> dict[str, Array]:
    return {
        "visdata": np.concatenate([block.visibilities for block in blocks]),
        "flags": np.concatenate([block.flags for block in blocks]),
        "nsamples": np.concatenate([block.weights for block in blocks]),
    }


def copied(block: Block) -> Block:
    # A block's arrays are overwritten by the next one.
    assert all(
        values.flags.c_contiguous for values in (block.visibilities, block.flags, block.weights)
    )
    return Block(
        row_start=block.row_start,
        visibilities=block.visibilities.copy(),
        flags=block.flags.copy(),
        weights=block.weights.copy(),
    )


def read_all(reader: SubbandReader) -> dict[str, Array]:
    blocks = [copied(block) for block in reader.blocks()]
    ends = np.cumsum([block.rows for block in blocks])
    assert [block.row_start for block in blocks] == [0, *ends[:-1].tolist()]
    return joined(blocks)


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, values in expected.items():
        assert found[name].dtype == np.dtype(PLAIN[name]), name
        assert np.array_equal(found[name], values), name


def plain_spec(rows: int = 1380, **changes: Any) -> Spec:
    chunks = {"visdata": (128, 3, 1), "flags": (256, 5, 1), "nsamples": (256, 3, 1)}
    layout = {name: Layout(dtype=PLAIN[name], chunks=chunks[name]) for name in PLAIN}
    layout |= {name: changes.pop(name) for name in PLAIN if name in changes}
    return Spec(
        rows=rows, channels=8, products=(-5, -6), descending=True, spw_axis=True, layouts=layout,
        **changes,
    )  # fmt: skip


# ------------------------------------------------------------------------------- any layout


@given(spec=specs())
@example(spec=plain_spec())
@example(spec=plain_spec(flags=Layout(dtype="?", chunks=None)))
@settings(max_examples=200)
def test_blocks_hold_the_files_values_in_product_order(spec: Spec) -> None:
    with memory_directory() as directory:
        path = directory / "file.uvh5"
        expected = expected_block(write_file(path, spec), spec)
        header = peek(str(path))
        reader = SubbandReader(header)
        assert reader.method == ("direct" if spec.direct else "h5py")
        event(reader.method)
        assert_same(read_all(reader), expected)
        assert reader.bytes_read == allocated_bytes(path)
        # The plain way, that verification takes, agrees.
        assert_same(joined(list(read_blocks(header, 500))), expected)
        last = {name: values[-1:] for name, values in expected.items()}
        assert_same(joined(read_rows(header, [spec.rows - 1])), last)


def test_the_correlators_layout_is_read_directly_in_chunk_multiples(memory_path: Path) -> None:
    path = memory_path / "file.uvh5"
    spec = plain_spec(rows=2600)
    write_file(path, spec)
    reader = SubbandReader(peek(str(path)))
    assert reader.method == "direct"
    starts = [block.row_start for block in reader.blocks()]
    assert starts == [0, 1024, 2048]
    with h5py.File(path) as file:
        chunks = {name: file[f"Data/{name}"].id for name in PLAIN}
        bytes_stored = sum(
            chunk.get_chunk_info(index).size
            for chunk in chunks.values()
            for index in range(chunk.get_num_chunks())
        )
    assert reader.bytes_read == bytes_stored


def test_chunks_without_a_common_block_are_left_to_hdf5(memory_path: Path) -> None:
    path = memory_path / "file.uvh5"
    spec = plain_spec(rows=300, flags=Layout(dtype="?", chunks=(165, 8, 2)))
    expected = expected_block(write_file(path, spec), spec)
    reader = SubbandReader(peek(str(path)))
    assert reader.method == "h5py"
    assert_same(read_all(reader), expected)


# ------------------------------------------------------------------------------- unusual storage


def compact(file: h5py.File, name: str, values: Array) -> None:
    """The values stand in the object header, and have no address."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(values.shape)
    made = h5py.h5d.create(
        file.id, name.encode(), h5py.h5t.py_create(values.dtype, logical=True), space, properties
    )
    h5py.Dataset(made)[...] = values


def virtual(file: h5py.File, name: str, values: Array) -> None:
    """The values stand in another data set of the same file."""
    source = file.create_dataset(f"elsewhere/{name}", data=values)
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(source)
    file.create_virtual_dataset(name, layout)


def external_bytes(file: h5py.File, name: str, values: Array) -> None:
    """The values stand as plain bytes in a file beside this one."""
    beside = f"{file.filename}.{Path(name).name}"
    dataset = file.create_dataset(
        name, values.shape, values.dtype, external=[(beside, 0, values.nbytes)]
    )
    dataset[...] = values


def external_link(file: h5py.File, name: str, values: Array) -> None:
    """The data set is in another HDF5 file."""
    beside = f"{file.filename}.{Path(name).name}.hdf5"
    with h5py.File(beside, "w") as other:
        other["far/from/home"] = values
    file[name] = h5py.ExternalLink(beside, "far/from/home")


def soft_link(file: h5py.File, name: str, values: Array) -> None:
    file["elsewhere"] = values
    file[name] = h5py.SoftLink("/elsewhere")


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("store", [compact, virtual, external_bytes, external_link, soft_link])
def test_values_are_found_wherever_hdf5_keeps_them(
    store: Callable[[h5py.File, str, Array], None], name: str, memory_path: Path
) -> None:
    path = memory_path / "file.uvh5"
    spec = plain_spec(rows=256)  # all else about this file would let it be read directly
    held = write_file(path, spec)
    with h5py.File(path, "r+") as file:
        values = file[f"Data/{name}"][()]
        del file[f"Data/{name}"]
        store(file, f"Data/{name}", values)
    assert_same(read_all(SubbandReader(peek(str(path)))), expected_block(held, spec))


def test_a_user_block_before_the_file_moves_no_value(memory_path: Path) -> None:
    path, spec = memory_path / "file.uvh5", plain_spec(rows=300)
    held = write_file(path, spec)
    shifted = memory_path / "shifted.uvh5"
    with h5py.File(path) as source, h5py.File(shifted, "w", userblock_size=512) as file:
        for part in ("Header", "Data"):
            source.copy(part, file)
    assert_same(read_all(SubbandReader(peek(str(shifted)))), expected_block(held, spec))


# ------------------------------------------------------------------------------- while it is read


@pytest.fixture(params=["none", "gzip"])
def whole(request: pytest.FixtureRequest, memory_path: Path) -> tuple[Path, Spec]:
    """A file of several blocks, read directly or by HDF5."""
    path = memory_path / "file.uvh5"
    chunks = (128, 3, 1)
    spec = plain_spec(
        rows=3000,
        **{n: Layout(dtype=t, chunks=chunks, filters=request.param) for n, t in PLAIN.items()},
    )
    write_file(path, spec)
    assert (
        SubbandReader(peek(str(path))).method == {"none": "direct", "gzip": "h5py"}[request.param]
    )
    return path, spec


def test_a_file_cut_short_before_it_is_read_is_truncated(whole: tuple[Path, Spec]) -> None:
    path, _ = whole
    reader = SubbandReader(peek(str(path)))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=str(path)) as caught:
        list(reader.blocks())
    assert caught.value.code == "truncated"
    assert caught.value.path == str(path)


def test_a_file_cut_short_while_it_is_read_is_truncated(whole: tuple[Path, Spec]) -> None:
    path, _ = whole
    blocks = SubbandReader(peek(str(path))).blocks()
    next(blocks)
    os.truncate(path, path.stat().st_size // 4)
    with pytest.raises(InputError, match=str(path)) as caught:
        list(blocks)
    assert caught.value.code == "truncated"


def test_a_file_written_to_while_it_is_read_is_refused(whole: tuple[Path, Spec]) -> None:
    path, _ = whole
    blocks = SubbandReader(peek(str(path))).blocks()
    next(blocks)
    last = path.read_bytes()[-1:]
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(last)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # whatever the clock's resolution
    with pytest.raises(InputError, match=str(path)) as caught:
        list(blocks)
    assert caught.value.code == "changed-while-read"


def test_a_file_that_grows_while_it_is_read_is_refused(whole: tuple[Path, Spec]) -> None:
    path, _ = whole
    before = path.stat()
    blocks = SubbandReader(peek(str(path))).blocks()
    next(blocks)
    with path.open("ab") as file:
        file.write(b"more")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError) as caught:
        list(blocks)
    assert caught.value.code == "changed-while-read"


def test_a_file_replaced_since_it_was_grouped_is_refused(whole: tuple[Path, Spec]) -> None:
    path, _ = whole
    header = peek(str(path))
    os.utime(path, ns=(0, header.mtime_ns - 1))
    with pytest.raises(InputError) as caught:
        SubbandReader(header)
    assert caught.value.code == "changed-while-read"


def test_a_file_removed_while_it_is_read_is_an_error_of_input(whole: tuple[Path, Spec]) -> None:
    path, _ = whole
    blocks = SubbandReader(peek(str(path))).blocks()
    next(blocks)
    path.unlink()
    with pytest.raises(InputError, match=str(path)):
        list(blocks)
