"""The nouns: what they add up to, and what makes two plans the same product."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from contimg_dask.model import (
    AttemptFiles,
    ConversionPlan,
    Group,
    GroupRecord,
    ProductOptions,
    Publication,
    Reason,
    Subband,
    SubbandHeader,
    Tier,
    UnreadableFile,
)

ID = "2025-10-05T03:12:06"
START_JD = 2460953.63347734


def subband(number: int, **changes: Any) -> Subband:
    centre_hz = 1492.890625e6 - number * 11.71875e6
    fields: dict[str, Any] = {
        "path": f"/in/{ID}_sb{number:02d}.hdf5",
        "size_bytes": 145_348_600 + number,
        "mtime_ns": 1,
        "name_stamp": ID,
        "name_number": number,
        "start_jd": START_JD,
        "integrations": 24,
        "rows": 111_744,
        "channels": 48,
        "products": (-5, -6),
        "lowest_freq_hz": centre_hz - 23.5 * 244140.625,
        "highest_freq_hz": centre_hz + 23.5 * 244140.625,
        "channel_width_hz": 244140.625,
    }
    return Subband(number=number, header=SubbandHeader(**(fields | changes)))


UNREADABLE = UnreadableFile(
    path=f"/in/{ID}_sb02.hdf5",
    name_stamp=ID,
    name_number=2,
    reason=Reason(code="truncated", text="cut"),
)

PLAN = ConversionPlan(
    group_id=ID,
    kind="science",
    start_jd=START_JD,
    subbands=(subband(3), subband(1), subband(0)),
    missing=(2,),
    unreadable=(),
    notes=(),
    options=ProductOptions(),
    target=f"/out/science/2025-10-05/{ID}.ms",
    tiers=(Tier(name="destination", root="/out/.contimg-staging"),),
    direct=True,
    parallel=True,
    on_existing="skip",
    bytes_staged=1,
    bytes_product=1,
)
TMPFS = Tier(name="tmpfs", root="/dev/shm/.contimg-staging", budget_bytes=10**9)


def with_header(plan: ConversionPlan, **changes: Any) -> ConversionPlan:
    first, *others = plan.subbands
    header = dataclasses.replace(first.header, **changes)
    return dataclasses.replace(plan, subbands=(dataclasses.replace(first, header=header), *others))


# ------------------------------------------------------------------------------- the plan's hash


def test_the_hash_of_a_plan_is_the_same_in_every_version() -> None:
    # Published products carry it: with another one, each of them would count as something else.
    pinned = "e513796b91303dcd8ebc012a733e1f9c4c8657264e342d1ab70df477781af01c"
    assert PLAN.plan_hash == pinned


OTHER_PRODUCT: dict[str, Callable[[ConversionPlan], ConversionPlan]] = {
    "size of a file": lambda p: with_header(p, size_bytes=145_348_604),
    "start, by the smallest step": lambda p: with_header(
        p, start_jd=math.nextafter(START_JD, math.inf)
    ),
    "number of a subband": lambda p: dataclasses.replace(
        p, subbands=(dataclasses.replace(p.subbands[0], number=4), *p.subbands[1:])
    ),
    "one subband less": lambda p: dataclasses.replace(p, subbands=p.subbands[1:]),
    "one subband more": lambda p: dataclasses.replace(p, subbands=(*p.subbands, subband(2))),
    "telescope name": lambda p: dataclasses.replace(
        p, options=ProductOptions(telescope_name="OVRO_MMA")
    ),
    "imaging columns": lambda p: dataclasses.replace(
        p, options=ProductOptions(imaging_columns="copy")
    ),
    "phase centre": lambda p: dataclasses.replace(
        p, options=ProductOptions(phase_centre="meridian")
    ),
    "spectral windows": lambda p: dataclasses.replace(p, options=ProductOptions(spw="single")),
}


@pytest.mark.parametrize("change", OTHER_PRODUCT.values(), ids=OTHER_PRODUCT.keys())
def test_what_changes_values_changes_the_hash(
    change: Callable[[ConversionPlan], ConversionPlan],
) -> None:
    assert change(PLAN).plan_hash != PLAN.plan_hash


def test_no_two_changes_give_the_same_hash() -> None:
    hashes = {change(PLAN).plan_hash for change in OTHER_PRODUCT.values()}
    assert len(hashes) == len(OTHER_PRODUCT)


SAME_PRODUCT: dict[str, Callable[[ConversionPlan], ConversionPlan]] = {
    "path of a file": lambda p: with_header(p, path="/elsewhere/2025-10-05T03:12:07_sb03.hdf5"),
    "time of a file": lambda p: with_header(p, mtime_ns=2),
    "name of a file": lambda p: with_header(p, name_stamp="2025-10-05T03:12:28", name_number=0),
    "order of the files": lambda p: dataclasses.replace(p, subbands=p.subbands[::-1]),
    "id": lambda p: dataclasses.replace(p, group_id="2025-10-05T03:12:07"),
    "kind": lambda p: dataclasses.replace(p, kind="calibrator"),
    "target": lambda p: dataclasses.replace(p, target="/elsewhere/product.ms"),
    "staging directory": lambda p: dataclasses.replace(
        p, tiers=(Tier(name="destination", root="/elsewhere/staging"),)
    ),
    "tier": lambda p: dataclasses.replace(p, tiers=(TMPFS, *p.tiers)),
    "how it is published": lambda p: dataclasses.replace(
        p, publication=Publication(output_dir="/out", mode=0o664, group="astro", allow_gap=True)
    ),
    "readers at a time": lambda p: dataclasses.replace(p, max_readers=2),
    "direct": lambda p: dataclasses.replace(p, direct=False),
    "parallel": lambda p: dataclasses.replace(p, parallel=False),
    "on existing": lambda p: dataclasses.replace(p, on_existing="replace"),
    "bytes": lambda p: dataclasses.replace(p, bytes_staged=2, bytes_product=2),
    "missing and unreadable": lambda p: dataclasses.replace(
        p, missing=(2, 4), unreadable=(UNREADABLE,), notes=("sb04 is away",)
    ),
}


@pytest.mark.parametrize("change", SAME_PRODUCT.values(), ids=SAME_PRODUCT.keys())
def test_what_changes_no_value_leaves_the_hash_as_it_is(
    change: Callable[[ConversionPlan], ConversionPlan],
) -> None:
    assert change(PLAN) != PLAN
    assert change(PLAN).plan_hash == PLAN.plan_hash


# ---------------------------------------------------------------------------------- other nouns


@pytest.mark.parametrize(
    ("direct", "parallel", "mode"),
    [
        (True, True, "direct-parallel"),
        (True, False, "direct-serial"),
        (False, True, "parts-parallel"),
        (False, False, "parts-serial"),
    ],
)
def test_a_plan_names_its_mode(direct: bool, parallel: bool, mode: str) -> None:
    assert dataclasses.replace(PLAN, direct=direct, parallel=parallel).mode == mode


def test_a_plan_knows_its_start_and_its_input() -> None:
    assert PLAN.start_mjd == START_JD - 2400000.5
    assert PLAN.bytes_in == 3 * 145_348_600 + 3 + 1


@pytest.mark.parametrize(
    ("numbers", "present", "missing"),
    [
        ((3, 2, 1, 0), (0, 1, 2, 3), ()),
        ((3, 0), (0, 3), (1, 2)),
        ((), (), (0, 1, 2, 3)),
        ((5, 3, 3), (3, 5), (0, 1, 2)),
    ],
)
def test_a_group_knows_what_is_present_and_what_is_missing(
    numbers: tuple[int, ...], present: tuple[int, ...], missing: tuple[int, ...]
) -> None:
    subbands = tuple(subband(number) for number in numbers)
    group = Group(id=ID, start_jd=START_JD, subbands=subbands, expected=4)
    assert (group.present, group.missing) == (present, missing)
    assert group.bytes_in == sum(145_348_600 + number for number in numbers)


def test_a_header_knows_its_band() -> None:
    header = subband(2).header
    assert header.centre_freq_hz == 1492.890625e6 - 2 * 11.71875e6
    assert header.bandwidth_hz == 11.71875e6
    assert subband(2).name == "sb02"


def test_a_plan_proposes_its_first_tier_and_is_at_home_in_its_last() -> None:
    plan = dataclasses.replace(PLAN, tiers=(TMPFS, *PLAN.tiers))
    assert plan.proposed_tier == TMPFS
    assert plan.home_root == PLAN.home_root == "/out/.contimg-staging"
    assert PLAN.proposed_tier.name == "destination"


FILES = AttemptFiles(directory="/out/.contimg-staging/a", tier="destination", tier_reason="default")


def test_everything_an_attempt_writes_lies_in_its_directory() -> None:
    assert FILES.tile_file("DATA") == "/out/.contimg-staging/a/DATA.tiles"
    assert FILES.weight_file(subband(2)) == "/out/.contimg-staging/a/WEIGHT.sb02"
    assert FILES.unused("product.ms").startswith("/out/.contimg-staging/a/")


def test_a_step_that_runs_twice_at_the_same_time_writes_to_two_places() -> None:
    paths = {FILES.unused("product.ms") for _ in range(100)}
    assert len(paths) == 100
    assert all(path.endswith("-product.ms") for path in paths)


def test_a_record_is_plain_json() -> None:
    record = GroupRecord(
        id=ID,
        start_mjd=60953.1,
        present=(0, 1),
        missing=(2,),
        outcome="failed",
        reason=Reason(code="truncated", text="cut"),
        unreadable=(UNREADABLE,),
    )
    document = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert document["present"] == [0, 1]
    assert document["reason"] == {"code": "truncated", "text": "cut"}
    assert document["unreadable"][0]["path"] == UNREADABLE.path
    assert document["unreadable"][0]["reason"]["code"] == "truncated"


@pytest.mark.parametrize("noun", [PLAN, PLAN.subbands[0], PLAN.options, TMPFS, FILES, UNREADABLE])
def test_nouns_are_frozen(noun: Any) -> None:
    name = dataclasses.fields(noun)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, name, None)
