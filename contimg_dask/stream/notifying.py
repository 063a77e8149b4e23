"""Tell the service manager that we are ready, what we do, and that we are not stuck.

The protocol of systemd's notify socket, which is a datagram of ``NAME=value`` lines (sd_notify(3)).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_STATUS_EVERY_S = 5.0
_STUCK_AFTER_S = 60.0
_SEND_WITHIN_S = 1.0


class Pulse:
    """When each part of a service was last seen to do its work."""

    def __init__(self) -> None:
        self._beat_s: dict[str, float] = {}

    def beat(self, name: str) -> None:
        """Say that a part does its work. Safe from any thread."""
        self._beat_s[name] = time.monotonic()

    def stop(self, name: str) -> None:
        """Expect nothing more of a part."""
        self._beat_s.pop(name, None)

    def stuck(self, after_s: float = _STUCK_AFTER_S) -> list[str]:
        """Return the parts that have not been heard of for so long."""
        now_s = time.monotonic()
        return sorted(name for name, at_s in dict(self._beat_s).items() if now_s - at_s > after_s)


class Notifier:
    """A thread that tells the service manager of us; does nothing where there is none.

    Parameters
    ----------
    address
        The socket, ``@…`` for an abstract one; None where nobody listens.
    watchdog_s
        How often the manager wants to hear that we are not stuck [s]; None when it does not.
    pulse
        Knows whether we are.
    status
        Called for a line on what we do.
    """

    def __init__(
        self,
        address: str | None,
        watchdog_s: float | None,
        pulse: Pulse,
        status: Callable[[], str],
    ) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._pulse = pulse
        self._status = status
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)

    def ready(self) -> None:
        """Say that we are ready, and begin to say the rest."""
        self._send("READY=1", f"STATUS={self._status()}")
        if self._address is not None:
            self._thread.start()

    def stopping(self) -> None:
        """Say that we are stopping."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Say nothing more."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        every_s = min(_STATUS_EVERY_S, (self._watchdog_s or _STATUS_EVERY_S * 2) / 2)
        while not self._stopped.wait(every_s):
            stuck = self._pulse.stuck()
            lines = [f"STATUS=stuck: {', '.join(stuck)}" if stuck else f"STATUS={self._status()}"]
            if self._watchdog_s is not None and not stuck:
                lines.append("WATCHDOG=1")
            self._send(*lines)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # Whoever has started us may have ended; that is no reason to end, too.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            # A manager that reads nothing must not hold us up.
            link.settimeout(_SEND_WITHIN_S)
            link.sendto("\n".join(lines).encode(), address)
