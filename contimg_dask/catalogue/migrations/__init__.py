"""Every change of the tables since the first version, one module each, for Alembic."""
