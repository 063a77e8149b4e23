"""Groups that a stream has to find again by other ways than their start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select

from contimg_dask.catalogue.identity import identity_of
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arriving, Job, QueuedGroup
from contimg_dask.catalogue.rows import queued_columns, queued_from, queued_of
from contimg_dask.catalogue.tables import groups
from contimg_dask.grouping import NAME_REACH_S
from contimg_dask.model import Group
from contimg_dask.naming import stamp_to_mjd


def collecting(catalogue: Catalogue, job_id: int) -> list[QueuedGroup]:
    """Return the groups of a job that wait for more files, in time order."""
    query = (
        select(*queued_columns)
        .select_from(queued_from)
        .where(groups.c.state == "collecting", groups.c.job_id == job_id)
        .order_by(groups.c.start_ms)
    )
    with catalogue.reading() as connection:
        return [queued_of(row) for row in connection.execute(query).mappings()]


def with_known_ids(catalogue: Catalogue, job: Job, arrivals: Sequence[Arriving]) -> list[Arriving]:
    """Return arrivals, each under the id it had while none of its files could be read.

    Such a group was known by a name alone; its first readable file may have another one.
    """
    starts = [identity_of(one.group).start_ms for one in arrivals]
    reach_ms = int(NAME_REACH_S * 1000)
    query = select(groups.c.id, groups.c.start_ms).where(
        groups.c.start_mjd.is_(None),
        groups.c.output_dir == job.output_dir,
        groups.c.options_hash == job.options_hash,
        groups.c.start_ms.between(
            min(starts, default=0) - 2 * reach_ms, max(starts, default=0) + 2 * reach_ms
        ),
    )
    with catalogue.reading() as connection:
        nameless = connection.execute(query).all()
    if not nameless:
        return list(arrivals)
    return [_renamed(one, [row.id for row in nameless]) for one in arrivals]


def _renamed(one: Arriving, ids: Sequence[str]) -> Arriving:
    if one.group.start_jd is None or one.group.id in ids:
        return one
    near = [known for known in ids if _is_near(one.group, known)]
    return replace(one, group=replace(one.group, id=near[0])) if len(near) == 1 else one


def _is_near(group: Group, known: str) -> bool:
    known_mjd = stamp_to_mjd(known)
    stamps = (subband.header.name_stamp for subband in group.subbands)
    return known_mjd is not None and any(
        abs(mjd - known_mjd) * 86400.0 <= NAME_REACH_S
        for stamp in stamps
        if stamp is not None and (mjd := stamp_to_mjd(stamp)) is not None
    )
