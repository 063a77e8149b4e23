"""What the scheduler sees of groups: those in flight, those published lately, the last failures.

A `GroupWatch` listens to the scheduler as a plugin and changes nothing. Groups in flight are read
from the keys of its tasks, staging from the heartbeats of workers, products and failures from
their events: a worker that goes takes its own figures along, and nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from distributed.comm.addressing import get_address_host
from distributed.diagnostics.plugin import SchedulerPlugin

from contimg_dask.deploy.worker_figures import METRIC
from contimg_dask.errors import WorkerLostError
from contimg_dask.execution.cluster import silent_after_s
from contimg_dask.execution.keys import TaskKey, read_key
from contimg_dask.staging.reserving import TierUsage

PLUGIN_NAME = "contimg-groups"
HOUR_S = 3600.0
_MOST_PUBLISHED, _MOST_FAILURES = 50_000, 20
_BETWEEN_ATTEMPTS = {"discard"}
"""Steps that belong to an attempt that has ended."""


@dataclass(slots=True, kw_only=True)
class GroupInFlight:
    """An attempt as its tasks show it: of each step, how many there are and how many are done."""

    key: TaskKey
    node: str
    began_s: float
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Steps that are done."""
        return sum(done for done, _ in self.steps.values())

    @property
    def total(self) -> int:
        """Steps that are known of so far."""
        return sum(total for _, total in self.steps.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A group that was published: when [s since 1970], how large."""

    at_s: float
    group: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A step that ended with an error, or with its worker."""

    at_s: float
    group: str
    node: str
    step: str
    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTier:
    """A staging tier of a node; ``node`` is empty where all nodes share it."""

    node: str
    usage: TierUsage


class GroupWatch(SchedulerPlugin):
    """Listens to a scheduler, whose event loop it is asked in too."""

    name = PLUGIN_NAME

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._began_s: dict[str, float] = {}
        self._published: deque[Published] = deque(maxlen=_MOST_PUBLISHED)
        self._failures: deque[Failure] = deque(maxlen=_MOST_FAILURES)

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **facts: Any
    ) -> None:
        """Note when an attempt begins and ends, and when a task ends with its worker."""
        del args, stimulus_id
        ours = read_key(key)
        if ours is None or ours.step in _BETWEEN_ATTEMPTS:
            return
        if finish == "forgotten":
            self._began_s.pop(ours.attempt, None)
        elif start == "released":
            self._began_s.setdefault(ours.attempt, time.time())
        # Errors that a step raises come with their text, and as an event of its worker.
        if finish == "erred" and facts.get("cause") == key and not facts.get("exception_text"):
            self._failures.append(
                Failure(
                    at_s=time.time(),
                    group=ours.group_id,
                    node=self._name_of(str(facts.get("worker", ""))),
                    step=ours.step,
                    code=WorkerLostError.code,
                    text="the worker died (killed, or out of memory): see its node's system log",
                )
            )

    def log_event(self, topic: str, msg: Any) -> None:
        """Hear what workers tell of groups."""
        if topic != METRIC or not isinstance(msg, dict):
            return
        now_s = time.time()
        match msg:
            case {"kind": "published", "group": str(group), "bytes": int(size)}:
                self._published.append(Published(at_s=now_s, group=group, bytes=size))
            case {"kind": "failed", "group": str(group), "node": str(node)}:
                rest = {name: str(msg.get(name, "")) for name in ("step", "code", "text")}
                self._failures.append(Failure(at_s=now_s, group=group, node=node, **rest))

    def published(self) -> list[Published]:
        """Return what was published within the last hour, oldest first."""
        since_s = time.time() - HOUR_S
        while self._published and self._published[0].at_s < since_s:
            self._published.popleft()
        return list(self._published)

    def failures(self) -> list[Failure]:
        """Return the last failures, newest first."""
        return list(reversed(self._failures))

    def in_flight(self) -> list[GroupInFlight]:
        """Return the attempts that have tasks, by node and age."""
        found: dict[str, GroupInFlight] = {}
        for key, node, state in self.tasks():
            if key.step in _BETWEEN_ATTEMPTS:
                continue
            began_s = self._began_s.get(key.attempt, time.time())
            group = found.setdefault(
                key.attempt, GroupInFlight(key=key, node=node, began_s=began_s)
            )
            done, total = group.steps.get(key.step, (0, 0))
            group.steps[key.step] = (done + (state == "memory"), total + 1)
        return sorted(found.values(), key=lambda group: (group.node, group.began_s))

    def tasks(self) -> Iterator[tuple[TaskKey, str, str]]:
        """Yield (key, node, state) of every task of ours."""
        names = self.node_names()
        for task in list(self._scheduler.tasks.values()):
            key = read_key(task.key)
            if key is not None:
                # A step is pinned to its node by address; cleaning up, to a worker.
                hosts = task.host_restrictions or _hosts_of(task.worker_restrictions or ())
                host = min(hosts, default="")
                yield key, names.get(host, host), str(task.state)

    def node_names(self) -> dict[str, str]:
        """Return what each host is called, by address: the inventory's name, or the address."""
        return {
            worker.host: str(_heartbeat(worker).get("node") or worker.host)
            for worker in self._workers()
        }

    def silent_s(self) -> dict[str, float]:
        """Return the nodes none of whose workers was heard of for a while, and for how long [s]."""
        heard_s: dict[str, float] = {}
        names = self.node_names()
        for worker in self._workers():
            node = names[worker.host]
            heard_s[node] = max(heard_s.get(node, 0.0), worker.last_seen)
        now_s = time.time()
        bound_s = silent_after_s(len(self._workers()))
        return {n: now_s - at_s for n, at_s in heard_s.items() if now_s - at_s > bound_s}

    def _name_of(self, address: str) -> str:
        host = get_address_host(address) if address else ""
        return self.node_names().get(host, host)

    def _workers(self) -> list[Any]:
        return list(self._scheduler.workers.values())

    def tiers(self) -> list[NodeTier]:
        """Return how the staging tiers of the nodes stand, as one worker of each tells."""
        found: dict[tuple[str, str], NodeTier] = {}
        names = self.node_names()
        for worker in self._workers():
            for usage in _tiers_of(_heartbeat(worker)):
                node = "" if usage.name == "destination" else names[worker.host]
                found[node, usage.root] = NodeTier(node=node, usage=usage)
        return [found[place] for place in sorted(found)]


def _hosts_of(addresses: Iterable[str]) -> set[str]:
    return {get_address_host(address) for address in addresses}


def _heartbeat(worker: Any) -> dict[str, Any]:
    """Return what the last heartbeat of a worker has of ours, if anything."""
    found = worker.metrics.get(METRIC)
    return found if isinstance(found, dict) else {}


def _tiers_of(heartbeat: dict[str, Any]) -> Iterator[TierUsage]:
    for facts in heartbeat.get("tiers", ()):
        try:
            yield TierUsage(**facts)
        except TypeError:
            continue  # of another version of this package


def watch_of(scheduler: Any) -> GroupWatch:
    """Return the one that listens to this scheduler; it begins when it is first asked for."""
    watch = scheduler.plugins.get(PLUGIN_NAME)
    if not isinstance(watch, GroupWatch):
        watch = GroupWatch(scheduler)
        scheduler.add_plugin(watch, name=PLUGIN_NAME)
    return watch
