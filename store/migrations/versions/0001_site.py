"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("created_ns", sa.Integer(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("writer", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("started_ns", sa.Integer(), nullable=False),
    )
    op.create_index("log_identity", "log", ["tenant", "writer", "epoch"], unique=True)
    op.create_table(
        "mention",
        sa.Column("subject", sa.String(), primary_key=True),
        sa.Column("first_position", sa.Integer(), primary_key=True),
        sa.Column("last_position", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("value", sa.String(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "node",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_node_tenant", "node", ["tenant"])
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        sa.Column("intake", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("settled_ns", sa.Integer(), nullable=True),
        sa.Column("decision", sa.String(), nullable=True),
    )
    op.create_table(
        "segment",
        sa.Column("first_id", sa.Integer(), primary_key=True),
        sa.Column("last_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("from_ns", sa.Integer(), nullable=False),
        sa.Column("to_ns", sa.Integer(), nullable=False),
        sa.Column("bytes_stored", sa.Integer(), nullable=False),
        sa.Column("sealed_ns", sa.Integer(), nullable=False),
        sa.Column("dropped_ns", sa.Integer(), nullable=True),
    )
    op.create_table(
        "snapshot",
        sa.Column("node_id", sa.String(), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "token",
        sa.Column("secret_hash", sa.LargeBinary(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_ns", sa.Integer(), nullable=False),
        sa.Column("revoked_ns", sa.Integer(), nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "view",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "block",
        sa.Column("log_id", sa.Integer(), sa.ForeignKey("log.id"), primary_key=True),
        sa.Column("first_seq", sa.Integer(), primary_key=True),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "event",
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("log_id", sa.Integer(), sa.ForeignKey("log.id"), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("wall_ns", sa.Integer(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
    )
    op.create_index("event_seq", "event", ["log_id", "seq"], unique=True)
    op.create_table(
        "segment_frame",
        sa.Column("first_id", sa.Integer(), primary_key=True),
        sa.Column("last_id", sa.Integer(), nullable=False),
        sa.Column("segment_id", sa.Integer(), sa.ForeignKey("segment.first_id"), nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("from_ns", sa.Integer(), nullable=False),
        sa.Column("to_ns", sa.Integer(), nullable=False),
        sa.Column("sources", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_segment_frame_segment_id", "segment_frame", ["segment_id"])
    op.create_table(
        "session",
        sa.Column("secret_hash", sa.LargeBinary(), primary_key=True),
        sa.Column("account", sa.String(), sa.ForeignKey("account.name"), nullable=False),
        sa.Column("created_ns", sa.Integer(), nullable=False),
        sa.Column("expires_ns", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_session_account", "session", ["account"])
    op.create_table(
        "source",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), sa.ForeignKey("node.id"), nullable=True),
        sa.Column("first_ns", sa.Integer(), nullable=False),
        sa.Column("last_ns", sa.Integer(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("last_record", sa.Integer(), nullable=False),
        sa.Column("sample", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
