"""Quick-look plots of products, as PNG: drawn when asked for, one at a time, the last ones kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from contimg_dask.errors import NotFoundError, QuicklookError
from contimg_dask.quicklook.rendering import KINDS, render
from contimg_dask.quicklook.store import read_quicklook
from contimg_dask.quicklook.writing import QUICKLOOK_NAME

_MOST_KEPT = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A plot, and a tag that changes when it does."""

    etag: str
    png: bytes


class QuickLooks:
    """Draws quick-looks, one at a time: a page full of them leaves cores and threads to others."""

    def __init__(self) -> None:
        self._one_at_a_time = CapacityLimiter(1)
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def kinds_of(self, product: Path) -> tuple[str, ...]:
        """Return what can be drawn of a product: all, or nothing."""
        return KINDS if (product / QUICKLOOK_NAME).is_dir() else ()

    def etag(self, product: Path, kind: str) -> str:
        """Return the tag of a plot, without drawing it.

        Raises
        ------
        NotFoundError
            There is no such plot.
        """
        if kind not in KINDS:
            raise NotFoundError(f"{kind}: there is no such plot; there are {', '.join(KINDS)}")
        try:
            found = (product / QUICKLOOK_NAME).stat()
        except OSError as error:
            raise NotFoundError(f"{product}: it has no quick-look ({error.strerror})") from error
        words = (str(product), kind, str(found.st_ino), str(found.st_mtime_ns))
        return f'"{hashlib.sha256("|".join(words).encode()).hexdigest()[:32]}"'

    async def picture(self, product: Path, kind: str) -> Picture:
        """Return a plot of a product.

        Raises
        ------
        NotFoundError
            There is no such plot, or the product has no quick-look.
        QuicklookError
            It cannot be read or drawn.
        """
        etag = self.etag(product, kind)
        if etag not in self._kept:
            drawn = await to_thread.run_sync(_drawn, product, kind, limiter=self._one_at_a_time)
            self._kept[etag] = drawn
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(etag)
        return Picture(etag=etag, png=self._kept[etag])


def _drawn(product: Path, kind: str) -> bytes:
    try:
        return render(read_quicklook(product), kind)
    except QuicklookError as error:
        if error.code != QuicklookError.code:
            raise
        raise NotFoundError(f"{product}: it has no quick-look") from error
