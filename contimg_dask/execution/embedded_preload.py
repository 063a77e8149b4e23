"""Preload for the workers of an embedded cluster: as the other one, and quiet.

Dask's log lines stay off the screen of the command: what matters of them is told as an outcome.
"""

from __future__ import annotations

import logging

from contimg_dask.execution.preload import dask_setup

__all__ = ["dask_setup"]

for _name in ("distributed", "distributed.worker", "distributed.nanny"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
