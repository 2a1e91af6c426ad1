"""Streams that devices number: what a site holds of each, and what it is storing just now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "stream",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("floor", sa.Integer(), nullable=False),
        sa.Column("held", sa.LargeBinary(), nullable=False),
        sa.Column("told_ns", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "device", "stream"),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "delivery",
        sa.Column("upload", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("after_id", sa.Integer(), nullable=False),
        sa.Column("began_ns", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("upload"),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
