"""What is written down of a group's outcome: its record, and the file under ``failed/``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from contimg_dask.deciding import record_of
from contimg_dask.errors import ContimgError
from contimg_dask.model import (
    ConversionPlan,
    Group,
    GroupRecord,
    Product,
    Publication,
    Reason,
)
from contimg_dask.publishing.failed import remove_failed_record, write_failed_record


def record_of_attempt(
    group: Group,
    plan: ConversionPlan,
    *,
    node: str,
    attempts: int,
    product: Product | None,
    error: ContimgError | None,
) -> GroupRecord:
    """Return the record of a group that was handed to the cluster: its product, or its error."""
    planned = record_of(group, "failed" if product is None else "published", plan=plan)
    record = replace(planned, node=node, attempts=attempts)
    if product is not None:
        bad = sum(part.values_not_finite for part in product.parts)
        zeroed = (f"{bad} values were not finite: set to 0, flagged",) if bad else ()
        record = replace(
            record,
            path=product.path,
            tier=product.tier,
            tier_reason=product.tier_reason,
            bytes_out=product.bytes_out,
            seconds={step: round(value, 4) for step, value in product.seconds.items()},
            notes=group.notes + product.notes + zeroed,
        )
    if error is not None:
        record = replace(record, reason=Reason(code=error.code, text=str(error)))
    return record


def keep_record(record: GroupRecord, group: Group, publication: Publication) -> GroupRecord:
    """Keep the failed record on disk in step with the outcome; return the record, maybe with a note."""
    output_dir = publication.output_dir
    if record.outcome in ("published", "skipped"):
        remove_failed_record(Path(output_dir), record.id)
    elif record.outcome == "failed":
        inputs = [subband.header.path for subband in group.subbands]
        inputs += [file.path for file in group.unreadable]
        try:
            write_failed_record(publication, record, inputs)
        except (OSError, ContimgError) as error:
            text = f"no record was left ({output_dir}: {getattr(error, 'strerror', error)})"
            return replace(record, notes=(*record.notes, text))
    return record
