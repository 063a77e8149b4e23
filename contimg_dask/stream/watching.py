"""Events of a directory, as hints of where to look: nothing depends on their coming."""

from __future__ import annotations

import os
import threading
import time

from watchfiles import Change, watch

from contimg_dask.naming import final_name
from contimg_dask.saying import Say

_AGAIN_AFTER_S = 30.0
_DEBOUNCE_MS = 50
_STEP_MS = 20


class Watcher:
    """Collects the names of files something happened to, from a thread of its own.

    Parameters
    ----------
    directory
        Watched without its subdirectories.
    wake
        Set when there is something to take.
    on_line
        Is told when watching does not work, and when it does again.
    """

    def __init__(self, directory: str, wake: threading.Event, on_line: Say) -> None:
        self._directory = directory
        self._wake = wake
        self._on_line = on_line
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._renamed: set[str] = set()
        self._stopped = threading.Event()
        self._restart = threading.Event()
        self._inode: tuple[int, int] | None = None
        self._began = False
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)
        self.trouble: str | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._restart.set()
        if self._thread.ident is not None:
            self._thread.join()

    def take(self) -> tuple[set[str], set[str]]:
        """Return the paths that changed since the last call, and those a file was renamed to."""
        with self._lock:
            taken = self._changed, self._renamed
            self._changed, self._renamed = set(), set()
            return taken

    def began(self) -> bool:
        """Tell whether watching has begun since the last call: what came before was not heard of."""
        with self._lock:
            began, self._began = self._began, False
            return began

    def renew_if_replaced(self) -> None:
        """Watch anew where the directory is another one by now, such as one mounted meanwhile.

        The kernel goes on watching the old one, and nothing would ever be heard of the new one.
        """
        if self._inode is not None and _inode(self._directory) != self._inode:
            self._restart.set()

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._restart.clear()
            self._inode = _inode(self._directory)
            try:
                self._watch()
            except (OSError, RuntimeError) as error:
                # RuntimeError is what the library raises for files that cannot be watched.
                self._say_trouble(str(error))
                self._stopped.wait(_AGAIN_AFTER_S)

    def _watch(self) -> None:
        began_s = time.monotonic()
        first = True
        for changes in watch(
            self._directory,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=1000,
            yield_on_timeout=True,
            stop_event=self._restart,
            recursive=False,
            raise_interrupt=False,
        ):
            if first:
                first = False
                with self._lock:
                    self._began = True
                self._wake.set()
            if self.trouble is not None and time.monotonic() - began_s > 1.0:
                self.trouble = None
                self._on_line(f"{self._directory}: events come again", action="watching")
            if changes:
                with self._lock:
                    self._changed |= {path for _, path in changes}
                    self._renamed |= {
                        os.path.join(os.path.dirname(path), final)
                        for change, path in changes
                        if change is Change.deleted
                        and (final := final_name(os.path.basename(path))) is not None
                    }
                self._wake.set()

    def _say_trouble(self, text: str) -> None:
        if self.trouble is None:
            self._on_line(
                f"{self._directory}: no events of it ({text}); it is looked at all the same, every "
                f"few seconds",
                action="not-watching",
            )
        self.trouble = text


def _inode(directory: str) -> tuple[int, int] | None:
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino
