"""The token that whoever changes something has to know: from a file, compared in constant time."""

from __future__ import annotations

import hmac
import os
import stat
import threading
from pathlib import Path

from contimg_dask.api.refusals import ReadOnlyError, TokenError, TokenFileError, WrongTokenError

SHORTEST = 16
"""Characters; what is shorter could be guessed."""
_LONGEST_BYTES = 4096


class Tokens:
    """Tells who may change something. Safe under threads.

    Parameters
    ----------
    path
        A file with the token in its first line, which only its owner may read or write; it is read
        again when it has changed. None: nobody may change anything.

    Raises
    ------
    TokenFileError
        The file cannot be used.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._token = b""
        if self._path is not None:
            self._current(self._path)

    @property
    def there(self) -> bool:
        """Whether anything can be changed at all."""
        return self._path is not None

    def check(self, authorization: str | None) -> None:
        """Let a request pass whose ``Authorization`` has the token.

        Raises
        ------
        ReadOnlyError, TokenError, WrongTokenError
            There is no token, none was sent, or a wrong one.
        TokenFileError
            The file cannot be used any more.
        """
        if self._path is None:
            raise ReadOnlyError
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise TokenError
        right = self._current(self._path)
        if not hmac.compare_digest(sent.strip().encode("utf-8", "backslashreplace"), right):
            raise WrongTokenError

    def _current(self, path: Path) -> bytes:
        with self._lock:
            try:
                with path.open("rb") as file:
                    found = os.fstat(file.fileno())
                    seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
                    if seen != self._seen:
                        self._token = _token_in(path, found, file.read(_LONGEST_BYTES))
                        self._seen = seen
            except OSError as error:
                raise TokenFileError(
                    f"{path}: the token file cannot be read ({error.strerror})"
                ) from error
            return self._token


def _token_in(path: Path, found: os.stat_result, content: bytes) -> bytes:
    if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
        raise TokenFileError(
            f"{path}: others than its owner may use the token file (mode "
            f"{stat.S_IMODE(found.st_mode):03o}): chmod 600 it, and write a new token into it",
        )
    token = content.partition(b"\n")[0].strip()
    if len(token) < SHORTEST:
        raise TokenFileError(
            f"{path}: the token has {len(token)} characters, and needs {SHORTEST} at least, in the "
            f"first line: openssl rand -hex 32",
        )
    return token
