"""A group as the catalogue keeps it: plain JSON and back, exactly."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields
from typing import Any

from contimg_dask.errors import CatalogueError
from contimg_dask.model import Group, Reason, Subband, SubbandHeader, UnreadableFile

DOCUMENT_VERSION = 1

_HEADER = tuple(field.name for field in fields(SubbandHeader))
_FLOATS = ("start_jd", "lowest_freq_hz", "highest_freq_hz", "channel_width_hz")


def group_to_json(group: Group) -> dict[str, Any]:
    """Return a group as plain JSON types; `group_from_json` gives an equal one."""
    return {
        "version": DOCUMENT_VERSION,
        "id": group.id,
        "start_jd": None if group.start_jd is None else _plain(group.start_jd),
        "expected": group.expected,
        "subbands": [
            {"number": subband.number, **header_to_json(subband.header)}
            for subband in group.subbands
        ],
        "unreadable": [_unreadable_to_json(file) for file in group.unreadable],
        "fault": None if group.fault is None else _reason_to_json(group.fault),
        "notes": list(group.notes),
    }


def group_from_json(document: dict[str, Any]) -> Group:
    """Return the group a document describes.

    Raises
    ------
    CatalogueError
        The document is of a newer version, or lacks something.
    """
    version = document.get("version")
    if version != DOCUMENT_VERSION:
        raise CatalogueError(
            f"group {document.get('id')} is written down in version {version}, this contimg-dask "
            f"reads {DOCUMENT_VERSION}: use the version that wrote it, or submit the group again"
        )
    try:
        start = document["start_jd"]
        return Group(
            id=document["id"],
            start_jd=None if start is None else float(start),
            expected=document["expected"],
            subbands=tuple(
                Subband(number=entry["number"], header=header_from_json(entry))
                for entry in document["subbands"]
            ),
            unreadable=tuple(_unreadable_from_json(entry) for entry in document["unreadable"]),
            fault=_reason_from_json(document["fault"]),
            notes=tuple(document["notes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogueError(
            f"group {document.get('id')}: what is written down of it is damaged ({error!r}): "
            f"submit the group again"
        ) from error


def header_to_json(header: SubbandHeader) -> dict[str, Any]:
    """Return a header as plain JSON types."""
    document = {name: getattr(header, name) for name in _HEADER}
    for name in _FLOATS:
        document[name] = _plain(document[name])
    document["products"] = list(header.products)
    return document


def header_from_json(document: dict[str, Any]) -> SubbandHeader:
    """Return the header a document describes; what it has besides is passed over.

    Raises
    ------
    KeyError, TypeError, ValueError
        It is none.
    """
    values = {name: document[name] for name in _HEADER}
    for name in _FLOATS:
        values[name] = float(values[name])
    values["products"] = tuple(values["products"])
    return SubbandHeader(**values)


def files_hash(group: Group) -> str:
    """Return a digest of a group's files: paths, sizes, times, and what is wrong with any."""
    facts = [
        [subband.header.path, subband.header.size_bytes, subband.header.mtime_ns]
        for subband in group.subbands
    ]
    facts += [[file.path, file.reason.code, file.reason.text] for file in group.unreadable]
    return hashlib.sha256(json.dumps(sorted(facts, key=str)).encode()).hexdigest()


def _plain(value: float) -> float | str:
    """Return a float that JSON knows; it has no word for those that are not finite."""
    return value if math.isfinite(value) else str(value)


def _reason_to_json(reason: Reason) -> dict[str, str]:
    return {"code": reason.code, "text": reason.text}


def _reason_from_json(document: dict[str, str] | None) -> Reason | None:
    return None if document is None else Reason(code=document["code"], text=document["text"])


def _unreadable_to_json(file: UnreadableFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "name_stamp": file.name_stamp,
        "name_number": file.name_number,
        "reason": _reason_to_json(file.reason),
    }


def _unreadable_from_json(document: dict[str, Any]) -> UnreadableFile:
    return UnreadableFile(
        path=document["path"],
        name_stamp=document["name_stamp"],
        name_number=document["name_number"],
        reason=Reason(code=document["reason"]["code"], text=document["reason"]["text"]),
    )
