"""What requests may say, checked before anything is done with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contimg_dask.catalogue.identity import LARGEST_NUMBER
from contimg_dask.catalogue.records import ProductStatus
from contimg_dask.lifecycle import State
from contimg_dask.model import Kind

MOST_ROWS = 500

# No control characters: databases refuse NUL, and nothing here needs any.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
Number = Annotated[int, Path(ge=1, le=LARGEST_NUMBER, description="its number")]
NodeName = Annotated[
    str, Path(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z.:_-]+$", description="its address")
]
PlotName = Annotated[str, Path(min_length=1, max_length=40, pattern=r"^[a-z][a-z0-9_-]*$")]
States = Annotated[list[State] | None, Query(description="only in these states")]
JobNumber = Annotated[int | None, Query(ge=1, le=LARGEST_NUMBER, description="only of this job")]
Reason = Annotated[
    str | None, Query(max_length=64, pattern=r"^[a-z0-9-]+$", description="only with this code")
]
Moment = Annotated[
    str | None,
    Query(max_length=40, pattern=_PRINTABLE, description="UTC, as in 2025-10-05T03:12:06"),
]
Directory = Annotated[
    str | None, Query(max_length=4096, pattern=_PRINTABLE, description="only below this OUTPUT")
]
Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="at most so many")]
AfterKey = Annotated[
    int | None, Query(ge=1, le=LARGEST_NUMBER, description="those that follow this group")
]
AfterPath = Annotated[
    str | None,
    Query(max_length=4096, pattern=_PRINTABLE, description="those that follow this product"),
]
AfterEvent = Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="those after this event")]
KindName = Annotated[Kind | None, Query(description="only of this kind")]
StatusName = Annotated[
    ProductStatus | Literal["any"], Query(description="whether they should be there")
]
Declination = Annotated[
    float | None, Query(ge=-90, le=90, description="apparent, of the pointing [deg]")
]
Tolerance = Annotated[float, Query(ge=0, le=180, description="greatest distance from it [deg]")]

Text = Annotated[str, StringConstraints(max_length=500, pattern=_PRINTABLE)]
Place = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=_PRINTABLE)]
GroupName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z:._+-]+$")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewJobBody(_Body):
    """A backlog to convert; ``options`` are settings as 'contimg-dask config show' lists them."""

    input_dir: Place
    output_dir: Place
    start: Text | None = None
    end: Text | None = None
    kind: Kind = "science"
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    label: Text = ""
    options: dict[Annotated[str, StringConstraints(max_length=64)], Any] = Field(
        default_factory=dict, max_length=64
    )


class RetryBody(_Body):
    """Groups by id or number; or all that failed, of these states, for this reason."""

    groups: Annotated[list[GroupName], Field(max_length=1000)] = Field(default_factory=list)
    all: bool = False
    states: Annotated[
        list[Literal["failed", "quarantined", "cancelled", "removed"]], Field(max_length=4)
    ] = Field(default_factory=list)
    reason: Annotated[str | None, StringConstraints(max_length=64, pattern=r"^[a-z0-9-]+$")] = None


class PauseBody(_Body):
    """Why nothing new is to be begun."""

    reason: Text = ""


class LogLevelBody(_Body):
    """From which level on services log; null as they were started."""

    level: Literal["debug", "info", "warning", "error"] | None
