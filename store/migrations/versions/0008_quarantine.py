"""Quarantine: what comes again is found by an index."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index(
        "quarantine_same", "quarantine", ["tenant", "intake", "source", "reason", "raw"], if_not_exists=True
    )
