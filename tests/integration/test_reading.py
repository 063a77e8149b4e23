"""Submitted jobs become groups in the queue: read in batches, remembered, stopped, read again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from contimg_dask.catalogue import groups, jobs, nodes, queue
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import GroupRow, Job
from contimg_dask.catalogue.tables import jobs as jobs_table
from contimg_dask.discovery import Discovered, discover
from contimg_dask.dispatching import reading
from contimg_dask.dispatching.reading import JobReader, read_job, read_spread_job
from contimg_dask.errors import CatalogueError, UsageError
from contimg_dask.model import GroupRecord
from contimg_dask.naming import moment_to_mjd
from contimg_dask.settings import Settings
from contimg_dask.submitting import Backlog, submit
from tests.acceptance.conftest import make_groups

TINY = {"subbands": 2, "antennas": 3, "integrations": 2, "channels": 4}
IDS = ("2025-10-05T03:12:06", "2025-10-05T03:17:15", "2025-10-05T03:22:24", "2025-10-05T03:27:33")
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four groups of two subbands; tests copy it."""
    directory = tmp_path_factory.mktemp("simulated")
    make_groups(directory, groups=4, **TINY)
    return directory


@pytest.fixture
def incoming(simulated: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "incoming"
    shutil.copytree(simulated, directory)
    return directory


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with open_catalogue(str(tmp_path / "catalogue.sqlite")) as opened:
        yield opened


@dataclass(kw_only=True)
class Desk:
    """Submits jobs for one pair of directories."""

    catalogue: Catalogue
    incoming: Path
    out: Path

    def submit(self, *, start: str | None = None, end: str | None = None, **settings: Any) -> Job:
        return submit(
            self.catalogue,
            Backlog(
                input_dir=self.incoming,
                output_dir=self.out,
                settings=Settings(**{"expected_subbands": 2} | settings),
                start_mjd=moment_to_mjd(start),
                end_mjd=moment_to_mjd(end),
            ),
        )

    def rows(self, job: Job | None = None) -> list[GroupRow]:
        return groups.list_groups(self.catalogue, job=None if job is None else job.id)

    def states(self) -> dict[str, str]:
        return {row.id: row.state for row in self.rows()}


@pytest.fixture
def desk(catalogue: Catalogue, incoming: Path, tmp_path: Path) -> Desk:
    return Desk(catalogue=catalogue, incoming=incoming, out=tmp_path / "out")


def file(incoming: Path, group: int, subband: int) -> Path:
    return incoming / f"{IDS[group]}_sb{subband:02d}.hdf5"


def spoil(path: Path) -> None:
    """Make a file unreadable under the size and time it has."""
    before = path.stat()
    path.write_bytes(b"\0" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


class Moments:
    """Asked before every batch whether to stop; does something at one of them."""

    def __init__(self, at: int, action: Callable[[], object], *, stop: bool = False) -> None:
        self.asked = 0
        self._at, self._action, self._stop = at, action, stop

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == self._at:
            self._action()
            return self._stop
        return False


# ---------------------------------------------------------------------------------------- one job


def test_a_job_s_groups_are_queued_in_order_of_time_under_their_ids(desk: Desk) -> None:
    job = desk.submit()
    assert job.candidates == 4
    assert read_job(desk.catalogue, job) == 4
    assert [(row.id, row.state) for row in desk.rows(job)] == [(i, "queued") for i in IDS]
    assert [row.jobs for row in desk.rows()] == [(job.id,)] * 4
    read = jobs.get_job(desk.catalogue, job.id)
    assert (read.state, read.files, read.files_read) == ("read", 8, 8)
    turn = [queued.id for queued in queue.next_queued(desk.catalogue, time.time(), 9)]
    assert turn == list(IDS)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_batches_never_cut_a_group(desk: Desk, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BATCH_FILES", batch)
    assert read_job(desk.catalogue, desk.submit()) == 4
    assert [(row.present, row.state) for row in desk.rows()] == [(2, "queued")] * 4


def test_the_first_groups_are_queued_while_the_last_are_still_to_be_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_FILES", 2)
    job = desk.submit()
    seen: list[tuple[int, int]] = []

    def look() -> bool:
        read = jobs.get_job(desk.catalogue, job.id)
        seen.append((read.files_read, len(desk.rows())))
        return False

    read_job(desk.catalogue, job, stopped=look)
    assert seen == [(0, 0), (2, 1), (4, 2), (6, 3)]


def test_a_job_that_is_stopped_in_the_middle_is_read_to_its_end_by_the_next_reader(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_FILES", 2)
    job = desk.submit()
    assert read_job(desk.catalogue, job, stopped=Moments(3, lambda: None, stop=True)) is None
    assert len(desk.rows()) == 2
    (again,) = jobs.jobs_to_read(desk.catalogue)
    assert (again.id, again.state, again.files_read) == (job.id, "reading", 4)
    assert read_job(desk.catalogue, again) == 4
    assert [row.state for row in desk.rows(job)] == ["queued"] * 4


def test_of_a_job_that_is_cancelled_in_the_middle_nothing_more_comes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_FILES", 2)
    job = desk.submit()
    cancel = Moments(3, lambda: jobs.cancel_job(desk.catalogue, job.id))
    assert read_job(desk.catalogue, job, stopped=cancel) is None
    assert desk.states() == dict.fromkeys(IDS[:2], "cancelled")
    assert jobs.get_job(desk.catalogue, job.id).state == "cancelled"
    assert jobs.jobs_to_read(desk.catalogue) == []


def test_a_group_that_was_cancelled_while_its_job_was_read_is_not_queued_by_the_next_reading(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_FILES", 2)
    job = desk.submit()
    read_job(desk.catalogue, job, stopped=Moments(3, lambda: None, stop=True))
    queue.cancel_groups(desk.catalogue, [desk.rows()[0].key])
    read_job(desk.catalogue, job)
    assert desk.states() == dict.fromkeys(IDS, "queued") | {IDS[0]: "cancelled"}


def test_reading_a_job_twice_changes_nothing(desk: Desk) -> None:
    job = desk.submit()
    read_job(desk.catalogue, job)
    before = desk.rows()
    told: list[GroupRecord] = []
    assert read_job(desk.catalogue, job, on_failed=told.append) == 4
    assert (desk.rows(), told) == (before, [])


# ----------------------------------------------------------------------------------- what is wrong


def test_a_group_with_a_file_that_cannot_be_read_fails_with_its_reason_and_a_record_on_disk(
    desk: Desk,
) -> None:
    truncate(file(desk.incoming, 1, 0))
    told: list[GroupRecord] = []
    read_job(desk.catalogue, desk.submit(), on_failed=told.append)
    failed = desk.rows()[1]
    assert failed.reason is not None
    assert (failed.state, failed.reason.code) == ("failed", "truncated")
    assert desk.states() == dict.fromkeys(IDS, "queued") | {IDS[1]: "failed"}
    assert [(record.id, record.outcome) for record in told] == [(IDS[1], "failed")]
    (path,) = (desk.out / "failed").glob("*/*.json")
    document = json.loads(path.read_text())
    assert path.stem == document["id"] == IDS[1]
    assert document["reason"]["code"] == "truncated"


def test_an_incomplete_group_fails_and_is_queued_when_the_rest_has_come(desk: Desk) -> None:
    late = file(desk.incoming, 2, 1)
    late.rename(desk.incoming / "elsewhere")
    read_job(desk.catalogue, desk.submit())
    row = desk.rows()[2]
    assert row.reason is not None
    assert (row.state, row.reason.code, row.missing) == ("failed", "missing-subbands", (1,))
    assert "submit again" in row.reason.text
    (desk.incoming / "elsewhere").rename(late)
    read_job(desk.catalogue, desk.submit())
    assert desk.states() == dict.fromkeys(IDS, "queued")


def test_a_job_that_asks_for_less_queues_what_failed_before_it_was_tried(desk: Desk) -> None:
    file(desk.incoming, 2, 1).unlink()
    read_job(desk.catalogue, desk.submit())
    assert desk.states()[IDS[2]] == "failed"
    read_job(desk.catalogue, desk.submit(min_subbands=1))
    assert desk.states()[IDS[2]] == "queued"


def test_a_file_that_vanishes_while_the_job_is_read_is_missing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_FILES", 2)
    vanish = Moments(2, file(desk.incoming, 3, 0).unlink)
    assert read_job(desk.catalogue, desk.submit(), stopped=vanish) == 4
    assert desk.rows()[3].missing == (0,)


def on_node(incoming: Path, subband: int, node: str) -> Discovered:
    """What a node says that has recorded one subband of every group."""
    found = discover(incoming)
    name = f"_sb{subband:02d}.hdf5"
    headers = (replace(h, node=node) for h in found.headers if h.path.endswith(name))
    return Discovered(headers=tuple(headers), unreadable=(), node=node)


def test_a_node_that_is_away_while_a_job_is_read_is_named_with_what_is_missing(
    desk: Desk, incoming: Path
) -> None:
    here, gone, drained = "10.0.0.1", "10.0.0.2", "10.0.0.3"
    for name in (here, gone, drained):
        nodes.seen(desk.catalogue, name, 1, {})
    nodes.set_draining(desk.catalogue, drained, True)
    file(incoming, 3, 1).unlink()
    answers = [on_node(incoming, 0, here), on_node(incoming, 5, drained)]
    spread = {"placement": "subband", "node_wait_s": 0}
    patient = desk.submit(**spread | {"node_wait_s": 1000})
    # As many answer as are not drained, but not the same.
    assert read_spread_job(desk.catalogue, patient, lambda *_: answers) is None
    assert desk.rows(patient) == []
    told: list[GroupRecord] = []
    strict = desk.submit(**spread)
    assert read_spread_job(desk.catalogue, strict, lambda *_: answers, told.append) == 4
    named = f"node {gone} was away when the job was read: its files are not known"
    for row in desk.rows(strict):
        assert row.state == "failed"
        assert row.reason is not None
        assert row.reason.code == "missing-subbands"
        assert f"missing: sb01; {named}; submit again" in row.reason.text
    assert [record.reason for record in told] == [row.reason for row in desk.rows(strict)]
    # What is enough goes on, and says so in its product; what is whole has nothing to say.
    partial = desk.submit(**spread | {"min_subbands": 1})
    both = [on_node(incoming, 0, here), on_node(incoming, 1, drained)]
    assert read_spread_job(desk.catalogue, partial, lambda *_: both) == 4
    notes = [groups.get_group(desk.catalogue, row.key).group.notes for row in desk.rows(partial)]
    assert notes == [(), (), (), (named,)]
    # The node is back.
    nodes_back = [on_node(incoming, 0, here), on_node(incoming, 1, gone)]
    again = desk.submit(**spread)
    assert read_spread_job(desk.catalogue, again, lambda *_: nodes_back) == 4
    texts = {row.id: row.reason for row in desk.rows(again) if row.state == "failed"}
    assert not any(reason and gone in reason.text for reason in texts.values())


# -------------------------------------------------------------------------------- what is remembered


def test_remembered_headers_are_not_opened_again(desk: Desk) -> None:
    read_job(desk.catalogue, desk.submit())
    before = [row.bytes_in for row in desk.rows()]
    for path in desk.incoming.iterdir():
        spoil(path)
    other = Desk(catalogue=desk.catalogue, incoming=desk.incoming, out=desk.out / "other")
    job = other.submit()
    assert read_job(desk.catalogue, job) == 4
    assert [(row.state, row.bytes_in) for row in desk.rows(job)] == [
        ("queued", size) for size in before
    ]


def test_a_file_that_was_sent_again_is_opened_again(desk: Desk) -> None:
    truncate(file(desk.incoming, 0, 0))
    read_job(desk.catalogue, desk.submit())
    assert desk.states()[IDS[0]] == "failed"
    make_groups(desk.incoming, groups=1, **TINY)
    read_job(desk.catalogue, desk.submit())
    assert desk.states()[IDS[0]] == "queued"


def test_what_is_wrong_with_a_file_is_remembered_too(desk: Desk) -> None:
    truncate(file(desk.incoming, 0, 0))
    read_job(desk.catalogue, desk.submit())
    spoil(file(desk.incoming, 0, 0))  # not even HDF5 any more, but who would look
    other = Desk(catalogue=desk.catalogue, incoming=desk.incoming, out=desk.out / "other")
    job = other.submit()
    read_job(desk.catalogue, job)
    reason = desk.rows(job)[0].reason
    assert reason is not None
    assert reason.code == "truncated"


# -------------------------------------------------------------------------------------- time ranges


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (None, None, IDS),
        # The first integration is centred 6.4 s after the stamp in the file's name.
        ("2025-10-05T03:12:10", None, IDS),
        ("2025-10-05T03:12:14", None, IDS[1:]),
        (None, "2025-10-05T03:17:18", IDS[:1]),
        (None, "2025-10-05T03:17:25", IDS[:2]),
        ("2025-10-05T03:17:00", "2025-10-05T03:27:36", IDS[1:3]),
        ("2025-10-06", None, ()),
    ],
)
def test_a_range_is_that_of_the_first_integration_by_the_headers(
    desk: Desk, start: str | None, end: str | None, found: tuple[str, ...]
) -> None:
    job = desk.submit(start=start, end=end)
    assert read_job(desk.catalogue, job) == len(found)
    assert tuple(row.id for row in desk.rows(job)) == found
    assert jobs.get_job(desk.catalogue, job.id).state == "read"


def test_an_empty_range_is_refused(desk: Desk) -> None:
    with pytest.raises(UsageError, match="not before its end"):
        desk.submit(start="2025-10-06", end="2025-10-05")
    assert jobs.list_jobs(desk.catalogue) == []


# ------------------------------------------------------------------------------------- the thread


@dataclass(kw_only=True)
class Lines:
    """Hears what an operator is told."""

    texts: list[str]

    def __call__(self, text: str, /, **fields: object) -> None:
        assert fields.get("action")
        self.texts.append(text)


@pytest.fixture
def lines() -> Lines:
    return Lines(texts=[])


@pytest.fixture
def reader(catalogue: Catalogue, lines: Lines) -> Iterator[JobReader]:
    made = JobReader(catalogue, lines, lambda record: None, lambda *_: None)
    yield made
    made.stop()


def wait_until(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def state_of(desk: Desk, job: Job) -> str:
    return jobs.get_job(desk.catalogue, job.id).state


def test_a_job_that_cannot_be_read_is_broken_with_the_reason_and_the_others_go_on(
    desk: Desk, reader: JobReader, lines: Lines, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(desk.incoming, gone)
    lost = Desk(catalogue=desk.catalogue, incoming=gone, out=desk.out).submit()
    strange = desk.submit()
    good = desk.submit()
    shutil.rmtree(gone)
    settings = {**strange.settings, "colour": "blue"}
    with desk.catalogue.writing() as connection:
        row = update(jobs_table).where(jobs_table.c.id == strange.id)
        connection.execute(row.values(settings=settings))
    reader.start()
    wait_until(lambda: state_of(desk, good) == "read")
    assert (state_of(desk, lost), state_of(desk, strange)) == ("broken", "broken")
    reasons = [jobs.get_job(desk.catalogue, job.id).reason for job in (lost, strange)]
    assert [str(gone) in reasons[0].text, "colour" in reasons[1].text] == [True, True]  # type: ignore[union-attr]
    assert any(f"job {lost.id} cannot be read" in text for text in lines.texts)
    assert len(desk.rows(good)) == 4


def test_a_catalogue_that_cannot_be_used_for_a_while_is_waited_for_and_told_once(
    desk: Desk, reader: JobReader, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 3
    real = jobs.jobs_to_read

    def often_refused(catalogue: Catalogue) -> list[Job]:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise CatalogueError("the server is away")
        return real(catalogue)

    monkeypatch.setattr(reading, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(jobs, "jobs_to_read", often_refused)
    job = desk.submit()
    reader.start()
    wait_until(lambda: state_of(desk, job) == "read")
    assert reader.healthy
    assert sum("the server is away" in text for text in lines.texts) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_has_died_is_not_healthy(
    desk: Desk, reader: JobReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(catalogue: Catalogue) -> list[Job]:
        raise SystemExit  # ends the thread without a word

    assert reader.healthy
    monkeypatch.setattr(jobs, "jobs_to_read", broken)
    monkeypatch.setattr(reading, "_LOOK_EVERY_S", 0.02)
    reader.start()
    wait_until(lambda: not reader.healthy)
