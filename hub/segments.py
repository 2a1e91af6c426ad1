"""How do a site's sealed segments come together at the hub? In chunks, wherever they begin, until the file's SHA-256 is the
one that the site's log named.

    segments/<sha256>.part      what has come so far, written in order; its length is where to go on
    segments/<sha256>.jsonl.zst the whole, verified, durable before the database says so

Rules of the file
  1  The log says what there is (`segment.sealed`); a chunk of anything else is refused.
  2  A file is what its name says or it is not there: it is renamed after its hash was checked and it was synced.
  3  Whatever a file holds, it comes, is verified and receipted in one way. Only raw ones hold records: of any other
     content the ids and the number of records stand as 0 (`peers.Segment.is_series`).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from fleet.events import Recorded, SegmentSealed, TelemetryDropped
from store import peers
from store.faults import Fault as StoreProblem
from store.faults import StoreFault, fault_of
from store.keys import sync_folder
from store.peers import GONE, HERE, WANTED, Segment
from sync.hub import Missing
from sync.messages import Chunk

_PARTS_MAX = 4_096  # hashes in the making; one that is forgotten is made again from its file


class _Part:
    """A file that is being put together. It is open only while it is written: hundreds of sites send at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hash = hashlib.sha256()
        self.size = 0
        if path.exists():
            with path.open("rb") as held:
                while piece := held.read(1 << 20):
                    self.hash.update(piece)
                    self.size += len(piece)

    def add(self, data: bytes, *, last: bool) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(data)
            if last:
                os.fsync(file.fileno())
        self.hash.update(data)
        self.size += len(data)


class Segments:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[bytes, _Part] = {}

    def noticed(self, db: sqlite3.Connection, writer: str, facts: Iterable[Recorded], now_ns: int) -> None:
        """What a site's log says of its segments: one more, or one that it let go before it came here."""
        for fact in facts:
            match fact.body:
                case SegmentSealed() as sealed:
                    ids = (sealed.first_id, sealed.last_id, sealed.records) if sealed.content == "raw" else (0, 0, 0)
                    peers.want_segment(
                        db,
                        Segment(
                            writer,
                            sealed.sha256,
                            *ids,
                            sealed.bytes_stored,
                            sealed.from_ns,
                            sealed.to_ns,
                            WANTED,
                            "",
                            now_ns,
                        ),
                    )
                case TelemetryDropped(sha256=sha256, reason=reason) if sha256:
                    held = db.execute(
                        "SELECT state FROM custody WHERE site=? AND sha256=?", (writer, sha256)
                    ).fetchone()
                    if held and held[0] == WANTED:
                        peers.settle_segment(db, writer, sha256, GONE, reason, now_ns)
                case _:
                    pass

    def wanted(self, db: sqlite3.Connection, writer: str, limit: int) -> Sequence[Missing]:
        return [
            Missing(one.sha256, one.bytes_stored, self._have(one.sha256))
            for one in peers.segments(db, writer, WANTED, limit)
        ]

    def _have(self, sha256: bytes) -> int:
        part = self._parts.get(sha256)
        if part is not None:
            return part.size
        path = self._path(sha256, "part")
        return path.stat().st_size if path.exists() else 0

    def chunk(self, db: sqlite3.Connection, writer: str, said: Chunk, now_ns: int) -> tuple[bool, str]:
        row = db.execute(
            "SELECT bytes_stored, state FROM custody WHERE site=? AND sha256=?", (writer, said.sha256)
        ).fetchone()
        if row is None:
            return False, "a chunk of a segment that the site's log does not name"
        size, state = row
        if state != WANTED:
            return False, ""
        if said.gone:
            peers.settle_segment(db, writer, said.sha256, GONE, said.gone[:200], now_ns)
            self._drop(said.sha256)
            return False, ""
        try:
            return self._add(db, writer, said, size, now_ns)
        except OSError as error:
            self._parts.pop(said.sha256, None)  # what the file holds now is read again
            raise StoreFault(fault_of(error) or StoreProblem.IO, "segments", str(error)) from error

    def _add(self, db: sqlite3.Connection, writer: str, said: Chunk, size: int, now_ns: int) -> tuple[bool, str]:
        part = self._parts.get(said.sha256)
        if part is None:
            if len(self._parts) >= _PARTS_MAX:
                del self._parts[next(iter(self._parts))]
            part = self._parts[said.sha256] = _Part(self._path(said.sha256, "part"))
        if said.offset > part.size:
            return False, ""  # what is between is still on its way, or will be asked for again
        fresh = said.data[part.size - said.offset :]
        if part.size + len(fresh) > size:
            self._drop(said.sha256)
            return False, "a segment has more bytes than the site's log says; it is asked for again"
        part.add(fresh, last=part.size + len(fresh) == size)
        if part.size < size:
            return False, ""
        if part.hash.digest() != said.sha256:
            self._drop(said.sha256)
            return False, "a segment came together with another SHA-256 than the site's log says; it is asked for again"
        part.path.rename(self._path(said.sha256, "jsonl.zst"))
        sync_folder(self._folder)
        del self._parts[said.sha256]
        peers.settle_segment(db, writer, said.sha256, HERE, "", now_ns)
        return True, ""

    def _drop(self, sha256: bytes) -> None:
        self._parts.pop(sha256, None)
        self._path(sha256, "part").unlink(missing_ok=True)

    def _path(self, sha256: bytes, suffix: str) -> Path:
        return self._folder / f"{sha256.hex()}.{suffix}"

    def close(self) -> None:
        self._parts.clear()
