"""WSClean finds the sources of a simulated group at their places, with their flux."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from contimg_dask.simulate import Observation, PointSource, simulate
from tests.reference import Converted, convert

pytestmark = [
    pytest.mark.wsclean,
    pytest.mark.skipif(
        shutil.which("wsclean") is None,
        reason="wsclean is not on PATH (Debian: apt install wsclean; .ci/run does it)",
    ),
]

PIXEL_ARCSEC = 6.0
PIXELS = 1024
# The band from end to end, so that channels in a wrong order would smear every source.
OBSERVATION = Observation(
    only_subbands=(0, 6, 15), antennas=72, integrations=3, channels=12, noise_jy=0.3
)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A restored image in Jy/beam."""

    values: npt.NDArray[np.float64]
    wcs: Any
    beam_arcsec: float
    """Major axis of the beam, full width at half maximum."""

    def place(self, source: PointSource) -> tuple[float, float]:
        """Return where a source belongs, in pixels."""
        x, y = self.wcs.world_to_pixel_values(source.ra_deg, source.dec_deg)
        return float(x), float(y)

    def peak(self, x: float, y: float) -> tuple[float, float]:
        """Return offset [arcsec] and height [Jy] of the peak within 30 arcsec of a place.

        The restoring beam is a Gaussian, so its logarithm is a paraboloid, here through nine
        pixels: the peak is found between them.
        """
        reach, column, row = 5, round(x), round(y)
        near = self.values[row - reach : row + reach + 1, column - reach : column + reach + 1]
        highest = np.unravel_index(np.argmax(near), near.shape)
        row, column = row + int(highest[0]) - reach, column + int(highest[1]) - reach
        nine = np.log(self.values[row - 1 : row + 2, column - 1 : column + 2])
        dy, dx = (axis.ravel() for axis in np.mgrid[-1:2, -1:2])
        terms = np.stack([np.ones(9), dx, dy, dx * dx, dx * dy, dy * dy], axis=-1)
        a, b, c, d, e, f = np.linalg.lstsq(terms, nine.ravel(), rcond=None)[0]
        shift_x, shift_y = np.linalg.solve([[2 * d, e], [e, 2 * f]], [-b, -c])
        offset = np.hypot(column + shift_x - x, row + shift_y - y)
        height = np.exp(a + 0.5 * (b * shift_x + c * shift_y))
        return float(offset * PIXEL_ARCSEC), float(height)

    def away_from(self, places: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
        """Return all pixels more than two beams from every place."""
        rows, columns = np.indices(self.values.shape)
        away = np.ones(self.values.shape, dtype=bool)
        for x, y in places:
            away &= np.hypot(columns - x, rows - y) * PIXEL_ARCSEC > 2 * self.beam_arcsec
        return self.values[away]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Converted, list[PointSource]]:
    directory = tmp_path_factory.mktemp("imaging")
    (group,) = simulate(directory / "in", OBSERVATION)
    return convert(group.files, directory / "out", expected=16), list(group.sources)


def image_of(product: Path, field: int, directory: Path) -> Image:
    name = directory / f"field{field}"
    command = [
        "wsclean", "-reorder", "-data-column", "DATA", "-field", str(field),
        "-size", str(PIXELS), str(PIXELS), "-scale", f"{PIXEL_ARCSEC}asec",
        "-weight", "briggs", "0", "-pol", "I", "-niter", "20000", "-mgain", "0.8",
        "-auto-threshold", "4", "-no-update-model-required", "-j", "2",
        "-temp-dir", str(directory), "-name", str(name), str(product),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with fits.open(f"{name}-image.fits") as (image, *_), warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return Image(
            values=image.data[0, 0].astype(np.float64),
            wcs=WCS(image.header).celestial,
            beam_arcsec=image.header["BMAJ"] * 3600,
        )


@pytest.mark.parametrize("field", [0, 2])
def test_sources_stand_at_their_places_with_their_flux_and_nothing_stands_elsewhere(
    field: int, observed: tuple[Converted, list[PointSource]], tmp_path: Path
) -> None:
    converted, sources = observed
    image = image_of(converted.path, field, tmp_path)
    places = [image.place(source) for source in sources]
    assert len(places) == 3
    for source, (x, y) in zip(sources, places, strict=True):
        # Far from the centre, where an error of angle or scale moves a source the most.
        assert np.hypot(x - PIXELS / 2, y - PIXELS / 2) * PIXEL_ARCSEC > 1000
        offset_arcsec, flux_jy = image.peak(x, y)
        assert offset_arcsec < 1
        assert flux_jy == pytest.approx(source.flux_jy, rel=0.02)
    # Nor at the mirror images of the sources, where an error of sign would put them.
    for mirrored_x, mirrored_y in ((-1, 1), (1, -1), (-1, -1)):
        for x, y in places:
            place = (PIXELS / 2 + mirrored_x * (x - PIXELS / 2),
                     PIXELS / 2 + mirrored_y * (y - PIXELS / 2))  # fmt: skip
            assert min(np.hypot(place[0] - u, place[1] - v) for u, v in places) > 50
    assert float(np.abs(image.away_from(places)).max()) < 0.03
