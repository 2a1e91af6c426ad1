"""People of several ends: where an account comes from, for which sites it is, who changed it last. And the roles of a hub:
whoever was an admin there could do everything, and goes on doing so across tenants (docs/decisions/0014).

Each step is left out when it was done: SQLite keeps what a cut-off run made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    here = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("account")}
    for name in ("origin", "sites", "changed_by"):
        if name not in here:
            op.add_column("account", sa.Column(name, sa.String(), nullable=True))
    op.execute(
        "UPDATE account SET role='OPERATOR_ADMIN' WHERE role='ADMIN'"
        " AND EXISTS (SELECT 1 FROM meta WHERE key='box' AND value='hub')"
    )
