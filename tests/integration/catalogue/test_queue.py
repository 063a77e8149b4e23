"""Which group is next, who has it, and what may be recorded of it by whom."""

from __future__ import annotations

import time

import pytest

from contimg_dask.catalogue import events, groups, leases, products, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.lifecycle import State
from contimg_dask.model import Reason
from tests.integration.catalogue.nouns import (
    BROKEN,
    LOST,
    begun,
    brought,
    failed,
    lease,
    make_group,
    product_of,
    published,
    queued,
    state_of,
    submitted,
    told,
    whole,
)


def next_ids(
    catalogue: Catalogue, limit: int = 10, now_s: float = 1e12, **how: object
) -> list[str]:
    found = queue.next_queued(catalogue, now_s, limit, **how)  # type: ignore[arg-type]
    return [group.id for group in found]


def test_live_groups_come_first_then_by_priority_then_by_time(catalogue: Catalogue) -> None:
    for numbers, about in [
        ((5, 3, 4), {}),
        ((2, 1), {"priority": 7}),
        ((9, 8), {"live": True}),
        ((6,), {"live": True, "priority": -1}),
    ]:
        job = submitted(catalogue, **about)
        groups.arrive(catalogue, job, whole(*map(make_group, numbers)))
    expected = [make_group(n).id for n in (8, 9, 6, 1, 2, 3, 4, 5)]
    assert next_ids(catalogue) == expected
    assert next_ids(catalogue, 3) == expected[:3]


def test_groups_that_wait_for_a_later_time_or_are_not_wanted_are_passed_over(
    catalogue: Catalogue,
) -> None:
    first, second, _ = queued(catalogue, 3)
    attempt = begun(catalogue, first)
    queue.give_back(catalogue, first, attempt, BROKEN, counted=True, not_before_s=5000.0)
    assert len(next_ids(catalogue, now_s=5000.0)) == 3
    assert next_ids(catalogue, now_s=4999.9) == [make_group(1).id, make_group(2).id]
    assert next_ids(catalogue, now_s=4999.9, exclude=[second]) == [make_group(2).id]


