"""One directory per attempt, in the first tier that has room for it, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.errors import AttemptGoneError, NoSpaceError, OutputError
from contimg_dask.model import Attempt, ConversionPlan, Tier
from contimg_dask.naming import STAGING_DIRECTORY
from contimg_dask.planning import propose_tiers
from contimg_dask.staging import attempts, reserving, sweeping
from contimg_dask.staging.attempts import (
    find_attempt,
    incoming_path,
    is_recorded,
    open_attempt,
    remove_attempt,
    replaced_path,
    working_in,
)
from contimg_dask.staging.records import read_record, record_path
from tests.unit.plans import (
    BLOCK,
    MB,
    attempt_called,
    bare_plan,
    entries,
    open_descriptors,
    write_blocks,
)
from tests.unit.processes import OtherProcess, side_by_side

ATTEMPT = attempt_called("2025-10-05T03:12:06.1.0a1b2c3d")


class Room:
    """Stands in for `usable_bytes`: how much each place has [MB]; 9 where nothing is said."""

    def __init__(self, **places: int) -> None:
        self.places = places

    def __call__(self, directory: Path, *, tmpfs: bool) -> int:
        del tmpfs
        return self.places.get(directory.parent.name, 9) * MB


@pytest.fixture
def output(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


@pytest.fixture
def plan(output: Path) -> ConversionPlan:
    return bare_plan(output)


@pytest.fixture
def root(plan: ConversionPlan) -> Path:
    return Path(plan.home_root)


@pytest.fixture
def tiered(tmp_path: Path, output: Path) -> ConversionPlan:
    """A plan of 2 MB for all three tiers, which needs 1 MB beside the target if staged elsewhere."""
    for name in ("shm", "ssd"):
        (tmp_path / name).mkdir()
    tiers = propose_tiers(
        str(output), tmpfs_path=str(tmp_path / "shm"), scratch_dir=str(tmp_path / "ssd")
    )
    return bare_plan(output, tiers=tiers, bytes_staged=2 * MB, bytes_product=MB)


# ------------------------------------------------------------------------------- which tier it is

CHOICES: dict[str, tuple[dict[str, int], str, list[str], list[str]]] = {
    # room per place [MB], where it is made, what the reason must say, and what it must not
    "all have room": ({}, "tmpfs", ["2.0 MB needed, 9.0 MB to use"], ["scratch", "too full"]),
    "tmpfs is filled to the last byte": ({"shm": 2}, "tmpfs", ["2.0 MB to use"], []),
    "tmpfs is too full": (
        {"shm": 1},
        "scratch",
        ["tmpfs is too full (2.0 MB needed, 1.0 MB to use)", "2.0 MB needed, 9.0 MB to use"],
        ["scratch"],
    ),
    "tmpfs and scratch are too full": (
        {"shm": 1, "ssd": 0},
        "destination",
        [
            "tmpfs is too full (2.0 MB needed, 1.0 MB to use)",
            "scratch is too full (2.0 MB needed, 0.0 MB to use)",
            "2.0 MB needed, 9.0 MB to use",
        ],
        [],
    ),
}


@pytest.mark.parametrize(("places", "tier", "said", "unsaid"), CHOICES.values(), ids=CHOICES.keys())
def test_the_first_tier_with_room_is_taken_and_the_reason_names_those_that_had_none(
    monkeypatch: pytest.MonkeyPatch,
    tiered: ConversionPlan,
    places: dict[str, int],
    tier: str,
    said: list[str],
    unsaid: list[str],
) -> None:
    monkeypatch.setattr(reserving, "usable_bytes", Room(**places))
    open_attempt(tiered, ATTEMPT)
    files = find_attempt(tiered, ATTEMPT)
    assert files.tier == tier
    (root,) = (place.root for place in tiered.tiers if place.name == tier)
    assert files.directory == f"{root}/{ATTEMPT.name}"
    assert os.path.isdir(files.directory)
    assert all(text in files.tier_reason for text in said), files.tier_reason
    assert not any(text in files.tier_reason for text in unsaid), files.tier_reason
    # Only the tier that was taken and the destination know of the attempt.
    known = {t.name for t in tiered.tiers if os.path.exists(record_path(t.root, ATTEMPT.name))}
    assert known == {tier, "destination"}


def test_a_group_staged_elsewhere_has_room_for_its_copy_promised_at_the_destination(
    monkeypatch: pytest.MonkeyPatch, tiered: ConversionPlan
) -> None:
    monkeypatch.setattr(reserving, "usable_bytes", Room())
    open_attempt(tiered, ATTEMPT)
    record = read_record(record_path(tiered.home_root, ATTEMPT.name))
    assert record is not None
    assert record.promised_bytes == tiered.bytes_product
    # So the sweep finds the copy, whatever node the attempt itself was on.
    assert record.beside == (incoming_path(tiered, ATTEMPT), replaced_path(tiered, ATTEMPT))
    assert record.target == tiered.target


def test_a_tier_is_no_help_where_the_copy_has_no_room(
    monkeypatch: pytest.MonkeyPatch, tiered: ConversionPlan, output: Path
) -> None:
    monkeypatch.setattr(reserving, "usable_bytes", Room(out=0))
    with pytest.raises(NoSpaceError) as caught:
        open_attempt(tiered, ATTEMPT)
    said = "tmpfs is too full (for the copy at the destination 1.0 MB needed, 0.0 MB to use)"
    assert said in str(caught.value)
    assert entries(output) == []


def test_a_group_that_fits_nowhere_is_refused_with_all_numbers_and_leaves_no_byte(
    monkeypatch: pytest.MonkeyPatch, tiered: ConversionPlan, output: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(reserving, "usable_bytes", Room(shm=0, ssd=1, out=1))
    with pytest.raises(NoSpaceError) as caught:
        open_attempt(tiered, ATTEMPT)
    assert (caught.value.code, caught.value.path) == ("no-space", tiered.target)
    for said in (
        str(output),
        "tmpfs is too full (2.0 MB needed, 0.0 MB to use)",
        "scratch is too full (2.0 MB needed, 1.0 MB to use)",
        "destination is too full (2.0 MB needed, 1.0 MB to use)",
    ):
        assert said in str(caught.value)
    assert [entries(tmp_path / name) for name in ("out", "shm", "ssd")] == [[], [], []]
    assert not is_recorded(tiered, ATTEMPT)


def test_the_budget_of_tmpfs_sends_the_next_group_elsewhere(tiered: ConversionPlan) -> None:
    tmpfs, *others = tiered.tiers
    bounded = Tier(name=tmpfs.name, root=tmpfs.root, budget_bytes=3 * MB)
    plan = bare_plan(Path(tiered.publication.output_dir), bounded, *others[:-1])
    found = []
    for name in ("first", "second"):
        open_attempt(plan, attempt_called(name))
        found.append(find_attempt(plan, attempt_called(name)))
    assert [files.tier for files in found] == ["tmpfs", "scratch"]
    said = "tmpfs is too full (2.0 MB needed, 3.0 MB to use of which 2.0 MB are promised to others)"
    assert said in found[1].tier_reason


def test_a_real_tmpfs_is_taken_while_there_is_room_in_it(small_tmpfs: Path, output: Path) -> None:
    tiers = propose_tiers(str(output), tmpfs_path=str(small_tmpfs))
    plan = bare_plan(output, tiers=tiers, bytes_staged=750 * BLOCK)
    found = []
    for name in ("first", "second", "third"):
        open_attempt(plan, attempt_called(name))
        found.append(find_attempt(plan, attempt_called(name)))
        write_blocks(Path(found[-1].directory, "table.f1"), 750)
    # 6.7 MB may be used, then 4.3, then 1.8: of what is written nothing is promised any more.
    assert [files.tier for files in found] == ["tmpfs", "tmpfs", "destination"]
    assert "tmpfs is too full (3.1 MB needed, 1.8 MB to use)" in found[2].tier_reason
    remove_attempt(plan, attempt_called("first"))
    open_attempt(plan, attempt_called("fourth"))
    assert find_attempt(plan, attempt_called("fourth")).tier == "tmpfs"
    for name in ("second", "third", "fourth"):
        remove_attempt(plan, attempt_called(name))
    assert entries(small_tmpfs) == entries(output) == []


# ------------------------------------------------------------------------- tiers that cannot be used


def a_file(path: Path) -> None:
    path.rmdir()
    path.write_bytes(b"")


def a_dangling_link(path: Path) -> None:
    path.rmdir()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("in_the_way", [a_file, a_dangling_link])
def test_a_tier_that_cannot_be_used_is_passed_over_and_named(
    tiered: ConversionPlan, tmp_path: Path, in_the_way: Callable[[Path], None]
) -> None:
    in_the_way(tmp_path / "shm")
    open_attempt(tiered, ATTEMPT)
    files = find_attempt(tiered, ATTEMPT)
    assert files.tier == "scratch"
    assert "tmpfs cannot be used (" in files.tier_reason


def test_a_tier_that_is_missing_is_passed_over_and_not_made(
    tiered: ConversionPlan, tmp_path: Path
) -> None:
    # As when a scratch disk is not mounted: its mount point would fill the disk of the system.
    (tmp_path / "shm").rmdir()
    open_attempt(tiered, ATTEMPT)
    files = find_attempt(tiered, ATTEMPT)
    assert files.tier == "scratch"
    assert "tmpfs cannot be used (there is no such directory)" in files.tier_reason
    assert not (tmp_path / "shm").exists()


@pytest.fixture
def refused_by_permission(open_directory: Path) -> ConversionPlan:
    """A plan for an output that anyone may write, and a scratch disk that nobody may."""
    output, scratch = open_directory / "out", open_directory / "ssd"
    for directory, mode in ((output, 0o777), (scratch, 0o555)):
        directory.mkdir()
        directory.chmod(mode)
    return bare_plan(output, tiers=propose_tiers(str(output), scratch_dir=str(scratch)))


def test_a_tier_without_permission_is_passed_over_and_named(
    refused_by_permission: ConversionPlan,
    without_rights: Callable[[], AbstractContextManager[None]],
) -> None:
    with without_rights():
        open_attempt(refused_by_permission, ATTEMPT)
        files = find_attempt(refused_by_permission, ATTEMPT)
        assert files.tier == "destination"
        assert "scratch cannot be used (Permission denied)" in files.tier_reason
        remove_attempt(refused_by_permission, ATTEMPT)
    assert entries(Path(refused_by_permission.publication.output_dir)) == []


def the_output(root: Path) -> None:
    root.parent.rmdir()
    root.parent.write_bytes(b"")


def the_staging_directory(root: Path) -> None:
    root.write_bytes(b"")


@pytest.mark.parametrize("in_the_way", [the_output, the_staging_directory])
def test_an_output_with_a_file_in_the_way_is_unwritable(
    plan: ConversionPlan, root: Path, in_the_way: Callable[[Path], None]
) -> None:
    in_the_way(root)
    with pytest.raises(OutputError) as caught:
        open_attempt(plan, ATTEMPT)
    assert caught.value.code == "unwritable-output"


@pytest.mark.timeout(20)
def test_an_output_with_a_dangling_link_in_the_way_is_unwritable(
    plan: ConversionPlan, root: Path
) -> None:
    # It looks like a directory that another has removed just now, but is so for ever.
    root.symlink_to("nowhere")
    with pytest.raises(OutputError) as caught:
        open_attempt(plan, ATTEMPT)
    assert caught.value.code == "unwritable-output"


def test_an_output_directory_without_permission_is_unwritable(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    output = open_directory / "out"
    output.mkdir()
    output.chmod(0o555)
    with without_rights(), pytest.raises(OutputError, match="permissions") as caught:
        open_attempt(bare_plan(output), ATTEMPT)
    assert caught.value.code == "unwritable-output"
    assert entries(output) == []


def test_an_output_that_is_read_only_is_unwritable(small_tmpfs: Path) -> None:
    (small_tmpfs / "old").write_bytes(b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_tmpfs)], check=True)
    with pytest.raises(OutputError, match="Read-only file system") as caught:
        open_attempt(bare_plan(small_tmpfs), ATTEMPT)
    assert caught.value.code == "unwritable-output"
    assert entries(small_tmpfs) == ["old"]


# ----------------------------------------------------------------------------- opening and finding


def test_an_output_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    plan = bare_plan(tmp_path / "not" / "there")
    open_attempt(plan, ATTEMPT)
    assert find_attempt(plan, ATTEMPT).directory.startswith(str(tmp_path / "not" / "there"))


def test_an_attempt_may_be_opened_twice_and_keeps_what_it_wrote(
    tiered: ConversionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_attempt(tiered, ATTEMPT)
    before = find_attempt(tiered, ATTEMPT)
    Path(before.directory, "DATA.tiles").write_bytes(b"x")
    # The second time there would be no room for it.
    monkeypatch.setattr(reserving, "usable_bytes", Room(shm=0, ssd=0, out=0))
    open_attempt(tiered, ATTEMPT)
    assert find_attempt(tiered, ATTEMPT) == before
    assert entries(Path(before.directory)) == ["DATA.tiles"]


def test_an_attempt_that_was_never_opened_or_is_removed_is_gone(plan: ConversionPlan) -> None:
    with pytest.raises(AttemptGoneError, match=ATTEMPT.name):
        find_attempt(plan, ATTEMPT)
    assert not is_recorded(plan, ATTEMPT)
    open_attempt(plan, ATTEMPT)
    assert is_recorded(plan, ATTEMPT)
    remove_attempt(plan, ATTEMPT)
    with pytest.raises(AttemptGoneError), working_in(plan, ATTEMPT):
        pass
    assert not is_recorded(plan, ATTEMPT)


def test_an_attempt_without_its_record_is_gone(plan: ConversionPlan, root: Path) -> None:
    open_attempt(plan, ATTEMPT)
    os.unlink(record_path(str(root), ATTEMPT.name))
    with pytest.raises(AttemptGoneError), working_in(plan, ATTEMPT):
        pass
    # Its directory is still to be removed.
    assert is_recorded(plan, ATTEMPT)


def test_a_step_works_where_the_attempt_was_opened(tiered: ConversionPlan) -> None:
    open_attempt(tiered, ATTEMPT)
    with working_in(tiered, ATTEMPT) as files:
        assert files == find_attempt(tiered, ATTEMPT)
    assert files.tier == "tmpfs"


# --------------------------------------------------------------------------------------- removing


def test_everything_an_attempt_wrote_is_removed_and_the_empty_staging_directory_too(
    plan: ConversionPlan, root: Path, output: Path
) -> None:
    open_attempt(plan, ATTEMPT)
    directory = root / ATTEMPT.name
    (directory / "product.ms" / "SOURCE").mkdir(parents=True)
    (directory / "product.ms" / "SOURCE" / "table.dat").write_bytes(b"x")
    (directory / "link").symlink_to(root)
    remove_attempt(plan, ATTEMPT)
    assert entries(output) == []


@pytest.mark.parametrize("places", [{}, {"shm": 1}, {"shm": 1, "ssd": 1}])
def test_it_is_removed_from_whatever_tier_it_is_in_and_from_beside_the_target(
    monkeypatch: pytest.MonkeyPatch,
    tiered: ConversionPlan,
    tmp_path: Path,
    places: dict[str, int],
) -> None:
    monkeypatch.setattr(reserving, "usable_bytes", Room(**places))
    open_attempt(tiered, ATTEMPT)
    write_blocks(Path(find_attempt(tiered, ATTEMPT).directory, "product.ms", "table.f1"), 1)
    write_blocks(Path(incoming_path(tiered, ATTEMPT), "table.f1"), 1)
    remove_attempt(tiered, ATTEMPT)
    assert [entries(tmp_path / name) for name in ("shm", "ssd")] == [[], []]
    assert entries(Path(tiered.target).parent) == []
    assert not os.path.lexists(tiered.home_root)


def test_a_product_that_was_moved_aside_is_put_back(plan: ConversionPlan) -> None:
    # Replacing with a gap was cancelled between its two renames.
    open_attempt(plan, ATTEMPT)
    write_blocks(Path(replaced_path(plan, ATTEMPT), "table.f1"), 1)
    remove_attempt(plan, ATTEMPT)
    assert entries(Path(plan.target).parent) == [Path(plan.target).name]


def test_a_product_that_was_moved_aside_and_replaced_is_removed(plan: ConversionPlan) -> None:
    open_attempt(plan, ATTEMPT)
    write_blocks(Path(replaced_path(plan, ATTEMPT), "old"), 1)
    write_blocks(Path(plan.target, "new"), 1)
    remove_attempt(plan, ATTEMPT)
    assert entries(Path(plan.target).parent) == [Path(plan.target).name]
    assert entries(Path(plan.target)) == ["new"]


def test_another_attempts_directory_stays_and_so_does_the_staging_directory(
    plan: ConversionPlan, root: Path, output: Path
) -> None:
    for name in ("a", "b"):
        open_attempt(plan, attempt_called(name))
    remove_attempt(plan, attempt_called("a"))
    assert entries(root) == [".lock", "b", "b.attempt.json"]
    remove_attempt(plan, attempt_called("b"))
    assert entries(output) == []


def test_an_attempt_may_be_removed_twice_and_before_it_began(
    plan: ConversionPlan, output: Path
) -> None:
    remove_attempt(plan, ATTEMPT)
    open_attempt(plan, ATTEMPT)
    remove_attempt(plan, ATTEMPT)
    remove_attempt(plan, ATTEMPT)
    assert entries(output) == []


def test_what_a_link_in_an_attempt_leads_to_is_not_removed(
    plan: ConversionPlan, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "sb00").write_bytes(b"x")
    open_attempt(plan, ATTEMPT)
    (root / ATTEMPT.name / "in").symlink_to(tmp_path / "input")
    remove_attempt(plan, ATTEMPT)
    assert (tmp_path / "input" / "sb00").read_bytes() == b"x"


def test_the_records_go_last(tiered: ConversionPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process killed in the middle of it leaves nothing that could not be found again.
    open_attempt(tiered, ATTEMPT)
    write_blocks(Path(incoming_path(tiered, ATTEMPT), "table.f1"), 1)
    write_blocks(Path(find_attempt(tiered, ATTEMPT).directory, "table.f1"), 1)
    known = []
    rmtree = shutil.rmtree

    def watched(path: str, **options: Any) -> None:
        known.append(os.path.exists(record_path(tiered.home_root, ATTEMPT.name)))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    remove_attempt(tiered, ATTEMPT)
    assert known == [True, True]


# ------------------------------------------------------------------------- side by side with others


def write_until_refused(directory: str) -> Iterator[str]:
    """Write files into a directory until that is refused; tell when it began and how it ended."""
    for number in range(1_000_000):
        try:
            subdirectory = os.path.join(directory, f"{number % 7}")
            os.makedirs(subdirectory, exist_ok=True) if number < 7 else None
            Path(subdirectory, f"{number}").write_bytes(b"x")
        except OSError as error:
            yield type(error).__name__
            return
        if number == 50:
            yield "begun"


def test_an_attempt_that_another_process_still_writes_is_removed_for_good(
    plan: ConversionPlan, root: Path, output: Path
) -> None:
    open_attempt(plan, ATTEMPT)
    with OtherProcess(write_until_refused, str(root / ATTEMPT.name)) as writer:
        assert writer.yielded() == "begun"
        ended: list[str] = []
        listener = threading.Thread(target=lambda: ended.append(writer.go_on()))
        listener.start()
        remove_attempt(plan, ATTEMPT)
        listener.join(30)
        assert ended == ["FileNotFoundError"]
    assert entries(output) == []


def test_what_a_step_makes_while_its_attempt_is_removed_is_removed_as_well(
    plan: ConversionPlan, root: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_attempt(plan, ATTEMPT)
    directory = root / ATTEMPT.name
    (directory / "product.ms").mkdir()
    rmtree = shutil.rmtree
    refused = []

    def written_meanwhile(path: str, **options: Any) -> None:
        try:
            (directory / "DATA.tiles").write_bytes(b"x")
        except FileNotFoundError:
            refused.append(path)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", written_meanwhile)
    remove_attempt(plan, ATTEMPT)
    assert len(refused) == 1
    assert entries(output) == []


def open_and_remove(plan: ConversionPlan, name: str, rounds: int) -> int:
    """Open and remove attempts; return how many more files are open than after the first."""
    open_files = 0
    for number in range(rounds):
        attempt = attempt_called(f"{name}{number}")
        open_attempt(plan, attempt)
        with working_in(plan, attempt) as files:
            Path(files.directory, "DATA.tiles").write_bytes(b"x")
        remove_attempt(plan, attempt)
        open_files = open_files or open_descriptors()
    return open_descriptors() - open_files


def test_attempts_of_many_processes_begin_and_end_side_by_side(
    plan: ConversionPlan, output: Path
) -> None:
    leaked = side_by_side(open_and_remove, *((plan, name, 50) for name in "abcdefgh"))
    assert leaked == [0] * 8
    assert entries(output) == []


def test_attempts_of_many_threads_begin_and_end_side_by_side(
    tiered: ConversionPlan, tmp_path: Path
) -> None:
    failures: list[Exception] = []

    def again_and_again(name: str) -> None:
        try:
            open_and_remove(tiered, name, 50)
        except (OSError, OutputError, AttemptGoneError) as error:
            failures.append(error)

    workers = [threading.Thread(target=again_and_again, args=(name,)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert failures == []
    assert [entries(tmp_path / name) for name in ("out", "shm", "ssd")] == [[], [], []]


def removed_once(attempt: Attempt, plan: ConversionPlan) -> Callable[[], None]:
    removals = [attempt]

    def remove() -> None:
        while removals:
            remove_attempt(plan, removals.pop())

    return remove


def test_an_attempt_begins_also_when_another_removes_the_empty_staging_directory_just_then(
    plan: ConversionPlan, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_attempt(plan, attempt_called("a"))
    remove = removed_once(attempt_called("a"), plan)
    makedirs = os.makedirs

    def removed_at_once(path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        makedirs(path, mode, exist_ok)
        remove()

    monkeypatch.setattr(os, "makedirs", removed_at_once)
    open_attempt(plan, attempt_called("b"))
    assert entries(root) == [".lock", "b", "b.attempt.json"]


def test_an_attempt_begins_also_when_another_is_removed_just_then(
    plan: ConversionPlan, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_attempt(plan, attempt_called("a"))
    size_bytes = sweeping._size_bytes

    def removed_at_once(path: str) -> int:
        # As `remove_attempt` does in another process: not under the lock.
        sweeping.remove_tree(str(root / "a"))
        return size_bytes(path)

    monkeypatch.setattr(sweeping, "_size_bytes", removed_at_once)
    open_attempt(plan, attempt_called("b"))
    assert find_attempt(plan, attempt_called("b")).tier == "destination"


def test_names_beside_the_target_are_hidden_and_of_the_attempt(plan: ConversionPlan) -> None:
    for path in (incoming_path(plan, ATTEMPT), replaced_path(plan, ATTEMPT)):
        assert Path(path).parent == Path(plan.target).parent
        assert Path(path).name.startswith(".")
        assert ATTEMPT.name in path
    assert STAGING_DIRECTORY.startswith(".")
    assert attempts.incoming_path(plan, attempt_called("b")) != incoming_path(plan, ATTEMPT)
