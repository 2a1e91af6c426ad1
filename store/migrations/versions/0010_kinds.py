"""Where in each block events of each kind stand (`journal.mentions`): what happens seldom is found at once.

May be done twice: what is there stays.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

_KINDS = """
    INSERT OR IGNORE INTO mention
    SELECT 'kind ' || event.kind, min(event.position), max(event.position)
    FROM block JOIN event ON event.log_id = block.log_id AND event.seq BETWEEN block.first_seq AND block.last_seq
    GROUP BY block.log_id, block.first_seq, event.kind
"""


def upgrade() -> None:
    op.execute(_KINDS)
