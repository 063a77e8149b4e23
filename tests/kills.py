"""Kill a real process (SIGKILL) at every step it takes, and look at what is left.

What a killed process leaves depends on the disk alone, because the kernel takes back its locks and
open files. So a first run records, before every line of the package, what the disk is like; where
that differs from the line before, a process of its own is killed in front of that very line. Every
line is covered by it, each time it is reached, and none needs to be chosen by hand.

Processes are forked from one without threads that has loaded everything::

    OPENBLAS_NUM_THREADS=1 python -m tests.kills kill replace /dev/shm/here /tmp/there
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import casacore.tables as tables
import numpy as np
import pytest

import contimg_dask
from contimg_dask.convert import convert_in_order
from contimg_dask.discovery import discover
from contimg_dask.errors import ContimgError
from contimg_dask.execution import steps
from contimg_dask.execution.scratch import dead_scratch, scratch_directory
from contimg_dask.grouping import group_files
from contimg_dask.model import (
    ConversionPlan,
    Group,
    GroupRecord,
    OnExisting,
    ProductOptions,
    Publication,
    Reason,
)
from contimg_dask.naming import failed_record_path, product_path
from contimg_dask.planning import plan_group, propose_tiers
from contimg_dask.publishing import committing
from contimg_dask.publishing.failed import remove_failed_record, write_failed_record
from contimg_dask.publishing.manifest import MANIFEST_NAME, read_manifest
from contimg_dask.simulate import Observation, simulate
from contimg_dask.staging.sweeping import sweep
from contimg_dask.verification import verify
from tests.reference import memory_directory, new_attempt

ROOT = Path(__file__).parent.parent
PACKAGE = str(Path(contimg_dask.__file__).parent) + os.sep
READING = tuple(
    PACKAGE + name
    for name in (
        "uvh5", "phasing.py", "geometry.py", "quicklook/sampling.py", "quicklook/content.py",
        "quicklook/rows.py",
    )
)  # fmt: skip
"""What reads and computes only, and is left out because it has thousands of lines to pass."""
OLD, NEW = ProductOptions(spw="single"), ProductOptions()
BULK = ("DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA")
RENAME_EXCHANGE = 2

Line = tuple[str, int]
Point = tuple[str, int, int]
"""File, line, and the how manieth time it is reached."""


# ------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one run works: its output, and a directory on another file system."""

    output: Path
    elsewhere: Path

    @property
    def roots(self) -> tuple[Path, Path]:
        """All that a run may write to."""
        return self.output, self.elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the doomed process does, and what readers may find when it is dead.

    ``views`` are what may stand at the target right after the kill, ``settled`` after the sweep;
    ``only`` are the files in whose lines it is killed, where other cases have the others. One case
    makes a quick-look, whose many small files make every look at the disk longer.
    """

    act: Callable[[World, Place], None]
    views: frozenset[str]
    settled: frozenset[str]
    staged_elsewhere: bool = False
    target_elsewhere: bool = False
    direct: bool = True
    on_existing: OnExisting = "skip"
    allow_gap: bool = False
    quicklook: bool = False
    prepare: Callable[[World, Place], None] = lambda world, place: None
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The group that all runs of a case convert, and what its products must be."""

    case: Case
    group: Group
    good: dict[str, Path]
    hashes: dict[str, str]

    def plan(self, place: Place, options: ProductOptions = NEW) -> ConversionPlan:
        """The plan of a run."""
        return plan_group(
            self.group,
            kind="science",
            options=options,
            target=str(
                product_path(
                    place.elsewhere if self.case.target_elsewhere else place.output,
                    self.group.id,
                    "science",
                )
            ),
            tiers=propose_tiers(
                str(place.output),
                scratch_dir=str(place.elsewhere) if self.case.staged_elsewhere else None,
            ),
            direct=self.case.direct,
            parallel=False,
            on_existing=self.case.on_existing,
            publication=Publication(
                output_dir=str(place.output), allow_gap=self.case.allow_gap, keep_failed=True
            ),
            quicklook=self.case.quicklook,
        )

    def put_old(self, place: Place) -> None:
        """Let a product of other options stand at the target."""
        shutil.copytree(self.good["old"], self.plan(place).target)

    def put_failed(self, place: Place) -> None:
        """Let there be the record of an earlier failure, and what was kept of it."""
        if "failed" not in self.good:
            self.good["failed"] = place.output.parent.with_name("good-failed")
            self.fail(place, f"{self.group.id}.1.failed")
            shutil.copytree(place.output, self.good["failed"])
        else:
            shutil.copytree(self.good["failed"], place.output, dirs_exist_ok=True)

    def fail(self, place: Place, name: str) -> None:
        """Fail half-way, keep what there is, and leave the record."""
        plan, attempt = self.plan(place), new_attempt(name)
        steps.open_attempt(plan, attempt)
        steps.write_rows(plan, attempt)
        steps.write_part(plan, attempt, 0)
        steps.discard_attempt(plan, attempt, keep=True)
        write_failed_record(plan.publication, self.failure, ["sb00.hdf5"])

    @property
    def failure(self) -> GroupRecord:
        """The outcome of a group that failed."""
        return GroupRecord(
            id=self.group.id,
            start_mjd=None,
            present=(0,),
            missing=(),
            outcome="failed",
            reason=Reason(code="for-the-test", text="as asked for"),
        )


