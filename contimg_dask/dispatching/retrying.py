"""What follows a failed attempt, decided by the class of its error: numbers in, verdict out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contimg_dask.errors import (
    CancelledError,
    ContimgError,
    ExchangeError,
    InputError,
    SchedulerLostError,
    TargetOccupiedError,
    UsageError,
)

MOST_ATTEMPTS = 4
"""Attempts a group has before it is set aside; the death of a worker is one."""

MOST_INTERRUPTIONS = 10
"""Attempts that may end with their scheduler or dispatcher: one that ends them all is set aside."""

_DELAY_FACTORS = (1.0, 6.0, 30.0)

_HOPELESS = (TargetOccupiedError, ExchangeError, UsageError)
"""What waits for a person: trying again finds the same."""

After = Literal["failed", "quarantined", "cancelled", "queued"]


def retry_delays(first_s: float) -> tuple[float, ...]:
    """Return the wait before the second, third and fourth attempt [s], of the first of them."""
    return tuple(first_s * factor for factor in _DELAY_FACTORS)


RETRY_DELAYS_S = retry_delays(10.0)
"""What is waited for unless the settings say otherwise [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The state that follows; ``counted`` whether an attempt is used up, ``delay_s`` until the next."""

    state: After
    counted: bool = True
    delay_s: float = 0.0


def judge(
    error: ContimgError,
    *,
    attempts: int,
    interruptions: int,
    delays_s: tuple[float, ...] = RETRY_DELAYS_S,
) -> Verdict:
    """Return what follows an attempt that ended with an error.

    Parameters
    ----------
    error
        Its class decides, never its text.
    attempts, interruptions
        How many the group has had, this one not counted.
    delays_s
        Wait before each further attempt [s]; the last one goes for all that follow.
    """
    if isinstance(error, CancelledError):
        return Verdict(state="cancelled", counted=False)
    if isinstance(error, InputError):
        return Verdict(state="failed")
    if isinstance(error, SchedulerLostError):
        # Not the group's doing, unless it happens every time.
        if interruptions + 1 >= MOST_INTERRUPTIONS:
            return Verdict(state="quarantined", counted=False)
        return Verdict(state="queued", counted=False)
    if isinstance(error, _HOPELESS) or attempts + 1 >= MOST_ATTEMPTS:
        return Verdict(state="quarantined")
    return Verdict(state="queued", delay_s=delays_s[min(attempts, len(delays_s) - 1)])
