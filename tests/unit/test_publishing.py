"""Publication is all or nothing: readers see a whole product or none, and the first one wins."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import casacore.tables as tables
import pytest

from contimg_dask import publishing
from contimg_dask.convert import convert_in_order
from contimg_dask.copying import allocated_bytes
from contimg_dask.errors import TargetOccupiedError
from contimg_dask.model import (
    Attempt,
    ConversionPlan,
    GroupRecord,
    OnExisting,
    ProductOptions,
    Reason,
)
from contimg_dask.naming import failed_record_path, product_path
from contimg_dask.publishing import (
    MANIFEST_NAME,
    StartIndex,
    inspect_target,
    publish,
    read_manifest,
    remove_failed_record,
    write_failed_record,
)

if TYPE_CHECKING:
    from tests.unit.conftest import Converted

ATTEMPT = "2025-10-05T03:12:06.1.0a1b2c3d"


def plan_into(converted: Converted, output: Path, **changes: Any) -> ConversionPlan:
    """The plan of the converted group, for another output directory."""
    fields: dict[str, Any] = {
        "target": str(product_path(output, converted.plan.group_id, "science")),
        "staging_root": str(output / ".contimg-staging"),
    }
    return dataclasses.replace(converted.plan, **(fields | changes))


def stage(converted: Converted, plan: ConversionPlan, attempt: str = ATTEMPT) -> str:
    """Put a finished product where an attempt at the plan has made it."""
    staged = Path(plan.staging_root) / attempt / "product.ms"
    staged.parent.mkdir(parents=True)
    copy(converted.product, staged)
    return str(staged)


def copy(source: Path, target: Path) -> None:
    """Copy a directory, its holes kept."""
    shutil.copytree(source, target, copy_function=copy_sparse)


def copy_sparse(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        content = read.read()
        if content.strip(b"\0"):
            write.write(content)
        write.truncate(len(content))


def content_of(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def state_of(path: Path) -> Any:
    """All there is to see of a file, link or directory, to tell that nobody touched it."""
    status = os.lstat(path)
    times = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    if path.is_symlink():
        return times, os.readlink(path)
    return times, content_of(path) if path.is_dir() else path.read_bytes()


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def bulk_file(product: Path, column: str) -> Path:
    """The tile file of a column, found through casacore."""
    with tables.table(str(product), ack=False) as table:
        (number,) = (
            manager["SEQNR"]
            for manager in table.getdminfo().values()
            if column in manager["COLUMNS"]
        )
    return product / f"table.f{number}_TSM0"


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
        for name in ("sync_tree", "sync_path", "_rename"):
            monkeypatch.setattr(publishing, name, self._recorded(name, getattr(publishing, name)))

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
    assert publish(staged, plan) is True
    assert os.stat(target).st_ino == inode
    assert not os.path.lexists(staged)
    assert content_of(target) == content_of(converted.product)
    assert entries(target.parent) == [target.name]


def test_publication_is_one_rename_with_everything_on_stable_storage_before_it(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged = stage(converted, plan)
    recorder = Recorder(monkeypatch)
    publish(staged, plan)
    # Every new directory on the way is known to the one above it before anything is put there.
    output = target.parents[2]
    assert recorder.done == [
        ("sync_path", str(output / "science")),
        ("sync_path", str(output)),
        ("sync_tree", staged),
        ("_rename", staged),
        ("sync_path", str(target.parent)),
    ]


def test_the_target_is_never_made_beforehand(
    converted: Converted, plan: ConversionPlan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = publishing._rename

    def looks_first(source: str, into: str, flags: int) -> None:
        seen.append((into, os.path.lexists(into)))
        rename(source, into, flags)

    monkeypatch.setattr(publishing, "_rename", looks_first)
    publish(stage(converted, plan), plan)
    assert seen == [(str(target), False)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_a_rename_that_is_refused_leaves_the_target_absent_and_the_product_staged(
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
    monkeypatch.setattr(publishing, "_rename", refuse)
    with pytest.raises(OSError) as caught:
        publish(staged, plan)
    assert caught.value.errno == number
    assert entries(target.parent) == []
    assert content_of(Path(staged)) == content_of(converted.product)


class NoRenameat2:
    """A C library on a file system that knows no flags of renameat2(2)."""

    def __init__(self, number: int) -> None:
        self.number = number

    def renameat2(self, *_: object) -> int:
        publishing.ctypes.set_errno(self.number)
        return -1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_flags_for_renames_gets_a_plain_one_that_still_refuses(
    converted: Converted,
    plan: ConversionPlan,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(publishing, "_libc", NoRenameat2(number))
    assert publish(stage(converted, plan, "first"), plan) is True
    assert publish(stage(converted, plan, "second"), plan) is False
    shutil.rmtree(target)
    target.mkdir()
    with pytest.raises(TargetOccupiedError):
        publish(stage(converted, plan, "third"), plan)
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
        publish(staged, plan)
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
    staged = stage(converted, plan)
    before = state_of(obstacle)
    assert publish(staged, plan) is True
    assert inspect_target(obstacle, plan).state == "whole"
    assert entries(obstacle.parent) == [obstacle.name]
    # The two have changed places, so whoever owns the attempt removes the old one.
    assert state_of(Path(staged)) == before


def test_a_file_in_place_of_the_day_directory_is_an_error_and_stays(
    converted: Converted, plan: ConversionPlan, target: Path
) -> None:
    target.parent.parent.mkdir(parents=True)
    target.parent.write_bytes(b"not a directory")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        publish(stage(converted, plan), plan)
    assert target.parent.read_bytes() == b"not a directory"


# ------------------------------------------------------------------------------- the same product


def test_nothing_at_the_target_is_absent(plan: ConversionPlan, target: Path) -> None:
    assert inspect_target(target, plan).state == "absent"


def test_a_published_product_is_whole(plan: ConversionPlan, published: Path) -> None:
    assert inspect_target(published, plan) == publishing.Found(state="whole")


@pytest.mark.parametrize("on_existing", ["skip", "fail"])
def test_a_second_publication_of_the_same_plan_changes_nothing(
    converted: Converted, plan: ConversionPlan, published: Path, on_existing: OnExisting
) -> None:
    before = state_of(published)
    staged = stage(converted, plan, "second")
    assert publish(staged, dataclasses.replace(plan, on_existing=on_existing)) is False
    assert state_of(published) == before
    assert os.path.isdir(staged)


def test_the_same_plan_made_another_way_is_the_same_product(
    plan: ConversionPlan, published: Path
) -> None:
    other = dataclasses.replace(
        plan,
        direct=False,
        parallel=True,
        tier="tmpfs",
        staging_root="/dev/shm/x",
        kind="calibrator",
    )
    assert inspect_target(published, other).state == "whole"


def test_a_product_of_the_same_plan_is_replaced_on_request(
    converted: Converted, plan: ConversionPlan, published: Path
) -> None:
    plan = dataclasses.replace(plan, on_existing="replace")
    staged = stage(converted, plan, "second")
    inodes = os.stat(staged).st_ino, os.stat(published).st_ino
    assert publish(staged, plan) is True
    assert (os.stat(published).st_ino, os.stat(staged).st_ino) == inodes


def test_the_conversion_replaces_a_product_of_the_same_plan_on_request(
    plan: ConversionPlan, published: Path
) -> None:
    # As with a product that someone has flagged or calibrated since, and wants back as it was.
    old = os.stat(published).st_ino
    plan = dataclasses.replace(plan, on_existing="replace")
    directory = f"{plan.staging_root}/second"
    product = convert_in_order(
        plan, Attempt(number=1, directory=directory, submitted_s=time.time())
    )
    assert os.stat(published).st_ino != old
    assert product.newly_published


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


def changed_manifest(product: Path, **changes: Any) -> None:
    manifest = json.loads((product / MANIFEST_NAME).read_text())
    (product / MANIFEST_NAME).write_text(json.dumps(manifest | changes))


def with_another_plans_hash(product: Path) -> None:
    changed_manifest(product, plan_hash="0" * 64)


def without_a_plan_hash(product: Path) -> None:
    changed_manifest(product, plan_hash=None)


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
        table.removecols(["MODEL_DATA", "CORRECTED_DATA"])


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
        publish(stage(converted, plan, "second"), plan)
    assert content_of(published) == before


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
    assert found == publishing.Found(
        state="other", text="it was made from other files or with other options"
    )


# ------------------------------------------------------------------------------ another file system


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A staging directory on another file system than the output's."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="contimg-test-", dir=shm))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def far_plan(converted: Converted, tmp_path: Path, in_memory: Path) -> ConversionPlan:
    """A plan whose product is staged in memory and published on disk."""
    return plan_into(converted, tmp_path / "out", staging_root=str(in_memory), tier="tmpfs")


def test_a_product_from_another_file_system_is_copied_whole(
    converted: Converted, far_plan: ConversionPlan, target: Path
) -> None:
    staged = stage(converted, far_plan)
    assert os.stat(staged).st_dev != os.stat(target.parents[3]).st_dev
    assert publish(staged, far_plan) is True
    assert content_of(target) == content_of(converted.product)
    assert inspect_target(target, far_plan).state == "whole"
    assert entries(target.parent) == [target.name]


def test_its_holes_stay_holes(converted: Converted, far_plan: ConversionPlan, target: Path) -> None:
    publish(stage(converted, far_plan), far_plan)
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
    publish(staged, far_plan)
    incoming = str(target.parent / f".{ATTEMPT}.incoming")
    assert recorder.done[-3:] == [
        ("sync_tree", incoming),
        ("_rename", incoming),
        ("sync_path", str(target.parent)),
    ]


def test_it_is_not_published_twice_and_leaves_no_copy(
    converted: Converted, far_plan: ConversionPlan, target: Path
) -> None:
    assert publish(stage(converted, far_plan, "first"), far_plan) is True
    assert publish(stage(converted, far_plan, "second"), far_plan) is False
    assert entries(target.parent) == [target.name]


def test_it_is_copied_afresh_over_the_leftovers_of_a_killed_copy(
    converted: Converted, far_plan: ConversionPlan, target: Path
) -> None:
    leftover = target.parent / f".{ATTEMPT}.incoming"
    leftover.mkdir(parents=True)
    (leftover / "table.dat").write_bytes(b"half")
    (leftover / "stray").write_bytes(b"x")
    publish(stage(converted, far_plan), far_plan)
    assert content_of(target) == content_of(converted.product)
    assert entries(target.parent) == [target.name]


def test_its_copy_is_removed_when_something_else_is_in_the_way(
    converted: Converted, far_plan: ConversionPlan, obstacle: Path
) -> None:
    before = state_of(obstacle)
    with pytest.raises(TargetOccupiedError):
        publish(stage(converted, far_plan), far_plan)
    assert state_of(obstacle) == before
    assert entries(obstacle.parent) == [obstacle.name]


def test_replacing_what_is_in_the_way_leaves_no_trace_of_it(
    converted: Converted, far_plan: ConversionPlan, obstacle: Path
) -> None:
    plan = dataclasses.replace(far_plan, on_existing="replace")
    assert publish(stage(converted, plan), plan) is True
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
    with pytest.raises(OSError) as caught:
        publish(staged, far_plan)
    assert caught.value.errno == errno.ENOSPC
    assert entries(target.parent) == []
    assert content_of(Path(staged)) == content_of(converted.product)


# ---------------------------------------------------------------------------------- two at a time

ROUNDS = 8


def publish_rounds(
    plans: list[ConversionPlan], staged: list[str], barrier: Any, results: Any
) -> None:
    """Publish one product after the other, each at the same moment as the other process."""
    said = []
    for plan, product in zip(plans, staged, strict=True):
        barrier.wait(60)
        said.append(publish(product, plan))
    results.put(said)


def test_of_two_processes_that_publish_the_same_plan_exactly_one_does(
    converted: Converted, tmp_path: Path, in_memory: Path
) -> None:
    plans = [
        plan_into(
            converted,
            tmp_path / f"out{number}",
            # Every second product has to be copied to the output's file system first.
            **({"staging_root": str(in_memory / f"{number}")} if number % 2 else {}),
        )
        for number in range(ROUNDS)
    ]
    # A new interpreter each: a fork would share the locks of this one's libraries.
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [
        context.Process(
            target=publish_rounds,
            args=(plans, [stage(converted, plan, name) for plan in plans], barrier, results),
        )
        for name in ("one", "two")
    ]
    for racer in racers:
        racer.start()
    try:
        said = [results.get(timeout=60) for _ in racers]
    finally:
        for racer in racers:
            racer.join(10)
            racer.kill()
    assert [sorted(pair) for pair in zip(*said, strict=True)] == [[False, True]] * ROUNDS
    for plan in plans:
        target = Path(plan.target)
        assert inspect_target(target, plan).state == "whole"
        assert entries(target.parent) == [target.name]


# ------------------------------------------------------------------------------------- the manifest


def test_the_manifest_says_what_the_product_was_made_from(
    converted: Converted, published: Path
) -> None:
    manifest = read_manifest(published)
    assert manifest is not None
    plan = converted.plan
    assert manifest["plan_hash"] == plan.plan_hash
    assert manifest["group"] == plan.group_id
    assert (manifest["kind"], manifest["start_mjd"]) == ("science", plan.start_mjd)
    assert manifest["windows"] == {"sb02": 0, "sb01": 1, "sb00": 2}
    assert (manifest["missing"], manifest["unreadable"]) == ([], [])
    assert manifest["options"] == dataclasses.asdict(plan.options)
    assert (manifest["mode"], manifest["tier"]) == ("direct-serial", "destination")
    assert [entry["subband"] for entry in manifest["inputs"]] == ["sb02", "sb01", "sb00"]
    for entry, subband in zip(manifest["inputs"], plan.subbands, strict=True):
        assert entry["path"] == subband.header.path
        assert entry["size_bytes"] == os.stat(entry["path"]).st_size
        assert entry["start_jd"] == plan.start_jd


def test_the_windows_in_the_manifest_are_those_of_the_table(published: Path) -> None:
    manifest = read_manifest(published)
    assert manifest is not None
    with tables.table(str(published / "SPECTRAL_WINDOW"), ack=False) as windows:
        in_table = {windows.getcell("NAME", row): row for row in range(windows.nrows())}
    assert manifest["windows"] == in_table


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
    monkeypatch.setattr(publishing, "read_manifest", None)
    assert index.find(START_MJD, ("2025-10-05",)) == path


# ------------------------------------------------------------------------------- records of failure

ID = "2025-10-05T03:12:06"


def failure(group_id: str = ID, code: str = "truncated") -> GroupRecord:
    return GroupRecord(
        id=group_id,
        start_mjd=None,
        present=(0,),
        missing=(1,),
        outcome="failed",
        reason=Reason(code=code, text="/in/sb01: cut"),
    )


def test_a_failed_group_leaves_a_record_with_its_reason_and_its_files(tmp_path: Path) -> None:
    write_failed_record(tmp_path, failure(), ["/in/sb00", "/in/sb01"])
    path = tmp_path / "failed/2025-10-05/2025-10-05T03:12:06.json"
    document = json.loads(path.read_text())
    assert document["schema"] == 1
    assert (document["id"], document["outcome"]) == (ID, "failed")
    assert document["reason"] == {"code": "truncated", "text": "/in/sb01: cut"}
    assert document["inputs"] == ["/in/sb00", "/in/sb01"]
    assert entries(path.parent) == [path.name]


def test_a_later_failure_replaces_the_record(tmp_path: Path) -> None:
    write_failed_record(tmp_path, failure(), [])
    write_failed_record(tmp_path, failure(code="no-space"), [])
    path = failed_record_path(tmp_path, ID)
    assert json.loads(path.read_text())["reason"]["code"] == "no-space"
    assert entries(path.parent) == [path.name]


def test_the_record_goes_with_the_directories_it_leaves_empty(tmp_path: Path) -> None:
    write_failed_record(tmp_path, failure(), [])
    remove_failed_record(tmp_path, ID)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("other", ["2025-10-05T03:17:15", "2025-10-06T03:17:15"])
def test_other_records_stay(tmp_path: Path, other: str) -> None:
    write_failed_record(tmp_path, failure(), [])
    write_failed_record(tmp_path, failure(other), [])
    remove_failed_record(tmp_path, ID)
    assert not failed_record_path(tmp_path, ID).exists()
    assert failed_record_path(tmp_path, other).is_file()
    assert len(list((tmp_path / "failed").iterdir())) == 1


def test_no_record_is_nothing_to_remove(tmp_path: Path) -> None:
    remove_failed_record(tmp_path, ID)
    (tmp_path / "failed" / "2025-10-05").mkdir(parents=True)
    remove_failed_record(tmp_path, "2025-10-05T23:59:59")
    assert entries(tmp_path) in ([], ["failed"])
