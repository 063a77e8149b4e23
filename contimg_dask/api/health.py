"""Endpoints for those who watch services: alive, ready, figures."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from contimg_dask.api.answers import Alive, Problem, Readiness
from contimg_dask.api.context import Here
from contimg_dask.catalogue import leases
from contimg_dask.errors import CatalogueError
from contimg_dask.status import DISPATCHER

router = APIRouter(responses={421: {"model": Problem}})


@router.get("/healthz")
async def healthz() -> Alive:
    """Answer: the process is there and does not hang."""
    return Alive(ok=True)


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
def readyz(context: Here) -> JSONResponse:
    """Whether the catalogue answers and a dispatcher holds a lease that lasts; 503 if not."""
    try:
        lease = leases.current(context.catalogue, DISPATCHER)
    except CatalogueError as error:
        return _readiness(False, False, str(error))
    if lease is None or lease.expires_s < time.time():
        return _readiness(True, False, "no dispatcher holds the lease")
    return _readiness(True, True, f"dispatched by {lease.holder}")


def _readiness(catalogue: bool, dispatcher: bool, text: str) -> JSONResponse:
    ready = catalogue and dispatcher
    body = {"ready": ready, "catalogue": catalogue, "dispatcher": dispatcher, "text": text}
    return JSONResponse(body, 200 if ready else 503)


@router.get("/metrics", response_class=Response, responses={
    200: {"content": {"text/plain": {}}}, 503: {"model": Problem},
})  # fmt: skip
def metrics(context: Here) -> Response:
    """Figures for Prometheus, in its text format."""
    return Response(context.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})
