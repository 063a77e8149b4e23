"""Migrations give the tables the program uses, in versions that compare, and come with the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

import contimg_dask.catalogue.migrations as migrations
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.catalogue.tables import SCHEMA_VERSION, metadata

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


def test_the_package_ships_its_migrations() -> None:
    here = Path(migrations.__path__[0])
    with (ROOT / "pyproject.toml").open("rb") as file:
        tools = tomllib.load(file)["tool"]
    shipped = tools["setuptools"]["package-data"]["contimg_dask"]
    assert "catalogue/migrations/*.mako" in shipped
    # Those that are Python come along because their directories are packages.
    assert all((here / name / "__init__.py").exists() for name in ("", "versions"))
    assert tools["alembic"]["script_location"] == "contimg_dask/catalogue/migrations"
