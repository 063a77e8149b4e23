"""When a group is queued, waited for, or given up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contimg_dask.model import Reason
from contimg_dask.settings import Settings
from contimg_dask.stream.collecting import judge
from tests.integration.catalogue.nouns import make_group

CAME_S = 1_800_000_000.0
SETTINGS = Settings(expected_subbands=4, collecting_timeout_s=600)


def test_a_whole_group_is_queued_at_once() -> None:
    group = make_group(present=(0, 1, 2, 3), expected=4)
    judged = judge(group, CAME_S, CAME_S, SETTINGS)
    assert judged.until_s is None
    assert (judged.arriving.whole, judged.arriving.live) == (True, True)
    assert judged.arriving.complete_s == CAME_S


@pytest.mark.parametrize("minimum", [None, 2, 4])
def test_an_incomplete_group_is_waited_for_to_the_second(minimum: int | None) -> None:
    settings = Settings(expected_subbands=4, collecting_timeout_s=600, min_subbands=minimum)
    group = make_group(present=(0, 2), expected=4)
    waiting = judge(group, CAME_S, CAME_S + 599.9, settings)
    assert waiting.until_s == CAME_S + 600
    assert (waiting.arriving.whole, waiting.arriving.fault) == (False, None)
    over = judge(group, CAME_S, CAME_S + 600, settings)
    assert over.until_s is None
    assert over.arriving.whole is (minimum == 2)
    if minimum != 2:
        assert over.arriving.fault is not None
        assert over.arriving.fault.code == "missing-subbands"
        assert "sb01, sb03" in over.arriving.fault.text
        assert "nothing more came for 600 s" in over.arriving.fault.text


def test_a_fault_is_waited_with_until_every_subband_is_there() -> None:
    """It may be the file that is wrong that goes; what is there may not be all."""
    fault = Reason(code="subbands-disagree", text="a.hdf5: rows 5, but 6")
    some = replace(make_group(present=(0, 1), expected=4), fault=fault)
    assert judge(some, CAME_S, CAME_S, SETTINGS).until_s == CAME_S + 600
    everything = replace(make_group(present=(0, 1, 2, 3), expected=4), fault=fault)
    judged = judge(everything, CAME_S, CAME_S, SETTINGS)
    assert (judged.until_s, judged.arriving.fault) == (None, fault)


def test_a_subband_that_is_there_twice_does_not_stand_for_another() -> None:
    group = make_group(present=(0, 1, 1, 2), expected=4)
    assert judge(group, CAME_S, CAME_S, SETTINGS).until_s == CAME_S + 600


def test_what_is_older_than_an_hour_and_the_wait_is_a_backlog() -> None:
    group = make_group(present=(0, 1, 2, 3), expected=4)
    assert judge(group, CAME_S, CAME_S + 4200, SETTINGS).arriving.live
    assert not judge(group, CAME_S, CAME_S + 4201, SETTINGS).arriving.live
