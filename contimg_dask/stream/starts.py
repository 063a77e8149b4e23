"""Which files start together: an index of paths by the start time in their headers. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

NEAR_MS = 720_000
"""What lies further apart cannot belong together: names are up to 600 s off, and reach 120 s."""


class Starts:
    """Paths of readable files by start [ms since 1970]."""

    def __init__(self) -> None:
        self._ordered: list[int] = []
        self._paths: dict[int, set[str]] = {}
        self._start_of: dict[str, int] = {}

    def __contains__(self, start_ms: int) -> bool:
        return start_ms in self._paths

    def put(self, path: str, start_ms: int) -> int | None:
        """Put a file where it starts; return where it was before, if it was elsewhere."""
        before = self._start_of.get(path)
        if before == start_ms:
            return None
        if before is not None:
            self.remove(path)
        if start_ms not in self._paths:
            insort(self._ordered, start_ms)
            self._paths[start_ms] = set()
        self._paths[start_ms].add(path)
        self._start_of[path] = start_ms
        return before

    def remove(self, path: str) -> int | None:
        """Forget a file; return where it was."""
        start_ms = self._start_of.pop(path, None)
        if start_ms is None:
            return None
        paths = self._paths[start_ms]
        paths.discard(path)
        if not paths:
            del self._paths[start_ms]
            del self._ordered[bisect_left(self._ordered, start_ms)]
        return start_ms

    def near(self, start_ms: int, within_ms: int = NEAR_MS) -> list[int]:
        """Return the starts that lie so near, in order."""
        first = bisect_left(self._ordered, start_ms - within_ms)
        return self._ordered[first : bisect_right(self._ordered, start_ms + within_ms)]

    def paths(self, starts: Iterable[int]) -> list[str]:
        """Return the files of these starts, in order of name."""
        return sorted(path for start in starts for path in self._paths.get(start, ()))
