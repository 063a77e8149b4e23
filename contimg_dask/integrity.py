"""Tell a product that was used since its publication from one that is damaged.

Calibration writes FLAG, MODEL_DATA and CORRECTED_DATA; nothing has reason to change DATA or
WEIGHT_SPECTRUM, whose checksums the manifest keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contimg_dask.errors import ContimgError
from contimg_dask.geometry import IMAGING_COLUMNS, Geometry
from contimg_dask.ms.checksums import CHECKED_COLUMNS
from contimg_dask.ms.published import is_untouched, read_checksums
from contimg_dask.ms.verify import Finding
from contimg_dask.publishing.manifest import geometry_in, read_manifest, why_not_understood
from contimg_dask.publishing.targets import fault_of_product

_NEVER_WRITTEN = ("DATA", "WEIGHT_SPECTRUM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What reading a product through has shown: damage, and what was changed as tools do."""

    findings: tuple[Finding, ...]
    changes: tuple[str, ...] = ()


def check_integrity(
    product: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Integrity:
    """Read a product through and hold it against the checksums in its manifest.

    Parameters
    ----------
    product
        The Measurement Set.
    progress
        Called with (subbands read, subbands in all).
    """
    manifest = read_manifest(product)
    fault = fault_of_product(product, manifest)
    geometry = None if manifest is None else geometry_in(manifest)
    if manifest is not None and (newer := why_not_understood(manifest)) is not None:
        return Integrity(findings=(Finding(code="manifest-version", text=f"{product}: {newer}"),))
    if fault is not None or manifest is None or geometry is None:
        return _damaged(f"{product}: {fault}")
    wanted = _checksums_in(manifest)
    if wanted is None:
        text = (
            f"{product}: its manifest (version {manifest.get('manifest_version')}) has no "
            f"checksums: compare it with its input instead (--input)"
        )
        return Integrity(findings=(Finding(code="no-checksums", text=text),))
    try:
        return _compare(product, geometry, wanted, manifest, progress)
    except ContimgError as error:
        return _damaged(str(error))


def _damaged(text: str) -> Integrity:
    return Integrity(findings=(Finding(code="damaged", text=text),))


def _checksums_in(manifest: dict[str, Any]) -> dict[str, dict[str, str]] | None:
    """Return column to checksum by subband, in the product's order; None where one is missing."""
    try:
        found = {
            entry["subband"]: dict(manifest["subbands"][entry["subband"]]["checksums"])
            for entry in manifest["inputs"]
        }
    except (KeyError, TypeError, ValueError):
        return None
    whole = all(set(CHECKED_COLUMNS) <= set(sums) for sums in found.values())
    return found if whole else None


def _compare(
    product: Path,
    geometry: Geometry,
    wanted: dict[str, dict[str, str]],
    manifest: dict[str, Any],
    progress: Callable[[int, int], None],
) -> Integrity:
    findings: list[Finding] = []
    flagged = data_damaged = False
    for position, (subband, sums) in enumerate(wanted.items()):
        found = read_checksums(str(product), geometry, position)
        findings += [_damage(product, c, subband) for c in _NEVER_WRITTEN if found[c] != sums[c]]
        flagged |= found["FLAG"] != sums["FLAG"]
        data_damaged |= found["DATA"] != sums["DATA"]
        progress(position + 1, len(wanted))
    changes = ["FLAG"] if flagged else []
    copied = manifest.get("options", {}).get("imaging_columns") == "copy"
    if geometry.imaging_columns:
        for column in IMAGING_COLUMNS:
            as_data = copied and column.name == "CORRECTED_DATA"
            if as_data and data_damaged:
                continue  # a copy of what is damaged tells nothing
            if not is_untouched(str(product), column.name, geometry, as_data):
                changes.append(column.name)
    return Integrity(findings=tuple(findings), changes=tuple(changes))


def _damage(product: Path, column: str, subband: str) -> Finding:
    text = (
        f"{product}: {column} of {subband} is not what was published: damaged, or written over; "
        f"convert the group again with --on-existing replace, or compare it with its input"
    )
    return Finding(code="damaged", text=text)
