"""What products are held against: the same files, converted by pyuvdata and astropy alone.

Nothing here uses the package but `convert`, which makes the product to be compared.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import astropy.units as u
import casacore.tables as tables
import erfa
import numpy as np
import numpy.typing as npt
from astropy.coordinates import EarthLocation, HADec, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from pyuvdata import UVData

from contimg_dask.convert import convert_in_order
from contimg_dask.grouping import assemble_any, group_files
from contimg_dask.model import (
    Attempt,
    ConversionPlan,
    Group,
    Owner,
    Product,
    ProductOptions,
    Publication,
)
from contimg_dask.planning import is_convertible, plan_group, propose_tiers
from contimg_dask.staging.owners import current_owner
from contimg_dask.uvh5.header import peek

Array = npt.NDArray[Any]


def new_attempt(name: str = "2025-01-01T00:00:00.1.test", owner: Owner | None = None) -> Attempt:
    """An attempt of this process, or of another one."""
    return Attempt(number=1, name=name, submitted_s=time.time(), owner=owner or current_owner())


@contextmanager
def memory_directory() -> Iterator[Path]:
    """Make a directory in memory, or on disk where memory is short; it is gone afterwards."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 500_000_000
    with TemporaryDirectory(prefix="contimg-test-", dir=memory if roomy else None) as directory:
        yield Path(directory)


@contextmanager
def without_network() -> Iterator[None]:
    """Let astropy use the tables it has, without asking the network for newer ones."""
    with ExitStack() as stack:
        stack.enter_context(iers.conf.set_temp("auto_download", False))
        stack.enter_context(iers.conf.set_temp("auto_max_age", None))
        stack.enter_context(warnings.catch_warnings())
        # pyuvdata remarks on optional header entries; ERFA on dates past its leap seconds.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        yield


def read_by_pyuvdata(path: Path) -> UVData:
    """Read one UVH5 file; the correlator's float32 uvw would not pass pyuvdata's own check."""
    data = UVData.from_file(str(path), file_type="uvh5", run_check=False)
    data.uvw_array = data.uvw_array.astype(np.float64)
    return data


def read_product_by_pyuvdata(path: Path) -> UVData:
    """Read a Measurement Set; a telescope name is not looked up among the sites on the network."""
    with without_network(), patch.object(EarthLocation, "get_site_names", return_value=[]):
        return UVData.from_file(str(path), file_type="ms", run_check=False)


def phase_to_meridian(data: UVData) -> None:
    """Label each integration with the ICRS direction of (hour angle 0, apparent declination)."""
    times_jd, integration = np.unique(data.time_array, return_inverse=True)
    dec_rad = float(data.extra_keywords["phase_center_dec"])
    frame = HADec(
        obstime=Time(times_jd, format="jd", scale="utc"), location=data.telescope.location
    )
    apparent = SkyCoord(ha=np.zeros(times_jd.size) * u.rad, dec=dec_rad * u.rad, frame=frame)
    icrs = apparent.transform_to("icrs")
    ids = [
        data._add_phase_center(
            f"meridian_icrs_t{index}",
            cat_type="sidereal",
            cat_frame="icrs",
            cat_lon=place.ra.rad,
            cat_lat=place.dec.rad,
        )
        for index, place in enumerate(icrs)
    ]
    data.phase_center_id_array = np.array(ids)[integration]
    data._clear_unused_phase_centers()
    data._set_app_coords_helper()
    # The fringes are stopped there already: the visibilities stay as they are.
    data.set_uvws_from_antenna_positions(update_vis=False)


def reference_ms(
    files: Sequence[Path], out: Path, *, integration_s: float | None = None
) -> list[Path]:
    """Write one Measurement Set per subband file with pyuvdata.

    Parameters
    ----------
    files
        UVH5 files. Where the phase centre is not tracked, each integration gets the meridian.
    out
        Directory for the Measurement Sets, made here.
    integration_s
        Replaces the integration time of the header, where that is known to be wrong.
    """
    out.mkdir(parents=True)
    made = []
    with without_network():
        for path in files:
            data = read_by_pyuvdata(path)
            if integration_s is not None:
                data.integration_time = np.full(data.Nblts, integration_s)
            if {entry["cat_type"] for entry in data.phase_center_catalog.values()} != {"sidereal"}:
                phase_to_meridian(data)
            data.conjugate_bls("ant1<ant2")
            data.reorder_freqs(channel_order="freq", run_check=False)
            # pyuvdata orders the products of DATA itself, but forgets those of WEIGHT and SIGMA.
            data.reorder_pols("CASA", run_check=False)
            made.append(out / f"{path.name}.ms")
            data.write_ms(str(made[-1]), run_check=False)
    return made


def column(path: Path, name: str, start: int = 0, rows: int = -1) -> Array:
    """Read rows of a column of MAIN."""
    with tables.table(str(path), ack=False) as main:
        values: Array = main.getcol(name, start, rows)
    return values


def subtable(path: Path, name: str) -> dict[str, Any]:
    """Read a subtable: one array per column, a list where casacore gives one.

    Columns without a value are left out.
    """
    with tables.table(str(path / name), ack=False) as table:
        return {c: table.getcol(c) for c in table.colnames() if table.iscelldefined(c, 0)}


def row_count(path: Path) -> int:
    """Return the number of rows of a table."""
    with tables.table(str(path), ack=False) as table:
        return int(table.nrows())


def tile_files(path: Path) -> dict[str, bytes]:
    """Read the bytes of every tiled column, by name."""
    with tables.table(str(path), ack=False) as main:
        managers = main.getdminfo().values()
    return {
        manager["COLUMNS"][0]: (path / f"table.f{manager['SEQNR']}_TSM0").read_bytes()
        for manager in managers
        if manager["TYPE"].startswith("Tiled")
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A product, and how it was made."""

    path: Path
    plan: ConversionPlan
    product: Product

    @property
    def windows(self) -> list[tuple[Path, int, int]]:
        """Each window's file, first row and number of rows."""
        rows = self.plan.subbands[0].header.rows
        files = [Path(subband.header.path) for subband in self.plan.subbands]
        return [(file, position * rows, rows) for position, file in enumerate(files)]


def convert(
    files: Sequence[Path],
    out: Path,
    *,
    expected: int | None = None,
    options: ProductOptions | None = None,
    direct: bool = True,
) -> Converted:
    """Convert one group in this process, without a cluster.

    Parameters
    ----------
    files
        All files of one group.
    out
        Directory to hold the product, and for a while the attempt.
    expected
        Subbands of a whole group: the files are grouped by the telescope's rules. None: exactly
        these files are the group, whatever their names.
    """
    headers = [peek(str(path)) for path in files]
    group: Group
    if expected is None:
        group = assemble_any(headers)
    else:
        (group,) = group_files(headers, (), expected)
    options = options or ProductOptions()
    assert is_convertible(group, 1, options.spw) is None
    out.mkdir(parents=True)
    plan = plan_group(
        group,
        kind="science",
        options=options,
        target=str(out / "product.ms"),
        tiers=propose_tiers(str(out)),
        direct=direct,
        parallel=False,
        on_existing="fail",
        publication=Publication(output_dir=str(out)),
    )
    attempt = new_attempt()
    product = convert_in_order(plan, attempt)
    return Converted(path=Path(product.path), plan=plan, product=product)
