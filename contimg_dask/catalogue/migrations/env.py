"""What Alembic runs migrations with: the connection and transaction it is given, nothing else."""

from __future__ import annotations

from alembic import context

from contimg_dask.catalogue.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
