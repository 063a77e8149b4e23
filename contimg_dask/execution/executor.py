"""Carry out a list of plans on a cluster, several at a time, each one tried twice at most."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from contimg_dask.errors import ClusterError, ContimgError
from contimg_dask.execution.cluster import Cluster
from contimg_dask.execution.runner import AttemptRunner, InOrder, Listener, Recipe
from contimg_dask.model import Attempt, ConversionPlan, Product
from contimg_dask.staging.owners import current_owner

_POLL_S = 0.5
_WATCH_EVERY_S = 5.0
_MOST_ATTEMPTS = 2
"""A group whose worker died is run once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What came of a plan: a product, or the error of its last attempt.

    ``by_another`` says that the product was put there by an attempt that is not this run's.
    """

    plan: ConversionPlan
    attempts: int
    node: str
    by_another: bool = False
    product: Product | None = None
    error: ContimgError | None = None


class DaskExecutor:
    """Runs plans on a cluster and yields each one's completion.

    Parameters
    ----------
    cluster, recipe, in_order, listener
        As `AttemptRunner` takes them.
    groups_per_node
        Groups in flight on one node at the same time.
    """

    def __init__(
        self,
        cluster: Cluster,
        recipe: Recipe,
        in_order: InOrder,
        listener: Listener,
        *,
        groups_per_node: int,
    ) -> None:
        self._cluster = cluster
        self._listener = listener
        self._runner = AttemptRunner(cluster, recipe, in_order, listener)
        self._groups_per_node = groups_per_node
        self._submitted = 0
        self._failed_on: dict[str, str] = {}
        self._run = uuid.uuid4().hex[:8]

    def run(self, plans: Sequence[ConversionPlan]) -> Iterator[Completion]:
        """Yield the completion of every plan, as they come.

        A plan whose worker dies is run once more. When the generator is closed or an exception
        passes through it, everything in flight is cancelled and its directories are removed.
        """
        waiting = deque((plan, 1) for plan in plans)
        watched_s = time.monotonic()
        try:
            while waiting or self._runner.running:
                if not self._runner.connected:
                    yield from self._fail_all(waiting)
                    return
                while waiting and (node := self._free_node(*waiting[0])) is not None:
                    self._start(*waiting.popleft(), node)
                for done in self._runner.poll(_POLL_S):
                    number = done.attempt.number
                    if done.error and done.error.retryable and number < _MOST_ATTEMPTS:
                        # Nodes are looked at first: what is handed to one that is gone waits long.
                        self._failed_on[done.plan.group_id] = done.node
                        self._runner.watch_nodes()
                        waiting.appendleft((done.plan, number + 1))
                        continue
                    self._listener.group_done(done.plan)
                    product = done.product
                    yield Completion(
                        plan=done.plan,
                        attempts=number,
                        node=done.node,
                        by_another=product is not None and not self._is_ours(product),
                        product=product,
                        error=done.error,
                    )
                if time.monotonic() - watched_s > _WATCH_EVERY_S:
                    watched_s = time.monotonic()
                    self._runner.watch_nodes()
        finally:
            self._runner.close()

    def _is_ours(self, product: Product) -> bool:
        return product.attempt.endswith(f".{self._run}")

    def _free_node(self, plan: ConversionPlan, attempt: int) -> str | None:
        """Return the node with the fewest groups per worker, or None when none has room.

        Where the group failed before is not asked again while there is another, nor a node that
        is not heard of: an attempt would be lost there, and there are only two. A second attempt
        gets a node for itself: when a worker dies, every group with a task queued there is lost
        with it, so a group that kills its workers must not take another one along.
        """
        running = {
            node: [r for r in self._runner.running if r.node == node]
            for node in self._cluster.nodes
        }
        most = self._groups_per_node if attempt == 1 else 1
        avoided = self._failed_on.get(plan.group_id) if len(running) > 1 else None
        free = [
            node
            for node, groups in running.items()
            if node != avoided
            and len(groups) < most
            and all(group.attempt.number == 1 for group in groups)
        ]
        workers = self._cluster.nodes
        if free:
            silent = self._runner.silent_nodes()
            free = [node for node in free if node not in silent]
        return min(free, key=lambda node: len(running[node]) / workers[node], default=None)

    def _start(self, plan: ConversionPlan, number: int, node: str) -> None:
        self._submitted += 1
        attempt = Attempt(
            number=number,
            name=f"{plan.group_id}.{number}.{self._run}",
            submitted_s=time.time(),
            owner=current_owner(),
        )
        self._runner.start(
            plan,
            attempt,
            node,
            # Each group its own: equal ones would be worked on in turns, and end together.
            priority=-self._submitted,
            last_try=number >= _MOST_ATTEMPTS,
        )

    def _fail_all(self, waiting: Iterable[tuple[ConversionPlan, int]]) -> Iterator[Completion]:
        """Fail what is in flight and what has not begun: the scheduler has forgotten everything."""
        error = ClusterError(
            "the connection to the scheduler was lost: see that it runs, and convert again",
            code="scheduler-lost",
        )
        begun = [(r.plan, r.attempt.number, r.node) for r in self._runner.running]
        self._runner.close()
        for plan, attempts, node in (*begun, *((plan, number - 1, "") for plan, number in waiting)):
            self._listener.group_done(plan)
            yield Completion(plan=plan, attempts=attempts, node=node, error=error)
