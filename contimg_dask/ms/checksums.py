"""Checksums of what one subband wrote, taken over values in row order, whatever the layout.

A checksum is XXH3 (128 bits) of the little-endian values of all rows, each (channels, products);
FLAG counts as one byte per value. It finds damage, not forgery.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

CHECKED_COLUMNS = ("DATA", "WEIGHT_SPECTRUM", "FLAG")
_PREFIX = "xxh3-128:"


@dataclass(slots=True)
class Checksum:
    """A checksum in the making."""

    _state: Any = field(default_factory=xxhash.xxh3_128)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add the values of the next rows."""
        self._state.update(np.ascontiguousarray(values).view(np.uint8).data)

    @property
    def text(self) -> str:
        """As manifests have it: the method and the digest."""
        return f"{_PREFIX}{self._state.hexdigest()}"
