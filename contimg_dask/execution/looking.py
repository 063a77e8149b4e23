"""What the steps do for the quick-look: look at rows and blocks, put the looks together.

A quick-look never decides what becomes of a product. One that cannot be made is left out, with a
note in the record and in the manifest that says why.
"""

from __future__ import annotations

import os
from pathlib import Path

from contimg_dask.errors import ContimgError, QuicklookError
from contimg_dask.execution.tables import Seen
from contimg_dask.model import AttemptFiles, ConversionPlan, Subband
from contimg_dask.quicklook.content import quicklook_of
from contimg_dask.quicklook.looks import (
    SubbandLook,
    SubbandLooker,
    look_path,
    put_bytes,
)
from contimg_dask.quicklook.rows import RowLook, look_at_rows
from contimg_dask.quicklook.sampling import sample_rows
from contimg_dask.quicklook.writing import QUICKLOOK_NAME, write_quicklook
from contimg_dask.staging.sweeping import remove_tree
from contimg_dask.uvh5.header import Axes

_ROWS = "rows"


def keep_rows(plan: ConversionPlan, files: AttemptFiles, seen: Seen) -> None:
    """Leave the look at a group's rows for the reducing step, where one is wanted."""
    if plan.quicklook:
        look = look_at_rows(plan.subbands, seen.axes, seen.columns, seen.freq_hz)
        look.save(look_path(files.directory, _ROWS))


def looker_of(plan: ConversionPlan, subband: Subband, axes: Axes) -> SubbandLooker | None:
    """Return who looks at a subband's blocks as they pass; None where no quick-look is wanted."""
    if not plan.quicklook:
        return None
    header = subband.header
    sample = sample_rows(axes.antenna_1, axes.antenna_2, axes.time_jd)
    return SubbandLooker(sample, header.channels, len(header.products))


def keep_subband(files: AttemptFiles, subband: Subband, looker: SubbandLooker | None) -> None:
    """Leave the look at a subband for the reducing step, where there is one."""
    if looker is not None:
        looker.result().save(look_path(files.directory, subband.name))


def taken_look(plan: ConversionPlan, files: AttemptFiles, subband: Subband) -> bytes | None:
    """Return the file of a look, to be put down on the node that reduces; None where there is none."""
    look = Path(look_path(files.directory, subband.name))
    return look.read_bytes() if plan.quicklook and look.exists() else None


def put_look(files: AttemptFiles, subband: Subband, look: bytes | None) -> None:
    """Put down the file of a look that was made on another node."""
    if look is not None:
        put_bytes(look_path(files.directory, subband.name), look)


def add_quicklook(plan: ConversionPlan, files: AttemptFiles, product: str) -> tuple[str, ...]:
    """Write the quick-look into the staged product; return what is to be noted."""
    if not plan.quicklook:
        return ()
    made = files.unused(QUICKLOOK_NAME)
    try:
        rows = RowLook.load(look_path(files.directory, _ROWS))
        looks = [SubbandLook.load(look_path(files.directory, s.name)) for s in plan.subbands]
        write_quicklook(made, quicklook_of(plan, rows, looks))
        # The step may have got this far before, and begun anew.
        place = os.path.join(product, QUICKLOOK_NAME)
        remove_tree(place)
        os.rename(made, place)
    except (QuicklookError, OSError) as error:
        remove_tree(made)
        said = str(error) if isinstance(error, ContimgError) else error.strerror or str(error)
        return (f"without a quick-look: {said}",)
    return ()


def quicklook_in(product: str) -> str | None:
    """Return the name of the quick-look in a product, None where it has none."""
    return QUICKLOOK_NAME if os.path.isdir(os.path.join(product, QUICKLOOK_NAME)) else None
