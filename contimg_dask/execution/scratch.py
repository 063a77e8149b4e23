"""The directory of an embedded cluster's own files, and those that killed clusters left behind."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from contimg_dask.copying import allocated_bytes
from contimg_dask.model import Owner
from contimg_dask.staging.owners import current_owner, is_running
from contimg_dask.staging.sweeping import Leftover

_PREFIX = "contimg-dask-"
_OWNER_NAME = "owner.json"


@contextmanager
def scratch_directory() -> Iterator[str]:
    """Make a directory for a cluster that this process starts, gone afterwards."""
    dead_scratch(remove=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as directory:
        Path(directory, _OWNER_NAME).write_text(json.dumps(asdict(current_owner())))
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


def _is_dead(path: Path) -> bool:
    try:
        if path.stat().st_uid != os.getuid():
            return False
        owner = Owner(**json.loads((path / _OWNER_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return False  # somebody else's, or just being made
    return is_running(owner) is False