def convert(world: World, place: Place) -> None:
    """Convert the group, as one task does."""
    convert_in_order(world.plan(place), new_attempt())


def convert_where_nothing_can_be_exchanged(world: World, place: Place) -> None:
    """Convert on what looks like a file system without RENAME_EXCHANGE."""
    committing._libc = NoExchange(committing._libc)  # type: ignore[assignment]
    convert(world, place)


class NoExchange:
    """The C library on a file system that cannot exchange."""

    def __init__(self, libc: Any) -> None:
        self._libc = libc

    def renameat2(self, *arguments: Any) -> int:
        """As renameat2(2), but never an exchange."""
        if arguments[-1].value == RENAME_EXCHANGE:
            ctypes.set_errno(errno.EINVAL)
            return -1
        answer: int = self._libc.renameat2(*arguments)
        return answer


def fail(world: World, place: Place) -> None:
    """Fail half-way, for the first time or again."""
    world.fail(place, f"{world.group.id}.2.failing")


def forget_the_failure(world: World, place: Place) -> None:
    """Take a failure's record away, as a success does."""
    remove_failed_record(place.output, world.group.id)


def leave_a_wreck(world: World, place: Place) -> None:
    """Be killed in the middle of the copy to the destination, with an old product moved aside."""
    plan, attempt = world.plan(place), new_attempt(f"{world.group.id}.1.wreck")

    def wreck() -> None:
        copied = committing.copy_tree

        def die(source: str, target: str) -> int:
            copied(source, target)
            world.put_old(place)
            os.rename(plan.target, committing.replaced_path(plan, attempt))
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        committing.copy_tree = die  # type: ignore[assignment]
        convert_in_order(plan, replace(attempt, owner=new_attempt().owner))

    assert forked(wreck) == -signal.SIGKILL


def sweep_all(world: World, place: Place) -> None:
    """Sweep every tier, as a conversion does when it starts."""
    for tier in world.plan(place).tiers:
        sweep(tier.root)


def have_a_cluster(world: World, place: Place) -> None:
    """Make the directory of a cluster and let workers write in it, as they do."""
    del world
    with temporary_directory(place.elsewhere), scratch_directory() as directory:
        for worker in ("worker-a", "worker-b"):
            Path(directory, "dask-scratch-space", worker).mkdir(parents=True)
            Path(directory, "dask-scratch-space", f"{worker}.dirlock").write_text("")


