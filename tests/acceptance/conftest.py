"""Real commands in processes of their own, and one embedded cluster for all calls from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from contimg_dask.execution.cluster import embedded_cluster
from contimg_dask.faults import Fault
from contimg_dask.simulate import Observation, simulate

COMMAND = str(Path(sys.executable).with_name("contimg-dask"))
SMALL = {"antennas": 6, "integrations": 2, "channels": 8}
START = "2025-10-05T03:12:06"


@dataclass(frozen=True)
class Ran:
    """What a finished command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Standard output as JSON; fails when anything else is there."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    def group(self, group_id: str) -> dict[str, Any]:
        """The record of one group."""
        return next(group for group in self.report["groups"] if group["id"] == group_id)


def run(*arguments: str | Path, cwd: Path | None = None) -> Ran:
    """Run the real command and return what it did."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def make_groups(directory: Path, *faults: str, **observation: Any) -> list[Any]:
    """Simulate small groups whose names carry no jitter, so that ids are known."""
    wanted = SMALL | {"name_jitter": False, "start": START} | observation
    return simulate(directory, Observation(**wanted), [Fault.parse(text) for text in faults])


def tree(directory: Path) -> list[str]:
    """Every path below a directory that is not inside a product."""
    found = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if not any(part.endswith(".ms") for part in relative.parts[:-1]):
            found.append(str(relative))
    return found


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A client of two one-thread worker processes that all tests share."""
    with embedded_cluster(2, "2GiB", "127.0.0.1:0") as cluster:
        yield cluster.client
