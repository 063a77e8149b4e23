"""A published product as the catalogue has it: from the worker's word, or from its manifest."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from contimg_dask.catalogue.records import ProductRow, QueuedGroup
from contimg_dask.copying import allocated_bytes
from contimg_dask.model import ConversionPlan, Product
from contimg_dask.publishing.manifest import MANIFEST_NAME, pointing_in, read_manifest

COLUMNS = tuple(field.name for field in fields(ProductRow))


def csv_of(rows: Iterable[ProductRow]) -> str:
    """Return products as CSV, with a first line of names."""
    text = io.StringIO()
    table = ([getattr(row, column) for column in COLUMNS] for row in rows)
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *table])
    return text.getvalue()


def row_of_product(queued: QueuedGroup, plan: ConversionPlan, product: Product) -> ProductRow:
    """Return the row of a product that an attempt has made or found."""
    pointing = product.pointing
    return ProductRow(
        path=product.path,
        group_key=queued.key,
        group_id=queued.id,
        kind=plan.kind,
        output_dir=queued.output_dir,
        start_mjd=plan.start_mjd,
        begin_mjd=pointing.begin_mjd,
        middle_mjd=pointing.middle_mjd,
        end_mjd=pointing.end_mjd,
        ra_deg=pointing.ra_deg,
        dec_deg=pointing.dec_deg,
        declination_deg=pointing.declination_deg,
        bytes=product.bytes_out,
        status="published",
        plan_hash=plan.plan_hash,
        attempt=product.attempt,
        published_s=time.time(),
    )


def row_on_disk(path: str, *, group_key: int, output_dir: str) -> ProductRow | None:
    """Return the row of a product that stands on disk; None when it has no manifest of ours."""
    manifest = read_manifest(Path(path))
    if manifest is None:
        return None
    return row_of_manifest(path, manifest, group_key=group_key, output_dir=output_dir)


def row_of_manifest(
    path: str, manifest: dict[str, Any], *, group_key: int, output_dir: str
) -> ProductRow | None:
    """Return the row a manifest speaks of; None when it lacks what every manifest has."""
    pointing = pointing_in(manifest)  # the first version has none
    try:
        return ProductRow(
            path=path,
            group_key=group_key,
            group_id=str(manifest["group"]),
            kind=manifest["kind"],
            output_dir=output_dir,
            start_mjd=float(manifest["start_mjd"]),
            begin_mjd=pointing.begin_mjd if pointing else None,
            middle_mjd=pointing.middle_mjd if pointing else None,
            end_mjd=pointing.end_mjd if pointing else None,
            ra_deg=pointing.ra_deg if pointing else None,
            dec_deg=pointing.dec_deg if pointing else None,
            declination_deg=pointing.declination_deg if pointing else None,
            bytes=allocated_bytes(path),
            status="published",
            plan_hash=str(manifest["plan_hash"]),
            attempt=str(manifest.get("attempt", "")),
            # Written just before the product gets its name, and never again.
            published_s=os.stat(os.path.join(path, MANIFEST_NAME)).st_mtime,
        )
    except (KeyError, TypeError, ValueError, OSError):
        return None
