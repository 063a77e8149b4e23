"""Promise bytes of a tier to an attempt, so that groups side by side cannot fill it together.

A tier takes an attempt when it fits in what is free less what was promised to others and is not
written yet. Promises are shared by all processes that use the tier, and end with their owners.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from contimg_dask.copying import allocated_bytes
from contimg_dask.model import Tier
from contimg_dask.staging.records import AttemptRecord, locked_root, read_records, write_record
from contimg_dask.staging.room import megabytes, usable_bytes
from contimg_dask.staging.sweeping import paths_of, remove_dead


def try_reserve(tier: Tier, record: AttemptRecord) -> tuple[bool, str]:
    """Promise the record's bytes in a tier if they fit; return whether, and the numbers.

    Attempts whose owners are gone are removed first, so their promises do not count.

    Raises
    ------
    OSError
        The tier cannot be written.
    """
    with locked_root(tier.root, shared_between_users=tier.name != "destination"):
        remove_dead(tier.root)
        usable, outstanding = room_in(tier, except_for=record.attempt)
        wanted = record.promised_bytes
        numbers = f"{megabytes(wanted)} needed, {megabytes(usable)} to use"
        if outstanding:
            numbers += f" of which {megabytes(outstanding)} are promised to others"
        if tier.kept_bytes:
            numbers += f", {megabytes(tier.kept_bytes)} kept for live groups"
        if wanted > usable - outstanding - tier.kept_bytes:
            return False, numbers
        write_record(tier.root, replace(record, reason=f"{record.reason}{numbers}"))
        return True, numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class TierUsage:
    """How a tier stands [bytes]: promised to attempts, written by them, still to be promised."""

    name: str
    root: str
    promised_bytes: int
    used_bytes: int
    free_bytes: int


def usage_of(tier: Tier) -> TierUsage:
    """Return how a tier stands, for people.

    The lock is not taken, so nobody waits for it; what changes meanwhile may be counted half.

    Raises
    ------
    OSError
        The tier cannot be looked at.
    """
    records = read_records(tier.root)
    written = {record.attempt: _written_bytes(record) for record in records}
    usable, outstanding = _room(tier, records, written)
    return TierUsage(
        name=tier.name,
        root=tier.root,
        promised_bytes=sum(record.promised_bytes for record in records),
        used_bytes=sum(written.values()),
        free_bytes=max(0, usable - outstanding),
    )


def room_in(tier: Tier, *, except_for: str = "") -> tuple[int, int]:
    """Return (usable, promised and not written yet) of a tier [bytes]; the caller holds its lock."""
    others = [record for record in read_records(tier.root) if record.attempt != except_for]
    return _room(tier, others, {record.attempt: _written_bytes(record) for record in others})


def _room(tier: Tier, records: list[AttemptRecord], written: dict[str, int]) -> tuple[int, int]:
    usable = usable_bytes(Path(tier.root), tmpfs=tier.name == "tmpfs")
    outstanding = sum(max(0, r.promised_bytes - written[r.attempt]) for r in records)
    if tier.budget_bytes is not None:
        # What is written counts against a budget as well; against free space it does already.
        usable = min(usable, tier.budget_bytes - sum(written.values()))
    return max(0, usable), outstanding


def _written_bytes(record: AttemptRecord) -> int:
    return sum(map(allocated_bytes, paths_of(record.directory, record.beside)))
