"""The thread that follows a directory: finished files in, groups into the catalogue.

What happens to a file is only a hint to look at it; the whole directory is looked at again and
again. A group is made anew from all its files whenever one of them comes, changes or goes, and the
catalogue says what that means for a group it knows.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contimg_dask.catalogue.opening import CatalogueError
from contimg_dask.errors import ContimgError
from contimg_dask.saying import Say
from contimg_dask.settings import Settings
from contimg_dask.staging.room import free_bytes
from contimg_dask.stream.arrivals import Arrivals
from contimg_dask.stream.finishing import Tracker
from contimg_dask.stream.housekeeping import Housekeeping
from contimg_dask.stream.listing import look_at, scan
from contimg_dask.stream.reading import FileReader, Found
from contimg_dask.stream.watching import Watcher

_POLL_S = 2.0
_LONGEST_WAIT_S = 1.0
_AGAIN_AFTER_S = 2.0
_SCAN_SHARE = 20
"""Looking at the whole directory takes at most this part of the time, however slow it is."""
_BELIEVED_EMPTY = 3
"""An empty directory that was full is believed when it was found so this often."""


class Ingest:
    """Follows a directory until it is stopped.

    Parameters
    ----------
    input_dir
        The directory.
    settings
        Of the stream.
    reader, arrivals, housekeeping
        Open files; take groups into the catalogue; keep that small.
    on_line
        Is told what operators want to know.
    on_turn
        Called every few seconds at least, while all is well.
    """

    def __init__(
        self,
        input_dir: Path,
        settings: Settings,
        *,
        reader: FileReader,
        arrivals: Arrivals,
        housekeeping: Housekeeping,
        on_line: Say,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._input_dir = input_dir
        self._settings = settings
        self._reader = reader
        self._arrivals = arrivals
        self._housekeeping = housekeeping
        self._on_line = on_line
        self._on_turn = on_turn
        self._tracker = Tracker(settings.settle_s)
        self._wake = threading.Event()
        self._watcher = None if settings.poll else Watcher(str(input_dir), self._wake, on_line)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ingest", daemon=True)
        self._scan_at_s = 0.0
        self._found_empty = 0
        self._last_file_s: float | None = None
        self._trouble = ""
        self.scanned = threading.Event()

    def start(self) -> None:
        """Begin to follow."""
        if self._watcher is not None:
            self._watcher.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop after the files that are being looked at; what is left is found again."""
        self._stopped.set()
        self._wake.set()
        if self._watcher is not None:
            self._watcher.stop()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether it runs, or was stopped: it has no reason to end by itself."""
        return self._thread.is_alive() or self._thread.ident is None or self._stopped.is_set()

    def facts(self) -> dict[str, Any]:
        """Return what to show of it, as plain JSON types."""
        by_events = self._watcher is not None and self._watcher.trouble is None
        facts: dict[str, Any] = {
            "input_dir": str(self._input_dir),
            "state": self._trouble or ("watching" if self.scanned.is_set() else "first look"),
            "by": "events" if by_events else "looking",
            "files": self._tracker.files,
            "waiting_files": self._tracker.waiting,
            "collecting": self._arrivals.waiting,
            "last_file_s": self._last_file_s,
        }
        with contextlib.suppress(OSError):
            facts["input_free_bytes"] = free_bytes(self._input_dir) // 2**20 * 2**20
        return facts

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._on_turn()  # who waits for a catalogue or a mount is not stuck
            try:
                self._turn()
                self._troubled("")
            except (CatalogueError, ContimgError, OSError) as error:
                self._troubled(str(error))
                self._stopped.wait(_AGAIN_AFTER_S)
                continue
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def _troubled(self, text: str) -> None:
        if text and text != self._trouble:
            self._on_line(f"{text}; trying again", action="stream-troubled")
        elif not text and self._trouble:
            self._on_line(f"{self._input_dir}: all is well again", action="stream-well")
        self._trouble = text

    def _pause_s(self) -> float:
        now_s = time.time()
        next_s = [self._scan_at_s, now_s + _LONGEST_WAIT_S]
        if (look_s := self._tracker.next_look_s()) is not None:
            next_s.append(look_s)
        if (judge_s := self._arrivals.next_s()) is not None:
            next_s.append(judge_s)
        return max(0.01, min(next_s) - now_s)

    def _turn(self) -> None:
        now_s = time.time()
        if self._watcher is not None and self._watcher.began():
            self._scan_at_s = 0.0  # files may have come unheard since the last look at everything
        scanning = now_s >= self._scan_at_s or self._is_clock_set_back(now_s)
        if scanning:
            self._scan()
        elif self._watcher is not None:
            changed, renamed = self._watcher.take()
            for path, seen in look_at(changed | renamed):
                if seen is not None:
                    self._tracker.see(path, seen, now_s, renamed=path in renamed)
                elif self._tracker.gone(path):
                    self._arrivals.gone([path])
        self._look()
        self._arrivals.judge_due(time.time(), self._stopped.is_set)
        # What has no file that is known may have one that is still to be looked at.
        if scanning and not self._tracker.fresh and not self._stopped.is_set():
            self._arrivals.give_up_vanished()
            self._housekeeping.after_scan(self._tracker.paths)

    def _is_clock_set_back(self, now_s: float) -> bool:
        return self._scan_at_s > now_s + 2 * self._settings.rescan_s + 60

    def _scan(self) -> None:
        """Look at the whole directory."""
        began_s = time.monotonic()
        renamed: set[str] = set()
        if self._watcher is not None:
            self._watcher.renew_if_replaced()
            _, renamed = self._watcher.take()  # all the rest is seen now
        found = scan(self._input_dir)
        now_s = time.time()
        for path, seen in found.items():
            self._tracker.see(path, seen, now_s, renamed=path in renamed)
        self._miss(self._tracker.paths - found.keys(), everything=not found)
        took_s = time.monotonic() - began_s
        by_events = self._watcher is not None and self._watcher.trouble is None
        every_s = self._settings.rescan_s if by_events else _POLL_S
        self._scan_at_s = time.time() + max(every_s, _SCAN_SHARE * took_s)

    def _miss(self, missing: set[str], *, everything: bool) -> None:
        """Forget files that are not there any more."""
        # A file system that is not mounted just now looks like an empty directory.
        self._found_empty = self._found_empty + 1 if everything and missing else 0
        if not missing or 0 < self._found_empty < _BELIEVED_EMPTY:
            return
        for path in missing:
            self._tracker.gone(path)
        self._arrivals.gone(missing)

    def _look(self) -> None:
        """Open what is due, as far as it is as it was seen."""
        due = self._tracker.due(time.time())
        for some in self._reader.in_pieces(due):
            if self._stopped.is_set():
                return
            first = {path for path, _ in some if self._tracker.is_first_look(path)}
            for found in self._reader.read(some, first):
                self._take(found)
            self._on_turn()
        self.scanned.set()

    def _take(self, found: Found) -> None:
        now_s = time.time()
        if found.now is None:
            self._tracker.gone(found.path)
            self._arrivals.gone([found.path])
        elif found.now.stat != found.seen.stat:
            self._tracker.see(found.path, found.now, now_s)  # it is still being written
        elif found.header is not None:
            self._tracker.good(found.path)
            self._arrivals.put(found.header, found.seen.arrived_s)
            self._last_file_s = max(self._last_file_s or 0.0, found.seen.arrived_s)
        elif found.unreadable is not None:
            report = self._tracker.bad(found.path, now_s)
            self._arrivals.put_bad(found.unreadable, found.seen.arrived_s, report=report)