@contextmanager
def temporary_directory(path: Path) -> Iterator[None]:
    """Let temporary files of this process be in a directory."""
    before, tempfile.tempdir = tempfile.tempdir, str(path)
    try:
        yield
    finally:
        tempfile.tempdir = before


PUBLISHING = ("committing.py", "ownership.py", "attempts.py", "sweeping.py", "shutil.py")
NEW_OR_NONE = frozenset({"absent", "new"})
OLD_OR_NEW = frozenset({"old", "new"})

CASES: dict[str, Case] = {
    "new": Case(act=convert, quicklook=True, views=NEW_OR_NONE, settled=NEW_OR_NONE),
    "parts": Case(
        act=convert,
        views=NEW_OR_NONE,
        settled=NEW_OR_NONE,
        direct=False,
        only=("records.py", "skeleton.py", "tiles.py", "copying.py", "steps.py", "committing.py"),
    ),
    "copied": Case(
        act=convert,
        views=NEW_OR_NONE,
        settled=NEW_OR_NONE,
        staged_elsewhere=True,
        only=(*PUBLISHING, "records.py", "reserving.py", "copying.py", "steps.py"),
    ),
    "replace": Case(
        act=convert,
        prepare=World.put_old,
        on_existing="replace",
        views=OLD_OR_NEW,
        settled=OLD_OR_NEW,
    ),
    "replace-copied": Case(
        act=convert,
        prepare=World.put_old,
        on_existing="replace",
        staged_elsewhere=True,
        views=OLD_OR_NEW,
        settled=OLD_OR_NEW,
        only=PUBLISHING,
    ),
    "replace-with-gap": Case(
        act=convert_where_nothing_can_be_exchanged,
        prepare=World.put_old,
        on_existing="replace",
        allow_gap=True,
        views=OLD_OR_NEW | {"absent"},
        settled=OLD_OR_NEW,
    ),
    "failed": Case(act=fail, views=frozenset({"absent"}), settled=frozenset({"absent"})),
    "failed-again": Case(
        act=fail,
        prepare=World.put_failed,
        staged_elsewhere=True,
        views=frozenset({"absent"}),
        settled=frozenset({"absent"}),
        only=("steps.py", "failed.py", "copying.py", "sweeping.py", "shutil.py", "pathlib.py"),
    ),
    "succeeded": Case(
        act=forget_the_failure,
        prepare=World.put_failed,
        views=frozenset({"absent"}),
        settled=frozenset({"absent"}),
    ),
    "sweep": Case(
        act=sweep_all,
        prepare=leave_a_wreck,
        target_elsewhere=True,
        on_existing="replace",
        views=frozenset({"absent", "old"}),
        settled=frozenset({"old"}),
    ),
    "cluster": Case(act=have_a_cluster, views=frozenset({"absent"}), settled=frozenset({"absent"})),
}


# ----------------------------------------------------------------------- what there is to be seen


def view(world: World, place: Place) -> str:
    """What a reader of the layout finds at the target: absent, old, new, or in what it is broken."""
    target = Path(world.plan(place).target)
    if not os.path.lexists(target):
        return "absent"
    manifest = read_manifest(target)
    if manifest is None:
        return "broken: no manifest"
    which = next((k for k, v in world.hashes.items() if v == manifest["plan_hash"]), None)
    if which is None:
        return "broken: a manifest of another plan"
    good = world.good[which]
    if names_in(target) != names_in(good):
        return f"broken: other files {names_in(target) ^ names_in(good)}"
    try:
        difference = unlike(target, good)
    except RuntimeError as error:
        return f"broken: {error}"
    return which if difference is None else f"broken: {difference}"


