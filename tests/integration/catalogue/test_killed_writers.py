"""A writer that is killed before any of its statements leaves the old state or the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from contimg_dask.catalogue import groups, jobs, leases, products, queue
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import Adoption
from contimg_dask.catalogue.tables import metadata
from tests.integration.catalogue.nouns import (
    DIGEST,
    LOST,
    begun,
    faulty,
    lease,
    make_group,
    product_of,
    published,
    queued,
    state_of,
    submitted,
    whole,
)
from tests.integration.catalogue.racing import killed_at

MOST_STATEMENTS = 60


def content(catalogue: Catalogue) -> dict[str, list[Any]]:
    """Return every row of every table."""
    with catalogue.reading() as connection:
        return {
            name: sorted(map(repr, connection.execute(select(table))))
            for name, table in metadata.tables.items()
        }


def kill_everywhere(place: str, work: Callable[[Catalogue], object]) -> int:
    """Do something in processes killed before each of its statements, until one comes to its end.

    Whatever was killed has left nothing. Returns how many were killed.
    """

    def run() -> None:
        with open_catalogue(place) as catalogue:
            work(catalogue)

    with open_catalogue(place) as catalogue:
        before = content(catalogue)
        for statement in range(1, MOST_STATEMENTS):
            if not killed_at(statement, run):
                assert content(catalogue) != before
                return statement - 1
            assert content(catalogue) == before
    pytest.fail("it never came to its end")


def test_arriving_groups_come_all_or_not_at_all(place: str) -> None:
    with open_catalogue(place) as catalogue:
        job = submitted(catalogue)
        queued(catalogue, 1)
    found = [*whole(*map(make_group, range(3))), faulty(make_group(3, present=(0,)))]
    assert kill_everywhere(place, lambda c: groups.arrive(c, job, found)) > 8
    with open_catalogue(place) as catalogue:
        assert groups.count_by_state(catalogue) == {"queued": 3, "failed": 1}


def test_a_claim_is_a_state_an_attempt_and_an_event_or_nothing(place: str) -> None:
    with open_catalogue(place) as catalogue:
        (key,) = queued(catalogue)
        token = lease(catalogue)
    claim = {"number": 1, "node": "n"}
    assert kill_everywhere(place, lambda c: queue.begin_attempt(c, token, key, "a", **claim)) > 4  # type: ignore[arg-type]
    with open_catalogue(place) as catalogue:
        (running,) = queue.running(catalogue)
        assert running.attempt == groups.attempts_of(catalogue, key)[0].name == "a"


def test_a_publication_is_recorded_whole_or_not_at_all(place: str) -> None:
    with open_catalogue(place) as catalogue:
        (key,) = queued(catalogue)
        begun(catalogue, key, "a")
    product = product_of()

    def publish(catalogue: Catalogue) -> object:
        return queue.publish(catalogue, key, "a", product, seconds={}, node="n", facts={})

    assert kill_everywhere(place, publish) > 6
    with open_catalogue(place) as catalogue:
        assert state_of(catalogue, key) == "published"
        assert products.get_product(catalogue, product.path) is not None
        assert groups.attempts_of(catalogue, key)[0].state == "published"


def test_what_is_given_back_cancelled_or_adopted_is_so_whole_or_not_at_all(place: str) -> None:
    with open_catalogue(place) as catalogue:
        first, second, third = queued(catalogue, 3)
        begun(catalogue, first, "a")
        begun(catalogue, second, "b")
        gone = published(catalogue, third, 2)
    steps: list[Callable[[Catalogue], object]] = [
        lambda c: queue.give_back(c, first, "a", LOST, counted=True, not_before_s=5.0),
        lambda c: jobs.cancel_job(c, 1),
        lambda c: queue.mark_cancelled(c, second, "b"),
        lambda c: queue.retry_groups(c, [first, second]),
        lambda c: products.mark_removed(c, gone.path),
        lambda c: products.adopt(
            c, Adoption(product=product_of(7), options_hash=DIGEST, subbands=("sb00",))
        ),
        lambda c: leases.set_paused(c, by="me", reason="x"),
    ]
    for step in steps:
        assert kill_everywhere(place, step) > 3
    with open_catalogue(place) as catalogue:
        assert groups.count_by_state(catalogue) == {"queued": 2, "removed": 1, "published": 1}


def test_a_catalogue_whose_making_was_killed_is_made_by_the_next_one(empty_place: str) -> None:
    for statement in range(1, 200):
        if not killed_at(statement, lambda: open_catalogue(empty_place).close()):
            break
        if statement % 7 == 0:
            with open_catalogue(empty_place, create=False, missing_ok=True) as found:
                assert found is None
    assert statement > 20
    with open_catalogue(empty_place, create=False) as catalogue:
        queued(catalogue)
