"""Decide what to do with each group: the plan to carry out, or the record of why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contimg_dask.errors import ContimgError
from contimg_dask.model import (
    MJD_JD_OFFSET_D,
    ConversionPlan,
    Group,
    GroupRecord,
    Kind,
    OutcomeName,
    ProductOptions,
    Publication,
    Reason,
    Tier,
)
from contimg_dask.naming import PathMapper, date_of, product_path, stamp_of_jd
from contimg_dask.planning import is_convertible, options_of, plan_group, propose_tiers
from contimg_dask.publishing.targets import Found, StartIndex, inspect_target
from contimg_dask.settings import Settings, size_bytes
from contimg_dask.staging.room import check_room

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
        return options_of(self.settings)

    @property
    def publication(self) -> Publication:
        """How products are put in their place."""
        settings = self.settings
        return Publication(
            output_dir=str(self.output_dir),
            mode=int(settings.product_mode, 8) if settings.product_mode else None,
            group=settings.product_group,
            allow_gap=settings.allow_gap,
            keep_failed=settings.keep_failed,
        )

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Where products may be staged, in order."""
        settings = self.settings
        budget = settings.tmpfs_budget
        return propose_tiers(
            str(self.output_dir),
            tmpfs_path=settings.tmpfs_path if settings.stage_to_tmpfs else None,
            tmpfs_budget_bytes=None if budget is None else size_bytes(budget),
            scratch_dir=settings.scratch_dir,
        )

    @property
    def in_flight(self) -> int:
        """Groups at the same time per node."""
        return self.settings.groups_in_flight or _DEFAULT_IN_FLIGHT


def decide(
    groups: Sequence[Group], request: Request, index: StartIndex | None = None
) -> list[GroupRecord | ConversionPlan]:
    """Return, per group, the plan to carry out or the record of why there is none.

    ``index`` of the output directory's products saves reading their manifests again.
    """
    index = index or StartIndex(request.output_dir)
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
    plan = plan_group(
        group,
        kind=request.kind,
        options=request.options,
        target=str(target.absolute()),
        tiers=request.tiers,
        direct=settings.direct_ms,
        parallel=settings.parallel_subband,
        on_existing=settings.on_existing,
        publication=request.publication,
        max_readers=settings.max_readers,
    )
    # What cannot fit is refused before anything is started for it. A mapper may put the target on
    # another file system than the output.
    reserve_bytes = size_bytes(settings.disk_reserve) if settings.disk_reserve else 0
    check_room(request.output_dir, plan.bytes_product, reserve_bytes)
    check_room(target.absolute().parent, plan.bytes_product, reserve_bytes)
    return plan


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
        tier=plan.proposed_tier.name if plan and outcome == "planned" else None,
        tier_proposed=plan.proposed_tier.name if plan else None,
        unreadable=group.unreadable,
        notes=group.notes,
    )
