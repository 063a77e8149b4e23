"""Who an attempt belongs to, and how long it lives: as its process, or a while where none is seen."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.errors import AttemptGoneError
from contimg_dask.model import ConversionPlan, Owner
from contimg_dask.staging import records
from contimg_dask.staging.attempts import find_attempt, open_attempt, working_in
from contimg_dask.staging.owners import current_owner, is_running
from contimg_dask.staging.records import (
    LEASE_S,
    AttemptRecord,
    held,
    locked_root,
    read_record,
    record_path,
    seized,
    write_record,
)
from contimg_dask.staging.sweeping import sweep
from tests.unit.plans import MB, attempt_called, bare_plan, entries, open_descriptors
from tests.unit.processes import OtherProcess

SAY_WHO = (
    "import dataclasses, json; from contimg_dask.staging.owners import current_owner; "
    "print(json.dumps(dataclasses.asdict(current_owner())), flush=True)"
)
NOBODY = 65534
OTHER_BOOT = "00000000-0000-0000-0000-000000000000"


def an_owner() -> Iterator[Owner]:
    """Say who one is, and live on."""
    yield current_owner()


def open_as_owner(plan: ConversionPlan, name: str) -> Iterator[Owner]:
    """Open an attempt, write into it and live on."""
    attempt = attempt_called(name)
    open_attempt(plan, attempt)
    Path(find_attempt(plan, attempt).directory, "DATA.tiles").write_bytes(b"x" * MB)
    yield attempt.owner


def hold(plan: ConversionPlan, name: str) -> Iterator[str]:
    """Be a step of an attempt: until told to go on, and after that no more."""
    with working_in(plan, attempt_called(name)):
        yield "holding"
    yield "done"


@pytest.fixture
def plan(tmp_path: Path) -> ConversionPlan:
    return bare_plan(tmp_path / "out")


@pytest.fixture
def root(plan: ConversionPlan) -> Path:
    return Path(plan.home_root)


def dead_owner() -> Owner:
    """An owner that a moment ago was a process."""
    with OtherProcess(an_owner) as process:
        owner: Owner = process.yielded()
    return owner


def owner_elsewhere(**changes: Any) -> Owner:
    """An owner that cannot be seen from here."""
    return dataclasses.replace(current_owner(), host="lxd110h03", boot_id=OTHER_BOOT, **changes)


def opened(plan: ConversionPlan, owner: Owner, name: str = "a") -> Path:
    """Open an attempt on behalf of an owner; return its record."""
    open_attempt(plan, attempt_called(name, owner))
    return Path(record_path(plan.home_root, name))


def living(root: Path) -> list[str]:
    """Names of the attempts that a sweep leaves alone."""
    return [leftover.name for leftover in sweep(str(root)) if leftover.alive]


# ------------------------------------------------------------------------------------- processes


def test_this_process_runs() -> None:
    owner = current_owner()
    assert owner.pid == os.getpid()
    assert owner.start_ticks > 0
    assert is_running(owner) is True


def test_a_process_made_by_fork_is_another_owner() -> None:
    current_owner()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(dataclasses.asdict(current_owner())).encode())
        os._exit(0)
    found = Owner(**json.loads(os.read(read, 10_000)))
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert found.pid == child
    assert is_running(found) is False


def test_another_process_runs_until_it_is_killed() -> None:
    with OtherProcess(an_owner) as process:
        owner = process.yielded()
        assert owner.pid != os.getpid()
        assert is_running(owner) is True
        process.kill()
        assert is_running(owner) is False


def test_a_dead_process_that_nobody_has_waited_for_runs_no_more() -> None:
    process = subprocess.Popen([sys.executable, "-c", f"{SAY_WHO}; input()"], stdin=-1, stdout=-1)
    assert process.stdout is not None
    assert process.stdin is not None
    owner = Owner(**json.loads(process.stdout.readline()))
    try:
        assert is_running(owner) is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}/stat").exists()
        assert is_running(owner) is False
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def with_a_strange_name() -> Iterator[Owner]:
    Path("/proc/self/comm").write_text("a) Z 1 2 (b")
    yield current_owner()


def test_a_process_may_have_any_name() -> None:
    with OtherProcess(with_a_strange_name) as process:
        assert is_running(process.yielded()) is True


@pytest.mark.parametrize("ticks", [-1, 1])
def test_a_process_that_has_the_number_of_another_is_not_that_one(ticks: int) -> None:
    owner = current_owner()
    reused = dataclasses.replace(owner, start_ticks=owner.start_ticks + ticks)
    assert is_running(reused) is False


@pytest.mark.parametrize("changes", [{"boot_id": OTHER_BOOT}, {"pid_namespace": 1}])
def test_a_process_of_another_boot_or_container_cannot_be_seen(changes: dict[str, Any]) -> None:
    # Its number may be in use here, by something else, or not.
    for owner in (current_owner(), dataclasses.replace(current_owner(), pid=2**22 + 1)):
        assert is_running(dataclasses.replace(owner, **changes)) is None


def test_the_name_of_a_host_proves_nothing() -> None:
    assert is_running(dataclasses.replace(current_owner(), host="elsewhere")) is True


def test_a_process_in_a_real_container_cannot_be_seen() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", SAY_WHO]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("process namespaces can not be made here")
    owner = Owner(**json.loads(done.stdout))
    assert owner.pid == 1
    assert owner.boot_id == current_owner().boot_id
    assert is_running(owner) is None


# ------------------------------------------------------------------------- how long attempts live


def test_an_attempt_lives_as_long_as_the_process_that_asked_for_it(
    plan: ConversionPlan, root: Path
) -> None:
    with OtherProcess(open_as_owner, plan, "a") as owner:
        pid = owner.yielded().pid
        # Its age says nothing as long as it is seen to run.
        os.utime(root / "a.attempt.json", (0, 0))
        (found,) = sweep(str(root))
        assert found.alive == f"process {pid}, which asked for it, is running"
        assert find_attempt(plan, attempt_called("a"))
        owner.kill()
        (found,) = sweep(str(root))
        assert (found.alive, found.removed) == (None, True)
        assert found.size_bytes >= MB
    assert entries(root.parent) == []


def test_the_promise_of_a_dead_process_ends_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    tier = dataclasses.replace(bare_plan(out).tiers[0], budget_bytes=3 * MB)
    plan = bare_plan(out, tiers=(tier,), bytes_staged=2 * MB)
    with OtherProcess(open_as_owner, plan, "a") as owner:
        owner.yielded()
        owner.kill()
        # 3 MB would not do for both: the next one to ask removes what the dead one has left.
        open_attempt(plan, attempt_called("b"))
    assert entries(Path(plan.home_root)) == [".lock", "b", "b.attempt.json"]


def test_an_attempt_of_a_process_whose_number_is_used_again_is_dead(
    plan: ConversionPlan, root: Path
) -> None:
    owner = dataclasses.replace(current_owner(), start_ticks=current_owner().start_ticks - 1)
    opened(plan, owner)
    assert living(root) == []
    assert not root.exists()


@pytest.mark.parametrize(
    ("age_s", "lives"), [(0.0, True), (LEASE_S - 5, True), (LEASE_S + 5, False)]
)
@pytest.mark.parametrize("changes", [{"boot_id": OTHER_BOOT}, {"pid_namespace": 1}])
def test_an_attempt_of_a_process_that_cannot_be_seen_lives_a_while_after_its_last_step(
    plan: ConversionPlan, root: Path, changes: dict[str, Any], age_s: float, lives: bool
) -> None:
    record = opened(plan, dataclasses.replace(current_owner(), host="lxd110h03", **changes))
    os.utime(record, (time.time() - age_s, time.time() - age_s))
    (found,) = sweep(str(root))
    assert (found.alive is not None) == lives
    assert root.exists() == lives
    if found.alive:
        assert f"lxd110h03 asked for it, and its last step was {age_s:.0f} s ago" in found.alive


def test_a_step_renews_its_attempt_when_it_begins_and_when_it_ends(
    plan: ConversionPlan, root: Path
) -> None:
    record = opened(plan, owner_elsewhere())
    long_ago_s = time.time() - 2 * LEASE_S
    os.utime(record, (long_ago_s, long_ago_s))
    with working_in(plan, attempt_called("a")):
        assert record.stat().st_mtime > time.time() - 5
        os.utime(record, (long_ago_s, long_ago_s))
    assert record.stat().st_mtime > time.time() - 5
    assert living(root) == ["a"]


@pytest.mark.parametrize("owner_of", [dead_owner, owner_elsewhere])
def test_a_running_step_keeps_an_attempt_alive_until_it_dies_too(
    plan: ConversionPlan, root: Path, owner_of: Callable[[], Owner]
) -> None:
    record = opened(plan, owner_of())
    with OtherProcess(hold, plan, "a") as step:
        step.yielded()
        os.utime(record, (0, 0))
        (found,) = sweep(str(root))
        assert found.alive == "a step of it is running"
        open_attempt(plan, attempt_called("b"))
        assert entries(root) == [".lock", "a", "a.attempt.json", "b", "b.attempt.json"]
        step.kill()
        assert living(root) == ["b"]
    assert entries(root) == [".lock", "b", "b.attempt.json"]


def test_several_steps_hold_an_attempt_at_the_same_time(plan: ConversionPlan, root: Path) -> None:
    opened(plan, dead_owner())
    with OtherProcess(hold, plan, "a") as one, OtherProcess(hold, plan, "a") as two:
        assert [one.yielded(), two.yielded()] == ["holding", "holding"]
        assert one.go_on() == "done"
        assert living(root) == ["a"]
        assert two.go_on() == "done"
    assert living(root) == []


def test_a_stale_record_that_nobody_holds_goes_at_the_next_reservation(
    plan: ConversionPlan, root: Path
) -> None:
    record = opened(plan, owner_elsewhere())
    os.utime(record, (0, 0))
    open_attempt(plan, attempt_called("b"))
    assert entries(root) == [".lock", "b", "b.attempt.json"]


def test_a_step_in_a_tier_holds_the_attempt_at_the_destination_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "ssd").mkdir()
    tier = dataclasses.replace(
        bare_plan(out).tiers[0], name="scratch", root=str(tmp_path / "ssd" / "staging")
    )
    plan = bare_plan(out, tier)
    open_attempt(plan, attempt_called("a", dead_owner()))
    with OtherProcess(hold, plan, "a") as step:
        step.yielded()
        assert [living(Path(place.root)) for place in plan.tiers] == [["a"], ["a"]]
        step.kill()
        assert [living(Path(place.root)) for place in plan.tiers] == [[], []]


# -------------------------------------------------------------------------- begun, or given up


def test_no_step_begins_without_the_record(plan: ConversionPlan, root: Path) -> None:
    record = opened(plan, current_owner())
    record.unlink()
    with pytest.raises(AttemptGoneError, match="attempt a was given up"), held(str(record)):
        pass


def test_no_step_begins_when_the_record_is_replaced_while_it_waits(
    plan: ConversionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = opened(plan, current_owner())
    flock = records.fcntl.flock

    def replaced(descriptor: int, operation: int) -> None:
        text = record.read_text()
        record.unlink()
        record.write_text(text)
        flock(descriptor, operation)

    monkeypatch.setattr(records.fcntl, "flock", replaced)
    with pytest.raises(AttemptGoneError), held(str(record)):
        pass


def test_a_step_that_comes_while_the_attempt_is_removed_waits_and_is_told(
    plan: ConversionPlan, root: Path
) -> None:
    record = opened(plan, dead_owner())
    kept = read_record(str(record))
    assert kept is not None
    with OtherProcess(try_to_hold, str(record)) as step:
        assert step.yielded() == "waits"
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.append(step.go_on()))
        with seized(str(root), kept) as alive:
            assert alive is None
            listener.start()
            listener.join(0.2)
            assert said == []
            record.unlink()
        listener.join(30)
        assert said == ["gone"]


def try_to_hold(record: str) -> Iterator[str]:
    yield "waits"
    try:
        with held(record):
            yield "began"
    except AttemptGoneError:
        yield "gone"


# ------------------------------------------------------------------------- other people's attempts


def test_users_share_the_memory_of_a_node_and_cannot_remove_each_others_attempts(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    out, shared = open_directory / "out", open_directory / "shm"
    out.mkdir()
    out.chmod(0o777)
    shared.mkdir()
    shared.chmod(0o1777)
    tier = dataclasses.replace(
        bare_plan(out).tiers[0], name="tmpfs", root=str(shared / ".contimg-staging")
    )
    # Each has an output of their own.
    mine, theirs = (bare_plan(out / name, tier) for name in ("mine", "theirs"))
    opened(mine, dead_owner())
    with without_rights():
        open_attempt(theirs, attempt_called("b"))
        assert find_attempt(theirs, attempt_called("b")).tier == "tmpfs"
        found = {leftover.name: leftover for leftover in sweep(tier.root)}
        assert found["a"].alive == "its record: Permission denied"
    assert {"a", "a.attempt.json", "b"} <= set(entries(Path(tier.root)))
    assert living(Path(tier.root)) == ["b"]


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o2775, 0o777])
def test_whoever_may_write_into_the_output_may_stage_there(tmp_path: Path, mode: int) -> None:
    # The umask of the first one to come must not shut the others out.
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(mode)
    umask = os.umask(0o077)
    try:
        opened(bare_plan(out), current_owner())
    finally:
        os.umask(umask)
    root = out / ".contimg-staging"
    assert stat.S_IMODE(root.stat().st_mode) == mode
    assert stat.S_IMODE((root / ".lock").stat().st_mode) == mode & 0o666
    # And see what is promised, whoever has been promised it.
    assert stat.S_IMODE((root / "a.attempt.json").stat().st_mode) == 0o644


def test_users_share_an_output_that_is_open_to_both(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    out = open_directory / "out"
    out.mkdir()
    out.chmod(0o777)
    plan = bare_plan(out)
    opened(plan, current_owner(), "mine")
    with without_rights():
        opened(plan, current_owner(), "theirs")
        assert sorted(living(Path(plan.home_root))) == ["mine", "theirs"]


def test_a_record_that_is_not_ours_to_read_is_not_taken_for_half_of_one(
    open_directory: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    out = open_directory / "out"
    out.mkdir()
    out.chmod(0o777)
    opened(bare_plan(out), current_owner(), "mine").chmod(0o600)
    child = os.fork()
    if child == 0:
        # Another user for good: os.access asks for who one is, not for whom one acts as.
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            open_attempt(bare_plan(out), attempt_called("theirs"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert {"mine", "mine.attempt.json", "theirs"} <= set(entries(out / ".contimg-staging"))


# --------------------------------------------------------------------------------------- the lock


def test_the_lock_that_is_held_is_the_one_others_will_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever had it before was the last, and removed it with its directory.
    root = tmp_path / "staging"
    flock = fcntl.flock
    removals = [root]

    def removed_while_waiting(descriptor: int, operation: int) -> None:
        while removals:
            shutil.rmtree(removals.pop())
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_while_waiting)
    with locked_root(str(root)), (root / ".lock").open() as lock, pytest.raises(BlockingIOError):
        flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not root.exists()


def test_a_lock_is_given_back_whatever_happens_under_it(tmp_path: Path) -> None:
    root = tmp_path / "staging"
    open_files = open_descriptors()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), locked_root(str(root)):
            raise ZeroDivisionError
    assert open_descriptors() == open_files
    assert not root.exists()


# --------------------------------------------------------------------------------- records on disk


def a_record(**changes: Any) -> AttemptRecord:
    fields: dict[str, Any] = {
        "attempt": "a",
        "owner": current_owner(),
        "promised_bytes": 3 * MB,
        "directory": "/shm/staging/a",
        "beside": ("/out/.a.incoming", "/out/.a.replaced"),
        "target": "/out/a.ms",
        "reason": "2.0 MB needed",
    }
    return AttemptRecord(**(fields | changes))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    root = str(tmp_path / "staging")
    with locked_root(root):
        write_record(root, a_record())
    assert read_record(a_record().path_in(root)) == a_record()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"a"', '{"owner": {}}', "\xff"])
def test_a_record_written_by_half_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.attempt.json"
    path.write_bytes(text.encode("latin-1"))
    assert read_record(str(path)) is None
    assert read_record(str(tmp_path / "not-there")) is None
