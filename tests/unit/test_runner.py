"""What came of an attempt, as its last future tells it."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from contimg_dask.errors import InputError, SchedulerLostError, WorkerLostError
from contimg_dask.execution.runner import _outcome


class Told:
    """A future as far as its outcome is asked for."""

    def __init__(self, status: str, answer: BaseException | object) -> None:
        self.status = status
        self._answer = answer

    def result(self, timeout: float | None = None) -> object:
        del timeout
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    exception = result


@pytest.mark.parametrize(
    "broken", [CommClosedError("in <TCP>: Stream is closed"), OSError("Timed out"),
               FutureCancelledError("reduce-x", "lost")],
)  # fmt: skip
def test_a_connection_that_breaks_under_the_result_is_the_loss_of_the_scheduler(
    broken: BaseException,
) -> None:
    future: Any = Told("finished", broken)
    product, error = _outcome(future)
    assert product is None
    assert type(error) is SchedulerLostError


def test_a_future_that_is_lost_is_not_asked() -> None:
    future: Any = Told("lost", AssertionError("the answer would never come"))
    assert isinstance(_outcome(future)[1], SchedulerLostError)


def test_an_error_of_ours_is_passed_on() -> None:
    class Failed(Told):
        def exception(self) -> object:
            return self._answer

    future: Any = Failed("error", InputError("broken"))
    product, error = _outcome(future)
    assert product is None
    assert type(error) is InputError


def test_a_result_that_does_not_come_means_that_its_node_is_lost() -> None:
    future: Any = Told("finished", TimeoutError())
    assert type(_outcome(future)[1]) is WorkerLostError


def test_a_worker_that_dies_with_the_result_in_its_hands_is_lost() -> None:
    """Dask then runs the steps again, and a second death comes out of the asking itself."""
    dead = KilledWorker("reduce-x", WorkerState("tcp://10.0.0.5:4000"), 0)
    future: Any = Told("finished", dead)
    product, error = _outcome(future)
    assert product is None
    assert type(error) is WorkerLostError
    assert "10.0.0.5" in str(error)


class WorkerState:
    """A worker as far as its death is told."""

    def __init__(self, address: str) -> None:
        self.address = address
