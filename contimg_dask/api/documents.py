"""Documents that many ask for, as JSON that is written already."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi.responses import Response

from contimg_dask.catalogue.groups import list_groups
from contimg_dask.catalogue.jobs import get_job
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.status import Status, look


class JsonBytes(Response):
    """JSON that is written already."""

    media_type = "application/json"


def json_bytes(document: Any) -> bytes:
    """Return a document as it is sent."""
    return json.dumps(document, separators=(",", ":")).encode()


def written(catalogue: Catalogue, status: Callable[[], Status], key: tuple[Any, ...]) -> bytes:
    """Return a document by what it is asked with.

    Raises
    ------
    NotFoundError
        There is no such job.
    """
    match key:
        case ("status", None):
            return json_bytes(status().to_json())
        case ("status", job):
            get_job(catalogue, job)
            return json_bytes(look(catalogue, job).to_json())
        case ("groups", states, job, reason, start, end, output, after, limit, newest_first):
            rows = list_groups(
                catalogue,
                states=states,
                job=job,
                reason=reason,
                start_mjd=start,
                end_mjd=end,
                output_dir=output,
                after=after,
                limit=limit,
                newest_first=newest_first,
            )
            following = rows[-1].key if len(rows) == limit else None
            return json_bytes({"groups": [row.to_json() for row in rows], "next": following})
    raise ValueError(f"there is no such document: {key}")
