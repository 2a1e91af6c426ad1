"""Documents: whether words stand against each other in one, so that a plan need not look at all of them.

Each step is left out when it was done: SQLite keeps what a cut-off run made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from store.document import is_disputed

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    db = op.get_bind()
    if "disputed" not in {column["name"] for column in sa.inspect(db).get_columns("document")}:
        op.add_column("document", sa.Column("disputed", sa.Boolean(), nullable=True))
    op.create_index("document_disputed", "document", ["tenant", "disputed"], if_not_exists=True)
    unknown = db.execute(sa.text("SELECT rowid FROM document WHERE disputed IS NULL")).scalars().all()
    for row in unknown:
        (saved,) = db.execute(sa.text("SELECT saved FROM document WHERE rowid=:row"), {"row": row}).one()
        said = {"disputed": is_disputed(saved), "row": row}
        db.execute(sa.text("UPDATE document SET disputed=:disputed WHERE rowid=:row"), said)
