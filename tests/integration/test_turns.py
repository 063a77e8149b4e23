"""The dispatcher's loop without a cluster: what goes wrong around it loses nothing.

The connection is a small class that has every attempt end at once, as a test asks.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from contimg_dask.catalogue import groups, jobs, leases, nodes, queue
from contimg_dask.catalogue.opening import Catalogue, CatalogueError, open_catalogue
from contimg_dask.catalogue.records import GroupRow
from contimg_dask.catalogue.tables import groups as groups_table
from contimg_dask.catalogue.tables import jobs as jobs_table
from contimg_dask.convert import convert_in_order
from contimg_dask.dispatching import preparing
from contimg_dask.dispatching.dispatcher import Dispatcher, LeaseLostError
from contimg_dask.dispatching.leasing import LeaseKeeper
from contimg_dask.dispatching.outcomes import Outcomes
from contimg_dask.dispatching.placing import Load, Node
from contimg_dask.dispatching.preparing import Preparer
from contimg_dask.dispatching.reading import JobReader, read_job
from contimg_dask.dispatching.retrying import MOST_INTERRUPTIONS
from contimg_dask.errors import ContimgError, VerificationError
from contimg_dask.event_log import EventLog
from contimg_dask.execution.runner import Completion
from contimg_dask.model import Attempt, ConversionPlan, GroupRecord, Tier
from contimg_dask.settings import Settings
from contimg_dask.staging import room
from contimg_dask.staging.reserving import TierUsage
from contimg_dask.submitting import Backlog, submit
from tests.acceptance.conftest import make_groups
from tests.integration.catalogue.nouns import begun

TINY = {"subbands": 2, "antennas": 3, "integrations": 2, "channels": 4}
NODE = "10.0.0.1"
USAGE = TierUsage(name="tmpfs", root="/x", promised_bytes=5, used_bytes=3, free_bytes=90)
PATIENCE_S = 30.0


@dataclass(kw_only=True)
class Here:
    """A cluster of one node: an attempt is converted in this process, or ends with an error."""

    error: Callable[[Attempt], ContimgError | None] = lambda attempt: None
    connected: bool = True
    trouble: str | None = None
    dashboard: str | None = None
    workers: dict[str, int] = field(default_factory=lambda: {NODE: 1})
    waiting: dict[str, Completion] = field(default_factory=dict)
    started: list[ConversionPlan] = field(default_factory=list)

    @property
    def running(self) -> list[str]:
        return list(self.waiting)

    def present(self) -> set[str]:
        return set(self.workers)

    def open(self) -> bool:
        return True

    def close(self) -> None:
        self.waiting.clear()

    def start(self, plan: ConversionPlan, attempt: Attempt, node: str, **how: Any) -> None:
        self.started.append(plan)
        error = self.error(attempt)
        product = convert_in_order(plan, attempt) if error is None else None
        self.waiting[attempt.name] = Completion(
            plan=plan, attempt=attempt, node=node, product=product, error=error
        )

    def poll(self, timeout_s: float) -> Iterator[Completion]:
        if not self.waiting:
            time.sleep(0.01)
        for name in list(self.waiting):
            yield self.waiting.pop(name)

    def watch(self, tiers: Collection[tuple[Tier, ...]], *, closely: bool = False) -> bool:
        return True

    def staging(self, node: str) -> dict[str, Any]:
        return {"tiers": [asdict(USAGE)]}

    def sweep(self, roots: Any, owners: Any) -> None:
        """Find nothing to remove."""

    def nodes(self, draining: Collection[str], tier: Tier, alone: Collection[str]) -> list[Node]:
        loads = tuple(
            Load(bytes_staged=done.plan.bytes_staged, alone=name in alone)
            for name, done in self.waiting.items()
        )
        return [Node(name=NODE, workers=1, loads=loads, draining=NODE in draining)]

    def give_up(self, name: str, error: ContimgError) -> None:
        self.waiting[name] = replace(self.waiting[name], product=None, error=error)


@dataclass(kw_only=True)
class Handed:
    """Takes what is handed over."""

    paths: list[str | None] = field(default_factory=list)

    def add(self, record: GroupRecord) -> None:
        self.paths.append(record.path)


@dataclass(kw_only=True)
class Desk:
    """A queue of three groups, and a dispatcher for it that runs in this process."""

    catalogue: Catalogue
    incoming: Path
    out: Path
    cluster: Here = field(default_factory=Here)
    handed: Handed = field(default_factory=Handed)
    lines: list[str] = field(default_factory=list)
    facts: Callable[[], dict[str, Any]] = dict

    def submit(self, **settings: Any) -> int:
        backlog = Backlog(
            input_dir=self.incoming,
            output_dir=self.out,
            settings=Settings(expected_subbands=2, **settings),
        )
        job = submit(self.catalogue, backlog)
        read_job(self.catalogue, job)
        return job.id

    def hear(self, text: str, /, **_: object) -> None:
        self.lines.append(text)

    @property
    def rows(self) -> list[GroupRow]:
        return groups.list_groups(self.catalogue)

    @property
    def states(self) -> list[str]:
        return [row.state for row in self.rows]

    def run(self, until: Callable[[], bool], lease_s: float = 30.0) -> None:
        """Dispatch until something is true."""
        deadline_s = time.monotonic() + PATIENCE_S

        def stop_asked() -> int:
            assert time.monotonic() < deadline_s, self.states
            return int(until())

        with EventLog(None, self.hear) as log:
            outcomes = Outcomes(self.catalogue, log, self.handed, self.hear, (0.0,))  # type: ignore[arg-type]
            dispatcher = Dispatcher(
                self.catalogue,
                Settings(),
                outcomes=outcomes,
                preparer=Preparer(self.catalogue, outcomes, self.hear),
                reader=JobReader(self.catalogue, self.hear, outcomes.tell, lambda *about: None),
                connection=self.cluster,  # type: ignore[arg-type]
                on_line=self.hear,
            )
            self.facts = dispatcher.facts
            with LeaseKeeper(self.catalogue, dispatcher.facts, lease_s) as lease:
                dispatcher.run(lease, stop_asked, 5.0)

    def is_done(self) -> bool:
        return not {"queued", "running"} & set(self.states)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simulated")
    make_groups(directory, groups=3, **TINY)
    return directory


@pytest.fixture
def desk(simulated: Path, tmp_path: Path) -> Iterator[Desk]:
    shutil.copytree(simulated, tmp_path / "incoming")
    with open_catalogue(str(tmp_path / "catalogue.sqlite")) as catalogue:
        yield Desk(catalogue=catalogue, incoming=tmp_path / "incoming", out=tmp_path / "out")


@contextmanager
def failing(
    owner: Any, name: str, error: Exception, times: int, when: Any = None
) -> Iterator[None]:
    """Have a function raise an error, the first few times it is called with what ``when`` wants."""
    real, left = getattr(owner, name), times

    def refused(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        if left > 0 and (when is None or when(*arguments)):
            left -= 1
            raise error
        return real(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, refused)
        yield
    assert left == 0


def test_every_group_comes_to_its_product_in_order_of_time(desk: Desk) -> None:
    desk.submit()
    desk.run(desk.is_done)
    assert desk.states == ["published"] * 3
    assert desk.handed.paths == [row.path for row in desk.rows]


def test_nodes_are_known_with_how_their_staging_stands(desk: Desk) -> None:
    desk.submit()
    desk.run(desk.is_done)
    (node,) = nodes.list_nodes(desk.catalogue)
    assert (node.name, node.facts) == (NODE, {"tiers": [asdict(USAGE)]})


def test_a_dispatcher_logs_from_the_level_that_people_ask_for(desk: Desk) -> None:
    root = logging.getLogger()
    before, seen = root.level, set()
    leases.set_log_level(desk.catalogue, "debug", by="me")

    def is_done() -> bool:
        seen.add(root.level)
        if root.level == logging.DEBUG:
            leases.set_log_level(desk.catalogue, None, by="me")
        return {before, logging.DEBUG} <= seen and root.level == before

    desk.run(is_done)
    assert root.level == before


def test_an_error_nobody_foresaw_sets_its_group_aside_and_the_others_go_on(desk: Desk) -> None:
    desk.submit()
    second = desk.rows[1].id
    with failing(
        preparing, "decide", ZeroDivisionError("division by zero"), 1,
        when=lambda found, *_: found[0].id == second,
    ):  # fmt: skip
        desk.run(desk.is_done)
    assert desk.states == ["published", "quarantined", "published"]
    reason = desk.rows[1].reason
    assert reason is not None
    assert (reason.code, "ZeroDivisionError" in reason.text) == ("internal-error", True)


def test_an_output_whose_file_system_fails_holds_the_queue_and_blames_no_group(
    desk: Desk,
) -> None:
    desk.submit()
    seen: list[str] = []

    def is_done() -> bool:
        seen.append(str(desk.facts()["state"]))
        return desk.is_done()

    with failing(preparing, "decide", OSError(116, "Stale file handle", str(desk.out)), 3):
        desk.run(is_done)
    assert any("Stale file handle" in state for state in seen)
    assert sum("Stale file handle" in line for line in desk.lines) == 1
    assert [(row.state, row.attempts) for row in desk.rows] == [("published", 1)] * 3


def test_a_disk_that_gets_short_of_its_reserve_holds_the_queue_and_then_it_goes_on_by_itself(
    desk: Desk,
) -> None:
    """The file system is real; how much of it is free is not."""
    desk.submit(disk_reserve="1GB")
    free = [500_000_000]
    seen: list[tuple[str | None, str]] = []

    def is_done() -> bool:
        facts = desk.facts()
        seen.append((facts["held"], str(facts["state"])))
        if len(seen) == 5:
            free[0] = 50_000_000_000
        return desk.is_done()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "free_bytes", lambda directory: free[0])
        desk.run(is_done)
    held = [state for code, state in seen if code == "no-space"]
    assert held
    assert all("to be left free (disk_reserve)" in state for state in held)
    assert seen[-1][0] is None
    assert [(row.state, row.attempts) for row in desk.rows] == [("published", 1)] * 3


def test_a_backlog_leaves_staging_room_for_a_live_group_like_the_last_one(desk: Desk) -> None:
    job = desk.submit(scratch_dir=str(desk.out.parent / "scratch"))
    first, *others = desk.rows
    with desk.catalogue.writing() as connection:
        live = update(groups_table).where(groups_table.c.key == first.key).values(live=True)
        connection.execute(live)
    desk.run(desk.is_done)
    plans = {plan.group_id: plan for plan in desk.cluster.started}
    assert plans[first.id].proposed_tier.kept_bytes == 0
    for other in others:
        scratch, destination = plans[other.id].tiers
        assert (scratch.name, scratch.kept_bytes) == ("scratch", plans[first.id].bytes_staged)
        assert (destination.name, destination.kept_bytes) == ("destination", 0)
    assert job


def test_a_catalogue_that_is_away_while_a_product_is_recorded_loses_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contimg_dask.dispatching.dispatcher._CATALOGUE_AGAIN_S", 0.05)
    desk.submit()
    with failing(queue, "publish", CatalogueError("the server is away"), 3):
        desk.run(desk.is_done)
    assert [(row.state, row.attempts) for row in desk.rows] == [("published", 1)] * 3
    assert sorted(desk.handed.paths, key=str) == [row.path for row in desk.rows]
    assert sum("the server is away; trying again" in line for line in desk.lines) == 1


def test_a_claim_whose_answer_was_lost_is_given_back_and_taken_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contimg_dask.dispatching.dispatcher._CATALOGUE_AGAIN_S", 0.05)
    desk.submit()
    real, lost = queue.begin_attempt, False

    def begin(*arguments: Any, **more: Any) -> bool:
        nonlocal lost
        done = real(*arguments, **more)
        if not lost:
            lost = True
            raise CatalogueError("the connection has broken")
        return done

    monkeypatch.setattr(queue, "begin_attempt", begin)
    desk.run(desk.is_done)
    first, *others = desk.rows
    assert (first.state, first.attempts, first.interruptions) == ("published", 1, 1)
    assert [(row.state, row.interruptions) for row in others] == [("published", 0)] * 2


def test_an_attempt_that_fails_is_tried_four_times_and_then_set_aside(desk: Desk) -> None:
    desk.submit()
    first = desk.rows[0].id
    desk.cluster.error = lambda attempt: (
        VerificationError("DATA differs") if attempt.name.startswith(first) else None
    )
    desk.run(desk.is_done)
    row = desk.rows[0]
    assert (row.state, row.attempts) == ("quarantined", 4)
    assert [one.number for one in groups.attempts_of(desk.catalogue, row.key)] == [1, 2, 3, 4]
    assert desk.states[1:] == ["published"] * 2
    assert list((desk.out / "failed").glob(f"*/{first}.json"))


def test_a_dispatcher_whose_lease_was_taken_stops_and_writes_nothing_more(desk: Desk) -> None:
    desk.submit()

    def rob() -> bool:
        held = leases.current(desk.catalogue, "dispatcher")
        if held is not None:
            leases.release(desk.catalogue, held.token)
        return False

    with pytest.raises(LeaseLostError):
        desk.run(rob, lease_s=1.0)
    # A claim needs the lease: none was made after it was gone.
    assert desk.states == ["queued"] * 3
    assert not desk.out.exists()


def test_a_dispatcher_can_be_stopped_while_it_finds_that_much_is_done_already(
    desk: Desk, tmp_path: Path
) -> None:
    desk.submit()
    desk.run(desk.is_done)
    with open_catalogue(str(tmp_path / "another.sqlite")) as catalogue:
        other = Desk(catalogue=catalogue, incoming=desk.incoming, out=desk.out)
        other.submit()
        other.run(lambda: "published" in other.states)
        assert other.states == ["published", "queued", "queued"]
        assert other.handed.paths == [], "they are those of another queue"


# ------------------------------------------------------------------------- after one that was killed


def interrupted(desk: Desk, key: int, times: int) -> None:
    """Have a group's dispatcher be killed so many times, in the middle of an attempt."""
    for number in range(times):
        begun(desk.catalogue, key, f"killed-{number}")
        if number < times - 1:
            desk.run(lambda: True)


