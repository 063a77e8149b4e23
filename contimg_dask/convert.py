"""The recipe: the steps that make one Measurement Set of one group, in order.

``run`` decides where a step runs: at once in this process, or as a task on a Dask worker. Either
way it returns something that stands for the step's record and can be handed to a later step.
"""

from __future__ import annotations

from typing import Any, Protocol

from contimg_dask.execution import steps
from contimg_dask.model import Attempt, ConversionPlan, Product


class Run(Protocol):
    """Runs one step under a name, with its arguments; returns a handle of its result."""

    def __call__(self, name: str, step: Any, *arguments: Any) -> Any:
        """Run ``step(*arguments)``; handles among the arguments stand for their results."""


def recipe(plan: ConversionPlan, attempt: Attempt, run: Run) -> Any:
    """Convert one group in an attempt that is open, and return the handle of its `Product`.

    The rows (headers, small columns, subtables) and the parts (one per subband, the bulk) do not
    need each other and may run side by side; the reduce step joins, verifies and publishes them.
    """
    rows = run("rows", steps.write_rows, plan, attempt)
    parts = [
        run(f"part-{subband.name}", steps.write_part, plan, attempt, position)
        for position, subband in enumerate(plan.subbands)
    ]
    return run("reduce", steps.reduce_parts, plan, attempt, rows, parts)


def convert_in_order(plan: ConversionPlan, attempt: Attempt) -> Product:
    """Convert one group in this process, one step after the other.

    Raises
    ------
    ContimgError
        As the steps; the attempt's directory is left to whoever began the attempt.
    """

    def at_once(name: str, step: Any, *arguments: Any) -> Any:
        del name
        return step(*arguments)

    steps.open_attempt(plan, attempt)
    product: Product = recipe(plan, attempt, at_once)
    return product
