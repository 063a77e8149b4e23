"""Finished products for tests: staged again for other attempts, looked into, compared."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import casacore.tables as tables

from contimg_dask.model import Attempt, ConversionPlan, Publication
from contimg_dask.naming import product_path
from contimg_dask.planning import propose_tiers
from contimg_dask.publishing.manifest import MANIFEST_NAME
from tests.unit.plans import attempt_called

if TYPE_CHECKING:
    from tests.unit.conftest import Converted

ATTEMPT = attempt_called("2025-10-05T03:12:06.1.0a1b2c3d")


def plan_into(converted: Converted, output: Path, **changes: Any) -> ConversionPlan:
    """The plan of the converted group, for another output directory."""
    fields: dict[str, Any] = {
        "target": str(product_path(output, converted.plan.group_id, "science")),
        "tiers": propose_tiers(str(output)),
        "publication": Publication(output_dir=str(output)),
    }
    return dataclasses.replace(converted.plan, **(fields | changes))


def publishing_with(plan: ConversionPlan, **changes: Any) -> ConversionPlan:
    """The same plan, published in another way."""
    publication = dataclasses.replace(plan.publication, **changes)
    return dataclasses.replace(plan, publication=publication)


def stage(converted: Converted, plan: ConversionPlan, attempt: Attempt = ATTEMPT) -> str:
    """Put a finished product where an attempt at the plan has made it, with its manifest."""
    staged = Path(plan.proposed_tier.root) / attempt.name / "0a1b2c3d-product.ms"
    staged.parent.mkdir(parents=True)
    copy(converted.product, staged)
    change_manifest(staged, attempt=attempt.name)
    return str(staged)


def change_manifest(product: Path, **changes: Any) -> None:
    """Change what a manifest says at its top level; an ellipsis removes the entry."""
    path = product / MANIFEST_NAME
    manifest = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({name: value for name, value in manifest.items() if value is not ...})
    )


def copy(source: Path, target: Path) -> None:
    """Copy a directory, its holes kept."""
    shutil.copytree(source, target, copy_function=_copy_sparse)


def _copy_sparse(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        content = read.read()
        if content.strip(b"\0"):
            write.write(content)
        write.truncate(len(content))


def content_of(directory: Path) -> dict[str, bytes]:
    """Every file of a directory, by its path in it."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def state_of(path: Path) -> Any:
    """All there is to see of a file, link or directory, to tell that nobody touched it."""
    status = os.lstat(path)
    times = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    if path.is_symlink():
        return times, os.readlink(path)
    return times, content_of(path) if path.is_dir() else path.read_bytes()


def bulk_file(product: Path, column: str) -> Path:
    """The tile file of a column, found through casacore."""
    with tables.table(str(product), ack=False) as table:
        (number,) = (
            manager["SEQNR"]
            for manager in table.getdminfo().values()
            if column in manager["COLUMNS"]
        )
    return product / f"table.f{number}_TSM0"
