"""Which rows a quick-look is made from: all autocorrelations, and every n-th cross-baseline.

The sample depends on the antennas and times of the rows alone, so every subband of a group, on
whatever node, looks at the same rows; and it is the same baselines at every integration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_CROSS_BASELINES = 600
"""About as many cross-baselines are looked at: all of 35 antennas, every eighth one of 96."""
_LEAST_PER_ANTENNA = 8

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The rows to look at, ascending, and what each of them is summed into.

    ``slots`` number the sums: integrations first (cross-baselines), then antennas
    (autocorrelations). ``first`` and ``second`` are positions in ``antennas``, which are the
    numbers of those that have rows, ascending; ``times_jd`` are the integrations, ascending.
    ``step`` tells that a cross-baseline is looked at when the positions of its antennas add up to
    a multiple of it.
    """

    rows: IntArray
    slots: IntArray
    first: IntArray
    second: IntArray
    antennas: IntArray
    times_jd: npt.NDArray[np.float64]
    step: int

    @property
    def slot_count(self) -> int:
        """How many sums there are."""
        return int(self.times_jd.size + self.antennas.size)


def sample_rows(
    antenna_1: IntArray, antenna_2: IntArray, time_jd: npt.NDArray[np.float64]
) -> Sample:
    """Choose the rows of a file to look at, by its row axes (rows,)."""
    antennas, (first, second) = _positions(antenna_1, antenna_2)
    times_jd, integration = _integrations(time_jd)
    step = baseline_step(antennas.size)
    autos = first == second
    rows = np.flatnonzero(autos | ((first + second) % step == 0))
    slots = np.where(autos, times_jd.size + first, integration)
    return Sample(
        rows=rows,
        slots=slots[rows],
        first=first[rows],
        second=second[rows],
        antennas=antennas,
        times_jd=times_jd,
        step=step,
    )


def baseline_step(antennas: int) -> int:
    """Return every which cross-baseline is looked at, of an array of so many antennas."""
    wanted = math.ceil(antennas * (antennas - 1) / 2 / MOST_CROSS_BASELINES)
    return max(1, min(wanted, antennas // _LEAST_PER_ANTENNA))


def _positions(antenna_1: IntArray, antenna_2: IntArray) -> tuple[IntArray, tuple[IntArray, ...]]:
    """Return the numbers of the antennas that have rows, and each row's positions among them."""
    # A table of all numbers up to the highest one is many times faster than a sort of all rows.
    there = np.zeros(int(max(antenna_1.max(), antenna_2.max())) + 1, dtype=bool)
    there[antenna_1] = there[antenna_2] = True
    position = np.cumsum(there) - 1
    return np.flatnonzero(there), (position[antenna_1], position[antenna_2])


def _integrations(time_jd: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], IntArray]:
    """Return the integrations, ascending, and which one each row belongs to."""
    # Rows mostly stand integration by integration, so only the heads of runs need sorting.
    heads = np.flatnonzero(np.diff(time_jd, prepend=np.nan) != 0)
    times_jd, of_run = np.unique(time_jd[heads], return_inverse=True)
    return times_jd, np.repeat(of_run, np.diff(heads, append=time_jd.size))
