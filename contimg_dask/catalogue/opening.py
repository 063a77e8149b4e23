"""Open a catalogue: an SQLite file or a PostgreSQL database, made on first use; or upgrade one."""

from __future__ import annotations

import fcntl
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, overload

from sqlalchemy import Connection, inspect

from contimg_dask.catalogue.connecting import Catalogue, parse_url, schema_version
from contimg_dask.catalogue.tables import SCHEMA_VERSION
from contimg_dask.errors import CatalogueError

__all__ = ["Catalogue", "CatalogueError", "open_catalogue", "upgrade_catalogue"]


@overload
def open_catalogue(
    url: str, *, create: bool = True, missing_ok: Literal[False] = False
) -> Catalogue: ...


@overload
def open_catalogue(
    url: str, *, create: Literal[False], missing_ok: Literal[True]
) -> Catalogue | nullcontext[None]: ...


def open_catalogue(
    url: str, *, create: bool = True, missing_ok: bool = False
) -> Catalogue | nullcontext[None]:
    """Open a catalogue.

    Parameters
    ----------
    url
        Path of an SQLite file, or a URL: ``sqlite:///…``, ``postgresql://user@host/database``.
    create
        Make it when there is none: the file with its directory, or the tables in a database.
        Several processes may do that at once.
    missing_ok
        Return a context of None where there is none, instead of an error.

    Raises
    ------
    CatalogueError
        There is none and it is not to be made; it cannot be reached or used; its tables are of
        another version.
    """
    catalogue = Catalogue(parse_url(url))
    try:
        found = _made(catalogue)[1] if create else _version_if_there(catalogue)
        if found is not None:
            _check_version(catalogue, found)
            return catalogue
    except CatalogueError:
        catalogue.close()
        raise
    catalogue.close()
    if missing_ok:
        return nullcontext(None)
    raise CatalogueError(
        f"{catalogue.url_shown}: there is no catalogue: 'contimg-dask submit' makes one; give "
        f"another with --catalogue",
        path=catalogue.url_shown,
    )


def upgrade_catalogue(url: str) -> tuple[str | None, str]:
    """Bring the tables of a catalogue to this version, or make them where there are none.

    One transaction: killed in the middle, it leaves the old ones. Safe to call twice, and while
    others read; no dispatcher should run.

    Returns
    -------
    before, after
        The versions; before is None where there were no tables.

    Raises
    ------
    CatalogueError
        It is of a newer version, or cannot be used.
    """
    with Catalogue(parse_url(url)) as catalogue:
        before, found = _made(catalogue)
        if found > SCHEMA_VERSION:
            _check_version(catalogue, found)
        if found < SCHEMA_VERSION:
            with catalogue.writing() as connection:
                _migrate(connection)
        return before, SCHEMA_VERSION


def _made(catalogue: Catalogue) -> tuple[str | None, str]:
    """Make a catalogue where there is none; return the versions before and after."""
    if (path := catalogue.sqlite_path) is None:
        before = _version_if_there(catalogue)
        return before, before or _made_tables(catalogue)
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
        before = _version_if_there(catalogue)
        if before is not None and catalogue.writes_ahead:
            return before, before
        # New, or restored from a dump. Two who switch a file to its log at once get in each other's
        # way, and SQLite does not wait there. A lock on the directory leaves nothing behind.
        with _locked_directory(directory):
            catalogue.write_ahead()
            return before, before or _made_tables(catalogue)
    except OSError as error:
        raise CatalogueError(
            f"{path}: {error.strerror}: the catalogue needs a directory this user may write; give "
            f"another with --catalogue",
            path=path,
        ) from error


@contextmanager
def _locked_directory(directory: str) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _made_tables(catalogue: Catalogue) -> str:
    with catalogue.writing() as connection:
        found = schema_version(connection)  # somebody else may have made them meanwhile
        if found is not None:
            return found
        if catalogue.sqlite_path and (tables := inspect(connection).get_table_names()):
            raise CatalogueError(
                f"{catalogue.url_shown}: it is a database of something else (it has a table "
                f"{tables[0]}): give another file with --catalogue"
            )
        _migrate(connection)
    return SCHEMA_VERSION


def _version_if_there(catalogue: Catalogue) -> str | None:
    if catalogue.sqlite_path and not os.path.exists(catalogue.sqlite_path):
        return None
    return catalogue.schema_version


def _check_version(catalogue: Catalogue, found: str) -> None:
    if found == SCHEMA_VERSION:
        return
    if found < SCHEMA_VERSION:
        remedy = "stop the dispatcher and run 'contimg-dask catalogue upgrade'"
    else:
        remedy = "a newer contimg-dask has upgraded it: install that one"
    raise CatalogueError(
        f"{catalogue.url_shown}: it is of version {found}, this contimg-dask needs "
        f"{SCHEMA_VERSION}: {remedy}"
    )


def _migrate(connection: Connection) -> None:
    # Alembic takes a fifth of a second to load, and only the first use needs it.
    importlib.import_module("contimg_dask.catalogue.upgrading").upgrade_to_newest(connection)
