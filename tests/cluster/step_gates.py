"""A preload of the test bed's workers by which tests hold up steps, and see that they are there.

A file ``STEP`` or ``STEP-SUBBAND`` in the directory holds every step of that name until it is
removed: ``write_part-sb02`` those of one subband. Who is held makes ``STEP-SUBBAND.held-NODE``
first, and goes on alone when there is ``STEP-SUBBAND.let-NODE``.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contimg_dask.execution import part_steps, steps
from contimg_dask.execution.node import this_node

PLACE = "CONTIMG_TEST_STEP_GATES"
_OF_A_PART = ("write_part", "send_part", "place_part")


def dask_setup(worker: object) -> None:
    """Put a gate before each step."""
    del worker
    gates = Path(os.environ[PLACE])
    # Parts of several nodes are written and reduced by the others' steps: those are held there.
    for name in _OF_A_PART:
        setattr(part_steps, name, _gated(getattr(part_steps, name), gates, name))
    for name, alias in (("write_part", "group_part"), ("reduce_parts", "reduce")):
        setattr(steps, name, _gated(getattr(steps, name), gates, alias))


def _gated(step: Callable[..., Any], gates: Path, name: str) -> Any:
    @functools.wraps(step)
    def gated(plan: Any, attempt: Any, *arguments: Any) -> Any:
        position = arguments[0] if arguments else None
        subband = plan.subbands[position].name if isinstance(position, int) else "all"
        node = this_node()
        here = node.name if node else ""
        for gate in (gates / name, gates / f"{name}-{subband}"):
            if gate.exists():
                (gates / f"{name}-{subband}.held-{here}").touch()
            while gate.exists() and not (gates / f"{name}-{subband}.let-{here}").exists():
                time.sleep(0.01)
        return step(plan, attempt, *arguments)

    return gated
