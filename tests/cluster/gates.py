"""A preload of Dask workers by which tests hold up, or kill, what a worker is doing.

Files in a directory say what: ``open-NAME`` and ``reduced-NAME`` hold the groups of the output
directory NAME before their first step, and after their last one, until they are removed;
``deadly-NAME`` kills the worker.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contimg_dask.execution import steps

PLACE = "CONTIMG_TEST_GATES"


def dask_setup(worker: object) -> None:
    """Put gates around the first and the last step."""
    del worker
    gates = Path(os.environ[PLACE])
    steps.open_attempt = _gated(steps.open_attempt, gates, before="open")
    steps.reduce_parts = _gated(steps.reduce_parts, gates, after="reduced")


def _gated(
    step: Callable[..., Any], gates: Path, before: str | None = None, after: str | None = None
) -> Any:
    @functools.wraps(step)
    def gated(plan: Any, *arguments: Any) -> Any:
        output = Path(plan.publication.output_dir).name
        if (gates / f"deadly-{output}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        _pass(gates / f"{before}-{output}")
        result = step(plan, *arguments)
        _pass(gates / f"{after}-{output}")
        return result

    return gated


def _pass(gate: Path) -> None:
    while gate.exists():
        time.sleep(0.01)
