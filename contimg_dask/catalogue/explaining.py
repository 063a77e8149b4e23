"""Whatever a database complains of becomes one line: where, what, and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from contimg_dask.errors import CatalogueError

WAIT_S = 30
"""How long a writer waits for another one before it gives up [s]."""

_SQLITE = {
    "SQLITE_BUSY": f"another process has been writing to it for {WAIT_S} s: find it with 'fuser'",
    "SQLITE_READONLY": "SQLite needs the right to write to the file and its directory, also to read: "
    "use the account of the dispatcher, or grant it",
    "SQLITE_FULL": "its disk is full: make room; nothing of this was written",
    "SQLITE_NOTADB": "it is no SQLite database: give another file with --catalogue",
    "SQLITE_CORRUPT": "it is damaged: restore it from its backup, then run 'contimg-dask reconcile'",
    "SQLITE_CANTOPEN": "it cannot be opened: check the permissions of the file and its directory, "
    "which SQLite has to write to",
    "SQLITE_IOERR": "its disk does not read or write: see the kernel's log",
    "SQLITE_PROTOCOL": "its file system has no locks: put the catalogue on a local disk",
}
"""By the beginning of the name of the error."""

_POSTGRESQL = {
    "28": "the server refuses this user: check name, password and pg_hba.conf",
    "42501": "this user lacks a right: grant it CREATE on the schema, or own the database",
    "25006": "the database is read-only: is this a standby?",
    "53100": "the disk of the server is full: make room; nothing of this was written",
    "53300": "the server has no connection left: raise max_connections or stop other clients",
    "55P03": f"another process has been writing to it for {WAIT_S} s: see pg_stat_activity",
    "25P03": "the server has ended the transaction because it took too long",
    "57": "the server is shutting down or starting: wait until it is back",
}
"""By the beginning of the SQLSTATE."""


@contextmanager
def explained(shown: str, secret: str | None = None) -> Iterator[None]:
    """Turn errors of the database within the block into a `CatalogueError`.

    Parameters
    ----------
    shown
        How messages call the catalogue.
    secret
        A password, which no message may contain.
    """
    try:
        yield
    except SQLAlchemyError as error:
        text = _line(error)
        if secret:
            text = text.replace(secret, "***")
        raise CatalogueError(f"{shown}: {text}", path=shown) from error
    except UnicodeEncodeError as error:
        what = error.object[max(0, error.start - 60) : error.end + 20]
        raise CatalogueError(
            f"{shown}: it takes text in UTF-8 only, which {what!r} is not: rename that file or "
            f"directory"
        ) from error


def _line(error: SQLAlchemyError) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else error
    said = " ".join(str(origin).split())
    if isinstance(origin, sqlite3.Error):
        known = _by_beginning(_SQLITE, getattr(origin, "sqlite_errorname", None))
        return f"{known} ({said})" if known else said
    known = _by_beginning(_POSTGRESQL, getattr(origin, "sqlstate", None))
    if known is None and isinstance(error, DBAPIError) and error.connection_invalidated:
        known = "the connection to the server is gone: wait until it is back"
    elif known is None and isinstance(error, OperationalError) and origin is not None:
        # The driver gives no code for what goes wrong while it connects.
        known = "no connection to the server: check that it runs, its address, database and user"
    return f"{known} ({said})" if known else said


def _by_beginning(known: dict[str, str], name: str | None) -> str | None:
    return next((text for start, text in known.items() if (name or "").startswith(start)), None)
