"""Bytes are promised before they are used: 0.8 × free less what others were promised and lack."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.errors import NoSpaceError
from contimg_dask.model import ConversionPlan, Tier
from contimg_dask.staging import reserving
from contimg_dask.staging.attempts import find_attempt, open_attempt, remove_attempt
from contimg_dask.staging.owners import current_owner
from contimg_dask.staging.records import AttemptRecord, locked_root, read_records
from contimg_dask.staging.reserving import room_in, try_reserve
from tests.unit.plans import BLOCK, MB, attempt_called, bare_plan, write_blocks
from tests.unit.processes import side_by_side


def record_of(tier: Tier, name: str, promised_bytes: int) -> AttemptRecord:
    return AttemptRecord(
        attempt=name,
        owner=current_owner(),
        promised_bytes=promised_bytes,
        directory=os.path.join(tier.root, name),
    )


def promise(tier: Tier, name: str, blocks: int, written: int = 0) -> None:
    """Let an attempt have so many blocks of a tier, some of them written already."""
    assert try_reserve(tier, record_of(tier, name, blocks * BLOCK))[0]
    if written:
        write_blocks(Path(tier.root, name, "product.ms", "table.f1"), written)


def with_room(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """Let every place have this much to use, whatever is written there."""
    monkeypatch.setattr(reserving, "usable_bytes", lambda *_, **__: blocks * BLOCK)


@pytest.fixture
def tier(tmp_path: Path) -> Tier:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return Tier(name="scratch", root=str(tmp_path / "scratch" / ".contimg-staging"))


# ---------------------------------------------------------------------------------- the formula

OTHERS: dict[str, tuple[list[tuple[int, int]], int]] = {
    # (promised, written) of each other attempt, and what is left of 100, in blocks
    "none": ([], 100),
    "nothing written": ([(30, 0)], 70),
    "half written": ([(30, 15)], 85),
    "all written": ([(30, 30)], 100),
    # What one has written beyond its promise frees nothing of the promise of another.
    "more written than promised": ([(10, 25), (30, 0)], 70),
    "several, some half written": ([(30, 15), (20, 0), (10, 10), (8, 4)], 61),
    "all is promised": ([(60, 0), (40, 0)], 0),
}


@pytest.mark.parametrize(("others", "left"), OTHERS.values(), ids=OTHERS.keys())
def test_an_attempt_fits_in_what_is_free_less_what_others_have_still_to_write(
    monkeypatch: pytest.MonkeyPatch, tier: Tier, others: list[tuple[int, int]], left: int
) -> None:
    with_room(monkeypatch, 100)
    for number, (promised, _) in enumerate(others):
        promise(tier, f"other{number}", promised)
    for number, (_, written) in enumerate(others):
        write_blocks(Path(tier.root, f"other{number}", "table.f1"), written)
    fits, numbers = try_reserve(tier, record_of(tier, "mine", left * BLOCK + 1))
    assert not fits, numbers
    assert [found.attempt for found in read_records(tier.root)] == sorted(
        f"other{number}" for number in range(len(others))
    )
    fits, numbers = try_reserve(tier, record_of(tier, "mine", left * BLOCK))
    assert fits, numbers


def test_a_hole_is_not_written(monkeypatch: pytest.MonkeyPatch, tier: Tier) -> None:
    with_room(monkeypatch, 100)
    promise(tier, "other", 30)
    hole = Path(tier.root, "other", "table.f1")
    hole.parent.mkdir()
    with hole.open("wb") as file:
        file.truncate(30 * BLOCK)
    assert not try_reserve(tier, record_of(tier, "mine", 71 * BLOCK))[0]
    assert try_reserve(tier, record_of(tier, "mine", 70 * BLOCK))[0]


def test_an_attempt_that_asks_again_does_not_stand_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    with_room(monkeypatch, 100)
    promise(tier, "mine", 80)
    assert try_reserve(tier, record_of(tier, "mine", 100 * BLOCK))[0]
    (record,) = read_records(tier.root)
    assert record.promised_bytes == 100 * BLOCK


def test_both_numbers_and_what_others_were_promised_are_told_and_recorded(
    monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    monkeypatch.setattr(reserving, "usable_bytes", lambda *_, **__: 9 * MB)
    assert try_reserve(tier, record_of(tier, "first", 2 * MB)) == (
        True,
        "2.0 MB needed, 9.0 MB to use",
    )
    said = "3.0 MB needed, 9.0 MB to use of which 2.0 MB are promised to others"
    assert try_reserve(tier, record_of(tier, "second", 3 * MB)) == (True, said)
    assert [record.reason for record in read_records(tier.root)] == [
        "2.0 MB needed, 9.0 MB to use",
        said,
    ]
    refused = "5.0 MB needed, 9.0 MB to use of which 5.0 MB are promised to others"
    assert try_reserve(tier, record_of(tier, "third", 5 * MB)) == (False, refused)


@pytest.mark.parametrize(("name", "memory"), [("tmpfs", True), ("scratch", False)])
def test_memory_is_asked_for_tmpfs_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: Any, memory: bool
) -> None:
    asked = []

    def usable(directory: Path, *, tmpfs: bool) -> int:
        asked.append((directory, tmpfs))
        return MB

    monkeypatch.setattr(reserving, "usable_bytes", usable)
    root = str(tmp_path / "staging")
    try_reserve(Tier(name=name, root=root), record_of(Tier(name=name, root=root), "a", 1))
    assert asked == [(Path(root), memory)]


def test_what_was_refused_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tier: Tier) -> None:
    with_room(monkeypatch, 1)
    assert not try_reserve(tier, record_of(tier, "mine", 2 * BLOCK))[0]
    assert not os.path.lexists(tier.root)


# ---------------------------------------------------------------------------------------- budgets

BUDGETS: dict[str, tuple[int, list[tuple[int, int]], int]] = {
    # budget, (promised, written) of others, and what is left, in blocks; 100 are free
    "nothing in it": (40, [], 40),
    "promises count against it": (40, [(30, 0)], 10),
    "what is written does too": (40, [(30, 15)], 10),
    "and all of it": (40, [(30, 30)], 10),
    "also beyond the promise": (40, [(10, 35)], 5),
    "more written than it allows": (40, [(10, 50)], 0),
    "larger than what is free": (400, [(30, 15)], 85),
}


@pytest.mark.parametrize(("budget", "others", "left"), BUDGETS.values(), ids=BUDGETS.keys())
def test_attempts_together_stay_within_the_budget_of_a_tier(
    monkeypatch: pytest.MonkeyPatch,
    tier: Tier,
    budget: int,
    others: list[tuple[int, int]],
    left: int,
) -> None:
    with_room(monkeypatch, 100)
    for number, (promised, written) in enumerate(others):
        promise(tier, f"other{number}", promised, written)
    bounded = Tier(name=tier.name, root=tier.root, budget_bytes=budget * BLOCK)
    assert not try_reserve(bounded, record_of(tier, "mine", left * BLOCK + 1))[0]
    assert try_reserve(bounded, record_of(tier, "mine", left * BLOCK))[0]


@pytest.mark.parametrize("promised", [0, 30])
def test_room_is_never_less_than_nothing(
    monkeypatch: pytest.MonkeyPatch, tier: Tier, promised: int
) -> None:
    with_room(monkeypatch, 100)
    promise(tier, "other", promised, 50)
    bounded = Tier(name=tier.name, root=tier.root, budget_bytes=BLOCK)
    assert room_in(bounded) == (0, 0)


# ------------------------------------------------------------------------- a copy in the making


def test_a_copy_beside_the_target_counts_as_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_room(monkeypatch, 100)
    (tmp_path / "scratch").mkdir(exist_ok=True)
    plan = bare_plan(
        tmp_path / "out",
        Tier(name="scratch", root=str(tmp_path / "scratch" / "staging")),
        bytes_staged=30 * BLOCK,
        bytes_product=30 * BLOCK,
    )
    open_attempt(plan, attempt_called("other"))
    incoming = Path(plan.target).parent / ".other.incoming-0a1b2c3d"
    write_blocks(incoming / "table.f1", 20)
    assert room_in(plan.tiers[-1])[1] == 10 * BLOCK
    # Two runs of the last step have a copy each.
    write_blocks(incoming.with_name(".other.incoming-4e5f6a7b") / "table.f1", 20)
    assert room_in(plan.tiers[-1])[1] == 0


# ---------------------------------------------------------------------- several processes at once

ROUNDS = 60
BUDGET = 100


def reserve_again_and_again(plan: ConversionPlan, name: str) -> tuple[int, int, int]:
    """Open attempts of many sizes, write some; return most ever promised, granted and refused."""
    tier = plan.tiers[0]
    chance = random.Random(name)
    most = granted = refused = 0
    held: list[Any] = []
    for number in range(ROUNDS):
        attempt = attempt_called(f"{name}{number}")
        wanted = chance.randint(1, 60)
        try:
            open_attempt(_sized(plan, wanted), attempt)
        except NoSpaceError:
            refused += 1
        else:
            granted += 1
            held.append(attempt)
            if number % 3 == 0:
                half = Path(find_attempt(plan, attempt).directory, "table.f1")
                write_blocks(half, wanted // 2)
        with locked_root(tier.root):
            most = max(most, sum(record.promised_bytes for record in read_records(tier.root)))
        while len(held) > chance.randint(0, 3):
            remove_attempt(plan, held.pop(0))
    for attempt in held:
        remove_attempt(plan, attempt)
    return most, granted, refused


def _sized(plan: ConversionPlan, blocks: int) -> ConversionPlan:
    sized: ConversionPlan = bare_plan(
        Path(plan.publication.output_dir),
        tiers=plan.tiers,
        bytes_staged=blocks * BLOCK,
        bytes_product=blocks * BLOCK,
    )
    return sized


def test_processes_side_by_side_are_never_promised_more_than_there_is(tmp_path: Path) -> None:
    root = str(tmp_path / "out" / ".contimg-staging")
    tier = Tier(name="destination", root=root, budget_bytes=BUDGET * BLOCK)
    plan = bare_plan(tmp_path / "out", tiers=(tier,))
    results = side_by_side(reserve_again_and_again, (plan, "a"), (plan, "b"), (plan, "c"))
    for most, granted, refused in results:
        assert most <= BUDGET * BLOCK
        assert granted >= ROUNDS // 10
        assert refused >= ROUNDS // 10
    # Each of them alone would have had less: they did share the tier.
    assert max(most for most, _, _ in results) > 60 * BLOCK
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_kept_for_live_groups_is_taken_by_those_alone(
    monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    with_room(monkeypatch, 100)
    promise(tier, "first", 40)
    backlog = replace(tier, kept_bytes=30 * BLOCK)
    taken, numbers = try_reserve(backlog, record_of(tier, "second", 31 * BLOCK))
    assert not taken
    assert "kept for live groups" in numbers
    assert try_reserve(backlog, record_of(tier, "third", 30 * BLOCK))[0]
    assert try_reserve(tier, record_of(tier, "live", 30 * BLOCK))[0]
