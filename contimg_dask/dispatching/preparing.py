"""Look at the first group of the queue before it is claimed: its files, its plan, the room for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from contimg_dask.catalogue import jobs, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import QueuedGroup
from contimg_dask.deciding import Request, decide
from contimg_dask.dispatching.absence import Absence, Later, homes_of
from contimg_dask.dispatching.freshness import freshened, is_fresh
from contimg_dask.dispatching.outcomes import Outcomes
from contimg_dask.dispatching.requests import request_of
from contimg_dask.errors import NoSpaceError, OutputError, UsageError
from contimg_dask.model import ConversionPlan, Group, GroupRecord, Publication, Reason, Tier
from contimg_dask.publishing.targets import StartIndex
from contimg_dask.saying import Say
from contimg_dask.staging.room import existing_ancestor

_MOST_REMEMBERED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A group that can be started."""

    queued: QueuedGroup
    plan: ConversionPlan
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Nothing can be started now; ``text`` says what is waited for. No attempt is used up by it."""

    text: str
    code: str


class Preparer:
    """Plans groups, one at a time, and remembers what it has learnt about jobs and outputs.

    Parameters
    ----------
    catalogue
        Where jobs are.
    outcomes
        Take the groups that need no attempt, or cannot have one.
    on_line
        Is told what the queue is held for, once.
    """

    def __init__(self, catalogue: Catalogue, outcomes: Outcomes, on_line: Say) -> None:
        self._catalogue = catalogue
        self._outcomes = outcomes
        self._on_line = on_line
        self._requests: dict[int, Request] = {}
        self._indexes: dict[str, StartIndex] = {}
        self._ready: dict[int, Ready] = {}
        self._absence = Absence()
        self._said = ""

    @property
    def tiers(self) -> Collection[tuple[Tier, ...]]:
        """The tiers of the jobs that were worked on last."""
        return {request.tiers for request in self._requests.values()}

    def staging_roots(self) -> tuple[str, ...]:
        """Return the staging directories of these tiers."""
        return tuple(dict.fromkeys(tier.root for tiers in self.tiers for tier in tiers))

    def know(self, job_id: int) -> None:
        """Learn where a job stages: a dispatcher that ended may have left something there."""
        with contextlib.suppress(UsageError):
            self._request(job_id)

    def prepare(self, queued: QueuedGroup, present: Collection[str]) -> Ready | Hold | Later | None:
        """Return a group ready to start; None when it has its outcome already.

        ``present`` are the nodes that are there, by IP.
        """
        ready = self._ready.get(queued.key)
        if ready is not None and self._is_as_it_was(ready, queued, present):
            return replace(ready, queued=replace(queued, group=ready.queued.group))
        self._ready.clear()
        try:
            request = self._request(queued.job_id)
        except UsageError as error:
            self._outcomes.refused(queued, error, Publication(output_dir=queued.output_dir))
            return None
        if (hold := _unwritable(request)) is not None:
            return self._held(hold)
        group = self._absence.judge(queued.group, present, request.settings.node_wait_s)
        if isinstance(group, Later):
            return group
        queued = replace(queued, group=group)
        if sent_again := not is_fresh(queued.group):
            queued = replace(queued, group=freshened(queued.group))
        try:
            decision = self._decide(queued, request)
        except OSError as error:
            where = error.filename or request.output_dir
            text = f"{where}: {error.strerror}: check its mount and its disk"
            return self._held(Reason(code=OutputError.code, text=text))
        if isinstance(decision, ConversionPlan):
            if sent_again:
                # Not when files are gone: what comes back is found when the group is retried.
                queue.refresh_group(self._catalogue, queued.key, queued.group)
            self._said = ""
            self._ready[queued.key] = Ready(queued=queued, plan=decision, request=request)
            return self._ready[queued.key]
        if decision.reason is not None and decision.reason.code == NoSpaceError.code:
            return self._held(decision.reason)
        self._outcomes.decided(queued, decision, request.publication)
        return None

    def forget(self, key: int) -> None:
        """Plan this group anew when it comes again."""
        self._ready.pop(key, None)

    def _is_as_it_was(self, ready: Ready, queued: QueuedGroup, present: Collection[str]) -> bool:
        """Tell whether a plan is still good: its group may have waited for room for hours."""
        group = self._absence.judge(queued.group, present, ready.request.settings.node_wait_s)
        if isinstance(group, Later) or homes_of(group) != homes_of(ready.queued.group):
            return False
        return ready.queued.job_id == queued.job_id and is_fresh(ready.queued.group)

    def _decide(self, queued: QueuedGroup, request: Request) -> Any:
        index = self._indexes.setdefault(queued.output_dir, StartIndex(request.output_dir))
        (decision,) = decide([queued.group], request, index)
        if isinstance(decision, GroupRecord) and decision.reason and queued.group.notes:
            return replace(decision, reason=_with_notes(decision.reason, queued.group))
        return decision

    def _request(self, job_id: int) -> Request:
        """Return a job's request; those of the jobs used last are remembered."""
        request = self._requests.pop(job_id, None)
        if request is None:
            request = request_of(jobs.get_job(self._catalogue, job_id))
        self._requests[job_id] = request
        while len(self._requests) > _MOST_REMEMBERED:
            self._requests.pop(next(iter(self._requests)))
        return request

    def _held(self, reason: Reason) -> Hold:
        text = f"waiting: {reason.text}"
        if reason.code != self._said:
            self._said = reason.code
            self._on_line(
                f"{text} [{reason.code}]; it goes on by itself", action="held", code=reason.code
            )
        return Hold(text=text, code=reason.code)


def _with_notes(reason: Reason, group: Group) -> Reason:
    """Say with a group that is incomplete which node has its files."""
    if reason.code != "missing-subbands":
        return reason
    return replace(reason, text="; ".join((reason.text, *group.notes)))


def _unwritable(request: Request) -> Reason | None:
    """Return why nothing can be written where products go: no group is to blame for that."""
    place = existing_ancestor(request.output_dir)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return None
    text = f"{place}: cannot be written by this user: check its mount, owner and permissions"
    return Reason(code=OutputError.code, text=text)
