"""What one screen shows, against numbers counted by hand."""

from __future__ import annotations

import json
import time

import pytest
from sqlalchemy import text

from contimg_dask.catalogue import groups, jobs, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.overview import overview
from contimg_dask.model import Reason
from tests.integration.catalogue.nouns import (
    BROKEN,
    LOST,
    begun,
    failed,
    make_group,
    published,
    queued,
    start_of,
    submitted,
    whole,
)


def test_an_empty_catalogue_has_an_empty_overview(catalogue: Catalogue) -> None:
    found = overview(catalogue)
    assert (found.counts, found.jobs, found.running, found.failures) == ({}, (), (), ())
    assert (found.oldest_waiting, found.live_lag_s, found.rate_per_h) == (None, None, 0.0)
    assert found.left_s == 0.0


def test_the_rate_is_measured_from_the_first_product_of_late(catalogue: Catalogue) -> None:
    keys = queued(catalogue, 5)
    for number in range(4):
        published(catalogue, keys[number], number)
    with catalogue.writing() as connection:
        for key, age_s in zip(keys, (30.0, 20.0, 10.0, 0.0), strict=False):
            connection.execute(
                text("UPDATE groups SET finished_s = :at WHERE key = :key"),
                {"at": time.time() - age_s, "key": key},
            )
    found = overview(catalogue)
    assert found.published_moment == 4
    assert found.rate_per_h == pytest.approx(3 / 30 * 3600, rel=0.05)  # one every ten seconds
    assert found.left_s == pytest.approx(10, rel=0.05)


def test_an_overview_counts_what_is_there(catalogue: Catalogue) -> None:
    keys = queued(catalogue, 8, label="week 40", candidates=9)
    for number in range(3):
        published(catalogue, keys[number], number)
    with catalogue.writing() as connection:  # one of them long ago, one half an hour ago
        for key, age_s in ((keys[0], 86400.0), (keys[1], 1800.0)):
            connection.execute(
                text("UPDATE groups SET finished_s = :at WHERE key = :key"),
                {"at": time.time() - age_s, "key": key},
            )
    failed(catalogue, keys[3], BROKEN)
    failed(catalogue, keys[4], Reason(code=BROKEN.code, text="the newest"))
    failed(catalogue, keys[5], LOST, quarantine=True)
    begun(catalogue, keys[6], "r")
    queue.cancel_groups(catalogue, [keys[6]])
    found = overview(catalogue)
    assert found.counts == {
        "published": 3, "failed": 2, "quarantined": 1, "running": 1, "queued": 1,
    }  # fmt: skip
    assert (found.published_hour, found.published_moment) == (2, 1)
    assert found.rate_per_h == 2.0  # a single one of late tells no rate: that of the hour does
    assert found.left_s == pytest.approx(2 / 2 * 3600)
    assert found.oldest_waiting is not None
    assert (found.oldest_waiting.key, found.oldest_waiting.id) == (keys[7], make_group(7).id)
    (run,) = found.running
    assert (run.key, run.node, run.attempt, run.cancel_requested) == (
        keys[6], "10.0.0.1", "r", True,
    )  # fmt: skip
    assert found.time_s - run.since_s < 60
    broken, lost = found.failures
    assert (broken.code, broken.state, broken.count, broken.key, broken.text) == (
        BROKEN.code, "failed", 2, keys[4], "the newest",
    )  # fmt: skip
    assert (lost.code, lost.state, lost.count) == ("worker-lost", "quarantined", 1)
    (job,) = found.jobs
    assert (job.label, job.candidates, job.counts) == ("week 40", 9, found.counts)
    assert found.live_lag_s is None
    document = json.loads(json.dumps(found.to_json()))
    assert document["counts"]["published"] == 3
    assert document["left_s"] == found.left_s


def test_an_overview_of_a_job_is_of_its_groups_alone(catalogue: Catalogue) -> None:
    queued(catalogue, 3)
    job = submitted(catalogue, output_dir="/elsewhere")
    groups.arrive(catalogue, job, whole(make_group(5)))
    found = overview(catalogue, job=job.id)
    assert found.counts == {"queued": 1}
    assert [line.id for line in found.jobs] == [job.id]
    assert found.oldest_waiting is not None
    assert found.oldest_waiting.id == make_group(5).id
    assert overview(catalogue).counts == {"queued": 4}


def test_what_waits_longest_is_not_hidden_by_being_given_back(catalogue: Catalogue) -> None:
    first, _ = queued(catalogue, 2)
    attempt = begun(catalogue, first)
    queue.give_back(catalogue, first, attempt, LOST, counted=True, not_before_s=1e12)
    found = overview(catalogue)
    assert found.oldest_waiting is not None
    assert found.oldest_waiting.key == first


def test_the_lag_is_how_long_ago_the_oldest_live_group_began(catalogue: Catalogue) -> None:
    queued(catalogue, 1)
    job = submitted(catalogue, live=True)
    groups.arrive(catalogue, job, whole(make_group(3), make_group(2)))
    found = overview(catalogue)
    began_s = (start_of(2) - 2440587.5) * 86400
    assert found.live_lag_s == pytest.approx(found.time_s - began_s, abs=0.01)


def test_jobs_with_something_still_to_come_are_shown_however_old(catalogue: Catalogue) -> None:
    queued(catalogue, 1)
    for _ in range(25):
        jobs.set_read(catalogue, submitted(catalogue).id)
    shown = [line.id for line in overview(catalogue).jobs]
    assert shown == [*range(26, 6, -1), 1]
