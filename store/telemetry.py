"""Raw telemetry: partitions being written, segments sealed, and one sequence of record ids through both.

Rules of the file
  1  Ids ascend without repeat for the life of the folder. What is missing was dropped by an event that says so.
  2  `append` returns after the commit that holds the records; before it nothing is acknowledged.
  3  A partition is one SQLite file with one writing connection, owned by the thread that appends.
  4  Sealing copies: the segment is on the disk, named by its SHA-256 and announced in the journal before the
     partition goes. A crash between the two leaves a partition that is already sealed; the next start removes it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fleet import limits
from store import frames
from store.database import connect, connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.folder import Folder
from store.frames import Frame, Offer, Record
from store.keys import sync_folder

log = logging.getLogger(__name__)

_TABLE = (
    "CREATE TABLE IF NOT EXISTS frame (first_id INTEGER PRIMARY KEY, last_id INTEGER NOT NULL,"
    " records INTEGER NOT NULL, from_ns INTEGER NOT NULL, to_ns INTEGER NOT NULL,"
    " sources BLOB NOT NULL, data BLOB NOT NULL)"
)
_ID_JUMP = 1_000_000  # past a partition that cannot be read, ids go on well beyond what it may have held


class Sealed(NamedTuple):
    """A segment that was just written, with its frames' places in the file."""

    sha256: bytes
    first_id: int
    last_id: int
    records: int
    from_ns: int
    to_ns: int
    bytes_stored: int
    frames: tuple[tuple[int, int, int, int, int, int, int, bytes], ...]  # rows of segment_frame without the segment


class Damage(NamedTuple):
    file: str
    reason: str
    first_id: int
    last_id: int
    kept_as: str


class Partition(NamedTuple):
    path: Path
    first_id: int


