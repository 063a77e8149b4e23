"""The ways to compare with, each run in a process of its own by convert.py.

``peers.py one-object OUT FILE…``   pyuvdata: 16 subbands as one object, then write_ms
``peers.py parts OUT FILE…``        pyuvdata: one Measurement Set per subband, two processes
``peers.py concat OUT PART…``       CASA's concat of the parts (CASA's own Python)
``peers.py copy OUT FILE…``         the floor: copy the files, one process
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import time


def phased(path: str):
    """Read one file and give every integration its meridian phase centre, as a user would."""
    import numpy as np
    from astropy import units
    from astropy.coordinates import HADec, SkyCoord
    from astropy.time import Time
    from pyuvdata import UVData

    data = UVData()
    data.read_uvh5(path, run_check=False)
    data.uvw_array = data.uvw_array.astype(float)
    dec_rad = float(data.extra_keywords["phase_center_dec"])
    times_jd, of_row = np.unique(data.time_array, return_inverse=True)
    meridian = SkyCoord(
        ha=np.zeros(times_jd.size) * units.rad,
        dec=np.full(times_jd.size, dec_rad) * units.rad,
        frame=HADec(obstime=Time(times_jd, format="jd"), location=data.telescope.location),
    ).icrs
    ids = [
        data._add_phase_center(
            f"meridian_icrs_t{index}", cat_type="sidereal", cat_lon=place.ra.rad,
            cat_lat=place.dec.rad, cat_frame="icrs",
        )
        for index, place in enumerate(meridian)
    ]  # fmt: skip
    data.phase_center_id_array = np.array(ids)[of_row]
    data._clear_unused_phase_centers()
    data._set_app_coords_helper()
    data.set_uvws_from_antenna_positions(update_vis=False)
    data.extra_keywords = {}
    data.conjugate_bls("ant1<ant2")
    data.reorder_freqs(channel_order="freq", run_check=False)
    return data


def one_object(out: str, files: list[str]) -> None:
    objects = [phased(path) for path in files]
    first = objects.pop(0)
    first.fast_concat(objects, axis="freq", inplace=True, run_check=False)
    del objects
    first.reorder_freqs(channel_order="freq", run_check=False)
    first.write_ms(out, run_check=False)


def _part(task: tuple[str, str]) -> None:
    out, path = task
    phased(path).write_ms(out, run_check=False)


def parts(out: str, files: list[str]) -> None:
    tasks = [(os.path.join(out, f"part{index:02d}.ms"), path) for index, path in enumerate(files)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_part, tasks, chunksize=1)


def concat(out: str, paths: list[str]) -> None:
    import casaconfig.config as casa_config
    import casadata

    casa_config.measurespath = casadata.datapath
    casa_config.measures_auto_update = False
    casa_config.data_auto_update = False
    import casatasks

    casatasks.concat(vis=paths, concatvis=out)


def copy(out: str, files: list[str]) -> None:
    for path in files:
        shutil.copyfile(path, os.path.join(out, os.path.basename(path)))


def main() -> None:
    way, out, *files = sys.argv[1:]
    start_s = time.perf_counter()
    {"one-object": one_object, "parts": parts, "concat": concat, "copy": copy}[way](out, files)
    seconds = time.perf_counter() - start_s
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak_mb = max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024
    sys.stdout.write("\nRESULT " + json.dumps({"seconds": seconds, "peak_mb": peak_mb}) + "\n")


if __name__ == "__main__":
    main()
