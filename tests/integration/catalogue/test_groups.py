"""Looking groups up: by id, by key, and in lists that are cut into pages."""

from __future__ import annotations

from typing import Any

import pytest

from contimg_dask.catalogue import groups, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.errors import UsageError
from contimg_dask.naming import moment_to_mjd
from tests.integration.catalogue.nouns import (
    BROKEN,
    LOST,
    OUT,
    begun,
    brought,
    failed,
    make_group,
    product_of,
    published,
    queued,
    submitted,
    whole,
)


def numbers_of(catalogue: Catalogue, **how: Any) -> list[int]:
    """Return which groups a list holds, by number."""
    by_id = {make_group(number).id: number for number in range(20)}
    return [by_id[row.id] for row in groups.list_groups(catalogue, **how)]


def test_groups_are_found_by_id_and_by_key(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    other = submitted(catalogue, output_dir="/elsewhere")
    second = brought(catalogue, other, *whole(make_group())).key
    label = make_group().id
    assert [row.key for row in groups.find_groups(catalogue, label)] == [key, second]
    assert [row.key for row in groups.find_groups(catalogue, label, OUT)] == [key]
    assert [row.key for row in groups.find_groups(catalogue, str(second))] == [second]
    assert groups.find_groups(catalogue, "2025-10-05") == []
    assert groups.find_groups(catalogue, "٣") == []  # a digit, but no number


def test_a_group_that_is_not_there_is_refused_by_key(catalogue: Catalogue) -> None:
    for ask in (groups.get_group, groups.get_row):
        with pytest.raises(UsageError, match="there is no group 7"):
            ask(catalogue, 7)


def test_lists_are_in_time_order_and_hold_what_is_asked_for(catalogue: Catalogue) -> None:
    job = submitted(catalogue)
    keys = [
        one.key or 0
        for one in groups.arrive(catalogue, job, whole(*map(make_group, (4, 2, 0, 1, 3))))
    ]
    other = submitted(catalogue, output_dir="/elsewhere")
    brought(catalogue, other, *whole(make_group(9)))
    published(catalogue, keys[0], 4)
    failed(catalogue, keys[1], BROKEN)
    failed(catalogue, keys[2], LOST, quarantine=True)
    assert numbers_of(catalogue) == [0, 1, 2, 3, 4, 9]
    assert numbers_of(catalogue, newest_first=True) == [9, 4, 3, 2, 1, 0]
    assert numbers_of(catalogue, states=("failed", "quarantined")) == [0, 2]
    assert numbers_of(catalogue, reason="worker-lost") == [0]
    assert numbers_of(catalogue, job=job.id) == [0, 1, 2, 3, 4]
    assert numbers_of(catalogue, job=other.id, states=("queued",)) == [9]
    assert numbers_of(catalogue, output_dir="/elsewhere") == [9]
    assert numbers_of(catalogue, states=()) == []
    assert groups.count_by_state(catalogue) == {
        "published": 1, "failed": 1, "quarantined": 1, "queued": 3,
    }  # fmt: skip
    assert groups.count_by_state(catalogue, job=other.id) == {"queued": 1}
    assert groups.count_by_state(catalogue, output_dir="/nowhere") == {}


def test_bounds_in_time_are_half_open(catalogue: Catalogue) -> None:
    queued(catalogue, 3)
    # Group 0 begins at 03:12:05.760, group 1 at 03:17:15.000.
    begins, next_begins = (
        moment_to_mjd(f"2025-10-05T{text}") for text in ("03:12:05.760", "03:17:15")
    )
    assert numbers_of(catalogue, start_mjd=begins, end_mjd=next_begins) == [0]
    assert numbers_of(catalogue, start_mjd=next_begins) == [1, 2]
    assert numbers_of(catalogue, end_mjd=begins) == []


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_put_together_are_the_list(catalogue: Catalogue, newest_first: bool) -> None:
    queued(catalogue, 7)
    other = submitted(catalogue, output_dir="/elsewhere")  # the same starts a second time
    groups.arrive(catalogue, other, whole(*map(make_group, range(7))))
    listed = groups.list_groups(catalogue, newest_first=newest_first)
    pages: list[Any] = []
    while page := groups.list_groups(
        catalogue, newest_first=newest_first, limit=3, after=pages[-1].key if pages else None
    ):
        pages += page
    assert pages == listed
    assert len(listed) == 14


def test_a_row_is_plain_json(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    failed(catalogue, key)
    document = groups.get_row(catalogue, key).to_json()
    assert document["reason"] == {"code": "verification-failed", "text": "DATA differs"}
    assert (document["state"], document["present"], document["jobs"]) == ("failed", 2, (1,))


def test_what_each_link_carried_for_a_product_is_in_its_row(catalogue: Catalogue) -> None:
    key, at_home, waiting = queued(catalogue, 3)
    attempt = begun(catalogue, key, "try")
    moved = {"10.0.0.3>10.0.0.1": 300, "10.0.0.2>10.0.0.1": 4_000_000_000}
    facts = {"tier": "tmpfs", "moved_bytes": moved}
    assert queue.publish(
        catalogue, key, attempt, product_of(), seconds={}, node="10.0.0.1", facts=facts
    )
    published(catalogue, at_home, 1)
    assert groups.get_row(catalogue, key).to_json()["moved_bytes"] == (
        {"from_node": "10.0.0.2", "to_node": "10.0.0.1", "bytes": 4_000_000_000},
        {"from_node": "10.0.0.3", "to_node": "10.0.0.1", "bytes": 300},
    )
    for other in (at_home, waiting):
        assert groups.get_row(catalogue, other).moved_bytes == ()


def test_a_group_without_known_files_cannot_be_had_with_them(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    with catalogue.writing() as connection:
        connection.exec_driver_sql("DELETE FROM group_documents")
    with pytest.raises(UsageError, match="known files"):
        groups.get_group(catalogue, key)
    assert queue.next_queued(catalogue, 1e12, 5) == []
    assert groups.get_row(catalogue, key).id == make_group().id
