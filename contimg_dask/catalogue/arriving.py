"""Groups come, for the first time or again: which are queued, which stay what they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.documents import files_hash, group_to_json
from contimg_dask.catalogue.identity import Identity, Known, identity_of
from contimg_dask.catalogue.jobs import insert_job
from contimg_dask.catalogue.moving import AFRESH
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arrived, Arriving, Job, NewJob
from contimg_dask.catalogue.rows import Row, chunks, reason_columns
from contimg_dask.catalogue.tables import attempts, group_documents, groups, jobs, jobs_groups
from contimg_dask.lifecycle import FINAL, OPEN, Arrival, State, arrival, is_allowed
from contimg_dask.model import Group

_BATCH = 160
"""Groups dealt with at a time: three starts each are asked for in one statement."""

_STATE_AFTER: dict[Arrival, State] = {"queue": "queued", "collect": "collecting", "fail": "failed"}

_IDENTITY = ("key", "id", "output_dir", "options_hash")
_CHANGING = [column.name for column in groups.c if column.name not in _IDENTITY]


def arrive(
    catalogue: Catalogue,
    job: Job | NewJob,
    arrivals: Sequence[Arriving],
    *,
    dry_run: bool = False,
) -> list[Arrived]:
    """Take in groups that a job brings; return what became of each, in the same order.

    Those that are known are found again by start time, output and options, and do as `lifecycle`
    says; the others are queued, or wait for more files, or have failed. Each is linked to the job.
    One transaction, and safe to call twice: the same job asks for nothing new the second time.
    When the job was cancelled meanwhile, nothing is taken.

    Parameters
    ----------
    catalogue
        Where they come to.
    job
        Says where products go, how they are made, and how urgent they are. One that was not
        submitted yet is for a dry run.
    arrivals
        In any order.
    dry_run
        Do everything, and then nothing: keys of new groups mean nothing.
    """
    with catalogue.writing(dry_run=dry_run) as connection:
        if isinstance(job, NewJob):
            assert dry_run  # only `add_job` submits
            job = insert_job(connection, job)
        cancelled = select(jobs.c.state).where(jobs.c.id == job.id)
        if connection.execute(cancelled).scalar() == "cancelled":
            return [
                Arrived(key=None, id=one.group.id, state="cancelled", changed=False)
                for one in arrivals
            ]
        arriving = _Batch(connection, job)
        batches = _batches([(one, identity_of(one.group)) for one in arrivals])
        return [arrived for batch in batches for arrived in arriving.take(batch)]


_Coming = tuple[Arriving, Identity]


def _batches(coming: Sequence[_Coming]) -> Iterator[list[_Coming]]:
    """Cut arrivals so that a batch holds no group twice, which would not know of itself."""
    batch: list[_Coming] = []
    seen: set[object] = set()
    for one in coming:
        marks = {one[1].id, *(one[1].start_ms + step for step in (-1, 0, 1))}
        if len(batch) >= _BATCH or not seen.isdisjoint(marks):
            yield batch
            batch, seen = [], set()
        batch.append(one)
        seen |= {one[1].id, one[1].start_ms}
    if batch:
        yield batch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What becomes of one arrival; ``key`` is None until a new group is inserted."""

    key: int | None
    id: str
    values: dict[str, Any]
    action: Arrival
    takes_files: bool
    other_files: bool
    group: Group


