"""The nouns of the catalogue, frozen: what its functions take and return.

Times that end in ``_s`` are seconds since 1970 UTC, in ``_mjd`` Modified Julian Dates UTC [d], in
``_ms`` milliseconds since 1970 UTC. Sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from contimg_dask.lifecycle import State
from contimg_dask.model import Group, Kind, Owner, Reason

JobState = Literal["waiting", "reading", "read", "broken", "cancelled", "streaming"]
AttemptState = Literal["running", "published", "failed", "lost", "given-back", "cancelled"]
ProductStatus = Literal["published", "removed"]
NodeState = Literal["active", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as it is submitted: which groups of a directory, converted how, to where.

    ``start_mjd`` and ``end_mjd`` bound the first integration, half-open. ``candidates`` is the
    number of groups by file name. ``settings`` are fields of `Settings` as plain JSON types, and
    ``options_hash`` is the digest of those that change values (`ProductOptions.digest`).
    """

    input_dir: str
    output_dir: str
    options_hash: str
    kind: Kind = "science"
    expected_subbands: int
    min_subbands: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    start_mjd: float | None = None
    end_mjd: float | None = None
    priority: int = 0
    live: bool = False
    candidates: int = 0
    submitted_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the catalogue has it; ``files`` and ``files_read`` count subband files."""

    id: int
    label: str
    input_dir: str
    output_dir: str
    options_hash: str
    start_mjd: float | None
    end_mjd: float | None
    kind: Kind
    expected_subbands: int
    min_subbands: int | None
    priority: int
    live: bool
    settings: dict[str, Any]
    state: JobState
    files: int
    files_read: int
    candidates: int
    submitted_s: float
    read_s: float | None
    reason: Reason | None
    submitted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledCounts:
    """Groups of a cancelled job: ``cancelled`` at once, ``requested`` of the dispatcher, ``kept``.

    What is kept is wanted by another job, or has its outcome already.
    """

    cancelled: int
    requested: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arriving:
    """A group as it enters the queue.

    ``whole`` means that it can be converted as it is. Otherwise a ``fault`` says why it never will
    be with these files, and None that more files may come. ``live`` is whether it goes before every
    backlog, None as its job does; ``complete_s`` when its last file was finished, where that is
    known.
    """

    group: Group
    whole: bool
    fault: Reason | None = None
    live: bool | None = None
    complete_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What became of an arriving group; ``changed`` when its state, files or reason are new.

    ``key`` is None when its job was cancelled meanwhile: then nothing was taken. ``other_files``
    when it was known with files that were not these.
    """

    key: int | None
    id: str
    state: State
    changed: bool
    other_files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedGroup:
    """A group with its files, ready to be worked on.

    ``group`` has the id of the catalogue, ``job_id`` is the job whose settings apply. ``attempts``
    are those that count, ``interruptions`` those that do not. ``attempt`` is the name of the one
    that runs, ``last_node`` where that or the one before was.
    """

    key: int
    id: str
    state: State
    start_ms: int
    output_dir: str
    options_hash: str
    priority: int
    live: bool
    group: Group
    job_id: int
    attempts: int
    interruptions: int
    not_before_s: float
    last_node: str | None
    attempt: str | None
    cancel_requested: bool
    reason: Reason | None
    queued_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedBytes:
    """What one link carried for a product: from the node that made parts to the one that joined them.

    Nodes by IP; ``bytes`` before encryption.
    """

    from_node: str
    to_node: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group as lists show it, without its files.

    ``path`` is where its product stands, ``seconds`` how long the steps of its last attempt took,
    ``jobs`` every job that has brought it, ``moved_bytes`` what links carried for its product.
    ``complete_s`` is when its last file was finished, where somebody watched.
    """

    key: int
    id: str
    state: State
    state_since_s: float
    start_mjd: float | None
    output_dir: str
    kind: Kind
    present: int
    expected: int
    missing: tuple[int, ...]
    bytes_in: int
    attempts: int
    interruptions: int
    node: str | None
    attempt: str | None
    not_before_s: float
    cancel_requested: bool
    reason: Reason | None
    path: str | None
    seconds: dict[str, float] | None
    jobs: tuple[int, ...]
    priority: int
    live: bool
    complete_s: float | None
    queued_s: float | None
    finished_s: float | None
    moved_bytes: tuple[MovedBytes, ...]

    @property
    def latency_s(self) -> float | None:
        """From the last file to the published product [s]; None where it is not known."""
        if self.state != "published" or self.complete_s is None or self.finished_s is None:
            return None
        return self.finished_s - self.complete_s

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON types."""
        # Not by asdict, which copies everything within: lists are asked for often, and are long.
        values = {name: getattr(self, name) for name in _GROUP_ROW}
        return values | {
            "reason": None if self.reason is None else asdict(self.reason),
            "moved_bytes": tuple(asdict(link) for link in self.moved_bytes),
            "latency_s": self.latency_s,
        }


_GROUP_ROW = tuple(one.name for one in fields(GroupRow))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One try at a group; ``counted`` when it used up one of those a group has."""

    group_key: int
    number: int
    name: str
    node: str
    state: AttemptState
    counted: bool
    started_s: float
    ended_s: float | None
    reason: Reason | None
    seconds: dict[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRow:
    """A product and where it stands: a row of the index of Measurement Sets.

    Times are MJD UTC [d], from edge to edge; ``start_mjd`` is the centre of the first integration.
    The pointing is None for products of the first version.
    """

    path: str
    group_key: int
    group_id: str
    kind: Kind
    output_dir: str
    start_mjd: float
    begin_mjd: float | None
    middle_mjd: float | None
    end_mjd: float | None
    ra_deg: float | None
    dec_deg: float | None
    declination_deg: float | None
    bytes: int
    status: ProductStatus
    plan_hash: str
    attempt: str
    published_s: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """A product found on disk that the catalogue is to know.

    ``subbands`` names those in it, ``missing`` numbers those that it lacks. The ``group_key`` of
    the product is not looked at: the group is found by start, output and options.
    """

    product: ProductRow
    options_hash: str
    subbands: tuple[str, ...]
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """A machine of the cluster, by its address, and how many worker processes it has."""

    name: str
    state: NodeState
    workers: int
    first_seen_s: float
    last_seen_s: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, in the order of ``id``; ``event`` is its kind, in kebab-case."""

    id: int
    time_s: float
    event: str
    group_key: int | None
    group_id: str | None
    job_id: int | None
    attempt: str | None
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A right that one process has until ``expires_s``; who knows the ``token`` may renew it.

    ``holder`` is for people, ``owner`` tells the process apart from any other.
    """

    name: str
    holder: str
    owner: Owner
    token: str
    acquired_s: float
    expires_s: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing new is begun; who has asked for that, why, and when."""

    reason: str
    by: str
    since_s: float
