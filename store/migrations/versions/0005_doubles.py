"""Documents: the changes that a second copy of their author wrote.

Each step is left out when it was done: SQLite keeps what a cut-off run made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "document_double",
        sa.Column("tenant", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("generation", sa.Integer(), primary_key=True),
        sa.Column("hash", sa.LargeBinary(), primary_key=True),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
