"""The steps of one group, as they run on a worker: plan and attempt in, small records out.

Each step holds the process's lock, because casacore and HDF5 are not safe under threads; any
worker with several threads simply works on one step at a time.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from contimg_dask.copying import allocated_bytes
from contimg_dask.errors import ContimgError, DisagreementError, NoSpaceError, OutputError
from contimg_dask.geometry import Geometry, geometry_of, part_geometry
from contimg_dask.model import (
    Attempt,
    ConversionPlan,
    PartRecord,
    Product,
    RowsRecord,
    StepRecord,
    Subband,
)
from contimg_dask.ms.columns import RowColumns, row_columns, row_convention
from contimg_dask.ms.concatenate import copy_parts
from contimg_dask.ms.skeleton import (
    make_skeleton,
    open_tile_files,
    place_tile_files,
)
from contimg_dask.ms.subtables import Observed, Window, put_subtables
from contimg_dask.ms.tiles import TileWriter
from contimg_dask.ms.verify import quick_check
from contimg_dask.ms.weights import put_band_weights
from contimg_dask.offline import earth_orientation_warning, use_packaged_tables
from contimg_dask.planning import table_bytes
from contimg_dask.publishing import publish, read_manifest, write_manifest
from contimg_dask.staging import (
    check_room,
    open_attempt_directory,
    prove_room,
    remove_attempt_directory,
)
from contimg_dask.uvh5.header import Axes, read_axes, read_frequencies
from contimg_dask.uvh5.reader import SubbandReader
from contimg_dask.uvh5.readers import reader_slot

_PROCESS_LOCK = threading.RLock()
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@functools.cache
def prepare_process() -> None:
    """Make this process ready for steps, once: time and Earth-orientation tables, without network."""
    use_packaged_tables()


@contextmanager
def _working(plan: ConversionPlan) -> Iterator[None]:
    """Hold the process's lock, and name what the operating system refuses."""
    with _PROCESS_LOCK:
        prepare_process()
        try:
            yield
        except OSError as error:
            raise _explained(plan, error) from error
        except OutputError as error:
            # casacore reports a full disk only in its text.
            if os.strerror(errno.ENOSPC) in str(error):
                raise NoSpaceError(_no_space_text(plan), path=plan.target) from error
            raise


def _explained(plan: ConversionPlan, error: OSError) -> ContimgError:
    where = error.filename or plan.target
    if error.errno in _NO_SPACE:
        return NoSpaceError(_no_space_text(plan), path=plan.target)
    if error.errno in _NO_PERMISSION:
        return OutputError(
            f"{where}: {error.strerror}: check owner and permissions, or give another output "
            f"directory",
            path=str(where),
        )
    return OutputError(f"{where}: {error.strerror or error}", code="io-error", path=str(where))


def _no_space_text(plan: ConversionPlan) -> str:
    return (
        f"{plan.staging_root}: the file system became full while {plan.group_id} was written, which "
        f"needs {plan.bytes_staged / 1e6:,.1f} MB: free some space"
    )


def _record(step: str, start_s: float) -> StepRecord:
    return StepRecord(step=step, start_s=start_s, stop_s=time.time(), node=socket.gethostname())


def open_attempt(plan: ConversionPlan, attempt: Attempt) -> StepRecord:
    """Make the attempt's directory where there is room for the product.

    Raises
    ------
    NoSpaceError, OutputError
        Nothing was made.
    """
    start_s = time.time()
    with _working(plan):
        check_room(Path(plan.staging_root), plan.bytes_staged)
        open_attempt_directory(attempt.directory)
    return _record("open", start_s)


def write_rows(plan: ConversionPlan, attempt: Attempt) -> RowsRecord:
    """Make the product without its bulk: headers, small columns and subtables.

    Raises
    ------
    InputError
        The first subband's header cannot be read, or gives no phase centre.
    OutputError, NoSpaceError
        The tables cannot be written.
    """
    start_s = time.time()
    with _working(plan):
        axes = read_axes(plan.subbands[0].header.path)
        columns = row_columns(axes, plan.options.phase_centre)
        _make_table(attempt.product, plan, geometry_of(plan), plan.subbands, axes, columns)
    late = earth_orientation_warning(float(columns.time_mjd_s.max()) / 86400.0)
    notes = columns.notes + ((late,) if late else ())
    return RowsRecord(step=_record("rows", start_s), notes=notes)


def _make_table(
    path: str,
    plan: ConversionPlan,
    geometry: Geometry,
    subbands: tuple[Subband, ...],
    axes: Axes,
    columns: RowColumns,
) -> None:
    prove_room(os.path.dirname(path), table_bytes(geometry.rows))
    make_skeleton(path, geometry, columns, axes.vis_units)
    observed = Observed(
        axes=axes,
        columns=columns,
        windows=_windows(subbands, geometry),
        products=subbands[0].header.products,
        telescope_name=plan.options.telescope_name,
        history=history_lines(plan),
    )
    put_subtables(path, observed)


def _windows(subbands: tuple[Subband, ...], geometry: Geometry) -> tuple[Window, ...]:
    width_hz = subbands[0].header.channel_width_hz
    each = [
        Window(name=s.name, freq_hz=read_frequencies(s.header.path), channel_width_hz=width_hz)
        for s in subbands
    ]
    if geometry.spw == "subband":
        return tuple(each)
    whole = np.concatenate([window.freq_hz for window in each])
    name = f"{each[-1].name}-{each[0].name}"
    return (Window(name=name, freq_hz=whole, channel_width_hz=width_hz),)


