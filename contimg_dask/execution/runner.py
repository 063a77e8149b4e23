"""Run attempts on a Dask cluster: one small graph each, all of it pinned to one node.

What runs where, and what is tried again, is decided by the caller: pinned tasks bypass the
scheduler's own queue, and its retries do not cover the death of a worker.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from distributed import Client, Future, KilledWorker
from distributed.client import ClosedClientError, FutureCancelledError, FuturesCancelledError

from contimg_dask.errors import ContimgError, SchedulerLostError, WorkerLostError
from contimg_dask.execution import steps
from contimg_dask.execution.cleaning import Cleaning
from contimg_dask.execution.cluster import Cluster, hosts, silent_hosts
from contimg_dask.execution.keys import key_of
from contimg_dask.execution.spreading import Spread
from contimg_dask.model import Attempt, ConversionPlan, Product

_NODE_LOST_AFTER_S = 30.0
_RESULT_WITHIN_S = 30.0

Recipe = Callable[[ConversionPlan, Attempt, Any], Any]
InOrder = Callable[[ConversionPlan, Attempt], Product]


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
    """What came of an attempt: a product, or its error."""

    plan: ConversionPlan
    attempt: Attempt
    node: str
    product: Product | None = None
    error: ContimgError | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """An attempt on its node.

    ``last_try`` says that no other follows when it fails, ``live`` that it is of data just taken.
    ``spread`` has the order of steps where the files lie on several nodes.
    """

    plan: ConversionPlan
    attempt: Attempt
    node: str
    priority: int
    last_try: bool
    live: bool = False
    futures: dict[str, Future[Any]] = field(default_factory=dict)
    last: Future[Any] | None = None
    lost_since_s: float | None = None
    spread: Spread | None = None

    @property
    def nodes(self) -> frozenset[str]:
        """Every node the attempt needs, by IP."""
        return frozenset({self.node}) if self.spread is None else self.spread.nodes


class AttemptRunner:
    """Runs attempts where it is told to, and returns what came of each, once its traces are gone.

    Parameters
    ----------
    cluster
        Where to run; several threads per worker are safe, because every step takes a lock.
    recipe
        The recipe of one group (`contimg_dask.convert.recipe`).
    in_order
        The same recipe as one task (`contimg_dask.convert.convert_in_order`).
    listener
        Hears of progress, from the thread that polls.
    """

    def __init__(
        self, cluster: Cluster, recipe: Recipe, in_order: InOrder, listener: Listener
    ) -> None:
        self._cluster = cluster
        self._recipe = recipe
        self._in_order = in_order
        self._listener = listener
        self._events: queue.Queue[tuple[Running, str]] = queue.Queue()
        self._running: list[Running] = []
        self._cleaning = Cleaning(cluster)
        self._completions: dict[str, Completion] = {}
        self._loose: list[Future[Any]] = []

    @property
    def running(self) -> list[Running]:
        """Attempts that have not been returned yet, also those whose traces are being removed."""
        return list(self._running)

    @property
    def connected(self) -> bool:
        """Whether the scheduler is still there."""
        return bool(self._cluster.client.status == "running")

    def silent_nodes(self) -> set[str]:
        """Return the nodes that are there, but have not been heard of for a while, by IP."""
        if len(self._cluster.nodes) < 2:  # there is no choice
            return set()
        return silent_hosts(self._cluster.client)

    def start(
        self,
        plan: ConversionPlan,
        attempt: Attempt,
        node: str,
        *,
        priority: int,
        last_try: bool,
        live: bool = False,
    ) -> None:
        """Hand an attempt to a node, given by IP; a higher priority goes first there.

        ``live`` only names its tasks, so that people can tell them from a backlog's.
        """
        running = Running(
            plan=plan,
            attempt=attempt,
            node=node,
            priority=priority,
            last_try=last_try,
            live=live,
        )
        self._running.append(running)
        self._listener.group_started(plan)
        if plan.spread:
            workers = self._cluster.nodes.get(node, 1)
            running.spread = Spread(plan, attempt, node, workers, _Hands(self, running))
            running.spread.begin()
        elif plan.parallel:
            self._run_step(running, "open", steps.open_attempt, plan, attempt)
        else:
            running.last = self._run_step(running, "group", self._in_order, plan, attempt)

    def _begin(self, running: Running) -> None:
        """Hand over the group's graph, once the attempt is open.

        The steps do not depend on the task that opened it: fetching its result from a worker that
        is busy inside casacore, which holds the interpreter's lock, would cost seconds.
        """

        def run(name: str, step: Any, *arguments: Any) -> Future[Any]:
            return self._run_step(running, name, step, *arguments)

        running.last = self._recipe(running.plan, running.attempt, run)

    def _run_step(self, running: Running, name: str, step: Any, *arguments: Any) -> Future[Any]:
        future = self._submit(running, running.node, name, step, *arguments)
        return self._listen(running, name, future)

    def _listen(self, running: Running, name: str, future: Future[Any]) -> Future[Any]:
        running.futures[name] = future
        future.add_done_callback(lambda _: self._events.put((running, name)))
        return future

    def _submit(
        self, running: Running, node: str, name: str, step: Any, *arguments: Any
    ) -> Future[Any]:
        return self._cluster.client.submit(
            step,
            *arguments,
            key=key_of(running.attempt.name, name, live=running.live),
            workers=[node],
            allow_other_workers=False,
            priority=running.priority,
            pure=False,
            retries=0,
        )

    def hand(
        self, running: Running, node: str, name: str, step: Any, *arguments: Any
    ) -> Future[Any]:
        """Hand a step of an attempt to another node than the one it reduces on."""
        return self._listen(running, name, self._submit(running, node, name, step, *arguments))

    def hand_loose(
        self, running: Running, node: str, name: str, step: Any, *arguments: Any
    ) -> None:
        """Hand over what nobody waits for; it is held until it has ended."""
        self._loose = [future for future in self._loose if not future.done()]
        with contextlib.suppress(ClosedClientError):
            self._loose.append(self._submit(running, node, name, step, *arguments))

    def poll(self, timeout_s: float) -> Iterator[Completion]:
        """Wait a moment for something to happen, and yield what has ended."""
        with contextlib.suppress(queue.Empty):
            self._hear(*self._events.get(timeout=0.02 if self._cleaning.busy else timeout_s))
        for name in self._cleaning.advance():
            if name in self._completions:
                yield self._completions.pop(name)
                self._running = [r for r in self._running if r.attempt.name != name]

    def _hear(self, running: Running, step_name: str) -> None:
        if running not in self._running or running.attempt.name in self._completions:
            return
        done = running.futures.get(step_name)
        if done is None:
            return
        if done.status == "finished" and running.spread is not None:
            running.last = running.spread.heard(step_name) or running.last
        elif done.status == "finished" and step_name == "open":
            self._begin(running)
        if done.status == "finished" and done is not running.last:
            self._listener.step_done(running.plan, step_name)
        elif running.last is None or running.last.done():
            # The result is read and every future let go: one that is held would be run again when
            # the worker that has its result dies.
            self._end(running, *_outcome(running.last or done))

    def _end(self, running: Running, product: Product | None, error: ContimgError | None) -> None:
        if error is not None:
            self._cancel(running)
        running.futures.clear()
        running.last = None
        spread, running.spread = running.spread, None
        self._completions[running.attempt.name] = Completion(
            plan=running.plan,
            attempt=running.attempt,
            node=running.node,
            product=product,
            error=error,
        )
        if error is None:
            self._cleaning.nothing_to_do(running.attempt.name)
            return
        if spread is not None:
            spread.discard()
        kept = running.plan.publication.keep_failed and (running.last_try or not error.retryable)
        self._cleaning.begin(running.plan, running.attempt, running.node, keep=kept)

    def give_up(self, name: str, error: ContimgError) -> None:
        """End an attempt with this error; its traces are removed as those of any other."""
        for running in self._running:
            if running.attempt.name == name and name not in self._completions:
                self._end(running, None, error)

    def watch_nodes(self) -> None:
        """Notice nodes that came or went, and give up attempts on those gone for a while."""
        if not self.connected:
            return
        self._cluster.nodes.update(present := hosts(self._cluster.client))
        for node in set(self._cluster.nodes) - set(present):
            if len(self._cluster.nodes) > 1:
                del self._cluster.nodes[node]
        now_s = time.monotonic()
        for running in list(self._running):
            gone = running.nodes - set(present)
            if not gone:
                running.lost_since_s = None
            elif running.lost_since_s is None:
                running.lost_since_s = now_s
            elif now_s - running.lost_since_s > _NODE_LOST_AFTER_S:
                text = f"node {min(gone)}, on which the group ran, has gone"
                self.give_up(running.attempt.name, WorkerLostError(text))
        self._cleaning.again()

    def close(self) -> None:
        """Cancel what is in flight and leave nothing of it behind."""
        gone = [r for r in self._running if r.attempt.name not in self._completions]
        self._running = []
        if gone and self._cluster.halt is not None:
            self._cluster.halt()
        for running in gone:
            self._cancel(running)
            if running.spread is not None and self.connected:
                running.spread.discard()
            self._cleaning.begin(running.plan, running.attempt, running.node, keep=False)
        self._cleaning.finish()

    def _cancel(self, running: Running) -> None:
        # A client that has lost its scheduler has nothing left to cancel.
        with contextlib.suppress(ClosedClientError):
            client: Client = self._cluster.client
            client.cancel(list(running.futures.values()), force=True)


class _Hands:
    """What a spread group needs of the runner."""

    def __init__(self, runner: AttemptRunner, running: Running) -> None:
        self._runner = runner
        self._running = running

    def hand(self, node: str, name: str, step: Any, *arguments: Any) -> Future[Any]:
        return self._runner.hand(self._running, node, name, step, *arguments)

    def hand_loose(self, node: str, name: str, step: Any, *arguments: Any) -> None:
        self._runner.hand_loose(self._running, node, name, step, *arguments)

    def forget(self, name: str) -> None:
        self._running.futures.pop(name, None)


def _outcome(future: Future[Any]) -> tuple[Product | None, ContimgError | None]:
    try:
        if future.status == "finished":
            product: Product = future.result(timeout=_RESULT_WITHIN_S)
            return product, None
        # Of a future that is lost nothing can be asked: the answer would never come.
        error = future.exception() if future.status == "error" else None
    except TimeoutError:
        # It may be published: then the next attempt finds it.
        return None, WorkerLostError("the node was lost between the group's end and its report")
    except (FutureCancelledError, FuturesCancelledError, OSError):
        # OSError: the connection broke while the result was on its way.
        error = None
    except (KilledWorker, ContimgError) as ended:
        # The worker died with the result, Dask ran the steps again, and they ended in this.
        error = ended
    return None, _error_of(error)


def _error_of(error: BaseException | None) -> ContimgError:
    if error is None:
        # Dask gives a worker's death a name; without one the connection went, or the scheduler.
        return SchedulerLostError("the scheduler was lost while it worked on the group")
    if isinstance(error, ContimgError):
        return error
    if isinstance(error, KilledWorker):
        return WorkerLostError(
            f"the worker at {error.last_worker.address} died while it worked on the group (killed, "
            f"or out of memory): see the system log of that node"
        )
    # Not a failure anyone foresaw: the group fails with what is known, the others go on.
    return ContimgError(f"unexpected {type(error).__name__}: {str(error)[:300]}")
