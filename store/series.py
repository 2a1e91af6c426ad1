"""series.db: the windows of downsampled metrics.

A site saves its windows whole, with the record up to which they are complete, and remembers which have changed since
they were last sealed for a hub. A hub joins what it is told to what it holds, and remembers which files it has read.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from backports import zstd

from fleet import series
from store.database import Participant, Reader, Writer, connect_reader
from store.faults import Fault, StoreFault, fault_of

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    node_id TEXT NOT NULL, start_s INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (node_id, start_s)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unsealed (start_s INTEGER PRIMARY KEY, saves INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS taken (sha256 BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_CHECKED: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
_SAVE_RECORD = "INSERT INTO meta VALUES ('record', ?) ON CONFLICT DO UPDATE SET value=excluded.value"
_CHANGED = "INSERT INTO unsealed VALUES (?,1) ON CONFLICT DO UPDATE SET saves=saves+1"
_SEALED = "DELETE FROM unsealed WHERE start_s=? AND saves=?"
_ONE = "SELECT data FROM series WHERE node_id=? AND start_s=?"
_UPSERT = "INSERT INTO series VALUES (?,?,?) ON CONFLICT DO UPDATE SET data=excluded.data WHERE data<>excluded.data"
_OF_STARTS = (  # from node to node by the key: most windows are of other hours
    "WITH RECURSIVE node(id) AS (SELECT min(node_id) FROM series UNION ALL"
    " SELECT (SELECT min(node_id) FROM series WHERE node_id > node.id) FROM node WHERE node.id IS NOT NULL)"
    " SELECT node_id, start_s, data FROM node JOIN series ON node_id = node.id AND start_s IN ({}) ORDER BY 1, 2"
)


class Unsealed(NamedTuple):
    """Windows that begin at `start_s` have been saved so often, and not been sealed since."""

    start_s: int
    saves: int


class Oldest(NamedTuple):
    """The oldest windows, as far as they are worth letting go: those that start before `before_s`."""

    windows: int
    bytes_stored: int
    from_s: int
    before_s: int


class SeriesStore:
    """Writes through its own writer (one file, one writing connection); reads beside it."""

    def __init__(
        self,
        path: Path,
        participants: Sequence[Participant] = (),
        *,
        on_turn: Callable[[StoreFault | None], None] | None = None,
    ) -> None:
        self.path = path
        self.record = _bring_up(path)
        self.writer = Writer(path, participants, on_turn=on_turn)
        self._reader = Reader(path, 1)

    def save(self, windows: Iterable[tuple[str, series.Window]], record: int) -> None:
        """Make `windows` durable as of `record`; blocks. StoreFault when the disk refuses."""
        rows = [(node_id, window.start_s, _packed(node_id, window)) for node_id, window in windows]

        def job(db: sqlite3.Connection) -> None:
            changed = {(row[1],) for row in rows if db.execute(_UPSERT, row).rowcount}
            db.executemany(_CHANGED, sorted(changed))
            db.execute(_SAVE_RECORD, (record,))

        self.writer.submit(job).result()
        self.record = record

    def join(self, windows: Iterable[tuple[str, series.Window]], taken: bytes = b"") -> None:
        """At a hub: join `windows` to what is held of them, and remember the file that they came from. From one thread
        only; blocks. StoreFault when the disk refuses."""
        rows: list[tuple[str, int, bytes]] = []
        with _reading(self.path) as db:
            for node_id, told in windows:
                row = db.execute(_ONE, (node_id, told.start_s)).fetchone()
                window = (_window(node_id, told.start_s, row[0]) if row else None) or series.Window(told.start_s)
                window.join(told)
                rows.append((node_id, told.start_s, _packed(node_id, window)))

        def job(db: sqlite3.Connection) -> None:
            db.executemany(_UPSERT, rows)
            if taken:
                db.execute("INSERT OR IGNORE INTO taken VALUES (?)", (taken,))

        self.writer.submit(job).result()

    def taken(self) -> frozenset[bytes]:
        """The files that were joined. Blocks."""
        with _reading(self.path) as db:
            return frozenset(sha256 for (sha256,) in db.execute("SELECT sha256 FROM taken"))

    async def windows(self, node_id: str, from_s: int, to_s: int) -> list[series.Window]:
        rows = await self._reader.fetch(
            "SELECT start_s, data FROM series WHERE node_id=? AND start_s BETWEEN ? AND ? ORDER BY start_s",
            (node_id, series.start_of(from_s), to_s),
        )
        found = [_window(node_id, start_s, data) for start_s, data in rows]
        return [window for window in found if window is not None]

    def unsealed(self, limit: int) -> list[Unsealed]:
        """The oldest windows that changed since they were sealed. Blocks."""
        with _reading(self.path) as db:
            rows = db.execute("SELECT start_s, saves FROM unsealed ORDER BY start_s LIMIT ?", (limit,))
            return [Unsealed(*row) for row in rows]

    def sealed(self, windows: Iterable[Unsealed]) -> None:
        """These are sealed, unless they were saved again meanwhile. Blocks."""
        rows = tuple(windows)
        self.writer.submit(lambda db: db.executemany(_SEALED, rows)).result()

    def load(self, node_id: str, start_s: int) -> series.Window | None:
        """A stored window to go on with after a restart; blocks. None too when it cannot be read: what is worth
        charting must not end the thread that reads what devices say."""
        try:
            with _reading(self.path) as db:
                row = db.execute(_ONE, (node_id, start_s)).fetchone()
        except StoreFault as error:
            log.error("series: the window %d of %s cannot be read: %s", start_s, node_id, error)
            return None
        return _window(node_id, start_s, row[0]) if row else None

    def size(self) -> int:
        """Bytes that are in use. Blocks."""
        with _reading(self.path) as db:
            pages, free, page_bytes = (
                db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * page_bytes)

    def oldest(self, bytes_wanted: int) -> Oldest | None:
        """The oldest windows that together hold `bytes_wanted`, or all there are; None when there are none. Blocks."""
        windows = held = 0
        with _reading(self.path) as db:
            rows = db.execute(
                "SELECT start_s, count(*), sum(length(data)) FROM series GROUP BY 1 ORDER BY 1"
            ).fetchall()
        for start_s, count, size in rows:
            windows, held = windows + count, held + size
            if held >= bytes_wanted:
                return Oldest(windows, held, rows[0][0], start_s + 1)
        return Oldest(windows, held, rows[0][0], rows[-1][0] + 1) if rows else None

    def drop_before(self, start_s: int) -> int:
        """Let the oldest windows go and give their pages back to the disk; returns how many. Blocks."""

        def job(db: sqlite3.Connection) -> int:
            dropped = db.execute("DELETE FROM series WHERE start_s < ?", (start_s,)).rowcount
            db.execute("DELETE FROM unsealed WHERE start_s < ?", (start_s,))
            (free,) = db.execute("PRAGMA freelist_count").fetchone()
            for _ in range(free):  # a page at each step, and the statement is stepped but once
                db.execute("PRAGMA incremental_vacuum(1)")
            return dropped

        return self.writer.submit(job).result()

    async def close(self) -> None:
        await self._reader.close()
        self.writer.close()


def stored(path: Path, starts: Sequence[int]) -> Iterator[tuple[str, series.Window]]:
    """The windows in a series.db that begin at these seconds, node by node. StoreFault when it cannot be read."""
    with _reading(path) as db:
        for node_id, start_s, data in db.execute(_OF_STARTS.format(",".join("?" * len(starts))), tuple(starts)):
            window = _window(node_id, start_s, data)
            if window is not None:
                yield node_id, window


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(connect_reader(path)) as db:
            yield db
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error


def _bring_up(path: Path) -> int:
    """Make the tables; returns the record up to which the windows are complete. StoreFault when the disk refuses."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table: a shed window must free its pages
            db.executescript(_SCHEMA)
            row = db.execute("SELECT value FROM meta WHERE key='record'").fetchone()
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error
    return int(row[0]) if row else 0


def _packed(node_id: str, window: series.Window) -> bytes:
    """zstd(window's bytes ‖ "node start"), with its checksum: a window with a flipped bit, or under a flipped key, must
    not be charted."""
    return zstd.compress(window.encode() + _place(node_id, window.start_s), options=_CHECKED)


def _window(node_id: str, start_s: int, data: bytes) -> series.Window | None:
    try:
        raw, place = zstd.decompress(data), _place(node_id, start_s)
        if not raw.endswith(place):
            raise ValueError("it was stored under another key")
        return series.decode(start_s, raw.removesuffix(place))
    except (ValueError, zstd.ZstdError) as error:
        log.error("series: the window %d of %s is damaged: %s", start_s, node_id, error)
        return None


def _place(node_id: str, start_s: int) -> bytes:
    return f" {node_id} {start_s}".encode()
