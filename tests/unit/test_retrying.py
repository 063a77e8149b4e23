"""What follows a failed attempt, as a table: the class of the error decides, never its text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_dask.dispatching.retrying import (
    MOST_ATTEMPTS,
    MOST_INTERRUPTIONS,
    RETRY_DELAYS_S,
    Verdict,
    judge,
)
from contimg_dask.errors import (
    AttemptGoneError,
    CancelledError,
    ClusterError,
    ContimgError,
    DisagreementError,
    ExchangeError,
    InputError,
    NoSpaceError,
    OutputError,
    SchedulerLostError,
    TargetOccupiedError,
    UsageError,
    VerificationError,
    WorkerLostError,
)

FAULTS_OF_THE_INPUT = (InputError, DisagreementError)
WAITS_FOR_PEOPLE = (TargetOccupiedError, ExchangeError, UsageError)
WORTH_ANOTHER_TRY = (
    AttemptGoneError,
    ClusterError,
    ContimgError,
    NoSpaceError,
    OutputError,
    VerificationError,
    WorkerLostError,
)
EVERY = (
    *FAULTS_OF_THE_INPUT,
    *WAITS_FOR_PEOPLE,
    *WORTH_ANOTHER_TRY,
    CancelledError,
    SchedulerLostError,
)
counts = st.integers(0, 50)


@pytest.mark.parametrize("error", FAULTS_OF_THE_INPUT)
def test_a_fault_of_the_input_fails_at_once(error: type[ContimgError]) -> None:
    assert judge(error(), attempts=0, interruptions=0) == Verdict(state="failed")


@pytest.mark.parametrize("error", WAITS_FOR_PEOPLE)
def test_what_waits_for_a_person_is_set_aside_at_once(error: type[ContimgError]) -> None:
    assert judge(error(), attempts=0, interruptions=0) == Verdict(state="quarantined")


@pytest.mark.parametrize("error", WORTH_ANOTHER_TRY)
def test_all_else_is_tried_four_times_with_a_growing_wait_in_between(
    error: type[ContimgError],
) -> None:
    verdicts = [judge(error(), attempts=before, interruptions=0) for before in range(4)]
    assert verdicts == [
        Verdict(state="queued", delay_s=10.0),
        Verdict(state="queued", delay_s=60.0),
        Verdict(state="queued", delay_s=300.0),
        Verdict(state="quarantined"),
    ]


def test_the_delays_grow() -> None:
    assert all(earlier < later for earlier, later in itertools.pairwise(RETRY_DELAYS_S))
    assert len(RETRY_DELAYS_S) == MOST_ATTEMPTS - 1


def test_fewer_delays_than_attempts_repeat_the_last_one() -> None:
    verdict = judge(WorkerLostError(), attempts=2, interruptions=0, delays_s=(1.0, 2.0))
    assert verdict == Verdict(state="queued", delay_s=2.0)


def test_the_loss_of_the_scheduler_uses_no_attempt_up() -> None:
    verdict = judge(SchedulerLostError(), attempts=3, interruptions=0)
    assert verdict == Verdict(state="queued", counted=False, delay_s=0.0)


def test_a_group_that_ends_with_its_scheduler_ten_times_is_set_aside() -> None:
    before, last = (
        judge(SchedulerLostError(), attempts=0, interruptions=number)
        for number in (MOST_INTERRUPTIONS - 2, MOST_INTERRUPTIONS - 1)
    )
    assert (before.state, last) == ("queued", Verdict(state="quarantined", counted=False))


@given(attempts=counts, interruptions=counts)
def test_a_cancelled_group_is_cancelled_whatever_was_before(
    attempts: int, interruptions: int
) -> None:
    verdict = judge(CancelledError(), attempts=attempts, interruptions=interruptions)
    assert verdict == Verdict(state="cancelled", counted=False)


@given(
    error=st.sampled_from(EVERY), text=st.text(), code=st.text(min_size=1),
    attempts=counts, interruptions=counts,
)  # fmt: skip
def test_neither_text_nor_code_of_an_error_changes_what_follows(
    error: type[ContimgError], text: str, code: str, attempts: int, interruptions: int
) -> None:
    before = {"attempts": attempts, "interruptions": interruptions}
    assert judge(error(text, code=code), **before) == judge(error(), **before)


@given(errors=st.lists(st.sampled_from(EVERY), min_size=14, max_size=14))
def test_no_group_is_tried_for_ever(errors: list[type[ContimgError]]) -> None:
    attempts = interruptions = 0
    for error in errors:
        verdict = judge(error(), attempts=attempts, interruptions=interruptions)
        if verdict.state != "queued":
            break
        attempts += verdict.counted
        interruptions += not verdict.counted
    assert verdict.state != "queued"
    assert attempts < MOST_ATTEMPTS
    assert interruptions < MOST_INTERRUPTIONS
