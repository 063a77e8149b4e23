"""What dead attempts left behind goes, and nothing of those that live."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.model import ConversionPlan, Owner, Tier
from contimg_dask.staging.attempts import (
    find_attempt,
    incoming_path,
    open_attempt,
    remove_attempt,
    replaced_path,
)
from contimg_dask.staging.owners import current_owner
from contimg_dask.staging.sweeping import remove_tree, sweep
from tests.unit.plans import BLOCK, ID, attempt_called, bare_plan, entries, write_blocks
from tests.unit.processes import OtherProcess


def who_died() -> Owner:
    """Return this process as if it had begun at another time."""
    owner = current_owner()
    return dataclasses.replace(owner, start_ticks=owner.start_ticks - 1)


@pytest.fixture
def plan(tmp_path: Path) -> ConversionPlan:
    return bare_plan(tmp_path / "out")


@pytest.fixture
def root(plan: ConversionPlan) -> Path:
    return Path(plan.home_root)


def opened(plan: ConversionPlan, name: str, owner: Owner | None = None, blocks: int = 1) -> Path:
    """Open an attempt and let it write; return its directory."""
    attempt = attempt_called(name, owner or who_died())
    open_attempt(plan, attempt)
    directory = Path(find_attempt(plan, attempt).directory)
    if blocks:
        write_blocks(directory / "product.ms" / "table.f1", blocks)
    return directory


def tree_of(directory: Path) -> dict[str, tuple[int, ...]]:
    """All there is below a directory, told apart from a copy or a later one."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    return found


# ------------------------------------------------------------------------------ the dead and the living


def test_of_two_attempts_in_one_output_only_the_dead_one_goes(
    plan: ConversionPlan, root: Path
) -> None:
    living = opened(plan, "living", current_owner())
    opened(plan, "dead", blocks=3)
    found = {leftover.name: leftover for leftover in sweep(str(root))}
    assert found["dead"].alive is None
    assert found["dead"].removed
    assert found["dead"].size_bytes == 3 * BLOCK
    assert found["dead"].paths == (str(root / "dead"), str(root / "dead.attempt.json"))
    assert found["living"].alive is not None
    assert not found["living"].removed
    assert entries(root) == [".lock", "living", "living.attempt.json"]
    assert (living / "product.ms" / "table.f1").is_file()


def convert_for_ever(plan: ConversionPlan, name: str) -> Iterator[str]:
    """A conversion that has begun and does not come to its end."""
    opened(plan, name, current_owner())
    write_blocks(Path(incoming_path(plan, attempt_called(name)), "table.f1"), 1)
    yield "begun"


def test_of_two_conversions_with_one_output_the_killed_one_is_swept(
    plan: ConversionPlan, root: Path, tmp_path: Path
) -> None:
    with OtherProcess(convert_for_ever, plan, "a") as a:
        with OtherProcess(convert_for_ever, plan, "b") as b:
            assert [a.yielded(), b.yielded()] == ["begun", "begun"]
            assert not any(leftover.removed for leftover in sweep(str(root)))
            a.kill()
            assert [found.name for found in sweep(str(root)) if found.removed] == ["a"]
            assert entries(root) == [".lock", "b", "b.attempt.json"]
            assert entries(Path(plan.target).parent) == [".b.incoming"]
        sweep(str(root))
    assert [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()] == []
    assert not root.exists()


def test_with_the_last_attempt_the_staging_directory_goes(plan: ConversionPlan, root: Path) -> None:
    opened(plan, "dead")
    sweep(str(root))
    assert entries(root.parent) == []


def test_where_nothing_was_staged_nothing_is_made(root: Path) -> None:
    assert sweep(str(root)) == []
    assert not root.parent.exists()


def test_an_empty_staging_directory_goes(root: Path) -> None:
    root.mkdir(parents=True)
    assert sweep(str(root)) == []
    assert not root.exists()


def test_an_attempt_that_was_killed_before_it_made_its_directory_goes(
    plan: ConversionPlan, root: Path
) -> None:
    opened(plan, "dead", blocks=0).rmdir()
    (found,) = sweep(str(root))
    assert (found.size_bytes, found.removed) == (0, True)
    assert not root.exists()


# --------------------------------------------------------------------------- what has lost its owner


def half_a_record(root: Path) -> Path:
    path = root / "a.attempt.json"
    path.write_text('{"attempt": "a", "own')
    return path


def an_empty_record(root: Path) -> Path:
    path = root / "a.attempt.json"
    path.write_text("")
    return path


def a_directory_without_record(root: Path) -> Path:
    write_blocks(root / "a" / "product.ms" / "table.f1", 2)
    return root / "a"


def remains_of_a_removal(root: Path) -> Path:
    write_blocks(root / "a.removed-0a1b2c3d" / "product.ms" / "table.f1", 2)
    return root / "a.removed-0a1b2c3d"


def a_failed_record_in_the_making(root: Path) -> Path:
    path = root / f"{ID}.0a1b2c3d.json"
    path.write_text("{")
    return path


def a_dangling_link(root: Path) -> Path:
    (root / "a").symlink_to("nowhere")
    return root / "a"


