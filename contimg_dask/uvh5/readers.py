"""Bound how many processes of a node read from one input device at the same time.

A disk that is read in two places at once is slower than one that is read in order. The bound is a
set of small lock files shared by all processes of the node; a lock ends with its holder, whatever
happens to it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_POLL_S = 0.02


@contextmanager
def reader_slot(path: str, most: int | None) -> Iterator[None]:
    """Hold one of ``most`` places at the device a file lies on; None means no bound.

    Notes
    -----
    Safe under threads: yes, each call opens its own lock files. Safe under processes: yes.
    """
    if most is None:
        yield
        return
    device = os.stat(path).st_dev
    directory = os.path.join(tempfile.gettempdir(), f"contimg-dask-readers-{os.getuid()}")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    slots = [
        os.open(
            os.path.join(directory, f"{device}.{slot}"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        for slot in range(most)
    ]
    try:
        while not any(_taken(slot) for slot in slots):
            time.sleep(_POLL_S)
        yield
    finally:
        for slot in slots:
            os.close(slot)


def _taken(slot: int) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
