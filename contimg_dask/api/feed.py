"""The catalogue's events as they happen, for any number of listeners that cost one query together."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator

from contimg_dask.api.refusals import BusyError
from contimg_dask.catalogue.events import latest_id, list_events
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Event
from contimg_dask.errors import CatalogueError

MOST_STREAMS = 64
_LOOK_EVERY_S = 0.5
_HEARTBEAT_S = 15.0
_KEPT = 1000
_PAGE = 500


class EventFeed:
    """Looks for new events twice a second, and hands them to streams.

    A stream knows no more than the last event it has sent: one that is slow holds up nobody, and
    gets what it has missed from the catalogue.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._last = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.streams = 0

    async def start(self) -> None:
        """Begin to look; what happened before is not told, but on request.

        Raises
        ------
        CatalogueError
            The catalogue cannot be read.
        """
        # Before any stream is opened, which would begin at the beginning.
        self._last = await asyncio.to_thread(latest_id, self._catalogue)
        self._task = asyncio.create_task(self._look())

    def close(self) -> None:
        """End all streams, and look no more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _look(self) -> None:
        while not self._closed:
            try:
                found = await asyncio.to_thread(
                    list_events, self._catalogue, after_id=self._last, limit=_PAGE
                )
            except CatalogueError:
                found = []  # streams stay open until it is back
            if found:
                self._recent.extend(found)
                self._last = found[-1].id
                self._tell()
            if len(found) < _PAGE:
                await asyncio.sleep(_LOOK_EVERY_S)

    def open(self, after: int | None) -> AsyncIterator[bytes]:
        """Return a stream of server-sent events: those after an id, or from now on.

        Raises
        ------
        BusyError
            There are too many.
        """
        if self.streams >= MOST_STREAMS:
            raise BusyError(f"{self.streams} event streams are open already: close some")
        return self._stream(self._last if after is None else after)

    async def _stream(self, last: int) -> AsyncIterator[bytes]:
        self.streams += 1  # not before it is read: one that never is would be counted for ever
        try:
            yield b"retry: 3000\n\n"
            while not self._closed:
                news = self._news
                found = await self._after(last)
                for event in found:
                    yield _message(event)
                    last = event.id
                if not found and not self._closed:
                    try:
                        await asyncio.wait_for(news.wait(), _HEARTBEAT_S)
                    except TimeoutError:
                        yield b": still here\n\n"
        finally:
            self.streams -= 1

    async def _after(self, last: int) -> list[Event]:
        if last >= self._last:
            return []
        if self._recent and self._recent[0].id <= last + 1:
            return [event for event in self._recent if event.id > last]
        try:
            return await asyncio.to_thread(list_events, self._catalogue, after_id=last, limit=_PAGE)
        except CatalogueError:
            return []


def _message(event: Event) -> bytes:
    body = json.dumps(event.to_json(), separators=(",", ":"))
    return f"id: {event.id}\nevent: change\ndata: {body}\n\n".encode()
