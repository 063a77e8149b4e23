"""Put the looks at rows and subbands together into one data set, with labels and units."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from contimg_dask.errors import QuicklookError
from contimg_dask.model import ConversionPlan
from contimg_dask.quicklook.looks import SubbandLook
from contimg_dask.quicklook.rows import RowLook
from contimg_dask.quicklook.writing import Content, Labelled

FORMAT_VERSION = 1

FloatArray = npt.NDArray[np.float64]


def quicklook_of(plan: ConversionPlan, rows: RowLook, looks: Sequence[SubbandLook]) -> Content:
    """Return the quick-look of a product.

    Parameters
    ----------
    plan
        Of the group.
    rows
        The look at its rows.
    looks
        At its subbands, in the product's order.

    Raises
    ------
    QuicklookError
        They do not fit together.
    """
    integrations = rows.time_mjd_s.size
    channels = sum(look.sums.shape[1] for look in looks)
    slots = {look.sums.shape[0] for look in looks}
    if slots != {integrations + rows.antenna_numbers.size} or channels != rows.freq_hz.size:
        raise QuicklookError(
            f"the looks at the subbands have {channels} channels and {sorted(slots)} sums, "
            f"{rows.freq_hz.size} and {integrations + rows.antenna_numbers.size} expected"
        )
    sums, counts = (
        np.concatenate([getattr(look, name) for look in looks], axis=1)
        for name in ("sums", "counts")
    )
    cross = sums[:integrations], counts[:integrations]
    return Content(
        variables={
            "amplitude": _amplitudes(
                ("product", "frequency"), _mean(*(some.sum(axis=0) for some in cross)),
                "mean over sampled cross-baselines and integrations", rows,
            ),
            "waterfall": _amplitudes(
                ("product", "time", "frequency"), _mean(*cross),
                "mean over sampled cross-baselines", rows,
            ),
            "autocorrelation": _amplitudes(
                ("product", "antenna", "frequency"),
                _mean(sums[integrations:], counts[integrations:]),
                "mean over integrations of autocorrelations", rows,
            ),
            **_fractions(looks),
            **_uv(rows),
        },
        coordinates=_coordinates(rows),
        attrs=_attributes(plan, rows),
    )  # fmt: skip


def _mean(sums: FloatArray, counts: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Return means with the products first, NaN where nothing was to be had."""
    with np.errstate(invalid="ignore"):
        mean = sums / counts
    return np.ascontiguousarray(np.moveaxis(mean, -1, 0), dtype=np.float32)


def _amplitudes(
    dims: tuple[str, ...], values: npt.NDArray[np.float32], what: str, rows: RowLook
) -> Labelled:
    said = f"amplitude of DATA, {what}; flagged values left out"
    return Labelled(dims=dims, values=values, attrs={"units": str(rows.units), "long_name": said})


def _fractions(looks: Sequence[SubbandLook]) -> dict[str, Labelled]:
    """Return, per product and antenna, what share of the values is flagged, and is zero."""
    values = sum(look.values for look in looks)
    meanings = {
        "flagged": "share of the values of an antenna's sampled rows that are flagged",
        "zero": "share of the values of an antenna's sampled rows that are 0 and not flagged",
    }
    return {
        f"fraction_{name}": Labelled(
            dims=("product", "antenna"),
            values=(sum(getattr(look, name) for look in looks).T / values).astype(np.float32),
            attrs={"units": "1", "long_name": meaning},
        )
        for name, meaning in meanings.items()
    }


def _uv(rows: RowLook) -> dict[str, Labelled]:
    return {
        name: Labelled(
            dims=("uv_time", "baseline"),
            values=values,
            attrs={"units": "m", "long_name": f"{name} of UVW"},
        )
        for name, values in (("u", rows.u_m), ("v", rows.v_m))
    }


def _coordinates(rows: RowLook) -> dict[str, Labelled]:
    names = rows.antenna_names
    centre = {"units": "s", "long_name": "centre of the integration, MJD UTC"}
    channel = {"units": "Hz", "long_name": "centre of the channel"}
    each: dict[str, tuple[str, npt.NDArray[Any], dict[str, str]]] = {
        "product": ("product", rows.products, {"long_name": "correlation product"}),
        "frequency": ("frequency", rows.freq_hz, channel),
        "subband": ("frequency", rows.subband, {"long_name": "number of the subband"}),
        "time": ("time", rows.time_mjd_s, centre),
        "antenna": ("antenna", names, {"long_name": "name of the antenna"}),
        "antenna_number": ("antenna", rows.antenna_numbers, {"long_name": "row of ANTENNA"}),
        "uv_time": ("uv_time", rows.uv_time_mjd_s, centre),
        "antenna1": ("baseline", names[rows.first], {"long_name": "name of its first antenna"}),
        "antenna2": ("baseline", names[rows.second], {"long_name": "name of its second antenna"}),
    }
    return {
        name: Labelled(dims=(dim,), values=values, attrs=attrs)
        for name, (dim, values, attrs) in each.items()
    }


def _attributes(plan: ConversionPlan, rows: RowLook) -> dict[str, Any]:
    there, sampled = rows.cross_baselines.tolist()
    text = f"all autocorrelations and {sampled} of {there} cross-baselines, at every integration"
    if int(rows.step) > 1:
        text += (
            f": those whose antennas' positions along the antenna axis add up to a multiple of "
            f"{int(rows.step)}"
        )
    return {
        "format_version": FORMAT_VERSION,
        "group": plan.group_id,
        "plan_hash": plan.plan_hash,
        "made_by": f"contimg-dask {version('contimg-dask')}",
        "sample": text,
        "cross_baselines": there,
        "cross_baselines_sampled": sampled,
        "cross_baseline_step": int(rows.step),
        "subbands_missing": list(plan.missing),
    }
