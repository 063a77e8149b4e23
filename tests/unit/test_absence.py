"""Groups whose files lie on a node that is gone: they wait, then go on without it, by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contimg_dask.dispatching.absence import Absence, Later, homes_of
from contimg_dask.model import Group
from contimg_dask.planning import is_convertible
from contimg_dask.python_api import find_groups
from contimg_dask.simulate import Observation, simulate

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
WAIT_S = 100.0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def absence(clock: Clock) -> Absence:
    return Absence(clock)


@pytest.fixture(scope="module")
def seen_by_all(tmp_path_factory: pytest.TempPathFactory) -> Group:
    directory = tmp_path_factory.mktemp("in")
    simulate(directory, Observation(subbands=3, antennas=3, integrations=2, channels=4))
    return find_groups(directory, 3)[0]


@pytest.fixture
def group(seen_by_all: Group) -> Group:
    """Three subbands, one on each node."""
    subbands = tuple(
        replace(subband, header=replace(subband.header, node=node))
        for subband, node in zip(seen_by_all.subbands, (A, B, C), strict=True)
    )
    return replace(seen_by_all, subbands=subbands)


def test_a_group_whose_nodes_are_all_there_stays_as_it_is(absence: Absence, group: Group) -> None:
    assert homes_of(group) == {A, B, C}
    assert absence.judge(group, {A, B, C, "10.0.0.9"}, WAIT_S) is group


def test_files_that_every_node_sees_need_none(absence: Absence, seen_by_all: Group) -> None:
    assert homes_of(seen_by_all) == set()
    assert absence.judge(seen_by_all, set(), 0) is seen_by_all


def test_a_group_waits_for_a_node_and_is_looked_at_again_soon(
    absence: Absence, group: Group, clock: Clock
) -> None:
    assert absence.judge(group, {A, C}, WAIT_S) == Later(when_s=1010)
    clock.now_s += 95
    assert absence.judge(group, {A, C}, WAIT_S) == Later(when_s=1100)


def test_a_group_goes_on_without_a_node_that_stays_away_and_says_so(
    absence: Absence, group: Group, clock: Clock
) -> None:
    absence.judge(group, {A, C}, WAIT_S)
    clock.now_s += 100
    left = absence.judge(group, {A, C}, WAIT_S)
    assert isinstance(left, Group)
    assert homes_of(left) == {A, C}
    lost = group.subbands[1]
    assert left.missing == (lost.number,)
    assert left.notes[-1] == f"{lost.name} left out: on node {B}, which had been gone for 100 s"
    assert is_convertible(left, 2) is None
    fault = is_convertible(left, 3)
    assert fault is not None
    assert fault.code == "missing-subbands"


def test_a_node_that_came_back_and_went_again_is_waited_for_anew(
    absence: Absence, group: Group, clock: Clock
) -> None:
    absence.judge(group, {A, C}, WAIT_S)
    clock.now_s += 99
    assert absence.judge(group, {A, B, C}, WAIT_S) is group
    clock.now_s += 50
    assert isinstance(absence.judge(group, {A, C}, WAIT_S), Later)


def test_every_node_that_is_gone_is_waited_for(
    absence: Absence, group: Group, clock: Clock
) -> None:
    absence.judge(group, {A, C}, WAIT_S)
    clock.now_s += 60
    assert isinstance(absence.judge(group, {A}, WAIT_S), Later)
    clock.now_s += 60
    assert isinstance(absence.judge(group, {A}, WAIT_S), Later)
    clock.now_s += 60
    left = absence.judge(group, {A}, WAIT_S)
    assert isinstance(left, Group)
    assert homes_of(left) == {A}
    assert f"on node {B}, {C}" in left.notes[-1]


def test_what_one_group_has_waited_the_next_one_does_not_wait_again(
    absence: Absence, group: Group, clock: Clock
) -> None:
    absence.judge(group, {A, C}, WAIT_S)
    clock.now_s += 100
    other = replace(group, id="2025-10-05T04:00:00")
    assert isinstance(absence.judge(other, {A, C}, WAIT_S), Group)
