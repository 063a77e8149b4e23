"""The panels of a quick-look that are lines, bars and points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from contimg_dask.quicklook.summary import is_dead

if TYPE_CHECKING:
    import xarray as xr

GROUND, FIELD, INK, QUIET = "#11151a", "#171c23", "#e6e9ed", "#8b95a3"
LOST = "#ff7f2a"
"""Zero, where there should be something: the one warm colour."""
NOTHING = "#3a424d"
"""No value at all: flagged, or not there."""
_FLAGGED = "#56b4e9"
_LINES = ("#56b4e9", "#f0e442", "#cc79a7", "#009e73")
"""By place of the correlation product; after Okabe and Ito, and of different lightness."""
_SPEED_OF_LIGHT_M_S = 299792458.0
MOST_LABELS = 120
_WIDE_RANGE = 30.0
_MANY_POINTS = 1000


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Give a panel the colours of all, a title and names of its axes with their units."""
    axes.set_facecolor(FIELD)
    axes.tick_params(colors=QUIET, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(NOTHING)
    axes.set_title(title, color=INK, size=10, loc="left")
    axes.set_xlabel(x, color=QUIET, size=9)
    axes.set_ylabel(y, color=QUIET, size=9)


def say_nothing_there(axes: Axes, what: str) -> None:
    """Say in a panel why it is empty."""
    axes.text(0.5, 0.5, what, color=QUIET, size=11, ha="center", va="center",
              transform=axes.transAxes)  # fmt: skip


def with_gaps(
    freq_hz: npt.NDArray[np.float64], values: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return frequencies at equal steps and values along the last axis, NaN where there are none.

    Missing subbands become gaps of their own width.
    """
    if freq_hz.size < 2:
        return freq_hz, values
    step_hz = float(np.median(np.diff(freq_hz)))
    place = np.rint((freq_hz - freq_hz[0]) / step_hz).astype(int)
    if step_hz <= 0 or np.any(np.diff(place) < 1) or place[-1] > 16 * freq_hz.size:
        return freq_hz, values  # no band with equal steps: drawn channel beside channel
    filled = np.full((*values.shape[:-1], int(place[-1]) + 1), np.nan, dtype=values.dtype)
    filled[..., place] = values
    return freq_hz[0] + step_hz * np.arange(filled.shape[-1]), filled


def is_wide(values: npt.NDArray[np.float32]) -> bool:
    """Tell whether positive values span so much that a logarithm shows them better."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == 0:
        return False
    low, middle, high = np.percentile(positive, (2, 50, 98))
    return bool(high > _WIDE_RANGE * low or positive.max() > _WIDE_RANGE**2 * middle)


def draw_bandpass(axes: Axes, dataset: xr.Dataset) -> None:
    """Mean amplitude against frequency, a line per correlation product."""
    units = dataset["amplitude"].attrs["units"]
    freq_hz, amplitude = with_gaps(dataset["frequency"].values, dataset["amplitude"].values)
    dress(axes, "Mean amplitude, cross-baselines", "frequency [MHz]", f"amplitude [{units}]")
    for index, product in enumerate(dataset["product"].values.astype(str)):
        colour = _LINES[index % len(_LINES)]
        axes.plot(freq_hz / 1e6, amplitude[index], color=colour, lw=1.2, label=product,
                  marker="." if freq_hz.size < 2 else None)  # fmt: skip
    if not np.isfinite(amplitude).any():
        say_nothing_there(axes, "no cross-baseline that is not flagged")
        return
    if is_wide(amplitude):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(color=NOTHING, lw=0.5, alpha=0.6)
    axes.legend(fontsize=8, labelcolor=INK, facecolor=FIELD, edgecolor=NOTHING, ncols=4)


def draw_antennas(every: list[Axes], dataset: xr.Dataset) -> None:
    """Share of each antenna's values that is flagged or zero: a panel per correlation product."""
    names = dataset["antenna"].values.astype(str)
    places = np.arange(names.size)
    dead = is_dead(dataset)
    for index, (axes, product) in enumerate(
        zip(every, dataset["product"].values.astype(str), strict=True)
    ):
        flagged = dataset["fraction_flagged"].values[index]
        zero = dataset["fraction_zero"].values[index]
        last = index == len(every) - 1
        dress(axes, f"{product}: values flagged and zero", "antenna" if last else "", "share")
        axes.bar(places, flagged, width=0.8, color=_FLAGGED, label="flagged")
        axes.bar(places, zero, width=0.8, bottom=flagged, color=LOST, label="zero")
        for place in np.flatnonzero(dead[index]):
            axes.text(place, 1.03, "×", color=LOST, size=9, weight="bold", ha="center", va="bottom")
        axes.set_ylim(0, 1.22)
        axes.set_yticks((0, 0.5, 1), ("0", "50 %", "100 %"))
        axes.set_xlim(-0.7, names.size - 0.3)
        if index == 0:
            axes.legend(fontsize=8, labelcolor=INK, ncols=2, loc="lower right",
                        bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False)  # fmt: skip
    label_antennas(every[-1], names, "x")


def label_antennas(
    axes: Axes, names: npt.NDArray[np.str_], side: str, most: int = MOST_LABELS
) -> None:
    """Write the antennas' names at an axis, every n-th where they are more than ``most``."""
    step = max(1, -(-names.size // most))
    places = np.arange(0, names.size, step)
    size = 8 if names.size <= 40 else 5.5
    if side == "x":
        axes.set_xticks(places, names[places], rotation=90, size=size)
    else:
        axes.set_yticks(places, names[places], size=size)


def draw_uv(axes: Axes, dataset: xr.Dataset) -> None:
    """Where the baselines lie in the uv plane, at the centre of the band."""
    freq_hz = dataset["frequency"].values
    centre_hz = 0.5 * float(freq_hz[0] + freq_hz[-1])
    to_klambda = centre_hz / _SPEED_OF_LIGHT_M_S / 1e3
    u, v = (dataset[name].values.ravel() * to_klambda for name in ("u", "v"))
    title = f"uv coverage at {centre_hz / 1e6:.1f} MHz"
    dress(axes, title, "u [kλ]", "v [kλ]")
    if not np.isfinite(u).any():
        say_nothing_there(axes, "no cross-baseline")
        return
    size = 2.4 if u.size > _MANY_POINTS else 5
    axes.plot(np.concatenate([u, -u]), np.concatenate([v, -v]), ls="", marker=".", ms=size,
              mew=0, color=_FLAGGED, snap=False)  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    axes.invert_xaxis()
    axes.grid(color=NOTHING, lw=0.5, alpha=0.6)
