"""Make the table of a product or of a part: everything of it but its bulk columns."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from contimg_dask.geometry import Geometry
from contimg_dask.model import (
    AttemptFiles,
    ConversionPlan,
    PartRecord,
    PhaseCentre,
    Pointing,
    Subband,
)
from contimg_dask.ms.columns import RowColumns, row_columns
from contimg_dask.ms.skeleton import make_skeleton
from contimg_dask.ms.subtables import Observed, Window, put_subtables
from contimg_dask.planning import table_bytes
from contimg_dask.staging.room import prove_room
from contimg_dask.uvh5.header import Axes, read_axes, read_frequencies


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What the tables of a product need of its files: the rows of one, the channels of each.

    ``freq_hz`` are (channels,) of each subband, in the product's order, ascending.
    """

    axes: Axes
    columns: RowColumns
    freq_hz: tuple[npt.NDArray[np.float64], ...]


def see(subbands: tuple[Subband, ...], phase_centre: PhaseCentre) -> Seen:
    """Read what the tables need, of files that this node sees.

    Raises
    ------
    InputError
        A header cannot be read, or the first one gives no phase centre.
    """
    axes = read_axes(subbands[0].header.path)
    return Seen(
        axes=axes,
        columns=row_columns(axes, phase_centre),
        freq_hz=tuple(read_frequencies(subband.header.path) for subband in subbands),
    )


def make_table(
    path: str,
    plan: ConversionPlan,
    geometry: Geometry,
    subbands: tuple[Subband, ...],
    seen: Seen,
) -> None:
    """Make a Measurement Set of these subbands, with small columns and subtables.

    Raises
    ------
    OSError
        There is no room for it.
    OutputError
        casacore cannot write it.
    """
    prove_room(os.path.dirname(path), table_bytes(geometry.rows))
    make_skeleton(path, geometry, seen.columns, seen.axes.vis_units)
    observed = Observed(
        axes=seen.axes,
        columns=seen.columns,
        windows=_windows(subbands, seen.freq_hz, geometry),
        products=subbands[0].header.products,
        telescope_name=plan.options.telescope_name,
        history=history_lines(plan),
    )
    put_subtables(path, observed)


def pointing_of(axes: Axes, columns: RowColumns) -> Pointing:
    """Return when and where to the telescope looked."""
    begin_s = float(np.min(columns.time_mjd_s - 0.5 * columns.interval_s))
    end_s = float(np.max(columns.time_mjd_s + 0.5 * columns.interval_s))
    middle_s = 0.5 * (begin_s + end_s)
    row = int(np.argmin(np.abs(columns.time_mjd_s - middle_s)))
    field = int(columns.fields.of_row[row])
    drifts = axes.phase_type == "drift"
    return Pointing(
        begin_mjd=begin_s / 86400.0,
        middle_mjd=middle_s / 86400.0,
        end_mjd=end_s / 86400.0,
        ra_deg=float(np.degrees(columns.fields.lon_rad[field])) % 360.0,
        dec_deg=float(np.degrees(columns.fields.lat_rad[field])),
        declination_deg=(
            float(np.degrees(axes.app_dec_rad)) if drifts and axes.app_dec_rad is not None else None
        ),
    )


def _windows(
    subbands: tuple[Subband, ...],
    freq_hz: tuple[npt.NDArray[np.float64], ...],
    geometry: Geometry,
) -> tuple[Window, ...]:
    width_hz = subbands[0].header.channel_width_hz
    each = [
        Window(name=subband.name, freq_hz=channels_hz, channel_width_hz=width_hz)
        for subband, channels_hz in zip(subbands, freq_hz, strict=True)
    ]
    if geometry.spw == "subband":
        return tuple(each)
    whole = np.concatenate([window.freq_hz for window in each])
    name = f"{each[-1].name}-{each[0].name}"
    return (Window(name=name, freq_hz=whole, channel_width_hz=width_hz),)


def history_lines(plan: ConversionPlan) -> tuple[str, ...]:
    """Return what HISTORY says before a subband is read: software, options, inputs."""
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


def outcome_lines(
    files: AttemptFiles, parts: Iterable[PartRecord], seconds: dict[str, float]
) -> tuple[str, ...]:
    """Return what HISTORY says of the conversion itself, in short; the manifest has it in full."""
    spent = ", ".join(f"{step} {value:.2f} s" for step, value in seconds.items())
    return (
        f"made in tier {files.tier} ({files.tier_reason}): {spent}",
        *(
            f"{part.subband}: {part.rows} rows, {part.values_flagged} values flagged, "
            f"{part.values_not_finite} zeroed; DATA {part.checksums['DATA']}"
            for part in parts
        ),
    )


def software() -> dict[str, str]:
    """Return the versions that had a hand in the product."""
    names = ("contimg-dask", "pyuvdata", "python-casacore", "h5py", "numpy", "astropy", "pyerfa")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
