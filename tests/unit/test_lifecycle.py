"""The states of a group as the contract has them, and what a group that comes again does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_dask.lifecycle import (
    FINAL,
    MOVES,
    OPEN,
    STATES,
    Arrival,
    State,
    arrival,
    is_allowed,
    sources_of,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "catalogue.md"

# What the contract says, written down a second time.
CONTRACT = {
    ("collecting", "queued"),
    ("collecting", "failed"),
    ("collecting", "cancelled"),
    ("queued", "running"),
    ("queued", "cancelled"),
    ("running", "published"),
    ("running", "failed"),
    ("running", "quarantined"),
    ("running", "cancelled"),
    ("running", "queued"),
    ("published", "removed"),
}
# A move that would lose a product or an attempt, or begin work nobody has claimed.
FORBIDDEN = {
    ("published", "running"),
    ("published", "failed"),
    ("published", "cancelled"),
    ("published", "collecting"),
    ("removed", "running"),
    ("failed", "running"),
    ("quarantined", "running"),
    ("cancelled", "running"),
    ("running", "collecting"),
    ("running", "removed"),
    ("collecting", "running"),
}


def test_every_move_of_the_contract_is_allowed_and_no_move_that_loses_anything() -> None:
    moves = {(before, after) for before, allowed in MOVES.items() for after in allowed}
    assert moves >= CONTRACT
    assert not moves & FORBIDDEN
    assert all(before != after for before, after in moves)


def test_every_state_can_be_reached_and_every_final_one_left_again() -> None:
    assert set(MOVES) == set(STATES) == FINAL | OPEN
    assert not FINAL & OPEN
    assert {after for allowed in MOVES.values() for after in allowed} == set(STATES) - {
        "collecting"
    }
    assert all("queued" in MOVES[state] for state in FINAL)


@given(st.sampled_from(STATES), st.sampled_from(STATES))
def test_sources_and_moves_are_the_same_table_from_both_sides(before: State, after: State) -> None:
    assert is_allowed(before, after) == (before in sources_of(after))


@pytest.mark.parametrize(
    ("state", "whole", "same_files", "expected"),
    [
        (None, True, False, "queue"),
        (None, False, False, "collect"),
        ("collecting", True, False, "queue"),
        ("collecting", True, True, "queue"),
        ("collecting", False, False, "refresh"),
        ("collecting", False, True, "keep"),
        ("queued", True, False, "refresh"),
        ("queued", True, True, "keep"),
        ("queued", False, False, "keep"),
        ("running", True, False, "keep"),
        ("published", True, False, "keep"),
        ("removed", True, False, "keep"),
        ("failed", True, False, "queue"),
        ("failed", True, True, "keep"),
        ("failed", False, False, "refresh"),
        ("quarantined", True, False, "queue"),
        ("quarantined", True, True, "keep"),
        ("cancelled", True, True, "queue"),
        ("cancelled", False, True, "keep"),
    ],
)
def test_what_a_group_does_that_comes(
    state: State | None, whole: bool, same_files: bool, expected: Arrival
) -> None:
    assert arrival(state, whole=whole, same_files=same_files) == expected


flags = st.fixed_dictionaries(
    {
        name: st.booleans()
        for name in ("whole", "same_files", "replace", "faulty", "again", "untried")
    }
)


@given(st.sampled_from(("published", "removed")), flags)
def test_only_a_first_request_to_replace_moves_a_published_group_back(
    state: State, how: dict[str, bool]
) -> None:
    asked = how["replace"] and how["whole"] and not how["again"]
    assert arrival(state, **how) == ("queue" if asked else "keep")


@given(st.sampled_from((None, *STATES)), flags)
def test_whatever_comes_asks_for_allowed_moves_only(
    state: State | None, how: dict[str, bool]
) -> None:
    found = arrival(state, **how)
    after = {"queue": "queued", "collect": "collecting", "fail": "failed"}.get(found)
    if state is None:
        assert after is not None
        assert (after == "queued") == how["whole"]
    elif after is not None:
        assert is_allowed(state, after)  # type: ignore[arg-type]
    if not how["whole"]:
        assert found != "queue"
    if state == "running":
        assert found == "keep"


def test_a_group_with_nothing_more_to_wait_for_fails_unless_it_is_known_to_be_whole() -> None:
    assert arrival(None, whole=False, same_files=False, faulty=True) == "fail"
    assert arrival("collecting", whole=False, same_files=True, faulty=True) == "fail"
    assert arrival("queued", whole=False, same_files=False, faulty=True) == "keep"
    assert arrival("published", whole=False, same_files=False, faulty=True) == "keep"


def test_reading_a_job_twice_asks_for_nothing_new() -> None:
    assert arrival("cancelled", whole=True, same_files=True, again=True) == "keep"
    again = {"same_files": True, "again": True, "replace": True, "untried": True}
    for state in FINAL:
        assert arrival(state, whole=True, **again) == "keep"


def test_a_group_that_failed_by_the_rules_of_its_job_is_queued_by_milder_ones() -> None:
    assert arrival("failed", whole=True, same_files=True, untried=True) == "queue"
    assert arrival("quarantined", whole=True, same_files=True, untried=True) == "keep"


def test_the_table_of_moves_in_the_document_is_the_one_of_the_program() -> None:
    text = DOCUMENT.read_text().split("\n## States\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    assert {state: frozenset(re.findall(r"`(\w+)`", moves)) for state, moves in rows} == MOVES
