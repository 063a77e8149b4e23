"""When the last file of a group was finished: latency is counted from there.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; of groups that are there already it is not known."""
    op.add_column("groups", sa.Column("complete_s", sa.Double))
