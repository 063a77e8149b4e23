"""Preload for the workers of an embedded cluster: as the other one, and deaf to Ctrl-C.

A terminal sends Ctrl-C to every process of the command. The command stops its workers itself, in
order; each of them printing a traceback meanwhile would bury what it has to say. For the same
reason Dask's log lines stay off the screen: what matters of them is told as an outcome.
"""

from __future__ import annotations

import logging
import signal

from contimg_dask.execution.preload import dask_setup

__all__ = ["dask_setup"]

signal.signal(signal.SIGINT, signal.SIG_IGN)
for _name in ("distributed", "distributed.worker", "distributed.nanny"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
