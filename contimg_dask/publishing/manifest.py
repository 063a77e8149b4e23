"""The manifest of a product: what it was made from and how, as JSON inside it.

Version 2 added checksums, the tier that was proposed and counts of zeroed values; version 1 stays
readable.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contimg_dask.geometry import Geometry, geometry_of
from contimg_dask.model import ConversionPlan, PartRecord, Pointing

MANIFEST_NAME = "contimg-manifest.json"
MANIFEST_VERSION = 2

_NUMBERS = ("subbands", "subband_rows", "channels", "products")
_LAYOUTS = ("subband", "single")


def write_manifest(directory: str, plan: ConversionPlan, facts: dict[str, Any]) -> None:
    """Write what the product was made from into it; ``facts`` are added at the top level."""
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "group": plan.group_id,
        "kind": plan.kind,
        "start_mjd": plan.start_mjd,
        "plan_hash": plan.plan_hash,
        "inputs": [
            {
                "subband": subband.name,
                "path": subband.header.path,
                "size_bytes": subband.header.size_bytes,
                "mtime_ns": subband.header.mtime_ns,
                "start_jd": subband.header.start_jd,
            }
            for subband in plan.subbands
        ],
        "windows": {
            subband.name: index if plan.options.spw == "subband" else 0
            for index, subband in enumerate(plan.subbands)
        },
        "missing": list(plan.missing),
        "unreadable": [asdict(file) for file in plan.unreadable],
        "options": asdict(plan.options),
        "geometry": asdict(geometry_of(plan)),
        "mode": plan.mode,
        "tier_proposed": plan.proposed_tier.name,
        **facts,
    }
    path = os.path.join(directory, MANIFEST_NAME)
    Path(path).write_text(json.dumps(manifest, indent=1) + "\n")


def subband_facts(parts: list[PartRecord]) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each subband; counts are of values."""
    return {
        part.subband: {
            "rows": part.rows,
            "values_flagged": part.values_flagged,
            "values_zeroed": part.values_not_finite,
            "reader": part.reader,
            "node": part.step.node,
            "moved_bytes": part.moved_bytes,
            "checksums": part.checksums,
        }
        for part in parts
    }


def read_manifest(product: Path) -> dict[str, Any] | None:
    """Return a product's manifest, or None when it has none that can be read."""
    try:
        manifest = json.loads((product / MANIFEST_NAME).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def why_not_understood(manifest: dict[str, Any]) -> str | None:
    """Return why a manifest cannot be used, or None: it may come from a newer version."""
    found = manifest.get("manifest_version")
    if isinstance(found, int) and 1 <= found <= MANIFEST_VERSION:
        return None
    return (
        f"its manifest is of version {found}, this contimg-dask knows up to {MANIFEST_VERSION}: "
        f"use the version that made it, or a newer one"
    )


def pointing_in(manifest: dict[str, Any]) -> Pointing | None:
    """Return when and where to a product was observed; None where its manifest does not say."""
    try:
        return Pointing(**manifest["pointing"])
    except (KeyError, TypeError):
        return None


def geometry_in(manifest: dict[str, Any]) -> Geometry | None:
    """Return the shape of the product as its manifest has it, or None."""
    try:
        geometry = Geometry(**manifest["geometry"])
    except (KeyError, TypeError):
        return None
    numbers = [manifest["geometry"].get(name) for name in _NUMBERS]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        return None
    return geometry if manifest["geometry"].get("spw", "subband") in _LAYOUTS else None
