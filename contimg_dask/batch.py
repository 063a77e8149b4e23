"""From groups to outcomes: decide what to do with each one, have it done, and record it.

No outcome is silent: a group is published, skipped with a word, incomplete with what is missing,
or failed with a reason and a record under ``failed/``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from contimg_dask.convert import convert_in_order, recipe
from contimg_dask.errors import ContimgError
from contimg_dask.execution.cluster import Cluster, connected_cluster, embedded_cluster
from contimg_dask.execution.executor import Completion, DaskExecutor, Listener
from contimg_dask.model import (
    MJD_JD_OFFSET_D,
    ConversionPlan,
    Group,
    GroupRecord,
    Kind,
    OutcomeName,
    ProductOptions,
    Reason,
)
from contimg_dask.naming import PathMapper, date_of, product_path, stamp_of_jd
from contimg_dask.planning import is_convertible, plan_group, staged_bytes
from contimg_dask.publishing import (
    Found,
    StartIndex,
    inspect_target,
    remove_failed_record,
    write_failed_record,
)
from contimg_dask.settings import Settings
from contimg_dask.staging import choose_tier

_DEFAULT_IN_FLIGHT = 2
"""Groups at once per node: the second one's parts fill the workers while the first is reduced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to do with groups: where products go, and the settings."""

    output_dir: Path
    settings: Settings
    kind: Kind = "science"
    min_subbands: int | None = None
    path_mapper: PathMapper | None = None
    dry_run: bool = False

    @property
    def options(self) -> ProductOptions:
        """The settings that change values in the product."""
        return ProductOptions(
            telescope_name=self.settings.telescope_name,
            imaging_columns=self.settings.imaging_columns,
            phase_centre=self.settings.phase_centre,
            spw=self.settings.spw,
        )

    @property
    def in_flight(self) -> int:
        """Groups at the same time per node."""
        return self.settings.groups_in_flight or _DEFAULT_IN_FLIGHT


def open_cluster(settings: Settings) -> AbstractContextManager[Cluster]:
    """Return the cluster the settings ask for, to be used in a ``with`` block."""
    if settings.scheduler is not None:
        return connected_cluster(settings.scheduler)
    return embedded_cluster(
        settings.workers, settings.worker_memory_limit, settings.dashboard_address
    )


def decide(groups: Sequence[Group], request: Request) -> list[GroupRecord | ConversionPlan]:
    """Return, per group, the plan to carry out or the record of why there is none."""
    index = StartIndex(request.output_dir)
    return [_decide(group, request, index) for group in groups]


def _decide(group: Group, request: Request, index: StartIndex) -> GroupRecord | ConversionPlan:
    minimum = request.min_subbands or group.expected
    reason = is_convertible(group, minimum, request.settings.spw)
    if reason is not None:
        outcome: OutcomeName = "incomplete" if reason.code == "missing-subbands" else "failed"
        return record_of(group, outcome, reason=reason)
    try:
        return _decide_existing(group, _plan(group, request), request, index)
    except ContimgError as error:
        return record_of(group, "failed", reason=Reason(code=error.code, text=str(error)))


def _plan(group: Group, request: Request) -> ConversionPlan:
    settings = request.settings
    if request.path_mapper is not None:
        target = Path(request.path_mapper(group.id, str(request.output_dir)))
    else:
        target = product_path(request.output_dir, group.id, request.kind)
    needed = staged_bytes(group.subbands, request.options, direct=settings.direct_ms)
    tier = choose_tier(
        request.output_dir,
        needed,
        at_once=request.in_flight,
        tmpfs_path=settings.tmpfs_path if settings.stage_to_tmpfs else None,
        scratch_dir=settings.scratch_dir,
    )
    return plan_group(
        group,
        kind=request.kind,
        options=request.options,
        target=str(target.absolute()),
        staging_root=tier.root,
        tier=tier.tier,
        tier_reason=tier.reason,
        direct=settings.direct_ms,
        parallel=settings.parallel_subband,
        on_existing=settings.on_existing,
        max_readers=settings.max_readers,
    )


def _decide_existing(
    group: Group, plan: ConversionPlan, request: Request, index: StartIndex
) -> GroupRecord | ConversionPlan:
    """Look at what is already published: at the target, or of the same start elsewhere."""
    target = Path(plan.target)
    found = inspect_target(target, plan)
    if found.state == "absent" and request.path_mapper is None:
        dates = (date_of(plan.group_id), date_of(stamp_of_jd(plan.start_jd)))
        other = index.find(plan.start_mjd, tuple(dict.fromkeys(dates)))
        if other is not None:
            target, found = other, inspect_target(other, plan)
    if found.state == "absent":
        return plan
    if plan.on_existing == "replace" and target == Path(plan.target):
        return plan
    return _existing_record(group, plan, target, found)


