"""Endpoints that look: status, groups, products, jobs, events. None of them changes anything."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from contimg_dask.api import asked
from contimg_dask.api.answers import (
    EventPage,
    GroupDetail,
    GroupPage,
    JobPage,
    Problem,
    ProductPage,
)
from contimg_dask.api.context import Here
from contimg_dask.api.details import detail_of, product_of_group
from contimg_dask.api.documents import JsonBytes, json_bytes
from contimg_dask.catalogue.events import list_events
from contimg_dask.catalogue.groups import get_row
from contimg_dask.catalogue.identity import LARGEST_NUMBER
from contimg_dask.catalogue.jobs import get_job, list_jobs
from contimg_dask.catalogue.products import get_product, list_products
from contimg_dask.catalogue.records import Job
from contimg_dask.errors import NotFoundError
from contimg_dask.naming import moment_to_mjd
from contimg_dask.product_rows import csv_of

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 404, 421, 422, 500, 503)
}
router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
_EVENT_NUMBER = re.compile(r"[0-9]{1,100}")


@router.get("/status", response_model=dict[str, Any])
async def status(context: Here, job: asked.JobNumber = None) -> Response:
    """How the queue does: as 'contimg-dask status --json', of the last seconds."""
    return JsonBytes(await context.page(("status", job)))


@router.get("/groups", response_model=GroupPage)
async def list_of_groups(
    context: Here,
    state: asked.States = None,
    job: asked.JobNumber = None,
    reason: asked.Reason = None,
    start: asked.Moment = None,
    end: asked.Moment = None,
    output: asked.Directory = None,
    after: asked.AfterKey = None,
    limit: asked.Limit = 100,
    newest_first: bool = False,
) -> Response:
    """Groups in order of time, page by page."""
    states = tuple(sorted(set(state))) if state else None
    moments = (moment_to_mjd(start), moment_to_mjd(end))
    key = ("groups", states, job, reason, *moments, output, after, limit, newest_first)
    return JsonBytes(await context.page(key))


@router.get("/groups/{key}", response_model=GroupDetail)
def one_group(context: Here, key: asked.Number) -> Response:
    """A group with its subbands, attempts, seconds per step, events and manifest."""
    return JsonBytes(json_bytes(detail_of(context, key).to_json()))


@router.get("/groups/{key}/quicklook/{kind}.png", response_class=Response, responses={
    200: {"content": {"image/png": {}}}, 304: {"description": "as before"},
})  # fmt: skip
async def quicklook(
    context: Here, request: Request, key: asked.Number, kind: asked.PlotName
) -> Response:
    """A quick-look plot of a group's product."""
    row = await run_in_threadpool(get_row, context.catalogue, key)
    product = await run_in_threadpool(product_of_group, context, row)
    if product is None:
        raise NotFoundError(f"group {key} has no product")
    headers = {"cache-control": "no-cache", "etag": context.quicklooks.etag(product, kind)}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    picture = await context.quicklooks.picture(product, kind)
    headers["etag"] = picture.etag
    return Response(picture.png, media_type="image/png", headers=headers)


@router.get("/products", response_model=ProductPage, responses={
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
})  # fmt: skip
def list_of_products(
    context: Here,
    request: Request,
    kind: asked.KindName = None,
    status: asked.StatusName = "published",
    start: asked.Moment = None,
    end: asked.Moment = None,
    declination: asked.Declination = None,
    tolerance: asked.Tolerance = 0.5,
    output: asked.Directory = None,
    after: asked.AfterPath = None,
    limit: asked.Limit = 100,
    format: Annotated[Literal["json", "csv"], Query()] = "json",  # noqa: A002 - its name in the URL
) -> Response:
    """Products in order of time, page by page; as CSV, the header ``Link`` leads to the next."""
    last = None
    if after is not None and (last := get_product(context.catalogue, after)) is None:
        raise NotFoundError(f"{after}: there is no such product to go on from")
    rows = list_products(
        context.catalogue,
        kind=kind,
        status=None if status == "any" else status,
        start_mjd=moment_to_mjd(start),
        end_mjd=moment_to_mjd(end),
        declination=None if declination is None else (declination, tolerance),
        output_dir=output,
        after=last,
        limit=limit,
    )
    following = rows[-1].path if len(rows) == limit else None
    if format == "csv":
        return Response(csv_of(rows), media_type="text/csv", headers=_link(request, following))
    products = [row.to_json() for row in rows]
    return JsonBytes(json_bytes({"products": products, "next": following}))


def _link(request: Request, following: str | None) -> dict[str, str]:
    if following is None:
        return {}
    url = request.url.include_query_params(after=following)
    return {"link": f'<{url.path}?{url.query}>; rel="next"'}


@router.get("/jobs")
def list_of_jobs(context: Here, limit: asked.Limit = 100) -> JobPage:
    """Jobs, the newest first."""
    return JobPage(jobs=list_jobs(context.catalogue, limit=limit))


@router.get("/jobs/{job}")
def one_job(context: Here, job: asked.Number) -> Job:
    """A job as it was submitted; ``status?job=`` tells how far it is."""
    return get_job(context.catalogue, job)


@router.get("/events")
def list_of_events(
    context: Here, after: asked.AfterEvent = 0, limit: asked.Limit = 100
) -> EventPage:
    """What happened after an event, in order."""
    found = list_events(context.catalogue, after_id=after, limit=limit)
    return EventPage(events=found, last=found[-1].id if found else after)


@router.get("/events/stream", response_class=StreamingResponse, responses={
    200: {"content": {"text/event-stream": {}}},
})  # fmt: skip
async def stream(context: Here, request: Request) -> StreamingResponse:
    """What happens from now on, or after ``Last-Event-ID``, as server-sent events."""
    said = request.headers.get("last-event-id", "")
    after = min(int(said), LARGEST_NUMBER) if _EVENT_NUMBER.fullmatch(said) else None
    return StreamingResponse(context.feed.open(after), media_type="text/event-stream")