def test_an_attempt_takes_a_queued_group_and_nobody_else_can(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    token = lease(catalogue)
    begin = {"number": 1, "node": "10.0.0.1"}
    assert queue.begin_attempt(catalogue, token, key, "a1", **begin)  # type: ignore[arg-type]
    assert not queue.begin_attempt(catalogue, token, key, "a2", **begin)  # type: ignore[arg-type]
    # The dispatcher says it again when it has not heard the answer.
    assert queue.begin_attempt(catalogue, token, key, "a1", **begin)  # type: ignore[arg-type]
    (running,) = queue.running(catalogue)
    assert (running.key, running.attempt, running.last_node) == (key, "a1", "10.0.0.1")
    assert running.group == make_group()
    (attempt,) = groups.attempts_of(catalogue, key)
    assert (attempt.name, attempt.number, attempt.state, attempt.counted) == (
        "a1", 1, "running", False,
    )  # fmt: skip
    assert next_ids(catalogue) == []


def test_nothing_is_taken_without_the_lease_or_when_it_was_cancelled(catalogue: Catalogue) -> None:
    first, second = queued(catalogue, 2)
    token = lease(catalogue)
    about = {"number": 1, "node": "n"}
    assert not queue.begin_attempt(catalogue, "stale", first, "a", **about)  # type: ignore[arg-type]
    queue.cancel_groups(catalogue, [second])
    assert not queue.begin_attempt(catalogue, token, second, "b", **about)  # type: ignore[arg-type]
    leases.release(catalogue, token)
    assert not queue.begin_attempt(catalogue, token, first, "c", **about)  # type: ignore[arg-type]
    assert [state_of(catalogue, key) for key in (first, second)] == ["queued", "cancelled"]
    assert groups.attempts_of(catalogue, first) == []


def test_a_published_group_has_its_product_its_attempt_and_its_path(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    attempt = begun(catalogue, key)
    product = product_of()
    before_s = time.time()
    assert queue.publish(
        catalogue, key, attempt, product,
        seconds={"total": 12.5, "open": 0.25}, node="10.0.0.2", facts={"tier": "tmpfs"},
    )  # fmt: skip
    row = groups.get_row(catalogue, key)
    assert (row.state, row.path, row.node, row.attempts) == (
        "published", product.path, "10.0.0.2", 1,
    )  # fmt: skip
    assert row.seconds == {"total": 12.5, "open": 0.25}
    assert row.finished_s is not None
    assert before_s <= row.finished_s <= time.time()
    found = products.get_product(catalogue, product.path)
    assert found is not None
    assert found.group_key == key
    for name in ("start_mjd", "begin_mjd", "ra_deg", "declination_deg", "bytes", "plan_hash"):
        assert getattr(found, name) == getattr(product, name)
    (tried,) = groups.attempts_of(catalogue, key)
    assert (tried.state, tried.counted, tried.seconds) == ("published", True, row.seconds)
    assert told(catalogue, key) == ["group-queued", "attempt-started", "group-published"]


def test_a_product_that_stands_there_already_needs_no_attempt(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    product = product_of(attempt="somebody's")
    for _ in range(2):
        assert queue.publish(catalogue, key, None, product, seconds={}, node=None, facts={})
    row = groups.get_row(catalogue, key)
    assert (row.state, row.attempts, row.node) == ("published", 0, None)
    assert len(products.list_products(catalogue)) == 1


def test_what_is_recorded_twice_is_recorded_once(catalogue: Catalogue) -> None:
    first, second, third, fourth = queued(catalogue, 4)
    token = lease(catalogue)
    for key in (first, second, third, fourth):
        assert queue.begin_attempt(catalogue, token, key, f"a{key}", number=1, node="n")
    seen = None
    for _ in range(2):
        assert queue.publish(
            catalogue, first, f"a{first}", product_of(), seconds={}, node="n", facts={}
        )
        assert queue.fail(catalogue, second, f"a{second}", BROKEN, quarantine=False, seconds={})
        assert queue.give_back(catalogue, third, f"a{third}", LOST, counted=True, not_before_s=1.0)
        queue.cancel_groups(catalogue, [fourth])
        assert queue.mark_cancelled(catalogue, fourth, f"a{fourth}")
        now = (groups.list_groups(catalogue), events.latest_id(catalogue))
        assert seen in (None, now)
        seen = now


def test_an_attempt_that_lost_its_group_records_nothing(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    old = begun(catalogue, key, "old")
    queue.give_back(catalogue, key, old, LOST, counted=False, not_before_s=0.0)
    new = begun(catalogue, key, "new")
    before = groups.list_groups(catalogue), events.latest_id(catalogue)
    assert not queue.publish(catalogue, key, old, product_of(), seconds={}, node="n", facts={})
    assert not queue.fail(catalogue, key, old, BROKEN, quarantine=True, seconds={})
    assert not queue.mark_cancelled(catalogue, key, old)
    assert not queue.publish(catalogue, key, None, product_of(), seconds={}, node="n", facts={})
    assert not queue.fail(catalogue, key, None, BROKEN, quarantine=True, seconds={})
    assert not queue.give_back(catalogue, key, "never", BROKEN, counted=True, not_before_s=0.0)
    assert (groups.list_groups(catalogue), events.latest_id(catalogue)) == before
    assert products.list_products(catalogue) == []
    assert queue.publish(catalogue, key, new, product_of(), seconds={}, node="n", facts={})


def test_attempts_and_interruptions_are_counted_apart(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    for number, (reason, counted, state) in enumerate(
        [(LOST, True, "lost"), (BROKEN, True, "failed"), (BROKEN, False, "given-back")]
    ):
        attempt = begun(catalogue, key, f"a{number}")
        assert queue.give_back(
            catalogue, key, attempt, reason, counted=counted, not_before_s=7.0 + number
        )
        assert groups.attempts_of(catalogue, key)[-1].state == state
        assert groups.attempts_of(catalogue, key)[-1].counted is counted
    found = groups.get_group(catalogue, key)
    assert (found.attempts, found.interruptions, found.not_before_s) == (2, 1, 9.0)
    assert (found.state, found.attempt, found.last_node, found.reason) == (
        "queued", None, "10.0.0.1", BROKEN,
    )  # fmt: skip
    attempt = begun(catalogue, key, "last")
    queue.fail(catalogue, key, attempt, LOST, quarantine=True, seconds={"open": 1.0})
    row = groups.get_row(catalogue, key)
    assert (row.state, row.attempts, row.reason) == ("quarantined", 3, LOST)
    assert groups.attempts_of(catalogue, key)[-1].state == "lost"


def test_a_group_fails_before_any_attempt_when_its_input_has_gone_bad(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    for _ in range(2):
        assert queue.fail(catalogue, key, None, BROKEN, quarantine=False, seconds={})
    row = groups.get_row(catalogue, key)
    assert (row.state, row.attempts, row.reason) == ("failed", 0, BROKEN)


def test_cancelling_stops_what_waits_and_requests_it_of_what_runs(catalogue: Catalogue) -> None:
    waiting, running, done, broken = queued(catalogue, 4)
    published(catalogue, done, 2)
    failed(catalogue, broken)
    attempt = begun(catalogue, running)
    keys = [waiting, running, done, broken]
    assert queue.cancel_groups(catalogue, keys) == (1, 1)
    assert queue.cancel_groups(catalogue, keys) == (0, 1)
    assert [state_of(catalogue, key) for key in keys] == [
        "cancelled", "running", "published", "failed",
    ]  # fmt: skip
    assert queue.cancel_requests(catalogue) == {running}
    assert told(catalogue, running).count("group-cancel-requested") == 1
    assert queue.mark_cancelled(catalogue, running, attempt)
    assert state_of(catalogue, running) == "cancelled"
    assert groups.attempts_of(catalogue, running)[-1].state == "cancelled"
    assert queue.cancel_requests(catalogue) == frozenset()


def test_a_group_that_is_given_back_after_a_request_is_cancelled(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    attempt = begun(catalogue, key)
    queue.cancel_groups(catalogue, [key])
    assert queue.give_back(catalogue, key, attempt, LOST, counted=True, not_before_s=0.0)
    assert state_of(catalogue, key) == "cancelled"
    assert next_ids(catalogue) == []


def test_a_product_that_is_published_after_a_request_counts(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    attempt = begun(catalogue, key)
    queue.cancel_groups(catalogue, [key])
    assert queue.publish(catalogue, key, attempt, product_of(), seconds={}, node="n", facts={})
    row = groups.get_row(catalogue, key)
    assert (row.state, row.cancel_requested) == ("published", False)


def test_retrying_begins_afresh(catalogue: Catalogue) -> None:
    failing, spent, done = queued(catalogue, 3)
    attempt = begun(catalogue, failing)
    queue.give_back(catalogue, failing, attempt, LOST, counted=True, not_before_s=1e11)
    failed(catalogue, failing)
    failed(catalogue, spent, quarantine=True)
    published(catalogue, done, 2)
    assert queue.retry_groups(catalogue) == 2
    assert queue.retry_groups(catalogue) == 0
    found = groups.get_group(catalogue, failing)
    assert (found.state, found.attempts, found.interruptions) == ("queued", 0, 0)
    assert (found.not_before_s, found.reason, found.last_node, found.attempt) == (
        0.0, None, None, None,
    )  # fmt: skip
    assert len(groups.attempts_of(catalogue, failing)) == 2
    begun(catalogue, failing, "again")


@pytest.mark.parametrize(
    ("states", "expected"),
    [(None, 3), (("failed",), 1), (("cancelled", "removed"), 2), (("published",), 1)],
)
def test_groups_are_retried_by_key_in_the_states_that_are_asked_for(
    catalogue: Catalogue, states: tuple[State, ...] | None, expected: int
) -> None:
    keys = queued(catalogue, 4)
    failed(catalogue, keys[0])
    queue.cancel_groups(catalogue, [keys[1]])
    gone = published(catalogue, keys[2], 2)
    products.mark_removed(catalogue, gone.path)
    published(catalogue, keys[3], 3)
    assert queue.retry_groups(catalogue, keys, states=states) == expected
    counts = groups.count_by_state(catalogue)
    assert counts["queued"] == expected


def test_a_queued_group_can_be_given_the_files_as_they_are_now(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    newer = make_group(present=(1,), mtime_ns=99)
    assert queue.refresh_group(catalogue, key, newer)
    found = groups.get_group(catalogue, key)
    assert found.group == newer
    row = groups.get_row(catalogue, key)
    assert (row.present, row.missing, row.bytes_in) == (1, (0,), 1_000_001)
    begun(catalogue, key)
    assert not queue.refresh_group(catalogue, key, make_group())
    assert groups.get_group(catalogue, key).group == newer


def test_a_product_that_replaces_another_groups_takes_its_path(catalogue: Catalogue) -> None:
    (first,) = queued(catalogue)
    product = published(catalogue, first)
    other = submitted(catalogue, options_hash="other-options")
    second = brought(catalogue, other, *whole(make_group())).key
    assert second is not None
    published(catalogue, second, plan_hash="other-plan")
    assert state_of(catalogue, first) == "removed"
    assert groups.get_row(catalogue, first).path is None
    (row,) = products.list_products(catalogue, status=None)
    assert (row.path, row.group_key, row.plan_hash) == (product.path, second, "other-plan")


def test_reasons_of_any_text_are_kept(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    text = "/in/\udcff\0file: µ″ “broken”\n" + "x" * 10_000
    failed(catalogue, key, Reason(code="not-hdf5", text=text))
    reason = groups.get_row(catalogue, key).reason
    assert reason is not None
    assert reason.text == text.replace("\0", "\\0").replace("\udcff", "\\udcff")


def test_the_next_group_is_found_by_an_index_however_many_are_finished(
    catalogue: Catalogue,
) -> None:
    if catalogue.sqlite_path is None:
        pytest.skip("PostgreSQL's plan depends on its statistics; the index is the same")
    with catalogue.reading() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT groups.key FROM groups JOIN group_documents ON "
            "group_documents.group_key = groups.key WHERE groups.state = 'queued' AND "
            "groups.not_before_s <= 1 ORDER BY groups.live DESC, groups.priority DESC, "
            "groups.start_ms LIMIT 1"
        ).all()
    text = " ".join(str(row[-1]) for row in plan)
    assert "groups_by_turn" in text
    assert "TEMP B-TREE" not in text
