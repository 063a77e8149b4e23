"""What stands at a product's place: nothing, the whole product, or something else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contimg_dask.errors import ContimgError
from contimg_dask.geometry import Geometry, geometry_of
from contimg_dask.model import SAME_START_TOLERANCE_D, ConversionPlan
from contimg_dask.ms.skeleton import casacore_faults, first_short_bulk_column, row_count
from contimg_dask.naming import PRODUCT_DIRECTORIES
from contimg_dask.publishing.manifest import geometry_in, read_manifest, why_not_understood

_DAYS_REMEMBERED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands at a product's place: nothing, the whole product of this plan, or another.

    ``attempt`` is the one that made it, where its manifest says.
    """

    state: Literal["absent", "whole", "other"]
    text: str = ""
    attempt: str = ""


def inspect_target(target: Path, plan: ConversionPlan) -> Found:
    """Tell what stands at the target: ``whole`` only when nothing needs to be done.

    Whole means: the manifest parses and is of this plan, the table opens with its row count, and
    no bulk file is short.
    """
    if not os.path.lexists(target):
        return Found(state="absent")
    manifest = read_manifest(target)
    if manifest is None:
        return Found(state="other", text="it has no manifest that can be read")
    if manifest.get("plan_hash") != plan.plan_hash:
        return Found(state="other", text="it was made from other files or with other options")
    fault = _fault_of_shape(target, geometry_of(plan))
    attempt = str(manifest.get("attempt", ""))
    if fault is not None:
        return Found(state="other", text=fault, attempt=attempt)
    return Found(state="whole", attempt=attempt)


def fault_of_product(product: Path, manifest: dict[str, Any] | None) -> str | None:
    """Return why a published product is not whole by its own manifest, or None.

    The same look as `inspect_target` takes, without a plan to hold it against.
    """
    if manifest is None:
        return "it has no manifest that can be read"
    if (reason := why_not_understood(manifest)) is not None:
        return reason
    geometry = geometry_in(manifest)
    if geometry is None or not isinstance(manifest.get("inputs"), list):
        return "its manifest lacks its geometry or its inputs"
    return _fault_of_shape(product, geometry)


def _fault_of_shape(product: Path, geometry: Geometry) -> str | None:
    try:
        with casacore_faults(str(product)):
            rows = row_count(str(product))
            short = first_short_bulk_column(product, geometry)
    except ContimgError as error:
        return str(error)
    if rows != geometry.rows:
        return f"it has {rows} rows, {geometry.rows} expected"
    return None if short is None else f"its {short.name} is missing or short"


def published_products(output_dir: Path) -> list[Path]:
    """Return every product in the dated layout, science first, by date and id."""
    return [
        path
        for kind in PRODUCT_DIRECTORIES
        for path in sorted((output_dir / kind).glob("*/*.ms"))
        if not path.name.startswith(".")
    ]


class StartIndex:
    """Finds products by the start time in their manifests, under any id or kind.

    It can be kept for months: every search lists its day directories again, a manifest is read
    once, and only the days asked for last are remembered.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._days: dict[str, dict[tuple[str, int, int], float | None]] = {}

    def find(self, start_mjd: float, dates: tuple[str, ...]) -> Path | None:
        """Return a product that starts within 1 ms of ``start_mjd`` on one of these dates."""
        for date in dates:
            starts = self._days.pop(date, {})
            self._days[date] = starts
            for kind in PRODUCT_DIRECTORIES:
                for entry in _products_in(self._output_dir / kind / date):
                    found_mjd = _start_mjd(entry, starts)
                    if found_mjd is None:
                        continue
                    if abs(found_mjd - start_mjd) <= SAME_START_TOLERANCE_D:
                        return Path(entry.path)
        while len(self._days) > _DAYS_REMEMBERED:
            self._days.pop(next(iter(self._days)))
        return None


def _start_mjd(
    entry: os.DirEntry[str], known: dict[tuple[str, int, int], float | None]
) -> float | None:
    # Inode and time of change tell a product from one that has taken its place.
    try:
        status = entry.stat()
    except OSError:
        return None
    key = (entry.path, status.st_ino, status.st_ctime_ns)
    if key not in known:
        found = (read_manifest(Path(entry.path)) or {}).get("start_mjd")
        known[key] = float(found) if isinstance(found, int | float) else None
    return known[key]


def _products_in(directory: Path) -> list[os.DirEntry[str]]:
    """Return the products of a day, in order of name."""
    try:
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if entry.name.endswith(".ms")]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name)
