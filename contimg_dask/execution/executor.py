"""Run groups on a Dask cluster: one small graph per attempt, all of it pinned to one node.

Placement, retry and back-pressure are decided here: pinned tasks bypass the scheduler's own
queue, and its retries do not cover the death of a worker.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from distributed import Client, Future, KilledWorker
from distributed.client import ClosedClientError, FutureCancelledError, FuturesCancelledError

from contimg_dask.errors import ClusterError, ContimgError, WorkerLostError
from contimg_dask.execution import steps
from contimg_dask.execution.cluster import Cluster, hosts, workers_on
from contimg_dask.model import Attempt, ConversionPlan, Product

_POLL_S = 0.5
_WATCH_EVERY_S = 5.0
_NODE_LOST_AFTER_S = 30.0
_DISCARD_TIMEOUT_S = 20.0
_MOST_ATTEMPTS = 2
"""A group whose worker died is run once more."""

Recipe = Callable[[ConversionPlan, Attempt, Any], Any]


class Listener(Protocol):
    """Hears what happens to groups while it happens."""

    def group_started(self, plan: ConversionPlan) -> None:
        """An attempt at a group was handed to the cluster."""

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        """A step of a group is done."""

    def group_done(self, plan: ConversionPlan) -> None:
        """Nothing more will be done for a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What came of a plan: a product, or the error of its last attempt."""

    plan: ConversionPlan
    attempts: int
    node: str
    product: Product | None = None
    error: ContimgError | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Running:
    plan: ConversionPlan
    attempt: Attempt
    node: str
    priority: int
    futures: dict[str, Future[Any]] = field(default_factory=dict)
    last: Future[Any] | None = None
    lost_since_s: float | None = None


class DaskExecutor:
    """Runs plans on a cluster, several at a time, and yields each one's completion.

    Parameters
    ----------
    cluster
        Where to run; several threads per worker are safe, because every step takes a lock.
    recipe
        The recipe of one group (`contimg_dask.convert.recipe`).
    in_order
        The same recipe as one task (`contimg_dask.convert.convert_in_order`).
    listener
        Hears of progress, from this thread.
    groups_per_node
        Groups in flight on one node at the same time.
    """

    def __init__(
        self,
        cluster: Cluster,
        recipe: Recipe,
        in_order: Callable[[ConversionPlan, Attempt], Product],
        listener: Listener,
        *,
        groups_per_node: int,
    ) -> None:
        self._cluster = cluster
        self._recipe = recipe
        self._in_order = in_order
        self._listener = listener
        self._groups_per_node = groups_per_node
        self._events: queue.Queue[tuple[_Running, str]] = queue.Queue()
        self._running: list[_Running] = []
        self._given_up: list[_Running] = []
        self._submitted = 0

    def run(self, plans: Sequence[ConversionPlan]) -> Iterator[Completion]:
        """Yield the completion of every plan, as they come.

        A plan whose worker dies is run once more. When the generator is closed or an exception
        passes through it, everything in flight is cancelled and its directories are removed.
        """
        waiting = deque((plan, 1) for plan in plans)
        watched_s = time.monotonic()
        try:
            while waiting or self._running:
                if self._cluster.client.status != "running":
                    yield from self._fail_all(waiting)
                    return
                while waiting and (node := self._free_node(waiting[0][1])) is not None:
                    self._submit(*waiting.popleft(), node)
                for completion in self._next():
                    retry = completion.error is not None and completion.error.retryable
                    if retry and completion.attempts < _MOST_ATTEMPTS:
                        waiting.appendleft((completion.plan, completion.attempts + 1))
                    else:
                        self._listener.group_done(completion.plan)
                        yield completion
                if time.monotonic() - watched_s > _WATCH_EVERY_S:
                    watched_s = time.monotonic()
                    self._watch_nodes()
        finally:
            self._abandon()
            # A step that was running while its attempt was given up may have come after the
            # removal; by now it is over.
            self._remove([late for late in self._given_up if self._may_exist(late)])

    def _free_node(self, attempt: int) -> str | None:
        """Return the node with the fewest groups per worker, or None when none has room.

        A second attempt gets a node for itself: when a worker dies, every group with a task queued
        there is lost with it, so a group that kills its workers must not take another one along.
        """
        running = {
            node: [r for r in self._running if r.node == node] for node in self._cluster.nodes
        }
        most = self._groups_per_node if attempt == 1 else 1
        free = [
            node
            for node, groups in running.items()
            if len(groups) < most and all(group.attempt.number == 1 for group in groups)
        ]
        workers = self._cluster.nodes
        return min(free, key=lambda node: len(running[node]) / workers[node], default=None)

    def _submit(self, plan: ConversionPlan, number: int, node: str) -> None:
        name = f"{plan.group_id}.{number}.{uuid.uuid4().hex[:8]}"
        attempt = Attempt(
            number=number,
            directory=os.path.join(plan.staging_root, name),
            submitted_s=time.time(),
        )
        self._submitted += 1
        running = _Running(plan=plan, attempt=attempt, node=node, priority=-self._submitted)
        self._running.append(running)
        self._listener.group_started(plan)
        if plan.parallel:
            self._run_step(running, "open", steps.open_attempt, plan, attempt)
        else:
            running.last = self._run_step(running, "group", self._in_order, plan, attempt)

    def _begin(self, running: _Running) -> None:
        """Hand over the group's graph, once the attempt is open.

        The steps do not depend on the task that opened it: fetching its result from a worker that
        is busy inside casacore, which holds the interpreter's lock, would cost seconds.
        """

        def run(name: str, step: Any, *arguments: Any) -> Future[Any]:
            return self._run_step(running, name, step, *arguments)

        running.last = self._recipe(running.plan, running.attempt, run)

    def _run_step(self, running: _Running, name: str, step: Any, *arguments: Any) -> Future[Any]:
        # The key begins with the step and goes on with the group, which begins with a digit: that
        # is what the dashboard groups by.
        kind, _, subband = name.partition("-")
        key = f"{kind}-{running.attempt.name}"
        future = self._cluster.client.submit(
            step,
            *arguments,
            key=f"{key}-{subband}" if subband else key,
            workers=[running.node],
            allow_other_workers=False,
            priority=running.priority,
            pure=False,
            retries=0,
        )
        running.futures[name] = future
        future.add_done_callback(lambda _: self._events.put((running, name)))
        return future

    def _next(self) -> Iterator[Completion]:
        """Wait a moment for something to happen, and yield what is complete by it."""
        try:
            running, step_name = self._events.get(timeout=_POLL_S)
        except queue.Empty:
            return
        if running not in self._running:
            return
        done = running.futures[step_name]
        if step_name == "open" and done.status == "finished":
            self._begin(running)
        if done.status == "finished" and done is not running.last:
            self._listener.step_done(running.plan, step_name)
        elif running.last is None or running.last.done():
            yield self._complete(running, running.last or done)

    def _complete(self, running: _Running, last: Future[Any]) -> Completion:
        # The result is read and every future let go: one that is held would be run again when
        # the worker that has its result dies.
        product, error = _outcome(last)
        return self._finish(running, product, error)

    def _finish(
        self, running: _Running, product: Product | None, error: ContimgError | None
    ) -> Completion:
        self._running.remove(running)
        if error is not None:
            self._cancel([running])
            self._discard([running])
        running.futures.clear()
        return Completion(
            plan=running.plan,
            attempts=running.attempt.number,
            node=running.node,
            product=product,
            error=error,
        )

    def _fail_all(self, waiting: Iterable[tuple[ConversionPlan, int]]) -> Iterator[Completion]:
        """Fail what is in flight and what has not begun: the scheduler has forgotten everything."""
        error = ClusterError(
            "the connection to the scheduler was lost: see that it runs, and convert again",
            code="scheduler-lost",
        )
        for running in list(self._running):
            yield self._finish(running, None, error)
        for plan, attempt in waiting:
            self._listener.group_done(plan)
            yield Completion(plan=plan, attempts=attempt - 1, node="", error=error)

    def _watch_nodes(self) -> None:
        """Give up attempts on nodes that have had no worker for a while."""
        self._cluster.nodes.update(present := hosts(self._cluster.client))
        for node in set(self._cluster.nodes) - set(present):
            if len(self._cluster.nodes) > 1:
                del self._cluster.nodes[node]
        now_s = time.monotonic()
        for running in list(self._running):
            if running.node in present:
                running.lost_since_s = None
            elif running.lost_since_s is None:
                running.lost_since_s = now_s
            elif now_s - running.lost_since_s > _NODE_LOST_AFTER_S:
                self._cancel([running])

    def _discard(self, gone: list[_Running]) -> None:
        """Remove attempts' directories, once no step of theirs is running any more."""
        self._given_up += gone
        if self._cluster.client.status == "running":
            # Steps cannot be stopped, but they hold their process's lock until they are done.
            addresses = workers_on(self._cluster.client, {running.node for running in gone})
            self._cluster.client.run(steps.wait_until_idle, workers=addresses, on_error="ignore")
        self._remove(gone)

    def _may_exist(self, gone: _Running) -> bool:
        return not self._cluster.embedded or os.path.lexists(gone.attempt.directory)

    def _remove(self, gone: list[_Running]) -> None:
        """Remove directories: here when this machine ran the attempts, else on their nodes."""
        connected = not self._cluster.embedded and self._cluster.client.status == "running"
        present = hosts(self._cluster.client) if connected else {}
        for running in gone:
            if running.node not in present:
                # Its node is gone; a directory on a shared file system can be reached from here.
                steps.discard_attempt(running.attempt)
        gone = [running for running in gone if running.node in present]
        client: Client = self._cluster.client
        futures = [
            client.submit(
                steps.discard_attempt,
                running.attempt,
                key=f"discard-{running.attempt.name}-{uuid.uuid4().hex[:8]}",
                workers=[running.node],
                priority=1,
                pure=False,
            )
            for running in gone
        ]
        deadline_s = time.monotonic() + _DISCARD_TIMEOUT_S
        while not all(future.done() for future in futures) and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def _abandon(self) -> None:
        """Cancel what is in flight and leave nothing of it behind."""
        gone, self._running = self._running, []
        if not gone:
            return
        if self._cluster.halt is not None:
            self._cluster.halt()
            self._remove(gone)
        else:
            self._cancel(gone)
            self._discard(gone)

    def _cancel(self, gone: list[_Running]) -> None:
        futures = [future for running in gone for future in running.futures.values()]
        # A client that has lost its scheduler has nothing left to cancel.
        with contextlib.suppress(ClosedClientError):
            self._cluster.client.cancel(futures, force=True)


def _outcome(future: Future[Any]) -> tuple[Product | None, ContimgError | None]:
    try:
        if future.status == "finished":
            product: Product = future.result()
            return product, None
        error = future.exception()
    except (FutureCancelledError, FuturesCancelledError):
        error = None
    if error is None:
        return None, WorkerLostError("the node the group ran on was lost, or its scheduler")
    if isinstance(error, ContimgError):
        return None, error
    if isinstance(error, KilledWorker):
        return None, WorkerLostError(
            f"the worker at {error.last_worker.address} died while it worked on the group (killed, "
            f"or out of memory): see the system log of that node"
        )
    # Not a failure anyone foresaw: the group fails with what is known, the others go on.
    return None, ContimgError(f"unexpected {type(error).__name__}: {str(error)[:300]}")
