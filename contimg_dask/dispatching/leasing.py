"""Hold a lease while a loop works, from a thread of its own.

There is one dispatcher per catalogue. Whoever loses the lease (asleep too long, cut off from the
database) must stop at once: another one may be at work. What it still writes is refused by the
catalogue, because its attempts are no longer those of their groups.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from contimg_dask.catalogue import leases
from contimg_dask.catalogue.opening import Catalogue, CatalogueError
from contimg_dask.catalogue.records import Lease
from contimg_dask.model import Owner
from contimg_dask.staging.owners import current_owner, is_running

LEASE_NAME = "dispatcher"
LEASE_S = 30.0
_RENEW_EVERY_S = 5.0
_LOOK_EVERY_S = 1.0


class LeaseKeeper:
    """Takes the lease, renews it every few seconds, and gives it back.

    Parameters
    ----------
    catalogue
        Whose lease.
    facts
        Called at each renewal: what to show of the dispatcher, as plain JSON types.
    lease_s
        How long the lease lasts without renewal [s].
    name
        Which lease.

    Raises
    ------
    LeaseHeldError
        When entered: another dispatcher holds it, and which.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        facts: Callable[[], Mapping[str, Any]],
        lease_s: float = LEASE_S,
        name: str = LEASE_NAME,
    ) -> None:
        self._name = name
        self._catalogue = catalogue
        self._facts = facts
        self._lease_s = lease_s
        self._lease: Lease | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)
        self._renewed_s = 0.0
        self.predecessor: Owner | None = None

    @property
    def token(self) -> str:
        """What proves to the catalogue that the lease is ours."""
        assert self._lease is not None  # entered
        return self._lease.token

    @property
    def lost(self) -> bool:
        """Whether the lease may be somebody else's by now."""
        return time.monotonic() - self._renewed_s > self._lease_s

    def __enter__(self) -> LeaseKeeper:
        before = leases.current(self._catalogue, self._name)
        asked_s = time.monotonic()
        self._lease = leases.acquire(
            self._catalogue,
            self._name,
            owner=current_owner(),
            holder=_holder(),
            facts=dict(self._facts()),
            lease_s=self._lease_s,
            now_s=time.time(),
            is_dead=lambda owner: is_running(owner) is False,
        )
        self._renewed_s = asked_s
        self.predecessor = before.owner if before is not None else None
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if not self.lost:
            leases.release(self._catalogue, self.token)

    def _work(self) -> None:
        every_s = min(_RENEW_EVERY_S, self._lease_s / 4)
        shown: dict[str, Any] = {}
        while not self._stopped.wait(_LOOK_EVERY_S):
            facts = dict(self._facts())
            # What the dispatcher does, or waits for, is shown as soon as it changes.
            if facts == shown and time.monotonic() - self._renewed_s < every_s:
                continue
            asked_s, shown = time.monotonic(), facts
            try:
                kept = leases.renew(self._catalogue, self.token, lease_s=self._lease_s, facts=facts)
            except CatalogueError:
                continue  # the database may come back before the lease is over
            if not kept:
                self._renewed_s = float("-inf")
                return
            self._renewed_s = asked_s


def _holder() -> str:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"
