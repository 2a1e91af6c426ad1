"""Links: peers, what they told, what came of their segments, receipts, branches of forked logs, documents.

Each step is left out when it was done: SQLite keeps what a cut-off run made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "peer",
        sa.Column("writer", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealing_key", sa.LargeBinary(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("former", sa.LargeBinary(), nullable=False),
        sa.Column("log_writer", sa.String(), nullable=False),
        sa.Column("log_epoch", sa.Integer(), nullable=False),
        sa.Column("quarantine", sa.String(), nullable=False),
        sa.Column("since_ns", sa.Integer(), nullable=False),
        sa.Column("seen_ns", sa.Integer(), nullable=False),
        sa.Column("told", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "invitation",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("writer", sa.String(), nullable=False),
        sa.Column("made_ns", sa.Integer(), nullable=False),
        sa.Column("link", sa.String(), nullable=False),
        sa.Column("password", sa.String(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "present",
        sa.Column("node_id", sa.String(), primary_key=True),
        sa.Column("site", sa.String(), primary_key=True),
        sa.Column("told_ns", sa.Integer(), nullable=False),
        sa.Column("received_ns", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "custody",
        sa.Column("site", sa.String(), primary_key=True),
        sa.Column("sha256", sa.LargeBinary(), primary_key=True),
        sa.Column("first_id", sa.Integer(), nullable=False),
        sa.Column("last_id", sa.Integer(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("bytes_stored", sa.Integer(), nullable=False),
        sa.Column("from_ns", sa.Integer(), nullable=False),
        sa.Column("to_ns", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "receipt",
        sa.Column("site", sa.String(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("hub_signature", sa.LargeBinary(), nullable=False),
        sa.Column("site_signature", sa.LargeBinary(), nullable=False),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "branch",
        sa.Column("log_id", sa.Integer(), sa.ForeignKey("log.id"), primary_key=True),
        sa.Column("first_seq", sa.Integer(), primary_key=True),
        sa.Column("hash", sa.LargeBinary(), primary_key=True),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "document",
        sa.Column("tenant", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("generation", sa.Integer(), primary_key=True),
        sa.Column("heads", sa.LargeBinary(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("saved", sa.LargeBinary(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "document_waiting",
        sa.Column("tenant", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("generation", sa.Integer(), primary_key=True),
        sa.Column("hash", sa.LargeBinary(), primary_key=True),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("since_ns", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
