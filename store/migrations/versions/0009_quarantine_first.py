"""Quarantine: when an item came first, for pages of the past.

Each step is left out when it was done: SQLite keeps what a cut-off run made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    if "first_ns" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("quarantine")}:
        op.add_column("quarantine", sa.Column("first_ns", sa.Integer(), nullable=True))
