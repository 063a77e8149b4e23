"""Groups whose files lie on a node that is gone: they wait for it, then go on without it, by rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from contimg_dask.model import Group

_LOOK_AGAIN_AFTER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A group that is to be looked at again at ``when_s`` [monotonic s]; others go before it."""

    when_s: float


def homes_of(group: Group) -> set[str]:
    """Return the nodes a group's files lie on, by IP; none where every node sees them."""
    return {s.header.node for s in group.subbands if s.header.node is not None}


class Absence:
    """Remembers since when nodes are gone, as far as groups have asked for them.

    Parameters
    ----------
    clock
        Tells the time [monotonic s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s: dict[str, float] = {}

    def judge(self, group: Group, present: Collection[str], wait_s: float) -> Group | Later:
        """Return the group as it can be converted now, or that it has to wait.

        Parameters
        ----------
        group
            As it was recorded.
        present
            Nodes that are there, by IP.
        wait_s
            How long a node is waited for [s].

        Returns
        -------
        Group or Later
            The group itself where no node of it is gone. When one is gone for too long, the group
            without its files, and a note that says so: whether that is enough is decided as for any
            other incomplete group.
        """
        for node in present:
            self._since_s.pop(node, None)
        gone = sorted(homes_of(group) - set(present))
        if not gone:
            return group
        now_s = self._clock()
        waited_s = min(now_s - self._since_s.setdefault(node, now_s) for node in gone)
        if waited_s < wait_s:
            return Later(when_s=now_s + min(_LOOK_AGAIN_AFTER_S, wait_s - waited_s))
        return _without(group, gone, waited_s)


def _without(group: Group, gone: Collection[str], waited_s: float) -> Group:
    lost = [subband.name for subband in group.subbands if subband.header.node in gone]
    note = (
        f"{', '.join(sorted(lost))} left out: on node {', '.join(sorted(gone))}, which had been gone "
        f"for {waited_s:.0f} s"
    )
    kept = tuple(subband for subband in group.subbands if subband.header.node not in gone)
    return replace(group, subbands=kept, notes=(*group.notes, note))
