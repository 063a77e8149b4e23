"""A quick-look in a few numbers: which antennas are dead, how much is flagged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

_ALL = 1 - 1e-6
"""A share that is 1 but for the rounding of float32."""


def is_dead(dataset: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Return which antennas have nothing but zeros and flags, (products, antennas)."""
    lost = dataset["fraction_flagged"].values + dataset["fraction_zero"].values
    dead: npt.NDArray[np.bool_] = lost >= _ALL
    return dead


def summarise(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the figures of a quick-look as plain JSON types.

    Fractions are means over antennas; amplitudes medians over the channels, None where there is no
    value that is not flagged.
    """
    names = dataset["antenna"].values.astype(str)
    dead = is_dead(dataset)
    freq_hz, time_mjd_s = dataset["frequency"].values, dataset["time"].values
    products: dict[str, Any] = {}
    for index, product in enumerate(dataset["product"].values.astype(str).tolist()):
        here = dataset.isel(product=index)
        products[product] = {
            "dead_antennas": names[dead[index]].tolist(),
            "fraction_flagged": float(here["fraction_flagged"].mean()),
            "fraction_zero": float(here["fraction_zero"].mean()),
            "amplitude": _median(here["amplitude"].values),
            "autocorrelation": _median(here["autocorrelation"].values),
        }
    return {
        "group": str(dataset.attrs["group"]),
        "begin_mjd": float(time_mjd_s[0]) / 86400.0,
        "end_mjd": float(time_mjd_s[-1]) / 86400.0,
        "integrations": int(time_mjd_s.size),
        "lowest_freq_hz": float(freq_hz[0]),
        "highest_freq_hz": float(freq_hz[-1]),
        "channels": int(freq_hz.size),
        "subbands_missing": [int(number) for number in dataset.attrs["subbands_missing"]],
        "antennas": int(names.size),
        "dead_antennas": names[dead.all(axis=0)].tolist(),
        "fraction_flagged": float(dataset["fraction_flagged"].mean()),
        "fraction_zero": float(dataset["fraction_zero"].mean()),
        "amplitude_units": str(dataset["amplitude"].attrs["units"]),
        "products": products,
        "sample": str(dataset.attrs["sample"]),
    }


def _median(values: npt.NDArray[np.float32]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None
