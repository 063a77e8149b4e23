"""Put right what a dispatcher that ended in the middle has left, before anything new begins.

A group that is running by the catalogue is not: its dispatcher is gone. The disk tells what became
of it. What its attempt left in staging directories is swept, and its tasks are forgotten by Dask
with the client that wanted them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from contimg_dask.catalogue import jobs, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import QueuedGroup
from contimg_dask.deciding import Request, decide
from contimg_dask.dispatching.outcomes import Outcomes
from contimg_dask.dispatching.requests import request_of
from contimg_dask.errors import UsageError
from contimg_dask.model import GroupRecord, Publication
from contimg_dask.publishing.manifest import read_manifest


def recover(catalogue: Catalogue, outcomes: Outcomes) -> list[QueuedGroup]:
    """Give every running group its outcome, or back to the queue; return what was running.

    Safe to be interrupted and begun again. The caller holds the lease.
    """
    found = queue.running(catalogue)
    for queued in found:
        _recover(catalogue, outcomes, queued)
    return found


def _recover(catalogue: Catalogue, outcomes: Outcomes, queued: QueuedGroup) -> None:
    try:
        request = request_of(jobs.get_job(catalogue, queued.job_id))
    except UsageError:
        # It is refused with the reason when its turn comes.
        outcomes.interrupted(queued, Publication(output_dir=queued.output_dir))
        return
    product = _product_of(queued, request)
    if product is not None:
        outcomes.decided(queued, product, request.publication)
    elif queued.cancel_requested:
        queue.mark_cancelled(catalogue, queued.key, queued.attempt)
    else:
        outcomes.interrupted(queued, request.publication)


def _product_of(queued: QueuedGroup, request: Request) -> GroupRecord | None:
    """Return the record of a product that makes another attempt needless.

    Where the job asks for products to be made again, only that of the very attempt does.
    """
    asked = request.settings.on_existing
    looking = replace(request, settings=replace(request.settings, on_existing="skip"))
    (decision,) = decide([queued.group], looking)
    if not isinstance(decision, GroupRecord) or decision.outcome != "skipped":
        return None
    assert decision.path is not None  # that of the product
    made_by = (read_manifest(Path(decision.path)) or {}).get("attempt")
    return decision if asked == "skip" or made_by == queued.attempt else None
