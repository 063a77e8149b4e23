"""The names of tasks: how Dask's dashboard puts them together, and how they are read back."""

from __future__ import annotations

from dask.utils import key_split

from contimg_dask.execution.keys import TaskKey, key_of, read_key

ATTEMPT = "2025-10-05T03:12:06.1.0a1b2c3d"


def test_the_dashboard_groups_by_step_and_tells_live_from_backlog() -> None:
    steps = ["open", "rows", "part-sb00", "part-sb15", "place-sb03", "reduce", "group"]
    for letters in ("abcdefab", "0a1b2c3d", "aaaaaaaa"):
        attempt = ATTEMPT.replace("0a1b2c3d", letters)
        for step in steps:
            kind = step.partition("-")[0]
            assert key_split(key_of(attempt, step)) == kind
            assert key_split(key_of(attempt, step, live=True)) == f"live-{kind}"
    assert key_split(key_of(ATTEMPT, "discard-deadbeef")) == "discard"


def test_the_keys_of_an_attempt_begin_as_people_look_for_them() -> None:
    assert key_of(ATTEMPT, "part-sb07") == f"part-{ATTEMPT}-sb07"
    assert key_of(ATTEMPT, "part-sb07", live=True) == f"live-part-{ATTEMPT}-sb07"
    assert key_of(ATTEMPT, "reduce") == f"reduce-{ATTEMPT}"


def test_a_key_says_what_it_was_made_of() -> None:
    for live in (False, True):
        found = read_key(key_of(ATTEMPT, "part-sb07", live=live))
        assert found == TaskKey(step="part", attempt=ATTEMPT, live=live, detail="sb07")
        assert found.group_id == "2025-10-05T03:12:06"
    other = "my-own-file.v2.12.00000000"
    assert read_key(key_of(other, "reduce")) == TaskKey(step="reduce", attempt=other)


def test_tasks_of_others_are_nobodys() -> None:
    for key in ("sum-0123456789abcdef", ("x-1", 0), b"part", "", "live-part", 7, None):
        assert read_key(key) is None
