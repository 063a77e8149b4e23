"""The names of tasks: what Dask's dashboard groups by, and what tells one of ours from others.

The dashboard puts tasks together by the words at the front of their keys, up to the first that is
not of letters alone. The name of an attempt begins with the group's id, hence with a digit, so
these words are the step, and ``live`` before it where nobody should have to wait::

    part-2025-10-05T03:12:06.1.0a1b2c3d-sb07
    live-part-2025-10-05T03:12:06.1.0a1b2c3d-sb07
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LIVE = "live-"
_KEY = re.compile(
    r"(?P<live>live-)?(?P<step>[a-z]+)-(?P<attempt>.+\.\d+\.[0-9a-z]+)(?:-(?P<detail>\w+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKey:
    """What the key of one of our tasks says; ``detail`` is the subband, where there is one."""

    step: str
    attempt: str
    live: bool = False
    detail: str | None = None

    @property
    def group_id(self) -> str:
        """The group that the attempt is at."""
        return self.attempt.rsplit(".", 2)[0]


def key_of(attempt: str, step: str, *, live: bool = False) -> str:
    """Return the key of a step: ``step`` is its name, such as ``reduce`` or ``part-sb07``."""
    kind, _, detail = step.partition("-")
    key = f"{_LIVE if live else ''}{kind}-{attempt}"
    return f"{key}-{detail}" if detail else key


def read_key(key: object) -> TaskKey | None:
    """Return what a key says; None for a task that is not ours."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None:
        return None
    return TaskKey(
        step=match["step"],
        attempt=match["attempt"],
        live=match["live"] is not None,
        detail=match["detail"],
    )
