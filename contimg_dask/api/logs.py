"""Log lines of the web interface, and the level that people ask for."""

from __future__ import annotations

import logging

_STARTED_WITH = logging.WARNING


def set_up_logs() -> None:
    """Write log lines to standard error; requests are not among them, nor is any token."""
    logging.basicConfig(
        level=_STARTED_WITH, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def apply_log_level(level: str | None) -> None:
    """Log from this level on; None as it was started."""
    number = _STARTED_WITH if level is None else logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(number)
    logging.getLogger("uvicorn.error").setLevel(number)
