"""How long live groups took, from their last file to the product; and the jobs of streams."""

from __future__ import annotations

import time

import pytest

from contimg_dask.catalogue import groups, jobs, leases
from contimg_dask.catalogue.latency import latency_histogram, recent_latency
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arriving
from contimg_dask.errors import UsageError
from tests.integration.catalogue.nouns import (
    ME,
    brought,
    make_group,
    new_job,
    published,
    state_of,
    submitted,
)

TAKEN_S = (1.0, 2.0, 4.0, 400.0)


def published_after(catalogue: Catalogue, number: int, taken_s: float, *, live: bool = True) -> int:
    """Have a group published that was whole so long ago; return its key."""
    job = submitted(catalogue, live=live)
    coming = Arriving(
        group=make_group(number), whole=True, complete_s=time.time() - taken_s, live=live
    )
    key = brought(catalogue, job, coming).key
    assert key is not None
    published(catalogue, key, number)
    return key


def test_the_latency_of_live_groups_is_known_one_by_one_and_together(catalogue: Catalogue) -> None:
    assert recent_latency(catalogue) is None
    keys = [published_after(catalogue, n, taken_s) for n, taken_s in enumerate(TAKEN_S)]
    published_after(catalogue, 9, 9999.0, live=False)
    for key, taken_s in zip(keys, TAKEN_S, strict=True):
        found = groups.get_row(catalogue, key).latency_s
        assert found == pytest.approx(taken_s, abs=2.0)
    recent = recent_latency(catalogue)
    assert recent is not None
    assert recent.groups == 4
    assert recent.median_s == pytest.approx(2.0, abs=2.0)
    assert recent.longest_s == recent.p95_s == pytest.approx(400.0, abs=2.0)
    histogram = latency_histogram(catalogue, (30.0, 300.0, 3000.0))
    assert (histogram.counts, histogram.groups) == ((3, 3, 4), 4)
    assert histogram.sum_s == pytest.approx(407.0, abs=8.0)


def test_a_stream_finds_its_job_again_with_the_settings_it_has_now(catalogue: Catalogue) -> None:
    first = jobs.open_stream(catalogue, new_job(live=True, label="stream"))
    assert first.state == "streaming"
    again = jobs.open_stream(catalogue, new_job(live=True, label="stream", min_subbands=1))
    assert (again.id, again.min_subbands) == (first.id, 1)
    assert jobs.jobs_to_read(catalogue) == []
    assert not jobs.is_job_done(catalogue, first.id)


def test_a_stream_with_other_options_begins_anew_and_waits_for_nothing_of_the_old_one(
    catalogue: Catalogue,
) -> None:
    old = jobs.open_stream(catalogue, new_job(live=True))
    waiting = brought(catalogue, old, Arriving(group=make_group(0, present=(0,)), whole=False))
    queued = brought(catalogue, old, Arriving(group=make_group(1), whole=True))
    new = jobs.open_stream(catalogue, new_job(live=True, options_hash="other"))
    assert new.id != old.id
    assert jobs.get_job(catalogue, old.id).state == "read"
    assert waiting.key is not None
    assert queued.key is not None
    assert state_of(catalogue, waiting.key) == "cancelled"
    assert state_of(catalogue, queued.key) == "queued"


def test_a_stream_is_stopped_as_a_service_and_not_cancelled(catalogue: Catalogue) -> None:
    job = jobs.open_stream(catalogue, new_job(live=True))
    with pytest.raises(UsageError, match="stop its service instead"):
        jobs.cancel_job(catalogue, job.id)
    assert jobs.get_job(catalogue, job.id).state == "streaming"


def test_leases_are_listed_by_how_their_names_begin_as_long_as_they_last(
    catalogue: Catalogue,
) -> None:
    for name in ("stream /in", "stream /in%_", "dispatcher"):
        leases.acquire(
            catalogue, name, owner=ME, holder="x", facts={}, lease_s=30.0, now_s=1000.0,
            is_dead=lambda owner: False,
        )  # fmt: skip
    found = leases.list_current(catalogue, "stream ", 1010.0)
    assert [lease.name for lease in found] == ["stream /in", "stream /in%_"]
    assert [lease.name for lease in leases.list_current(catalogue, "stream /in%", 1010.0)] == [
        "stream /in%_"
    ]
    assert leases.list_current(catalogue, "stream ", 1031.0) == []
