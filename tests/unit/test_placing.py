"""Which node a group is given: what must hold whatever the nodes are like, and a few plain cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contimg_dask.dispatching.placing import Load, Need, Node, choose

K = 2
NAMES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
SIZE = 100

loads = st.lists(st.builds(Load, bytes_staged=st.just(SIZE), alone=st.booleans()), max_size=4)
seldom = st.sampled_from((False, False, False, True))
needs = st.builds(
    Need,
    bytes_staged=st.just(SIZE),
    alone=st.booleans(),
    avoid=st.none() | st.sampled_from(NAMES),
    live=st.booleans(),
)


def nodes_named(name: str) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        name=st.just(name),
        workers=st.integers(0, 4),
        loads=loads.map(tuple),
        room_bytes=st.none() | st.integers(0, 5 * SIZE),
        unseen_bytes=st.integers(0, 3 * SIZE),
        draining=seldom,
        silent=seldom,
    )


clusters = st.tuples(*map(nodes_named, NAMES)).map(list)
per_node = st.integers(1, 3)


def chosen_of(nodes: list[Node], need: Need, most: int) -> Node:
    """Return the node that was chosen; the example is passed over where there is none."""
    name = choose(nodes, need, most)
    assume(name is not None)
    return next(node for node in nodes if node.name == name)


def node(name: str = NAMES[0], running: int = 0, **facts: object) -> Node:
    usual = {"workers": 2, "loads": (Load(bytes_staged=SIZE),) * running}
    return Node(name=name, **usual | facts)  # type: ignore[arg-type]


NEED = Need(bytes_staged=SIZE)


# --------------------------------------------------------------------------- whatever they are like


@given(nodes=clusters, need=needs, most=per_node)
def test_a_draining_or_silent_node_or_one_without_workers_is_never_chosen(
    nodes: list[Node], need: Need, most: int
) -> None:
    chosen = chosen_of(nodes, need, most)
    assert not chosen.draining
    assert not chosen.silent
    assert chosen.workers > 0


@given(nodes=clusters, need=needs, most=per_node)
def test_no_node_gets_more_than_it_may_have_and_live_groups_one_more(
    nodes: list[Node], need: Need, most: int
) -> None:
    chosen = chosen_of(nodes, need, most)
    assert len(chosen.loads) < most + need.live


@given(nodes=clusters, need=needs, most=per_node)
def test_nothing_runs_beside_a_group_that_is_to_be_alone(
    nodes: list[Node], need: Need, most: int
) -> None:
    chosen = chosen_of(nodes, need, most)
    assert not any(load.alone for load in chosen.loads)
    assert not (need.alone and chosen.loads)


@given(nodes=clusters, need=needs, most=per_node)
def test_the_node_of_the_last_attempt_is_avoided_where_there_is_another(
    nodes: list[Node], need: Need, most: int
) -> None:
    others = [n for n in nodes if n.name != need.avoid and n.workers and not n.draining]
    chosen = chosen_of(nodes, need, most)
    assert chosen.name != need.avoid or not others


@given(nodes=clusters, need=needs, most=per_node)
def test_a_node_that_has_something_is_only_given_what_its_tier_has_room_for(
    nodes: list[Node], need: Need, most: int
) -> None:
    chosen = chosen_of(nodes, need, most)
    if chosen.loads and chosen.room_bytes is not None:
        assert chosen.room_bytes - chosen.unseen_bytes >= need.bytes_staged


@given(nodes=clusters, need=needs, most=per_node)
def test_nothing_waits_while_a_node_that_may_take_it_has_nothing_at_all(
    nodes: list[Node], need: Need, most: int
) -> None:
    idle = [n for n in nodes if n.workers and not (n.draining or n.silent or n.loads)]
    if any(n.name != need.avoid for n in idle):
        assert choose(nodes, need, most) is not None


@given(nodes=clusters, need=needs, most=per_node)
def test_the_order_in_which_nodes_are_known_does_not_matter(
    nodes: list[Node], need: Need, most: int
) -> None:
    assert choose(nodes, need, most) == choose(nodes[::-1], need, most)


@given(nodes=clusters, need=needs, most=per_node)
def test_among_those_that_may_take_it_the_least_busy_one_is_chosen(
    nodes: list[Node], need: Need, most: int
) -> None:
    chosen = chosen_of(nodes, need, most)
    for other in nodes:
        if choose([other], need, most) is None or other.name == need.avoid:
            continue
        assert len(chosen.loads) / chosen.workers <= len(other.loads) / other.workers


# ------------------------------------------------------------------------------------- plain cases


def test_without_any_node_a_group_waits() -> None:
    assert choose([], NEED, K) is None


@pytest.mark.parametrize(
    ("running", "need", "taken"),
    [
        (0, NEED, True),
        (1, NEED, True),
        (2, NEED, False),
        (2, replace(NEED, live=True), True),
        (3, replace(NEED, live=True), False),
        (0, replace(NEED, alone=True), True),
        (1, replace(NEED, alone=True), False),
        (0, replace(NEED, avoid=NAMES[0]), True),
    ],
)
def test_a_single_node_takes_what_it_may(running: int, need: Need, taken: bool) -> None:
    assert (choose([node(running=running)], need, K) is not None) == taken


def test_a_group_waits_for_another_node_rather_than_go_where_it_failed() -> None:
    nodes = [node(NAMES[0]), node(NAMES[1], running=1)]
    need = replace(NEED, alone=True, avoid=NAMES[0])
    assert choose(nodes, need, K) is None
    assert choose([nodes[0], replace(nodes[1], draining=True)], need, K) == NAMES[0]


def test_a_group_waits_for_a_node_that_is_not_heard_of_rather_than_be_lost_with_it() -> None:
    silent, other = node(NAMES[0], silent=True), node(NAMES[1], running=1)
    assert choose([silent, other], NEED, K) == NAMES[1]
    assert choose([silent, other], replace(NEED, alone=True), K) is None
    # Nor does it go back to where it failed: the other one is heard of again, or known to be lost.
    retried = replace(NEED, alone=True, avoid=NAMES[1])
    assert choose([silent, node(NAMES[1])], retried, K) is None
    assert choose([node(NAMES[1])], retried, K) == NAMES[1]


def test_a_full_tier_is_waited_for_only_where_waiting_may_help() -> None:
    full = {"room_bytes": SIZE // 2}
    assert choose([node(running=1, **full)], NEED, K) is None
    assert choose([node(running=0, **full)], NEED, K) == NAMES[0]


def test_groups_handed_over_since_the_room_was_measured_count() -> None:
    assert choose([node(running=1, room_bytes=SIZE)], NEED, K) == NAMES[0]
    assert choose([node(running=1, room_bytes=SIZE, unseen_bytes=1)], NEED, K) is None


def test_more_workers_take_more_groups() -> None:
    nodes = [node(NAMES[0], running=1, workers=1), node(NAMES[1], running=2, workers=4)]
    assert choose(nodes, NEED, 3) == NAMES[1]


def test_a_node_that_only_makes_parts_never_gets_a_group_of_several_nodes() -> None:
    stager, other = node(NAMES[0]), node(NAMES[1], running=1)
    stager = replace(stager, reduces=False)
    assert choose([stager, other], replace(NEED, spread=True), K) == NAMES[1]
    assert choose([stager], replace(NEED, spread=True), K) is None
    assert choose([stager, other], NEED, K) == NAMES[0]


def test_a_backlog_leaves_the_room_of_a_live_group() -> None:
    there = [node(running=1, room_bytes=2 * SIZE - 1)]
    assert choose(there, Need(bytes_staged=SIZE), K) is not None
    assert choose(there, Need(bytes_staged=SIZE, kept_bytes=SIZE), K) is None
    assert choose(there, Need(bytes_staged=SIZE, live=True), K) is not None
    enough = [node(running=1, room_bytes=2 * SIZE)]
    assert choose(enough, Need(bytes_staged=SIZE, kept_bytes=SIZE), K) is not None
