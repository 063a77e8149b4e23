"""A product that is replaced is the old one or the new one, to readers and on the disk itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_kills import assert_survived
from tests.kills import Order, killed, ordered, two_file_systems

# Hundreds of processes, on a machine that may have other things to do.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def places() -> Iterator[tuple[Path, Path]]:
    """Directories on two file systems."""
    with two_file_systems() as places:
        yield places


@functools.cache
def order_of(case: str) -> Order:
    with two_file_systems() as places:
        return ordered(case, *places)


@pytest.mark.parametrize(("case", "kills"), [("replace", 30), ("replace-copied", 8)])
def test_readers_find_the_old_product_or_the_new_one_wherever_its_process_is_killed(
    places: tuple[Path, Path], case: str, kills: int
) -> None:
    campaign = killed(case, *places)
    assert_survived(campaign, kills)
    assert set(campaign.views) == {"old", "new"}


def test_where_nothing_can_be_exchanged_the_sweep_puts_the_old_product_back(
    places: tuple[Path, Path],
) -> None:
    campaign = killed("replace-with-gap", *places)
    assert_survived(campaign, 30)
    # Readers found nothing in the gap; after the sweep they never do (`settled` of the case).
    assert set(campaign.views) == {"old", "new", "absent"}


def test_a_sweep_that_is_killed_anywhere_is_finished_by_the_next_one(
    places: tuple[Path, Path],
) -> None:
    campaign = killed("sweep", *places)
    assert_survived(campaign, 10)
    # The wreck was about to replace a product, with a gap.
    assert set(campaign.views) == {"absent", "old"}


@pytest.mark.parametrize(
    "case", ["new", "parts", "copied", "replace", "replace-copied", "replace-with-gap"]
)
def test_all_of_a_product_is_on_stable_storage_before_it_gets_its_name(case: str) -> None:
    order = order_of(case)
    assert order.renames == 1
    assert order.files > 100
    assert order.unsynced == []
    # Then the name itself, and those of the directories made for it.
    made = set() if case.startswith("replace") else {"out", "out/science"}
    assert set(order.after) >= {"out/science/2025-10-05"} | made


@pytest.mark.parametrize("case", ["replace", "replace-copied", "replace-with-gap"])
def test_an_old_product_is_removed_when_the_new_name_is_on_stable_storage(case: str) -> None:
    assert order_of(case).before_removal == ["out/science/2025-10-05"]


def test_an_output_directory_that_was_made_is_on_stable_storage_too() -> None:
    assert "." in order_of("new").synced
