"""Which process an attempt belongs to, and whether it still runs."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

from contimg_dask.model import Owner


def current_owner() -> Owner:
    """Return this process, told apart from any other that ever had its number."""
    return _owner(os.getpid())


@functools.cache
def _owner(pid: int) -> Owner:
    return Owner(
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        start_ticks=_start_ticks(pid) or 0,
    )


def is_running(owner: Owner) -> bool | None:
    """Tell whether a process still runs; None when that cannot be seen from here.

    Names of hosts are not trusted to be unique: only a process of the same boot and the same
    process namespace can be looked for.
    """
    if owner.boot_id != _boot_id() or owner.pid_namespace != _pid_namespace():
        return None
    return _start_ticks(owner.pid) == owner.start_ticks


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None when there is none, or a dead one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command in parentheses may hold anything; state is the first field after it.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
