"""What people ask of the queue, by command or over the web: retry, cancel, pause, drain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contimg_dask.catalogue import groups, jobs, nodes, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.errors import NotFoundError, UsageError
from contimg_dask.lifecycle import State

SET_ASIDE: tuple[State, ...] = ("failed", "quarantined")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Groups that were cancelled at once, and those that are being stopped."""

    cancelled: int
    requested: int


def keys_of(catalogue: Catalogue, names: Sequence[str], how: str = "one by number") -> list[int]:
    """Return the groups these ids or numbers stand for; ``how`` to tell one of several.

    Raises
    ------
    NotFoundError
        There is no such group.
    UsageError
        An id stands for several.
    """
    keys = []
    for name in names:
        found = groups.find_groups(catalogue, name)
        if not found:
            raise NotFoundError(f"{name}: there is no such group; see 'contimg-dask groups'")
        if len(found) > 1:
            which = "; ".join(f"{row.key} in {row.output_dir}" for row in found)
            raise UsageError(f"{name} stands for {len(found)} groups: give {how}: {which}")
        keys.append(found[0].key)
    return keys


def retry(
    catalogue: Catalogue,
    names: Sequence[str],
    *,
    everything: bool = False,
    states: Sequence[State] = (),
    reason: str | None = None,
    dry_run: bool = False,
) -> int:
    """Queue groups again as if nothing had been tried; return how many.

    Parameters
    ----------
    catalogue
        Whose groups.
    names
        Their ids or numbers, unless ``everything``.
    everything
        All that failed or are quarantined, or are in one of the ``states``, and failed for this
        ``reason`` if one is given.
    dry_run
        Only count them.

    Raises
    ------
    UsageError
        Both or neither of names and everything were given, or what goes with the latter alone.
    """
    if bool(names) == everything:
        raise UsageError("give groups, or --all")
    if (states or reason) and not everything:
        raise UsageError("--state and --reason go with --all")
    if not everything:
        return queue.retry_groups(catalogue, keys_of(catalogue, names), dry_run=dry_run)
    if reason is None:
        return queue.retry_groups(catalogue, None, states=states or None, dry_run=dry_run)
    wanted = states or SET_ASIDE
    rows = groups.list_groups(catalogue, states=wanted, reason=reason)
    keys = [row.key for row in rows]
    return queue.retry_groups(catalogue, keys, states=wanted, dry_run=dry_run)


def cancel_job(catalogue: Catalogue, job_id: int, *, dry_run: bool = False) -> Cancelled:
    """Cancel a job, and those of its groups that no other job wants; a ``dry_run`` only counts.

    Raises
    ------
    NotFoundError
        There is no such job.
    """
    counts = jobs.cancel_job(catalogue, job_id, dry_run=dry_run)
    return Cancelled(cancelled=counts.cancelled, requested=counts.requested)


def cancel_group(catalogue: Catalogue, name: str, *, dry_run: bool = False) -> Cancelled:
    """Cancel a group, whichever jobs want it; a ``dry_run`` only counts.

    Raises
    ------
    NotFoundError, UsageError
        As `keys_of`.
    """
    keys = keys_of(catalogue, (name,), "--group and its number")
    cancelled, requested = queue.cancel_groups(catalogue, keys, dry_run=dry_run)
    return Cancelled(cancelled=cancelled, requested=requested)


def set_draining(catalogue: Catalogue, node: str, draining: bool) -> None:
    """Have a node get nothing more, or again something.

    Raises
    ------
    NotFoundError
        The dispatcher has never seen it.
    """
    if not nodes.set_draining(catalogue, node, draining):
        known = ", ".join(row.name for row in nodes.list_nodes(catalogue)) or "none yet"
        raise NotFoundError(f"{node}: the dispatcher has seen no such node; known: {known}")
