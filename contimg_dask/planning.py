"""Group and settings in, conversion plan out: numbers only, nothing is touched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise

from contimg_dask.geometry import product_geometry
from contimg_dask.model import (
    ConversionPlan,
    Group,
    Kind,
    OnExisting,
    ProductOptions,
    Publication,
    Reason,
    SpectralWindows,
    Subband,
    Tier,
)
from contimg_dask.naming import STAGING_DIRECTORY
from contimg_dask.settings import Settings

_ROW_BYTES = 80
"""Small columns per row, rounded up: UVW 24, antennas 8, storage managers' own [bytes]."""
_TABLE_BYTES = 4_000_000
"""Headers and subtables of one Measurement Set, rounded up [bytes]."""
_QUICKLOOK_BYTES = 500_000
"""Small files of a quick-look, rounded up [bytes]."""
_SUM_BYTES = 16
"""A sum of amplitudes 8, how many there were 4, and the mean 4 [bytes]."""
_BASELINE_BYTES = 256
"""Names of two antennas, u and v at three times, twice, rounded up [bytes]."""
_CASACORE_CODES = frozenset({-1, -2, -3, -4, -5, -6, -7, -8})


def options_of(settings: Settings) -> ProductOptions:
    """Return the settings that change values in the product."""
    return ProductOptions(
        telescope_name=settings.telescope_name,
        imaging_columns=settings.imaging_columns,
        phase_centre=settings.phase_centre,
        spw=settings.spw,
    )


def is_convertible(
    group: Group, min_subbands: int, spw: SpectralWindows = "subband"
) -> Reason | None:
    """Return why a group must not be converted, or None.

    The reason code is ``missing-subbands`` when it is merely incomplete, which is no error;
    every other code is a failure.
    """
    if group.fault is not None:
        return group.fault
    if len(group.subbands) < min_subbands:
        if group.unreadable:
            first = group.unreadable[0].reason
            others = len(group.unreadable) - 1
            more = f" (and {others} more unreadable)" if others else ""
            return Reason(code=first.code, text=first.text + more)
        return Reason(
            code="missing-subbands",
            text=f"{len(group.subbands)} of {group.expected} subbands present, at least "
            f"{min_subbands} needed; missing: {', '.join(f'sb{n:02d}' for n in group.missing)}",
        )
    if spw == "single" and (gap := _band_gap(group)) is not None:
        return Reason(
            code="band-not-whole",
            text=f"group {group.id}: the band has a gap after {gap.header.path}, and a single window "
            f"needs every subband: use --spw subband",
        )
    strange = set(group.subbands[0].header.products) - _CASACORE_CODES
    if strange:
        return Reason(
            code="unknown-products",
            text=f"{group.subbands[0].header.path}: correlation products {sorted(strange)} are "
            f"neither linear nor circular; convert them with pyuvdata first",
        )
    return None


def _band_gap(group: Group) -> Subband | None:
    """Return the last subband before a gap in the band, or None when it is whole."""
    for lower, upper in pairwise(group.subbands):
        step_hz = upper.header.lowest_freq_hz - lower.header.highest_freq_hz
        if abs(step_hz - lower.header.channel_width_hz) > 0.1 * lower.header.channel_width_hz:
            return lower
    return group.subbands[-1] if group.missing else None


def staged_bytes(subbands: Sequence[Subband], options: ProductOptions, *, direct: bool) -> int:
    """Return a bound on what an attempt writes, exact for the bulk columns [bytes]."""
    geometry = product_geometry(subbands, options)
    copied = options.imaging_columns == "copy"
    product = geometry.bulk_bytes(corrected=copied) + table_bytes(geometry.rows)
    product += quicklook_bytes(subbands)
    if direct:
        return product
    # Parts stand beside the product until they are concatenated, each with its own headers.
    return 2 * product + len(subbands) * _TABLE_BYTES


def quicklook_bytes(subbands: Sequence[Subband]) -> int:
    """Return a bound on what a quick-look takes, with what it is put together from [bytes]."""
    total = _QUICKLOOK_BYTES
    for header in (subband.header for subband in subbands):
        baselines = math.ceil(header.rows / max(1, header.integrations))
        sums = header.integrations + math.isqrt(2 * baselines) + 1
        total += sums * header.channels * len(header.products) * _SUM_BYTES
    baselines = math.ceil(subbands[0].header.rows / max(1, subbands[0].header.integrations))
    return total + baselines * _BASELINE_BYTES


def table_bytes(rows: int) -> int:
    """Return a bound on what casacore writes for a table of so many rows, its bulk aside [bytes]."""
    return rows * _ROW_BYTES + _TABLE_BYTES


def propose_tiers(
    output_dir: str,
    *,
    tmpfs_path: str | None = None,
    tmpfs_budget_bytes: int | None = None,
    scratch_dir: str | None = None,
) -> tuple[Tier, ...]:
    """Return the tiers to try, in order: memory and scratch disk where asked for, then the output's.

    Which one it becomes is decided where the group is converted, by what can be reserved there.
    """
    tiers = []
    if tmpfs_path is not None:
        root = os.path.join(tmpfs_path, STAGING_DIRECTORY)
        tiers.append(Tier(name="tmpfs", root=root, budget_bytes=tmpfs_budget_bytes))
    if scratch_dir is not None:
        tiers.append(Tier(name="scratch", root=os.path.join(scratch_dir, STAGING_DIRECTORY)))
    home = Tier(name="destination", root=os.path.join(output_dir, STAGING_DIRECTORY))
    return (*tiers, home)


def plan_group(
    group: Group,
    *,
    kind: Kind,
    options: ProductOptions,
    target: str,
    tiers: tuple[Tier, ...],
    direct: bool,
    parallel: bool,
    on_existing: OnExisting,
    publication: Publication,
    max_readers: int | None = None,
    quicklook: bool = True,
) -> ConversionPlan:
    """Return the plan of a group that `is_convertible`; ``tiers`` as `propose_tiers` has them."""
    assert group.start_jd is not None  # a group with readable subbands has a start time
    return ConversionPlan(
        group_id=group.id,
        kind=kind,
        start_jd=group.start_jd,
        subbands=group.subbands,
        missing=group.missing,
        unreadable=group.unreadable,
        notes=group.notes,
        options=options,
        target=target,
        tiers=tiers,
        direct=direct,
        parallel=parallel,
        on_existing=on_existing,
        bytes_staged=staged_bytes(group.subbands, options, direct=direct),
        bytes_product=staged_bytes(group.subbands, options, direct=True),
        max_readers=max_readers,
        quicklook=quicklook,
        publication=publication,
    )
