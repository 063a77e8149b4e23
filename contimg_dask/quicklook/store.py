"""Read the quick-look of a product. Loads xarray and zarr, which conversions do without."""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from contimg_dask.errors import QuicklookError
from contimg_dask.quicklook.writing import QUICKLOOK_NAME


def read_quicklook(path: str | os.PathLike[str]) -> xr.Dataset:
    """Return the quick-look of a published product, read into memory.

    Parameters
    ----------
    path
        The Measurement Set.

    Raises
    ------
    QuicklookError
        It has none (``no-quicklook``), or none that can be read (``damaged-quicklook``).
    """
    where = Path(path) / QUICKLOOK_NAME
    if not where.is_dir():
        raise QuicklookError(
            f"{path}: there is no quick-look in it: it was converted without one (its manifest may "
            f"say why), or is no product",
            path=str(path),
        )
    try:
        with xr.open_dataset(where, engine="zarr", consolidated=True) as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise QuicklookError(
            f"{where}: cannot be read ({line}): 'contimg-dask verify' tells whether the product "
            f"itself is whole",
            code="damaged-quicklook",
            path=str(where),
        ) from error