def names_in(directory: Path) -> set[str]:
    """Relative paths of everything below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def unlike(product: Path, good: Path) -> str | None:
    """In what a product differs from a good one, read through casacore; None: nothing."""
    with table_of(product) as found, table_of(good) as wanted:
        if found.nrows() != wanted.nrows():
            return f"{found.nrows()} rows, {wanted.nrows()} in the good one"
        for column in (*BULK, "TIME", "UVW", "DATA_DESC_ID"):
            if not np.array_equal(found.getcol(column), wanted.getcol(column)):
                return f"{column} differs"
        subtables = [key for key in wanted.keywordnames() if key.isupper() and key != "MS_VERSION"]
    for name in subtables:
        with table_of(product / name) as found, table_of(good / name) as wanted:
            if found.nrows() != wanted.nrows():
                return f"{name} has {found.nrows()} rows, {wanted.nrows()} in the good one"
    return None


def table_of(path: Path) -> Any:
    """Open a table to read it."""
    return tables.table(str(path), ack=False)


def left_over(world: World, place: Place) -> list[str]:
    """Every path that is neither the product, the failed group's record, nor the way to them."""
    target = Path(world.plan(place).target)
    record = failed_record_path(place.output, world.group.id)
    known = {target, record, record.with_suffix(".ms")}
    ways = {directory for path in (target, record) for directory in path.parents}
    return [
        str(path)
        for root in place.roots
        for path in below(root)
        if path not in known and path not in ways and not known & set(path.parents)
    ]


def below(root: Path) -> Iterator[Path]:
    """Yield everything below a directory; what vanishes meanwhile may be left out."""
    for parent, directories, files in os.walk(root):
        for name in sorted(directories) + sorted(files):
            yield Path(parent, name)


def state(place: Place) -> list[Any]:
    """All that a process leaves when it is killed now: names, sizes, modes, times of change."""
    found: list[Any] = []
    for root in place.roots:
        _add_state(str(root), found)
    return found


def _add_state(directory: str, found: list[Any]) -> None:
    try:
        with os.scandir(directory) as listed:
            for entry in listed:
                s = entry.stat(follow_symlinks=False)
                found.append(
                    (entry.path, s.st_ino, s.st_mode, s.st_size, s.st_blocks, s.st_ctime_ns)
                )
                if entry.is_dir(follow_symlinks=False):
                    _add_state(entry.path, found)
    except FileNotFoundError:
        return  # another thread is at work


# ------------------------------------------------------------------------- processes that are killed


def forked(act: Callable[[], None]) -> int:
    """Call a function in a process of its own; return 0, 1 when it raised, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001  whatever it is, the parent tells of it
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def traced(
    on_line: Callable[[Point], None],
    act: Callable[[], None],
    wanted: Callable[[Any], bool],
) -> None:
    """Call a function, and another one before every line of the code objects that are wanted."""
    hits: Counter[Line] = Counter()
    lock = threading.Lock()

    def local(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            with lock:
                line = (frame.f_code.co_filename, frame.f_lineno)
                hits[line] += 1
                on_line((*line, hits[line]))
        return local

    def call(frame: Any, event: str, _: Any) -> Any:
        del event
        return local if wanted(frame.f_code) else None

    threading.settrace(call)
    sys.settrace(call)
    try:
        act()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What a run that nobody killed went through."""

    lines_passed: int = 0
    lines: int = 0
    states: int = 0
    points: list[Point] = field(default_factory=list)


def record(world: World, place: Place) -> Recorded:
    """Run a case to its end, and return in front of which lines the disk had changed."""
    note = place.elsewhere.with_suffix(".json")

    def act() -> None:
        recorded, lines, last = Recorded(), set(), [()]

        def on_line(point: Point) -> None:
            recorded.lines_passed += 1
            lines.add(point[:2])
            now = state(place)
            if now != last[0]:
                last[0] = now
                recorded.points.append(point)

        traced(on_line, lambda: world.case.act(world, place), writes)
        recorded.lines = len(lines)
        recorded.states = len(recorded.points)
        only = world.case.only
        points = [p for p in recorded.points if not only or Path(p[0]).name in only]
        recorded.points = some_of(points)
        note.write_text(json.dumps(asdict(recorded)))

    assert forked(act) == 0
    content = json.loads(note.read_text())
    note.unlink()
    return Recorded(**content | {"points": [tuple(point) for point in content["points"]]})


