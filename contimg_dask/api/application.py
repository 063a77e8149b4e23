"""The web interface as one application: endpoints, pages, and how everything is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

from contimg_dask.api import health, pages, reading, steering
from contimg_dask.api.caching import Remembered
from contimg_dask.api.context import Context
from contimg_dask.api.documents import written
from contimg_dask.api.feed import EventFeed
from contimg_dask.api.guarding import Guard
from contimg_dask.api.metrics import Metrics
from contimg_dask.api.night import Night, see
from contimg_dask.api.refusals import problem, problem_of
from contimg_dask.api.roots import Roots
from contimg_dask.api.tokens import Tokens
from contimg_dask.catalogue.leases import log_level
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.errors import ContimgError
from contimg_dask.log_levels import logged_from
from contimg_dask.settings import Settings
from contimg_dask.status import Status, look

_STATUS_FRESH_S, _PAGE_FRESH_S = 1.0, 1.0
_THREADS = 6
"""Fewer than connections of the catalogue's pool, so that none waits for one; and so few that they
leave the interpreter to the one that answers."""
_CODES = {404: "not-found", 405: "wrong-method"}


def make_context(catalogue: Catalogue, settings: Settings) -> Context:
    """Return what endpoints work with.

    Raises
    ------
    UsageError
        The token file cannot be used.
    """

    def look_around(key: None) -> Status:
        del key
        return look(catalogue, None)

    status = Remembered[None, Status](look_around, _STATUS_FRESH_S)

    def see_night(key: None) -> Night:
        del key
        return see(catalogue, status.get(None))

    def write(key: tuple[Any, ...]) -> bytes:
        return written(catalogue, lambda: status.get(None), key)

    feed = EventFeed(catalogue)
    return Context(
        catalogue=catalogue,
        settings=settings,
        tokens=Tokens(settings.api_token_file),
        roots=Roots(settings.input_roots, settings.output_roots),
        feed=feed,
        metrics=Metrics(catalogue, lambda: status.get(None), lambda: feed.streams),
        status=status,
        night=Remembered[None, Night](see_night, _PAGE_FRESH_S),
        pages=Remembered[tuple[Any, ...], bytes](write, _PAGE_FRESH_S, most=256),
    )


def make_application(context: Context) -> Guard:
    """Return the application, with what guards it before it."""
    app = FastAPI(
        title="contimg-dask",
        version=version("contimg-dask"),
        description="Conversions of subband files: how they do, and how to steer them.",
        openapi_url="/api/v1/openapi.json",
        # These pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.context = context
    for module in (reading, steering, health, pages):
        app.include_router(module.router)
    pages.mount_static(app)
    app.add_exception_handler(ContimgError, _refused)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    settings = context.settings
    names = [name.strip() for name in (settings.api_names or "").split(",") if name.strip()]
    return Guard(app, [settings.api_host, *names])


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    logged_from(log_level(context.catalogue), None)
    await context.feed.start()
    yield
    context.feed.close()


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ContimgError)
    return pages.shown(request, problem_of(error))


def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ()))[:100]
    # What was sent is not repeated: it may hold anything, and be long.
    return pages.shown(request, problem(422, "not-understood", f"{place}: {first.get('msg', '')}"))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "refused")
    answer: JSONResponse = problem(error.status_code, code, str(error.detail))
    for name, text in (error.headers or {}).items():
        answer.headers[name] = text
    if error.status_code == 405:
        answer.headers["allow"] = ", ".join(_methods(request))
    return pages.shown(request, answer)


def _methods(request: Request) -> list[str]:
    """Return what may be done with a path: its routes know of one method each."""
    routes = [
        route
        for route in request.app.routes
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({method for route in routes for method in route.methods or ()})


def _unexpected(request: Request, error: Exception) -> Response:
    del error  # the log has its traceback
    text = "something unexpected went wrong: the log of the web interface has it"
    return pages.shown(request, problem(500, "internal-error", text))
