"""Dask scheduler preload: a page of our own in the dashboard, ``/contimg``.

Groups in flight on each node with their steps, staging, groups per hour and the last failures.
Workers with the preload `worker_figures` tell what it shows. Everything on it is read; nothing can
be done there. Without this preload the dashboard is Dask's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module, resources
from typing import Any

import jinja2
from bokeh.document import Document
from bokeh.models import BasicTicker, ColumnDataSource, DataRange1d, InlineStyleSheet, Range1d
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from bokeh.themes import Theme

from contimg_dask.deploy.group_watch import HOUR_S, GroupInFlight, GroupWatch, Published, watch_of

PATH = "/contimg"
BAR_S = 300.0
"""Width of a bar of the plot [s]."""

_EVERY_MS = 1000
_STEPS = ("open", "rows", "part", "place", "reduce", "group")
_GREY, _LINE, _BLUE = "#8b959f", "#26303a", "#4f86cf"

log = logging.getLogger("distributed.contimg")

dashboard: Any
components: Any
try:
    dashboard = import_module("distributed.dashboard.scheduler")
    components = import_module("distributed.dashboard.components.scheduler")
except ImportError:  # a Dask whose dashboard is made otherwise must still start
    dashboard = components = None


def _text_of(name: str) -> str:
    return (resources.files("contimg_dask.deploy") / "templates" / name).read_text()


def _steps_of(group: GroupInFlight) -> list[tuple[str, tuple[int, int]]]:
    order = {step: place for place, step in enumerate(_STEPS)}
    return sorted(group.steps.items(), key=lambda step: order.get(step[0], len(order)))


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} TB"


def _age(seconds: float) -> str:
    minutes, rest_s = divmod(max(0, round(seconds)), 60)
    if not minutes:
        return f"{rest_s} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, tz=UTC).strftime("%H:%M:%S UTC")


def _parts() -> Any:
    # What workers tell is shown as text: nothing of it can become a part of the page.
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"steps": _steps_of, "size": _size, "clock": _clock, "age": _age}
    return environment.from_string(_text_of("dashboard_parts.html.j2")).module


def per_bar(published: Iterable[Published], now_s: float) -> list[int]:
    """Return how many groups were published in each `BAR_S` of the last hour, oldest first."""
    bars = [0] * int(HOUR_S / BAR_S)
    for group in published:
        age = int((now_s - group.at_s) / BAR_S)
        if 0 <= age < len(bars):
            bars[-1 - age] += 1
    return bars


class Page:
    """The page as one browser sees it."""

    def __init__(self, watch: GroupWatch) -> None:
        self._watch = watch
        self._parts = _parts()
        sheet = InlineStyleSheet(css=_text_of("dashboard_parts.css"))
        self._divs = {
            name: Div(name=name, sizing_mode="stretch_width", margin=0, stylesheets=[sheet])
            for name in ("numbers", "groups", "staging", "failures")
        }
        bars = int(HOUR_S / BAR_S)
        middles = [(BAR_S / 60) * (bars - i - 0.5) for i in range(bars)]
        self._source = ColumnDataSource({"minutes": middles, "groups": [0] * bars}, name="bars")
        self.roots = [*self._divs.values(), _plot(self._source)]
        self.update()

    def update(self) -> None:
        """Show how things stand now; what has not changed is not sent again."""
        now_s = time.time()
        groups, published = self._watch.in_flight(), self._watch.published()
        tiers, failures = self._watch.tiers(), self._watch.failures()
        nodes = sorted({*self._watch.node_names().values(), *(group.node for group in groups)})
        recent = sum(failure.at_s > now_s - HOUR_S for failure in failures)
        texts = {
            "numbers": self._parts.numbers(groups, published, tiers, recent),
            "groups": self._parts.in_flight(groups, nodes, self._watch.silent_s(), now_s),
            "staging": self._parts.staging(tiers),
            "failures": self._parts.failures(failures[:8]),
        }
        for name, text in texts.items():
            if self._divs[name].text != str(text):
                self._divs[name].text = str(text)
        bars = per_bar(published, now_s)
        if self._source.data["groups"] != bars:
            self._source.data = self._source.data | {"groups": bars}


def _plot(source: ColumnDataSource) -> Any:
    plot = figure(
        name="throughput",
        title="Groups published per 5 minutes",
        height=170,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_range=Range1d(start=HOUR_S / 60, end=0),
        y_range=DataRange1d(start=0, min_interval=4),
        x_axis_label="minutes ago",
    )
    plot.vbar(x="minutes", top="groups", width=0.9 * BAR_S / 60, source=source, color=_BLUE)
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=4, min_interval=1)
    plot.xgrid.visible = False
    return plot


def _theme() -> Theme:
    dark = {"background_fill_color": None, "border_fill_color": None, "outline_line_color": None}
    axis = {
        "axis_line_color": _LINE,
        "major_tick_line_color": _LINE,
        "minor_tick_line_color": None,
        "major_label_text_color": _GREY,
        "axis_label_text_color": _GREY,
        "axis_label_text_font_style": "normal",
    }
    title = {"text_color": _GREY, "text_font_size": "13px"}
    grid = {"grid_line_color": _LINE}
    return Theme(json={"attrs": {"Plot": dark, "Axis": axis, "Title": title, "Grid": grid}})


def contimg_page(scheduler: Any, extra: dict[str, Any], document: Document) -> None:
    """Fill a new document for a browser, as Dask's dashboard asks for it."""
    page = Page(watch_of(scheduler))
    document.title = "Dask: contimg"
    document.theme = _theme()
    document.template = components.env.from_string(_text_of("dashboard_page.html.j2"))
    document.template_variables.update(extra)
    for root in page.roots:
        document.add_root(root)
    document.add_periodic_callback(page.update, _EVERY_MS)


def dask_setup(scheduler: Any) -> None:
    """Begin to listen, and put the page among those at the top of the dashboard."""
    watch_of(scheduler)
    if dashboard is None:
        log.warning("no page %s: the dashboard of this Dask is made otherwise", PATH)
        return
    pages = dashboard.template_variables(scheduler)["pages"]
    if PATH.strip("/") not in pages:
        pages.append(PATH.strip("/"))


# The dashboard takes its pages when a scheduler is made, which is after this is imported and before
# it is set up.
if dashboard is not None:
    dashboard.applications[PATH] = contimg_page
