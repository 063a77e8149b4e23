"""Several processes at one catalogue: of those that want the same thing, one gets it."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from contimg_dask.catalogue import groups, nodes, queue
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.catalogue.tables import SCHEMA_VERSION
from tests.integration.catalogue.nouns import lease, make_group, queued
from tests.integration.catalogue.racing import (
    bring,
    claim,
    count_under_lease,
    make,
    make_all,
    take_lease,
)
from tests.unit.processes import side_by_side

RACERS = 3


def test_of_several_claims_of_one_group_exactly_one_wins(place: str) -> None:
    with open_catalogue(place) as catalogue:
        keys = queued(catalogue, 40)
        token = lease(catalogue)
        won = side_by_side(claim, *[(place, token, keys, f"node{n}") for n in range(RACERS)])
        assert [sum(one) for one in zip(*won, strict=True)] == [1] * len(keys)
        for key, *had in zip(keys, *won, strict=True):
            (attempt,) = groups.attempts_of(catalogue, key)
            assert attempt.node == f"node{had.index(True)}"
        assert len(queue.running(catalogue)) == len(keys)


def test_of_several_that_want_a_lease_exactly_one_has_it(place: str) -> None:
    tokens = side_by_side(take_lease, *[(place,)] * RACERS)
    assert sum(token is not None for token in tokens) == 1


def test_a_lease_keeps_others_out_as_long_as_it_is_held(place: str, tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("0")
    assert sum(side_by_side(count_under_lease, *[(place, str(file), 15)] * RACERS)) == 15 * RACERS
    assert file.read_text() == str(15 * RACERS)


def test_processes_that_make_the_same_catalogue_at_once_all_have_it(empty_place: str) -> None:
    assert side_by_side(make, *[(empty_place,)] * RACERS) == [SCHEMA_VERSION] * RACERS


def test_new_files_are_made_once_however_often_processes_meet_there(memory_path: Path) -> None:
    places = [str(memory_path / str(number) / "c.sqlite") for number in range(8)]
    assert (
        side_by_side(make_all, *[(places,)] * RACERS) == [[SCHEMA_VERSION] * len(places)] * RACERS
    )


def test_a_file_is_not_made_while_another_process_makes_one_beside_it(tmp_path: Path) -> None:
    # Rarely, two that switch a new file to its log find it locked and do not wait: 3 of 1200 tries.
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    path = tmp_path / "c.sqlite"
    thread = threading.Thread(target=lambda: open_catalogue(str(path)).close())
    thread.start()
    thread.join(timeout=0.3)
    assert thread.is_alive()
    os.close(directory)
    thread.join(timeout=30)
    assert not thread.is_alive()
    with open_catalogue(str(path), create=False) as catalogue:
        assert catalogue.schema_version == SCHEMA_VERSION


def test_jobs_that_bring_the_same_groups_at_once_bring_each_once(place: str) -> None:
    orders = [list(range(30)), list(range(29, -1, -1)), [(11 * n) % 30 for n in range(30)]]
    found = side_by_side(bring, *[(place, numbers) for numbers in orders])
    assert len({frozenset(one) for one in found}) == 1
    with open_catalogue(place) as catalogue:
        rows = groups.list_groups(catalogue)
        assert [row.id for row in rows] == [make_group(n).id for n in range(30)]
        assert {len(row.jobs) for row in rows} == {3}


def test_a_catalogue_serves_several_threads(place: str) -> None:
    failures: list[BaseException] = []
    with open_catalogue(place) as catalogue:

        def work(number: int) -> None:
            try:
                for round_number in range(10):
                    nodes.seen(catalogue, f"10.0.0.{number}", round_number, {})
                    assert nodes.list_nodes(catalogue)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [node.workers for node in nodes.list_nodes(catalogue)] == [9] * 8


def test_a_reader_sees_one_moment_whatever_is_written_meanwhile(place: str) -> None:
    with open_catalogue(place) as catalogue:
        (key,) = queued(catalogue)
        with catalogue.reading() as connection:
            before = connection.exec_driver_sql("SELECT state FROM groups").scalar()
            queue.cancel_groups(catalogue, [key])
            after = connection.exec_driver_sql("SELECT state FROM groups").scalar()
            assert (before, after) == ("queued", "queued")
        assert groups.get_row(catalogue, key).state == "cancelled"


def test_nothing_of_a_transaction_that_failed_is_left(place: str) -> None:
    with open_catalogue(place) as catalogue:
        with pytest.raises(ZeroDivisionError), catalogue.writing() as connection:  # noqa: PT012
            connection.exec_driver_sql("INSERT INTO control VALUES ('x', '{}')")
            raise ZeroDivisionError
        with catalogue.writing() as connection:
            assert connection.exec_driver_sql("SELECT * FROM control").all() == []
