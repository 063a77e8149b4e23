"""Answers that many ask for: found out now and then, by one at a time, and given to all."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_COST_FACTOR = 10.0
"""An answer that took long is kept so many times longer: asking may take a tenth of the time."""
_STALE_FACTOR = 5.0


class _Kept(Generic[Value]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answer: tuple[Value, float, float] | None = None  # value, when, what it took


class Remembered(Generic[Key, Value]):
    """Remembers what a question was answered with. Safe under threads.

    Who asks while another one is finding out gets the last answer, unless that is too old: then
    all wait for the same new one.

    Parameters
    ----------
    ask
        Finds the answer for a key, which is not None.
    fresh_s
        How long an answer is good [s].
    most
        So many keys are remembered, the last used ones.
    """

    def __init__(self, ask: Callable[[Key], Value], fresh_s: float, most: int = 64) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, _Kept[Value]] = OrderedDict()

    def peek(self, key: Key) -> Value | None:
        """Return an answer that is fresh, or None; never waits."""
        kept = self._place(key)
        if kept.answer is not None and self._age(kept.answer) < 1.0:
            return kept.answer[0]
        return None

    def get(self, key: Key) -> Value:
        """Return an answer that is fresh, or not much older."""
        if (fresh := self.peek(key)) is not None:
            return fresh
        kept = self._place(key)
        usable = kept.answer is not None and self._age(kept.answer) < _STALE_FACTOR
        if not kept.lock.acquire(blocking=not usable) and kept.answer is not None:
            return kept.answer[0]
        try:
            if kept.answer is None or self._age(kept.answer) >= 1.0:
                began_s = time.monotonic()
                value = self._ask(key)
                kept.answer = (value, began_s, time.monotonic() - began_s)
            return kept.answer[0]
        finally:
            kept.lock.release()

    def forget(self) -> None:
        """Know nothing any more: something was changed, and whoever asks next wants to see it."""
        with self._lock:
            self._kept.clear()

    def _age(self, answer: tuple[Value, float, float]) -> float:
        """Return how old an answer is, in units of what it is good for."""
        _, began_s, took_s = answer
        return (time.monotonic() - began_s) / max(self._fresh_s, _COST_FACTOR * took_s)

    def _place(self, key: Key) -> _Kept[Value]:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return kept
