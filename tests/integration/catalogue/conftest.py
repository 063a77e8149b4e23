"""Catalogues on both databases, and groups to put into them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from tests.postgres import Server
from tests.postgres import postgres as postgres  # the fixture, for every test below here

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def made_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite catalogue, to be copied."""
    path = tmp_path_factory.mktemp("template") / "catalogue.sqlite"
    open_catalogue(str(path)).close()
    return path


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, memory_path: Path) -> Iterator[str]:
    """Where an empty catalogue is, as a user would give it; once per database."""
    if request.param == "sqlite":
        path = memory_path / "catalogue.sqlite"
        shutil.copy(request.getfixturevalue("made_sqlite"), path)
        yield str(path)
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.catalogue_database()
    yield url
    server.recycle(url)


@pytest.fixture(params=DATABASES)
def empty_place(request: pytest.FixtureRequest, memory_path: Path) -> Iterator[str]:
    """Where there is no catalogue yet; once per database."""
    if request.param == "sqlite":
        yield str(memory_path / "new" / "catalogue.sqlite")
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.empty_database()
    yield url
    server.drop(url)


@pytest.fixture
def catalogue(place: str) -> Iterator[Catalogue]:
    """An empty catalogue, open."""
    with open_catalogue(place) as opened:
        yield opened
