"""The nouns of a conversion, frozen: what is read, what is planned, what was done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

PLAN_FORMAT = 1
"""Version of what a plan hash is taken over; raised when the same input would give other values."""

MJD_JD_OFFSET_D = 2400000.5
SAME_START_TOLERANCE_D = 1e-3 / 86400.0
"""Start times closer than 1 ms are one and the same observation."""

Kind = Literal["science", "calibrator"]
ImagingColumns = Literal["zero", "copy", "none"]
PhaseCentre = Literal["auto", "meridian", "keep"]
SpectralWindows = Literal["subband", "single"]
OnExisting = Literal["skip", "fail", "replace"]
TierName = Literal["destination", "tmpfs", "scratch"]
OutcomeName = Literal["published", "skipped", "failed", "incomplete", "planned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a group did not become a product: a code for scripts, a line for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubbandHeader:
    """What one finished UVH5 file says of itself, without its rows.

    ``name_stamp`` and ``name_number`` come from the file name and are None where it has none;
    ``node`` is the IP of the node whose own disk it lies on, None where every node sees it; all
    else comes from the file.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    name_stamp: str | None
    name_number: int | None
    start_jd: float
    integrations: int
    rows: int
    channels: int
    products: tuple[int, ...]
    lowest_freq_hz: float
    highest_freq_hz: float
    channel_width_hz: float
    node: str | None = None

    @property
    def centre_freq_hz(self) -> float:
        """Centre of the band of this file [Hz]."""
        return 0.5 * (self.lowest_freq_hz + self.highest_freq_hz)

    @property
    def bandwidth_hz(self) -> float:
        """Width from edge to edge [Hz]."""
        return self.channels * self.channel_width_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableFile:
    """A file with a subband's name that cannot be used, and why."""

    path: str
    name_stamp: str | None
    name_number: int | None
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Subband:
    """One file with its place in the group: the number stays its own for ever (sb00 highest)."""

    number: int
    header: SubbandHeader

    @property
    def name(self) -> str:
        """Name of the spectral window, ``sbNN``."""
        return f"sb{self.number:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The files of one observation, sorted by ascending frequency.

    ``fault`` says why it cannot be converted, ``notes`` what a reader should know.
    """

    id: str
    start_jd: float | None
    subbands: tuple[Subband, ...]
    expected: int
    unreadable: tuple[UnreadableFile, ...] = ()
    fault: Reason | None = None
    notes: tuple[str, ...] = ()

    @property
    def present(self) -> tuple[int, ...]:
        """Numbers of the readable subbands, ascending."""
        return tuple(sorted({subband.number for subband in self.subbands}))

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the expected subbands without a readable file, ascending."""
        return tuple(n for n in range(self.expected) if n not in set(self.present))

    @property
    def bytes_in(self) -> int:
        """Size of the readable files [bytes]."""
        return sum(subband.header.size_bytes for subband in self.subbands)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductOptions:
    """The options that change values in the product, and so its plan hash."""

    telescope_name: str = "DSA_110"
    imaging_columns: ImagingColumns = "zero"
    phase_centre: PhaseCentre = "auto"
    spw: SpectralWindows = "subband"

    @property
    def chosen(self) -> dict[str, str]:
        """The options that differ from their defaults: a new one leaves older products known."""
        usual = dataclasses.asdict(ProductOptions())
        return {k: v for k, v in dataclasses.asdict(self).items() if v != usual[k]}

    @property
    def digest(self) -> str:
        """SHA-256 of the options, by which groups converted in several ways are told apart."""
        return hashlib.sha256(json.dumps(self.chosen, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A place to stage products in.

    ``budget_bytes`` bounds what attempts may take of it together, ``kept_bytes`` are left free.
    """

    name: TierName
    root: str
    budget_bytes: int | None = None
    kept_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """How a product is put in its place; nothing of it changes values.

    ``mode`` are the permissions of files, ``group`` the name of the owning group; None leaves them
    to the umask and the directory. ``keep_failed`` keeps what a failed group got to, and
    ``output_dir`` is the root of the layout, where its record goes.
    """

    output_dir: str = ""
    mode: int | None = None
    group: str | None = None
    allow_gap: bool = False
    keep_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """All that the steps of one group share: they read nothing else and search for nothing.

    Sizes are in bytes. ``subbands`` are in the product's order, ascending in frequency; a
    subband's position in it is its spectral window id. ``tiers`` are the places to stage in, the
    proposed one first, the destination's own file system last.
    """

    group_id: str
    kind: Kind
    start_jd: float
    subbands: tuple[Subband, ...]
    missing: tuple[int, ...]
    unreadable: tuple[UnreadableFile, ...]
    notes: tuple[str, ...]
    options: ProductOptions
    target: str
    tiers: tuple[Tier, ...]
    direct: bool
    parallel: bool
    on_existing: OnExisting
    bytes_staged: int
    bytes_product: int
    max_readers: int | None = None
    publication: Publication = field(default_factory=Publication)

    @property
    def proposed_tier(self) -> Tier:
        """Where the product should be made, if there is room."""
        return self.tiers[0]

    @property
    def home_root(self) -> str:
        """Staging directory of the destination, where every attempt leaves its record."""
        return self.tiers[-1].root

    @property
    def mode(self) -> str:
        """How the product is written, as records show it."""
        writing = "spread" if self.spread else "direct" if self.direct else "parts"
        return f"{writing}-{'parallel' if self.parallel else 'serial'}"

    @property
    def spread(self) -> bool:
        """Whether the files lie on the nodes that recorded them, so that parts are made there."""
        return any(subband.header.node is not None for subband in self.subbands)

    @property
    def bytes_in(self) -> int:
        """Size of the input files [bytes]."""
        return sum(subband.header.size_bytes for subband in self.subbands)

    @property
    def start_mjd(self) -> float:
        """Centre of the first integration, MJD UTC [d]."""
        return self.start_jd - MJD_JD_OFFSET_D

    @property
    def plan_hash(self) -> str:
        """SHA-256 over what determines the product's values, and nothing else.

        Paths, modification times, tier, node and software version are left out on purpose: the
        same observation converted elsewhere is the same product.
        """
        facts = {
            "format": PLAN_FORMAT,
            "subbands": [
                [s.number, s.header.start_jd.hex(), s.header.size_bytes]
                for s in sorted(self.subbands, key=lambda s: s.number)
            ],
            "options": self.options.chosen,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told apart from any other: number, start [clock ticks since boot] and machine."""

    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a plan: ``name`` is unlike any other's, ``owner`` the process that asked for it."""

    number: int
    name: str
    submitted_s: float
    owner: Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFiles:
    """The directory of an attempt, which holds everything it writes, and in which tier it lies."""

    directory: str
    tier: TierName
    tier_reason: str

    def unused(self, name: str) -> str:
        """Return a path no other execution of a step has: a step may run twice at the same time."""
        return f"{self.directory}/{uuid.uuid4().hex[:8]}-{name}"

    def tile_file(self, column: str) -> str:
        """Tile bytes of a bulk column, until they are put into the product."""
        return f"{self.directory}/{column}.tiles"

    def weight_file(self, subband: Subband) -> str:
        """One subband's own WEIGHT, where the product's is of the whole band."""
        return f"{self.directory}/WEIGHT.{subband.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What one step did: wall-clock start and stop [s since 1970] and where it ran."""

    step: str
    start_s: float
    stop_s: float
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What became of one subband; counts are of values (row × channel × product).

    ``weights_uniform`` says that in every row all channels have the same weight; ``digests`` are of
    the axes all subbands of a group must share; ``checksums`` of the values written, by column;
    ``part`` is the path of the one-subband Measurement Set where the mode makes one. A part that was
    made on another node has moved ``moved_bytes`` from there, ``moved_from`` (IP).
    """

    subband: str
    step: StepRecord
    rows: int
    bytes_read: int
    bytes_written: int
    values_flagged: int
    values_not_finite: int
    weights_uniform: bool
    reader: str
    digests: dict[str, str]
    checksums: dict[str, str]
    part: str | None = None
    moved_bytes: int = 0
    moved_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointing:
    """When a product was observed, edge to edge (MJD UTC [d]), and towards where at the middle.

    ``ra_deg`` and ``dec_deg`` in the frame of the fields (ICRS for the meridian);
    ``declination_deg`` is apparent, None where the telescope tracked.
    """

    begin_mjd: float
    middle_mjd: float
    end_mjd: float
    ra_deg: float
    dec_deg: float
    declination_deg: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRecord:
    """What the step that writes the small columns and subtables made (``product``) and found out."""

    step: StepRecord
    product: str
    pointing: Pointing
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product that stands at its place, whether this attempt or another one put it there.

    ``attempt`` is the one that did, as its manifest says.
    """

    path: str
    attempt: str
    tier: TierName
    tier_reason: str
    pointing: Pointing
    node: str
    bytes_out: int
    seconds: dict[str, float]
    parts: tuple[PartRecord, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """The outcome of one group, as ``--json`` and the Python function report it."""

    id: str
    start_mjd: float | None
    present: tuple[int, ...]
    missing: tuple[int, ...]
    outcome: OutcomeName
    reason: Reason | None = None
    path: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    mode: str | None = None
    tier: str | None = None
    tier_proposed: str | None = None
    tier_reason: str | None = None
    node: str | None = None
    attempts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    unreadable: tuple[UnreadableFile, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return dataclasses.asdict(self)
