"""Publication is all or nothing: readers see a whole product or none, and the first one wins."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import casacore.tables as tables
import pytest

from contimg_dask import copying
from contimg_dask.convert import convert_in_order, recipe
from contimg_dask.copying import allocated_bytes
from contimg_dask.errors import ExchangeError, TargetOccupiedError
from contimg_dask.execution import steps
from contimg_dask.model import ConversionPlan, OnExisting, ProductOptions, Tier
from contimg_dask.planning import propose_tiers
from contimg_dask.publishing import committing, ownership, targets
from contimg_dask.publishing.committing import publish
from contimg_dask.publishing.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    read_manifest,
    why_not_understood,
)
from contimg_dask.publishing.targets import (
    Found,
    StartIndex,
    fault_of_product,
    inspect_target,
    published_products,
)
from contimg_dask.staging.attempts import (
    find_attempt,
    incoming_path,
    open_attempt,
    remove_attempt,
    replaced_path,
)
from contimg_dask.staging.sweeping import sweep
from tests.unit.plans import attempt_called, bare_plan, entries, open_descriptors, write_blocks
from tests.unit.processes import meet, side_by_side
from tests.unit.products import (
    ATTEMPT,
    bulk_file,
    change_manifest,
    content_of,
    copy,
    plan_into,
    publishing_with,
    stage,
    state_of,
)

if TYPE_CHECKING:
    from tests.unit.conftest import Converted

SECOND = attempt_called("second")
MADE_IT = "2025-01-01T00:00:00.1.test"
"""The attempt that made the converted product."""


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here: what is brought to stable storage is seen from the calls."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def plan(converted: Converted, tmp_path: Path) -> ConversionPlan:
    return plan_into(converted, tmp_path / "out")


@pytest.fixture
def target(plan: ConversionPlan) -> Path:
    return Path(plan.target)


@pytest.fixture
def published(converted: Converted, plan: ConversionPlan) -> Path:
    """The product of the plan, at its target."""
    target = Path(plan.target)
    target.parent.mkdir(parents=True)
    copy(converted.product, target)
    return target


# -------------------------------------------------------------------------------- the one rename


class Recorder:
    """Keeps the order in which something is done, and does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, str]] = []
        for name in ("own_tree", "sync_tree", "sync_path", "rename", "remove_tree"):
            monkeypatch.setattr(committing, name, self._recorded(name, getattr(committing, name)))

    def _recorded(self, name: str, function: Callable[..., None]) -> Callable[..., None]:
        def recorded(*arguments: Any) -> None:
            function(*arguments)
            self.done.append((name, str(arguments[0])))

        return recorded


def test_publication_moves_the_staged_directory_itself(
    converted: Converted, plan: ConversionPlan, target: Path
) -> None:
    staged = stage(converted, plan)
    inode = os.stat(staged).st_ino
    content = content_of(Path(staged))
    assert publish(staged, plan, ATTEMPT) == ATTEMPT.name
    assert os.stat(target).st_ino == inode
    assert not os.path.lexists(staged)
    assert content_of(target) == content
    assert entries(target.parent) == [target.name]


