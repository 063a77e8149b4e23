"""What to simulate: when, with which antennas, integrations and channels, and which sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from contimg_dask import array
from contimg_dask.errors import UsageError
from contimg_dask.uvh5.writer import COMPRESSIONS, Compression

SUBBANDS = 16
PRODUCTS: Mapping[int, tuple[int, ...]] = {2: (-5, -6), 4: (-5, -7, -8, -6)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PointSource:
    """An unpolarised point source with a flat spectrum."""

    ra_deg: float
    """ICRS right ascension."""
    dec_deg: float
    """ICRS declination."""
    flux_jy: float
    """Flux density, the same in XX and YY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What to simulate; the defaults are one full-scale group.

    Raises
    ------
    UsageError
        A value is outside its range.
    """

    start: str = "2025-10-05T03:12:06"
    """UTC, ISO 8601: the first integration begins then (its centre, so ``time_array[0]``, is half
    an integration later). The whole second is sb00's name stamp."""
    groups: int = 1
    """Groups, each 24 integrations (309.24 s) after the last."""
    subbands: int = SUBBANDS
    """Subbands per group, 1 to 16, counted from sb00, the highest frequency."""
    only_subbands: tuple[int, ...] | None = None
    """Subband numbers to write; None: all. The values of a subband do not depend on it."""
    antennas: int = 96
    """Active antennas, 2 to 117, spread evenly over the station numbers."""
    integrations: int = 24
    """Integrations per group; with more than 24 the groups follow each other without a gap."""
    channels: int = 48
    """Channels per subband. A subband stays 11.71875 MHz wide, so fewer are wider."""
    declination_deg: float = 16.28
    """Apparent declination the fringes are stopped at, on the meridian."""
    sources: tuple[PointSource, ...] | None = None
    """Sources of every group. None: three for each group (2, 1 and 0.5 Jy), at fixed offsets of
    less than a degree from the meridian's ICRS position in the middle of the group."""
    noise_jy: float = 0.0
    """Standard deviation of the real and of the imaginary part of each visibility; the imaginary
    part of autocorrelations stays 0."""
    seed: int = 1
    """Seed of noise and name jitter."""
    name_jitter: bool = True
    """Nodes stamp their file names at slightly different times, as often as real ones do."""
    products: int = 2
    """2: XX, YY. 4: XX, XY, YX, YY, with nothing but noise in XY and YX."""
    ascending_channels: bool = False
    """Channels in ascending order, unlike the correlator's."""
    compression: Compression | None = None
    """Filter on the data sets: lzf, gzip or bitshuffle; None, like the correlator."""

    def __post_init__(self) -> None:
        chosen = set(self.only_subbands or ())
        filters = (None, *COMPRESSIONS)
        sound = all(
            math.isfinite(one.ra_deg + one.flux_jy) and abs(one.dec_deg) <= 90
            for one in self.sources or ()
        )
        for name, allowed, wanted in (
            ("start", 1900 <= self.start_utc.year < 2200, "from 1900 to 2199"),
            ("sources", sound, "finite, and from -90 to 90 in declination"),
            ("groups", 1 <= self.groups <= 200_000, "1 to 200000"),
            ("subbands", 1 <= self.subbands <= SUBBANDS, f"1 to {SUBBANDS}"),
            ("only_subbands", chosen <= set(range(self.subbands)), "numbers below subbands"),
            ("antennas", 2 <= self.antennas <= array.STATIONS, f"2 to {array.STATIONS}"),
            ("integrations", 1 <= self.integrations <= 10_000, "1 to 10000"),
            ("channels", 1 <= self.channels <= 65_536, "1 to 65536"),
            ("declination_deg", -90 <= self.declination_deg <= 90, "-90 to 90"),
            ("noise_jy", 0 <= self.noise_jy < math.inf, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("products", self.products in PRODUCTS, "2 or 4"),
            ("compression", self.compression in filters, f"one of {filters}"),
        ):
            if not allowed:
                raise UsageError(f"{name} must be {wanted}, not {getattr(self, name)}")

    @property
    def start_utc(self) -> datetime:
        """The start as naive UTC; a text without an offset is UTC already."""
        try:
            moment = datetime.fromisoformat(self.start)
            utc = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            text = f"start {self.start!r} is not a time like 2025-10-05T03:12:06"
            raise UsageError(text) from error
        return utc.replace(tzinfo=None)

    @property
    def written_subbands(self) -> tuple[int, ...]:
        """Numbers of the subbands to write, ascending."""
        chosen = range(self.subbands) if self.only_subbands is None else self.only_subbands
        return tuple(sorted(set(chosen)))
