"""From groups to outcomes: have each one done, record what came of it, and tell who wants to know.

No outcome is silent: a group is published, skipped with a word, incomplete with what is missing,
or failed with a reason and a record under ``failed/``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

from contimg_dask.convert import convert_in_order, recipe
from contimg_dask.deciding import Request, decide, record_of
from contimg_dask.event_log import EventLog, LoggedListener
from contimg_dask.execution.cluster import Cluster, connected_cluster, embedded_cluster
from contimg_dask.execution.encryption import TlsFiles
from contimg_dask.execution.executor import Completion, DaskExecutor
from contimg_dask.execution.interrupts import interrupts_deferred
from contimg_dask.execution.runner import Listener
from contimg_dask.hand_over import HandOver, check_command
from contimg_dask.model import ConversionPlan, Group, GroupRecord, Reason
from contimg_dask.publishing.ownership import check_group
from contimg_dask.recording import keep_record, record_of_attempt
from contimg_dask.settings import Settings
from contimg_dask.staging.room import megabytes, usable_bytes
from contimg_dask.staging.sweeping import sweep

ListenerFactory = Callable[[Sequence[ConversionPlan], Cluster], AbstractContextManager[Listener]]


def open_cluster(settings: Settings) -> AbstractContextManager[Cluster]:
    """Return the cluster the settings ask for, to be used in a ``with`` block."""
    if settings.scheduler is not None:
        return connected_cluster(
            settings.scheduler, tls=tls_files(settings), allow_plain_tcp=settings.allow_plain_tcp
        )
    return embedded_cluster(
        settings.workers, settings.worker_memory_limit, settings.dashboard_address
    )


def tls_files(settings: Settings) -> TlsFiles:
    """Return the certificates the settings name."""
    return TlsFiles(
        ca_file=settings.tls_ca_file,
        cert_file=settings.tls_cert_file,
        key_file=settings.tls_key_file,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a run says of itself, beside its records: seconds to have a cluster, hand-overs."""

    startup_s: float
    handed_over: int
    hand_overs_failed: int


def convert_groups(
    groups: Sequence[Group],
    request: Request,
    *,
    listener: ListenerFactory,
    cluster: Cluster | None = None,
    on_record: Callable[[GroupRecord], None],
    on_line: Callable[[str], None] = lambda text: None,
) -> Ran:
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
    on_line
        Called with what people may want to know meanwhile.

    Raises
    ------
    ClusterError
        There is no cluster to work on; groups decided without one have been handed on already.
    UsageError
        The event log cannot be written; there is no such group, or no such command to hand
        products over to.
    """
    settings = request.settings
    check_group(settings.product_group)
    check_command(settings.on_published)
    command = None if request.dry_run else settings.on_published
    with (
        EventLog(settings.event_log if not request.dry_run else None, on_line) as log,
        HandOver(command, settings.on_published_timeout_s, log, on_line) as hand_over,
    ):
        log.add("run-started", groups=len(groups), output=str(request.output_dir))

        def tell(record: GroupRecord, group: Group) -> None:
            # All of it or nothing: what the log calls published is handed over, or said not to be.
            with interrupts_deferred():
                publication = request.publication
                kept = record if request.dry_run else keep_record(record, group, publication)
                on_record(kept)
                log.add_record(kept)
                if kept.outcome == "published":
                    hand_over.add(kept)

        if not request.dry_run:
            _sweep(request, on_line)
        startup_s = _convert(groups, request, listener, cluster, tell, log, on_line)
        hand_over.wait()
        log.add("run-finished", **hand_over.counts)
    return Ran(
        startup_s=startup_s,
        handed_over=hand_over.counts["handed_over"],
        hand_overs_failed=hand_over.counts["hand_overs_failed"],
    )


def _sweep(request: Request, on_line: Callable[[str], None]) -> None:
    """Remove what killed conversions have left where this one works."""
    for tier in request.tiers:
        try:
            found = [leftover for leftover in sweep(tier.root) if leftover.removed]
        except OSError:
            continue  # whoever needs the tier will say what is wrong with it
        if found:
            size = megabytes(sum(leftover.size_bytes for leftover in found))
            on_line(f"{tier.root}: removed {size} that {len(found)} dead attempt(s) had left")


def _say_room(
    plans: Sequence[ConversionPlan], request: Request, on_line: Callable[[str], None]
) -> None:
    """Warn when all products together will not fit: better now than in the middle of the night."""
    needed = sum(plan.bytes_product for plan in plans)
    usable = usable_bytes(request.output_dir, tmpfs=False)
    if needed > usable:
        on_line(
            f"WARNING {request.output_dir}: {len(plans)} groups need {megabytes(needed)}, "
            f"{megabytes(usable)} are there to use: the last ones will fail unless space is freed"
        )


def _convert(
    groups: Sequence[Group],
    request: Request,
    listener: ListenerFactory,
    cluster: Cluster | None,
    tell: Callable[[GroupRecord, Group], None],
    log: EventLog,
    on_line: Callable[[str], None],
) -> float:
    """Do the work of `convert_groups`; return seconds until the cluster was there."""
    by_id: dict[str, Group] = {}
    plans: list[ConversionPlan] = []
    for group, decision in zip(groups, decide(groups, request), strict=True):
        if isinstance(decision, ConversionPlan) and not request.dry_run:
            by_id[decision.group_id] = group
            plans.append(decision)
            continue
        if isinstance(decision, ConversionPlan):
            decision = record_of(group, "planned", plan=decision)
        tell(decision, group)
    if not plans:
        return 0.0
    _say_room(plans, request, on_line)
    on_line(f"{len(plans)} group(s) to convert; waiting for workers to start")
    start_s = time.monotonic()
    with ExitStack() as stack:
        ready = stack.enter_context(
            nullcontext(cluster) if cluster is not None else open_cluster(request.settings)
        )
        startup_s = time.monotonic() - start_s
        hears = LoggedListener(stack.enter_context(listener(plans, ready)), log)
        executor = DaskExecutor(
            ready, recipe, convert_in_order, hears, groups_per_node=request.in_flight
        )
        for completion in stack.enter_context(_closing(executor.run(plans))):
            group = by_id[completion.plan.group_id]
            tell(_completed(group, completion), group)
    return startup_s


@contextmanager
def _closing(completions: Iterator[Completion]) -> Iterator[Iterator[Completion]]:
    """Close the generator at once when the loop is left, so that nothing stays in flight."""
    try:
        yield completions
    finally:
        completions.close()  # type: ignore[attr-defined]


def _completed(group: Group, completion: Completion) -> GroupRecord:
    record = record_of_attempt(
        group,
        completion.plan,
        node=completion.node,
        attempts=completion.attempts,
        product=completion.product,
        error=completion.error,
    )
    if not completion.by_another:
        return record
    text = f"{record.path} was published by another conversion meanwhile, and is whole"
    return replace(record, outcome="skipped", reason=Reason(code="already-published", text=text))
