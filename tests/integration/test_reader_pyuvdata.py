"""Whatever way a file keeps its visibilities, they are what pyuvdata reads."""

from __future__ import annotations

import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyuvdata import UVData

from contimg_dask.simulate import Observation, simulate
from contimg_dask.uvh5.header import peek
from contimg_dask.uvh5.reader import SubbandReader, product_order

CHANNELS, ROWS = 6, 3 * 15
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "gzip": {"compression": "gzip", "shuffle": True},
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
}
VISIBILITIES = {
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
    # pyuvdata reads no big-endian floats; test_reader.py holds those against h5py.
    "big-endian integer pairs": np.dtype([("r", ">i4"), ("i", ">i4")]),
    "integer pairs": np.dtype([("r", "<i4"), ("i", "<i4")]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool], Path]:
    """Simulated files by number of products and whether channels ascend."""
    made = {}
    for products in (2, 4):
        for ascending in (False, True):
            directory = tmp_path_factory.mktemp("file")
            observation = Observation(
                subbands=1,
                antennas=5,
                integrations=3,
                channels=CHANNELS,
                products=products,
                noise_jy=5.0,
                ascending_channels=ascending,
            )
            made[products, ascending] = simulate(directory, observation)[0].files[0]
    return made


def rewrite(
    path: Path, kind: str, chunks: tuple[int, int, int] | None, filters: str, spw_axis: bool
) -> None:
    """Keep the same visibilities in another way; whole numbers, which every type holds."""
    with h5py.File(path, "r+") as file:
        for name in ("visdata", "flags", "nsamples"):
            values = file["Data"][name][()][:, 0]
            del file["Data"][name]
            shape, kept = values.shape, chunks
            if name == "visdata":
                whole = np.round(values * 10)
                values = np.empty(shape, dtype=VISIBILITIES[kind])
                if values.dtype.names:
                    values["r"], values["i"] = whole.real, whole.imag
                else:
                    values[...] = whole
            if spw_axis:
                values = values[:, None]
                kept = None if chunks is None else (chunks[0], 1, *chunks[1:])
            options = {} if chunks is None else FILTERS[filters]
            file["Data"].create_dataset(name, data=values, chunks=kept, **options)


def by_pyuvdata(path: Path, ascending: bool) -> Any:
    data = UVData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.read_uvh5(str(path), run_check=False, data_array_dtype=np.complex64)
    return data.data_array if ascending else data.data_array[:, ::-1]


@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(VISIBILITIES)),
    products=st.sampled_from([2, 4]),
    ascending=st.booleans(),
    filters=st.sampled_from(sorted(FILTERS)),
    spw_axis=st.booleans(),
    chunks=st.none() | st.tuples(st.integers(1, ROWS), st.integers(1, CHANNELS), st.integers(1, 2)),
)
def test_visibilities_are_what_pyuvdata_reads(
    files: dict[tuple[int, bool], Path],
    kind: str,
    products: int,
    ascending: bool,
    filters: str,
    spw_axis: bool,
    chunks: tuple[int, int, int] | None,
) -> None:
    source = files[products, ascending]
    # A name of its own each time: pyuvdata may keep a file open.
    path = source.parent / f"{uuid.uuid4().hex}.uvh5"
    shutil.copyfile(source, path)
    rewrite(path, kind, chunks, filters, spw_axis)
    header = peek(str(path))
    reader = SubbandReader(header)
    plain = kind == "complex64" and (filters == "none" or chunks is None)
    assert reader.method == ("direct" if plain else "h5py")
    found = np.concatenate([block.visibilities.copy() for block in reader.blocks()])
    wanted = by_pyuvdata(path, ascending)[..., product_order(header.products)]
    assert found.shape == wanted.shape == (ROWS, CHANNELS, products)
    assert np.array_equal(found, wanted)
    assert np.count_nonzero(found) > found.size // 2
