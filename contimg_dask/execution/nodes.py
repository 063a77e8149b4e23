"""What is known of a cluster's nodes: room in their tiers, and clearing up what was given up there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from distributed import Future, KilledWorker
from distributed.client import ClosedClientError, FutureCancelledError

from contimg_dask.discovery import Discovered
from contimg_dask.errors import ClusterError, ContimgError
from contimg_dask.execution.cluster import Cluster, hosts
from contimg_dask.execution.node_steps import Measured, discover_here, measure, sweep_given_up
from contimg_dask.model import Owner, Tier
from contimg_dask.staging.reserving import TierUsage

_HIGH_PRIORITY = 1_000_000_000
_PATIENCE_S = 120.0
_LOOK_EVERY_S = 2.0


class Nodes:
    """Asks nodes things without waiting for them: a node that does not answer is not known.

    Parameters
    ----------
    cluster
        Whose ``nodes`` are asked.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._measured: dict[str, Measured] = {}
        self._measured_s: dict[str, float] = {}
        self._asked: dict[str, tuple[float, concurrent.futures.Future[Measured]]] = {}
        self._sweeps: list[Future[Any]] = []

    def ask(self, tiers: tuple[Tier, ...]) -> None:
        """Have every node measure these tiers, but for those that have not answered yet."""
        self._hear()
        now_s = time.monotonic()
        for node in self._cluster.nodes:
            asked = self._asked.get(node)
            if asked is None or now_s - asked[0] > _PATIENCE_S:
                future = self._submit("room", node, measure, tiers)
                if future is not None:
                    self._asked[node] = (now_s, self._fetched(future))

    def room_bytes(self, node: str, tier: Tier) -> int | None:
        """Return what a tier could promise when the node was last asked, None if it never answered."""
        self._hear()
        measured = self._measured.get(node)
        return None if measured is None else measured.room_bytes.get(tier.root)

    def tiers(self, node: str) -> tuple[TierUsage, ...]:
        """Return how a node's tiers stood when it was last asked; none if it never answered."""
        self._hear()
        measured = self._measured.get(node)
        return () if measured is None else measured.tiers

    def reduces(self, node: str) -> bool:
        """Tell whether a node reduces groups of several nodes; not before it has said so."""
        self._hear()
        measured = self._measured.get(node)
        return measured is not None and measured.reduces

    def measured_s(self, node: str) -> float:
        """Return when a node was asked what it last answered [monotonic s]; 0 where it never did."""
        return self._measured_s.get(node, 0.0)

    def sweep(self, roots: Sequence[str], owners: Sequence[Owner], names: Collection[str]) -> None:
        """Have every node remove what was given up there (`sweep_given_up`)."""
        self._sweeps = [future for future in self._sweeps if not future.done()]
        arguments = (tuple(roots), tuple(owners), frozenset(names))
        for node in self._cluster.nodes:
            future = self._submit("sweep", node, sweep_given_up, *arguments)
            if future is not None:
                self._sweeps.append(future)

    def wait_for_sweeps(self, timeout_s: float) -> None:
        """Wait until the nodes have swept, but not longer than that [s]."""
        deadline_s = time.monotonic() + timeout_s
        while any(not future.done() for future in self._sweeps):
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.02)

    def discover(
        self, directory: str, start_mjd: float | None, end_mjd: float | None
    ) -> list[Discovered]:
        """Return what every node has recorded itself (`discover_here`); waits for all of them.

        Raises
        ------
        ClusterError
            A node has gone, or does not answer.
        UsageError
            A node cannot list its directory.
        """
        asked = {
            node: self._submit("discover", node, discover_here, directory, node, start_mjd, end_mjd)
            for node in self._cluster.nodes
        }
        return [self._answer(node, future) for node, future in asked.items()]

    def _answer(self, node: str, future: Future[Any] | None) -> Any:
        deadline_s = time.monotonic() + _PATIENCE_S
        while future is not None:
            try:
                return future.result(timeout=_LOOK_EVERY_S)
            except ContimgError:
                raise
            except TimeoutError as error:
                # What was to run on a node that has gone would wait until it is back.
                if time.monotonic() > deadline_s or node not in hosts(self._cluster.client):
                    raise _silent(node, "it has gone, or is busy") from error
            except (OSError, KilledWorker, FutureCancelledError) as error:
                raise _silent(node, str(error)) from error
        raise _silent(node, "the scheduler has gone")

    def _submit(self, what: str, node: str, step: Any, *arguments: Any) -> Future[Any] | None:
        with contextlib.suppress(ClosedClientError):
            return self._cluster.client.submit(
                step,
                *arguments,
                key=f"{what}-{node}-{uuid.uuid4().hex[:8]}",
                workers=[node],
                priority=_HIGH_PRIORITY,
                pure=False,
                retries=0,
            )
        return None

    def _fetched(self, future: Future[Any]) -> concurrent.futures.Future[Any]:
        """Have the client's own thread wait for a result.

        Also the result of a task that has ended may not come for as long as its node is frozen.
        """
        client = self._cluster.client
        return asyncio.run_coroutine_threadsafe(
            client.gather(future, asynchronous=True),
            client.loop.asyncio_loop,  # type: ignore[union-attr]  # every IOLoop of Dask has one
        )

    def _hear(self) -> None:
        for node, (asked_s, answer) in list(self._asked.items()):
            if not answer.done():
                continue
            del self._asked[node]
            if not answer.cancelled() and answer.exception() is None:
                self._measured[node] = answer.result()
                self._measured_s[node] = asked_s


def _silent(node: str, why: str) -> ClusterError:
    return ClusterError(f"node {node} does not say which files it has: {why}")