def history_lines(plan: ConversionPlan) -> tuple[str, ...]:
    """Return what HISTORY says: software, options, inputs."""
    options = plan.options
    return (
        f"contimg-dask {version('contimg-dask')}: group {plan.group_id}, {plan.mode}, plan "
        f"{plan.plan_hash[:16]}",
        f"options: telescope_name={options.telescope_name} phase_centre={options.phase_centre} "
        f"imaging_columns={options.imaging_columns} spw={options.spw}",
        "software: " + ", ".join(f"{name} {number}" for name, number in software().items()),
        *(f"input {s.name}: {os.path.basename(s.header.path)}" for s in plan.subbands),
        *(f"missing: sb{number:02d}" for number in plan.missing),
        *plan.notes,
    )


def software() -> dict[str, str]:
    """Return the versions that had a hand in the product."""
    names = ("contimg-dask", "pyuvdata", "python-casacore", "h5py", "numpy", "astropy", "pyerfa")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


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
    with _working(plan):
        axes = read_axes(subband.header.path)
        reader = SubbandReader(subband.header)
        convention = row_convention(axes, subband.header.products)
        copy_data = plan.options.imaging_columns == "copy"
        geometry, place, weight_file = geometry_of(plan), position, None
        path_of: Callable[[str], str] = attempt.tile_file
        if not plan.direct:
            part = attempt.part(subband)
            geometry, place = part_geometry(plan), 0
            columns = row_columns(axes, plan.options.phase_centre)
            _make_table(part, plan, geometry, (subband,), axes, columns)
            path_of = open_tile_files(part, geometry).__getitem__
        elif geometry.spw == "single":
            weight_file = attempt.weight_file(subband)
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
    )


def reduce_parts(
    plan: ConversionPlan, attempt: Attempt, rows: RowsRecord, parts: list[PartRecord]
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
    with _working(plan):
        if (read_manifest(Path(plan.target)) or {}).get("attempt") == attempt.name:
            # This step ran before, and its worker died before it could say so.
            remove_attempt_directory(attempt.directory)
            return _product(plan, attempt, False, {}, parts, rows.notes)
        _check_agreement(plan, parts)
        seconds = _spans(attempt, rows, parts)
        _join(plan, attempt, parts)
        seconds["reduce"] = time.time() - start_s
        checked_s = time.time()
        quick_check(
            attempt.product,
            geometry_of(plan),
            plan.subbands,
            read_axes(plan.subbands[0].header.path),
            imaging_columns=plan.options.imaging_columns,
        )
        seconds["verify"] = time.time() - checked_s
        _write_manifest(plan, attempt, seconds, parts, rows.notes)
        published_s = time.time()
        new = publish(attempt.product, plan)
        remove_attempt_directory(attempt.directory)
        seconds["publish"] = time.time() - published_s
        return _product(plan, attempt, new, seconds, parts, rows.notes)


def _join(plan: ConversionPlan, attempt: Attempt, parts: list[PartRecord]) -> None:
    geometry = geometry_of(plan)
    if plan.direct:
        written = {column.name for column in geometry.subband_columns} - {"MODEL_DATA"}
        if plan.options.imaging_columns != "copy":
            written -= {"CORRECTED_DATA"}
        staged = {name: attempt.tile_file(name) for name in written}
        place_tile_files(attempt.product, geometry, staged)
    else:
        copy_parts(attempt.product, geometry, [attempt.part(s) for s in plan.subbands])
    if geometry.spw == "single":
        uniform = all(part.weights_uniform for part in parts)
        files = open_tile_files(attempt.product, geometry)
        put_band_weights(files, geometry, _weight_files(plan, attempt), uniform)


def _weight_files(plan: ConversionPlan, attempt: Attempt) -> list[str]:
    """Return where each subband's own WEIGHT stands: a file, or the tiles of its part."""
    if plan.direct:
        return [attempt.weight_file(subband) for subband in plan.subbands]
    shape = part_geometry(plan)
    return [open_tile_files(attempt.part(s), shape)["WEIGHT"] for s in plan.subbands]


def _check_agreement(plan: ConversionPlan, parts: list[PartRecord]) -> None:
    """Hold every subband's axes against those most subbands have, so that the odd one is named."""
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
    seconds: dict[str, float],
    parts: list[PartRecord],
    notes: tuple[str, ...],
) -> None:
    facts = {
        "software": software(),
        "attempt": attempt.name,
        "node": socket.gethostname(),
        "seconds": {step: round(value, 4) for step, value in seconds.items()},
        "notes": [*plan.notes, *notes],
        "subbands": {
            part.subband: {
                "rows": part.rows,
                "values_flagged": part.values_flagged,
                "values_not_finite": part.values_not_finite,
                "reader": part.reader,
            }
            for part in parts
        },
    }
    write_manifest(attempt.product, plan, facts)


def _product(
    plan: ConversionPlan,
    attempt: Attempt,
    new: bool,
    seconds: dict[str, float],
    parts: list[PartRecord],
    notes: tuple[str, ...],
) -> Product:
    return Product(
        path=plan.target,
        newly_published=new,
        node=socket.gethostname(),
        bytes_out=allocated_bytes(plan.target),
        seconds=seconds | {"total": time.time() - attempt.submitted_s},
        parts=tuple(parts),
        notes=notes,
    )


def wait_until_idle() -> None:
    """Return when no step is running in this process."""
    with _PROCESS_LOCK:
        pass


def discard_attempt(attempt: Attempt) -> None:
    """Remove everything a failed or cancelled attempt wrote."""
    remove_attempt_directory(attempt.directory)
