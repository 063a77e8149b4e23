"""What is asked of a node: its room, and to clear up what was given up there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from contimg_dask.execution.node_steps import measure, sweep_given_up
from contimg_dask.model import Attempt, Owner, Tier
from contimg_dask.staging.attempts import open_attempt
from contimg_dask.staging.owners import current_owner
from tests.unit.plans import attempt_called, bare_plan

HERE = current_owner()
ELSEWHERE = replace(HERE, host="another", boot_id="another")
MANY = 10**15


def begin(out: Path, name: str, owner: Owner) -> Attempt:
    """Open an attempt, of which no step runs."""
    attempt = replace(attempt_called(name), owner=owner)
    open_attempt(bare_plan(out), attempt)
    return attempt


def staged(out: Path) -> set[str]:
    """Names of the attempts that have a directory."""
    root = out / ".contimg-staging"
    return {path.name for path in root.iterdir() if path.is_dir()} if root.exists() else set()


@pytest.mark.parametrize(
    ("owners", "names", "left"),
    [
        ((), (), {"mine.1", "mine.2", "theirs.1"}),
        ((), ("mine.1",), {"mine.2", "theirs.1"}),
        ((ELSEWHERE,), (), {"mine.1", "mine.2"}),
        ((ELSEWHERE,), ("mine.2", "unknown"), {"mine.1"}),
    ],
)
def test_only_what_was_given_up_is_removed_whatever_has_begun_since(
    tmp_path: Path,
    owners: tuple[Owner, ...],
    names: tuple[str, ...],
    left: set[str],
) -> None:
    begin(tmp_path, "mine.1", HERE)
    begin(tmp_path, "mine.2", HERE)
    begin(tmp_path, "theirs.1", ELSEWHERE)
    removed = sweep_given_up((str(tmp_path / ".contimg-staging"), "/nowhere"), owners, names)
    assert staged(tmp_path) == left
    assert removed == 3 - len(left)


def test_room_is_what_can_still_be_promised_and_nothing_of_a_tier_that_cannot_be_used(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.touch()
    tiers = (
        Tier(name="scratch", root=str(file / ".contimg-staging")),
        Tier(name="destination", root=str(tmp_path / ".contimg-staging"), budget_bytes=MANY),
    )
    before = measure(tiers).room_bytes
    assert list(before) == [tiers[1].root]
    free = os.statvfs(tmp_path)
    assert 0 < before[tiers[1].root] <= free.f_bavail * free.f_frsize
    small = (replace(tiers[1], budget_bytes=50_000_000),)
    begin(tmp_path, "mine.1", HERE)
    promised = bare_plan(tmp_path).bytes_staged
    assert measure(small).room_bytes == {tiers[1].root: 50_000_000 - promised}
