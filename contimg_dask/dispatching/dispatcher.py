"""The loop: claim the next group, have it converted, record what came of it; for months.

The catalogue is the truth. What this process knows beyond it is worth nothing: killed at any line,
it leaves groups that its successor finds out about (`recovery`).
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from typing import Any

from contimg_dask.catalogue import nodes as known_nodes
from contimg_dask.catalogue import queue
from contimg_dask.catalogue.leases import log_level, paused
from contimg_dask.catalogue.opening import Catalogue, CatalogueError
from contimg_dask.catalogue.records import QueuedGroup
from contimg_dask.dispatching.absence import Later
from contimg_dask.dispatching.connection import Connection
from contimg_dask.dispatching.leasing import LeaseKeeper
from contimg_dask.dispatching.outcomes import INTERRUPTED, Claim, Outcomes
from contimg_dask.dispatching.placing import Need, choose
from contimg_dask.dispatching.preparing import Hold, Preparer, Ready
from contimg_dask.dispatching.reading import JobReader
from contimg_dask.dispatching.recovery import recover
from contimg_dask.dispatching.retrying import MOST_ATTEMPTS
from contimg_dask.errors import CancelledError, ContimgError, SchedulerLostError
from contimg_dask.execution.runner import Completion
from contimg_dask.log_levels import logged_from
from contimg_dask.model import Attempt, Owner, Publication, Reason
from contimg_dask.saying import Say
from contimg_dask.settings import Settings
from contimg_dask.staging.owners import current_owner

_POLL_S = 0.5
_CATALOGUE_AGAIN_S = 2.0
_TELL_EVERY_S = 4.0
_LIVE_FIRST = 10**12
_PRIORITY_STEP = 10**8
_NO_NODE = 'waiting: every node is being drained, not heard of, or makes parts only (role "stage")'
_STOPPED = Reason(code=INTERRUPTED, text="its dispatcher was stopped before it was done")


class LeaseLostError(ContimgError):
    """Another dispatcher may have taken over: this one has stopped."""

    code = "lease-lost"


class Dispatcher:
    """Works on a catalogue's queue until it is asked to stop.

    Parameters
    ----------
    catalogue
        Whose queue.
    settings
        The dispatcher's own: the cluster, how many groups per node.
    outcomes, preparer, reader, connection
        Its parts.
    on_line
        Is told what operators want to know.
    on_turn
        Called every few seconds at least, while all is well.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Settings,
        *,
        outcomes: Outcomes,
        preparer: Preparer,
        reader: JobReader,
        connection: Connection,
        on_line: Say,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_turn = on_turn
        self._catalogue = catalogue
        self._settings = settings
        self._outcomes = outcomes
        self._preparer = preparer
        self._reader = reader
        self._connection = connection
        self._on_line = on_line
        self._claims: dict[str, Claim] = {}
        self._done: deque[Completion] = deque()
        self._later: dict[int, float] = {}
        self._there: Set[str] = frozenset()
        self._told: dict[str, tuple[tuple[int, bool], float]] = {}
        self._draining: frozenset[str] = frozenset()
        self._owner = current_owner()
        self._predecessors: tuple[Owner, ...] = ()
        self._token = ""
        self._sequence = 0
        self._log_level: str | None = None
        self._state = "starting"
        self._held: str | None = None
        self._live_bytes = 0

    def facts(self) -> dict[str, Any]:
        """Return what to show of this dispatcher, as plain JSON types."""
        return {
            "state": self._state,
            "held": self._held,
            "live_bytes": self._live_bytes,
            "scheduler": self._settings.scheduler or "embedded",
            "dashboard": self._connection.dashboard,
            "running": len(self._claims),
            "workers": self._connection.workers,
        }

    def run(self, lease: LeaseKeeper, stop_asked: Callable[[], int], stop_timeout_s: float) -> None:
        """Work until asked to stop, then finish or give back what runs.

        Parameters
        ----------
        lease
            Held by the caller.
        stop_asked
            How often the process was asked to stop: once lets what runs finish, twice gives it
            back at once.
        stop_timeout_s
            What runs longer than that after the first time is given back.

        Raises
        ------
        LeaseLostError
            Nothing more was written to the catalogue.
        ContimgError
            The thread that reads jobs has died.
        """
        self._token = lease.token
        if lease.predecessor not in (None, self._owner):
            self._predecessors = (lease.predecessor,)
        recovered = self._until_it_works(lease, lambda: recover(self._catalogue, self._outcomes))
        if recovered:
            self._on_line(
                f"{len(recovered)} group(s) were running when their dispatcher ended",
                action="recovered",
                groups=len(recovered),
            )
        for job_id in {queued.job_id for queued in recovered}:
            self._until_it_works(lease, lambda job_id=job_id: self._preparer.know(job_id))  # type: ignore[misc]
        self._reader.start()
        try:
            while not stop_asked():
                self._until_it_works(lease, lambda: self._turn(lease, stop_asked))
            self._finish(lease, stop_asked, stop_timeout_s)
        finally:
            self._connection.close()
            self._reader.stop()

    def _until_it_works(self, lease: LeaseKeeper, work: Callable[[], Any]) -> Any:
        """Do something with the catalogue, again and again while it cannot be reached."""
        told = False
        while True:
            self._on_turn()
            if lease.lost:
                raise LeaseLostError
            if not self._reader.healthy:
                raise ContimgError("the thread that reads jobs has died: see its traceback")
            try:
                return work()
            except CatalogueError as error:
                if not told:
                    self._on_line(f"{error}; trying again", action="catalogue-lost")
                told = True
                time.sleep(_CATALOGUE_AGAIN_S)

    def _turn(self, lease: LeaseKeeper, stop_asked: Callable[[], int]) -> None:
        self._keep_connected()
        if self._connection.connected:
            self._look_around()
            # Thousands of groups may have their products already, which takes a while to see.
            while not (lease.lost or stop_asked()) and self._start_next():
                pass
        self._record(_POLL_S)

    def _keep_connected(self) -> None:
        if self._connection.connected:
            return
        for name in self._connection.running:
            self._connection.give_up(name, SchedulerLostError())
        if not self._connection.running and not self._connection.open():
            self._state = f"waiting for the cluster: {self._connection.trouble}"

    def _look_around(self) -> None:
        """Count nodes, hear of people's wishes, have nodes swept; every few seconds."""
        if not self._connection.watch(self._preparer.tiers, closely=bool(self._later)):
            return
        there = self._connection.workers
        if there.keys() - self._there:
            self._later.clear()  # it may be the one that groups wait for
        self._there = there.keys()
        self._tell_nodes(there)
        self._draining = known_nodes.draining_names(self._catalogue)
        doomed = queue.cancel_requests(self._catalogue)
        for name, claim in self._claims.items():
            if claim.queued.key in doomed:
                self._connection.give_up(name, CancelledError())
        self._log_level = logged_from(log_level(self._catalogue), self._log_level)
        self._give_back_unknown()
        self._connection.sweep(self._preparer.staging_roots(), self._predecessors)

    def _tell_nodes(self, there: Mapping[str, int]) -> None:
        """Write into the catalogue which nodes are there; a write each, so not too often."""
        now_s = time.monotonic()
        for name, workers in there.items():
            staging = self._connection.staging(name)
            known = (workers, bool(staging["tiers"]))  # a node that is new has not answered yet
            before, at_s = self._told.get(name, ((0, False), 0.0))
            if known != before or now_s - at_s > _TELL_EVERY_S:
                known_nodes.seen(self._catalogue, name, workers, staging)
                self._told[name] = (known, now_s)

    def _give_back_unknown(self) -> None:
        """Give back groups that run by the catalogue, but not here.

        The database may have committed a claim and the connection have broken before it could say
        so.
        """
        for queued in queue.running(self._catalogue):
            if queued.attempt not in self._claims:
                self._outcomes.interrupted(queued, Publication(output_dir=queued.output_dir))

    def _start_next(self) -> bool:
        """Start the first group of the queue that is due; tell whether there may be another one."""
        if (pause := paused(self._catalogue)) is not None:
            self._state = f"paused: {pause.reason}" if pause.reason else "paused"
            return False
        due = queue.next_queued(self._catalogue, time.time(), 1, exclude=self._not_now())
        if not due:
            self._held = None
            self._state = "converting" if self._claims else "idle"
            return False
        prepared = self._prepare(due[0])
        self._held = prepared.code if isinstance(prepared, Hold) else None
        if isinstance(prepared, Hold):
            self._state = prepared.text
            return False
        if isinstance(prepared, Later):
            self._later[due[0].key] = prepared.when_s
            return True
        if prepared is None:
            return True
        prepared = self._with_room_kept(prepared)
        node = self._node_for(prepared)
        if node is None:
            self._state = "converting" if self._claims else _NO_NODE
            return False
        self._state = "converting"
        return self._start(prepared, node)

    def _not_now(self) -> list[int]:
        """Return the groups that are under way, or wait for a node that has files of them."""
        now_s = time.monotonic()
        self._later = {key: when_s for key, when_s in self._later.items() if when_s > now_s}
        return [*self._later, *(claim.queued.key for claim in self._claims.values())]

    def _prepare(self, queued: QueuedGroup) -> Ready | Hold | Later | None:
        present = self._connection.present()  # what fails here is not the group's doing
        try:
            return self._preparer.prepare(queued, present)
        except CatalogueError:
            raise
        except Exception as error:  # noqa: BLE001 - one group must not end the dispatcher, again and again
            text = f"unexpected {type(error).__name__}: {str(error)[:300]}"
            nowhere = Publication(output_dir=queued.output_dir)
            self._outcomes.refused(queued, ContimgError(text), nowhere)
            return None

    def _with_room_kept(self, ready: Ready) -> Ready:
        """Have a backlog's group leave room for a live one, as large as the last that came."""
        if ready.queued.live:
            self._live_bytes = ready.plan.bytes_staged
            return ready
        *fast, home = ready.plan.tiers
        kept = [replace(tier, kept_bytes=self._live_bytes) for tier in fast]
        return replace(ready, plan=replace(ready.plan, tiers=(*kept, home)))

    def _node_for(self, ready: Ready) -> str | None:
        queued = ready.queued
        alone = {name for name, claim in self._claims.items() if claim.queued.attempts}
        return choose(
            self._connection.nodes(self._draining, ready.plan.proposed_tier, alone),
            Need(
                bytes_staged=ready.plan.bytes_staged,
                kept_bytes=ready.plan.proposed_tier.kept_bytes,
                alone=queued.attempts > 0,
                avoid=queued.last_node if queued.attempts else None,
                live=queued.live,
                spread=ready.plan.spread,
            ),
            self._settings.groups_in_flight or ready.request.in_flight,
        )

    def _start(self, ready: Ready, node: str) -> bool:
        queued = ready.queued
        number = queued.attempts + queued.interruptions + 1
        name = f"{queued.id}.{number}.{uuid.uuid4().hex[:8]}"
        self._preparer.forget(queued.key)
        if not queue.begin_attempt(
            self._catalogue, self._token, queued.key, name, number=number, node=node
        ):
            return False  # it was cancelled a moment ago, or the lease is somebody else's
        self._claims[name] = Claim(queued=replace(queued, attempt=name), plan=ready.plan, node=node)
        attempt = Attempt(number=number, name=name, submitted_s=time.time(), owner=self._owner)
        last_try = queued.attempts + 1 >= MOST_ATTEMPTS
        self._connection.start(
            ready.plan,
            attempt,
            node,
            priority=self._priority(queued),
            last_try=last_try,
            live=queued.live,
        )
        return True

    def _priority(self, queued: QueuedGroup) -> int:
        """Return a priority no other attempt has: equal ones would be worked on in turns."""
        self._sequence += 1
        live = _LIVE_FIRST if queued.live else 0
        return live + queued.priority * _PRIORITY_STEP - self._sequence

    def _record(self, timeout_s: float) -> None:
        """Wait a moment for attempts to end, and record them; none is lost if that fails."""
        if not self._done:
            self._done.extend(self._connection.poll(timeout_s))
        while self._done:
            done = self._done[0]
            claim = self._claims.get(done.attempt.name)
            if claim is not None:
                self._outcomes.completed(claim, done)
                del self._claims[done.attempt.name]
            self._done.popleft()

    def _finish(
        self, lease: LeaseKeeper, stop_asked: Callable[[], int], stop_timeout_s: float
    ) -> None:
        self._state = "stopping"
        deadline_s = time.monotonic() + stop_timeout_s
        if self._claims:
            self._on_line(
                f"stopping: {len(self._claims)} group(s) are being finished",
                action="stopping",
                groups=len(self._claims),
            )
        while self._claims and stop_asked() < 2 and time.monotonic() < deadline_s:
            if not self._connection.connected:
                break
            self._until_it_works(lease, lambda: self._record(_POLL_S))
        self._connection.close()
        for name in list(self._claims):
            self._until_it_works(lease, lambda name=name: self._give_back(name))  # type: ignore[misc]

    def _give_back(self, name: str) -> None:
        claim = self._claims[name]
        queue.give_back(
            self._catalogue, claim.queued.key, name, _STOPPED, counted=False, not_before_s=0.0
        )
        del self._claims[name]
        self._on_line(
            f"given back {claim.queued.id}", action="group-given-back", group=claim.queued.id
        )