def test_what_was_running_is_converted_by_the_next_dispatcher(desk: Desk) -> None:
    desk.submit()
    interrupted(desk, desk.rows[0].key, 1)
    desk.run(desk.is_done)
    assert [(row.state, row.interruptions) for row in desk.rows] == [
        ("published", 1), ("published", 0), ("published", 0)
    ]  # fmt: skip
    assert any("1 group(s) were running" in line for line in desk.lines)


def test_a_group_under_which_ten_dispatchers_end_is_set_aside_with_a_record(desk: Desk) -> None:
    desk.submit()
    row = desk.rows[0]
    interrupted(desk, row.key, MOST_INTERRUPTIONS)
    desk.run(desk.is_done)
    after = desk.rows[0]
    assert after.reason is not None
    assert (after.state, after.reason.code) == ("quarantined", "interrupted")
    assert f"{MOST_INTERRUPTIONS} times" in after.reason.text
    assert list((desk.out / "failed").glob(f"*/{row.id}.json"))
    assert desk.states[1:] == ["published"] * 2


def test_a_job_of_another_version_is_refused_with_the_reason_and_ends_no_dispatcher(
    desk: Desk,
) -> None:
    job = desk.submit()
    interrupted(desk, desk.rows[0].key, 1)
    settings = jobs.get_job(desk.catalogue, job).settings | {"colour": "blue"}
    with desk.catalogue.writing() as connection:
        here = update(jobs_table).where(jobs_table.c.id == job)
        connection.execute(here.values(settings=settings))
    desk.run(desk.is_done)
    assert desk.states == ["quarantined"] * 3
    assert all(row.reason is not None and "colour" in row.reason.text for row in desk.rows)
