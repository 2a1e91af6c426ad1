"""series.db: the windows of downsampled metrics, and the record up to which they are complete."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from backports import zstd

from fleet import series
from store.database import Participant, Reader, Writer, connect

_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    node_id TEXT NOT NULL, start_s INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (node_id, start_s)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_SAVE_RECORD = "INSERT INTO meta VALUES ('record', ?) ON CONFLICT DO UPDATE SET value=excluded.value"
_UPSERT = "INSERT INTO series VALUES (?,?,?) ON CONFLICT DO UPDATE SET data=excluded.data"


class SeriesStore:
    """Writes through its own writer (one file, one writing connection); reads beside it."""

    def __init__(self, path: Path, participants: Sequence[Participant] = ()) -> None:
        db = connect(path)
        db.executescript(_SCHEMA)
        row = db.execute("SELECT value FROM meta WHERE key='record'").fetchone()
        db.close()
        self.record = int(row[0]) if row else 0
        self.writer = Writer(path, participants)
        self._reader = Reader(path, 1)

    def save(self, windows: Sequence[tuple[str, series.Window]], record: int) -> None:
        """Make `windows` durable as of `record`; blocks. StoreFault when the disk refuses."""
        rows = [(node_id, window.start_s, zstd.compress(window.encode())) for node_id, window in windows]

        def job(db: sqlite3.Connection) -> None:
            db.executemany(_UPSERT, rows)
            db.execute(
                "INSERT INTO meta VALUES ('record', ?) ON CONFLICT DO UPDATE SET value=excluded.value", (record,)
            )

        self.writer.submit(job).result()
        self.record = record

    async def windows(self, node_id: str, from_s: int, to_s: int) -> list[series.Window]:
        rows = await self._reader.fetch(
            "SELECT start_s, data FROM series WHERE node_id=? AND start_s BETWEEN ? AND ? ORDER BY start_s",
            (node_id, series.start_of(from_s), to_s),
        )
        return [series.decode(start_s, zstd.decompress(data)) for start_s, data in rows]

    def load(self, node_id: str, start_s: int) -> series.Window | None:
        """A stored window to go on with after a restart; on the writer's thread, so it blocks."""

        def job(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT data FROM series WHERE node_id=? AND start_s=?", (node_id, start_s)).fetchone()
            return row[0] if row else None

        data = self.writer.submit(job).result()
        return series.decode(start_s, zstd.decompress(data)) if data else None

    def drop_before(self, start_s: int) -> int:
        """Let the oldest windows go; returns how many."""

        def job(db: sqlite3.Connection) -> int:
            return db.execute("DELETE FROM series WHERE start_s < ?", (start_s,)).rowcount

        return self.writer.submit(job).result()

    async def close(self) -> None:
        await self._reader.close()
        self.writer.close()
