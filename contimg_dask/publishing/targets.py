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

    Manifests are read once per day directory, when first asked for.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._days: dict[str, list[tuple[float, Path]]] = {}

    def find(self, start_mjd: float, dates: tuple[str, ...]) -> Path | None:
        """Return a product that starts within 1 ms of ``start_mjd`` on one of these dates."""
        for date in dates:
            for found_mjd, path in self._day(date):
                if abs(found_mjd - start_mjd) <= SAME_START_TOLERANCE_D:
                    return path
        return None

    def _day(self, date: str) -> list[tuple[float, Path]]:
        if date not in self._days:
            products = (
                path
                for kind in PRODUCT_DIRECTORIES
                for path in sorted((self._output_dir / kind / date).glob("*.ms"))
            )
            self._days[date] = [
                (float(manifest["start_mjd"]), path)
                for path in products
                if (manifest := read_manifest(path))
                and isinstance(manifest.get("start_mjd"), int | float)
            ]
        return self._days[date]
