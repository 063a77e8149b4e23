"""An open catalogue: connections to SQLite or PostgreSQL, and transactions that behave alike.

There is one writer at a time on both: SQLite knows no other way, and on PostgreSQL every writer
takes the same lock first. So what a function reads within `Catalogue.writing` stays true until it
commits, nothing deadlocks, and both databases behave alike. Readers wait for nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from contimg_dask.catalogue.explaining import WAIT_S, explained
from contimg_dask.errors import CatalogueError

_IDLE_WRITER_S = 60
"""A writer that was stopped in the middle loses its transaction, so that others can go on [s]."""
_CONNECT_S = 10
_NO_ANSWER_S = 30

_WRITE_LOCK = text("SELECT pg_advisory_xact_lock(1668246823, hashtext(current_schema()))")
_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_POSTGRESQL_DRIVER = "postgresql+psycopg"


class Catalogue:
    """An open catalogue, for any number of threads; functions of this package take it first.

    Use it in a ``with`` statement, or call `close`. Not to be shared with a forked process.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self.url_shown = _shown(url)
        with self._explained():
            self._engine = _engine(url, self.url_shown)

    @property
    def sqlite_path(self) -> str | None:
        """The file of an SQLite catalogue; None for PostgreSQL."""
        return self._url.database if self._url.get_backend_name() == "sqlite" else None

    @property
    def schema_version(self) -> str | None:
        """The version of its tables; None where there are none."""
        with self.reading() as connection:
            return schema_version(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the catalogue, whatever is written meanwhile.

        Raises
        ------
        CatalogueError
            The database complains; in one line.
        """
        options = {} if self.sqlite_path else _SNAPSHOT
        with self._explained(), self._engine.connect() as plain:
            connection = plain.execution_options(**options)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self, *, dry_run: bool = False) -> Iterator[Connection]:
        """Give a connection whose work is committed at the end of the block, or not at all.

        No other writer comes in between. One that died in the middle leaves nothing. A ``dry_run``
        leaves nothing either.

        Raises
        ------
        CatalogueError
            The database complains, or another writer keeps it for more than 30 s; in one line.
        """
        with self._explained(), self._engine.connect() as plain:
            connection = plain.execution_options(begin="BEGIN IMMEDIATE")
            with connection.begin() as transaction:
                if not self.sqlite_path:
                    connection.execute(_WRITE_LOCK)
                yield connection
                if dry_run:
                    transaction.rollback()

    @property
    def writes_ahead(self) -> bool:
        """Whether an SQLite file is as `write_ahead` leaves it."""
        with self.reading() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    def write_ahead(self) -> None:
        """Have SQLite write ahead into a log, so that readers and writers do not wait for each other.

        Raises
        ------
        CatalogueError
            Its file system cannot do that.
        """
        with self._explained():
            raw = self._engine.raw_connection()
            try:
                cursor = raw.cursor()
                cursor.execute("PRAGMA journal_mode=WAL")
                (mode,) = cursor.fetchone() or ("",)
            finally:
                raw.close()
        if mode != "wal":
            raise CatalogueError(
                f"{self.url_shown}: its file system has no shared memory, which SQLite needs: put "
                f"the catalogue on a local disk, or use PostgreSQL"
            )

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.url_shown, self._url.password)


def schema_version(connection: Connection) -> str | None:
    """Return the version of the tables; None where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def parse_url(url: str) -> URL:
    """Return the URL of a database, of a URL or the path of an SQLite file.

    Raises
    ------
    CatalogueError
        It is none, or one of another kind of database.
    """
    if "://" not in url:
        return URL.create("sqlite", database=os.path.abspath(url))
    beginning = url.partition("://")[0]
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise CatalogueError(f"{beginning}://…: this is no URL of a database") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise CatalogueError(f"{url}: give the path of a file: sqlite:////path/of/the/file")
        return parsed.set(database=os.path.abspath(parsed.database or ""))
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername=_POSTGRESQL_DRIVER)
    raise CatalogueError(
        f"{beginning}://…: a catalogue is an SQLite file or a PostgreSQL database (postgresql://…)"
    )


def _shown(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return url.database or ""
    if "password" in url.query:
        url = url.update_query_dict({"password": "***"})
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def _engine(url: URL, shown: str) -> Engine:
    options: dict[str, Any] = {
        "json_serializer": partial(json.dumps, separators=(",", ":")),
        "pool_pre_ping": True,
    }
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": WAIT_S}, **options)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    usual = {
        "application_name": "contimg-dask",
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": _NO_ANSWER_S,
        "tcp_user_timeout": _NO_ANSWER_S * 1000,
    }
    arguments = {name: value for name, value in usual.items() if name not in url.query}
    try:
        engine = create_engine(url, connect_args=arguments, **options)
    except ModuleNotFoundError as error:
        raise CatalogueError(
            f"{shown}: PostgreSQL needs psycopg: pip install 'contimg-dask[postgres]'"
        ) from error
    event.listen(engine, "connect", _configure_postgresql)
    return engine


def _configure_sqlite(raw: Any, _: object) -> None:
    raw.isolation_level = None  # transactions begin as `_begin_sqlite` says, not by guessing
    cursor = raw.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=FULL")  # what is published stays so after a power cut
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _configure_postgresql(raw: Any, _: object) -> None:
    with raw.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{WAIT_S}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_WRITER_S}s'")
    raw.commit()
