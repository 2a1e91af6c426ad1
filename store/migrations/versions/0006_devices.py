"""Devices that say who they are: which nodes may, with what, and the codes that new ones come with.

Each step is left out when it was done: SQLite keeps what a cut-off run made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "device",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("gateway", sa.Boolean(), nullable=False),
        sa.Column("enrolled_ns", sa.Integer(), nullable=False),
        sa.Column("enrolled_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"]),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "credential",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("lookup", sa.LargeBinary(), nullable=False),
        sa.Column("proof", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("made_ns", sa.Integer(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("expires_ns", sa.Integer(), nullable=True),
        sa.Column("revoked_ns", sa.Integer(), nullable=True),
        sa.Column("used_ns", sa.Integer(), nullable=True),
        sa.Column("used_from", sa.String(), nullable=False),
        sa.Column("former", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["node_id"], ["device.node_id"]),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_index("credential_lookup", "credential", ["kind", "lookup"], if_not_exists=True)
    op.create_index("ix_credential_node_id", "credential", ["node_id"], if_not_exists=True)
    op.create_table(
        "activation_code",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("node_kind", sa.String(), nullable=False),
        sa.Column("gateway", sa.Boolean(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("made_ns", sa.Integer(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("expires_ns", sa.Integer(), nullable=False),
        sa.Column("revoked_ns", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("secret_hash"),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