@functools.cache
def writes(code: Any) -> bool:
    """Tell whether lines of a code object can change the disk, or what it calls."""
    name = code.co_filename
    if name == pathlib.__file__:
        return code.co_name in ("write_text", "write_bytes")  # between open and write
    return name == shutil.__file__ or (name.startswith(PACKAGE) and not name.startswith(READING))


def some_of(points: list[Point]) -> list[Point]:
    """Leave out repetitions: of a line in a loop, keep the first time and the last."""
    of_line: dict[Line, list[Point]] = {}
    for point in points:
        of_line.setdefault(point[:2], []).append(point)
    kept = {each[index] for each in of_line.values() for index in (0, -1)}
    return [point for point in points if point in kept]


def kill_at(point: Point, world: World, place: Place) -> bool:
    """Run a case and kill it in front of a line; return whether it got there."""

    def on_line(here: Point) -> None:
        if here == point:
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.cache
    def has_it(code: Any) -> bool:
        return code.co_filename == point[0] and point[1] in {line for *_, line in code.co_lines()}

    died = forked(lambda: traced(on_line, lambda: world.case.act(world, place), has_it))
    assert died in (0, -signal.SIGKILL), point
    return died != 0


# --------------------------------------------------------------------------------------- campaigns


@dataclass(slots=True, kw_only=True)
class Campaign:
    """What came of killing a case everywhere."""

    case: str
    lines: int
    """Different lines that were passed."""
    lines_passed: int
    states: int
    """Different states of the disk in between."""
    kills: int = 0
    not_reached: int = 0
    """Threads take turns as they like: a line may be reached less often than it was before."""
    problems: list[str] = field(default_factory=list)
    views: dict[str, int] = field(default_factory=dict)
    """What readers found after the kills."""
    swept: int = 0
    """Kills after which there was something to sweep."""
    converted_again: int = 0
    """Different states, after the sweep, from which the group was converted once more."""


def make_world(name: str, here: Path, elsewhere: Path) -> World:
    """Simulate a group, and make the products that all others are held against."""
    simulate(here / "in", Observation(subbands=2, antennas=3, integrations=2, channels=4))
    found = discover(here / "in")
    (group,) = group_files(found.headers, found.unreadable, 2)
    world = World(case=CASES[name], group=group, good={}, hashes={})
    for which, options in (("old", OLD), ("new", NEW)):
        plan = world.plan(place_of(f"good-{which}", here, elsewhere), options)
        plan = replace(plan, direct=True, tiers=plan.tiers[-1:])
        convert_in_order(plan, new_attempt(f"{group.id}.1.good-{which}"))
        assert verify(Path(plan.target), here / "in") == []
        world.good[which] = Path(plan.target)
        world.hashes[which] = plan.plan_hash
    return world


def place_of(name: str, here: Path, elsewhere: Path) -> Place:
    """Make the directories of one run."""
    place = Place(output=here / name / "out", elsewhere=elsewhere / name)
    for root in place.roots:
        root.mkdir(parents=True)
    return place


def kill_everywhere(name: str, here: Path, elsewhere: Path) -> Campaign:
    """Kill a case at every step it takes, and look at each of them as readers and the sweep do.

    Parameters
    ----------
    name
        One of `CASES`.
    here, elsewhere
        Empty directories, on two file systems.
    """
    world = make_world(name, here, elsewhere)
    place = place_of("record", here, elsewhere)
    world.case.prepare(world, place)
    recorded = record(world, place)
    campaign = Campaign(
        case=name,
        lines=recorded.lines,
        lines_passed=recorded.lines_passed,
        states=recorded.states,
    )
    views: Counter[str] = Counter()
    known: set[tuple[str, ...]] = set()
    for number, point in enumerate(recorded.points):
        place = place_of(f"run{number}", here, elsewhere)
        world.case.prepare(world, place)
        campaign.kills += 1
        if not kill_at(point, world, place):
            campaign.not_reached += 1
        where = f"{Path(point[0]).relative_to(PACKAGE) if PACKAGE in point[0] else point[0]}"
        where += f":{point[1]} (time {point[2]})"
        seen = view(world, place)
        views[seen.partition(":")[0]] += 1
        campaign.problems += [
            f"killed at {where}: {problem}"
            for problem in _problems(world, place, seen, number, campaign, known)
        ]
        for root in (here, elsewhere):
            shutil.rmtree(root / f"run{number}")
    campaign.views = dict(views)
    return campaign


