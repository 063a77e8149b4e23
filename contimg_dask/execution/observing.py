"""Let somebody watch the steps that run in this process; by default nobody does.

Steps know only this module. What watches them is put here by a preload, hears of every step from
the thread it runs in, and can neither change nor fail it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from contimg_dask.model import Attempt, ConversionPlan

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("distributed.contimg")


class Observer(Protocol):
    """Hears of every step of this process."""

    def step_began(self, plan: ConversionPlan, attempt: Attempt, step: str) -> None:
        """A step begins, on a plan with this node's own tiers."""

    def step_done(
        self, plan: ConversionPlan, attempt: Attempt, step: str, seconds: float, result: object
    ) -> None:
        """A step is done, and returns this result."""

    def step_failed(
        self, plan: ConversionPlan, attempt: Attempt, step: str, seconds: float, error: Exception
    ) -> None:
        """A step ends with an error, which goes on to whoever waits for it."""


_OBSERVERS: list[Observer] = []


def observe_with(observer: Observer) -> None:
    """Let this one hear of all steps from now on; asking twice is harmless."""
    if observer not in _OBSERVERS:
        _OBSERVERS.append(observer)


def observe_no_more(observer: Observer) -> None:
    """Tell it nothing any more."""
    if observer in _OBSERVERS:
        _OBSERVERS.remove(observer)


def observed(
    name: str,
) -> Callable[
    [Callable[Concatenate[ConversionPlan, Attempt, P], R]],
    Callable[Concatenate[ConversionPlan, Attempt, P], R],
]:
    """Let a step be heard of under this name."""

    def decorate(
        step: Callable[Concatenate[ConversionPlan, Attempt, P], R],
    ) -> Callable[Concatenate[ConversionPlan, Attempt, P], R]:
        @functools.wraps(step)
        def run(
            plan: ConversionPlan, attempt: Attempt, /, *arguments: P.args, **options: P.kwargs
        ) -> R:
            if not _OBSERVERS:
                return step(plan, attempt, *arguments, **options)
            began_s = time.monotonic()
            _tell("step_began", plan, attempt, name)
            try:
                result = step(plan, attempt, *arguments, **options)
            except Exception as error:
                _tell("step_failed", plan, attempt, name, time.monotonic() - began_s, error)
                raise
            _tell("step_done", plan, attempt, name, time.monotonic() - began_s, result)
            return result

        return run

    return decorate


def _tell(event: str, *facts: Any) -> None:
    for observer in list(_OBSERVERS):
        try:
            getattr(observer, event)(*facts)
        except Exception:
            # A conversion never fails because of who watches it.
            log.warning("%s of an observer failed", event, exc_info=True)
