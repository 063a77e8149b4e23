"""A night in a catalogue, made up in a moment: groups of every outcome, nodes, a dispatcher."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import text

from contimg_dask.catalogue import groups, jobs, leases, nodes, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.model import Group, Reason
from contimg_dask.naming import stamp_of_jd
from tests.integration.catalogue.nouns import ME, make_group, new_job, product_of, start_of, whole

GB = 1_000_000_000
CADENCE_S = 309.24
NODES = ("10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14")
TRUNCATED = Reason(
    code="truncated",
    text="2025-10-05T04:13:57_sb07.hdf5: 91226112 bytes, 145348600 needed: send it again",
)
NO_SPACE = Reason(code="no-space", text="/data/products: 3.1 GB to use, 4.9 GB needed: free some")
LOST = Reason(code="worker-lost", text="a worker died on 10.0.0.12")
_UNIX_JD = 2440587.5


def dispatched(
    catalogue: Catalogue,
    *,
    state: str = "converting",
    held: str | None = None,
    dashboard: str | None = None,
) -> str:
    """Take the dispatcher's lease for an hour; return its token."""
    return leases.acquire(
        catalogue,
        "dispatcher",
        owner=ME,
        holder="process 4211 on scheduler",
        facts={"state": state, "held": held, "dashboard": dashboard, "running": 2, "workers": {}},
        lease_s=3600.0,
        now_s=time.time(),
        is_dead=lambda owner: True,
    ).token


def followed(catalogue: Catalogue, directory: str = "/data/incoming", **facts: Any) -> str:
    """Take the lease of a stream for an hour; return its token."""
    usual = {
        "input_dir": directory, "state": "watching", "by": "events", "files": 4480,
        "waiting_files": 0, "collecting": 1, "last_file_s": time.time() - 42.0,
        "input_free_bytes": 900 * GB,
    }  # fmt: skip
    return leases.acquire(
        catalogue,
        f"stream {directory}",
        owner=ME,
        holder="process 4212 on scheduler",
        facts=usual | facts,
        lease_s=3600.0,
        now_s=time.time(),
        is_dead=lambda owner: True,
    ).token