class _Batch:
    """Takes in arrivals that are all different, within one transaction."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self._connection = connection
        self._job = job
        self._options_hash = job.options_hash
        self._replaces = job.settings.get("on_existing") == "replace"
        self._now_s = time.time()

    def take(self, coming: Sequence[_Coming]) -> list[Arrived]:
        """Take in these groups."""
        known = Known(
            self._connection, self._job.output_dir, self._options_hash, [c[1] for c in coming]
        )
        rows = [known.find(identity) for _, identity in coming]
        keys = [row["key"] for row in rows if row is not None]
        linked, tried = self._linked(keys), self._tried(keys)
        changes = []
        for (arriving, identity), row in zip(coming, rows, strict=True):
            if row is None:
                changes.append(self._new(arriving, identity, known.id_for(identity)))
            else:
                again, untried = row["key"] in linked, row["key"] not in tried
                changes.append(self._known(arriving, identity, row, again, untried))
        self._insert(changes)
        self._update(rows, changes)
        return self._settle(changes, linked, keys)

    def _new(self, arriving: Arriving, identity: Identity, group_id: str) -> _Change:
        faulty = arriving.fault is not None
        action = arrival(None, whole=arriving.whole, same_files=False, faulty=faulty)
        values: dict[str, Any] = {
            **AFRESH,
            **file_columns(arriving.group),
            "start_ms": identity.start_ms,
            "start_mjd": identity.start_mjd,
            "kind": self._job.kind,
            "job_id": self._job.id,
            "priority": self._job.priority,
            "live": self._is_live(arriving),
            "complete_s": arriving.complete_s,
            "path": None,
            "seconds": None,
            "facts": None,
            **self._entering(_STATE_AFTER[action], arriving),
        }
        return _Change(
            key=None,
            id=group_id,
            values=values,
            action=action,
            takes_files=True,
            other_files=False,
            group=arriving.group,
        )

    def _known(
        self, arriving: Arriving, identity: Identity, row: Row, again: bool, untried: bool
    ) -> _Change:
        same_files = row["files_hash"] == files_hash(arriving.group) and not _came_since(
            row, arriving
        )
        action = arrival(
            row["state"],
            whole=arriving.whole,
            same_files=same_files,
            replace=self._replaces,
            faulty=arriving.fault is not None,
            again=again,
            untried=untried,
        )
        values = {name: row[name] for name in _CHANGING}
        if not again:
            values |= self._claim(row, arriving, action == "queue" and row["state"] in FINAL)
        # One adopted from disk gets to know its files.
        takes_files = action != "keep" or row["files_hash"] is None
        if takes_files:
            values |= file_columns(arriving.group)
            values["complete_s"] = arriving.complete_s
            if action == "queue" and arriving.live is not None:
                values["live"] = arriving.live
            if identity.start_mjd is not None:
                values |= {"start_ms": identity.start_ms, "start_mjd": identity.start_mjd}
        if action in _STATE_AFTER:
            assert is_allowed(row["state"], _STATE_AFTER[action])
            values |= AFRESH | self._entering(_STATE_AFTER[action], arriving)
        elif action == "refresh" and row["state"] in FINAL:
            values |= reason_columns(arriving.fault)
        return _Change(
            key=row["key"],
            id=row["id"],
            values=values,
            action=action,
            takes_files=takes_files,
            other_files=not same_files and row["files_hash"] is not None,
            group=arriving.group,
        )

    def _entering(self, state: State, arriving: Arriving) -> dict[str, Any]:
        return {
            "state": state,
            "state_since_s": self._now_s,
            "queued_s": self._now_s if state == "queued" else None,
            "finished_s": self._now_s if state in FINAL else None,
            **reason_columns(arriving.fault if state == "failed" else None),
        }

    def _is_live(self, arriving: Arriving) -> bool:
        return self._job.live if arriving.live is None else arriving.live

    def _claim(self, row: Row, arriving: Arriving, reopened: bool) -> dict[str, Any]:
        """Return what changes because one more job wants a group: the most urgent one decides."""
        job, live = self._job, self._is_live(arriving)
        mine = {"job_id": job.id, "priority": job.priority, "live": live, "kind": job.kind}
        if reopened:
            return mine
        if row["job_id"] is None:
            return {"job_id": job.id}
        if row["state"] not in OPEN:
            return {}
        first = (job.priority, self._replaces) > (row["priority"], False)
        return {
            "live": row["live"] or live,
            "cancel_requested": False,
            **({name: mine[name] for name in ("job_id", "priority", "kind")} if first else {}),
        }

    def _linked(self, keys: Sequence[int]) -> set[int]:
        column = jobs_groups.c.group_key
        query = select(column).where(jobs_groups.c.job_id == self._job.id)
        return self._keys(query, column, keys)

    def _tried(self, keys: Sequence[int]) -> set[int]:
        column = attempts.c.group_key
        return self._keys(select(column).distinct(), column, keys)

    def _keys(self, query: Any, column: Any, keys: Sequence[int]) -> set[int]:
        found: set[int] = set()
        for some in chunks(keys):
            found |= set(self._connection.execute(query.where(column.in_(some))).scalars())
        return found

    def _insert(self, changes: list[_Change]) -> None:
        """Insert the new groups, and give their changes the keys they got."""
        new = [change for change in changes if change.key is None]
        if not new:
            return
        fixed = {"output_dir": self._job.output_dir, "options_hash": self._options_hash}
        inserting = insert(groups).returning(groups.c.key, groups.c.start_ms)
        values = [{"id": change.id, **fixed, **change.values} for change in new]
        # The start tells them apart: all else of their identity is the same.
        keys = {start_ms: key for key, start_ms in self._connection.execute(inserting, values)}
        for index, change in enumerate(changes):
            if change.key is None:
                changes[index] = replace(change, key=keys[change.values["start_ms"]])

    def _update(self, rows: Sequence[Row | None], changes: Sequence[_Change]) -> None:
        changed = [
            {"at_key": change.key, **change.values}
            for row, change in zip(rows, changes, strict=True)
            if row is not None and any(row[name] != change.values[name] for name in _CHANGING)
        ]
        if changed:
            one = update(groups).where(groups.c.key == bindparam("at_key"))
            self._connection.execute(one, changed)

    def _settle(
        self, changes: Sequence[_Change], linked: set[int], known: Sequence[int]
    ) -> list[Arrived]:
        """Write files, links and events of groups that all have their keys by now."""
        self._write_documents([change for change in changes if change.takes_files], known)
        links = [
            {"job_id": self._job.id, "group_key": change.key}
            for change in changes
            if change.key not in linked
        ]
        if links:
            self._connection.execute(insert(jobs_groups), links)
        told = [change for change in changes if change.action != "keep"]
        events.add_all(self._connection, [self._event(change) for change in told])
        return [
            Arrived(
                key=change.key,
                id=change.id,
                state=change.values["state"],
                changed=change.action != "keep",
                other_files=change.other_files,
            )
            for change in changes
        ]

    def _write_documents(self, changes: Sequence[_Change], known: Sequence[int]) -> None:
        old = set(known)
        gone = [change.key for change in changes if change.key in old]
        for keys in chunks(gone):
            self._connection.execute(
                group_documents.delete().where(group_documents.c.group_key.in_(keys))
            )
        rows = [
            {"group_key": change.key, "document": group_to_json(change.group)} for change in changes
        ]
        if rows:
            self._connection.execute(insert(group_documents), rows)

    def _event(self, change: _Change) -> dict[str, Any]:
        state = change.values["state"]
        facts = {"present": change.values["present"], "expected": change.values["expected"]}
        if change.values["reason_code"] is not None:
            facts["code"] = change.values["reason_code"]
        return events.event_row(
            "group-refreshed" if change.action == "refresh" else f"group-{state}",
            group_key=change.key,
            group_id=change.id,
            job_id=self._job.id,
            facts=facts,
            time_s=self._now_s,
        )


def _came_since(row: Row, arriving: Arriving) -> bool:
    """Tell whether a file came after the group got its outcome: it may be one brought back."""
    if arriving.complete_s is None or row["finished_s"] is None:
        return False
    return bool(arriving.complete_s > row["finished_s"])


def file_columns(group: Group) -> dict[str, Any]:
    """Return the columns of a group that tell of its files."""
    return {
        "present": len(group.present),
        "expected": group.expected,
        "missing": list(group.missing),
        "bytes_in": group.bytes_in,
        "files_hash": files_hash(group),
    }