STRAYS = [
    half_a_record,
    an_empty_record,
    a_directory_without_record,
    remains_of_a_removal,
    a_failed_record_in_the_making,
    a_dangling_link,
]


@pytest.mark.parametrize("stray", STRAYS, ids=[stray.__name__ for stray in STRAYS])
def test_what_has_no_owner_goes_and_the_living_stay(
    plan: ConversionPlan, root: Path, stray: Callable[[Path], Path]
) -> None:
    opened(plan, "living", current_owner())
    path = stray(root)
    found = {leftover.name: leftover for leftover in sweep(str(root))}
    assert found[path.name].alive is None
    assert found[path.name].removed
    assert entries(root) == [".lock", "living", "living.attempt.json"]


@pytest.mark.parametrize("stray", STRAYS, ids=[stray.__name__ for stray in STRAYS])
def test_what_has_no_owner_goes_at_the_next_reservation_too(
    plan: ConversionPlan, root: Path, stray: Callable[[Path], Path]
) -> None:
    root.mkdir(parents=True)
    stray(root)
    opened(plan, "new", current_owner())
    assert entries(root) == [".lock", "new", "new.attempt.json"]


def test_a_directory_whose_record_was_written_by_half_goes_as_well(
    plan: ConversionPlan, root: Path
) -> None:
    opened(plan, "a")
    half_a_record(root)
    sweep(str(root))
    sweep(str(root))
    assert not root.exists()


def test_what_a_living_attempt_is_removing_just_now_is_left_to_it(
    plan: ConversionPlan, root: Path
) -> None:
    opened(plan, "living", current_owner())
    write_blocks(root / "living.removed-0a1b2c3d" / "table.f1", 1)
    assert [found.name for found in sweep(str(root))] == ["living"]
    assert "living.removed-0a1b2c3d" in entries(root)


def test_what_a_dead_attempt_was_removing_when_it_died_goes(
    plan: ConversionPlan, root: Path
) -> None:
    opened(plan, "dead")
    write_blocks(root / "dead.removed-0a1b2c3d" / "table.f1", 2)
    (found,) = sweep(str(root))
    assert found.size_bytes == 3 * BLOCK
    assert not root.exists()


def test_the_record_of_a_newer_version_is_left_alone(plan: ConversionPlan, root: Path) -> None:
    # Two versions side by side on one node, as during an update.
    opened(plan, "living", current_owner())
    record = root / "living.attempt.json"
    record.write_text(record.read_text().replace('"reason"', '"colour": "blue", "reason"'))
    sweep(str(root))
    sweep(str(root))
    assert entries(root) == [".lock", "living", "living.attempt.json"]


# ------------------------------------------------------------------------------- beside the target


def test_a_copy_beside_the_target_goes_with_its_attempt(plan: ConversionPlan, root: Path) -> None:
    opened(plan, "dead", blocks=1)
    incoming = Path(incoming_path(plan, attempt_called("dead")))
    write_blocks(incoming / "table.f1", 3)
    write_blocks(incoming.with_name(f"{incoming.name}.removed-0a1b2c3d") / "table.f1", 5)
    write_blocks(Path(plan.target, "table.f1"), 1)
    (found,) = sweep(str(root))
    assert found.size_bytes == 9 * BLOCK
    assert str(incoming) in found.paths
    assert entries(Path(plan.target).parent) == [Path(plan.target).name]
    assert not root.exists()


def test_the_copy_of_a_living_attempt_stays(plan: ConversionPlan, root: Path) -> None:
    opened(plan, "living", current_owner())
    incoming = Path(incoming_path(plan, attempt_called("living")))
    write_blocks(incoming / "table.f1", 3)
    sweep(str(root))
    assert entries(incoming) == ["table.f1"]


