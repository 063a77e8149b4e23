"""What services say: a sentence for people, and the same as fields for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from contimg_dask.settings.fields import LogFormat


class Say(Protocol):
    """Takes a sentence, and what it is about: ``action`` names what happened, in kebab-case."""

    def __call__(self, text: str, /, **fields: object) -> None:
        """Say it."""


class LogLines:
    """Writes a line per sentence: the time and the sentence, or all of it as a JSON object.

    Parameters
    ----------
    log_format
        ``text`` leaves the fields out, ``json`` has them beside ``time`` and ``message``.
    write
        Takes a line, without its end. Called from several threads.
    """

    def __init__(self, log_format: LogFormat, write: Callable[[str], None]) -> None:
        self._as_json = log_format == "json"
        self._write = write

    def __call__(self, text: str, /, **fields: object) -> None:
        """Write a line."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._as_json:
            self._write(json.dumps({"time": moment, "message": text, **fields}, default=str))
        else:
            self._write(f"{moment} {text}")
