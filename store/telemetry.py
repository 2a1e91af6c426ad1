"""Raw telemetry: partitions being written, segments sealed, and one sequence of record ids through both.

Rules of the file
  1  Ids ascend without repeat for the life of the folder. What is missing was dropped by an event that says so.
  2  `append` returns after the commit that holds the records; before it nothing is acknowledged.
  3  A partition is one SQLite file with one writing connection, owned by the thread that appends.
  4  Sealing copies: the segment is on the disk, named by its SHA-256 and announced in the journal before the
     partition goes. A crash between the two leaves a partition that is already sealed; the keeper removes it.
  5  Rows of the table `segment` never overlap: an id stands in one of them, or still in a partition. A row without a
     SHA-256 names ids that were lost; `bytes_stored` 0 says that the disk was to blame.
  6  A file of charts (`store.series_file`) has a row there too, so that it travels and goes as segments do. It holds no
     records: its id is below zero, where no record's is, and rises with each.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fleet import events, limits
from store import frames, series_file
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
_LOOKS_MAX = 40  # at a partition that cannot be read, twice a second, before ids go on without it
_ID_END = 1 << 62


class Partition(NamedTuple):
    path: Path
    first_id: int


class Closed(NamedTuple):
    """A partition that nothing writes to any more, and the last id that may be in it (as far as partitions tell:
    one that followed may be sealed already, see `announced`)."""

    path: Path
    first_id: int
    last_id: int


class Telemetry:
    """Appends raw records. What is not marked otherwise belongs to the one appending thread."""

    def __init__(self, folder: Folder, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.next_id = 1
        self.paused = False  # set by any thread: refuse appends, as a full disk would
        self.rotation_wanted = False  # set by any thread: rotate at the next look
        self.unreadable: list[Path] = []  # partitions of an earlier run that `open` could not read
        self._folder = folder
        self._monotonic_ns = monotonic_ns
        self._db: sqlite3.Connection | None = None
        self._active: Partition | None = None
        self._unsure = False  # after a fault: what reached the disk must be looked up
        self._looks = 0  # in vain, since then
        self._opened_ns = 0
        self._active_bytes = 0
        self._lock = threading.Lock()  # what is active, and that nothing active is removed

    def open(self, sealed_up_to: int, known_up_to: int = 0) -> None:
        """Find the partitions of an earlier run. `sealed_up_to` is the last id in a segment, `known_up_to` the last
        one that any cursor has seen. Partitions that cannot be read stay where they are, for the keeper."""
        self.next_id = max(sealed_up_to, known_up_to) + 1
        unreadable = False
        for partition in self.partitions():
            try:
                _roll_back(partition.path)
                last, unreadable = _last_id(partition.path, check=True), False
            except StoreFault as fault:
                log.error("telemetry: %s cannot be read: %s", partition.path.name, fault.detail)
                last, unreadable = partition.first_id, True
                self.unreadable.append(partition.path)
            if last is None:
                _remove(partition.path)
            self.next_id = max(self.next_id, (last or 0) + 1, partition.first_id)
        if unreadable:
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
            for partition in found:
                if partition != active:
                    _roll_back(partition.path)
        ends = [partition.first_id - 1 for partition in found[1:]] + [next_id - 1]
        return [Closed(*one, end) for one, end in zip(found, ends, strict=False) if one != active]

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
        self.next_id, self._unsure, self._looks = max(next_id, last + 1), False, 0
        self._opened_ns, self._db, self.rotation_wanted = self._monotonic_ns(), db, False
        return db

    def _fell(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.DatabaseError as error:
                log.warning("telemetry: closing after a fault: %s", error)
        self._unsure = True  # and the partition stays active until it is settled: nothing else may take it for closed

    def _counted(self) -> int:
        """The next id by what is on the disk: a commit that was reported as failed may have reached it."""
        try:
            if self._active is not None and self._active.path.exists():
                _settle(self._active.path)
            last = max((_last_id(partition.path) or 0 for partition in self.partitions()[-1:]), default=0)
        except StoreFault as fault:
            if fault.fault is Fault.FULL:
                raise  # there is no room for a new partition either
            self._looks += 1
            if fault.fault is not Fault.DAMAGED and self._looks < _LOOKS_MAX:
                raise  # a disk that errs now may give it back in a moment; a jump leaves ids that nobody can account for
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
    return (
        error if isinstance(error, StoreFault) else StoreFault(fault_of(error) or Fault.DAMAGED, path.name, str(error))
    )


def _last_id(path: Path, *, check: bool = False) -> int | None:
    """The last id in a partition, None when it is empty. StoreFault when it cannot be read, or, when asked to
    `check`, is damaged anywhere in its structure."""
    with closing(connect_reader(path)) as db:
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone() if check else ("ok",)
            if verdict != ("ok",):
                raise StoreFault(Fault.DAMAGED, path.name, str(verdict[0]))
            if not _is_made(db):
                return None
            (last,) = db.execute("SELECT max(last_id) FROM frame").fetchone()
        except sqlite3.DatabaseError as error:
            raise _damage(error, path) from error
    return None if last is None else int(last)


def _is_made(db: sqlite3.Connection) -> bool:
    """False for a partition that is being made this moment, or whose making was cut off: nothing is in it."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name='frame'").fetchone() is not None


