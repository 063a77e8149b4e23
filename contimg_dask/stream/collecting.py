"""When a group is queued, waited for, or given up."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from contimg_dask.catalogue.records import Arriving
from contimg_dask.model import Group
from contimg_dask.planning import is_convertible
from contimg_dask.settings import Settings
from contimg_dask.stream.listing import look_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A group as it enters the queue; ``until_s`` is when it is judged again, None when never."""

    arriving: Arriving
    until_s: float | None


def judge(group: Group, arrived_s: float, now_s: float, settings: Settings) -> Judged:
    """Return what becomes of a group with the files it has now.

    Parameters
    ----------
    group
        Readable and unreadable files.
    arrived_s
        When the last of them came [s since 1970].
    now_s
        The time now [s since 1970].
    settings
        Of the stream: how many subbands, and how long missing ones are waited for.
    """
    whole_band = len(set(group.present)) >= group.expected
    deadline_s = arrived_s + settings.collecting_timeout_s
    if not whole_band and now_s < deadline_s:
        waiting = Arriving(group=group, whole=False, live=_is_live(arrived_s, now_s, settings))
        return Judged(arriving=waiting, until_s=deadline_s)
    fault = is_convertible(group, settings.min_subbands or group.expected, settings.spw)
    if fault is not None and fault.code == "missing-subbands":
        waited_s = settings.collecting_timeout_s
        fault = replace(fault, text=f"{fault.text}; nothing more came for {waited_s} s")
    arriving = Arriving(
        group=group,
        whole=fault is None,
        fault=fault,
        live=_is_live(arrived_s, now_s, settings),
        complete_s=arrived_s,
    )
    return Judged(arriving=arriving, until_s=None)


def arriving_now(group: Group, settings: Settings) -> Arriving:
    """Return what becomes of a group at this moment, by the times of its files."""
    paths = [s.header.path for s in group.subbands] + [file.path for file in group.unreadable]
    arrived_s = [seen.arrived_s for _, seen in look_at(paths) if seen is not None]
    now_s = time.time()
    return judge(group, max(arrived_s, default=now_s), now_s, settings).arriving


def _is_live(arrived_s: float, now_s: float, settings: Settings) -> bool:
    """Tell whether a group goes before backlogs: what an outage has left is one."""
    return now_s - arrived_s <= settings.live_within_s + settings.collecting_timeout_s
