"""The pages for people: whole without JavaScript, and without anything from elsewhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from contimg_dask.api import asked
from contimg_dask.api.context import Context, Here
from contimg_dask.api.details import detail_of
from contimg_dask.api.drawing import HEIGHT, WIDTH, steps
from contimg_dask.catalogue.groups import list_groups
from contimg_dask.lifecycle import STATES
from contimg_dask.quicklook.rendering import SIZES
from contimg_dask.status import span

_PAGE_ROWS = 100

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def size(size_bytes: float) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} TB"


def moment(moment_s: float | None) -> str:
    """Return a moment, UTC."""
    if moment_s is None:
        return "–"
    return datetime.fromtimestamp(moment_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in facts.items()
    )


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("contimg_dask.api"),
        # What the catalogue says is shown as text: nothing of it can become a part of the page.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "moment": moment, "span": span, "facts": _facts}
    environment.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "STATES": STATES, "PLOT_SIZES": SIZES}
    return environment


_TEMPLATES = _templates()


def mount_static(app: FastAPI) -> None:
    """Serve the style sheet and the script."""
    directory = str(resources.files("contimg_dask.api") / "static")
    app.mount("/static", StaticFiles(directory=directory), name="static")


def _page(template: str, context: Context, **known: Any) -> HTMLResponse:
    known |= {"can_change": context.tokens.there}
    return HTMLResponse(_TEMPLATES.get_template(template).render(known))


@router.get("/")
def night(context: Here) -> HTMLResponse:
    """Tell whether the night is going well."""
    return _page("night.html.j2", context, night=context.night.get(None))


@router.get("/fragments/night")
def night_fragment(context: Here) -> HTMLResponse:
    """What changes on that page."""
    return _page("night_parts.html.j2", context, night=context.night.get(None))


@router.get("/groups")
def groups(
    context: Here,
    state: asked.States = None,
    reason: asked.Reason = None,
    job: asked.JobNumber = None,
    after: asked.AfterKey = None,
) -> HTMLResponse:
    """A list of groups, the newest first."""
    rows = list_groups(
        context.catalogue,
        states=state,
        reason=reason,
        job=job,
        after=after,
        limit=_PAGE_ROWS,
        newest_first=True,
    )
    chosen = {"state": state or [], "reason": reason, "job": job}
    more = rows[-1].key if len(rows) == _PAGE_ROWS else None
    return _page("groups.html.j2", context, rows=rows, chosen=chosen, more=more)


@router.get("/groups/{key}")
def group(context: Here, key: asked.Number) -> HTMLResponse:
    """Everything of one group."""
    return _group("group.html.j2", context, key)


@router.get("/fragments/groups/{key}")
def group_fragment(context: Here, key: asked.Number) -> HTMLResponse:
    """What changes on that page."""
    return _group("group_parts.html.j2", context, key)


def _group(template: str, context: Context, key: int) -> HTMLResponse:
    detail = detail_of(context, key)
    seconds = detail.group.seconds or {}
    plot = steps(seconds) if seconds.get("total") else None
    return _page(template, context, detail=detail, steps=plot)


def shown(request: Request, answer: JSONResponse) -> Response:
    """Return a refusal as a page, where a page was asked for."""
    path = request.url.path
    if path.startswith(("/api/", "/healthz", "/readyz", "/metrics")):
        return answer
    said = json.loads(bytes(answer.body))
    text = _TEMPLATES.get_template("refused.html.j2").render(said, status=answer.status_code)
    return HTMLResponse(text, answer.status_code)
