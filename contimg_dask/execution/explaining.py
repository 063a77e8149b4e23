"""What every step does around its work: hold the process's lock, and name what the system refuses."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contimg_dask.errors import ContimgError, NoSpaceError, OutputError
from contimg_dask.model import ConversionPlan
from contimg_dask.offline import use_packaged_tables
from contimg_dask.staging.room import existing_ancestor, megabytes

PROCESS_LOCK = threading.RLock()
"""casacore and HDF5 are not safe under threads: one step at a time."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@functools.cache
def prepare_process() -> None:
    """Make this process ready for steps, once: time and Earth-orientation tables, without network."""
    use_packaged_tables()


@contextmanager
def explaining(plan: ConversionPlan) -> Iterator[None]:
    """Hold the process's lock, and name what the operating system refuses."""
    with PROCESS_LOCK:
        prepare_process()
        try:
            yield
        except OSError as error:
            raise _explained(plan, error) from error
        except OutputError as error:
            # casacore reports a full disk only in its text.
            if os.strerror(errno.ENOSPC) in str(error):
                raise NoSpaceError(_no_space_text(plan, error.path), path=plan.target) from error
            raise


def _explained(plan: ConversionPlan, error: OSError) -> ContimgError:
    where = error.filename or plan.target
    if error.errno in _NO_SPACE:
        return NoSpaceError(_no_space_text(plan, error.filename), path=plan.target)
    if error.errno in _NO_PERMISSION:
        return OutputError(
            f"{where}: {error.strerror}: check owner and permissions, or give another output "
            f"directory",
            path=str(where),
        )
    return OutputError(f"{where}: {error.strerror or error}", code="io-error", path=str(where))


def _no_space_text(plan: ConversionPlan, where: str | None) -> str:
    return (
        f"{_full_place(plan, where)}: the file system became full while {plan.group_id} was "
        f"written, which needs {megabytes(plan.bytes_staged)}: free some space"
    )


def _full_place(plan: ConversionPlan, where: str | None) -> str:
    """Return that of the places a group is written to which shares its file system with a file."""
    places = [*(tier.root for tier in plan.tiers), os.path.dirname(plan.target)]
    device = _device(where or plan.home_root)
    return next((place for place in places if _device(place) == device), where or plan.home_root)


def _device(path: str) -> int:
    return os.stat(existing_ancestor(Path(path))).st_dev
