"""What every endpoint has at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from contimg_dask.api.caching import Remembered
from contimg_dask.api.feed import EventFeed
from contimg_dask.api.metrics import Metrics
from contimg_dask.api.night import Night
from contimg_dask.api.quicklooks import QuickLooks
from contimg_dask.api.roots import Roots
from contimg_dask.api.tokens import Tokens
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.settings import Settings
from contimg_dask.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A catalogue and what is known of it; everything here is safe under threads."""

    catalogue: Catalogue
    settings: Settings
    tokens: Tokens
    roots: Roots
    feed: EventFeed
    metrics: Metrics
    status: Remembered[None, Status]
    night: Remembered[None, Night]
    pages: Remembered[tuple[object, ...], bytes]
    quicklooks: QuickLooks = field(default_factory=QuickLooks)

    async def page(self, key: tuple[object, ...]) -> bytes:
        """Return a document that many ask for; one that is fresh costs no thread."""
        fresh = self.pages.peek(key)
        return await run_in_threadpool(self.pages.get, key) if fresh is None else fresh

    def changed(self) -> None:
        """Have the next who asks see what was changed."""
        for remembered in (self.status, self.night, self.pages):
            remembered.forget()


async def _context_of(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


Here = Annotated[Context, Depends(_context_of)]


async def _may_change(request: Request) -> Context:
    context = await _context_of(request)
    context.tokens.check(request.headers.get("authorization"))
    return context


HereWithToken = Annotated[Context, Depends(_may_change)]
"""For endpoints that change something."""
