"""What the endpoints answer with, beside the nouns of the catalogue: for their documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contimg_dask.catalogue.records import AttemptRow, Event, GroupRow, Job, ProductRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a request was refused: ``code`` for scripts, ``message`` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPage:
    """Groups in order of time; ``next`` is what to give as ``after`` for those that follow."""

    groups: list[GroupRow]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubbandLine:
    """A subband file of a group; ``facts`` are what the manifest says of it."""

    number: int
    path: str
    size_bytes: int
    node: str | None
    facts: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDetail:
    """All there is to know of a group.

    ``subbands`` is empty for a product that was found on disk, ``manifest`` null without a product,
    ``quicklook`` lists the plots there are.
    """

    group: GroupRow
    subbands: list[SubbandLine]
    attempts: list[AttemptRow]
    events: list[Event]
    manifest: dict[str, Any] | None
    quicklook: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductPage:
    """Products in order of time; ``next`` is what to give as ``after`` for those that follow."""

    products: list[ProductRow]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Jobs, the newest first."""

    jobs: list[Job]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events in order; ``last`` is what to give as ``after`` for those that follow."""

    events: list[Event]
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job that was taken; ``dispatcher`` is who will read it, null when nobody runs."""

    job: int
    candidates: int
    dispatcher: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """How many groups are queued again."""

    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """Whether anything new is begun."""

    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """Whether a node gets anything more."""

    node: str
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLevelNow:
    """From which level on services log; null as they were started."""

    level: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """It answers."""

    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether work is done: the catalogue answers and a dispatcher holds its lease."""

    ready: bool
    catalogue: bool
    dispatcher: bool
    text: str
