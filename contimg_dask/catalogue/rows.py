"""Rows of tables into nouns, and the little that every statement needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, select

from contimg_dask.catalogue.documents import group_from_json
from contimg_dask.catalogue.records import (
    AttemptRow,
    GroupRow,
    Job,
    MovedBytes,
    ProductRow,
    QueuedGroup,
)
from contimg_dask.catalogue.tables import group_documents, groups, jobs_groups
from contimg_dask.model import Reason

Item = TypeVar("Item")
Row = Mapping[str, Any] | RowMapping

MOST_NAMES = 500
"""Names or keys asked for in one statement; databases bound their number."""

_JOB = [field.name for field in fields(Job) if field.name != "reason"]
_ATTEMPT = [field.name for field in fields(AttemptRow) if field.name != "reason"]
_PRODUCT = [field.name for field in fields(ProductRow)]
_LISTED = [
    field.name
    for field in fields(GroupRow)
    if field.name not in ("reason", "jobs", "missing", "moved_bytes")
]
_QUEUED = [
    field.name
    for field in fields(QueuedGroup)
    if field.name not in ("reason", "group", "last_node")
]

queued_columns = (*groups.c, group_documents.c.document)
queued_from = groups.join(group_documents, group_documents.c.group_key == groups.c.key)


def chunks(items: Sequence[Item], size: int = MOST_NAMES) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of at most this many."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def reason_of(row: Row) -> Reason | None:
    """Return the reason in a row."""
    code = row["reason_code"]
    return None if code is None else Reason(code=code, text=row["reason_text"] or "")


def reason_columns(reason: Reason | None) -> dict[str, str | None]:
    """Return a reason as columns, in text that every database takes."""
    if reason is None:
        return {"reason_code": None, "reason_text": None}
    return {"reason_code": reason.code, "reason_text": storable(reason.text)}


def storable(text: str) -> str:
    """Return a text without what databases refuse: NUL, and names of files that are not UTF-8."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def finite(value: float | None) -> float | None:
    """Return a number, or None for one that is not finite: not every database keeps those."""
    return value if value is not None and math.isfinite(value) else None


def job_of(row: Row) -> Job:
    """Return a row of jobs as a noun."""
    return Job(reason=reason_of(row), **{name: row[name] for name in _JOB})


def attempt_of(row: Row) -> AttemptRow:
    """Return a row of attempts as a noun."""
    return AttemptRow(reason=reason_of(row), **{name: row[name] for name in _ATTEMPT})


def product_of(row: Row) -> ProductRow:
    """Return a row of products as a noun."""
    return ProductRow(**{name: row[name] for name in _PRODUCT})


def queued_of(row: Row) -> QueuedGroup:
    """Return a row of groups and its document as a noun; the group gets the catalogue's id."""
    group = replace(group_from_json(row["document"]), id=row["id"])
    values = {name: row[name] for name in _QUEUED}
    return QueuedGroup(reason=reason_of(row), group=group, last_node=row["node"], **values)


def group_rows_of(connection: Connection, rows: Iterable[Row]) -> list[GroupRow]:
    """Return rows of groups as nouns, with the jobs that have brought them."""
    found = list(rows)
    brought_by: dict[int, list[int]] = {row["key"]: [] for row in found}
    for keys in chunks(list(brought_by)):
        links = (
            select(jobs_groups.c.group_key, jobs_groups.c.job_id)
            .where(jobs_groups.c.group_key.in_(keys))
            .order_by(jobs_groups.c.job_id)
        )
        for key, job_id in connection.execute(links):
            brought_by[key].append(job_id)
    return [
        GroupRow(
            reason=reason_of(row),
            missing=tuple(row["missing"]),
            jobs=tuple(brought_by[row["key"]]),
            moved_bytes=_moved_bytes(row),
            **{name: row[name] for name in _LISTED},
        )
        for row in found
    ]


def _moved_bytes(row: Row) -> tuple[MovedBytes, ...]:
    """Return what each link carried for the product that stands: facts have it as ``FROM>TO``."""
    if row["path"] is None:
        return ()
    moved = (row["facts"] or {}).get("moved_bytes", {})
    links = ((*link.split(">"), size) for link, size in sorted(moved.items()))
    return tuple(MovedBytes(from_node=a, to_node=b, bytes=size) for a, b, size in links)
