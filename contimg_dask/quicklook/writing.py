"""Write a quick-look as Zarr of format 2, as xarray lays it out and any xarray opens it.

The format is a few lines of JSON beside plain arrays, and is written here without its libraries:
loading them would take every worker 0.6 s at its start, and writing by them 40 ms per group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

QUICKLOOK_NAME = "contimg-quicklook.zarr"
"""Directory of the quick-look in a product, beside the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """An array with a name for each of its dimensions, at least one, and attributes."""

    dims: tuple[str, ...]
    values: npt.NDArray[Any]
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Content:
    """A quick-look: measured variables, the coordinates that label them, and attributes."""

    variables: Mapping[str, Labelled]
    coordinates: Mapping[str, Labelled]
    attrs: Mapping[str, Any]


def write_quicklook(directory: str, content: Content) -> None:
    """Write a quick-look into a directory that is made for it.

    Raises
    ------
    OSError
        It cannot be written, or is there; some of it may be there then.
    """
    root = Path(directory)
    root.mkdir()
    # A coordinate that is no dimension is one because it is named here.
    more = [name for name, one in content.coordinates.items() if one.dims != (name,)]
    metadata: dict[str, Any] = {
        ".zgroup": {"zarr_format": 2},
        ".zattrs": {**content.attrs, "coordinates": " ".join(more)},
    }
    for name, array in {**content.coordinates, **content.variables}.items():
        metadata[f"{name}/.zarray"] = _array(array.values)
        metadata[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": list(array.dims), **array.attrs}
        _write_values(root / name, array.values)
    for key, what in metadata.items():
        _write_json(root / key, what)
    # All of it once more in one file, which is all that a reader has to open.
    _write_json(root / ".zmetadata", {"zarr_consolidated_format": 1, "metadata": metadata})


def _array(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Describe an array of one chunk. Without a fill value a zero stays a zero when it is read."""
    return {
        "zarr_format": 2,
        "shape": list(values.shape),
        "chunks": [max(1, size) for size in values.shape],
        "dtype": _little_endian(values).dtype.str,
        "order": "C",
        "fill_value": None,
        "compressor": None,
        "filters": None,
    }


def _write_values(directory: Path, values: npt.NDArray[Any]) -> None:
    directory.mkdir()
    if values.size:
        chunk = directory / ".".join("0" for _ in values.shape)
        chunk.write_bytes(_little_endian(values).tobytes())


def _little_endian(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _write_json(path: Path, what: Any) -> None:
    path.write_text(json.dumps(what, indent=1) + "\n")
