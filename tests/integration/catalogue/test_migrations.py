"""Migrations give the tables the program uses, in versions that compare, and come with the package."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from contimg_dask.catalogue import groups, migrations, opening, queue, upgrading
from contimg_dask.catalogue.opening import open_catalogue, upgrade_catalogue
from contimg_dask.catalogue.tables import SCHEMA_VERSION, metadata
from contimg_dask.errors import CatalogueError
from tests.integration.catalogue.nouns import queued
from tests.integration.catalogue.racing import killed_at

ROOT = Path(__file__).parents[3]


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "contimg_dask.catalogue:migrations")
    return ScriptDirectory.from_config(config)


def test_migrations_give_the_tables_that_the_program_uses(empty_place: str) -> None:
    with open_catalogue(empty_place) as catalogue, catalogue.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        found = inspect(connection)
        for name, table in metadata.tables.items():
            assert [column["name"] for column in found.get_columns(name)] == list(table.c.keys())
            there = {index["name"] for index in found.get_indexes(name)}
            wanted = {index.name for index in table.indexes}
            # SQLAlchemy does not look into SQLite's indexes of expressions.
            assert wanted - there <= {"groups_by_turn"}
        if catalogue.sqlite_path is not None:
            query = "SELECT sql FROM sqlite_master WHERE name = 'groups_by_turn'"
            sql = connection.exec_driver_sql(query).scalar()
        else:
            query = "SELECT indexdef FROM pg_indexes WHERE indexname = 'groups_by_turn'"
            sql = connection.exec_driver_sql(query).scalar()
    assert sql is not None
    assert sql.endswith("(state, live DESC, priority DESC, start_ms)")


def test_versions_are_numbers_of_four_digits_in_one_line(empty_place: str) -> None:
    revisions = [script.revision for script in scripts().walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    assert all(re.fullmatch(r"\d{4}", revision) for revision in revisions)
    assert scripts().get_heads() == [SCHEMA_VERSION] == [revisions[0]]
    assert revisions[-1] == "0001"


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("colour", sa.Text))
    op.execute("UPDATE jobs SET colour = 'green'")
    op.create_table("colours", sa.Column("name", sa.Text, primary_key=True))
"""


@pytest.fixture
def of_next_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[None]]:
    """A context in which this is a program of the next version."""
    directory = tmp_path / "migrations"
    shutil.copytree(Path(migrations.__path__[0]), directory)
    (directory / "versions" / "v0003_colours.py").write_text(NEXT)

    @contextmanager
    def context() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(upgrading, "_MIGRATIONS", str(directory))
            patch.setattr(opening, "SCHEMA_VERSION", "0003")
            yield

    return context


def test_a_catalogue_with_content_is_upgraded_on_request_and_only_then(
    empty_place: str, of_next_version: Callable[[], AbstractContextManager[None]]
) -> None:
    with open_catalogue(empty_place) as catalogue:
        keys = queued(catalogue, 3)
    with of_next_version():
        with pytest.raises(CatalogueError, match=r"version 0002, .* needs 0003.*upgrade"):
            open_catalogue(empty_place)
        assert upgrade_catalogue(empty_place) == ("0002", "0003")
        assert upgrade_catalogue(empty_place) == ("0003", "0003")
        with open_catalogue(empty_place) as catalogue:
            with catalogue.reading() as connection:
                found = connection.exec_driver_sql("SELECT colour FROM jobs").scalars().all()
            assert found == ["green"]
            assert [group.key for group in queue.next_queued(catalogue, 1e12, 9)] == keys
    with pytest.raises(CatalogueError, match="a newer contimg-dask"):
        open_catalogue(empty_place)


def test_groups_of_the_first_version_stay_what_they_are(
    empty_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", partial(to_version, command.upgrade, "0001"))
        patch.setattr(opening, "SCHEMA_VERSION", "0001")
        with open_catalogue(empty_place) as catalogue, catalogue.writing() as connection:
            insert_group_of_version_one(connection)
    with pytest.raises(CatalogueError, match=r"version 0001, .* needs 0002.*upgrade"):
        open_catalogue(empty_place)
    assert upgrade_catalogue(empty_place) == ("0001", "0002")
    with open_catalogue(empty_place) as catalogue:
        (row,) = groups.list_groups(catalogue)
    assert (row.id, row.state, row.complete_s, row.latency_s) == (ID, "published", None, None)


ID = "2025-10-05T03:12:06"


def to_version(upgrade: Callable[..., None], version: str, config: Config, _: str) -> None:
    upgrade(config, version)


def insert_group_of_version_one(connection: Connection) -> None:
    columns = {
        "id": f"'{ID}'", "start_ms": "1", "start_mjd": "60953.1", "output_dir": "'/out'",
        "options_hash": "''", "kind": "'science'", "state": "'published'", "state_since_s": "5",
        "present": "16", "expected": "16", "missing": "'[]'", "bytes_in": "7", "priority": "0",
        "live": "false", "not_before_s": "0", "attempts": "1", "interruptions": "0",
        "cancel_requested": "false", "finished_s": "5",
    }  # fmt: skip
    names, values = ", ".join(columns), ", ".join(columns.values())
    connection.exec_driver_sql(f"INSERT INTO groups ({names}) VALUES ({values})")  # noqa: S608


def test_an_upgrade_that_is_killed_leaves_the_old_version(
    empty_place: str, of_next_version: Callable[[], AbstractContextManager[None]]
) -> None:
    with open_catalogue(empty_place) as catalogue:
        queued(catalogue, 2)
    for statement in range(1, 40):
        with of_next_version():
            if not killed_at(statement, lambda: upgrade_catalogue(empty_place)):
                break
        with open_catalogue(empty_place, create=False) as catalogue:
            assert groups.count_by_state(catalogue) == {"queued": 2}
    assert statement > 5
    with of_next_version(), open_catalogue(empty_place) as catalogue:
        assert groups.count_by_state(catalogue) == {"queued": 2}


def test_the_package_ships_its_migrations() -> None:
    here = Path(migrations.__path__[0])
    with (ROOT / "pyproject.toml").open("rb") as file:
        tools = tomllib.load(file)["tool"]
    shipped = tools["setuptools"]["package-data"]["contimg_dask"]
    assert "catalogue/migrations/*.mako" in shipped
    # Those that are Python come along because their directories are packages.
    assert all((here / name / "__init__.py").exists() for name in ("", "versions"))
    assert tools["alembic"]["script_location"] == "contimg_dask/catalogue/migrations"
