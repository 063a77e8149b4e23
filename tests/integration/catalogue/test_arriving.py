"""Groups come for the first time, again, from other jobs, and with other files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contimg_dask.catalogue import events, groups, jobs, products, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arriving
from contimg_dask.errors import CatalogueError
from contimg_dask.model import MJD_JD_OFFSET_D, ProductOptions
from tests.integration.catalogue.nouns import (
    BROKEN,
    DIGEST,
    OUT,
    begun,
    brought,
    failed,
    faulty,
    make_group,
    make_unreadable,
    new_job,
    published,
    queued,
    start_of,
    state_of,
    submitted,
    told,
    whole,
)


def test_a_whole_group_is_queued_with_its_files_for_its_job(catalogue: Catalogue) -> None:
    job = submitted(catalogue, priority=3, live=True)
    group = make_group()
    arrived = brought(catalogue, job, *whole(group))
    assert arrived.key is not None
    assert (arrived.id, arrived.state, arrived.changed) == (group.id, "queued", True)
    found = groups.get_group(catalogue, arrived.key)
    assert found.group == group
    assert (found.job_id, found.priority, found.live) == (job.id, 3, True)
    assert (found.output_dir, found.options_hash) == (OUT, DIGEST)
    # 2025-10-05T03:12:05.760 UTC.
    assert found.start_ms == 1759633925760
    assert (found.attempts, found.interruptions, found.attempt) == (0, 0, None)
    row = groups.get_row(catalogue, arrived.key)
    assert (row.present, row.expected, row.missing, row.jobs) == (2, 2, (), (job.id,))
    assert row.bytes_in == 2_000_001
    assert row.start_mjd == pytest.approx(start_of(0) - MJD_JD_OFFSET_D, abs=1e-12)
    assert told(catalogue, arrived.key) == ["group-queued"]


def test_a_group_that_is_not_whole_waits_for_more_files_or_has_failed(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    waits = brought(catalogue, job, Arriving(group=make_group(0, present=(1,)), whole=False))
    fails = brought(catalogue, job, faulty(make_group(1, present=(1,))))
    assert (waits.state, fails.state) == ("collecting", "failed")
    assert waits.key is not None
    assert fails.key is not None
    row = groups.get_row(catalogue, fails.key)
    assert row.reason is not None
    assert row.reason.code == "missing-subbands"
    assert row.finished_s is not None
    assert groups.get_row(catalogue, waits.key).finished_s is None
    assert groups.get_row(catalogue, waits.key).missing == (0,)


def test_a_collected_group_is_queued_when_it_is_whole_and_fails_when_nothing_comes(
    catalogue: Catalogue,
) -> None:
    job = submitted(catalogue, live=True)
    partial = [Arriving(group=make_group(n, present=(1,)), whole=False) for n in (0, 1)]
    keys = [one.key for one in groups.arrive(catalogue, job, partial)]
    again = brought(catalogue, job, *whole(make_group(0)))
    late = brought(catalogue, job, faulty(make_group(1, present=(1,))))
    assert [again.key, late.key] == keys
    assert (again.state, late.state) == ("queued", "failed")
    assert keys[0] is not None
    assert len(groups.get_group(catalogue, keys[0]).group.subbands) == 2
    assert told(catalogue, keys[0]) == ["group-collecting", "group-queued"]


def test_a_job_that_is_read_twice_changes_nothing(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    found = [*whole(make_group(0), make_group(1)), faulty(make_group(2, present=(0,)))]
    first = groups.arrive(catalogue, job, found)
    before = groups.list_groups(catalogue)
    second = groups.arrive(catalogue, job, found)
    assert [one.key for one in second] == [one.key for one in first]
    assert [one.changed for one in second] == [False] * 3
    assert groups.list_groups(catalogue) == before


def test_order_and_number_of_arrivals_do_not_matter(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    numbers = [(7 * n) % 400 for n in range(400)]  # every one, out of order
    arrived = groups.arrive(catalogue, job, whole(*map(make_group, numbers)))
    assert [one.id for one in arrived] == [make_group(n).id for n in numbers]
    assert len({one.key for one in arrived}) == 400
    listed = groups.list_groups(catalogue)
    assert [row.id for row in listed] == sorted(row.id for row in listed)
    for one, number in zip(arrived[:5], numbers, strict=False):
        assert one.key is not None
        assert groups.get_group(catalogue, one.key).group == make_group(number)


@pytest.mark.parametrize(
    ("shift_s", "same"),
    [(0.0009, True), (-0.0009, True), (0.0014, False), (-0.0014, False), (0.0021, False)],
)
def test_groups_within_a_millisecond_are_one_and_the_same(
    catalogue: Catalogue, shift_s: float, same: bool
) -> None:
    job = submitted(catalogue)
    first = brought(catalogue, job, *whole(make_group()))
    other = replace(make_group(shift_s=shift_s), id="2025-10-05T03:12:07")
    second = brought(catalogue, job, *whole(other))
    assert (second.key == first.key) is same
    assert len(groups.list_groups(catalogue)) == 2 - same


def test_other_outputs_and_other_options_are_other_groups(catalogue: Catalogue) -> None:
    digest = ProductOptions(imaging_columns="none").digest
    keys = [
        brought(catalogue, submitted(catalogue, **about), *whole(make_group())).key
        for about in ({}, {"output_dir": "/elsewhere"}, {"options_hash": digest})
    ]
    assert len(set(keys)) == 3
    # Converted by other options it is still the same observation: it would go to the same place.
    assert {row.id for row in groups.list_groups(catalogue)} == {make_group().id}


def test_two_groups_of_one_output_never_get_the_same_id(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    one = make_group(0)
    # They begin 20 s and 40 s later but have lost the subbands that would have named them.
    others = [replace(make_group(0, shift_s=shift), id=one.id) for shift in (20.0, 40.0)]
    found = [brought(catalogue, job, *whole(group)) for group in (one, *others)]
    assert [arrived.id for arrived in found] == [
        "2025-10-05T03:12:05",
        "2025-10-05T03:12:25",
        "2025-10-05T03:12:45",
    ]
    # And when the stamp of the start is taken too, a second later.
    taken = replace(make_group(0, shift_s=40.4), id=one.id)
    assert brought(catalogue, job, *whole(taken)).id == "2025-10-05T03:12:46"
    key = found[1].key
    assert key is not None
    assert groups.get_group(catalogue, key).group.id == "2025-10-05T03:12:25"
    # The label stays what it is when the group comes again under its old name.
    assert brought(catalogue, job, *whole(others[0])).id == "2025-10-05T03:12:25"


def test_ids_are_unique_within_one_batch_too(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    one = make_group(0)
    other = replace(make_group(0, shift_s=20.0), id=one.id)
    arrived = groups.arrive(catalogue, job, whole(one, other))
    assert len({a.id for a in arrived}) == 2


def test_a_group_that_is_brought_twice_at_once_is_one(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    one = make_group()
    twin = replace(make_group(shift_s=0.0009), id="2025-10-05T03:12:07")
    arrived = groups.arrive(catalogue, job, whole(one, make_group(1), twin, one))
    assert len({a.key for a in arrived}) == len(groups.list_groups(catalogue)) == 2
    assert {a.id for a in arrived} == {make_group(0).id, make_group(1).id}


def test_a_group_of_unreadable_files_is_the_same_when_they_have_been_sent_again(
    catalogue: Catalogue,
) -> None:
    job = submitted(catalogue)
    bad = brought(catalogue, job, Arriving(group=make_unreadable(), whole=False, fault=BROKEN))
    assert bad.state == "failed"
    assert bad.key is not None
    row = groups.get_row(catalogue, bad.key)
    assert (row.start_mjd, row.present) == (None, 0)
    good = brought(catalogue, job, *whole(make_group()))
    assert (good.key, good.state) == (bad.key, "queued")
    found = groups.get_group(catalogue, bad.key)
    assert (found.start_ms, found.reason) == (1759633925760, None)


def test_a_known_group_whose_files_have_become_unreadable_keeps_its_start(
    catalogue: Catalogue,
) -> None:
    job = submitted(catalogue)
    first = brought(catalogue, job, faulty(make_group(present=(0,))))
    bad = brought(catalogue, job, Arriving(group=make_unreadable(), whole=False, fault=BROKEN))
    assert (bad.key, bad.state, bad.changed) == (first.key, "failed", True)
    assert bad.key is not None
    row = groups.get_row(catalogue, bad.key)
    assert row.start_mjd is not None
    assert row.reason == BROKEN


def test_a_queued_group_takes_new_files_but_not_fewer(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    key = brought(catalogue, job, *whole(make_group())).key
    assert key is not None
    newer = make_group(mtime_ns=9)
    assert brought(catalogue, job, *whole(newer)).changed
    assert groups.get_group(catalogue, key).group == newer
    assert not brought(catalogue, job, faulty(make_group(present=(0,)))).changed
    assert groups.get_group(catalogue, key).group == newer
    assert state_of(catalogue, key) == "queued"


def test_a_resent_file_moves_neither_a_published_nor_a_running_group(catalogue: Catalogue) -> None:
    first, second = queued(catalogue, 2)
    published(catalogue, first)
    begun(catalogue, second)
    job = submitted(catalogue)
    found = whole(make_group(0, mtime_ns=9), make_group(1, mtime_ns=9))
    arrived = groups.arrive(catalogue, job, found)
    assert [(one.state, one.changed) for one in arrived] == [
        ("published", False),
        ("running", False),
    ]
    assert groups.get_row(catalogue, first).jobs == (1, job.id)


def test_a_job_that_replaces_has_each_group_converted_once_more_and_only_once(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    published(catalogue, key)
    job = submitted(catalogue, settings={"on_existing": "replace"})
    assert brought(catalogue, job, *whole(make_group())).state == "queued"
    assert groups.get_group(catalogue, key).job_id == job.id
    published(catalogue, key)
    assert brought(catalogue, job, *whole(make_group())).state == "published"


def test_a_failed_group_is_queued_by_other_files_and_stays_with_the_same(
    catalogue: Catalogue,
) -> None:
    failing, spent = queued(catalogue, 2)
    failed(catalogue, failing)
    failed(catalogue, spent, quarantine=True)
    job = submitted(catalogue)
    same = groups.arrive(catalogue, job, whole(make_group(0), make_group(1)))
    assert [one.state for one in same] == ["failed", "quarantined"]
    newer = whole(make_group(0, mtime_ns=9), make_group(1, mtime_ns=9))
    assert [one.state for one in groups.arrive(catalogue, job, newer)] == ["queued", "queued"]
    found = groups.get_group(catalogue, failing)
    assert (found.attempts, found.reason, found.attempt, found.last_node) == (0, None, None, None)


def test_milder_rules_queue_a_group_that_lacked_subbands(catalogue: Catalogue) -> None:
    partial = make_group(present=(1,))
    key = brought(catalogue, submitted(catalogue), faulty(partial)).key
    mild = submitted(catalogue, min_subbands=1)
    arrived = brought(catalogue, mild, *whole(partial))
    assert (arrived.key, arrived.state) == (key, "queued")
    assert key is not None
    assert groups.get_group(catalogue, key).job_id == mild.id


def test_a_cancelled_group_is_queued_by_a_new_job_but_not_by_reading_the_old_one_again(
    catalogue: Catalogue,
) -> None:
    job = submitted(catalogue)
    key = brought(catalogue, job, *whole(make_group())).key
    assert key is not None
    queue.cancel_groups(catalogue, [key])
    assert brought(catalogue, job, *whole(make_group())).state == "cancelled"
    assert brought(catalogue, submitted(catalogue), *whole(make_group())).state == "queued"


def test_the_most_urgent_job_decides_turn_and_settings(catalogue: Catalogue) -> None:
    first = submitted(catalogue, priority=1)
    key = brought(catalogue, first, *whole(make_group())).key
    assert key is not None
    lower = submitted(catalogue, priority=0, live=True)
    brought(catalogue, lower, *whole(make_group()))
    found = groups.get_group(catalogue, key)
    assert (found.priority, found.job_id, found.live) == (1, first.id, True)
    higher = submitted(catalogue, priority=5, kind="calibrator")
    brought(catalogue, higher, *whole(make_group()))
    found = groups.get_group(catalogue, key)
    assert (found.priority, found.job_id, found.live) == (5, higher.id, True)
    assert groups.get_row(catalogue, key).kind == "calibrator"
    assert groups.live_jobs_of(catalogue, key) == (first.id, lower.id, higher.id)


def test_a_running_group_that_was_to_be_stopped_goes_on_when_another_job_wants_it(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    attempt = begun(catalogue, key)
    queue.cancel_groups(catalogue, [key])
    assert queue.cancel_requests(catalogue) == {key}
    brought(catalogue, submitted(catalogue), *whole(make_group()))
    assert queue.cancel_requests(catalogue) == frozenset()
    # Its dispatcher may have given it up already.
    assert queue.mark_cancelled(catalogue, key, attempt)
    assert state_of(catalogue, key) == "queued"


def test_reading_a_job_again_takes_no_request_to_stop_back(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    key = brought(catalogue, job, *whole(make_group())).key
    assert key is not None
    begun(catalogue, key)
    queue.cancel_groups(catalogue, [key])
    brought(catalogue, job, *whole(make_group()))
    assert queue.cancel_requests(catalogue) == {key}


def test_nothing_arrives_for_a_job_that_was_cancelled_meanwhile(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    jobs.cancel_job(catalogue, job.id)
    arrived = brought(catalogue, job, *whole(make_group()))
    assert (arrived.key, arrived.state, arrived.changed) == (None, "cancelled", False)
    assert groups.list_groups(catalogue) == []


def test_a_dry_run_tells_what_would_be_and_leaves_nothing(catalogue: Catalogue) -> None:
    known, other = queued(catalogue, 2)
    published(catalogue, known)
    queue.cancel_groups(catalogue, [other])
    seen, rows = events.latest_id(catalogue), groups.list_groups(catalogue)
    found = [*whole(*map(make_group, range(3))), faulty(make_group(3, present=(0,)))]
    foreseen = groups.arrive(catalogue, new_job(), found, dry_run=True)
    assert [one.state for one in foreseen] == ["published", "queued", "queued", "failed"]
    assert [one.changed for one in foreseen] == [False, True, True, True]
    assert (events.latest_id(catalogue), groups.list_groups(catalogue)) == (seen, rows)
    assert len(jobs.list_jobs(catalogue)) == 1
    real = groups.arrive(catalogue, submitted(catalogue), found)
    assert [(one.id, one.state, one.changed) for one in real] == [
        (one.id, one.state, one.changed) for one in foreseen
    ]


def test_an_adopted_group_gets_to_know_its_files_when_a_job_brings_them(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    product = published(catalogue, key)
    with catalogue.writing() as connection:  # as if it had been adopted
        connection.exec_driver_sql("UPDATE groups SET files_hash = NULL, job_id = NULL")
        connection.exec_driver_sql("DELETE FROM group_documents")
        connection.exec_driver_sql("DELETE FROM jobs_groups")
    products.mark_removed(catalogue, product.path)
    assert queue.retry_groups(catalogue, [key]) == 0
    assert brought(catalogue, submitted(catalogue), *whole(make_group())).state == "removed"
    assert queue.retry_groups(catalogue, [key]) == 1
    assert groups.get_group(catalogue, key).group == make_group()


def test_names_that_are_not_utf8_are_refused_in_one_line_and_leave_nothing(
    catalogue: Catalogue,
) -> None:
    with pytest.raises(CatalogueError, match="UTF-8") as caught:
        submitted(catalogue, input_dir="/in/\udcff")
    assert "\n" not in str(caught.value)
    assert jobs.list_jobs(catalogue) == []
