"""Which files are finished, and when the others are looked at again: pure, told what is seen when.

Times are seconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 600.0
REPORT_AFTER_S = 120.0
"""A file that has not been good for so long is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a directory says of a file: size [bytes], last change of content and of anything [ns]."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @property
    def stat(self) -> tuple[int, int]:
        """What remembered headers go by."""
        return self.size_bytes, self.mtime_ns

    @property
    def arrived_s(self) -> float:
        """When it got its name, or its last byte, whichever came later."""
        return max(self.ctime_ns, self.mtime_ns) / 1e9


def settled_s(seen: Seen, first_seen_s: float, settle_s: float) -> float:
    """Return when a file may be taken for finished, if it does not change until then.

    A file that was renamed, or had its times set, after the last byte was written is finished: that
    is how it is moved into place. Otherwise it has to rest.
    """
    if seen.ctime_ns > seen.mtime_ns:
        return first_seen_s
    # A clock that is ahead of this one would make a file wait for ever.
    return min(seen.mtime_ns / 1e9, first_seen_s) + settle_s


@dataclass(slots=True, kw_only=True)
class _Waiting:
    seen: Seen
    look_s: float
    looks: int = 0
    bad_since_s: float | None = None
    reported: bool = False


class Tracker:
    """Keeps account of every file of a directory: waiting to be looked at, or done with.

    Parameters
    ----------
    settle_s
        How long a file has to rest that was not renamed into its place [s].
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._waiting: dict[str, _Waiting] = {}
        self._done: dict[str, tuple[int, int]] = {}

    @property
    def waiting(self) -> int:
        """Number of files that are not good, or not yet."""
        return len(self._waiting)

    @property
    def fresh(self) -> int:
        """Number of files that were never looked at as they are now."""
        return sum(one.looks == 0 for one in self._waiting.values())

    @property
    def files(self) -> int:
        """Number of files in all."""
        return len(self._waiting) + len(self._done)

    @property
    def paths(self) -> set[str]:
        """Every file."""
        return self._waiting.keys() | self._done.keys()

    def see(self, path: str, seen: Seen, now_s: float, *, renamed: bool = False) -> bool:
        """Take note of a file as it is now; tell whether it is new, or has changed.

        ``renamed`` when it was just moved into its place, so that it need not rest.
        """
        waiting = self._waiting.get(path)
        before = self._done.get(path) if waiting is None else waiting.seen.stat
        if before == seen.stat:
            if waiting is not None and not waiting.looks:
                # It may have been renamed, or touched, since.
                waiting.seen = seen
                waiting.look_s = min(waiting.look_s, self._look_s(seen, now_s, renamed))
            return False
        self._done.pop(path, None)
        look_s = self._look_s(seen, now_s, renamed)
        self._waiting[path] = _Waiting(seen=seen, look_s=look_s)
        return True

    def _look_s(self, seen: Seen, now_s: float, renamed: bool) -> float:
        return now_s if renamed else settled_s(seen, now_s, self._settle_s)

    def gone(self, path: str) -> bool:
        """Forget a file that is not there any more; tell whether it was known."""
        known = self._waiting.pop(path, None) is not None
        return self._done.pop(path, None) is not None or known

    def due(self, now_s: float) -> list[tuple[str, Seen]]:
        """Return the files that are to be looked at now, in order of name, so of time."""
        # A clock that was set back must not put a file off for longer than the longest delay.
        latest_s = now_s + _LONGEST_DELAY_S
        found = [
            (path, one.seen)
            for path, one in self._waiting.items()
            if one.look_s <= now_s or one.look_s > latest_s
        ]
        return sorted(found, key=lambda item: item[0])

    def next_look_s(self) -> float | None:
        """Return when the next file is due; None where nothing waits."""
        return min((one.look_s for one in self._waiting.values()), default=None)

    def is_first_look(self, path: str) -> bool:
        """Tell whether a file has not been looked at as it is now."""
        return self._waiting[path].looks == 0

    def good(self, path: str) -> None:
        """Be done with a file until it changes."""
        waiting = self._waiting.pop(path, None)
        if waiting is not None:
            self._done[path] = waiting.seen.stat

    def bad(self, path: str, now_s: float) -> bool:
        """Have a file looked at again, later each time; tell whether it is time to report it."""
        waiting = self._waiting[path]
        waiting.looks += 1
        if waiting.bad_since_s is None:
            waiting.bad_since_s = now_s
        delay_s = min(_FIRST_DELAY_S * 2.0 ** min(waiting.looks - 1, 30), _LONGEST_DELAY_S)
        waiting.look_s = now_s + delay_s
        report = not waiting.reported and self._is_old(waiting, now_s)
        waiting.reported = waiting.reported or report
        return report

    @staticmethod
    def _is_old(waiting: _Waiting, now_s: float) -> bool:
        assert waiting.bad_since_s is not None  # set by the caller
        # Of a file that was bad long before it was first seen there is nothing to wait for.
        return now_s - min(waiting.bad_since_s, waiting.seen.arrived_s) >= REPORT_AFTER_S