def _roll_back(path: Path) -> None:
    """Undo the making of a partition that was cut off, which no reader may. StoreFault when the disk refuses."""
    if not path.with_name(f"{path.name}-journal").exists():
        return
    try:
        with closing(sqlite3.connect(path)) as db:
            db.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError as error:
        raise _damage(error, path) from error


def _settle(path: Path) -> None:
    """Make an end of a commit that failed: it is in the file for good, or overwritten. StoreFault when the disk refuses.

    A commit whose sync failed is whole in the write-ahead log and only missing from its index. While a reader is
    there it stays unseen, and the ids it holds would be given again; once the index is rebuilt it is back.
    """
    with closing(connect(path)) as db:
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version={version + 1}")
        except sqlite3.DatabaseError as error:
            raise _damage(error, path) from error


def _remove(path: Path) -> None:
    # The log first: a stale one beside a new file of the same name would be taken for its own.
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def partition_frames(path: Path, after: int = 0) -> Generator[Frame, None, None]:
    """The frames of a partition with an id above `after`, ascending. StoreFault when they cannot be read."""
    with closing(connect_reader(path)) as db:
        try:
            if not _is_made(db):
                return
            for row in db.execute("SELECT * FROM frame WHERE last_id > ? ORDER BY first_id", (after,)):
                yield Frame(*row)
        except sqlite3.DatabaseError as error:
            raise _damage(error, path) from error


# -- sealing ----------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a frame stands in its segment: a row of `segment_frame`."""

    first_id: int
    last_id: int
    offset: int
    length: int
    records: int
    from_ns: int
    to_ns: int
    sources: bytes


class Sealed(NamedTuple):
    """A segment as its file says, with the place of each frame in it."""

    sha256: bytes
    first_id: int
    last_id: int
    records: int
    from_ns: int
    to_ns: int
    bytes_stored: int
    frames: tuple[_Place, ...]


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
    records = itertools.chain.from_iterable(_ascending(found))
    runs = itertools.groupby(enumerate(records), key=lambda numbered: numbered[1].id - numbered[0])
    return tuple(_write_segment((record for _, record in run), segments) for _, run in runs)


def _ascending(found: Iterable[Frame]) -> Iterator[list[Record]]:
    last_id = 0
    for frame in found:
        if frame.first_id <= last_id:  # a page that lies where another belongs
            raise StoreFault(Fault.DAMAGED, "telemetry", f"frame {frame.first_id} stands there twice")
        last_id = frame.last_id
        yield _records_of(frame)


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
                for row in db.execute(
                    f"SELECT first_id FROM frame WHERE last_id > ? ORDER BY first_id{order}", (after,)
                ):
                    found.add(row[0])
        except (StoreFault, sqlite3.DatabaseError) as error:
            log.warning("telemetry: %s: %s", path.name, error)
    for first_id in sorted(found):
        try:
            frame = _frame(path, first_id)
            _records_of(frame)
        except (StoreFault, sqlite3.DatabaseError) as error:
            log.warning("telemetry: %s: frame %d: %s", path.name, first_id, error)
        else:
            yield frame


def _frame(path: Path, first_id: int) -> Frame:
    with closing(connect_reader(path)) as db:
        row = db.execute("SELECT * FROM frame WHERE first_id=?", (first_id,)).fetchone()
    if row is None:
        raise StoreFault(Fault.DAMAGED, path.name, f"frame {first_id} is in one index and not in the other")
    return Frame(*row)


