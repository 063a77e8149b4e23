"""Pictures of a quick-look, as PNG. matplotlib is loaded when the first one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contimg_dask.errors import QuicklookError, UsageError

if TYPE_CHECKING:
    import xarray as xr

SIZES = {
    "overview": (1600, 1240),
    "bandpass": (1000, 420),
    "waterfall": (1000, 460),
    "autocorrelations": (1000, 820),
    "antennas": (1000, 460),
    "uv": (640, 620),
}
"""Name of each kind of picture, and its width and height [pixels]."""
KINDS = tuple(SIZES)


def render(dataset: xr.Dataset, kind: str) -> bytes:
    """Return one picture of a quick-look as the bytes of a PNG file.

    Parameters
    ----------
    dataset
        As `contimg_dask.quicklook.store.read_quicklook` returns it.
    kind
        One of `KINDS`.

    Raises
    ------
    UsageError
        There is no such kind.
    QuicklookError
        matplotlib is not installed (``no-matplotlib``), or the quick-look lacks what the picture
        shows (``damaged-quicklook``).

    Notes
    -----
    Safe under threads: yes, nothing is shared.
    """
    if kind not in SIZES:
        raise UsageError(f"{kind!r} is no kind of picture: the kinds are {', '.join(KINDS)}")
    try:
        from contimg_dask.quicklook.figures import draw
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise QuicklookError(
            "pictures need matplotlib, which is not installed: pip install 'contimg-dask[plots]'",
            code="no-matplotlib",
        ) from error
    try:
        return draw(dataset, kind, SIZES[kind])
    except KeyError as error:
        raise QuicklookError(
            f"the quick-look has no {error}: it was made by another version, or is damaged",
            code="damaged-quicklook",
        ) from error
