"""The order of steps of a group whose files lie on several nodes, in whatever order they end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_dask.execution.spreading import PARTS_ON_THE_WAY, Spread
from tests.unit.plans import attempt_called, bare_plan

REDUCER = "10.0.0.9"
NODES = ("10.0.0.1", "10.0.0.2", REDUCER)


@dataclass(frozen=True)
class Header:
    node: str | None


@dataclass(frozen=True)
class Subband:
    name: str
    header: Header


@dataclass(eq=False)
class Step:
    """A step that was handed over, in the place of its future."""

    node: str
    name: str
    needs: list[Step]


def steps_among(arguments: tuple[Any, ...]) -> list[Step]:
    flat = [one for given in arguments for one in (given if isinstance(given, list) else [given])]
    return [one for one in flat if isinstance(one, Step)]


@dataclass
class Hands:
    """Remembers what it is handed, and lets tests say what ends when."""

    handed: dict[str, Step] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    loose: list[tuple[str, str]] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)

    def hand(self, node: str, name: str, step: Any, *arguments: Any) -> Any:
        del step
        assert name not in self.handed, f"{name} is handed over twice"
        self.handed[name] = Step(node, name, steps_among(arguments))
        return self.handed[name]

    def hand_loose(self, node: str, name: str, step: Any, *arguments: Any) -> None:
        del step
        assert not steps_among(arguments)
        self.loose.append((node, name))

    def forget(self, name: str) -> None:
        assert name in self.handed
        self.forgotten.add(name)

    @property
    def ready(self) -> list[str]:
        """Steps that can end next: what they need has ended."""
        return [
            name
            for name, step in self.handed.items()
            if name not in self.ended and all(need.name in self.ended for need in step.needs)
        ]

    def on_the_way(self) -> int:
        """Parts that have been sent, or may be sent now, and are not placed."""
        sent = {name.partition("-")[2] for name in self.handed if name.startswith("send-")}
        placed = {name.partition("-")[2] for name in self.ended if name.startswith("place-")}
        return len(sent - placed)


@dataclass
class Group:
    spread: Spread
    hands: Hands
    homes: list[str]

    def end(self, name: str) -> Any:
        assert name in self.hands.ready
        self.hands.ended.append(name)
        return self.spread.heard(name)


def begun(homes: list[str | None], workers: int = 1) -> Group:
    subbands: Any = tuple(Subband(f"sb{i:02d}", Header(node)) for i, node in enumerate(homes))
    plan = bare_plan(Path("/out"), subbands=subbands)
    hands = Hands()
    spread = Spread(plan, attempt_called("a.1"), REDUCER, workers, hands)
    spread.begin()
    return Group(spread, hands, [home or REDUCER for home in homes])


def kinds(names: list[str] | set[str]) -> Counter[str]:
    return Counter(name.partition("-")[0] for name in names)


@given(
    st.lists(st.sampled_from(NODES), min_size=1, max_size=8),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_whatever_ends_first_the_order_holds(homes: list[str], workers: int, chance: Any) -> None:
    group, last = begun(list(homes), workers), None
    hands, count = group.hands, len(homes)
    while last is None:
        assert hands.ready, "nothing can go on"
        last = group.end(chance.choice(hands.ready))
        assert hands.on_the_way() <= PARTS_ON_THE_WAY * workers
        if any(name.startswith("place-") for name in hands.handed):
            assert "open" in hands.ended
        if last is not None:
            assert kinds(hands.ended)["place"] == count
            assert "rows" in hands.ended
    # Each step once, each on its node.
    once = dict.fromkeys(("describe", "openpart", "part", "send", "place"), count)
    assert kinds(set(hands.handed)) == once | {"open": 1, "rows": 1, "reduce": 1}
    for name, step in hands.handed.items():
        kind, _, subband = name.partition("-")
        at_home = kind in ("describe", "openpart", "part", "send")
        assert step.node == (group.homes[int(subband[2:])] if at_home else REDUCER)
    assert last is hands.handed["reduce"]
    assert [step.name for step in last.needs] == [
        "rows", *(f"place-sb{i:02d}" for i in range(count))
    ]  # fmt: skip
    # Nothing that a node other than the reducing one has is asked for again.
    kept = set(hands.handed) - hands.forgotten
    assert kinds(kept).keys() == {"open", "rows", "place", "reduce"}
    assert group.spread.nodes == {REDUCER}
    assert sorted(hands.loose) == sorted((home, f"drop-sb{i:02d}") for i, home in enumerate(homes))


def test_parts_are_made_at_once_and_travel_a_few_at_a_time() -> None:
    group = begun([NODES[0]] * 5)
    for number in range(5):
        group.end(f"openpart-sb{number:02d}")
        group.end(f"part-sb{number:02d}")
    assert kinds(set(group.hands.handed))["send"] == 0, "there is no product to put them into"
    group.end("open")
    assert [n for n in group.hands.handed if n.startswith("send")] == ["send-sb00", "send-sb01"]
    group.end("send-sb00")
    assert kinds(set(group.hands.handed))["send"] == 2, "it is not placed yet"
    group.end("place-sb00")
    assert "send-sb02" in group.hands.handed
    assert "send-sb00" in group.hands.forgotten
    assert group.hands.loose == [(NODES[0], "drop-sb00")]


def test_a_node_is_needed_until_its_parts_have_arrived_and_its_headers_are_read() -> None:
    group = begun([NODES[0], NODES[1]])
    assert group.spread.nodes == set(NODES)
    for name in ("open", "openpart-sb00", "part-sb00", "send-sb00", "place-sb00"):
        group.end(name)
    assert group.spread.nodes == set(NODES)
    for name in ("describe-sb00", "describe-sb01", "rows"):
        group.end(name)
    assert group.spread.nodes == {NODES[1], REDUCER}


def test_a_subband_that_every_node_sees_is_made_where_the_group_is_reduced() -> None:
    group = begun([None, NODES[0]])
    assert group.hands.handed["openpart-sb00"].node == REDUCER
    assert group.spread.nodes == {NODES[0], REDUCER}


@pytest.mark.parametrize("ended", [(), ("open", "openpart-sb01", "part-sb01")])
def test_a_group_that_is_given_up_is_removed_on_every_node(ended: tuple[str, ...]) -> None:
    group = begun(list(NODES))
    for name in ended:
        group.end(name)
    group.spread.discard()
    assert group.hands.loose == [(node, f"drop-sb{i:02d}") for i, node in enumerate(NODES)]