def test_the_copy_is_found_also_where_the_tier_is_on_another_node(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir()
    tier = Tier(name="tmpfs", root=str(tmp_path / "shm" / "staging"))
    plan = bare_plan(tmp_path / "out", tier)
    opened(plan, "dead")
    incoming = Path(incoming_path(plan, attempt_called("dead")))
    write_blocks(incoming / "table.f1", 3)
    # Seen from the node of the destination, which has no such memory.
    shutil.rmtree(tmp_path / "shm")
    sweep(plan.home_root)
    assert entries(Path(plan.target).parent) == []


def test_each_tier_is_swept_by_itself(tmp_path: Path) -> None:
    (tmp_path / "ssd").mkdir()
    tier = Tier(name="scratch", root=str(tmp_path / "ssd" / "staging"))
    plan = bare_plan(tmp_path / "out", tier)
    opened(plan, "dead", blocks=4)
    (found,) = sweep(tier.root)
    assert found.size_bytes == 4 * BLOCK
    assert entries(tmp_path / "ssd") == []
    (found,) = sweep(plan.home_root)
    assert (found.name, found.size_bytes, found.removed) == ("dead", 0, True)
    assert entries(tmp_path / "out") == []


def test_an_old_product_comes_back_when_its_successor_never_came(
    plan: ConversionPlan, root: Path
) -> None:
    opened(plan, "dead")
    write_blocks(Path(replaced_path(plan, attempt_called("dead")), "old"), 1)
    sweep(str(root))
    assert entries(Path(plan.target).parent) == [Path(plan.target).name]
    assert entries(Path(plan.target)) == ["old"]
    assert not root.exists()


def test_an_old_product_goes_when_its_successor_is_there(plan: ConversionPlan, root: Path) -> None:
    opened(plan, "dead")
    write_blocks(Path(replaced_path(plan, attempt_called("dead")), "old"), 1)
    write_blocks(Path(plan.target, "new"), 1)
    sweep(str(root))
    assert entries(Path(plan.target).parent) == [Path(plan.target).name]
    assert entries(Path(plan.target)) == ["new"]


def test_an_old_product_that_a_living_attempt_moved_aside_is_left_to_it(
    plan: ConversionPlan, root: Path
) -> None:
    opened(plan, "living", current_owner())
    replaced = Path(replaced_path(plan, attempt_called("living")))
    write_blocks(replaced / "old", 1)
    sweep(str(root))
    assert entries(replaced.parent) == [replaced.name]


# ------------------------------------------------------------------------------------- only telling


def test_a_dry_run_tells_what_would_go_and_changes_nothing(
    plan: ConversionPlan, root: Path, tmp_path: Path
) -> None:
    # Every reservation removes what is dead, so the dead come last.
    opened(plan, "living", current_owner())
    opened(plan, "dead", blocks=3)
    write_blocks(Path(incoming_path(plan, attempt_called("dead")), "table.f1"), 2)
    write_blocks(Path(replaced_path(plan, attempt_called("dead")), "old"), 1)
    for stray in (a_directory_without_record, a_failed_record_in_the_making):
        stray(root)
    (root / "b.attempt.json").write_text("{")
    before = tree_of(tmp_path)
    told = sweep(str(root), dry_run=True)
    assert tree_of(tmp_path) == before
    assert not any(leftover.removed for leftover in told)
    done = sweep(str(root))
    assert [(x.name, x.paths, x.size_bytes) for x in told] == [
        (x.name, x.paths, x.size_bytes) for x in done
    ]
    assert {x.name: x.removed for x in done} == {x.name: x.alive is None for x in told}
    assert {x.name for x in told if x.alive} == {"living"}
    assert len(told) == 5
    # The old product, moved aside, is told with what goes, but was put back.
    assert entries(Path(plan.target)) == ["old"]


def test_a_staging_directory_that_cannot_be_written_is_an_error(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    plan = bare_plan(open_directory / "out")
    opened(plan, "dead")
    with without_rights(), pytest.raises(PermissionError):
        sweep(plan.home_root)
    assert "dead" in entries(Path(plan.home_root))


# --------------------------------------------------------------------------------- removing a tree


def test_a_tree_is_gone_from_its_name_before_any_of_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blocks(tmp_path / "a" / "b" / "c", 1)
    there = []
    rmtree = shutil.rmtree

    def watched(path: str, **options: Any) -> None:
        there.append((tmp_path / "a").exists())
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    remove_tree(str(tmp_path / "a"))
    assert there == [False]
    assert entries(tmp_path) == []


def test_files_and_links_are_removed_like_trees_and_links_are_not_followed(tmp_path: Path) -> None:
    write_blocks(tmp_path / "kept" / "a", 1)
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("link", "dangling", "file", "not there"):
        remove_tree(str(tmp_path / name))
    assert entries(tmp_path) == ["kept"]
    assert entries(tmp_path / "kept") == ["a"]


def test_a_removal_that_was_cut_short_is_taken_up_again(tmp_path: Path) -> None:
    remains = tmp_path / "a.removed-0a1b2c3d"
    write_blocks(remains / "b", 1)
    remove_tree(str(remains))
    assert entries(tmp_path) == []


def test_a_tree_below_a_directory_of_any_name_is_renamed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "archive.removed-in-2024"
    write_blocks(output / "a" / "b", 1)
    there = []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: there.append((output / "a").exists()))
    remove_tree(str(output / "a"))
    assert there == [False]


def test_what_cannot_be_removed_yet_is_found_by_a_later_sweep(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    # As on NFS, where a file that someone has open cannot be removed with its directory.
    out = open_directory / "out"
    out.mkdir()
    out.chmod(0o777)
    plan = bare_plan(out)
    with without_rights():
        opened(plan, "dead")
        incoming = Path(incoming_path(plan, attempt_called("dead")))
        write_blocks(incoming / "SOURCE" / "table.f1", 1)
        (incoming / "SOURCE").chmod(0o555)
        sweep(plan.home_root)
        (remains,) = incoming.parent.iterdir()
        (remains / "SOURCE").chmod(0o755)
        sweep(plan.home_root)
    assert entries(incoming.parent) == []


def test_a_removed_attempt_leaves_nothing_to_sweep(plan: ConversionPlan, root: Path) -> None:
    opened(plan, "a", current_owner())
    remove_attempt(plan, attempt_called("a"))
    assert sweep(str(root)) == []
