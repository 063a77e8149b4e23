"""A memory limit of the kernel's around processes that run already: the real thing, not a signal.

What they have taken before counts elsewhere: a limit of a few MiB is crossed by the next step that
needs more, and the kernel kills the largest of them.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class NoControlGroup(Exception):
    """No memory control group can be made here; the text says why."""


class MemoryLimit:
    """A control group below our own, with a limit on its memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_v2 = (directory / "memory.max").exists()

    @property
    def kills(self) -> int:
        """How often the kernel has killed one of its processes for memory."""
        file = self._directory / ("memory.events" if self._is_v2 else "memory.oom_control")
        words = dict(line.split() for line in file.read_text().splitlines())
        return int(words["oom_kill"])

    def hold(self, pids: Iterable[int], size_bytes: int) -> None:
        """Put processes under a limit."""
        name = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        (self._directory / name).write_text(str(size_bytes))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (self._directory / "cgroup.procs").write_text(str(pid))

    def lift(self) -> None:
        """Let them have what they want."""
        name, whole = ("memory.max", "max") if self._is_v2 else ("memory.limit_in_bytes", "-1")
        (self._directory / name).write_text(whole)

    def close(self) -> None:
        """Give the processes back to where they were, also those begun meanwhile, and remove it."""
        self.lift()
        deadline_s = time.monotonic() + 20
        while True:
            for pid in (self._directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (self._directory.parent / "cgroup.procs").write_text(pid)
            try:
                self._directory.rmdir()
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
            else:
                return


@contextmanager
def memory_limit() -> Iterator[MemoryLimit]:
    """Make a control group for the block.

    Raises
    ------
    NoControlGroup
        This machine does not let us.
    """
    directory = _own_directory() / f"contimg-test-{os.getpid()}-{uuid.uuid4().hex[:4]}"
    try:
        directory.mkdir()
    except OSError as error:
        raise NoControlGroup(f"no memory control group can be made here ({error})") from error
    if not any((directory / f"memory.{n}").exists() for n in ("max", "limit_in_bytes")):
        directory.rmdir()
        raise NoControlGroup(f"{directory.parent} hands no memory controller down")
    limit = MemoryLimit(directory)
    try:
        yield limit
    finally:
        limit.close()


def _own_directory() -> Path:
    """Return our own control group of memory: in a container the root of what is mounted there."""
    mounts = [line.split()[1:4] for line in Path("/proc/mounts").read_text().splitlines()]
    for where, kind, options in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return _below(Path(where), "memory")
    for where, kind, _ in mounts:
        if kind == "cgroup2":
            return _below(Path(where), "")
    raise NoControlGroup("no control groups are mounted here")


def _below(mounted: Path, controller: str) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = mounted / path.lstrip("/")
            return own if own.is_dir() else mounted
    return mounted
