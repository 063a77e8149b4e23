"""Steps of a group whose files lie on several nodes: parts are made there, and placed on one of them.

Each part is an attempt of its own on the node that has the file: one subband, staged in that node's
memory or scratch disk as plain arrays. Its bytes then go to the node that reduces, through Dask, and
are put where they belong in the product's tile files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contimg_dask.execution import steps
from contimg_dask.execution.explaining import explaining
from contimg_dask.execution.looking import put_look, taken_look
from contimg_dask.execution.node import at_this_node, this_node
from contimg_dask.execution.tables import Seen, see
from contimg_dask.geometry import WEIGHT, geometry_of, part_geometry
from contimg_dask.model import (
    Attempt,
    ConversionPlan,
    PartRecord,
    Product,
    RowsRecord,
    StepRecord,
)
from contimg_dask.ms.placing import put_subband, read_subband
from contimg_dask.planning import staged_bytes
from contimg_dask.staging.attempts import working_in
from contimg_dask.uvh5.header import read_frequencies


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Described:
    """What the reducing node needs of a file it does not see.

    ``freq_hz`` (channels,) ascending; ``seen`` of the first subband only.
    """

    freq_hz: npt.NDArray[np.float64]
    seen: Seen | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The product without its bulk, and what was read of the first file: it is not asked for again."""

    record: RowsRecord
    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sent:
    """The bytes of one subband on their way, by column; a column that is all zero is left out.

    ``look`` is the file of the look at it, for the quick-look, where one is wanted.
    """

    columns: Mapping[str, bytes]
    look: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the columns [bytes]."""
        return sum(map(len, self.columns.values()))


def part_plan(plan: ConversionPlan, position: int) -> ConversionPlan:
    """Return the plan of one part: that subband alone, staged where its node has room."""
    subband = plan.subbands[position]
    # The product's own layout and its copies of DATA are made where the part is placed.
    options = replace(plan.options, spw="subband", imaging_columns="zero")
    node = this_node()
    tiers = plan.tiers if node is None else (*node.tiers, plan.tiers[-1])
    return replace(
        plan,
        subbands=(subband,),
        options=options,
        tiers=tiers,
        direct=True,
        bytes_staged=staged_bytes((subband,), options, direct=True),
        bytes_product=0,
    )


def part_attempt(plan: ConversionPlan, attempt: Attempt, position: int) -> Attempt:
    """Return the attempt at one part."""
    return replace(attempt, name=f"{attempt.name}.{plan.subbands[position].name}")


def describe_part(plan: ConversionPlan, position: int) -> Described:
    """Read what the reducing node needs of this file.

    Raises
    ------
    InputError
        The header cannot be read, or the first one gives no phase centre.
    """
    subband = plan.subbands[position]
    with explaining(plan):
        return Described(
            freq_hz=read_frequencies(subband.header.path),
            seen=see((subband,), plan.options.phase_centre) if position == 0 else None,
        )


def open_part(plan: ConversionPlan, attempt: Attempt, position: int) -> StepRecord:
    """Reserve room for a part on its own node.

    Raises
    ------
    NoSpaceError, OutputError
        Nothing was made.
    """
    return steps.open_attempt(part_plan(plan, position), part_attempt(plan, attempt, position))


def write_part(plan: ConversionPlan, attempt: Attempt, position: int) -> PartRecord:
    """Read a subband once on its own node, and write its bulk there (`steps.write_part`)."""
    return steps.write_part(part_plan(plan, position), part_attempt(plan, attempt, position), 0)


def send_part(plan: ConversionPlan, attempt: Attempt, position: int) -> Sent:
    """Return the bytes of a part; Dask moves them to whoever places them.

    Raises
    ------
    AttemptGoneError
        The part was given up.
    """
    part = at_this_node(part_plan(plan, position))
    shape = part_geometry(part)
    with explaining(plan), working_in(part, part_attempt(plan, attempt, position)) as files:
        return Sent(
            columns=read_subband(shape, files.tile_file),
            look=taken_look(part, files, part.subbands[0]),
        )


def place_part(
    plan: ConversionPlan, attempt: Attempt, position: int, part: PartRecord, sent: Sent
) -> PartRecord:
    """Write the bytes of a part into the product's tile files, on the node that reduces.

    Raises
    ------
    NoSpaceError, OutputError
        They cannot be written.
    """
    plan = at_this_node(plan)
    geometry = geometry_of(plan)
    subband = plan.subbands[position]
    with explaining(plan), working_in(plan, attempt) as files:
        put_subband(
            geometry,
            position,
            sent.columns,
            files.tile_file,
            copy_data=plan.options.imaging_columns == "copy",
        )
        if geometry.spw == "single":
            zeros = bytes(geometry.subband_rows * part_geometry(plan).row_bits(WEIGHT) // 8)
            weight = sent.columns.get(WEIGHT.name, zeros)
            Path(files.weight_file(subband)).write_bytes(weight)
        put_look(files, subband, sent.look)
    return replace(
        part,
        step=replace(part.step, stop_s=time.time()),
        bytes_written=part.bytes_written + sent.size_bytes,
        moved_bytes=sent.size_bytes,
        moved_from=subband.header.node,
    )


def write_rows(plan: ConversionPlan, attempt: Attempt, described: list[Described]) -> Rows:
    """Make the product without its bulk, from what the nodes have read (`steps.write_rows`)."""
    seen = _seen(described)
    return Rows(record=steps.write_rows(plan, attempt, seen), seen=seen)


def reduce_parts(
    plan: ConversionPlan, attempt: Attempt, rows: Rows, parts: list[PartRecord]
) -> Product:
    """Join, verify and publish (`steps.reduce_parts`)."""
    return steps.reduce_parts(plan, attempt, rows.record, parts, rows.seen)


def discard_part(plan: ConversionPlan, attempt: Attempt, position: int) -> None:
    """Remove what a part has left on its node."""
    part = part_plan(plan, position)
    steps.discard_attempt(part, part_attempt(plan, attempt, position))


def _seen(described: list[Described]) -> Seen:
    first = described[0].seen
    assert first is not None  # `describe_part` of the first subband has it
    return replace(first, freq_hz=tuple(one.freq_hz for one in described))
