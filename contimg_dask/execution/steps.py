"""The steps of one group, as they run on a worker: plan and attempt in, small records out.

Each step holds the process's lock, because casacore and HDF5 are not safe under threads; any
worker with several threads simply works on one step at a time. It also keeps its attempt alive by
holding the attempt's record.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from contimg_dask.copying import allocated_bytes, sync_path
from contimg_dask.errors import (
    AttemptGoneError,
    ContimgError,
)
from contimg_dask.execution.explaining import PROCESS_LOCK, explaining
from contimg_dask.execution.joining import check_agreement, join, place_tiles
from contimg_dask.execution.looking import (
    add_quicklook,
    keep_rows,
    keep_subband,
    looker_of,
    quicklook_in,
)
from contimg_dask.execution.node import on_this_node
from contimg_dask.execution.observing import observed
from contimg_dask.execution.tables import (
    Seen,
    make_table,
    outcome_lines,
    pointing_of,
    see,
    software,
)
from contimg_dask.geometry import geometry_of, part_geometry
from contimg_dask.model import (
    Attempt,
    AttemptFiles,
    ConversionPlan,
    PartRecord,
    Product,
    RowsRecord,
    StepRecord,
)
from contimg_dask.ms.columns import row_convention
from contimg_dask.ms.skeleton import open_tile_files
from contimg_dask.ms.subtables import append_history
from contimg_dask.ms.tiles import TileWriter
from contimg_dask.ms.verify import quick_check
from contimg_dask.offline import earth_orientation_warning
from contimg_dask.publishing.committing import publish
from contimg_dask.publishing.failed import keep_failed
from contimg_dask.publishing.manifest import read_manifest, subband_facts, write_manifest
from contimg_dask.publishing.ownership import make_directories
from contimg_dask.staging import attempts
from contimg_dask.staging.attempts import remove_attempt, working_in
from contimg_dask.uvh5.header import read_axes
from contimg_dask.uvh5.reader import SubbandReader
from contimg_dask.uvh5.readers import reader_slot


@contextmanager
def _working(plan: ConversionPlan, attempt: Attempt) -> Iterator[AttemptFiles]:
    """Work in the attempt's directory, and tell when it was taken away meanwhile.

    Raises
    ------
    AttemptGoneError
        The attempt was given up; whatever else went wrong followed from that.
    """
    with explaining(plan), working_in(plan, attempt) as files:
        try:
            yield files
        except (OSError, ContimgError) as error:
            if not os.path.isdir(files.directory):
                raise AttemptGoneError(f"attempt {attempt.name} was given up") from error
            if isinstance(error, OSError) and error.filename is None:
                error.filename = files.directory  # what is written elsewhere names its files
            raise


def _record(step: str, start_s: float) -> StepRecord:
    return StepRecord(step=step, start_s=start_s, stop_s=time.time(), node=socket.gethostname())


@on_this_node
@observed("open")
def open_attempt(plan: ConversionPlan, attempt: Attempt) -> StepRecord:
    """Reserve room for the product and make the attempt's directory there.

    Raises
    ------
    NoSpaceError, OutputError
        Nothing was made.
    """
    start_s = time.time()
    with explaining(plan):
        if plan.publication.output_dir:
            # Where that cannot be done, opening the attempt says why.
            with contextlib.suppress(OSError):
                for made in make_directories(Path(plan.publication.output_dir), plan.publication):
                    sync_path(str(made.parent))
        attempts.open_attempt(plan, attempt)
    return _record("open", start_s)


@on_this_node
@observed("rows")
def write_rows(
    plan: ConversionPlan, attempt: Attempt, seen_elsewhere: Seen | None = None
) -> RowsRecord:
    """Make the product without its bulk: headers, small columns and subtables.

    Parameters
    ----------
    plan, attempt
        Of the group.
    seen_elsewhere
        What other nodes have read of the files, where this one does not see them.

    Raises
    ------
    InputError
        The first subband's header cannot be read, or gives no phase centre.
    OutputError, NoSpaceError
        The tables cannot be written.
    """
    start_s = time.time()
    with _working(plan, attempt) as files:
        seen = seen_elsewhere or see(plan.subbands, plan.options.phase_centre)
        product = files.unused("product.ms")
        make_table(product, plan, geometry_of(plan), plan.subbands, seen)
        keep_rows(plan, files, seen)
    late = earth_orientation_warning(float(seen.columns.time_mjd_s.max()) / 86400.0)
    notes = seen.columns.notes + ((late,) if late else ())
    return RowsRecord(
        step=_record("rows", start_s),
        product=product,
        pointing=pointing_of(seen.axes, seen.columns),
        notes=notes,
    )


@on_this_node
@observed("part")
def write_part(plan: ConversionPlan, attempt: Attempt, position: int) -> PartRecord:
    """Read one subband once and write its bulk columns.

    In direct mode they go into the product's tile files, else into a Measurement Set of their own.

    Raises
    ------
    InputError
        The file is truncated, changes while it is read, or cannot be read.
    """
    start_s = time.time()
    subband = plan.subbands[position]
    with _working(plan, attempt) as files:
        axes = read_axes(subband.header.path)
        reader = SubbandReader(subband.header)
        convention = row_convention(axes, subband.header.products)
        copy_data = plan.options.imaging_columns == "copy"
        geometry, place, weight_file = geometry_of(plan), position, None
        path_of: Callable[[str], str] = files.tile_file
        part = None
        if not plan.direct:
            part = files.unused(f"{subband.name}.ms")
            geometry, place = part_geometry(plan), 0
            seen = see((subband,), plan.options.phase_centre)
            make_table(part, plan, geometry, (subband,), seen)
            path_of = open_tile_files(part, geometry).__getitem__
        elif geometry.spw == "single":
            weight_file = files.weight_file(subband)
        looker = looker_of(plan, subband, axes)
        not_finite = 0
        with (
            reader_slot(subband.header.path, plan.max_readers),
            TileWriter(
                geometry, place, path_of, weight_file=weight_file, copy_data=copy_data
            ) as writer,
        ):
            for block in reader.blocks():
                not_finite += convention.apply(block)
                writer.write(block)
                if looker is not None:
                    looker.look(block)
        keep_subband(files, subband, looker)
    return PartRecord(
        subband=subband.name,
        step=_record("part", start_s),
        rows=subband.header.rows,
        bytes_read=reader.bytes_read,
        bytes_written=writer.counts.bytes_written,
        values_flagged=writer.counts.values_flagged,
        values_not_finite=not_finite,
        weights_uniform=writer.counts.weights_uniform,
        reader=reader.method,
        digests=axes.digests(),
        checksums=writer.checksums,
        part=part,
    )


@on_this_node
@observed("reduce")
def reduce_parts(
    plan: ConversionPlan,
    attempt: Attempt,
    rows: RowsRecord,
    parts: list[PartRecord],
    seen_elsewhere: Seen | None = None,
) -> Product:
    """Put the parts together, verify the product, publish it and remove the attempt.

    Raises
    ------
    DisagreementError
        The subbands do not share their rows.
    VerificationError
        The product does not hold what the input holds.
    TargetOccupiedError
        Something else stands at the target by now.
    """
    start_s = time.time()
    if (read_manifest(Path(plan.target)) or {}).get("attempt") == attempt.name:
        # This step ran before, and its worker died before it could say so.
        return _published_before(plan, attempt, rows, parts)
    with _working(plan, attempt) as files:
        check_agreement(plan, parts)
        seconds = _spans(attempt, rows, parts)
        notes = (*rows.notes, *join(plan, files, rows.product, parts))
        notes += add_quicklook(plan, files, rows.product)
        seconds["reduce"] = time.time() - start_s
        checked_s = time.time()
        quick_check(
            rows.product,
            geometry_of(plan),
            plan.subbands,
            seen_elsewhere.axes if seen_elsewhere else read_axes(plan.subbands[0].header.path),
            imaging_columns=plan.options.imaging_columns,
        )
        seconds["verify"] = time.time() - checked_s
        append_history(rows.product, outcome_lines(files, parts, seconds))
        _write_manifest(plan, attempt, files, rows, seconds, parts, notes)
        published_s = time.time()
        winner = publish(rows.product, plan, attempt)
    remove_attempt(plan, attempt)
    seconds["publish"] = time.time() - published_s
    rows = replace(rows, notes=notes)
    return _product(plan, attempt, winner, files, rows, seconds, parts)


def _published_before(
    plan: ConversionPlan, attempt: Attempt, rows: RowsRecord, parts: list[PartRecord]
) -> Product:
    manifest = read_manifest(Path(plan.target)) or {}
    files = AttemptFiles(
        directory="",
        tier=manifest.get("tier", plan.proposed_tier.name),
        tier_reason=manifest.get("tier_reason", ""),
    )
    remove_attempt(plan, attempt)
    seconds = manifest.get("seconds", {})
    return _product(plan, attempt, attempt.name, files, rows, seconds, parts)


def _spans(attempt: Attempt, rows: RowsRecord, parts: list[PartRecord]) -> dict[str, float]:
    """Return wall-clock seconds of the steps that run side by side."""
    first = min(part.step.start_s for part in parts)
    return {
        "wait": min(first, rows.step.start_s) - attempt.submitted_s,
        "rows": rows.step.stop_s - rows.step.start_s,
        "parts": max(part.step.stop_s for part in parts) - first,
    }


def _write_manifest(
    plan: ConversionPlan,
    attempt: Attempt,
    files: AttemptFiles,
    rows: RowsRecord,
    seconds: dict[str, float],
    parts: list[PartRecord],
    notes: tuple[str, ...],
) -> None:
    facts = {
        "tier": files.tier,
        "tier_reason": files.tier_reason,
        "software": software(),
        "attempt": attempt.name,
        "node": socket.gethostname(),
        "seconds": {step: round(value, 4) for step, value in seconds.items()},
        "notes": [*plan.notes, *notes],
        "quicklook": quicklook_in(rows.product),
        "pointing": asdict(rows.pointing),
        "subbands": subband_facts(parts),
    }
    write_manifest(rows.product, plan, facts)


def _product(
    plan: ConversionPlan,
    attempt: Attempt,
    winner: str,
    files: AttemptFiles,
    rows: RowsRecord,
    seconds: dict[str, float],
    parts: list[PartRecord],
) -> Product:
    return Product(
        path=plan.target,
        attempt=winner,
        tier=files.tier,
        tier_reason=files.tier_reason,
        pointing=rows.pointing,
        node=socket.gethostname(),
        bytes_out=allocated_bytes(plan.target),
        seconds=seconds | {"total": time.time() - attempt.submitted_s},
        parts=tuple(parts),
        notes=rows.notes,
    )


def wait_until_idle() -> None:
    """Return when no step is running in this process."""
    with PROCESS_LOCK:
        pass


@on_this_node
@observed("discard")
def discard_attempt(plan: ConversionPlan, attempt: Attempt, keep: bool = False) -> None:
    """Remove everything a failed or cancelled attempt wrote, but what there is of its product.

    Parameters
    ----------
    plan, attempt
        What to remove.
    keep
        Keep the half-made Measurement Set beside the record of the failed group.
    """
    if keep:
        _keep_half_made(plan, attempt)
    remove_attempt(plan, attempt)


def _keep_half_made(plan: ConversionPlan, attempt: Attempt) -> None:
    """Keep the product as far as it got: its headers, and the bulk that was written."""
    with PROCESS_LOCK, contextlib.suppress(ContimgError, OSError):
        files = attempts.find_attempt(plan, attempt)
        made = sorted(Path(files.directory).glob("*-product.ms"))
        if made and plan.direct:
            with contextlib.suppress(ContimgError, OSError):
                place_tiles(plan, files, str(made[0]))
        kept = made or sorted(Path(files.directory).glob("*.ms"))
        if kept:
            staging = os.path.join(plan.home_root, attempt.name)
            keep_failed(str(kept[0]), plan.group_id, plan.publication, staging)
