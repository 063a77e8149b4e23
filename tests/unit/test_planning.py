"""Which groups are converted, and what that takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contimg_dask.convert import convert_in_order
from contimg_dask.copying import allocated_bytes
from contimg_dask.execution import steps
from contimg_dask.geometry import (
    CORRECTED_DATA,
    DATA,
    FLAG,
    MODEL_DATA,
    WEIGHT_SPECTRUM,
    product_geometry,
)
from contimg_dask.model import (
    Group,
    ImagingColumns,
    ProductOptions,
    Publication,
    Reason,
    Subband,
    SubbandHeader,
    Tier,
    UnreadableFile,
)
from contimg_dask.naming import STAGING_DIRECTORY
from contimg_dask.planning import is_convertible, plan_group, propose_tiers, staged_bytes
from contimg_dask.staging.attempts import find_attempt
from tests.reference import new_attempt

if TYPE_CHECKING:
    from tests.unit.conftest import Converted

ID = "2025-10-05T03:12:06"
FULL_ROWS = 16 * 111_744


def subband(number: int, **changes: Any) -> Subband:
    centre_hz = 1492.890625e6 - number * 11.71875e6
    fields: dict[str, Any] = {
        "path": f"/in/{ID}_sb{number:02d}.hdf5",
        "size_bytes": 145_348_600,
        "mtime_ns": 1,
        "name_stamp": ID,
        "name_number": number,
        "start_jd": 2460953.63347734,
        "integrations": 24,
        "rows": 111_744,
        "channels": 48,
        "products": (-5, -6),
        "lowest_freq_hz": centre_hz - 23.5 * 244140.625,
        "highest_freq_hz": centre_hz + 23.5 * 244140.625,
        "channel_width_hz": 244140.625,
    }
    return Subband(number=number, header=SubbandHeader(**(fields | changes)))


def truncated(number: int) -> UnreadableFile:
    path = f"/in/{ID}_sb{number:02d}.hdf5"
    reason = Reason(code="truncated", text=f"{path}: the file is truncated; send it again")
    return UnreadableFile(path=path, name_stamp=ID, name_number=number, reason=reason)


def group(present: int, unreadable: int = 0, **changes: Any) -> Group:
    """A group of 16 with this many readable subbands, and the next ones unreadable."""
    fields: dict[str, Any] = {
        "id": ID,
        "start_jd": 2460953.63347734 if present else None,
        "subbands": tuple(subband(n) for n in reversed(range(present))),
        "expected": 16,
        "unreadable": tuple(truncated(n) for n in range(present, present + unreadable)),
    }
    return Group(**(fields | changes))


# ------------------------------------------------------------------------------ is_convertible


@pytest.mark.parametrize(
    ("present", "unreadable", "minimum", "code"),
    [
        (16, 0, 16, None),
        (15, 0, 16, "missing-subbands"),
        (15, 0, 15, None),
        (14, 0, 15, "missing-subbands"),
        (1, 0, 1, None),
        (0, 0, 1, "missing-subbands"),
        # a file that cannot be read counts as missing, but is never merely missing
        (15, 1, 16, "truncated"),
        (15, 1, 15, None),
        (14, 1, 15, "truncated"),
        (0, 16, 1, "truncated"),
        (16, 1, 16, None),
    ],
)
def test_a_group_is_converted_with_enough_readable_subbands(
    present: int, unreadable: int, minimum: int, code: str | None
) -> None:
    reason = is_convertible(group(present, unreadable), minimum)
    assert (reason.code if reason else None) == code


def test_an_incomplete_group_says_which_subbands_are_missing() -> None:
    reason = is_convertible(group(13), 15)
    assert reason is not None
    assert "13 of 16" in reason.text
    assert "at least 15" in reason.text
    assert "sb13, sb14, sb15" in reason.text


def test_a_group_that_fails_for_unreadable_files_names_the_first_and_counts_the_others() -> None:
    one, three = is_convertible(group(15, 1), 16), is_convertible(group(13, 3), 16)
    assert one is not None
    assert one.text == truncated(15).reason.text
    assert three is not None
    assert truncated(13).path in three.text
    assert "2 more" in three.text


def test_a_fault_fails_a_group_however_many_subbands_it_has() -> None:
    fault = Reason(code="duplicate-subband", text="twice")
    assert is_convertible(group(16, fault=fault), 1) == fault
    assert is_convertible(group(3, fault=fault), 16) == fault


@pytest.mark.parametrize(
    ("products", "code"),
    [
        ((-5, -6), None),
        ((-5, -7, -8, -6), None),
        ((-1, -2, -3, -4), None),
        ((1, 2, 3, 4), "unknown-products"),
        ((-5, 0), "unknown-products"),
    ],
)
def test_only_linear_and_circular_products_are_converted(
    products: tuple[int, ...], code: str | None
) -> None:
    subbands = tuple(subband(n, products=products) for n in reversed(range(16)))
    reason = is_convertible(group(16, subbands=subbands), 16)
    assert (reason.code if reason else None) == code
    if reason:
        assert subbands[0].header.path in reason.text


# --------------------------------------------------------------------------------- staged bytes


def full_scale() -> tuple[Subband, ...]:
    return tuple(subband(n) for n in reversed(range(16)))


def test_bulk_columns_have_the_known_sizes_at_full_scale() -> None:
    geometry = product_geometry(full_scale(), ProductOptions())
    assert geometry.rows == 1_787_904
    sizes = {c.name: geometry.file_bytes(c) for c in (DATA, WEIGHT_SPECTRUM, FLAG)}
    assert sizes == {
        "DATA": FULL_ROWS * 48 * 2 * 8,
        "WEIGHT_SPECTRUM": FULL_ROWS * 48 * 2 * 4,
        "FLAG": FULL_ROWS * 48 * 2 // 8,
    }
    assert [round(size / 1e6) for size in sizes.values()] == [1373, 687, 21]
    written_out = sum(sizes.values()) + sum(
        geometry.file_bytes(c) for c in (MODEL_DATA, CORRECTED_DATA)
    )
    assert written_out == pytest.approx(4.9e9, rel=0.02)


@pytest.mark.parametrize(
    ("imaging_columns", "bulk_gb"), [("zero", 2.08), ("none", 2.08), ("copy", 3.45)]
)
def test_a_direct_attempt_takes_little_more_than_its_bulk(
    imaging_columns: ImagingColumns, bulk_gb: float
) -> None:
    options = ProductOptions(imaging_columns=imaging_columns)
    needed = staged_bytes(full_scale(), options, direct=True)
    assert bulk_gb * 1e9 < needed < 1.1 * bulk_gb * 1e9


def test_parts_take_twice_the_space() -> None:
    direct = staged_bytes(full_scale(), ProductOptions(), direct=True)
    assert staged_bytes(full_scale(), ProductOptions(), direct=False) >= 2 * direct


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("imaging_columns", ["zero", "copy"])
def test_an_attempt_never_takes_more_than_was_planned(
    converted: Converted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    imaging_columns: ImagingColumns,
    direct: bool,
) -> None:
    options = ProductOptions(imaging_columns=imaging_columns)
    plan = dataclasses.replace(
        converted.plan,
        options=options,
        direct=direct,
        target=str(tmp_path / "product.ms"),
        tiers=propose_tiers(str(tmp_path)),
        bytes_staged=staged_bytes(converted.plan.subbands, options, direct=direct),
    )
    attempt = new_attempt()
    before = []

    def measured_reduce(*arguments: Any) -> Any:
        before.append(allocated_bytes(find_attempt(plan, attempt).directory))
        return reduce_parts(*arguments)

    reduce_parts = steps.reduce_parts
    monkeypatch.setattr(steps, "reduce_parts", measured_reduce)
    convert_in_order(plan, attempt)
    # Parts stand beside the product until it is whole; tile files move into it.
    most = before[0] + (0 if direct else allocated_bytes(plan.target))
    assert 0 < most <= plan.bytes_staged


# ------------------------------------------------------------------------------------ the tiers


def test_a_product_is_made_beside_its_place_if_nothing_else_is_asked_for() -> None:
    home = Tier(name="destination", root=f"/out/{STAGING_DIRECTORY}")
    assert propose_tiers("/out") == (home,)
    # A budget of memory bounds nothing else.
    assert propose_tiers("/out", tmpfs_budget_bytes=1) == (home,)


@pytest.mark.parametrize(
    ("tmpfs_path", "scratch_dir", "names"),
    [
        (None, None, ["destination"]),
        ("/dev/shm", None, ["tmpfs", "destination"]),
        (None, "/ssd", ["scratch", "destination"]),
        ("/dev/shm", "/ssd", ["tmpfs", "scratch", "destination"]),
    ],
)
def test_memory_goes_before_scratch_and_the_destination_is_always_the_last(
    tmpfs_path: str | None, scratch_dir: str | None, names: list[str]
) -> None:
    tiers = propose_tiers(
        "/out", tmpfs_path=tmpfs_path, tmpfs_budget_bytes=10**9, scratch_dir=scratch_dir
    )
    assert [tier.name for tier in tiers] == names
    roots = {"tmpfs": "/dev/shm", "scratch": "/ssd", "destination": "/out"}
    assert [tier.root for tier in tiers] == [f"{roots[n]}/{STAGING_DIRECTORY}" for n in names]
    assert [tier.budget_bytes for tier in tiers] == [
        10**9 if name == "tmpfs" else None for name in names
    ]


# -------------------------------------------------------------------------------------- the plan


def test_a_plan_holds_the_groups_own_files_and_what_it_takes() -> None:
    planned = group(15, 1, notes=("a note",))
    tiers = propose_tiers("/out", tmpfs_path="/dev/shm")
    publication = Publication(output_dir="/out", mode=0o664)
    plan = plan_group(
        planned,
        kind="calibrator",
        options=ProductOptions(telescope_name="OVRO_MMA"),
        target="/out/x.ms",
        tiers=tiers,
        direct=False,
        parallel=True,
        on_existing="fail",
        publication=publication,
        max_readers=3,
    )
    assert (plan.group_id, plan.start_jd) == (ID, planned.start_jd)
    assert plan.subbands == planned.subbands
    assert (plan.missing, plan.unreadable) == ((15,), (truncated(15),))
    assert plan.notes == ("a note",)
    assert (plan.kind, plan.target, plan.tiers) == ("calibrator", "/out/x.ms", tiers)
    assert (plan.mode, plan.on_existing) == ("parts-parallel", "fail")
    assert (plan.publication, plan.max_readers) == (publication, 3)
    assert plan.options.telescope_name == "OVRO_MMA"
    # Parts stand beside the product while it is staged; only the product is copied out.
    assert plan.bytes_staged == staged_bytes(planned.subbands, plan.options, direct=False)
    assert plan.bytes_product == staged_bytes(planned.subbands, plan.options, direct=True)


def test_a_product_never_takes_more_than_was_planned_for_its_copy(converted: Converted) -> None:
    assert 0 < allocated_bytes(str(converted.product)) <= converted.plan.bytes_product
