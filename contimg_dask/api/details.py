"""All there is to know of one group: from the catalogue, and from its product's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contimg_dask.api.answers import SubbandLine
from contimg_dask.api.context import Context
from contimg_dask.api.refusals import OutsideRootsError
from contimg_dask.catalogue.events import list_events
from contimg_dask.catalogue.groups import attempts_of, get_group, get_row
from contimg_dask.catalogue.records import AttemptRow, Event, GroupRow
from contimg_dask.errors import NotFoundError
from contimg_dask.model import Group
from contimg_dask.publishing.manifest import read_manifest

_MOST_EVENTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """A group with everything that belongs to it."""

    group: GroupRow
    subbands: tuple[SubbandLine, ...]
    attempts: tuple[AttemptRow, ...]
    events: tuple[Event, ...]
    manifest: dict[str, Any] | None
    quicklook: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "group": self.group.to_json(),
            "subbands": [asdict(subband) for subband in self.subbands],
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "events": [event.to_json() for event in self.events],
            "manifest": self.manifest,
            "quicklook": list(self.quicklook),
        }


def detail_of(context: Context, key: int) -> Detail:
    """Return everything of a group.

    Raises
    ------
    NotFoundError
        There is none of this key.
    """
    catalogue = context.catalogue
    row = get_row(catalogue, key)
    try:
        group = get_group(catalogue, key).group
    except NotFoundError:  # it was found on disk
        group = None
    product = product_of_group(context, row)
    manifest = None if product is None else read_manifest(product)
    return Detail(
        group=row,
        subbands=_subbands(group, manifest),
        attempts=tuple(attempts_of(catalogue, key)),
        events=tuple(list_events(catalogue, group=key, limit=_MOST_EVENTS)),
        manifest=manifest,
        quicklook=() if product is None else context.quicklooks.kinds_of(product),
    )


def product_of_group(context: Context, row: GroupRow) -> Path | None:
    """Return where a group's product stands; None without one, or where it may not be looked at."""
    if row.path is None:
        return None
    try:
        return context.roots.product(row.path, row.output_dir)
    except OutsideRootsError:
        return None


def _subbands(group: Group | None, manifest: dict[str, Any] | None) -> tuple[SubbandLine, ...]:
    if group is None:
        return ()
    said = manifest.get("subbands", {}) if manifest else {}
    lines = [
        SubbandLine(
            number=subband.number,
            path=subband.header.path,
            size_bytes=subband.header.size_bytes,
            node=subband.header.node,
            facts=said.get(subband.name),
        )
        for subband in group.subbands
    ]
    return tuple(sorted(lines, key=lambda line: line.number))
