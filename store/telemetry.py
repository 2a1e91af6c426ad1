"""Raw telemetry: partitions being written, segments sealed, and one sequence of record ids through both.

Rules of the file
  1  Ids ascend without repeat for the life of the folder. What is missing was dropped by an event that says so.
  2  `append` returns after the commit that holds the records; before it nothing is acknowledged.
  3  A partition is one SQLite file with one writing connection, owned by the thread that appends.
  4  Sealing copies: the segment is on the disk, named by its SHA-256 and announced in the journal before the
     partition goes. A crash between the two leaves a partition that is already sealed; the keeper removes it.
  5  Rows of the table `segment` never overlap: an id stands in one of them, or still in a partition. A row without a
     SHA-256 names ids that were lost; `bytes_stored` 0 says that the disk was to blame.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import mmap
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from backports import zstd

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
_ID_END = 1 << 62


class Partition(NamedTuple):
    path: Path
    first_id: int


class Closed(NamedTuple):
    """A partition that nothing writes to any more, and the last id that may be in it."""

    path: Path
    first_id: int
    last_id: int


class Telemetry:
    """Appends raw records. What is not marked otherwise belongs to the one appending thread."""

    def __init__(self, folder: Folder, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.next_id = 1
        self.paused = False  # set by any thread: refuse appends, as a full disk would
        self.rotation_wanted = False  # set by any thread: rotate at the next look
        self._folder = folder
        self._monotonic_ns = monotonic_ns
        self._db: sqlite3.Connection | None = None
        self._active: Partition | None = None
        self._unsure = False  # after a fault: what reached the disk must be looked up
        self._opened_ns = 0
        self._active_bytes = 0
        self._lock = threading.Lock()  # what is active, and that nothing active is removed

    def open(self, sealed_up_to: int, known_up_to: int = 0) -> None:
        """Find the partitions of an earlier run. `sealed_up_to` is the last id in a segment, `known_up_to` the last
        one that any cursor has seen. Partitions that cannot be read stay where they are, for the keeper."""
        self.next_id = max(sealed_up_to, known_up_to) + 1
        for partition in self.partitions():
            unreadable = False
            try:
                last = _last_id(partition.path, check=True)
            except StoreFault as fault:
                log.error("telemetry: %s cannot be read: %s", partition.path.name, fault.detail)
                last, unreadable = partition.first_id, True
            if last is None:
                _remove(partition.path)
            else:
                self.next_id = max(self.next_id, last + 1)
        if unreadable if self.partitions() else False:
            self.next_id += _ID_JUMP

    def partitions(self) -> list[Partition]:
        """Files with open records, oldest first. For any thread."""
        return _partitions(self._folder)

    def closed_partitions(self) -> list[Closed]:
        """Partitions that nothing writes to any more: ready to be sealed. For any thread."""
        next_id = self.next_id
        found = self.partitions()
        with self._lock:  # after the list: a file that was on it and is not active now was closed in between
            active = self._active
        ends = [partition.first_id - 1 for partition in found[1:]] + [next_id - 1]
        return [Closed(*one, end) for one, end in zip(found, ends, strict=True) if one != active]

    def append(self, offers: Sequence[Offer]) -> list[Record]:
        """Commit `offers` in one transaction and return them with their ids. StoreFault when the disk refuses."""
        if self.paused:
            raise StoreFault(Fault.FULL, "telemetry", "the reserve is in use; raw records wait until there is space")
        try:
            db = self._writable()
            records = frames.records_of(self.next_id, offers)
            rows = [frames.encode(chunk) for chunk in frames.chunks(records, len(records))]
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO frame VALUES (?,?,?,?,?,?,?)", rows)
            db.execute("COMMIT")
        except (StoreFault, sqlite3.DatabaseError, OSError) as error:
            self._fell()
            raise _fault(error, "telemetry") from error
        self.next_id = records[-1].id + 1
        self._active_bytes += sum(len(row.data) for row in rows)
        return records

    def rotate_if_due(self) -> bool:
        """Close the active partition when it is old or large enough, or somebody wants it; the next append opens a
        new one. StoreFault when the disk does not let it; the partition is closed then, too."""
        old = self._monotonic_ns() - self._opened_ns >= limits.partition_ns_max
        due = old or self._active_bytes >= limits.partition_bytes_max or self.rotation_wanted
        if self._db is None or not due:
            return False
        self.rotate()
        return True

    def rotate(self) -> None:
        self.rotation_wanted = False
        try:
            if self._db is not None:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._db.close()
        except sqlite3.DatabaseError as error:
            self._fell()
            raise _fault(error, "telemetry") from error
        self._db = None
        with self._lock:
            self._active = None

    def close(self) -> None:
        try:
            self.rotate()
        except StoreFault as fault:
            log.warning("telemetry: the last checkpoint failed: %s", fault.detail)

    def discard(self, partition: Closed, upto: int) -> bool:
        """Remove a partition whose records up to `upto` are announced. False, and nothing removed, when it holds more
        or is in use again. For any thread."""
        with self._lock:
            if self._is_active(partition) or (_last_id(partition.path) or 0) > upto:
                return False
            _remove(partition.path)
        return True

    def set_aside(self, partition: Closed) -> bool:
        """Keep a damaged partition's file in `damaged/`, out of the way. False when it is in use. For any thread."""
        with self._lock:
            if self._is_active(partition):
                return False
            for suffix in ("-wal", "-shm", ""):
                path = partition.path.with_name(partition.path.name + suffix)
                if path.exists():
                    path.rename(self._folder.damaged / path.name)
            sync_folder(self._folder.damaged)
        return True

    def _is_active(self, partition: Closed) -> bool:
        return self._active is not None and self._active.path == partition.path

    def _writable(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        # Every start, and every fault, goes on in a new file: what an old one holds is never written to again.
        next_id = self._counted() if self._unsure else self.next_id
        partition = Partition(self._folder.telemetry / f"{next_id:016d}.db", next_id)
        with self._lock:  # before the file is there: what is active is never taken for closed
            self._active = partition
        db = connect(partition.path)
        try:
            db.execute(_TABLE)
            (last,) = db.execute("SELECT coalesce(max(last_id), 0) FROM frame").fetchone()
            self._active_bytes = partition.path.stat().st_size
        except (sqlite3.DatabaseError, OSError):
            db.close()
            raise
        self.next_id, self._unsure = max(next_id, last + 1), False
        self._opened_ns, self._db, self.rotation_wanted = self._monotonic_ns(), db, False
        return db

    def _fell(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.DatabaseError as error:
                log.warning("telemetry: closing after a fault: %s", error)
        self._unsure = True
        with self._lock:
            self._active = None

    def _counted(self) -> int:
        """The next id by what is on the disk: a commit that was reported as failed may have reached it."""
        try:
            last = max((_last_id(partition.path) or 0 for partition in self.partitions()[-1:]), default=0)
        except StoreFault as fault:
            log.error("telemetry: ids go on with a jump: %s", fault.detail)
            return self.next_id + _ID_JUMP
        return max(self.next_id, last + 1)


def _partitions(folder: Folder) -> list[Partition]:
    paths = [path for path in folder.telemetry.glob("*.db") if path.stem.isdigit()]
    return sorted((Partition(path, int(path.stem)) for path in paths), key=lambda one: one.first_id)


def _fault(error: Exception, store: str) -> StoreFault:
    return error if isinstance(error, StoreFault) else StoreFault(fault_of(error) or Fault.IO, store, str(error))


def _damage(error: Exception, path: Path) -> StoreFault:
    """As `_fault`; but what is no fault of the disk is one of the file's content."""
    return error if isinstance(error, StoreFault) else StoreFault(fault_of(error) or Fault.DAMAGED, path.name, str(error))


def _last_id(path: Path, *, check: bool = False) -> int | None:
    """The last id in a partition, None when it is empty. StoreFault when it cannot be read, or, when asked to
    `check`, is damaged anywhere in its structure."""
    with closing(connect_reader(path)) as db:
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone() if check else ("ok",)
            if verdict != ("ok",):
                raise StoreFault(Fault.DAMAGED, path.name, str(verdict[0]))
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='frame'").fetchone():
                return None
            (last,) = db.execute("SELECT max(last_id) FROM frame").fetchone()
        except sqlite3.DatabaseError as error:
            raise _damage(error, path) from error
    return None if last is None else int(last)


def _remove(path: Path) -> None:
    # The log first: a stale one beside a new file of the same name would be taken for its own.
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def partition_frames(path: Path, after: int = 0) -> Iterator[Frame]:
    """The frames of a partition with an id above `after`, ascending. StoreFault when they cannot be read."""
    with closing(connect_reader(path)) as db:
        try:
            for row in db.execute("SELECT * FROM frame WHERE last_id > ? ORDER BY first_id", (after,)):
                yield Frame(*row)
        except sqlite3.DatabaseError as error:
            raise _damage(error, path) from error


# -- sealing ----------------------------------------------------------------------------------------------------


class Sealed(NamedTuple):
    """A segment as its file says, with the place of each frame in it."""

    sha256: bytes
    first_id: int
    last_id: int
    records: int
    from_ns: int
    to_ns: int
    bytes_stored: int
    frames: tuple[tuple[int, int, int, int, int, int, int, bytes], ...]  # rows of segment_frame without the segment


class Sealing(NamedTuple):
    """What came of one partition: a segment per unbroken run of ids, and the ranges of ids that were not there."""

    sealed: tuple[Sealed, ...]
    lost: tuple[tuple[int, int], ...]
    reason: str  # why they were not there


def seal(partition: Closed, segments: Path, after: int | None = None) -> Sealing:
    """Write a partition's records (those above `after`) into `segments` as immutable files, and say what is missing.

    Small frames are joined into larger ones, which compress several times better. The files are durable, under their
    final names, when this returns; the partition is untouched. A damaged partition gives what can still be read.
    """
    after = partition.first_id - 1 if after is None else after
    reason = "records are missing"
    try:
        sealed = _write_runs(partition_frames(partition.path, after), segments)
    except StoreFault as fault:
        if fault.fault is not Fault.DAMAGED:
            raise
        reason = fault.detail
        sealed = _write_runs(_readable_frames(partition.path, after), segments)
    return Sealing(sealed, tuple(_holes(sealed, after + 1, partition.last_id)), reason)


def _write_runs(found: Iterable[Frame], segments: Path) -> tuple[Sealed, ...]:
    records = itertools.chain.from_iterable(map(_records_of, found))
    runs = itertools.groupby(enumerate(records), key=lambda numbered: numbered[1].id - numbered[0])
    return tuple(_write_segment((record for _, record in run), segments) for _, run in runs)


def _records_of(frame: Frame) -> list[Record]:
    records = frames.decode(frame.data)
    if not records or (records[0].id, records[-1].id) != (frame.first_id, frame.last_id):
        raise StoreFault(Fault.DAMAGED, "telemetry", f"frame {frame.first_id} does not hold what it should")
    return records


def _readable_frames(path: Path, after: int) -> Iterator[Frame]:
    """Every frame that can still be read: looked for from both ends, so that one bad page costs what stands on it."""
    found: set[int] = set()
    for order in ("", " DESC"):
        try:
            with closing(connect_reader(path)) as db:
                for row in db.execute(f"SELECT first_id FROM frame WHERE last_id > ? ORDER BY first_id{order}", (after,)):
                    found.add(row[0])
        except (StoreFault, sqlite3.DatabaseError) as error:
            log.warning("telemetry: %s: %s", path.name, error)
    for first_id in sorted(found):
        try:
            with closing(connect_reader(path)) as db:
                frame = Frame(*db.execute("SELECT * FROM frame WHERE first_id=?", (first_id,)).fetchone())
            _records_of(frame)
        except (StoreFault, sqlite3.DatabaseError, TypeError) as error:
            log.warning("telemetry: %s: frame %d: %s", path.name, first_id, error)
        else:
            yield frame


def _holes(sealed: Sequence[Sealed], first_id: int, last_id: int) -> Iterator[tuple[int, int]]:
    for segment in sealed:
        if segment.first_id > first_id:
            yield first_id, segment.first_id - 1
        first_id = segment.last_id + 1
    if first_id <= last_id:
        yield first_id, last_id


def _write_segment(records: Iterable[Record], segments: Path) -> Sealed:
    fresh = segments / "sealing.new"
    found: list[Frame] = []
    digest = hashlib.sha256()
    try:
        with fresh.open("wb") as file:
            for chunk in frames.chunks(records):
                frame = frames.encode(chunk, sealed=True)
                file.write(frame.data)
                digest.update(frame.data)
                found.append(frame)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(segment_path(segments, digest.digest()))
        sync_folder(segments)
    except OSError as error:
        raise _fault(error, "segments") from error
    finally:
        fresh.unlink(missing_ok=True)
    return _sealed(digest.digest(), found)


def _sealed(sha256: bytes, found: Sequence[Frame]) -> Sealed:
    rows, offset = [], 0
    for frame in found:
        rows.append((*frame[:2], offset, len(frame.data), *frame[2:6]))
        offset += len(frame.data)
    first, last = found[0].first_id, found[-1].last_id
    times = min(frame.from_ns for frame in found), max(frame.to_ns for frame in found)
    return Sealed(sha256, first, last, sum(frame.records for frame in found), *times, offset, tuple(rows))


def segment_path(segments: Path, sha256: bytes) -> Path:
    return segments / f"{sha256.hex()}.jsonl.zst"


def inspect(path: Path) -> Sealed:
    """A segment as nothing but its file tells. StoreFault (damaged) when it is no segment."""
    found: list[Frame] = []
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            digest, offset = hashlib.sha256(content).digest(), 0
            while offset < len(content):
                with memoryview(content) as view, view[offset:] as rest:
                    data = bytes(rest[: zstd.get_frame_size(rest)])
                found.append(frames.describe(frames.decode(data), data)._replace(data=b""))
                rows_bytes = len(data)
                offset += rows_bytes
    except (OSError, ValueError, IndexError, zstd.ZstdError) as error:
        raise _damage(error, path) from error
    return _sealed(digest, found)


def intact(path: Path, sha256: bytes) -> bool:
    """Whether a file holds the bytes it is named by. False too when it is not there; StoreFault when the disk errs."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _fault(error, path.name) from error


