"""Record what came of a group: on disk first, then in the catalogue.

Whoever is killed in between leaves a group that is still running by the catalogue; the next
dispatcher looks at the disk and comes to the same outcome.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from contimg_dask.catalogue import groups, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import ProductRow, QueuedGroup
from contimg_dask.deciding import record_of
from contimg_dask.dispatching.retrying import RETRY_DELAYS_S, Verdict, judge
from contimg_dask.errors import ContimgError, SchedulerLostError, TargetOccupiedError
from contimg_dask.event_log import EventLog
from contimg_dask.execution.runner import Completion
from contimg_dask.hand_over import HandOver
from contimg_dask.model import ConversionPlan, Group, GroupRecord, PartRecord, Publication, Reason
from contimg_dask.product_rows import row_of_product, row_on_disk
from contimg_dask.recording import keep_record, record_of_attempt
from contimg_dask.saying import Say

INTERRUPTED = "interrupted"
"""Reason code of an attempt that ended with its dispatcher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A group that this dispatcher works on: as the queue has it, and its plan."""

    queued: QueuedGroup
    plan: ConversionPlan
    node: str

    @property
    def attempt(self) -> str:
        """Name of the attempt that is under way."""
        assert self.queued.attempt is not None  # it was begun
        return self.queued.attempt

    @property
    def group(self) -> Group:
        """The group under the id it has in the catalogue."""
        return self.queued.group


def _moved_bytes(parts: Iterable[PartRecord], node: str) -> dict[str, int]:
    """Return how many bytes each link has carried, as ``FROM>TO`` by IP."""
    moved: dict[str, int] = {}
    for part in parts:
        if part.moved_from is not None and part.moved_from != node:
            link = f"{part.moved_from}>{node}"
            moved[link] = moved.get(link, 0) + part.moved_bytes
    return moved


class Outcomes:
    """Turns what workers and the planner say into states, records and messages.

    Parameters
    ----------
    catalogue, log, hand_over
        Where outcomes go.
    on_line
        Is told of every outcome.
    delays_s
        Wait before each further attempt [s].
    """

    def __init__(
        self,
        catalogue: Catalogue,
        log: EventLog,
        hand_over: HandOver,
        on_line: Say,
        delays_s: tuple[float, ...] = RETRY_DELAYS_S,
    ) -> None:
        self._catalogue = catalogue
        self._log = log
        self._hand_over = hand_over
        self._on_line = on_line
        self._delays_s = delays_s

    def completed(self, claim: Claim, done: Completion) -> None:
        """Record what came of an attempt."""
        record = record_of_attempt(
            claim.group,
            claim.plan,
            node=done.node,
            attempts=claim.queued.attempts + 1,
            product=done.product,
            error=done.error,
        )
        if done.product is None:
            assert done.error is not None  # an attempt ends with one of the two
            self._ended(claim, record, done.error)
            return
        keep_record(record, claim.group, claim.plan.publication)
        ours = done.product.attempt == claim.attempt or self._is_new_of_ours(
            claim.queued.key, done.product.attempt
        )
        published = queue.publish(
            self._catalogue,
            claim.queued.key,
            claim.attempt,
            row_of_product(claim.queued, claim.plan, done.product),
            seconds=record.seconds,
            node=done.node,
            facts={
                "tier": record.tier,
                "tier_proposed": record.tier_proposed,
                "tier_reason": record.tier_reason,
                "mode": record.mode,
                "notes": list(record.notes),
                "moved_bytes": _moved_bytes(done.product.parts, done.node),
            },
        )
        if not published:
            self._on_line(
                f"{record.path} is published, but its group was taken over meanwhile",
                action="group-taken-over",
                group=record.id,
            )
            return
        self.tell(record)
        if ours:
            self._hand_over.add(record)

    def _is_new_of_ours(self, key: int, attempt: str) -> bool:
        """Tell whether an attempt of this catalogue has made a product that nobody has heard of yet.

        It was given up, or its dispatcher has ended, when its last step was just publishing.
        """
        known = groups.attempts_of(self._catalogue, key)
        return any(one.name == attempt and one.state != "published" for one in known)

    def _ended(self, claim: Claim, record: GroupRecord, error: ContimgError) -> None:
        queued = claim.queued
        verdict = self._judge(queued, error)
        reason = Reason(code=error.code, text=str(error))
        if verdict.state == "queued":
            self._again(claim, reason, verdict)
        elif verdict.state == "cancelled":
            queue.mark_cancelled(self._catalogue, queued.key, claim.attempt)
            self._on_line(f"cancelled {queued.id}", action="group-cancelled", group=queued.id)
        else:
            self._set_aside(queued, record, claim.plan.publication, verdict, claim.attempt)

    def _again(self, claim: Claim, reason: Reason, verdict: Verdict) -> None:
        queue.give_back(
            self._catalogue,
            claim.queued.key,
            claim.attempt,
            reason,
            counted=verdict.counted,
            not_before_s=time.time() + verdict.delay_s,
        )
        self._log.add("group-given-back", group=claim.queued.id, reason=reason.text)
        self._on_line(
            f"{claim.queued.id} on {claim.node}: {reason.text} [{reason.code}]; another attempt "
            f"in {verdict.delay_s:.0f} s",
            action="group-given-back",
            group=claim.queued.id,
            attempt=claim.attempt,
            node=claim.node,
            code=reason.code,
        )

    def _set_aside(
        self,
        queued: QueuedGroup,
        record: GroupRecord,
        publication: Publication,
        verdict: Verdict,
        attempt: str | None,
    ) -> None:
        record = keep_record(record, queued.group, publication)
        assert record.reason is not None  # only what failed comes here
        quarantine = verdict.state == "quarantined"
        queue.fail(
            self._catalogue,
            queued.key,
            attempt,
            record.reason,
            quarantine=quarantine,
            seconds=record.seconds,
        )
        self.tell(record, "quarantined" if quarantine else None)

    def decided(self, queued: QueuedGroup, record: GroupRecord, publication: Publication) -> None:
        """Record what needs no attempt: the product is there already, or it cannot be made."""
        if record.outcome == "skipped" and record.path is not None:
            row = row_on_disk(record.path, group_key=queued.key, output_dir=queued.output_dir)
            if row is not None:
                self._found(queued, record, row, publication)
                return
        reason = record.reason or Reason(code="internal-error", text="decided without a reason")
        waits_for_people = reason.code in (TargetOccupiedError.code, "already-published")
        verdict = Verdict(state="quarantined" if waits_for_people else "failed")
        failed = replace(record, outcome="failed", reason=reason)
        self._set_aside(queued, failed, publication, verdict, queued.attempt)

    def _found(
        self, queued: QueuedGroup, record: GroupRecord, row: ProductRow, publication: Publication
    ) -> None:
        """Record a product that was there already, and hand it over if it was made for this queue."""
        ours = self._is_new_of_ours(queued.key, row.attempt)
        if ours:
            record = replace(record, outcome="published", reason=None, bytes_out=row.bytes)
        keep_record(record, queued.group, publication)
        if queue.publish(
            self._catalogue, queued.key, queued.attempt, row, seconds={}, node=None, facts={}
        ):
            self.tell(record)
            if ours:
                self._hand_over.add(record)

    def interrupted(self, queued: QueuedGroup, publication: Publication) -> None:
        """Record that an attempt has ended with its dispatcher, and has left no product."""
        error = SchedulerLostError("its dispatcher ended while it was converted", code=INTERRUPTED)
        verdict = self._judge(queued, error)
        reason = Reason(code=error.code, text=str(error))
        if verdict.state == "queued":
            queue.give_back(
                self._catalogue, queued.key, queued.attempt, reason, counted=False, not_before_s=0.0
            )
            return
        text = f"{error}, {queued.interruptions + 1} times by now"
        record = record_of(queued.group, "failed", reason=replace(reason, text=text))
        self._set_aside(queued, record, publication, verdict, queued.attempt)

    def refused(self, queued: QueuedGroup, error: ContimgError, publication: Publication) -> None:
        """Record that a group could not even be planned."""
        verdict = self._judge(queued, error)
        reason = Reason(code=error.code, text=str(error))
        record = record_of(queued.group, "failed", reason=reason)
        aside = Verdict(state="failed" if verdict.state == "failed" else "quarantined")
        self._set_aside(queued, record, publication, aside, queued.attempt)

    def _judge(self, queued: QueuedGroup, error: ContimgError) -> Verdict:
        return judge(
            error,
            attempts=queued.attempts,
            interruptions=queued.interruptions,
            delays_s=self._delays_s,
        )

    def tell(self, record: GroupRecord, word: str | None = None) -> None:
        """Say and log an outcome; ``word`` instead of its own."""
        self._log.add_record(record)
        text = f"{word or record.outcome} {record.id}"
        if record.outcome == "failed" and record.reason is not None:
            text += f" [{record.reason.code}] {record.reason.text}"
        elif record.path is not None:
            text += f"  {record.path}"
        if "total" in record.seconds:
            text += f"  {record.seconds['total']:.2f} s"
        self._on_line(
            text,
            action=f"group-{word or record.outcome}",
            group=record.id,
            node=record.node,
            path=record.path,
            code=None if record.reason is None else record.reason.code,
            seconds=record.seconds.get("total"),
        )
