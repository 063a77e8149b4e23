"""Dask worker preload: import and read everything a step needs before the first step comes.

Imports and tables cost seconds once per process; here they are paid while the worker starts.
Use it as ``dask worker --preload contimg_dask.execution.preload``.
"""

from __future__ import annotations

import ctypes

import astropy.units as u
import numpy as np

from contimg_dask.execution.explaining import prepare_process
from contimg_dask.phasing import meridian_fields, meridian_uvw, site_location

_ANY_TIME_JD = 2460953.6
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * 1024 * 1024


def dask_setup(worker: object) -> None:
    """Warm this process up: the first direction on the sky reads tables from disk."""
    del worker
    _keep_freed_memory()
    prepare_process()
    site = site_location(37.2334, -118.2830, 1188.0)
    time_jd, antenna = np.array([_ANY_TIME_JD]), np.array([0])
    dec_rad = float((16.0 * u.deg).to_value(u.rad))
    meridian_fields(time_jd, dec_rad, site)
    meridian_uvw(time_jd, antenna, antenna, antenna, np.zeros((1, 3)), dec_rad, site)


def _keep_freed_memory() -> None:
    """Let malloc keep freed blocks up to 32 MB instead of giving each back to the kernel.

    Dask's nanny sets MALLOC_TRIM_THRESHOLD_, which makes glibc map and unmap every block over
    128 kB anew; casacore takes and frees thousands of tile buffers of 0.8 MB when rows are added,
    and page faults then cost 1.1 s per full-scale group. Other C libraries lack mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 4 * _KEPT_BYTES)