def test_publication_is_one_rename_with_everything_on_stable_storage_before_it(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged = stage(converted, plan)
    recorder = Recorder(monkeypatch)
    publish(staged, plan, ATTEMPT)
    output = target.parents[2]
    assert recorder.done == [
        ("own_tree", staged),
        ("sync_tree", staged),
        ("rename", staged),
        # The product is told to be published when all the way to it is on stable storage too.
        ("sync_path", str(target.parent)),
        ("sync_path", str(output / "science")),
        ("sync_path", str(output)),
        ("remove_tree", staged),
    ]


def test_the_target_is_never_made_beforehand(
    converted: Converted, plan: ConversionPlan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = committing.rename

    def looks_first(source: str, into: str, flags: int) -> None:
        seen.append((into, os.path.lexists(into)))
        rename(source, into, flags)

    monkeypatch.setattr(committing, "rename", looks_first)
    publish(stage(converted, plan), plan, ATTEMPT)
    assert seen == [(str(target), False)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_a_rename_that_is_refused_leaves_no_directory_and_the_product_staged(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def refuse(source: str, into: str, flags: int) -> None:
        del source, flags
        raise OSError(number, os.strerror(number), into)

    staged = stage(converted, plan)
    content = content_of(Path(staged))
    monkeypatch.setattr(committing, "rename", refuse)
    with pytest.raises(OSError) as caught:
        publish(staged, plan, ATTEMPT)
    assert caught.value.errno == number
    assert entries(target.parents[2]) == [".contimg-staging"]
    assert content_of(Path(staged)) == content


class NoRenameat2:
    """A C library on a file system that knows no flags of renameat2(2)."""

    def __init__(self, number: int) -> None:
        self.number = number

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self.number)
        return -1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_flags_for_renames_gets_a_plain_one_that_still_refuses(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(committing, "_libc", NoRenameat2(number))
    assert publish(stage(converted, plan), plan, ATTEMPT) == ATTEMPT.name
    assert publish(stage(converted, plan, SECOND), plan, SECOND) == ATTEMPT.name
    shutil.rmtree(target)
    target.mkdir()
    third = attempt_called("third")
    with pytest.raises(TargetOccupiedError):
        publish(stage(converted, plan, third), plan, third)
    assert entries(target) == []


# ------------------------------------------------------------------------------ what is in the way


def a_populated_directory(target: Path) -> None:
    target.mkdir()
    (target / "table.dat").write_bytes(b"someone else's")


def an_empty_directory(target: Path) -> None:
    target.mkdir()


def a_file(target: Path) -> None:
    target.write_bytes(b"someone else's")


def a_dangling_link(target: Path) -> None:
    target.symlink_to("nowhere")


def a_link_to_a_directory(target: Path) -> None:
    elsewhere = target.parent.parent / "elsewhere"
    elsewhere.mkdir()
    target.symlink_to(elsewhere)


OBSTACLES = [
    a_populated_directory,
    an_empty_directory,
    a_file,
    a_dangling_link,
    a_link_to_a_directory,
]


@pytest.fixture(params=OBSTACLES, ids=[obstacle.__name__ for obstacle in OBSTACLES])
def obstacle(request: pytest.FixtureRequest, target: Path) -> Path:
    """Something that is not our product, at the target."""
    target.parent.mkdir(parents=True)
    request.param(target)
    return target


@pytest.mark.parametrize("on_existing", ["skip", "fail"])
def test_what_stands_at_the_target_is_left_as_it_is(
    converted: Converted, plan: ConversionPlan, obstacle: Path, on_existing: OnExisting
) -> None:
    plan = dataclasses.replace(plan, on_existing=on_existing)
    staged = stage(converted, plan)
    before = state_of(obstacle)
    with pytest.raises(TargetOccupiedError) as caught:
        publish(staged, plan, ATTEMPT)
    assert (caught.value.code, caught.value.path) == ("target-occupied", str(obstacle))
    assert str(obstacle) in str(caught.value)
    assert "--on-existing replace" in str(caught.value)
    assert state_of(obstacle) == before
    assert entries(obstacle.parent) == [obstacle.name]
    assert os.path.isdir(staged)


def test_what_stands_at_the_target_is_something_else(plan: ConversionPlan, obstacle: Path) -> None:
    found = inspect_target(obstacle, plan)
    assert found.state == "other"
    assert found.text


def test_what_stands_at_the_target_can_be_replaced(
    converted: Converted, plan: ConversionPlan, obstacle: Path
) -> None:
    plan = dataclasses.replace(plan, on_existing="replace")
    elsewhere = obstacle.parent.parent / "elsewhere"
    was_there = elsewhere.is_dir()
    staged = stage(converted, plan)
    assert publish(staged, plan, ATTEMPT) == ATTEMPT.name
    assert inspect_target(obstacle, plan) == Found(state="whole", attempt=ATTEMPT.name)
    assert entries(obstacle.parent) == [obstacle.name]
    # What stood there is removed: the thing itself, not what a link leads to.
    assert not os.path.lexists(staged)
    assert elsewhere.is_dir() == was_there


def test_a_file_in_place_of_the_day_directory_is_an_error_and_stays(
    converted: Converted, plan: ConversionPlan, target: Path
) -> None:
    target.parent.parent.mkdir(parents=True)
    target.parent.write_bytes(b"not a directory")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        publish(stage(converted, plan), plan, ATTEMPT)
    assert target.parent.read_bytes() == b"not a directory"


# ------------------------------------------------------------------------------- the same product


def test_nothing_at_the_target_is_absent(plan: ConversionPlan, target: Path) -> None:
    assert inspect_target(target, plan).state == "absent"


def test_a_published_product_is_whole(plan: ConversionPlan, published: Path) -> None:
    assert inspect_target(published, plan) == Found(state="whole", attempt=MADE_IT)


@pytest.mark.parametrize("on_existing", ["skip", "fail"])
def test_a_second_publication_of_the_same_plan_changes_nothing(
    converted: Converted, plan: ConversionPlan, published: Path, on_existing: OnExisting
) -> None:
    before = state_of(published)
    staged = stage(converted, plan, SECOND)
    plan = dataclasses.replace(plan, on_existing=on_existing)
    # It is told whose product stands there, and what it staged is removed.
    assert publish(staged, plan, SECOND) == MADE_IT
    assert state_of(published) == before
    assert not os.path.lexists(staged)


def test_the_same_plan_made_another_way_is_the_same_product(
    plan: ConversionPlan, published: Path
) -> None:
    other = dataclasses.replace(
        plan,
        direct=False,
        parallel=True,
        tiers=propose_tiers("/elsewhere", tmpfs_path="/dev/shm"),
        kind="calibrator",
    )
    assert inspect_target(published, other).state == "whole"


def test_a_product_of_the_same_plan_is_replaced_on_request(
    converted: Converted, plan: ConversionPlan, published: Path
) -> None:
    plan = dataclasses.replace(plan, on_existing="replace")
    staged = stage(converted, plan, SECOND)
    inode = os.stat(staged).st_ino
    assert publish(staged, plan, SECOND) == SECOND.name
    assert os.stat(published).st_ino == inode
    assert not os.path.lexists(staged)
    assert entries(published.parent) == [published.name]


def test_the_conversion_replaces_a_product_of_the_same_plan_on_request(
    plan: ConversionPlan, published: Path
) -> None:
    # As with a product that someone has flagged or calibrated since, and wants back as it was.
    old = os.stat(published).st_ino
    plan = dataclasses.replace(plan, on_existing="replace")
    product = convert_in_order(plan, SECOND)
    assert os.stat(published).st_ino != old
    assert product.attempt == SECOND.name
    assert entries(Path(plan.publication.output_dir)) == ["science"]


def test_the_conversion_of_what_is_published_already_says_whose_it_is_and_cleans_up(
    plan: ConversionPlan, published: Path
) -> None:
    before = state_of(published)
    product = convert_in_order(plan, SECOND)
    assert product.attempt == MADE_IT
    assert state_of(published) == before
    assert entries(Path(plan.publication.output_dir)) == ["science"]


def test_the_last_step_may_run_again_after_it_has_published(plan: ConversionPlan) -> None:
    # As when its worker dies before it can say so.
    handed = {}

    def run(name: str, step: Any, *arguments: Any) -> Any:
        handed[name] = step, arguments
        return step(*arguments)

    steps.open_attempt(plan, ATTEMPT)
    first = recipe(plan, ATTEMPT, run)
    before = state_of(Path(plan.target))
    reduce_parts, arguments = handed["reduce"]
    again = reduce_parts(*arguments)
    assert (again.path, again.attempt) == (first.path, first.attempt) == (plan.target, ATTEMPT.name)
    assert (again.tier, again.tier_reason) == (first.tier, first.tier_reason)
    assert state_of(Path(plan.target)) == before
    assert entries(Path(plan.publication.output_dir)) == ["science"]


# ------------------------------------------------------------------------ products that are not whole


def without_manifest(product: Path) -> None:
    (product / MANIFEST_NAME).unlink()


def with_half_a_manifest(product: Path) -> None:
    os.truncate(product / MANIFEST_NAME, (product / MANIFEST_NAME).stat().st_size // 2)


def with_an_empty_manifest(product: Path) -> None:
    os.truncate(product / MANIFEST_NAME, 0)


def with_a_manifest_of_another_kind(product: Path) -> None:
    (product / MANIFEST_NAME).write_text("[1, 2, 3]")


def with_a_manifest_in_no_encoding(product: Path) -> None:
    (product / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")


def with_another_plans_hash(product: Path) -> None:
    change_manifest(product, plan_hash="0" * 64)


def without_a_plan_hash(product: Path) -> None:
    change_manifest(product, plan_hash=None)


def without_its_table(product: Path) -> None:
    (product / "table.dat").unlink()


def with_half_a_table(product: Path) -> None:
    os.truncate(product / "table.dat", (product / "table.dat").stat().st_size // 2)


def with_a_row_too_many(product: Path) -> None:
    with tables.table(str(product), readonly=False, ack=False) as table:
        table.addrows(1)


def without_data(product: Path) -> None:
    bulk_file(product, "DATA").unlink()


def with_data_short_by_a_byte(product: Path) -> None:
    file = bulk_file(product, "DATA")
    os.truncate(file, file.stat().st_size - 1)


def with_short_flags(product: Path) -> None:
    os.truncate(bulk_file(product, "FLAG"), 0)


def with_a_short_hole(product: Path) -> None:
    file = bulk_file(product, "MODEL_DATA")
    os.truncate(file, file.stat().st_size - 1)


def without_the_column(product: Path) -> None:
    with tables.table(str(product), readonly=False, ack=False) as table:
        table.removecols(["WEIGHT_SPECTRUM"])


BROKEN = [
    without_manifest,
    with_half_a_manifest,
    with_an_empty_manifest,
    with_a_manifest_of_another_kind,
    with_a_manifest_in_no_encoding,
    with_another_plans_hash,
    without_a_plan_hash,
    without_its_table,
    with_half_a_table,
    with_a_row_too_many,
    without_data,
    with_data_short_by_a_byte,
    with_short_flags,
    with_a_short_hole,
    without_the_column,
]


@pytest.mark.parametrize("spoil", BROKEN, ids=[spoil.__name__ for spoil in BROKEN])
def test_a_product_that_is_not_whole_is_something_else_and_left_as_it_is(
    converted: Converted, plan: ConversionPlan, published: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(published)
    before = content_of(published)
    found = inspect_target(published, plan)
    assert found.state == "other"
    assert found.text
    assert "\n" not in found.text
    with pytest.raises(TargetOccupiedError):
        publish(stage(converted, plan, SECOND), plan, SECOND)
    assert content_of(published) == before


def test_a_product_whose_imaging_columns_were_taken_away_is_whole(
    plan: ConversionPlan, published: Path
) -> None:
    # As clearcal and others do; nothing that was observed is lost.
    with tables.table(str(published), readonly=False, ack=False) as table:
        table.removecols(["MODEL_DATA", "CORRECTED_DATA"])
    assert inspect_target(published, plan).state == "whole"
    assert fault_of_product(published, read_manifest(published)) is None


OTHER_PLANS: dict[str, dict[str, Any]] = {
    "other options": {"options": ProductOptions(telescope_name="OVRO_MMA")},
    "fewer subbands": {"subbands": ()},
}


@pytest.mark.parametrize("changes", OTHER_PLANS.values(), ids=OTHER_PLANS.keys())
def test_the_product_of_another_plan_is_something_else(
    plan: ConversionPlan, published: Path, changes: dict[str, Any]
) -> None:
    if "subbands" in changes:
        changes = {"subbands": plan.subbands[:-1]}
    found = inspect_target(published, dataclasses.replace(plan, **changes))
    assert found == Found(state="other", text="it was made from other files or with other options")


# ------------------------------------------------------------------------------ another file system


def test_an_output_that_is_a_link_to_another_file_system_is_published_to_in_one_rename(
    converted: Converted, tmp_path: Path, in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").symlink_to(in_memory)
    plan = plan_into(converted, tmp_path / "out")
    monkeypatch.setattr(committing, "copy_tree", None)
    staged = stage(converted, plan)
    content = content_of(Path(staged))
    assert publish(staged, plan, ATTEMPT) == ATTEMPT.name
    assert content_of(Path(plan.target)) == content


@pytest.fixture
def far_plan(converted: Converted, tmp_path: Path, in_memory: Path) -> ConversionPlan:
    """A plan whose product is staged in memory and published on disk."""
    home = propose_tiers(str(tmp_path / "out"))
    tier = Tier(name="tmpfs", root=str(in_memory / "staging"))
    return plan_into(converted, tmp_path / "out", tiers=(tier, *home))


def test_a_product_from_another_file_system_is_copied_whole(
    converted: Converted, far_plan: ConversionPlan, target: Path
) -> None:
    staged = stage(converted, far_plan)
    content = content_of(Path(staged))
    assert os.stat(staged).st_dev != os.stat(target.parents[3]).st_dev
    assert publish(staged, far_plan, ATTEMPT) == ATTEMPT.name
    assert content_of(target) == content
    assert inspect_target(target, far_plan).state == "whole"
    assert entries(target.parent) == [target.name]


def test_its_holes_stay_holes(converted: Converted, far_plan: ConversionPlan, target: Path) -> None:
    publish(stage(converted, far_plan), far_plan, ATTEMPT)
    for column in ("MODEL_DATA", "CORRECTED_DATA"):
        file = bulk_file(target, column)
        assert file.stat().st_size > 0
        assert file.stat().st_blocks == 0
    assert bulk_file(target, "DATA").stat().st_blocks > 0
    assert allocated_bytes(str(target)) <= allocated_bytes(str(converted.product))


def test_it_is_copied_beside_the_target_under_a_hidden_name_and_synced_before_the_rename(
    converted: Converted, far_plan: ConversionPlan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = stage(converted, far_plan)
    recorder = Recorder(monkeypatch)
    publish(staged, far_plan, ATTEMPT)
    incoming = recorder.done[0][1]
    assert incoming.startswith(incoming_path(far_plan, ATTEMPT))
    assert recorder.done[:4] == [
        ("own_tree", incoming),
        ("sync_tree", incoming),
        ("rename", incoming),
        ("sync_path", str(target.parent)),
    ]


def test_several_of_its_files_are_copied_at_once(
    converted: Converted, far_plan: ConversionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(4, timeout=30)
    copied = []
    copy_file = copying.copy_file

    def together(source: str, target: str) -> int:
        # The first four come to this only if none of them waits for another.
        if len(copied) < 4:
            copied.append(source)
            meeting.wait()
        return copy_file(source, target)

    monkeypatch.setattr(copying, "copy_file", together)
    publish(stage(converted, far_plan), far_plan, ATTEMPT)
    # And the largest come first.
    sizes = [os.path.getsize(converted.product / os.path.basename(path)) for path in copied[:4]]
    assert min(sizes) >= os.path.getsize(bulk_file(converted.product, "WEIGHT_SPECTRUM"))


def test_it_is_not_published_twice_and_leaves_no_copy(
    converted: Converted, far_plan: ConversionPlan, target: Path
) -> None:
    assert publish(stage(converted, far_plan), far_plan, ATTEMPT) == ATTEMPT.name
    assert publish(stage(converted, far_plan, SECOND), far_plan, SECOND) == ATTEMPT.name
    assert entries(target.parent) == [target.name]


def test_it_is_copied_afresh_and_the_leftovers_of_a_killed_copy_go_with_its_attempt(
    converted: Converted, far_plan: ConversionPlan, target: Path
) -> None:
    leftover = target.parent / f".{ATTEMPT.name}.incoming"
    leftover.mkdir(parents=True)
    (leftover / "table.dat").write_bytes(b"half")
    (leftover / "stray").write_bytes(b"x")
    staged = stage(converted, far_plan)
    content = content_of(Path(staged))
    publish(staged, far_plan, ATTEMPT)
    remove_attempt(far_plan, ATTEMPT)
    assert content_of(target) == content
    assert entries(target.parent) == [target.name]


def test_its_copy_is_removed_when_something_else_is_in_the_way(
    converted: Converted, far_plan: ConversionPlan, obstacle: Path
) -> None:
    before = state_of(obstacle)
    with pytest.raises(TargetOccupiedError):
        publish(stage(converted, far_plan), far_plan, ATTEMPT)
    assert state_of(obstacle) == before
    assert entries(obstacle.parent) == [obstacle.name]


def test_replacing_what_is_in_the_way_leaves_no_trace_of_it(
    converted: Converted, far_plan: ConversionPlan, obstacle: Path
) -> None:
    plan = dataclasses.replace(far_plan, on_existing="replace")
    assert publish(stage(converted, plan), plan, ATTEMPT) == ATTEMPT.name
    assert inspect_target(obstacle, plan).state == "whole"
    assert entries(obstacle.parent) == [obstacle.name]


@pytest.mark.parametrize("after", [0, 3, 20])
def test_a_copy_that_fails_half_way_leaves_nothing(
    converted: Converted,
    far_plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    staged = stage(converted, far_plan)
    copied = []
    sendfile = os.sendfile

    def full_after_a_while(*arguments: Any) -> int:
        if len(copied) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copied.append(arguments)
        return sendfile(*arguments)

    def never(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", never)
    monkeypatch.setattr(os, "sendfile", full_after_a_while)
    content = content_of(Path(staged))
    with pytest.raises(OSError) as caught:
        publish(staged, far_plan, ATTEMPT)
    assert caught.value.errno == errno.ENOSPC
    assert not target.parents[2].exists()
    assert content_of(Path(staged)) == content


def test_when_the_last_step_runs_twice_at_once_no_half_copy_is_published(
    converted: Converted,
    far_plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The second begins to copy when the first has all of its copy on stable storage.
    staged = stage(converted, far_plan)
    sync_tree, copy_file = committing.sync_tree, copying.copy_file
    half_way, go_on = threading.Event(), threading.Event()
    ended: list[object] = []

    def publish_again() -> None:
        try:
            ended.append(publish(staged, far_plan, ATTEMPT))
        except OSError as error:
            ended.append(error)

    second = threading.Thread(target=publish_again)

    def then_the_second_begins(directory: str) -> None:
        sync_tree(directory)
        if second.ident is None:
            monkeypatch.setattr(copying, "copy_file", slow_copy)
            second.start()
            half_way.wait(1)

    def slow_copy(source: str, target: str) -> int:
        half_way.set()
        go_on.wait(30)
        return copy_file(source, target)

    monkeypatch.setattr(committing, "sync_tree", then_the_second_begins)
    try:
        publish(staged, far_plan, ATTEMPT)
        assert inspect_target(target, far_plan).state == "whole"
    finally:
        go_on.set()
        second.join(30)
    assert inspect_target(target, far_plan).state == "whole"


# ---------------------------------------------------------------------------------- two at a time

ROUNDS = 8


def publish_rounds(plans: list[ConversionPlan], staged: list[str], name: str) -> list[str]:
    """Publish one product after the other, each at the same moment as the other process."""
    os.fsync = lambda _: None
    said = []
    for plan, product in zip(plans, staged, strict=True):
        meet()
        said.append(publish(product, plan, attempt_called(name)))
    return said


@pytest.mark.parametrize("on_existing", ["skip", "replace"])
def test_of_two_processes_that_publish_the_same_plan_one_has_its_product_there(
    converted: Converted, tmp_path: Path, in_memory: Path, on_existing: OnExisting
) -> None:
    plans = []
    for number in range(ROUNDS):
        output = tmp_path / f"out{number}"
        tiers = propose_tiers(str(output))
        if number % 2:
            # It has to be copied to the output's file system first.
            tiers = (Tier(name="tmpfs", root=str(in_memory / f"{number}")), *tiers)
        plans.append(plan_into(converted, output, tiers=tiers, on_existing=on_existing))
    one, two = side_by_side(
        publish_rounds,
        *(
            (plans, [stage(converted, plan, attempt_called(name)) for plan in plans], name)
            for name in ("one", "two")
        ),
    )
    for plan, *said in zip(plans, one, two, strict=True):
        found = inspect_target(Path(plan.target), plan)
        assert found.state == "whole"
        if on_existing == "skip":
            # The second is told of the first.
            assert said == [found.attempt, found.attempt]
        else:
            # Both were there, one after the other.
            assert said == ["one", "two"]
        assert found.attempt in ("one", "two")
        assert entries(Path(plan.target).parent) == [Path(plan.target).name]


# -------------------------------------------------------------------------- what others do meanwhile


def remove_the_day(target: Path) -> None:
    target.parent.rmdir()


def remove_day_and_kind(target: Path) -> None:
    target.parent.rmdir()
    target.parent.parent.rmdir()


@pytest.mark.parametrize("removed", [remove_the_day, remove_day_and_kind])
def test_directories_that_vanish_before_the_rename_are_made_again(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    removed: Callable[[Path], None],
) -> None:
    # Another attempt made them too, failed, and took them away.
    sync_tree, removals = committing.sync_tree, [removed]

    def vanishing(directory: str) -> None:
        sync_tree(directory)
        while removals:
            removals.pop()(target)

    monkeypatch.setattr(committing, "sync_tree", vanishing)
    assert publish(stage(converted, plan), plan, ATTEMPT) == ATTEMPT.name
    assert inspect_target(target, plan).state == "whole"


@pytest.mark.parametrize("step", ["_place", "own_tree"])
def test_directories_that_vanish_as_soon_as_they_are_made_are_made_again(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    function, removals = getattr(committing, step), [target]

    def vanishing(*arguments: Any) -> Any:
        while removals:
            remove_the_day(removals.pop())
        return function(*arguments)

    monkeypatch.setattr(committing, step, vanishing)
    assert publish(stage(converted, plan), plan, ATTEMPT) == ATTEMPT.name


def test_directories_that_vanish_while_they_are_made_are_made_again(
    converted: Converted, plan: ConversionPlan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, removals = ownership._own, [target]

    def vanishing(*arguments: Any) -> None:
        while removals:
            remove_day_and_kind(removals.pop())
        own(*arguments)

    staged = stage(converted, plan)
    monkeypatch.setattr(ownership, "_own", vanishing)
    assert publish(staged, plan, ATTEMPT) == ATTEMPT.name


def test_a_staged_product_that_vanishes_before_the_rename_is_an_error(
    converted: Converted, plan: ConversionPlan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The attempt was given up meanwhile.
    monkeypatch.setattr(committing, "sync_tree", shutil.rmtree)
    with pytest.raises(FileNotFoundError):
        publish(stage(converted, plan), plan, ATTEMPT)
    assert not target.parent.exists()


def test_directories_that_others_have_filled_meanwhile_stay(
    converted: Converted, plan: ConversionPlan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = target.parent / "2025-10-05T03:17:15.ms"

    def fill_and_refuse(*_: object) -> None:
        other.mkdir()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(committing, "rename", fill_and_refuse)
    with pytest.raises(OSError, match="Input/output"):
        publish(stage(converted, plan), plan, ATTEMPT)
    assert entries(target.parent) == [other.name]


# ------------------------------------------------------------- replacing where nothing is exchanged


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no flags for renames."""
    monkeypatch.setattr(committing, "_libc", NoRenameat2(errno.EINVAL))


@pytest.mark.usefixtures("without_exchange")
def test_a_product_that_could_be_replaced_only_with_a_gap_is_left_as_it_is(
    converted: Converted, plan: ConversionPlan, published: Path
) -> None:
    plan = dataclasses.replace(plan, on_existing="replace")
    staged = stage(converted, plan, SECOND)
    before = state_of(published), state_of(Path(staged))
    with pytest.raises(ExchangeError) as caught:
        publish(staged, plan, SECOND)
    assert (caught.value.code, caught.value.path) == ("no-exchange", str(published))
    assert "--allow-gap" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (state_of(published), state_of(Path(staged))) == before


@pytest.mark.usefixtures("without_exchange")
def test_a_gap_is_allowed_on_request_and_nothing_is_left_of_the_old_product(
    converted: Converted, plan: ConversionPlan, obstacle: Path
) -> None:
    plan = publishing_with(dataclasses.replace(plan, on_existing="replace"), allow_gap=True)
    staged = stage(converted, plan, SECOND)
    assert publish(staged, plan, SECOND) == SECOND.name
    assert inspect_target(obstacle, plan) == Found(state="whole", attempt=SECOND.name)
    assert entries(obstacle.parent) == [obstacle.name]
    assert not os.path.lexists(staged)


@pytest.mark.usefixtures("without_exchange")
def test_the_old_product_comes_back_when_the_new_one_cannot_be_moved_in(
    converted: Converted, plan: ConversionPlan, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = publishing_with(dataclasses.replace(plan, on_existing="replace"), allow_gap=True)
    staged = stage(converted, plan, SECOND)
    before = state_of(published), state_of(Path(staged))
    rename = os.rename
    seen = []

    def refused(source: str, into: str) -> None:
        if str(source) == staged:
            seen.append(os.path.lexists(published))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, into)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(OSError, match="Input/output"):
        publish(staged, plan, SECOND)
    assert seen == [False]
    assert (state_of(published), state_of(Path(staged))) == before
    assert entries(published.parent) == [published.name]


@pytest.mark.usefixtures("without_exchange")
def test_a_kill_in_the_gap_is_mended_by_the_sweep(
    converted: Converted, plan: ConversionPlan, published: Path
) -> None:
    plan = publishing_with(dataclasses.replace(plan, on_existing="replace"), allow_gap=True)
    before = content_of(published)
    child = os.fork()
    if child == 0:
        # Nothing but a rename and a kill is done here, so the fork does no harm.
        try:
            mine = attempt_called("killed")
            open_attempt(plan, mine)
            committing.sync_path = lambda _: os.kill(os.getpid(), 9)
            committing._replace_with_gap("nowhere", published, replaced_path(plan, mine))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 9
    assert not published.exists()
    sweep(plan.home_root)
    assert content_of(published) == before
    assert entries(Path(plan.publication.output_dir)) == ["science"]
    assert entries(published.parent) == [published.name]


# ------------------------------------------------------------------------------- for a long time

CYCLES = 100


def small_product(plan: ConversionPlan, number: int) -> str:
    """A product of an attempt that is open, as small as can be."""
    product = Path(find_attempt(plan, attempt_called(f"{number}")).directory, "product.ms")
    write_blocks(product / "table.f1", 1)
    write_blocks(product / "SOURCE" / "table.dat", 1)
    (product / MANIFEST_NAME).write_text(json.dumps({"attempt": f"{number}"}))
    return str(product)


def test_hundreds_of_publications_leave_no_file_and_no_descriptor(
    tmp_path: Path, in_memory: Path
) -> None:
    near = bare_plan(tmp_path / "out")
    far = bare_plan(tmp_path / "out", Tier(name="tmpfs", root=str(in_memory / "staging")))
    open_files = open_descriptors()
    for number in range(3 * CYCLES):
        plan = dataclasses.replace((near, far)[number % 2], on_existing="replace")
        if number % 3 == 0:
            # A failure in between: what stands there is not of this plan.
            plan = dataclasses.replace(plan, on_existing="fail")
        attempt = attempt_called(f"{number}")
        open_attempt(plan, attempt)
        occupied = os.path.exists(plan.target)
        if occupied and plan.on_existing == "fail":
            with pytest.raises(TargetOccupiedError):
                publish(small_product(plan, number), plan, attempt)
        else:
            assert publish(small_product(plan, number), plan, attempt) == f"{number}"
        remove_attempt(plan, attempt)
    assert open_descriptors() == open_files
    assert entries(tmp_path / "out") == ["science"]
    assert entries(in_memory) == []
    target = Path(near.target)
    assert entries(target.parent) == [target.name]
    assert entries(target) == ["SOURCE", MANIFEST_NAME, "table.f1"]
    assert allocated_bytes(str(tmp_path)) < 4 * 4096


# ------------------------------------------------------------------------------------- the manifest


def test_the_manifest_says_what_the_product_was_made_from_and_how(
    converted: Converted, published: Path
) -> None:
    manifest = read_manifest(published)
    assert manifest is not None
    plan = converted.plan
    assert manifest["manifest_version"] == MANIFEST_VERSION == 2
    assert manifest["plan_hash"] == plan.plan_hash
    assert manifest["group"] == plan.group_id
    assert (manifest["kind"], manifest["start_mjd"]) == ("science", plan.start_mjd)
    assert manifest["windows"] == {"sb02": 0, "sb01": 1, "sb00": 2}
    assert (manifest["missing"], manifest["unreadable"]) == ([], [])
    assert manifest["options"] == dataclasses.asdict(plan.options)
    assert manifest["mode"] == "direct-serial"
    assert (manifest["tier_proposed"], manifest["tier"]) == ("destination", "destination")
    assert manifest["tier_reason"].count("MB") == 2
    assert manifest["attempt"] == MADE_IT
    assert manifest["software"].keys() >= {"python", "contimg-dask", "pyuvdata", "python-casacore"}
    assert manifest["seconds"].keys() >= {"wait", "rows", "parts", "reduce", "verify"}
    assert [entry["subband"] for entry in manifest["inputs"]] == ["sb02", "sb01", "sb00"]
    for entry, subband in zip(manifest["inputs"], plan.subbands, strict=True):
        assert entry["path"] == subband.header.path
        assert entry["size_bytes"] == os.stat(entry["path"]).st_size
        assert entry["mtime_ns"] == os.stat(entry["path"]).st_mtime_ns
        assert entry["start_jd"] == plan.start_jd


def test_the_manifest_says_of_each_subband_what_was_counted(
    converted: Converted, published: Path
) -> None:
    manifest = read_manifest(published)
    assert manifest is not None
    assert list(manifest["subbands"]) == ["sb02", "sb01", "sb00"]
    with tables.table(str(published), ack=False) as table:
        flags = table.getcol("FLAG").reshape(3, -1)
    for facts, flagged, subband in zip(
        manifest["subbands"].values(), flags, converted.plan.subbands, strict=True
    ):
        assert facts["rows"] == subband.header.rows
        assert facts["values_flagged"] == flagged.sum()
        assert facts["values_zeroed"] == 0
        assert facts["checksums"].keys() == {"DATA", "WEIGHT_SPECTRUM", "FLAG"}


def test_the_windows_in_the_manifest_are_those_of_the_table(published: Path) -> None:
    manifest = read_manifest(published)
    assert manifest is not None
    with tables.table(str(published / "SPECTRAL_WINDOW"), ack=False) as windows:
        in_table = {windows.getcell("NAME", row): row for row in range(windows.nrows())}
    assert manifest["windows"] == in_table


# --------------------------------------------------------------- manifests of other versions


def of_version_1(product: Path, plan: ConversionPlan) -> None:
    """Write the manifest as version 1 had it, by hand: nothing of it was made by this version."""
    rows = plan.subbands[0].header.rows
    manifest = {
        "manifest_version": 1,
        "group": plan.group_id,
        "kind": "science",
        "start_mjd": plan.start_mjd,
        "plan_hash": plan.plan_hash,
        "inputs": [
            {
                "subband": f"sb{2 - position:02d}",
                "path": subband.header.path,
                "size_bytes": subband.header.size_bytes,
                "mtime_ns": subband.header.mtime_ns,
                "start_jd": subband.header.start_jd,
            }
            for position, subband in enumerate(plan.subbands)
        ],
        "windows": {"sb02": 0, "sb01": 1, "sb00": 2},
        "missing": [],
        "unreadable": [],
        "options": {
            "telescope_name": "DSA_110",
            "imaging_columns": "zero",
            "phase_centre": "auto",
            "spw": "subband",
        },
        "geometry": {
            "subbands": 3,
            "subband_rows": rows,
            "channels": 4,
            "products": 2,
            "imaging_columns": True,
            "spw": "subband",
        },
        "mode": "direct-parallel",
        "tier": "destination",
        "software": {"python": "3.11.7", "contimg-dask": "0.1.0"},
        "attempt": "2025-10-05T03:12:06.1.5e6f7a8b",
        "node": "lxd110h03",
        "seconds": {"wait": 0.0012, "rows": 0.4, "parts": 2.5, "reduce": 0.02, "verify": 0.1},
        "notes": [],
        "subbands": {
            f"sb{number:02d}": {
                "rows": rows,
                "values_flagged": 0,
                "values_not_finite": 0,
                "reader": "direct",
            }
            for number in (2, 1, 0)
        },
    }
    (product / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n")


def test_a_product_of_version_1_is_known(plan: ConversionPlan, published: Path) -> None:
    of_version_1(published, plan)
    manifest = read_manifest(published)
    assert manifest is not None
    assert why_not_understood(manifest) is None
    assert fault_of_product(published, manifest) is None
    assert inspect_target(published, plan) == Found(
        state="whole", attempt="2025-10-05T03:12:06.1.5e6f7a8b"
    )
    index = StartIndex(Path(plan.publication.output_dir))
    assert index.find(plan.start_mjd, (published.parent.name,)) == published


def test_a_product_of_version_1_is_not_published_again(
    converted: Converted, plan: ConversionPlan, published: Path
) -> None:
    of_version_1(published, plan)
    before = state_of(published)
    found = publish(stage(converted, plan, SECOND), plan, SECOND)
    assert found == "2025-10-05T03:12:06.1.5e6f7a8b"
    assert state_of(published) == before


def test_a_product_of_version_1_that_is_damaged_is_told(
    plan: ConversionPlan, published: Path
) -> None:
    of_version_1(published, plan)
    os.truncate(bulk_file(published, "DATA"), 100)
    assert fault_of_product(published, read_manifest(published)) == "its DATA is missing or short"


@pytest.mark.parametrize("version", [3, 0, -1, None, "2", 2.5])
def test_a_manifest_of_a_version_unknown_here_gets_one_clear_line(
    published: Path, version: Any
) -> None:
    change_manifest(published, manifest_version=version)
    manifest = read_manifest(published)
    assert manifest is not None
    for line in (why_not_understood(manifest), fault_of_product(published, manifest)):
        assert line is not None
        assert f"version {version}" in line
        assert "up to 2" in line
        assert "\n" not in line


def test_a_whole_product_has_no_fault(published: Path) -> None:
    assert fault_of_product(published, read_manifest(published)) is None


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("geometry", ...),
        ("geometry", {}),
        ("geometry", {"subbands": 3}),
        ("geometry", []),
        ("inputs", ...),
        ("inputs", {}),
    ],
)
def test_a_manifest_that_lacks_what_is_needed_is_a_fault(
    published: Path, entry: str, value: Any
) -> None:
    change_manifest(published, **{entry: value})
    fault = fault_of_product(published, read_manifest(published))
    assert fault == "its manifest lacks its geometry or its inputs"


BY_ITSELF = [spoil for spoil in BROKEN if "hash" not in spoil.__name__]
"""What shows without a plan to hold the product against."""


@pytest.mark.parametrize(
    ("entry", "value"),
    [("channels", "4"), ("subband_rows", None), ("products", 0), ("subbands", 3.0), ("spw", "x")],
)
def test_a_manifest_with_a_geometry_that_is_none_is_a_fault(
    published: Path, entry: str, value: Any
) -> None:
    manifest = read_manifest(published)
    assert manifest is not None
    change_manifest(published, geometry=manifest["geometry"] | {entry: value})
    assert fault_of_product(published, read_manifest(published)) is not None


@pytest.mark.parametrize("spoil", BY_ITSELF, ids=[spoil.__name__ for spoil in BY_ITSELF])
def test_a_product_that_is_not_whole_by_its_own_manifest_is_told(
    published: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(published)
    fault = fault_of_product(published, read_manifest(published))
    assert fault
    assert "\n" not in fault


def test_published_products_are_listed_by_kind_date_and_id(tmp_path: Path) -> None:
    listed = [
        "science/2025-10-04/2025-10-04T23:59:59.ms",
        "science/2025-10-05/2025-10-05T03:12:06.ms",
        "science/2025-10-05/2025-10-05T03:17:15.ms",
        "calibrators/2025-10-05/2025-10-05T03:00:00.ms",
    ]
    others = [
        "science/2025-10-05/.a.incoming",
        "science/2025-10-05/.hidden.ms",
        "failed/2025-10-05/2025-10-05T03:20:00.ms",
        ".contimg-staging/a/product.ms",
    ]
    for path in others + listed[::-1]:
        (tmp_path / path).mkdir(parents=True)
    assert published_products(tmp_path) == [tmp_path / path for path in listed]


# ------------------------------------------------------------------- products of the same start

START_MJD = 60953.13347734


def product_at(output: Path, place: str, manifest: Any) -> Path:
    """A directory with a manifest: all that is looked at to find a start."""
    path = output / place
    path.mkdir(parents=True)
    (path / MANIFEST_NAME).write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    "place",
    [
        "science/2025-10-05/2025-10-05T03:12:06.ms",
        "science/2025-10-05/2025-10-05T03:12:28.ms",
        "science/2025-10-05/3c286.ms",
        "calibrators/2025-10-05/2025-10-05T03:12:06.ms",
        "calibrators/2025-10-05/2025-10-05T03:13:28.ms",
    ],
)
@pytest.mark.parametrize("off_ms", [0, -0.9, 0.9])
def test_a_product_of_the_same_start_is_found_under_any_id_and_kind(
    tmp_path: Path, place: str, off_ms: float
) -> None:
    path = product_at(tmp_path, place, {"start_mjd": START_MJD + off_ms / 86_400_000})
    product_at(tmp_path, "science/2025-10-05/other.ms", {"start_mjd": START_MJD + 300 / 86400})
    assert StartIndex(tmp_path).find(START_MJD, ("2025-10-05",)) == path


@pytest.mark.parametrize(
    ("place", "off_ms"),
    [
        ("science/2025-10-05/a.ms", 1.2),
        ("science/2025-10-05/a.ms", -1.2),
        ("science/2025-10-04/a.ms", 0),
        ("failed/2025-10-05/a.ms", 0),
        ("science/2025-10-05/a.ms.old", 0),
        ("science/2025-10-05/below/a.ms", 0),
    ],
)
def test_no_other_product_is_found(tmp_path: Path, place: str, off_ms: float) -> None:
    product_at(tmp_path, place, {"start_mjd": START_MJD + off_ms / 86_400_000})
    assert StartIndex(tmp_path).find(START_MJD, ("2025-10-05",)) is None


def test_a_start_near_midnight_is_looked_for_on_both_dates(tmp_path: Path) -> None:
    path = product_at(tmp_path, "science/2025-10-06/a.ms", {"start_mjd": START_MJD})
    assert StartIndex(tmp_path).find(START_MJD, ("2025-10-05", "2025-10-06")) == path


@pytest.mark.parametrize(
    "manifest", [{}, [], None, {"start_mjd": None}, {"start_mjd": "soon"}, {"start_mjd": []}]
)
def test_a_product_without_a_usable_start_is_passed_over(tmp_path: Path, manifest: Any) -> None:
    product_at(tmp_path, "science/2025-10-05/a.ms", manifest)
    (tmp_path / "science/2025-10-05/b.ms").mkdir()
    path = product_at(tmp_path, "science/2025-10-05/c.ms", {"start_mjd": START_MJD})
    assert StartIndex(tmp_path).find(START_MJD, ("2025-10-05",)) == path


def test_manifests_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = product_at(tmp_path, "science/2025-10-05/a.ms", {"start_mjd": START_MJD})
    index = StartIndex(tmp_path)
    assert index.find(START_MJD + 1, ("2025-10-05",)) is None
    monkeypatch.setattr(targets, "read_manifest", None)
    assert index.find(START_MJD, ("2025-10-05",)) == path