def seen_nodes(catalogue: Catalogue, full: str | None = None) -> None:
    """Have four nodes say how their staging stands."""
    for number, name in enumerate(NODES):
        promised = (0, 5, 10, 5)[number] * GB
        tmpfs = {
            "name": "tmpfs", "root": "/dev/shm/contimg", "promised_bytes": promised,
            "used_bytes": int(promised * 0.6), "free_bytes": 16 * GB - promised,
        }  # fmt: skip
        scratch = {
            "name": "scratch", "root": "/scratch/contimg-dask", "promised_bytes": 0,
            "used_bytes": 0, "free_bytes": 760 * GB,
        }  # fmt: skip
        if name == full:
            tmpfs |= {"free_bytes": GB // 2, "used_bytes": 15 * GB, "promised_bytes": 15 * GB}
        nodes.seen(catalogue, name, 8, {"tiers": [tmpfs, scratch]})


def group_starting(start_s: float, subbands: int = 16) -> Group:
    """Return a group whose first integration was at a time [s since 1970]."""
    days = start_s / 86400.0 + _UNIX_JD - start_of(0)
    group = make_group(0, present=range(subbands), expected=16, shift_s=days * 86400.0)
    return replace(group, id=stamp_of_jd(start_s / 86400.0 + _UNIX_JD))


def arrived(catalogue: Catalogue, found: Sequence[Group], **about: Any) -> list[int]:
    """Have a new job bring groups; return their keys."""
    job = jobs.add_job(catalogue, new_job(expected_subbands=16, **about))
    jobs.set_read(catalogue, job.id)
    taken = groups.arrive(catalogue, job, whole(*found))
    return [one.key for one in taken if one.key is not None]


def token_of(catalogue: Catalogue) -> str:
    """Return the token of the dispatcher there is."""
    lease = leases.current(catalogue, "dispatcher")
    assert lease is not None
    return lease.token


def begun(catalogue: Catalogue, token: str, key: int, node: str = NODES[0]) -> str:
    """Have a queued group worked on; return the attempt."""
    row = groups.get_row(catalogue, key)
    attempt = f"{row.id}.{row.attempts + 1}.{key:08x}"
    assert queue.begin_attempt(catalogue, token, key, attempt, number=1, node=node)
    return attempt


def ended(
    catalogue: Catalogue,
    token: str,
    key: int,
    *,
    node: str = NODES[0],
    reason: Reason | None = None,
    quarantine: bool = False,
    total_s: float = 40.0,
    is_begun: bool = False,
) -> None:
    """Work on a queued group until it is published, or set aside for a reason."""
    row = groups.get_row(catalogue, key)
    attempt = str(row.attempt) if is_begun else begun(catalogue, token, key, node)
    if reason is not None:
        queue.fail(catalogue, key, attempt, reason, quarantine=quarantine, seconds={})
        return
    product = product_of(
        0,
        path=f"{row.output_dir}/science/{row.id[:10]}/{row.id}.ms",
        group_id=row.id,
        output_dir=row.output_dir,
        start_mjd=row.start_mjd,
        plan_hash=f"plan-{key}",
        attempt=attempt,
    )
    parts = {
        "wait": 0.02,
        "rows": 0.2,
        "parts": 0.72,
        "reduce": 0.04,
        "verify": 0.06,
        "publish": 0.1,
    }
    seconds = {step: part * total_s for step, part in parts.items()} | {"total": total_s}
    assert queue.publish(catalogue, key, attempt, product, seconds=seconds, node=node, facts={})


def shifted(catalogue: Catalogue, key: int, finished_s: float, latency_s: float) -> None:
    """Have a group got its outcome at another time, so long after its last file."""
    values = {"at": finished_s, "key": key, "complete": finished_s - latency_s}
    sets = "state_since_s = :at, finished_s = :at, queued_s = :complete, complete_s = :complete"
    with catalogue.writing() as connection:
        connection.execute(text(f"UPDATE groups SET {sets} WHERE key = :key"), values)  # noqa: S608
        connection.execute(
            text("UPDATE attempts SET started_s = :complete, ended_s = :at WHERE group_key = :key"),
            {"at": finished_s, "key": key, "complete": finished_s - latency_s},
        )


def fill_night(
    catalogue: Catalogue, *, hours: float = 24.0, seed: int = 3, dashboard: str | None = None
) -> dict[str, list[int]]:
    """Make a night: a live group every 309 s, a few of which have failed, and two that run.

    Returns
    -------
    keys
        Of groups by what became of them: ``published``, ``failed``, ``running``, ``queued``.
    """
    chance, now_s = random.Random(seed), time.time()
    token = dispatched(catalogue, dashboard=dashboard)
    count = int(hours * 3600 / CADENCE_S)
    starts = [now_s - CADENCE_S * (count + 0.2 - number) for number in range(count)]
    keys = arrived(
        catalogue, [group_starting(start_s) for start_s in starts], live=True, label="live"
    )
    found: dict[str, list[int]] = {"published": [], "failed": [], "running": [], "queued": []}
    bad = {count // 4: TRUNCATED, count // 4 + 1: TRUNCATED, count // 2: LOST, count - 9: NO_SPACE}
    for number, (start_s, key) in enumerate(zip(starts[:-2], keys[:-2], strict=True)):
        reason = bad.get(number)
        total_s = chance.gammavariate(30, 1.2)
        ended(
            catalogue, token, key, node=chance.choice(NODES), reason=reason,
            quarantine=reason is LOST, total_s=total_s,
        )  # fmt: skip
        latency_s = total_s + chance.expovariate(1 / 6)
        if count // 3 <= number < count // 3 + 6:  # a node was away
            latency_s += 400 - 60 * (number - count // 3)
        shifted(catalogue, key, start_s + CADENCE_S + latency_s, latency_s)
        found["published" if reason is None else "failed"].append(key)
    for key, node in zip(keys[-2:], NODES, strict=False):
        begun(catalogue, token, key, node)
        found["running"].append(key)
    backlog = [group_starting(now_s - 40 * 86400.0 + 310.0 * number) for number in range(5)]
    found["queued"] = arrived(catalogue, backlog, label="week 40", output_dir="/data/backlog")
    seen_nodes(catalogue)
    followed(catalogue)
    return found
