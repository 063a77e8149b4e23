"""Groups, jobs and products as the catalogue's tests need them: made up, and cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from contimg_dask.catalogue import events, groups, jobs, leases, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arrived, Arriving, Job, NewJob, ProductRow
from contimg_dask.model import (
    MJD_JD_OFFSET_D,
    Group,
    Owner,
    ProductOptions,
    Reason,
    Subband,
    SubbandHeader,
    UnreadableFile,
)
from contimg_dask.naming import stamp_of_jd

FIRST_JD = 2460953.6334
"""2025-10-05T03:12:05.760."""
CADENCE_D = 309.24 / 86400.0
OUT = "/data/products"
DIGEST = ProductOptions().digest
ME = Owner(host="here", boot_id="b", pid_namespace=1, pid=11, start_ticks=5)
OTHER = Owner(host="there", boot_id="c", pid_namespace=1, pid=12, start_ticks=6)
BROKEN = Reason(code="verification-failed", text="DATA differs")
LOST = Reason(code="worker-lost", text="a worker died")


def start_of(number: int) -> float:
    """Return when the n-th group begins [JD]."""
    return FIRST_JD + number * CADENCE_D


def make_header(number: int, subband: int, *, mtime_ns: int = 7, directory: str = "/in") -> Any:
    """Return the header of a subband file of the n-th group."""
    start_jd = start_of(number)
    stamp = stamp_of_jd(start_jd)
    width = 30517.578125
    lowest = 1.4e9 - subband * 48 * width
    return SubbandHeader(
        path=f"{directory}/{stamp}_sb{subband:02d}.hdf5",
        size_bytes=1_000_000 + subband,
        mtime_ns=mtime_ns,
        name_stamp=stamp,
        name_number=subband,
        start_jd=start_jd,
        integrations=24,
        rows=24 * 4656,
        channels=48,
        products=(-5, -6),
        lowest_freq_hz=lowest,
        highest_freq_hz=lowest + 47 * width,
        channel_width_hz=width,
    )


def make_group(
    number: int = 0,
    *,
    present: Sequence[int] = (0, 1),
    expected: int = 2,
    mtime_ns: int = 7,
    directory: str = "/in",
    shift_s: float = 0.0,
) -> Group:
    """Return the n-th group, by default of two subbands; ``shift_s`` moves its start."""
    headers = [
        make_header(number, subband, mtime_ns=mtime_ns, directory=directory) for subband in present
    ]
    start_jd = start_of(number) + shift_s / 86400.0
    return Group(
        id=stamp_of_jd(start_of(number)),
        start_jd=start_jd,
        subbands=tuple(
            Subband(number=n, header=replace(header, start_jd=start_jd))
            for n, header in sorted(zip(present, headers, strict=True), reverse=True)
        ),
        expected=expected,
    )


def make_unreadable(number: int = 0, text: str = "no HDF5") -> Group:
    """Return the n-th group when none of its files can be read."""
    stamp = stamp_of_jd(start_of(number))
    file = UnreadableFile(
        path=f"/in/{stamp}_sb00.hdf5",
        name_stamp=stamp,
        name_number=0,
        reason=Reason(code="not-hdf5", text=text),
    )
    return Group(id=stamp, start_jd=None, subbands=(), expected=2, unreadable=(file,))


def new_job(**about: Any) -> NewJob:
    """Return a job that is not submitted yet."""
    usual: dict[str, Any] = {
        "input_dir": "/in",
        "output_dir": OUT,
        "options_hash": DIGEST,
        "expected_subbands": 2,
    }
    return NewJob(**usual | about)


def submitted(catalogue: Catalogue, **about: Any) -> Job:
    """Return a job that is submitted."""
    return jobs.add_job(catalogue, new_job(**about))


def whole(*found: Group) -> list[Arriving]:
    """Return groups that can be converted as they are."""
    return [Arriving(group=group, whole=True) for group in found]


def faulty(group: Group, text: str = "1 of 2 subbands") -> Arriving:
    """Return a group that lacks files which will not come."""
    reason = Reason(code="missing-subbands", text=text)
    return Arriving(group=group, whole=False, fault=reason)


def brought(catalogue: Catalogue, job: Job, *arrivals: Arriving, **how: Any) -> Arrived:
    """Bring groups; return what became of the last one."""
    return groups.arrive(catalogue, job, arrivals, **how)[-1]


def queued(catalogue: Catalogue, count: int = 1, **about: Any) -> list[int]:
    """Have a new job bring the first groups; return their keys."""
    job = submitted(catalogue, **about)
    found = [make_group(number) for number in range(count)]
    keys = [arrived.key for arrived in groups.arrive(catalogue, job, whole(*found))]
    return [key for key in keys if key is not None]


def lease(catalogue: Catalogue) -> str:
    """Take the dispatcher's lease, from whoever has it; return its token."""
    return leases.acquire(
        catalogue,
        "dispatcher",
        owner=ME,
        holder="process 11 on here",
        facts={},
        lease_s=30.0,
        now_s=0.0,
        is_dead=lambda owner: True,
    ).token


def begun(catalogue: Catalogue, key: int, attempt: str = "a1", *, node: str = "10.0.0.1") -> str:
    """Begin an attempt; return its name."""
    assert queue.begin_attempt(catalogue, lease(catalogue), key, attempt, number=1, node=node)
    return attempt


def product_of(number: int = 0, *, path: str | None = None, **about: Any) -> ProductRow:
    """Return the product of the n-th group."""
    mjd = start_of(number) - MJD_JD_OFFSET_D
    stamp = stamp_of_jd(start_of(number))
    usual: dict[str, Any] = {
        "path": path or f"{OUT}/science/{stamp[:10]}/{stamp}.ms",
        "group_key": 0,
        "group_id": stamp,
        "kind": "science",
        "output_dir": OUT,
        "start_mjd": mjd,
        "begin_mjd": mjd - 6.4 / 86400,
        "middle_mjd": mjd + 148.0 / 86400,
        "end_mjd": mjd + 302.8 / 86400,
        "ra_deg": 83.6 + number,
        "dec_deg": 16.2,
        "declination_deg": 16.25,
        "bytes": 5_000_000_000,
        "status": "published",
        "plan_hash": f"plan-{number}",
        "attempt": "a1",
        "published_s": 1.7e9,
    }
    return ProductRow(**usual | about)


def published(catalogue: Catalogue, key: int, number: int = 0, **about: Any) -> ProductRow:
    """Convert a queued group; return its product."""
    product = product_of(number, **about)
    attempt = begun(catalogue, key, f"try-{key}-{number}-{len(groups.attempts_of(catalogue, key))}")
    assert queue.publish(
        catalogue, key, attempt, product, seconds={"total": 12.5}, node="10.0.0.1", facts={}
    )
    return replace(product, group_key=key)


def failed(
    catalogue: Catalogue, key: int, reason: Reason = BROKEN, *, quarantine: bool = False
) -> None:
    """Have an attempt at a queued group fail for good."""
    attempt = begun(catalogue, key, f"try-{key}-{len(groups.attempts_of(catalogue, key))}")
    assert queue.fail(catalogue, key, attempt, reason, quarantine=quarantine, seconds={})


def state_of(catalogue: Catalogue, key: int) -> str:
    """Return the state of a group."""
    return groups.get_row(catalogue, key).state


def told(catalogue: Catalogue, key: int) -> list[str]:
    """Return the kinds of events of a group, in order."""
    return [event.event for event in events.list_events(catalogue, group=key)]
