"""How is a whole journal carried away? All logs of a box, one after the other, in the format of `sync.wire`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

from fleet.envelope import Log
from store import journal
from store.database import connect_reader
from sync import wire


async def chunks(site_db: Path) -> AsyncIterator[bytes]:
    """Bytes of the file, as they are read; others get their turn between two pieces."""
    with closing(connect_reader(site_db)) as db:
        for log_id, tenant, writer, epoch, public_key in db.execute(
            "SELECT id, tenant, writer, epoch, public_key FROM log ORDER BY id"
        ).fetchall():
            for chunk in wire.write(journal.blocks(db, log_id), public_key, Log(tenant, writer, epoch)):
                yield chunk
                await asyncio.sleep(0)
