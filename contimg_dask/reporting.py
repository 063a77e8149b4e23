"""What a command reports: the JSON document for scripts, and its exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from contimg_dask.model import GroupRecord

SCHEMA = "contimg-dask.report/1"
OUTCOMES = ("published", "skipped", "failed", "incomplete", "planned")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOTHING = 3
EXIT_INTERRUPTED = 130


def report(
    command: str, records: Sequence[GroupRecord], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return the document that ``--json`` prints (docs/json.md).

    Parameters
    ----------
    command
        The subcommand.
    records
        One per group.
    seconds
        Wall-clock seconds of the command's own steps.
    """
    count = Counter[str](record.outcome for record in records)
    return {
        "schema": SCHEMA,
        "command": command,
        "counts": {"groups": len(records)} | {name: count[name] for name in OUTCOMES},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "groups": [record.to_json() for record in sort_records(records)],
    }


def sort_records(records: Sequence[GroupRecord]) -> list[GroupRecord]:
    """Return records in time order; the id is a stamp, so it sorts by time."""
    return sorted(records, key=lambda record: record.id)


def exit_code(records: Sequence[GroupRecord], *, strict: bool) -> int:
    """Return 1 when anything failed, 3 when there was no complete group, else 0.

    With ``strict`` an incomplete group counts as failed.
    """
    outcomes = {record.outcome for record in records}
    if "failed" in outcomes or (strict and "incomplete" in outcomes):
        return EXIT_FAILED
    if not outcomes - {"incomplete"}:
        return EXIT_NOTHING
    return EXIT_OK
