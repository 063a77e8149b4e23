"""Errors say what is wrong, and say the same in another process."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

from contimg_dask import errors
from contimg_dask.errors import ContimgError


def kinds(kind: type[ContimgError] = ContimgError) -> Iterator[type[ContimgError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds(child)


ALL = sorted(set(kinds()), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ALL)
def test_an_error_is_the_same_in_another_process(kind: type[ContimgError], protocol: int) -> None:
    error = kind("sb03: 12 of 16 MB: send it again", code="truncated", path="/in/sb03")
    arrived = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
    assert type(arrived) is kind
    assert str(arrived) == "sb03: 12 of 16 MB: send it again"
    assert (arrived.code, arrived.path) == ("truncated", "/in/sb03")
    assert arrived.retryable == kind.retryable


@pytest.mark.parametrize("kind", ALL)
def test_an_error_arrives_with_the_code_and_message_of_its_class_when_it_got_no_other(
    kind: type[ContimgError],
) -> None:
    arrived = copy.copy(kind())
    assert type(arrived) is kind
    assert (arrived.code, arrived.path) == (kind.code, None)
    assert str(arrived) == (kind.__doc__ or "").splitlines()[0]
    assert str(arrived).endswith(".")


def test_every_kind_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in ALL]
    assert sorted(codes) == sorted(set(codes))
    assert all(code == code.lower().replace("_", "-").replace(" ", "-") for code in codes)


def test_only_losses_of_the_machinery_are_worth_another_try() -> None:
    assert [kind for kind in ALL if kind.retryable] == [
        errors.AttemptGoneError,
        errors.SchedulerLostError,
        errors.WorkerLostError,
    ]


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        (errors.DisagreementError, errors.InputError),
        (errors.NoSpaceError, errors.OutputError),
        (errors.TargetOccupiedError, errors.OutputError),
    ],
)
def test_a_special_error_is_caught_as_its_general_kind(
    kind: type[ContimgError], parent: type[ContimgError]
) -> None:
    with pytest.raises(parent) as caught:
        raise kind("said")
    assert caught.value.code == kind.code
