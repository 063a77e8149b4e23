"""Put interrupts off until something is done that must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM for the end of the block, where their own handlers hear of them.

    Blocking them would not do: the system gives a signal to any thread that does not block it, and
    Python runs its handler in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    deferral = _Deferral()
    try:
        deferral.begin()
        yield
    finally:
        deferral.end()


class _Deferral:
    """Stands in for the handlers of interrupts, and does no harm when it is left in their place."""

    def __init__(self) -> None:
        usual = {number: signal.getsignal(number) for number in _INTERRUPTS}
        # What is ignored stays ignored; None is a handler that is not Python's.
        self._usual = {n: h for n, h in usual.items() if h not in (signal.SIG_IGN, None)}
        self._kept: list[int] = []
        self._over = False

    def begin(self) -> None:
        for number in self._usual:
            signal.signal(number, self._keep)

    def end(self) -> None:
        """Put the handlers back; an interrupt that was kept, or comes now, is theirs."""
        self._over = True
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        for kept in self._kept:
            signal.raise_signal(kept)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self._over:
            self._kept.append(number)
            return
        # `end` was cut short by another interrupt.
        signal.signal(number, self._usual[signal.Signals(number)])
        signal.raise_signal(number)