class Telemetry:
    """Appends raw records. All methods but `partitions` belong to the one appending thread."""

    def __init__(self, folder: Folder, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._folder = folder
        self._monotonic_ns = monotonic_ns
        self._db: sqlite3.Connection | None = None
        self._active: Partition | None = None
        self._opened_ns = 0
        self._active_bytes = 0
        self._lock = threading.Lock()
        self.next_id = 1
        self.damage: list[Damage] = []

    def open(self, sealed_up_to: int) -> None:
        """Find the partitions of an earlier run. `sealed_up_to` is the last id that any segment or cursor knows."""
        next_id = sealed_up_to + 1
        for partition in self.partitions():
            try:
                last = _last_id(partition.path)
            except StoreFault as error:
                next_id = max(next_id, partition.first_id) + _ID_JUMP
                self._set_aside(partition, error.detail)
                continue
            if last is None or last <= sealed_up_to:
                _remove(partition.path)
                continue
            next_id = max(next_id, last + 1)
        self.next_id = next_id

    def partitions(self) -> list[Partition]:
        """Files with open records, oldest first."""
        found = [Partition(path, int(path.stem)) for path in self._folder.telemetry.glob("*.db") if path.stem.isdigit()]
        return sorted(found, key=lambda partition: partition.first_id)

    def closed_partitions(self) -> list[Partition]:
        """Partitions that nothing writes to any more: ready to be sealed."""
        with self._lock:
            active = self._active
        return [partition for partition in self.partitions() if partition != active]

    def append(self, offers: Sequence[Offer]) -> list[Record]:
        """Commit `offers` as one frame and return them with their ids. StoreFault when the disk refuses."""
        records = frames.records_of(self.next_id, offers)
        frame = frames.encode(records)
        try:
            db = self._writable()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO frame VALUES (?,?,?,?,?,?,?)", frame)
            db.execute("COMMIT")
        except (sqlite3.DatabaseError, OSError) as error:
            self._fell()
            raise StoreFault(fault_of(error) or Fault.IO, "telemetry", str(error)) from error
        self.next_id = frame.last_id + 1
        self._active_bytes += len(frame.data)
        return records

    def rotate_if_due(self) -> bool:
        """Close the active partition when it is old or large enough; the next append opens a new one."""
        old = self._monotonic_ns() - self._opened_ns >= limits.partition_ns_max
        if self._db is None or not (old or self._active_bytes >= limits.partition_bytes_max):
            return False
        self.rotate()
        return True

    def rotate(self) -> None:
        if self._db is not None:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()
        with self._lock:
            self._db = self._active = None

    def close(self) -> None:
        try:
            self.rotate()
        except sqlite3.DatabaseError as error:
            log.warning("telemetry: the last checkpoint failed: %s", error)

    def _writable(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        # Every start, and every fault, goes on in a new file: what an old one holds is never written to again.
        partition = Partition(self._folder.telemetry / f"{self.next_id:016d}.db", self.next_id)
        db = connect(partition.path)
        try:
            db.execute(_TABLE)
            (last,) = db.execute("SELECT coalesce(max(last_id), 0) FROM frame").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        self._opened_ns, self._active_bytes = self._monotonic_ns(), partition.path.stat().st_size
        with self._lock:
            self._db, self._active = db, partition
        if last >= self.next_id:  # a commit that was reported as failed did reach the disk: its ids are taken
            raise StoreFault(Fault.IO, "telemetry", "the last batch is on the disk after all") from None
        return db

    def _fell(self) -> None:
        db = self._db
        with self._lock:
            self._db = self._active = None
        if db is not None:
            try:
                db.close()
            except sqlite3.DatabaseError as error:
                log.warning("telemetry: closing after a fault: %s", error)
        for partition in self.partitions()[-1:]:
            try:
                self.next_id = max(self.next_id, (_last_id(partition.path) or 0) + 1)
            except StoreFault as error:
                self.next_id += _ID_JUMP
                log.error("telemetry: %s", error)

    def _set_aside(self, partition: Partition, reason: str) -> None:
        kept = self._folder.damaged / partition.path.name
        for suffix in ("", "-wal", "-shm"):
            path = partition.path.with_name(partition.path.name + suffix)
            if path.exists():
                path.rename(kept.with_name(kept.name + suffix))
        self.damage.append(Damage(partition.path.name, reason, partition.first_id, 0, f"damaged/{kept.name}"))
        log.error("telemetry: %s is damaged (%s); kept as damaged/%s", partition.path.name, reason, kept.name)


def _last_id(path: Path) -> int | None:
    """The last id in a partition, None when it is empty. StoreFault when it is damaged."""
    with closing(connect_reader(path)) as db:
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != ("ok",):
                raise StoreFault(Fault.DAMAGED, path.name, str(verdict[0]))
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='frame'").fetchone():
                return None
            (last,) = db.execute("SELECT max(last_id) FROM frame").fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreFault(fault_of(error) or Fault.DAMAGED, path.name, str(error)) from error
    return None if last is None else int(last)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def partition_frames(path: Path, where: str = "1", parameters: Sequence[int] = ()) -> Iterator[Frame]:
    with closing(connect_reader(path)) as db:
        try:
            for row in db.execute(f"SELECT * FROM frame WHERE {where} ORDER BY first_id", parameters):
                yield Frame(*row)
        except sqlite3.DatabaseError as error:
            raise StoreFault(fault_of(error) or Fault.DAMAGED, path.name, str(error)) from error


# -- sealing ----------------------------------------------------------------------------------------------------


def seal(partition: Partition, segments: Path) -> Sealed | None:
    """Write a partition's records into `segments` as one immutable file. None when there are none.

    Small frames are joined into larger ones, which compress several times better. The file is durable, under its
    final name, when this returns; the partition is untouched.
    """
    fresh = segments / f"{partition.path.stem}.new"
    digest, offset = hashlib.sha256(), 0
    rows: list[tuple[int, int, int, int, int, int, int, bytes]] = []
    try:
        with fresh.open("wb") as file:
            for records in _rechunked(partition.path):
                frame = frames.encode(records, sealed=True)
                file.write(frame.data)
                digest.update(frame.data)
                size = len(frame.data)
                rows.append(
                    (
                        frame.first_id,
                        frame.last_id,
                        offset,
                        size,
                        frame.records,
                        frame.from_ns,
                        frame.to_ns,
                        frame.sources,
                    )
                )
                offset += size
            file.flush()
            os.fsync(file.fileno())
        if not rows:
            fresh.unlink()
            return None
        fresh.rename(segment_path(segments, digest.digest()))
        sync_folder(segments)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise StoreFault(fault_of(error) or Fault.IO, "segments", str(error)) from error
    return Sealed(
        digest.digest(),
        rows[0][0],
        rows[-1][1],
        sum(row[4] for row in rows),
        min(row[5] for row in rows),
        max(row[6] for row in rows),
        offset,
        tuple(rows),
    )


def segment_path(segments: Path, sha256: bytes) -> Path:
    return segments / f"{sha256.hex()}.jsonl.zst"


def discard(partition: Partition) -> None:
    """Remove a partition whose segment is announced."""
    _remove(partition.path)


def _rechunked(path: Path) -> Iterator[list[Record]]:
    held: list[Record] = []
    size = 0
    for frame in partition_frames(path):
        for record in frames.decode(frame.data):
            held.append(record)
            size += len(record.content)
            if len(held) >= limits.segment_frame_records_max or size >= limits.frame_bytes_max:
                yield held
                held, size = [], 0
    if held:
        yield held


# -- reading ----------------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """Ids that are no longer here, on purpose."""

    first_id: int
    last_id: int
    reason: str


class Page(NamedTuple):
    """Records in order of id, and the id up to which everything was looked at (`after` of the next call)."""

    records: list[Record]
    scanned: int
    gaps: list[Gap]


class History:
    """Reads raw records from partitions and segments alike. Blocking; call it off the event loop. Safe across threads:
    each call opens what it reads."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def after(self, after: int, limit: int, sources: frozenset[str] | None = None, seconds: float = 1.0) -> Page:
        """Up to `limit` records with an id above `after`, oldest first, within about `seconds`."""
        found: list[Record] = []
        deadline = time.monotonic() + seconds
        codes = frozenset(map(frames.source_code, sources)) if sources is not None else None
        scanned = after
        for _, last_id, held, load in self._frames_after(after):
            if codes is None or frames.holds(held, codes):
                for record in frames.decode(load()):
                    if record.id > after and (sources is None or record.source in sources):
                        if len(found) == limit:
                            return Page(found, scanned, self._gaps(after, scanned))
                        found.append(record)
                    scanned = max(scanned, record.id)
            else:
                scanned = max(scanned, last_id)
            if time.monotonic() > deadline:
                break
        return Page(found, scanned, self._gaps(after, scanned))

    def before(self, before: int, limit: int, sources: frozenset[str] | None = None, seconds: float = 0.05) -> Page:
        """Up to `limit` records with an id below `before`, newest first; `scanned` is the `before` of the next call."""
        found: list[Record] = []
        deadline = time.monotonic() + seconds
        codes = frozenset(map(frames.source_code, sources)) if sources is not None else None
        scanned = before
        for first_id, _, held, load in self._frames_before(before):
            if codes is None or frames.holds(held, codes):
                for record in reversed(frames.decode(load())):
                    if record.id < before and (sources is None or record.source in sources):
                        found.append(record)
                        scanned = record.id
                        if len(found) == limit:
                            return Page(found, scanned, [])
            scanned = first_id
            if time.monotonic() > deadline:
                break
        else:
            scanned = 0
        return Page(found, scanned, [])

    def _partitions(self) -> list[Partition]:
        paths = [path for path in self._folder.telemetry.glob("*.db") if path.stem.isdigit()]
        return sorted((Partition(path, int(path.stem)) for path in paths), key=lambda one: one.first_id)

    def _frames_after(self, after: int) -> Iterator[tuple[int, int, bytes, Callable[[], bytes]]]:
        """(first id, last id, source codes, load) of each frame that may hold ids above `after`, ascending."""
        # The list of partitions is taken first: one that is sealed meanwhile is then found among the segments.
        partitions = self._partitions()
        last_sealed = after
        for row in self._sealed("f.last_id > ? ORDER BY f.first_id", (after,)):
            last_sealed = row[1]
            yield row
        for index, partition in enumerate(partitions):
            following = partitions[index + 1].first_id if index + 1 < len(partitions) else None
            if following is not None and following <= last_sealed + 1:
                continue
            try:
                for frame in partition_frames(partition.path, "last_id > ?", (last_sealed,)):
                    last_sealed = frame.last_id
                    yield frame.first_id, frame.last_id, frame.sources, lambda data=frame.data: data  # type: ignore[misc]
            except StoreFault as error:
                if error.fault is not Fault.READ_ONLY:
                    raise
                # Sealed between the listing and the opening: its records are in a segment now.
                for row in self._sealed("f.last_id > ? ORDER BY f.first_id", (last_sealed,)):
                    last_sealed = row[1]
                    yield row

    def _frames_before(self, before: int) -> Iterator[tuple[int, int, bytes, Callable[[], bytes]]]:
        lowest = before
        for partition in reversed(self._partitions()):
            if partition.first_id >= before:
                continue
            try:
                with closing(connect_reader(partition.path)) as db:
                    index = db.execute(
                        "SELECT first_id, last_id, sources FROM frame WHERE first_id < ? ORDER BY first_id DESC",
                        (lowest,),
                    )
                    for first_id, last_id, held in index:
                        lowest = first_id
                        yield first_id, last_id, held, lambda db=db, first_id=first_id: _frame_data(db, first_id)  # type: ignore[misc]
            except (StoreFault, sqlite3.DatabaseError) as error:
                log.warning("%s: %s", partition.path.name, error)
        yield from self._sealed("f.first_id < ? ORDER BY f.first_id DESC", (lowest,))

    def _sealed(self, where: str, parameters: Sequence[int]) -> Iterator[tuple[int, int, bytes, Callable[[], bytes]]]:
        with closing(connect_reader(self._folder.site_db)) as db:
            rows = db.execute(
                "SELECT f.first_id, f.last_id, f.sources, f.offset, f.length, s.sha256 FROM segment_frame f"
                f" JOIN segment s ON s.first_id = f.segment_id WHERE s.dropped_ns IS NULL AND {where}",
                parameters,
            )
            for first_id, last_id, held, offset, length, sha256 in rows:
                yield first_id, last_id, held, lambda p=(sha256, offset, length): self._piece(*p)  # type: ignore[misc]

    def _piece(self, sha256: bytes, offset: int, length: int) -> bytes:
        path = segment_path(self._folder.segments, sha256)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error

    def _gaps(self, after: int, upto: int) -> list[Gap]:
        with closing(connect_reader(self._folder.site_db)) as db:
            rows = db.execute(
                "SELECT first_id, last_id FROM segment WHERE dropped_ns IS NOT NULL AND last_id > ? AND first_id <= ?",
                (after, upto),
            ).fetchall()
        return [Gap(first, last, "dropped to stay within the byte budget") for first, last in rows]


def _frame_data(db: sqlite3.Connection, first_id: int) -> bytes:
    row = db.execute("SELECT data FROM frame WHERE first_id=?", (first_id,)).fetchone()
    return bytes(row[0])
