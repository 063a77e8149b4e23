"""Plans and attempts with no files behind them, for what looks only at their paths and sizes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from contimg_dask.model import Attempt, ConversionPlan, Owner, ProductOptions, Publication, Tier
from contimg_dask.naming import STAGING_DIRECTORY, product_path
from contimg_dask.staging.owners import current_owner

ID = "2025-10-05T03:12:06"
MB = 1_000_000
BLOCK = 4096
"""File systems hand out space in pieces of this size [bytes]."""


def bare_plan(output: Path, *tiers: Tier, **changes: Any) -> ConversionPlan:
    """A plan to publish below ``output``, staged in the first of these tiers that has room."""
    home = Tier(name="destination", root=str(output / STAGING_DIRECTORY))
    fields: dict[str, Any] = {
        "group_id": ID,
        "kind": "science",
        "start_jd": 2460953.63347734,
        "subbands": (),
        "missing": (),
        "unreadable": (),
        "notes": (),
        "options": ProductOptions(),
        "target": str(product_path(output, ID, "science")),
        "tiers": (*tiers, home),
        "direct": True,
        "parallel": False,
        "on_existing": "skip",
        "bytes_staged": 2 * MB,
        "bytes_product": 2 * MB,
        "publication": Publication(output_dir=str(output)),
    }
    return ConversionPlan(**(fields | changes))


def attempt_called(name: str, owner: Owner | None = None) -> Attempt:
    """An attempt of this process, or of another one."""
    return Attempt(number=1, name=name, submitted_s=0.0, owner=owner or current_owner())


def entries(directory: Path) -> list[str]:
    """Names of all there is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def open_descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def write_blocks(path: Path, blocks: int) -> None:
    """Make a file that takes exactly so much space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * BLOCK * blocks)