def _problems(
    world: World,
    place: Place,
    seen: str,
    number: int,
    campaign: Campaign,
    known: set[tuple[str, ...]],
) -> Iterator[str]:
    case = world.case
    if seen not in case.views:
        yield f"readers find {seen}"
    yield from _problems_with_records(world, place)
    campaign.swept += bool(left_over(world, place))
    yield from _problems_with_sweep(world, place, number)
    settled = view(world, place)
    if settled not in case.settled or (seen in OLD_OR_NEW and settled != seen):
        yield f"readers found {seen}, and {settled} after the sweep"
    if remains := left_over(world, place):
        yield f"the sweep leaves {remains}"
    # What a new conversion finds: the same as after many another kill.
    paths = (str(path.relative_to(place.output)) for path in below(place.output))
    found = (settled, *(re.sub("removed-[0-9a-f]+", "removed", path) for path in paths))
    if found in known:
        return
    known.add(found)
    campaign.converted_again += 1
    try:
        convert_in_order(world.plan(place), new_attempt(f"{world.group.id}.2.again"))
    except ContimgError as error:
        yield f"another conversion fails: {error}"
        return
    remove_failed_record(place.output, world.group.id)
    if (again := view(world, place)) != "new":
        yield f"readers find {again} after another conversion"
    if remains := left_over(world, place):
        yield f"another conversion leaves {remains}"


def _problems_with_records(world: World, place: Place) -> Iterator[str]:
    path = failed_record_path(place.output, world.group.id)
    kept = path.with_suffix(".ms")
    if kept.exists() and names_in(kept) != names_in(world.good["new"]) - {MANIFEST_NAME}:
        yield "half of what was kept of the failed group"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        yield "half a record of the failed group"
        return
    if record["reason"]["code"] != "for-the-test" or record["inputs"] != ["sb00.hdf5"]:
        yield "the failed group's record does not say what it should"


def _problems_with_sweep(world: World, place: Place, number: int) -> Iterator[str]:
    tiers = world.plan(place).tiers[:: 1 if number % 2 else -1]  # whichever is swept first
    before = state(place)
    told = [left for tier in tiers for left in sweep(tier.root, dry_run=True)]
    if {entry[0] for entry in before} - {entry[0] for entry in state(place)}:
        gone = {entry[0] for entry in before} - {entry[0] for entry in state(place)}
        if not all(path.endswith((".lock", ".contimg-staging")) for path in gone):
            yield f"sweep --dry-run removed {gone}"
    done = [left for tier in tiers for left in sweep(tier.root)]
    with temporary_directory(place.elsewhere):
        done += dead_scratch(remove=True)
    if alive := [left.alive for left in told + done if left.alive is not None]:
        yield f"taken for alive: {alive}"
    if stuck := [left.name for left in done if not left.removed]:
        yield f"stuck: {stuck}"


# ------------------------------------------------------------------------------------- power cuts


@dataclass(slots=True, kw_only=True)
class Order:
    """What was brought to stable storage, in the order of the calls.

    ``unsynced`` are paths of the product that were not, or were changed again, when it was renamed;
    ``synced`` all that was synced, ``after`` the directories synced after that;
    ``before_removal`` those synced before the product that was replaced began to be removed. All
    are relative to the directory above the output.
    """

    files: int = 0
    renames: int = 0
    unsynced: list[str] = field(default_factory=list)
    synced: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    before_removal: list[str] | None = None


