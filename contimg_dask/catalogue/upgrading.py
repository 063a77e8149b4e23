"""Bring the tables to the newest version, by the migrations that this package contains."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

_MIGRATIONS = "contimg_dask.catalogue:migrations"


def upgrade_to_newest(connection: Connection) -> None:
    """Run every migration that is still to run, in the transaction of the caller."""
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
