"""The directory of an embedded cluster's own files, and those that killed clusters left behind."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contimg_dask.copying import allocated_bytes
from contimg_dask.model import Owner
from contimg_dask.staging.owners import current_owner, is_running
from contimg_dask.staging.sweeping import Leftover

_PREFIX = "contimg-dask-"
_NAME = re.compile(
    re.escape(_PREFIX)
    + r"(?P<boot>[0-9a-f]{32})-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<ticks>\d+)-\w+"
)


@contextmanager
def scratch_directory() -> Iterator[str]:
    """Make a directory for a cluster that this process starts, gone afterwards."""
    dead_scratch(remove=True)
    # Whose it is stands in its name: there from the first moment to the last, wherever the
    # process is killed.
    prefix = _prefix_of(current_owner())
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as directory:
        yield directory


def dead_scratch(*, remove: bool) -> list[Leftover]:
    """Return what clusters of dead processes left on this machine; removed if asked for."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        if not _is_dead(path):
            continue
        size_bytes = allocated_bytes(str(path))
        if remove:
            shutil.rmtree(path, ignore_errors=True)
        found.append(
            Leftover(
                name=path.name,
                paths=(str(path),),
                size_bytes=size_bytes,
                alive=None,
                removed=not path.exists(),
            )
        )
    return found


def _prefix_of(owner: Owner) -> str:
    boot = owner.boot_id.replace("-", "")
    return f"{_PREFIX}{boot}-{owner.pid_namespace}-{owner.pid}-{owner.start_ticks}-"


def _owner_in(name: str) -> Owner | None:
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return Owner(
        host="",
        boot_id=str(uuid.UUID(found["boot"])),
        pid_namespace=int(found["namespace"]),
        pid=int(found["pid"]),
        start_ticks=int(found["ticks"]),
    )


def _is_dead(path: Path) -> bool:
    owner = _owner_in(path.name)
    try:
        if owner is None or path.stat().st_uid != os.getuid():
            return False
    except OSError:
        return False  # removed just now
    return is_running(owner) is False