class Watched:
    """Watches fsync and rename in this process, which is there for nothing else."""

    def __init__(self, target: Path, above: Path) -> None:
        self.order = Order()
        self._target = str(target)
        self._above = above
        self._synced: dict[tuple[int, int], int] = {}
        self._libc = committing._libc
        self._fsync, self._rename = os.fsync, os.rename
        committing._libc = self  # type: ignore[assignment]
        os.fsync, os.rename = self.fsync, self.rename  # type: ignore[assignment]

    def fsync(self, descriptor: int) -> None:
        """As os.fsync."""
        self._fsync(descriptor)
        status = os.fstat(descriptor)
        self._synced[status.st_dev, status.st_ino] = status.st_ctime_ns
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), self._above)
        self.order.synced.append(path)
        if self.order.renames:
            self.order.after.append(path)

    def renameat2(self, *arguments: Any) -> int:
        """As renameat2(2)."""
        unsynced = self._unsynced(os.fsdecode(arguments[1]))
        answer: int = self._libc.renameat2(*arguments)
        if answer == 0:
            self._committed(os.fsdecode(arguments[3]), unsynced)
        return answer

    def rename(self, source: str, target: str) -> None:
        """As os.rename."""
        unsynced = self._unsynced(source)
        if self.order.renames and ".removed-" in target and self.order.before_removal is None:
            self.order.before_removal = list(self.order.after)
        self._rename(source, target)
        self._committed(target, unsynced)

    def _committed(self, target: str, unsynced: list[str]) -> None:
        if os.fspath(target) == self._target:
            self.order.renames += 1
            self.order.unsynced = unsynced
            self.order.files = len(names_in(Path(target)))

    def _unsynced(self, product: str) -> list[str]:
        paths = [Path(product), *Path(product).rglob("*")]
        return [
            os.path.relpath(path, product)
            for path in paths
            if self._synced.get((path.stat().st_dev, path.stat().st_ino)) != path.stat().st_ctime_ns
        ]


def storage_order(name: str, here: Path, elsewhere: Path) -> Order:
    """Run a case to its end, and return in what order it brought things to stable storage."""
    world = make_world(name, here, elsewhere)
    place = place_of("order", here, elsewhere)
    world.case.prepare(world, place)
    if not any(place.output.iterdir()):
        place.output.rmdir()  # the conversion makes it, as it does for a user's first one
    note = here / "order.json"

    def act() -> None:
        watched = Watched(Path(world.plan(place).target), place.output.parent)
        world.case.act(world, place)
        note.write_text(json.dumps(asdict(watched.order)))

    assert forked(act) == 0
    assert view(world, place) == "new"
    return Order(**json.loads(note.read_text()))


# -------------------------------------------------------------------------------------- processes


@contextmanager
def two_file_systems() -> Iterator[tuple[Path, Path]]:
    """Make a directory in memory and one on disk; skips the test when they are one file system."""
    with (
        memory_directory() as here,
        tempfile.TemporaryDirectory(prefix="contimg-test-") as directory,
    ):
        elsewhere = Path(directory)
        if elsewhere.stat().st_dev == here.stat().st_dev:
            pytest.skip(
                "there is no second file system: /dev/shm is missing, full, or all there is"
            )
        yield here, elsewhere


def killed(name: str, here: Path, elsewhere: Path) -> Campaign:
    """Have `kill_everywhere` done by a process that has no threads, and so may fork."""
    return Campaign(**_in_a_process("kill", name, here, elsewhere))


def ordered(name: str, here: Path, elsewhere: Path) -> Order:
    """Have `storage_order` done by a process that has no threads, and so may fork."""
    return Order(**_in_a_process("order", name, here, elsewhere))


def _in_a_process(what: str, name: str, here: Path, elsewhere: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, what, name, here, elsewhere],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


if __name__ == "__main__":
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    function = {"kill": kill_everywhere, "order": storage_order}[sys.argv[1]]
    found = function(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")
