"""What would be queued: the same as when it is done, and forgotten again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contimg_dask.catalogue.arriving import arrive
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arrived, Arriving
from contimg_dask.discovery import discover, starts_within
from contimg_dask.grouping import group_files
from contimg_dask.model import Group, Reason
from contimg_dask.planning import is_convertible
from contimg_dask.settings import Settings
from contimg_dask.submitting import Backlog, check_range, job_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What would become of a group, and why.

    ``queued``, ``collecting`` (a stream waits for its missing subbands), ``kept`` as it is, or
    ``failed``.
    """

    id: str
    outcome: str
    reason: Reason | None
    present: tuple[int, ...]
    missing: tuple[int, ...]
    bytes_in: int


def whole_or_not(group: Group, settings: Settings) -> Arriving:
    """Return a group as a backlog takes it in: what is not there will not come."""
    fault = is_convertible(group, settings.min_subbands or group.expected, settings.spw)
    return Arriving(group=group, whole=fault is None, fault=fault)


def foresee(
    catalogue: Catalogue | None,
    backlog: Backlog,
    progress: Callable[[int, int], None],
    arriving: Callable[[Group, Settings], Arriving] = whole_or_not,
) -> list[Foreseen]:
    """Read the headers now, and tell what would become of each group.

    Parameters
    ----------
    catalogue
        None where there is none yet.
    backlog
        What would be submitted, or followed.
    progress
        Called with (files done, files in all).
    arriving
        Makes of a group what would be taken in.

    Raises
    ------
    UsageError
        The directory cannot be listed, or the time range is empty.
    """
    check_range(backlog)
    found = discover(
        backlog.input_dir.absolute(),
        start_mjd=backlog.start_mjd,
        end_mjd=backlog.end_mjd,
        progress=progress,
    )
    expected = backlog.settings.expected_subbands
    arrivals = [
        arriving(group, backlog.settings)
        for group in group_files(found.headers, found.unreadable, expected)
        if starts_within(group, backlog.start_mjd, backlog.end_mjd)
    ]
    if catalogue is None:
        return [_foreseen(one, known=None) for one in arrivals]
    # The catalogue takes them in, says what became of each, and forgets about it.
    arrived = arrive(catalogue, job_of(backlog, len(arrivals)), arrivals, dry_run=True)
    return [_foreseen(one, known) for one, known in zip(arrivals, arrived, strict=True)]


def _foreseen(coming: Arriving, known: Arrived | None) -> Foreseen:
    group, reason = coming.group, coming.fault
    outcome = "queued" if coming.whole else "collecting" if reason is None else "failed"
    if known is not None and not known.changed:
        text = f"it is {known.state} in the catalogue"
        outcome, reason = "kept", Reason(code=f"is-{known.state}", text=text)
    return Foreseen(
        id=group.id if known is None else known.id,
        outcome=outcome,
        reason=reason,
        present=group.present,
        missing=group.missing,
        bytes_in=group.bytes_in,
    )


def document_of(found: Sequence[Foreseen]) -> dict[str, Any]:
    """Return it for scripts."""
    return {"schema": "contimg-dask.foreseen/1", "groups": [asdict(group) for group in found]}


def lines_of(found: Sequence[Foreseen]) -> list[str]:
    """Return it for people."""
    width = max([8, *(len(group.outcome) for group in found)])
    lines = []
    for group in found:
        why = "" if group.reason is None else f"  [{group.reason.code}] {group.reason.text}"
        if group.outcome == "collecting":
            why = "  waits for " + ", ".join(f"sb{number:02d}" for number in group.missing)
        lines.append(f"{group.outcome:{width}} {group.id}  {len(group.present)} subband(s){why}")
    queued = sum(group.outcome == "queued" for group in found)
    return [*lines, f"{queued} of {len(found)} group(s) would be queued"]
