"""The cluster as the dispatcher sees it: it may go at any time, and come back as another one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from contimg_dask.batch import open_cluster
from contimg_dask.convert import convert_in_order, recipe
from contimg_dask.discovery import Discovered
from contimg_dask.dispatching.placing import Load, Node
from contimg_dask.errors import ClusterError, ContimgError, WorkerLostError
from contimg_dask.execution.cluster import Cluster, hosts
from contimg_dask.execution.nodes import Nodes
from contimg_dask.execution.runner import AttemptRunner, Completion, Listener
from contimg_dask.model import Attempt, ConversionPlan, Owner, Tier
from contimg_dask.saying import Say
from contimg_dask.settings import Settings

_TRY_AGAIN_AFTER_S = 3.0
_WATCH_EVERY_S = 5.0
_WATCH_CLOSELY_EVERY_S = 1.0
_SWEEP_EVERY_S = 300.0
_MOST_GIVEN_UP = 1000
"""So many attempts that ended badly are looked for on nodes that were away meanwhile."""


class Connection:
    """Runs attempts on the cluster of the settings while there is one.

    Parameters
    ----------
    settings
        Say where the scheduler is, or that the cluster is an embedded one.
    listener
        Hears of progress.
    on_line
        Is told when the cluster comes and goes, once each.
    """

    def __init__(self, settings: Settings, listener: Listener, on_line: Say) -> None:
        self._settings = settings
        self._listener = listener
        self._on_line = on_line
        self._stack: ExitStack | None = None
        self._cluster: Cluster | None = None
        self._runner: AttemptRunner | None = None
        self._nodes: Nodes | None = None
        self._started_s: dict[str, float] = {}
        self._given_up: deque[str] = deque(maxlen=_MOST_GIVEN_UP)
        self._try_at_s = 0.0
        self._watch_at_s = 0.0
        self._sweep_at_s = 0.0
        self.trouble: str | None = None

    @property
    def connected(self) -> bool:
        """Whether attempts can be run."""
        return self._runner is not None and self._runner.connected

    @property
    def dashboard(self) -> str | None:
        """Address of the Dask dashboard."""
        cluster = self._cluster  # asked by the thread of the lease, too
        return None if cluster is None else cluster.dashboard

    @property
    def workers(self) -> dict[str, int]:
        """Number of workers by node."""
        cluster = self._cluster
        return {} if cluster is None else dict(cluster.nodes)

    def staging(self, node: str) -> dict[str, Any]:
        """Return how a node's tiers stood when it was last asked, as plain JSON types."""
        tiers = () if self._nodes is None else self._nodes.tiers(node)
        return {"tiers": [asdict(tier) for tier in tiers]}

    def present(self) -> set[str]:
        """Ask which nodes are there this very moment: a group may be given up for one that is not."""
        if self._cluster is None or not self.connected:
            return set(self.workers)
        return set(hosts(self._cluster.client)) or set(self.workers)

    @property
    def running(self) -> list[str]:
        """Names of the attempts that have not been returned yet."""
        return [] if self._runner is None else [r.attempt.name for r in self._runner.running]

    def open(self) -> bool:
        """Connect, unless that was tried a moment ago; return whether there is a cluster now."""
        if self.connected:
            return True
        if time.monotonic() < self._try_at_s:
            return False
        self.close()
        stack = ExitStack()
        try:
            self._cluster = stack.enter_context(open_cluster(self._settings))
        except ClusterError as error:
            stack.close()
            self._try_at_s = time.monotonic() + _TRY_AGAIN_AFTER_S
            if self.trouble is None:
                self._on_line(
                    f"no cluster: {error}; trying again every few seconds", action="cluster-lost"
                )
            self.trouble = str(error)
            return False
        self._stack, self.trouble = stack, None
        self._runner = AttemptRunner(self._cluster, recipe, convert_in_order, self._listener)
        self._nodes = Nodes(self._cluster)
        self._sweep_at_s = 0.0
        nodes = ", ".join(f"{node} ({count})" for node, count in self._cluster.nodes.items())
        self._on_line(
            f"connected to the cluster; nodes and their workers: {nodes}",
            action="cluster-connected",
            nodes=self._cluster.nodes,
        )
        return True

    def close(self) -> None:
        """Give up what is in flight, remove its traces as far as can be, and let the cluster go."""
        if self._runner is not None:
            self._given_up.extend(self.running)
            self._runner.close()
        if self._nodes is not None and self.connected:
            self._nodes.wait_for_sweeps(timeout_s=10.0)
        if self._stack is not None:
            self._stack.close()
        self._stack = self._cluster = self._runner = self._nodes = None
        self._started_s.clear()

    def start(
        self,
        plan: ConversionPlan,
        attempt: Attempt,
        node: str,
        *,
        priority: int,
        last_try: bool,
        live: bool,
    ) -> None:
        """Hand an attempt to a node (`AttemptRunner.start`)."""
        assert self._runner is not None  # the caller has seen nodes
        self._started_s[attempt.name] = time.monotonic()
        self._runner.start(plan, attempt, node, priority=priority, last_try=last_try, live=live)

    def poll(self, timeout_s: float) -> Iterator[Completion]:
        """Wait a moment, and yield the attempts that have ended and left nothing behind."""
        if self._runner is None:
            time.sleep(timeout_s)
            return
        for completion in self._runner.poll(timeout_s):
            self._started_s.pop(completion.attempt.name, None)
            if isinstance(completion.error, WorkerLostError):
                # A node may be gone: nothing more is begun before that is known, and what it has
                # left where all nodes see it is removed by the others.
                self._watch_at_s = self._sweep_at_s = 0.0
            if completion.error is not None or completion.plan.spread:
                # Of parts that have arrived, something may be left on a node that has gone since.
                self._given_up.append(completion.attempt.name)
            yield completion

    def watch(self, tiers: Collection[tuple[Tier, ...]], *, closely: bool = False) -> bool:
        """Every few seconds, count the nodes and have them measure their room; tell if it was done.

        Parameters
        ----------
        tiers
            Whose room matters.
        closely
            Every second: somebody waits for a node to come back.
        """
        now_s = time.monotonic()
        early_s = _WATCH_EVERY_S - _WATCH_CLOSELY_EVERY_S if closely else 0.0
        if self._runner is None or self._nodes is None or now_s < self._watch_at_s - early_s:
            return False
        self._watch_at_s = now_s + _WATCH_EVERY_S
        before = set(self.workers)
        self._runner.watch_nodes()
        if set(self.workers) - before:
            self._sweep_at_s = 0.0  # a node that was away has what was given up meanwhile
        self._nodes.ask(tuple(dict.fromkeys(tier for some in tiers for tier in some)))
        return True

    def sweep(self, roots: Sequence[str], owners: Sequence[Owner]) -> None:
        """After connecting, and every few minutes, have nodes remove what was given up on them.

        Parameters
        ----------
        roots
            Staging directories.
        owners
            Dispatchers that were here before: what they began is given up, too.
        """
        if self._nodes is None or not roots or time.monotonic() < self._sweep_at_s:
            return
        self._sweep_at_s = time.monotonic() + _SWEEP_EVERY_S
        self._nodes.sweep(roots, owners, self._given_up)

    def discover(
        self, directory: str, start_mjd: float | None, end_mjd: float | None
    ) -> list[Discovered] | None:
        """Return what every node has recorded itself; None while there is no cluster to ask.

        May be called from another thread.

        Raises
        ------
        ClusterError, UsageError
            As `Nodes.discover`.
        """
        nodes = self._nodes
        return None if nodes is None else nodes.discover(directory, start_mjd, end_mjd)

    def nodes(self, draining: Collection[str], tier: Tier, alone: Collection[str]) -> list[Node]:
        """Return the nodes, what runs on each, and the room of a tier there.

        Parameters
        ----------
        draining
            Nodes that take nothing more.
        tier
            The tier whose room matters.
        alone
            Names of attempts that nothing may run beside.
        """
        if self._runner is None or self._cluster is None or self._nodes is None:
            return []
        found = []
        silent = self._runner.silent_nodes()
        for name, workers in self._cluster.nodes.items():
            here = [r for r in self._runner.running if r.node == name]
            measured_s = self._nodes.measured_s(name)
            unseen = [r for r in here if self._started_s.get(r.attempt.name, 0.0) >= measured_s]
            found.append(
                Node(
                    name=name,
                    workers=workers,
                    loads=tuple(
                        Load(bytes_staged=r.plan.bytes_staged, alone=r.attempt.name in alone)
                        for r in here
                    ),
                    room_bytes=self._nodes.room_bytes(name, tier),
                    unseen_bytes=sum(r.plan.bytes_staged for r in unseen),
                    draining=name in draining,
                    reduces=self._nodes.reduces(name),
                    silent=name in silent,
                )
            )
        return found

    def give_up(self, name: str, error: ContimgError) -> None:
        """End an attempt with this error; `poll` returns it when its traces are removed."""
        if self._runner is not None:
            self._runner.give_up(name, error)
