"""The panels of a quick-look that are images: amplitude against frequency, and time or antenna."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize

from contimg_dask.quicklook.panels import (
    INK,
    LOST,
    NOTHING,
    QUIET,
    dress,
    is_wide,
    label_antennas,
    say_nothing_there,
    with_gaps,
)
from contimg_dask.quicklook.summary import is_dead

if TYPE_CHECKING:
    import xarray as xr

_HIGHEST_PERCENTILE = 99


def draw_waterfall(every: list[Axes], dataset: xr.Dataset) -> None:
    """Amplitude of cross-baselines against frequency and time: a panel per correlation product."""
    seconds = dataset["time"].values - dataset["time"].values[0]
    step_s = float(np.median(np.diff(seconds))) if seconds.size > 1 else 1.0
    edges = (float(seconds[-1]) + step_s / 2, -step_s / 2)
    for index, (axes, product) in enumerate(
        zip(every, dataset["product"].values.astype(str), strict=True)
    ):
        dress(axes, f"{product}: cross-baselines", "frequency [MHz]",
              "time [s]" if index == 0 else "")  # fmt: skip
        _image(axes, dataset, "waterfall", index, edges, "nothing that is not flagged")


def draw_autocorrelations(every: list[Axes], dataset: xr.Dataset, most_labels: int) -> None:
    """Autocorrelation spectra, a line of the image per antenna: a panel per correlation product."""
    names = dataset["antenna"].values.astype(str)
    dead = is_dead(dataset)
    edges = (names.size - 0.5, -0.5)
    for index, (axes, product) in enumerate(
        zip(every, dataset["product"].values.astype(str), strict=True)
    ):
        dress(axes, f"{product}: autocorrelations", "frequency [MHz]",
              "antenna" if index == 0 else "")  # fmt: skip
        _image(axes, dataset, "autocorrelation", index, edges, "no autocorrelation")
        label_antennas(axes, names, "y", most_labels)
        for place in np.flatnonzero(dead[index]):
            axes.text(1.005, place, "× dead", color=LOST, size=7, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip


def _image(
    axes: Axes,
    dataset: xr.Dataset,
    name: str,
    index: int,
    edges: tuple[float, float],
    if_empty: str,
) -> None:
    """Draw one product of a variable; ``edges`` are the lower and the upper end of its first axis."""
    freq_hz, values = with_gaps(dataset["frequency"].values, dataset[name].values[index])
    if not np.isfinite(values).any():
        say_nothing_there(axes, if_empty)
        return
    half_hz = 0.5 * (float(np.median(np.diff(freq_hz))) if freq_hz.size > 1 else 1e6)
    extent = ((freq_hz[0] - half_hz) / 1e6, (freq_hz[-1] + half_hz) / 1e6, *edges)
    drawn = axes.imshow(values, aspect="auto", extent=extent, interpolation="nearest",
                        cmap=_colours(), norm=_scale(values))  # fmt: skip
    figure: Any = axes.get_figure(root=False)
    figure.supxlabel("orange: zero, grey: no value", color=QUIET, size=8)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.8, aspect=40, pad=0.02)
    bar.set_label(f"amplitude [{dataset[name].attrs['units']}]", color=QUIET, size=7)
    bar.ax.tick_params(colors=QUIET, labelsize=8)
    bar.outline.set_edgecolor(INK)


def _colours() -> Colormap:
    """Cividis, which people of every colour vision see alike, and two colours outside of it."""
    colours: Colormap = colormaps["cividis"].with_extremes(under=LOST, bad=NOTHING)
    return colours


def _scale(values: npt.NDArray[np.float32]) -> Normalize:
    """Scale from the faintest to the brightest without its outliers; what is 0 is below the scale."""
    positive = values[np.isfinite(values) & (values > 0)].astype(np.float64)
    if positive.size == 0:
        return Normalize(vmin=0.5, vmax=1.0)
    # The faint end stays inside the scale, or it would look like a zero.
    low, high = float(positive.min()), float(np.percentile(positive, _HIGHEST_PERCENTILE))
    if high <= low * (1 + 1e-6):
        low = 0.5 * low
    return LogNorm(low, high) if is_wide(values) else Normalize(low, high)