def _holes(sealed: Sequence[Sealed], first_id: int, last_id: int) -> Iterator[tuple[int, int]]:
    for segment in sealed:
        if segment.first_id > first_id:
            yield first_id, segment.first_id - 1
        first_id = segment.last_id + 1
    if first_id <= last_id:
        yield first_id, last_id


def _write_segment(records: Iterable[Record], segments: Path) -> Sealed:
    fresh = segments / "sealing.new"
    places: list[_Place] = []
    digest, offset = hashlib.sha256(), 0
    try:
        with fresh.open("wb") as file:
            for chunk in frames.chunks(records):
                frame = frames.encode(chunk, sealed=True)
                file.write(frame.data)
                digest.update(frame.data)
                places.append(_place(frame, offset))
                offset += len(frame.data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(segment_path(segments, digest.digest()))
        sync_folder(segments)
    except OSError as error:
        raise _fault(error, "segments") from error
    finally:
        fresh.unlink(missing_ok=True)
    return _sealed(digest.digest(), places)


def _place(frame: Frame, offset: int) -> _Place:
    return _Place(
        frame.first_id, frame.last_id, offset, len(frame.data), frame.records, frame.from_ns, frame.to_ns, frame.sources
    )


def _sealed(sha256: bytes, places: Sequence[_Place]) -> Sealed:
    return Sealed(
        sha256,
        places[0].first_id,
        places[-1].last_id,
        sum(place.records for place in places),
        min(place.from_ns for place in places),
        max(place.to_ns for place in places),
        sum(place.length for place in places),
        tuple(places),
    )


def segment_path(segments: Path, sha256: bytes) -> Path:
    return segments / f"{sha256.hex()}.jsonl.zst"


def inspect(path: Path) -> Sealed:
    """A segment as nothing but its file tells. StoreFault (damaged) when it is no segment."""
    places: list[_Place] = []
    digest, offset = hashlib.sha256(), 0
    try:
        for data in frames.split(path):
            places.append(_place(frames.describe(frames.decode(data), data), offset))
            digest.update(data)
            offset += len(data)
    except (OSError, ValueError, IndexError) as error:
        raise _damage(error, path) from error
    if not places:
        raise StoreFault(Fault.DAMAGED, path.name, "there is nothing in it")
    return _sealed(digest.digest(), places)


def intact(path: Path, sha256: bytes) -> bool:
    """Whether a file holds the bytes it is named by. False too when it is not there; StoreFault when the disk errs."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _fault(error, path.name) from error


# -- the table of segments (each inside the caller's transaction, beside the event that says so) ------------------


class Segment(NamedTuple):
    """A segment that is still here. `in_custody`: the hub holds it, by a receipt that both have signed."""

    first_id: int
    last_id: int
    sha256: bytes
    records: int
    from_ns: int
    to_ns: int
    bytes_stored: int
    in_custody: bool = False

    @property
    def is_series(self) -> bool:
        return self.records == 0

    @property
    def ids(self) -> tuple[int, int]:
        """As the log says them: 0 and 0 where there are no records."""
        return (0, 0) if self.is_series else (self.first_id, self.last_id)

    def dropped(self, reason: str) -> events.TelemetryDropped:
        what, times = "series" if self.is_series else "raw", (self.from_ns, self.to_ns)
        return events.TelemetryDropped(what, reason, *self.ids, self.records, self.bytes_stored, *times, self.sha256)


class Announced(NamedTuple):
    """Of a partition: `upto` which id its records are announced, `last_id` that it may hold, and whether some of those
    that are announced were lost."""

    upto: int
    last_id: int
    lost: bool


class LetGo(NamedTuple):
    """What left on purpose, since the beginning."""

    segments: int
    records: int
    bytes_freed: int


def enter(db: sqlite3.Connection, sealed: Sealed, now_ns: int) -> None:
    """Announce a segment. IntegrityError when it stands there already."""
    db.execute("INSERT INTO segment VALUES (?,?,?,?,?,?,?,?,NULL)", (*_row(sealed), now_ns))
    db.executemany(
        "INSERT INTO segment_frame VALUES (?,?,?,?,?,?,?,?,?)",
        [(place.first_id, place.last_id, sealed.first_id, *place[2:]) for place in sealed.frames],
    )


def _row(sealed: Sealed) -> tuple[int, int, bytes, int, int, int, int]:
    first_id, last_id, sha256 = sealed.first_id, sealed.last_id, sealed.sha256
    return first_id, last_id, sha256, sealed.records, sealed.from_ns, sealed.to_ns, sealed.bytes_stored


def enter_series(db: sqlite3.Connection, sealed: series_file.Sealed, now_ns: int) -> bool:
    """Announce a file of charts. False when it stands there already, here or gone."""
    if db.execute("SELECT 1 FROM segment WHERE sha256=?", (sealed.sha256,)).fetchone() is not None:
        return False
    (last,) = db.execute("SELECT coalesce(max(first_id), ?) FROM segment WHERE first_id < 0", (-_ID_END,)).fetchone()
    db.execute(
        "INSERT INTO segment VALUES (?,?,?,0,?,?,?,?,NULL)",
        (last + 1, last + 1, sealed.sha256, sealed.from_ns, sealed.to_ns, sealed.bytes_stored, now_ns),
    )
    return True


def enter_lost(db: sqlite3.Connection, first_id: int, last_id: int, now_ns: int) -> None:
    """Say that these ids were in a partition and cannot be read any more."""
    db.execute("INSERT INTO segment VALUES (?,?,x'',0,0,0,0,?,?)", (first_id, last_id, now_ns, now_ns))


def drop(db: sqlite3.Connection, first_id: int, now_ns: int, *, damaged: bool = False) -> bool:
    """Mark a segment as gone; its file may be removed after the commit. False when it was gone before."""
    stored = "0" if damaged else "bytes_stored"
    changed = db.execute(
        f"UPDATE segment SET dropped_ns=?, bytes_stored={stored} WHERE first_id=? AND dropped_ns IS NULL",
        (now_ns, first_id),
    ).rowcount
    db.execute("DELETE FROM segment_frame WHERE segment_id=?", (first_id,))
    return changed == 1


def announced(db: sqlite3.Connection, partition: Closed) -> Announced:
    """How much of a partition stands in the table. Rows count from its first id on, without a hole: what comes after
    one belongs to a later partition, which was sealed first."""
    upto, some_lost = partition.first_id - 1, False
    rows = db.execute(
        "SELECT first_id, last_id, sha256 = x'' FROM segment WHERE first_id BETWEEN ? AND ? ORDER BY first_id",
        (partition.first_id, partition.last_id),
    )
    for first_id, last_id, lost in rows:
        if first_id > upto + 1:
            return Announced(upto, first_id - 1, some_lost)
        upto, some_lost = last_id, some_lost or bool(lost)
    return Announced(upto, partition.last_id, some_lost)


def live(db: sqlite3.Connection) -> list[Segment]:
    """The segments that are here, oldest first."""
    columns = "first_id, last_id, sha256, records, from_ns, to_ns, bytes_stored"
    rows = db.execute(f"SELECT {columns} FROM segment WHERE dropped_ns IS NULL ORDER BY first_id")
    return [Segment(*row) for row in rows]


def strays(db: sqlite3.Connection, folder: Folder) -> list[Path]:
    """Files of segments that stand in no table: a crash left them between two steps, or site.db was set back."""
    here = {segment.sha256.hex() for segment in live(db)}
    return [path for path in sorted(folder.segments.glob("*.jsonl.zst")) if path.name.partition(".")[0] not in here]


def last_stray_id(db: sqlite3.Connection, folder: Folder) -> int:
    """The last id that a stray holds, 0 without any: an id that stands there must not be given again."""
    last = 0
    for path in strays(db, folder):
        with suppress(StoreFault, OSError):  # what cannot be read is for the keeper
            last = max(last, 0 if series_file.is_one(path) else inspect(path).last_id)
    return last


def let_go(db: sqlite3.Connection) -> LetGo:
    return LetGo(
        *db.execute(
            "SELECT count(*), coalesce(sum(records), 0), coalesce(sum(bytes_stored), 0) FROM segment"
            " WHERE dropped_ns IS NOT NULL AND bytes_stored > 0"
        ).fetchone()
    )


def was_let_go(db: sqlite3.Connection, sha256: bytes) -> bool:
    return (
        db.execute("SELECT 1 FROM segment WHERE sha256=? AND dropped_ns IS NOT NULL", (sha256,)).fetchone() is not None
    )


def holds_any(db: sqlite3.Connection, first_id: int, last_id: int) -> bool:
    """Whether one of these ids stands in the table, here or gone."""
    rows = db.execute("SELECT 1 FROM segment WHERE first_id <= ? AND last_id >= ?", (last_id, first_id))
    return rows.fetchone() is not None


# -- reading ----------------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """Ids that are no longer here, and why."""

    first_id: int
    last_id: int
    reason: str


class Page(NamedTuple):
    """Records in order of id, and the id up to which everything was looked at (`after` of the next call)."""

    records: list[Record]
    scanned: int
    gaps: list[Gap]


_Load = Callable[[], bytes | None]
_Found = tuple[int, int, bytes, _Load]  # first id, last id, source codes, and how to get the frame (None: just dropped)

_LET_GO = "let go: past its retention or over the byte budget"
_LOST = "damaged on the disk"


class History:
    """Reads raw records from partitions and segments alike. Blocking; call it off the event loop. Safe across threads:
    each call opens what it reads.

    A record is found whatever happens beside the reader: a partition is listed before the table of segments is asked,
    and goes only after its segments stand there.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def after(self, after: int, limit: int, sources: frozenset[str] | None = None, seconds: float = 1.0) -> Page:
        """Up to `limit` records with an id above `after`, and about `limits.telemetry_page_bytes_max`, oldest first, within
        about `seconds`. StoreFault when something cannot be read."""
        size, gone = 0, self._gaps(after, _ID_END)
        found: list[Record] = []
        deadline = time.monotonic() + seconds
        codes = frozenset(map(frames.source_code, sources)) if sources is not None else None
        scanned = after
        for _, last_id, held, load in self._frames_after(after):
            data = load() if codes is None or frames.holds(held, codes) else None
            for record in frames.decode(data, sources) if data is not None else ():
                if record.id > scanned:
                    if len(found) == limit or size >= limits.telemetry_page_bytes_max:
                        return Page(found, scanned, self._gaps(after, scanned))
                    found.append(record)
                    size += len(record.raw or record.raw_b64 or b"")
                    scanned = record.id
            scanned = max(scanned, last_id)
            if time.monotonic() > deadline:
                break
        else:  # nothing is left above `scanned`; what was gone before we looked is no reason to wait
            scanned = max(scanned, gone[-1].last_id if gone else 0)
        return Page(found, scanned, self._gaps(after, scanned))

    def before(self, before: int, limit: int, sources: frozenset[str] | None = None, seconds: float = 0.05) -> Page:
        """Up to `limit` records with an id below `before`, newest first; `scanned` is the `before` of the next call,
        0 at the end."""
        found: list[Record] = []
        deadline = time.monotonic() + seconds
        codes = frozenset(map(frames.source_code, sources)) if sources is not None else None
        scanned = before
        for first_id, _, held, load in self._frames_before(before):
            data = load() if codes is None or frames.holds(held, codes) else None
            for record in reversed(frames.decode(data, sources)) if data is not None else ():
                if record.id < scanned:
                    found.append(record)
                    scanned = record.id
                    if len(found) == limit:
                        return Page(found, scanned, self._gaps(scanned, before - 1))
            scanned = min(scanned, first_id)
            if time.monotonic() > deadline:
                break
        else:
            scanned = 0
        return Page(found, scanned, self._gaps(scanned, before - 1))

    def _frames_after(self, after: int) -> Iterator[_Found]:
        """Every frame that may hold ids above `after`, ascending."""
        position = after
        partitions = _partitions(self._folder)
        starts = [partition.first_id for partition in partitions[1:]] + [_ID_END]
        for partition, following in zip(partitions, starts, strict=False):
            for row in self._sealed_after(position, partition.first_id):
                position = row[1]
                yield row
            if following <= position + 1:
                continue
            try:
                for frame in partition_frames(partition.path, position):
                    position = frame.last_id
                    yield frame.first_id, frame.last_id, frame.sources, lambda data=frame.data: data  # type: ignore[misc]
            except StoreFault as fault:
                if partition.path.exists():
                    raise
                log.debug("%s was sealed meanwhile: %s", partition.path.name, fault.detail)
        yield from self._sealed_after(position, _ID_END)

    def _frames_before(self, before: int) -> Iterator[_Found]:
        """Every frame that may hold ids below `before`, descending."""
        lowest = before
        for partition in reversed(_partitions(self._folder)):
            if partition.first_id >= before:
                continue
            try:
                with closing(connect_reader(partition.path)) as db:
                    rows = _frames_down(db, lowest) if _is_made(db) else []
                    for row in self._sealed_before(lowest, rows[0][1] if rows else partition.first_id - 1):
                        lowest = row[0]
                        yield row
                    while rows:
                        for first_id, last_id, held in rows:
                            if first_id < lowest:
                                lowest = first_id
                                yield first_id, last_id, held, partial(_frame_data, db, first_id)
                        rows = _frames_down(db, rows[-1][0])
            except (StoreFault, sqlite3.DatabaseError) as error:  # sealed meanwhile, or damaged: the keeper will say
                log.warning("%s: %s", partition.path.name, error)
        yield from self._sealed_before(lowest, 0)

    def _sealed_after(self, position: int, end: int) -> Iterator[_Found]:
        yield from self._sealed(
            "f.last_id > :low AND f.first_id < :high"
            " AND f.first_id >= coalesce((SELECT max(first_id) FROM segment_frame WHERE first_id <= :low), 0)"
            " ORDER BY f.first_id",
            {"low": position, "high": end},
        )

    def _sealed_before(self, lowest: int, floor: int) -> Iterator[_Found]:
        where = "f.first_id > :low AND f.first_id < :high ORDER BY f.first_id DESC"
        yield from self._sealed(where, {"low": floor, "high": lowest})

    def _sealed(self, where: str, parameters: dict[str, int]) -> Iterator[_Found]:
        with closing(connect_reader(self._folder.site_db)) as db:
            rows = db.execute(
                "SELECT f.first_id, f.last_id, f.sources, f.offset, f.length, s.sha256 FROM segment_frame f"
                f" JOIN segment s ON s.first_id = f.segment_id WHERE {where}",
                parameters,
            )
            for first_id, last_id, held, offset, length, sha256 in rows:
                yield first_id, last_id, held, lambda p=(sha256, offset, length): self._piece(*p)  # type: ignore[misc]

    def _piece(self, sha256: bytes, offset: int, length: int) -> bytes | None:
        path = segment_path(self._folder.segments, sha256)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError as error:
            with closing(connect_reader(self._folder.site_db)) as db:
                here = db.execute("SELECT 1 FROM segment WHERE sha256=? AND dropped_ns IS NULL", (sha256,)).fetchone()
            if here:
                raise StoreFault(Fault.DAMAGED, path.name, "the segment's file is gone") from error
            return None
        except OSError as error:
            raise _fault(error, path.name) from error

    def _gaps(self, after: int, upto: int) -> list[Gap]:
        """What is gone of the ids above `after` and up to `upto`, ascending."""
        with closing(connect_reader(self._folder.site_db)) as db:
            rows = db.execute(
                "SELECT first_id, last_id, bytes_stored FROM segment WHERE dropped_ns IS NOT NULL AND last_id > :after"
                " AND first_id <= :upto AND first_id >= coalesce((SELECT max(first_id) FROM segment"
                " WHERE first_id <= :after), 0) ORDER BY first_id",
                {"after": after, "upto": upto},
            ).fetchall()
        gaps: list[Gap] = []
        for first_id, last_id, stored in rows:
            reason = _LET_GO if stored else _LOST
            if gaps and gaps[-1].last_id + 1 == first_id and gaps[-1].reason == reason:
                first_id = gaps.pop().first_id
            gaps.append(Gap(first_id, last_id, reason))
        return gaps


def _frames_down(db: sqlite3.Connection, before: int) -> list[tuple[int, int, bytes]]:
    """The next few frames below an id: an hour's partition has thousands, and most readers want the last few."""
    sql = "SELECT first_id, last_id, sources FROM frame WHERE first_id < ? ORDER BY first_id DESC LIMIT 64"
    return db.execute(sql, (before,)).fetchall()


def _frame_data(db: sqlite3.Connection, first_id: int) -> bytes:
    row = db.execute("SELECT data FROM frame WHERE first_id=?", (first_id,)).fetchone()
    return bytes(row[0])
