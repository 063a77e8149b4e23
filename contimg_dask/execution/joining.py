"""Join what the parts of a group wrote: hold them against each other, put the bulk in its place."""

from __future__ import annotations

import os
from collections import Counter

from contimg_dask.errors import DisagreementError
from contimg_dask.geometry import geometry_of, part_geometry
from contimg_dask.model import AttemptFiles, ConversionPlan, PartRecord
from contimg_dask.ms.concatenate import copy_parts, part_weight_file
from contimg_dask.ms.skeleton import open_tile_files, place_tile_files
from contimg_dask.ms.weights import put_band_weights


def check_agreement(plan: ConversionPlan, parts: list[PartRecord]) -> None:
    """Hold every subband's axes against those most subbands have, so that the odd one is named.

    Raises
    ------
    DisagreementError
        The subbands do not share their rows.
    """
    for what in parts[0].digests:
        found = [part.digests[what] for part in parts]
        usual, _ = Counter(found).most_common(1)[0]
        for subband, digest in zip(plan.subbands, found, strict=True):
            if digest != usual:
                path = subband.header.path
                other = plan.subbands[found.index(usual)].header.path
                raise DisagreementError(
                    f"{path}: its {what} differ from those in {other} and others: they are not "
                    f"subbands of one observation; set the wrong one aside",
                    path=path,
                )


def join(
    plan: ConversionPlan, files: AttemptFiles, product: str, parts: list[PartRecord]
) -> tuple[str, ...]:
    """Put the bulk of all parts into the product; return what is to be noted.

    Raises
    ------
    OSError, OutputError
        A file cannot be copied or moved.
    """
    geometry = geometry_of(plan)
    notes: tuple[str, ...] = ()
    if plan.direct:
        place_tiles(plan, files, product)
    else:
        notes = copy_parts(product, geometry, _part_tables(parts))
    if geometry.spw == "single":
        uniform = all(part.weights_uniform for part in parts)
        weights = _weight_files(plan, files, parts)
        put_band_weights(open_tile_files(product, geometry), geometry, weights, uniform)
    return notes


def place_tiles(plan: ConversionPlan, files: AttemptFiles, product: str) -> None:
    """Move the tile files the subbands wrote into the product, as far as there are any."""
    geometry = geometry_of(plan)
    staged = {column.name: files.tile_file(column.name) for column in geometry.subband_columns}
    there = {name: path for name, path in staged.items() if os.path.exists(path)}
    if plan.options.imaging_columns != "copy":
        there.pop("CORRECTED_DATA", None)
    there.pop("MODEL_DATA", None)
    place_tile_files(product, geometry, there)


def _part_tables(parts: list[PartRecord]) -> list[str]:
    return [part.part for part in parts if part.part is not None]


def _weight_files(plan: ConversionPlan, files: AttemptFiles, parts: list[PartRecord]) -> list[str]:
    """Return where each subband's own WEIGHT stands: a file, or the tiles of its part."""
    own = [files.weight_file(subband) for subband in plan.subbands]
    if plan.direct:
        return own
    shape = part_geometry(plan)
    return [
        part_weight_file(part, shape, otherwise)
        for part, otherwise in zip(_part_tables(parts), own, strict=True)
    ]
