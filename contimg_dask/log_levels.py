"""From which level on a service logs: as it was started, or as somebody asks meanwhile."""

from __future__ import annotations

import logging
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")

_STARTED_WITH: list[int] = []


def logged_from(level: str | None, before: str | None) -> str | None:
    """Have this process log from a level on, if that is another one than before; return it.

    Parameters
    ----------
    level, before
        One of `LEVELS`, or None as the process was started.
    """
    if level == before:
        return level
    root = logging.getLogger()
    if not _STARTED_WITH:
        _STARTED_WITH.append(root.level)
    number = _STARTED_WITH[0] if level is None else logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    return level
