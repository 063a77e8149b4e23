"""The order of steps of a group whose files lie on several nodes.

The parts are made where the files are, all at once. They travel to the reducing node a few at a
time: what is on its way is in the memory of two workers, and Dask bounds nothing of it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from distributed import Future

from contimg_dask.execution import part_steps
from contimg_dask.execution.steps import open_attempt
from contimg_dask.model import Attempt, ConversionPlan

PARTS_ON_THE_WAY = 2
"""Parts that travel at the same time, per worker process of the reducing node."""


class Hands(Protocol):
    """Hands steps to nodes, as pinned tasks."""

    def hand(self, node: str, name: str, step: Any, *arguments: Any) -> Future[Any]:
        """Hand over a step of the group; its end is told."""

    def hand_loose(self, node: str, name: str, step: Any, *arguments: Any) -> None:
        """Hand over what nobody waits for, and what outlives the group."""

    def forget(self, name: str) -> None:
        """Let go of a step's result."""


class Spread:
    """Hands over each step when those it needs have ended; told of every end by `heard`.

    Parameters
    ----------
    plan, attempt
        Of the group.
    node
        The one that reduces, by IP.
    workers
        Its worker processes.
    hands
        Does what is decided here.
    """

    def __init__(
        self, plan: ConversionPlan, attempt: Attempt, node: str, workers: int, hands: Hands
    ) -> None:
        self._plan = plan
        self._attempt = attempt
        self._node = node
        self._hands = hands
        self._most = PARTS_ON_THE_WAY * max(1, workers)
        self._described: list[Future[Any]] = []
        self._parts: dict[int, Future[Any]] = {}
        self._waiting: deque[int] = deque()
        self._travelling: set[int] = set()
        self._placed: dict[int, Future[Any]] = {}
        self._rows: Future[Any] | None = None
        self._ended: set[str] = set()

    @property
    def nodes(self) -> frozenset[str]:
        """Every node the group still needs, by IP: one whose parts have arrived may go."""
        needed = [
            position
            for position in self._positions
            if "rows" not in self._ended or self._name("place", position) not in self._ended
        ]
        return frozenset({self._node, *map(self._home, needed)})

    @property
    def _positions(self) -> range:
        return range(len(self._plan.subbands))

    def _home(self, position: int) -> str:
        return self._plan.subbands[position].header.node or self._node

    def _name(self, kind: str, position: int) -> str:
        return f"{kind}-{self._plan.subbands[position].name}"

    def begin(self) -> None:
        """Hand over the first steps."""
        self._hands.hand(self._node, "open", open_attempt, self._plan, self._attempt)
        for position in self._positions:
            home = self._home(position)
            described = self._hands.hand(
                home, self._name("describe", position), part_steps.describe_part,
                self._plan, position,
            )  # fmt: skip
            self._described.append(described)
            self._hand_part(home, "openpart", part_steps.open_part, position)

    def _hand_part(self, node: str, kind: str, step: Any, position: int, *more: Any) -> Future[Any]:
        name = self._name(kind, position)
        return self._hands.hand(node, name, step, self._plan, self._attempt, position, *more)

    def _remove_part(self, position: int) -> None:
        name, home = self._name("drop", position), self._home(position)
        arguments = (self._plan, self._attempt, position)
        self._hands.hand_loose(home, name, part_steps.discard_part, *arguments)

    def heard(self, name: str) -> Future[Any] | None:
        """Go on after a step that has ended well; return the future of the last step, once begun."""
        self._ended.add(name)
        kind, _, subband = name.partition("-")
        position = next((i for i in self._positions if self._plan.subbands[i].name == subband), -1)
        if kind == "open":
            self._rows = self._hands.hand(
                self._node, "rows", part_steps.write_rows, self._plan, self._attempt,
                self._described,
            )  # fmt: skip
        elif kind == "rows":
            self._described.clear()
            for described in self._positions:
                self._hands.forget(self._name("describe", described))
        elif kind == "openpart":
            # A result that is held would be made again when its node is back: after the part is gone.
            self._hands.forget(name)
            step = part_steps.write_part
            self._parts[position] = self._hand_part(self._home(position), "part", step, position)
        elif kind == "part":
            self._waiting.append(position)
        elif kind == "place":
            self._arrived(position)
        self._send()
        return self._reduce()

    def _send(self) -> None:
        """Let parts travel, as many as may, once there is a product to put them into."""
        if "open" not in self._ended:
            return
        while self._waiting and len(self._travelling) < self._most:
            position = self._waiting.popleft()
            self._travelling.add(position)
            home = self._home(position)
            sent = self._hand_part(home, "send", part_steps.send_part, position)
            self._placed[position] = self._hand_part(
                self._node, "place", part_steps.place_part, position, self._parts[position], sent
            )

    def _arrived(self, position: int) -> None:
        # What was sent is let go with its future; what was staged goes at once, not at the end.
        self._travelling.discard(position)
        self._parts.pop(position, None)
        for kind in ("part", "send"):
            self._hands.forget(self._name(kind, position))
        self._remove_part(position)

    def _reduce(self) -> Future[Any] | None:
        all_placed = all(
            self._name("place", position) in self._ended for position in self._positions
        )
        if not all_placed or "rows" not in self._ended or "reduce" in self._ended:
            return None
        self._ended.add("reduce")
        placed = [self._placed[position] for position in self._positions]
        return self._hands.hand(
            self._node, "reduce", part_steps.reduce_parts, self._plan, self._attempt,
            self._rows, placed,
        )  # fmt: skip

    def discard(self) -> None:
        """Have every node remove what it has of a group that was given up."""
        for position in self._positions:
            self._remove_part(position)
