"""A process killed at any step leaves readers what they had or all of the new, and no byte more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills import Campaign, killed, two_file_systems

# Hundreds of processes, on a machine that may have other things to do.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def places() -> Iterator[tuple[Path, Path]]:
    """Directories on two file systems."""
    with two_file_systems() as places:
        yield places


def assert_survived(campaign: Campaign, kills: int) -> None:
    """Hold a campaign to its promises, and to having been one."""
    assert campaign.problems == []
    assert campaign.kills >= kills
    # Threads may take other turns than they took when they were recorded.
    assert campaign.not_reached <= campaign.kills // 10
    assert campaign.swept > campaign.kills // 2


@pytest.mark.parametrize(("case", "kills"), [("new", 30), ("parts", 10), ("copied", 40)])
def test_a_new_product_is_whole_or_absent_wherever_its_process_is_killed(
    places: tuple[Path, Path], case: str, kills: int
) -> None:
    campaign = killed(case, *places)
    assert_survived(campaign, kills)
    assert set(campaign.views) == {"absent", "new"}


@pytest.mark.parametrize(
    ("case", "kills"), [("failed", 30), ("failed-again", 30), ("succeeded", 5)]
)
def test_what_a_failed_group_leaves_is_whole_or_absent_wherever_its_process_is_killed(
    places: tuple[Path, Path], case: str, kills: int
) -> None:
    assert_survived(killed(case, *places), kills)


def test_the_directory_of_a_cluster_is_swept_wherever_its_process_is_killed(
    places: tuple[Path, Path],
) -> None:
    assert_survived(killed("cluster", *places), 8)
