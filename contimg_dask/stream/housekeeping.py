"""Keep the catalogue from growing for ever: forget what nobody needs any more."""

from __future__ import annotations

import time
from collections.abc import Set
from pathlib import Path

from contimg_dask.catalogue import events
from contimg_dask.catalogue import files as subband_files
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.saying import Say

_DAY_S = 86400.0


class Housekeeping:
    """Once a day, removes old events, and headers of files that are gone from a directory.

    Parameters
    ----------
    catalogue
        What is kept small.
    input_dir
        Whose files are known.
    keep_events_days
        Older events are removed.
    on_line
        Is told how much was removed.
    """

    def __init__(
        self, catalogue: Catalogue, input_dir: Path, keep_events_days: int, on_line: Say
    ) -> None:
        self._catalogue = catalogue
        self._input_dir = input_dir
        self._keep_s = keep_events_days * _DAY_S
        self._on_line = on_line
        self._next_s = 0.0

    def after_scan(self, present: Set[str]) -> None:
        """Do it if a day has passed since the last time; ``present`` are the paths there are."""
        if time.monotonic() < self._next_s or not present:
            return
        pruned = events.prune(self._catalogue, time.time() - self._keep_s)
        known = subband_files.paths_below(self._catalogue, str(self._input_dir))
        forgotten = subband_files.forget(self._catalogue, sorted(known - present))
        self._next_s = time.monotonic() + _DAY_S
        if pruned or forgotten:
            self._on_line(
                f"removed {pruned} old event(s) and {forgotten} header(s) of files that are gone",
                action="housekeeping",
                events=pruned,
                headers=forgotten,
            )
