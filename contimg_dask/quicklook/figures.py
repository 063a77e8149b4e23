"""Draw a quick-look with matplotlib: on dark ground, in colours that differ also for the colour-blind.

Everything is an object of its own; nothing of pyplot or of matplotlib's global settings is used or
changed, so that pictures can be drawn in several threads.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from contimg_dask.quicklook import images, panels
from contimg_dask.quicklook.panels import GROUND, INK, QUIET
from contimg_dask.quicklook.summary import summarise

if TYPE_CHECKING:
    import xarray as xr

_DPI = 100
_MOST_NAMED = 12
_LABELS_WHERE_LOW = 50


def draw(dataset: xr.Dataset, kind: str, size: tuple[int, int]) -> bytes:
    """Return a picture as the bytes of a PNG file; ``size`` is width and height [pixels]."""
    figure = Figure(
        figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor=GROUND, layout="constrained"
    )
    FigureCanvasAgg(figure)
    _DRAWERS[kind](figure, dataset)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor=GROUND)
    return buffer.getvalue()


def _overview(figure: Figure, dataset: xr.Dataset) -> None:
    facts = summarise(dataset)
    head, top, middle, bottom = figure.subfigures(
        4, 1, squeeze=False, height_ratios=(0.12, 0.62, 1.5, 0.72)
    ).flat
    _write_head(head, facts)
    left, right = top.subfigures(1, 2, squeeze=False).flat
    left_middle, right_middle = middle.subfigures(1, 2, squeeze=False, width_ratios=(1.5, 1)).flat
    for part, drawer in (
        (left, _bandpass), (right, _waterfall), (left_middle, _few_labels),
        (right_middle, _uv), (bottom, _antennas),
    ):  # fmt: skip
        part.set_facecolor(GROUND)
        drawer(part, dataset)


def _write_head(head: SubFigure, facts: dict[str, Any]) -> None:
    head.set_facecolor(GROUND)
    dead, missing = facts["dead_antennas"], facts["subbands_missing"]
    first = (
        f"{facts['antennas']} antennas, {facts['integrations']} integrations, "
        f"{facts['lowest_freq_hz'] / 1e6:.1f}-{facts['highest_freq_hz'] / 1e6:.1f} MHz"
    )
    if missing:
        first += f", missing {_listed(f'sb{number:02d}' for number in missing)}"
    second = f"dead: {_listed(dead)}" if dead else "no dead antenna"
    second += f"; {facts['fraction_flagged']:.1%} flagged, {facts['fraction_zero']:.1%} zero"
    head.text(0.01, 0.5, facts["group"], color=INK, size=17, weight="bold", va="center")
    head.text(0.2, 0.72, first, color=INK, size=11, va="center")
    head.text(0.2, 0.24, second, color=INK, size=11, va="center")
    head.text(0.995, 0.24, facts["sample"].partition(":")[0], color=QUIET, size=8, va="center",
              ha="right")  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    """Return names in a line, the first of them when they are many."""
    every = list(names)
    more = len(every) - _MOST_NAMED
    return ", ".join(every[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _bandpass(figure: Figure | SubFigure, dataset: xr.Dataset) -> None:
    panels.draw_bandpass(figure.subplots(), dataset)


def _waterfall(figure: Figure | SubFigure, dataset: xr.Dataset) -> None:
    images.draw_waterfall(_beside(figure, dataset), dataset)


def _autocorrelations(figure: Figure | SubFigure, dataset: xr.Dataset) -> None:
    images.draw_autocorrelations(_beside(figure, dataset), dataset, panels.MOST_LABELS)


def _few_labels(figure: Figure | SubFigure, dataset: xr.Dataset) -> None:
    images.draw_autocorrelations(_beside(figure, dataset), dataset, _LABELS_WHERE_LOW)


def _antennas(figure: Figure | SubFigure, dataset: xr.Dataset) -> None:
    count = dataset.sizes["product"]
    panels.draw_antennas(list(figure.subplots(count, 1, sharex=True, squeeze=False).flat), dataset)


def _uv(figure: Figure | SubFigure, dataset: xr.Dataset) -> None:
    panels.draw_uv(figure.subplots(), dataset)


def _beside(figure: Figure | SubFigure, dataset: xr.Dataset) -> list[Any]:
    """Return a panel per correlation product, side by side."""
    count = dataset.sizes["product"]
    return list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False).flat)


_DRAWERS: dict[str, Callable[[Any, Any], None]] = {
    "overview": _overview,
    "bandpass": _bandpass,
    "waterfall": _waterfall,
    "autocorrelations": _autocorrelations,
    "antennas": _antennas,
    "uv": _uv,
}
