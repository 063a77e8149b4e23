"""Everything: the first version of the tables.

Revision: 0001, after none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Make all tables."""
    _make_jobs()
    _make_groups()
    _make_group_documents()
    _make_jobs_groups()
    _make_subband_files()
    _make_attempts()
    _make_products()
    _make_nodes()
    _make_events()
    _make_leases()
    _make_control()


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("input_dir", sa.Text, nullable=False),
        sa.Column("output_dir", sa.Text, nullable=False),
        sa.Column("options_hash", sa.Text, nullable=False),
        sa.Column("start_mjd", sa.Double),
        sa.Column("end_mjd", sa.Double),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("expected_subbands", sa.Integer, nullable=False),
        sa.Column("min_subbands", sa.Integer),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("settings", _JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("files_read", sa.Integer, nullable=False),
        sa.Column("candidates", sa.Integer, nullable=False),
        sa.Column("submitted_s", sa.Double, nullable=False),
        sa.Column("read_s", sa.Double),
        sa.Column("reason_code", sa.Text),
        sa.Column("reason_text", sa.Text),
        sa.Column("submitted_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_by_state", "jobs", ["state"])


def _make_groups() -> None:
    op.create_table(
        "groups",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("start_ms", sa.BigInteger, nullable=False),
        sa.Column("start_mjd", sa.Double),
        sa.Column("output_dir", sa.Text, nullable=False),
        sa.Column("options_hash", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_since_s", sa.Double, nullable=False),
        sa.Column("present", sa.Integer, nullable=False),
        sa.Column("expected", sa.Integer, nullable=False),
        sa.Column("missing", _JSON, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("files_hash", sa.Text),
        sa.Column("job_id", _KEY),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("queued_s", sa.Double),
        sa.Column("not_before_s", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("interruptions", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Text),
        sa.Column("node", sa.Text),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("reason_code", sa.Text),
        sa.Column("reason_text", sa.Text),
        sa.Column("finished_s", sa.Double),
        sa.Column("path", sa.Text),
        sa.Column("seconds", _JSON),
        sa.Column("facts", _JSON),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("start_ms", "output_dir", "options_hash", name="groups_identity"),
        sqlite_autoincrement=True,
    )
    op.create_index("groups_by_finish", "groups", ["finished_s"])
    op.create_index("groups_by_id", "groups", ["id"])
    op.create_index(
        "groups_by_turn",
        "groups",
        ["state", sa.literal_column("live DESC"), sa.literal_column("priority DESC"), "start_ms"],
    )


def _make_group_documents() -> None:
    op.create_table(
        "group_documents",
        sa.Column("group_key", _KEY, autoincrement=False, nullable=False),
        sa.Column("document", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_key"],
            ["groups.key"],
        ),
        sa.PrimaryKeyConstraint("group_key"),
    )


def _make_jobs_groups() -> None:
    op.create_table(
        "jobs_groups",
        sa.Column("job_id", _KEY, autoincrement=False, nullable=False),
        sa.Column("group_key", _KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_key"],
            ["groups.key"],
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.PrimaryKeyConstraint("job_id", "group_key"),
        sqlite_with_rowid=False,
    )
    op.create_index("jobs_groups_by_group", "jobs_groups", ["group_key"])


def _make_subband_files() -> None:
    op.create_table(
        "subband_files",
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("header", _JSON),
        sa.Column("reason_code", sa.Text),
        sa.Column("reason_text", sa.Text),
        sa.Column("read_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("path"),
    )


def _make_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("group_key", _KEY, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
        sa.Column("reason_code", sa.Text),
        sa.Column("reason_text", sa.Text),
        sa.Column("seconds", _JSON),
        sa.ForeignKeyConstraint(
            ["group_key"],
            ["groups.key"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index("attempts_by_group", "attempts", ["group_key"])


def _make_products() -> None:
    op.create_table(
        "products",
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("group_key", _KEY, nullable=False),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("output_dir", sa.Text, nullable=False),
        sa.Column("start_mjd", sa.Double, nullable=False),
        sa.Column("begin_mjd", sa.Double),
        sa.Column("middle_mjd", sa.Double),
        sa.Column("end_mjd", sa.Double),
        sa.Column("ra_deg", sa.Double),
        sa.Column("dec_deg", sa.Double),
        sa.Column("declination_deg", sa.Double),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("attempt", sa.Text, nullable=False),
        sa.Column("published_s", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_key"],
            ["groups.key"],
        ),
        sa.PrimaryKeyConstraint("path"),
    )
    op.create_index("products_by_group", "products", ["group_key"])
    op.create_index("products_by_output", "products", ["output_dir", "path"])
    op.create_index("products_by_start", "products", ["start_mjd", "path"])


def _make_nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("workers", sa.Integer, nullable=False),
        sa.Column("first_seen_s", sa.Double, nullable=False),
        sa.Column("last_seen_s", sa.Double, nullable=False),
        sa.Column("facts", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("group_key", sa.BigInteger),
        sa.Column("group_id", sa.Text),
        sa.Column("job_id", sa.BigInteger),
        sa.Column("attempt", sa.Text),
        sa.Column("facts", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_group", "events", ["group_key"])
    op.create_index("events_by_job", "events", ["job_id"])


def _make_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("owner", _JSON, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("acquired_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.Column("facts", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("token"),
    )


def _make_control() -> None:
    op.create_table(
        "control",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
