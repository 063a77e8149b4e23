"""What became of groups lately, on both databases, against what was put in."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from contimg_dask.catalogue import groups, leases, nodes
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.recent import groups_by_key, live_times, recent_groups
from contimg_dask.errors import NotFoundError, UsageError
from contimg_dask.steering import cancel_group, cancel_job, keys_of, retry, set_draining
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


def test_what_got_its_outcome_lately_is_told_the_newest_first(catalogue: Catalogue) -> None:
    keys = queued(catalogue, 5, live=True)
    published(catalogue, keys[0], 0)
    failed(catalogue, keys[1], BROKEN)
    published(catalogue, keys[2], 2)
    begun(catalogue, keys[3])
    with catalogue.writing() as connection:
        long_ago = {"at": time.time() - 90_000.0, "key": keys[0]}
        connection.execute(text("UPDATE groups SET finished_s = :at WHERE key = :key"), long_ago)
        connection.execute(
            text("UPDATE groups SET complete_s = finished_s - 12.5 WHERE key = :key"),
            {"key": keys[2]},
        )
    since_s = time.time() - 86_400.0
    found = recent_groups(catalogue, since_s, 100)
    assert [group.key for group in found] == [keys[2], keys[1]]
    newest, lost = found
    assert (newest.state, newest.total_s, newest.node) == ("published", 12.5, "10.0.0.1")
    assert newest.latency_s == pytest.approx(12.5, abs=1e-3)
    assert (lost.reason, lost.total_s, lost.latency_s) == (BROKEN.code, None, None)
    assert lost.start_s == pytest.approx((start_of(1) - 2440587.5) * 86400, abs=1e-3)
    assert [group.key for group in recent_groups(catalogue, since_s, 1)] == [keys[2]]
    assert {group.key for group in groups_by_key(catalogue, keys)} == set(keys[:3])


def test_live_times_are_of_live_groups_alone(catalogue: Catalogue) -> None:
    assert live_times(catalogue).newest_start_s is None
    job = submitted(catalogue, live=True)
    first, second = groups.arrive(catalogue, job, whole(make_group(1), make_group(2)))
    assert first.key is not None
    backlog = submitted(catalogue, output_dir="/elsewhere")
    (old,) = groups.arrive(catalogue, backlog, whole(make_group(9)))
    assert old.key is not None
    published(catalogue, first.key, 1)
    live = live_times(catalogue)
    published(catalogue, old.key, 9, output_dir="/elsewhere")
    assert live_times(catalogue) == live
    assert live.newest_start_s == pytest.approx((start_of(2) - 2440587.5) * 86400, abs=1e-3)
    assert live.last_published_s == groups.get_row(catalogue, first.key).finished_s
    assert second.state == "queued"


def test_the_level_of_logs_is_kept_until_it_is_taken_back(catalogue: Catalogue) -> None:
    assert leases.log_level(catalogue) is None
    leases.set_log_level(catalogue, "debug", by="me")
    leases.set_log_level(catalogue, "info", by="me")
    assert leases.log_level(catalogue) == "info"
    leases.set_paused(catalogue, by="me")
    assert leases.log_level(catalogue) == "info"
    leases.set_log_level(catalogue, None, by="me")
    assert leases.log_level(catalogue) is None
    assert leases.paused(catalogue) is not None


def test_groups_are_retried_by_reason(catalogue: Catalogue) -> None:
    keys = queued(catalogue, 4)
    for key, reason in zip(keys, (BROKEN, LOST, BROKEN), strict=False):
        failed(catalogue, key, reason, quarantine=reason is LOST)
    assert retry(catalogue, (), everything=True, reason=BROKEN.code) == 2
    assert groups.count_by_state(catalogue) == {"queued": 3, "quarantined": 1}
    assert retry(catalogue, (), everything=True, reason=BROKEN.code) == 0
    assert retry(catalogue, (), everything=True, states=("failed",), reason=LOST.code) == 0
    assert retry(catalogue, [str(keys[1])]) == 1
    for wrong in ({"names": ()}, {"names": ("1",), "everything": True},
                  {"names": ("1",), "reason": "x"}):  # fmt: skip
        with pytest.raises(UsageError):
            retry(catalogue, **wrong)  # type: ignore[arg-type]


def test_what_is_not_there_cannot_be_steered(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue, 1)
    assert keys_of(catalogue, [make_group(0).id, str(key)]) == [key, key]
    assert cancel_group(catalogue, str(key)).cancelled == 1
    nodes.seen(catalogue, "10.0.0.1", 2, {})
    set_draining(catalogue, "10.0.0.1", True)
    assert nodes.draining_names(catalogue) == {"10.0.0.1"}
    for ask in (
        lambda: keys_of(catalogue, ["77"]),
        lambda: cancel_group(catalogue, "77"),
        lambda: cancel_job(catalogue, 77),
        lambda: set_draining(catalogue, "10.0.0.2", True),
    ):
        with pytest.raises(NotFoundError):
            ask()
