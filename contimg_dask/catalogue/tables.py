"""The tables of the catalogue, as its newest version has them; docs/catalogue.md explains each column.

Only types that both databases treat alike: text, integers, double precision, JSON kept as it was
written. Migrations are written out in full and do not import this module; a test holds the two
against each other.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    desc,
)

SCHEMA_VERSION = "0002"
"""Revision of the newest migration. Revisions are numbers of four digits, so that they compare."""

metadata = MetaData()

# SQLite makes a primary key of its own counting only of INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")
# SQL NULL, not JSON null, for what is not there.
_Json = JSON(none_as_null=True)


jobs = Table(
    "jobs",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("label", Text, nullable=False),
    Column("input_dir", Text, nullable=False),
    Column("output_dir", Text, nullable=False),
    Column("options_hash", Text, nullable=False),
    Column("start_mjd", Double),
    Column("end_mjd", Double),
    Column("kind", Text, nullable=False),
    Column("expected_subbands", Integer, nullable=False),
    Column("min_subbands", Integer),
    Column("priority", Integer, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("settings", _Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("files", Integer, nullable=False),
    Column("files_read", Integer, nullable=False),
    Column("candidates", Integer, nullable=False),
    Column("submitted_s", Double, nullable=False),
    Column("read_s", Double),
    Column("reason_code", Text),
    Column("reason_text", Text),
    Column("submitted_by", Text, nullable=False),
    Index("jobs_by_state", "state"),
    sqlite_autoincrement=True,
)

groups = Table(
    "groups",
    metadata,
    Column("key", _Key, primary_key=True),
    Column("id", Text, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("start_mjd", Double),
    Column("output_dir", Text, nullable=False),
    Column("options_hash", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_since_s", Double, nullable=False),
    Column("present", Integer, nullable=False),
    Column("expected", Integer, nullable=False),
    Column("missing", _Json, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("files_hash", Text),
    Column("job_id", _Key, ForeignKey("jobs.id")),
    Column("priority", Integer, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("queued_s", Double),
    Column("not_before_s", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("interruptions", Integer, nullable=False),
    Column("attempt", Text),
    Column("node", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("reason_code", Text),
    Column("reason_text", Text),
    Column("finished_s", Double),
    Column("path", Text),
    Column("seconds", _Json),
    Column("facts", _Json),
    Column("complete_s", Double),
    UniqueConstraint("start_ms", "output_dir", "options_hash", name="groups_identity"),
    Index("groups_by_id", "id"),
    Index("groups_by_finish", "finished_s"),
    sqlite_autoincrement=True,
)
# The order in which the queue is worked on.
Index(
    "groups_by_turn",
    groups.c.state,
    desc(groups.c.live),
    desc(groups.c.priority),
    groups.c.start_ms,
)

group_documents = Table(
    "group_documents",
    metadata,
    Column("group_key", _Key, ForeignKey("groups.key"), primary_key=True, autoincrement=False),
    Column("document", _Json, nullable=False),
)

jobs_groups = Table(
    "jobs_groups",
    metadata,
    Column("job_id", _Key, ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
    Column("group_key", _Key, ForeignKey("groups.key"), primary_key=True, autoincrement=False),
    Index("jobs_groups_by_group", "group_key"),
    sqlite_with_rowid=False,
)

subband_files = Table(
    "subband_files",
    metadata,
    Column("path", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("header", _Json),
    Column("reason_code", Text),
    Column("reason_text", Text),
    Column("read_s", Double, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("group_key", _Key, ForeignKey("groups.key"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("name", Text, nullable=False, unique=True),
    Column("node", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("started_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("reason_code", Text),
    Column("reason_text", Text),
    Column("seconds", _Json),
    Index("attempts_by_group", "group_key"),
    sqlite_autoincrement=True,
)

products = Table(
    "products",
    metadata,
    Column("path", Text, primary_key=True),
    Column("group_key", _Key, ForeignKey("groups.key"), nullable=False),
    Column("group_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("output_dir", Text, nullable=False),
    Column("start_mjd", Double, nullable=False),
    Column("begin_mjd", Double),
    Column("middle_mjd", Double),
    Column("end_mjd", Double),
    Column("ra_deg", Double),
    Column("dec_deg", Double),
    Column("declination_deg", Double),
    Column("bytes", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("plan_hash", Text, nullable=False),
    Column("attempt", Text, nullable=False),
    Column("published_s", Double, nullable=False),
    Index("products_by_group", "group_key"),
    Index("products_by_start", "start_mjd", "path"),
    Index("products_by_output", "output_dir", "path"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("workers", Integer, nullable=False),
    Column("first_seen_s", Double, nullable=False),
    Column("last_seen_s", Double, nullable=False),
    Column("facts", _Json, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("time_s", Double, nullable=False),
    Column("event", Text, nullable=False),
    Column("group_key", BigInteger),
    Column("group_id", Text),
    Column("job_id", BigInteger),
    Column("attempt", Text),
    Column("facts", _Json, nullable=False),
    Index("events_by_group", "group_key"),
    Index("events_by_job", "job_id"),
    sqlite_autoincrement=True,
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("owner", _Json, nullable=False),
    Column("token", Text, nullable=False, unique=True),
    Column("acquired_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("facts", _Json, nullable=False),
)

control = Table(
    "control",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", _Json, nullable=False),
)
