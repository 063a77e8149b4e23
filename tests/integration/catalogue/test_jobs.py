"""Jobs: submitted, read, broken, cancelled, and when they are done."""

from __future__ import annotations

import pytest

from contimg_dask.catalogue import events, groups, jobs, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.errors import UsageError
from contimg_dask.model import Reason
from tests.integration.catalogue.nouns import (
    BROKEN,
    begun,
    brought,
    make_group,
    new_job,
    published,
    queued,
    state_of,
    submitted,
    whole,
)


def test_a_job_comes_back_as_it_was_submitted(catalogue: Catalogue) -> None:
    new = new_job(
        label="week 40 “µ”",
        start_mjd=60953.1234567890123,
        end_mjd=60954.0,
        kind="calibrator",
        min_subbands=1,
        priority=-5,
        live=True,
        settings={"spw": "single", "max_readers": None, "workers": 3},
        candidates=288,
        submitted_by="somebody@host",
    )
    job = jobs.add_job(catalogue, new)
    assert jobs.get_job(catalogue, job.id) == job
    for name in new.__slots__:
        assert getattr(job, name) == getattr(new, name), name
    assert (job.state, job.files, job.files_read, job.read_s, job.reason) == (
        "waiting", 0, 0, None, None,
    )  # fmt: skip
    assert submitted(catalogue).id > job.id


def test_a_job_that_is_not_there_is_refused_by_name(catalogue: Catalogue) -> None:
    for ask in (jobs.get_job, jobs.is_job_done, jobs.cancel_job):
        with pytest.raises(UsageError, match="there is no job 7"):
            ask(catalogue, 7)


def test_jobs_are_read_oldest_first_also_those_that_were_being_read(catalogue: Catalogue) -> None:
    first, second, third, fourth = (submitted(catalogue) for _ in range(4))
    jobs.set_reading(catalogue, second.id, 32)
    jobs.progress(catalogue, second.id, 16)
    jobs.set_read(catalogue, third.id)
    jobs.set_broken(catalogue, fourth.id, BROKEN)
    assert [job.id for job in jobs.jobs_to_read(catalogue)] == [first.id, second.id]
    half = jobs.get_job(catalogue, second.id)
    assert (half.state, half.files, half.files_read) == ("reading", 32, 16)
    assert jobs.get_job(catalogue, third.id).read_s is not None
    assert jobs.get_job(catalogue, fourth.id).reason == BROKEN
    listed = jobs.list_jobs(catalogue, states=("read", "broken"))
    assert [job.id for job in listed] == [fourth.id, third.id]
    assert [job.id for job in jobs.list_jobs(catalogue, limit=1)] == [fourth.id]


def test_nothing_brings_a_cancelled_job_back(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    jobs.cancel_job(catalogue, job.id)
    assert not jobs.set_reading(catalogue, job.id, 1)
    assert not jobs.progress(catalogue, job.id, 1)
    assert not jobs.set_read(catalogue, job.id)
    assert not jobs.set_broken(catalogue, job.id, Reason(code="usage", text="x"))
    assert jobs.get_job(catalogue, job.id).state == "cancelled"


def test_a_job_is_done_when_it_is_read_and_every_group_has_its_outcome(
    catalogue: Catalogue,
) -> None:
    job = submitted(catalogue)
    first, second = (
        one.key for one in groups.arrive(catalogue, job, whole(make_group(0), make_group(1)))
    )
    assert first is not None
    assert second is not None
    published(catalogue, first)
    queue.fail(catalogue, second, None, BROKEN, quarantine=True, seconds={})
    assert not jobs.is_job_done(catalogue, job.id)
    jobs.set_read(catalogue, job.id)
    assert jobs.is_job_done(catalogue, job.id)
    assert jobs.job_counts(catalogue, job.id) == {"published": 1, "quarantined": 1}
    queue.retry_groups(catalogue)
    assert not jobs.is_job_done(catalogue, job.id)


def test_cancelling_a_job_leaves_what_other_jobs_want_and_what_is_done(
    catalogue: Catalogue,
) -> None:
    job = submitted(catalogue, priority=9, live=True, kind="calibrator")
    other = submitted(catalogue, priority=2)
    numbers = range(5)
    keys = [one.key for one in groups.arrive(catalogue, job, whole(*map(make_group, numbers)))]
    _waiting, running, done, shared, shared_running = (key or 0 for key in keys)
    groups.arrive(catalogue, other, whole(make_group(3), make_group(4)))
    published(catalogue, done, 2)
    begun(catalogue, running, "r1")
    begun(catalogue, shared_running, "r2")
    counts = jobs.cancel_job(catalogue, job.id)
    assert (counts.cancelled, counts.requested, counts.kept) == (1, 1, 3)
    assert [state_of(catalogue, key or 0) for key in keys] == [
        "cancelled", "running", "published", "queued", "running",
    ]  # fmt: skip
    assert queue.cancel_requests(catalogue) == {running}
    # What goes on goes on for the other job, by its turn and settings.
    found = groups.get_group(catalogue, shared)
    assert (found.job_id, found.priority, found.live) == (other.id, 2, False)
    assert groups.get_row(catalogue, shared).kind == "science"
    assert groups.live_jobs_of(catalogue, shared) == (other.id,)
    again = jobs.cancel_job(catalogue, job.id)
    assert (again.cancelled, again.requested) == (0, 1)
    assert [e.event for e in events.list_events(catalogue, job=job.id)].count("job-cancelled") == 1


def test_a_group_is_cancelled_when_the_last_job_that_wanted_it_is_cancelled(
    catalogue: Catalogue,
) -> None:
    first, second = submitted(catalogue), submitted(catalogue)
    for job in (first, second):
        key = brought(catalogue, job, *whole(make_group())).key
    assert key is not None
    assert jobs.cancel_job(catalogue, first.id).kept == 1
    assert state_of(catalogue, key) == "queued"
    assert jobs.cancel_job(catalogue, second.id).cancelled == 1
    assert state_of(catalogue, key) == "cancelled"


def test_the_heir_of_a_cancelled_job_is_the_most_urgent_that_is_left(catalogue: Catalogue) -> None:
    found = [submitted(catalogue, priority=p, live=p == 0) for p in (9, 0, 4, 4)]
    for job in found:
        brought(catalogue, job, *whole(make_group()))
    jobs.cancel_job(catalogue, found[0].id)
    (row,) = groups.list_groups(catalogue)
    heir = groups.get_group(catalogue, row.key)
    assert (heir.priority, heir.job_id, heir.live) == (4, found[2].id, True)
    assert row.jobs == tuple(job.id for job in found)


def test_events_of_a_job_tell_its_story(catalogue: Catalogue) -> None:
    queued(catalogue, 2)
    jobs.set_read(catalogue, 1)
    jobs.set_read(catalogue, 1)
    assert [event.event for event in events.list_events(catalogue, job=1)] == [
        "job-submitted", "group-queued", "group-queued", "job-read",
    ]  # fmt: skip