def _existing_record(group: Group, plan: ConversionPlan, target: Path, found: Found) -> GroupRecord:
    if found.state == "whole" and plan.on_existing == "skip":
        reason = Reason(code="already-published", text=f"{target} is this product, and whole")
        return record_of(group, "skipped", plan=plan, reason=reason, path=str(target))
    if found.state == "whole":
        text = f"{target} is this product already (--on-existing {plan.on_existing})"
        return record_of(
            group, "failed", plan=plan, reason=Reason(code="already-published", text=text)
        )
    text = (
        f"{target}: something else stands there ({found.text}): move it away"
        + (" or use --on-existing replace" if str(target) == plan.target else "")
    )  # fmt: skip
    return record_of(group, "failed", plan=plan, reason=Reason(code="target-occupied", text=text))


def record_of(
    group: Group,
    outcome: OutcomeName,
    *,
    plan: ConversionPlan | None = None,
    reason: Reason | None = None,
    path: str | None = None,
) -> GroupRecord:
    """Return the record of a group that no worker has seen."""
    return GroupRecord(
        id=group.id,
        start_mjd=None if group.start_jd is None else group.start_jd - MJD_JD_OFFSET_D,
        present=group.present,
        missing=group.missing,
        outcome=outcome,
        reason=reason,
        path=path or (plan.target if plan and outcome == "planned" else None),
        bytes_in=group.bytes_in,
        bytes_out=plan.bytes_staged if plan and outcome == "planned" else 0,
        mode=plan.mode if plan else None,
        tier=plan.tier if plan else None,
        unreadable=group.unreadable,
        notes=group.notes,
    )


def convert_groups(
    groups: Sequence[Group],
    request: Request,
    *,
    listener: Callable[[Sequence[ConversionPlan], Cluster], AbstractContextManager[Listener]],
    cluster: Cluster | None = None,
    on_record: Callable[[GroupRecord], None],
    on_start: Callable[[int], None] = lambda groups: None,
) -> float:
    """Convert groups, handing every record to ``on_record`` as it comes.

    Parameters
    ----------
    listener
        Makes what hears of progress, once the cluster is up.
    cluster
        One that is there already; otherwise the settings decide, and none is started when there
        is nothing to convert.
    on_record
        Called once per group.
    on_start
        Called with the number of groups to convert, before a cluster is started.

    Returns
    -------
    float
        Seconds it took to have the cluster.

    Raises
    ------
    ClusterError
        There is no cluster to work on; groups decided without one have been handed on already.
    """
    by_id: dict[str, Group] = {}
    plans: list[ConversionPlan] = []
    for group, decision in zip(groups, decide(groups, request), strict=True):
        if isinstance(decision, ConversionPlan) and not request.dry_run:
            by_id[decision.group_id] = group
            plans.append(decision)
            continue
        if isinstance(decision, ConversionPlan):
            decision = record_of(group, "planned", plan=decision)
        on_record(_kept(decision, group, request))
    if not plans:
        return 0.0
    on_start(len(plans))
    start_s = time.monotonic()
    with nullcontext(cluster) if cluster is not None else open_cluster(request.settings) as ready:
        startup_s = time.monotonic() - start_s
        with listener(plans, ready) as hears:
            executor = DaskExecutor(
                ready, recipe, convert_in_order, hears, groups_per_node=request.in_flight
            )
            with _closing(executor.run(plans)) as completions:
                for completion in completions:
                    group = by_id[completion.plan.group_id]
                    on_record(_kept(_completed(group, completion), group, request))
    return startup_s


@contextmanager
def _closing(completions: Iterator[Completion]) -> Iterator[Iterator[Completion]]:
    """Close the generator at once when the loop is left, so that nothing stays in flight."""
    try:
        yield completions
    finally:
        completions.close()  # type: ignore[attr-defined]


def _completed(group: Group, completion: Completion) -> GroupRecord:
    plan, product, error = completion.plan, completion.product, completion.error
    planned = record_of(group, "published" if product else "failed", plan=plan)
    fields = {name: getattr(planned, name) for name in planned.__slots__}
    fields.update(node=completion.node, attempts=completion.attempts)
    if product is not None:
        bad = sum(part.values_not_finite for part in product.parts)
        notes = product.notes + (
            (f"{bad} values were not finite: set to 0, flagged",) if bad else ()
        )
        fields.update(
            path=product.path,
            bytes_out=product.bytes_out,
            seconds={step: round(value, 4) for step, value in product.seconds.items()},
            notes=group.notes + notes,
        )
    if error is not None:
        fields.update(reason=Reason(code=error.code, text=str(error)))
    return GroupRecord(**fields)


def _kept(record: GroupRecord, group: Group, request: Request) -> GroupRecord:
    """Keep the failed record on disk in step with the outcome, unless nothing may be changed."""
    if request.dry_run:
        return record
    if record.outcome in ("published", "skipped"):
        remove_failed_record(request.output_dir, record.id)
    elif record.outcome == "failed":
        inputs = [subband.header.path for subband in group.subbands]
        inputs += [file.path for file in group.unreadable]
        try:
            write_failed_record(request.output_dir, record, inputs)
        except OSError as error:
            text = f"no record was left ({os.fspath(request.output_dir)}: {error.strerror})"
            return GroupRecord(
                **{name: getattr(record, name) for name in record.__slots__}
                | {"notes": (*record.notes, text)}
            )
    return record
