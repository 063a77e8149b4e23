"""Quick-look plots of products, as PNG: drawn when asked for, one at a time, the last ones kept."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from contimg_dask.errors import ContimgError, NotFoundError, UsageError

_MOST_KEPT = 128

store: Any
rendering: Any
try:
    store = import_module("contimg_dask.quicklook.store")
    rendering = import_module("contimg_dask.quicklook.rendering")
except ModuleNotFoundError:  # its libraries are an extra of their own
    store = rendering = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A plot, and a tag that changes when it does."""

    etag: str
    png: bytes


class QuickLooks:
    """Draws quick-looks. Safe under threads; matplotlib is not, so one is drawn at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be drawn."""
        return () if rendering is None else tuple(rendering.KINDS)

    def kinds_of(self, product: Path) -> tuple[str, ...]:
        """Return what can be drawn of a product: all, or nothing."""
        if store is None:
            return ()
        try:
            there = store.quicklook_path(product).is_dir()
        except OSError:
            return ()
        return self.kinds if there else ()

    def etag(self, product: Path, kind: str) -> str:
        """Return the tag of a plot, without drawing it.

        Raises
        ------
        NotFoundError
            There is no such plot.
        """
        if kind not in self.kinds:
            raise NotFoundError(f"{kind[:40]}: there is no such plot; there are {self.kinds}")
        try:
            found = product.stat()
        except OSError as error:
            raise NotFoundError(f"{product}: {error.strerror}") from error
        words = (str(product), kind, str(found.st_ino), str(found.st_mtime_ns))
        return f'"{hashlib.sha256("|".join(words).encode()).hexdigest()[:32]}"'

    def picture(self, product: Path, kind: str) -> Picture:
        """Return a plot of a product.

        Raises
        ------
        NotFoundError
            There is no such plot, or the product has no quick-look.
        """
        etag = self.etag(product, kind)
        with self._lock:
            if etag not in self._kept:
                self._kept[etag] = _drawn(product, kind)
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(etag)
            return Picture(etag=etag, png=self._kept[etag])


def _drawn(product: Path, kind: str) -> bytes:
    try:
        drawn = rendering.render(store.read_quicklook(product), kind)
    except (UsageError, FileNotFoundError) as error:
        raise NotFoundError(f"{product}: it has no quick-look") from error
    except (OSError, ValueError, KeyError) as error:
        raise ContimgError(f"{product}: its quick-look cannot be drawn: {error}") from error
    return bytes(drawn)
