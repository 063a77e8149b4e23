"""Remove what failed attempts left on their nodes, without holding anything up.

A step that is running cannot be stopped, and casacore may end its process when its files vanish
under it: so the workers of the node are asked to come to the end of what they do first. A worker
that does not answer is not waited for long.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from distributed import Future
from distributed.client import ClosedClientError

from contimg_dask.execution import steps
from contimg_dask.execution.cluster import Cluster, hosts, workers_on
from contimg_dask.execution.keys import key_of
from contimg_dask.model import Attempt, ConversionPlan
from contimg_dask.staging.attempts import is_recorded

_PATIENCE_S = 20.0
_AGAIN_AFTER_S = 30.0
_HIGH_PRIORITY = 1_000_000_000


@dataclass(slots=True, kw_only=True, eq=False)
class _Task:
    plan: ConversionPlan
    attempt: Attempt
    node: str
    keep: bool
    waiting: list[Future[Any]] = field(default_factory=list)
    removing: Future[Any] | None = None
    deadline_s: float = 0.0
    done: bool = False


class Cleaning:
    """Takes attempts that ended badly, and tells when nothing of them is left."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tasks: list[_Task] = []
        self._clean: list[str] = []
        self._past: list[tuple[float, _Task]] = []

    @property
    def busy(self) -> bool:
        """Whether anything is still to be removed or told."""
        return bool(self._tasks or self._clean)

    def nothing_to_do(self, name: str) -> None:
        """Take an attempt that has removed its traces itself."""
        self._clean.append(name)

    def begin(self, plan: ConversionPlan, attempt: Attempt, node: str, *, keep: bool) -> None:
        """Take an attempt; ``keep`` the half-made product of a failed group."""
        task = _Task(plan=plan, attempt=attempt, node=node, keep=keep)
        task.deadline_s = time.monotonic() + _PATIENCE_S
        self._tasks.append(task)
        if self._connected:
            task.waiting = [
                self._submit(task, address, steps.wait_until_idle)
                for address in workers_on(self._cluster.client, {node})
            ]

    def advance(self) -> Iterator[str]:
        """Go on with what can go on, and yield the names of attempts that are done with."""
        clean, self._clean = self._clean, []
        yield from clean
        for task in list(self._tasks):
            self._advance(task)
            if task.done:
                self._tasks.remove(task)
                self._past.append((time.monotonic(), task))
                yield task.attempt.name

    def _advance(self, task: _Task) -> None:
        late = time.monotonic() > task.deadline_s
        if task.removing is not None:
            task.done = late or not self._connected or task.removing.done()
        elif late or not self._connected or all(future.done() for future in task.waiting):
            self._remove(task)

    def _remove(self, task: _Task) -> None:
        """Remove here when this machine ran the attempt or its node is gone, else on the node."""
        task.waiting.clear()
        remote = not self._cluster.embedded and self._connected
        if remote and task.node in hosts(self._cluster.client):
            arguments = (task.plan, task.attempt, task.keep)
            task.deadline_s = time.monotonic() + _PATIENCE_S
            task.removing = self._submit(task, task.node, steps.discard_attempt, *arguments)
            return
        # A directory on a shared file system can be reached from here.
        steps.discard_attempt(task.plan, task.attempt, task.keep)
        task.done = True

    def _submit(self, task: _Task, worker: str, step: Any, *arguments: Any) -> Future[Any]:
        return self._cluster.client.submit(
            step,
            *arguments,
            key=key_of(task.attempt.name, f"discard-{uuid.uuid4().hex[:8]}"),
            workers=[worker],
            priority=_HIGH_PRIORITY,
            pure=False,
        )

    @property
    def _connected(self) -> bool:
        return bool(self._cluster.client.status == "running")

    def again(self) -> None:
        """Look once more at what was removed a while ago: a late step may have come after it.

        What is on the disks of a node that is gone waits until the node is back.
        """
        now_s = time.monotonic()
        late = [task for when_s, task in self._past if now_s - when_s > _AGAIN_AFTER_S]
        there = hosts(self._cluster.client) if late and not self._cluster.embedded else {}
        due = [task for task in late if self._cluster.embedded or task.node in there]
        self._past = [entry for entry in self._past if entry[1] not in due]
        for task in due:
            self._remove_if_there(task)

    def _remove_if_there(self, task: _Task) -> None:
        if not self._cluster.embedded or is_recorded(task.plan, task.attempt):
            task.keep = False
            with contextlib.suppress(ClosedClientError):
                self._remove(task)

    def finish(self) -> None:
        """Return when everything is removed, or cannot be within half a minute or so."""
        while self._tasks:
            list(self.advance())
            time.sleep(0.02)
        for _, task in self._past:
            self._remove_if_there(task)
        while any(not task.done for _, task in self._past):
            for _, task in self._past:
                self._advance(task)
            time.sleep(0.02)
        self._past.clear()
