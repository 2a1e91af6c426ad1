"""SQLite, opened one way. One file, one writing connection, which alone checkpoints; readers are read-only and short.

The rule is not taste: SQLite before 3.51.3 can corrupt a write-ahead log when one connection commits while another
resets it, and Python 3.11 ships an older one. With a single connection that both commits and checkpoints the race
cannot happen.

`Writer` is that connection: a thread that takes whole jobs, runs as many as are waiting in one transaction (group
commit) and only then tells the callers. A caller may be cancelled freely: the transaction does not notice.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fleet import limits
from store.faults import Fault, StoreFault, fault_of

log = logging.getLogger(__name__)
T = TypeVar("T")

_PRAGMAS: dict[str, str | int] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: a commit is on the disk before anybody hears of it
    "foreign_keys": 1,
    "wal_autocheckpoint": 4000,  # pages: 16 MiB; a page that is written often is copied once, not four times
    "journal_size_limit": 32 * 1024 * 1024,
    "temp_store": 2,
    "cache_size": -8192,  # KiB: a batch's pages stay in memory until its commit
}
_JOBS_MAX = 1024  # a transaction's size; what waits beyond it goes into the next one
_REOPEN_SECONDS = 0.5


def connect(path: Path) -> sqlite3.Connection:
    """The one writing connection of a file. StoreFault when it cannot be had, or its pragmas do not take."""
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        for pragma, wanted in _PRAGMAS.items():
            db.execute(f"PRAGMA {pragma}={wanted}")
            (found,) = db.execute(f"PRAGMA {pragma}").fetchone()
            if found != wanted:
                raise StoreFault(Fault.IO, path.name, f"PRAGMA {pragma} is {found}, not {wanted}")
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read, cannot checkpoint, and gives a query `limits.query_seconds_max`."""
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA query_only=1")
        return db
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Whole or not at all, on a connection that only this thread has."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.DatabaseError):
            db.execute("ROLLBACK")
        raise


class Participant(Protocol):
    """Something that keeps state beside the file and must follow each transaction: the journal."""

    def opened(self, db: sqlite3.Connection) -> None:
        """The file was opened (again): load what the state starts from."""

    def mark(self) -> Any:
        """A place to come back to when one job fails."""

    def undo(self, mark: Any) -> None:
        """Forget what was staged since `mark`."""

    def seal(self, db: sqlite3.Connection) -> None:
        """Write what the jobs staged, as the last step before COMMIT."""

    def committed(self) -> None:
        """The transaction is on the disk."""

    def rolled_back(self) -> None:
        """Nothing of it is."""


class Writer:
    """The writing thread of one file.

    `submit` never blocks. Its future ends with the job's result once the transaction is durable, with the job's own
    exception when the job refused (the other jobs of that transaction stand), or with StoreFault when the disk did.
    After a fault every submission fails at once; the file is opened anew every half second until it can be used.
    """

    def __init__(
        self,
        path: Path,
        participants: Sequence[Participant] = (),
        *,
        on_turn: Callable[[StoreFault | None], None] | None = None,
    ) -> None:
        self.path = path
        self.fault: StoreFault | None = None
        self.commits = 0
        self._participants = participants
        self._on_turn = on_turn
        self._waiting: deque[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._db: sqlite3.Connection | None = None
        self._open()
        self._thread = threading.Thread(target=self._run, name=f"writer {path.name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, job: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                raise RuntimeError(f"{self.path.name} is closed")
            if self.fault is not None:
                future.set_exception(self.fault)
                return future
            self._waiting.append((job, future))
            self._wake.notify()
        return future

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """`submit` for coroutines. Cancelling the caller does not cancel the write."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(job)))

    def close(self) -> None:
        """Finish what waits, checkpoint, close."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _open(self) -> None:
        db = connect(self.path)
        try:
            for participant in self._participants:
                participant.opened(db)
        except BaseException:
            db.close()
            raise
        self._db = db

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing and self.fault is None:
                    self._wake.wait()
                if self.fault is not None and not self._closing:
                    self._wake.wait(_REOPEN_SECONDS)
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _JOBS_MAX))]
                closing = self._closing and not batch
            if closing:
                break
            if self.fault is not None:
                self._reopen()
            if batch and self._db is not None:
                try:
                    self._transact(self._db, batch)
                except Exception as error:  # a participant's bug must not end the thread that everybody waits for
                    log.exception("%s: a transaction failed by a fault of ours", self.path.name)
                    self._fell(error)
                    assert self.fault is not None
                    _fail([future for _, future in batch], self.fault)
            elif batch and self.fault is not None:
                _fail([future for _, future in batch], self.fault)
        if self._db is not None:
            try:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.DatabaseError as error:
                log.warning("%s: the last checkpoint failed: %s", self.path.name, error)
            self._db.close()

    def _transact(
        self,
        db: sqlite3.Connection,
        batch: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]],
    ) -> None:
        done: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for job, future in batch:
                done.append((future, *self._attempt(db, job)))
            for participant in self._participants:
                participant.seal(db)
            db.execute("COMMIT")
        except (sqlite3.DatabaseError, OSError) as error:
            self._fell(error)
            assert self.fault is not None
            _fail([future for _, future in batch], self.fault)
            return
        self.commits += 1
        for participant in self._participants:
            participant.committed()
        for future, result, refusal in done:
            _settle(future, result, refusal)

    def _attempt(
        self, db: sqlite3.Connection, job: Callable[[sqlite3.Connection], T]
    ) -> tuple[T | None, Exception | None]:
        """One job in its own savepoint: what it refuses is undone, what the disk refuses ends the whole transaction."""
        marks = [participant.mark() for participant in self._participants]
        db.execute("SAVEPOINT job")
        try:
            result = job(db)
        except Exception as error:
            if fault_of(error) is not None:
                raise
            db.execute("ROLLBACK TO job")
            for participant, mark in zip(self._participants, marks, strict=True):
                participant.undo(mark)
            return None, error
        finally:
            if db.in_transaction:
                db.execute("RELEASE job")
        return result, None

    def _fell(self, error: Exception) -> None:
        fault = StoreFault(fault_of(error) or Fault.IO, self.path.name, str(error))
        log.error("%s (%s)", fault, error)
        db, self._db = self._db, None
        if db is not None:
            try:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                db.close()
            except sqlite3.DatabaseError as closing:
                log.warning("%s: closing after a fault: %s", self.path.name, closing)
        for participant in self._participants:
            participant.rolled_back()
        with self._wake:
            self.fault = fault
            waiting = [future for _, future in self._waiting]
            self._waiting.clear()
        _fail(waiting, fault)
        if self._on_turn:
            self._on_turn(fault)

    def _reopen(self) -> None:
        try:
            self._open()
            assert self._db is not None
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("PRAGMA user_version=0")  # a real write: opening alone proves nothing
            self._db.execute("COMMIT")
        except (StoreFault, sqlite3.DatabaseError, OSError) as error:
            db, self._db = self._db, None
            if db is not None:
                db.close()
            log.debug("%s is still not usable: %s", self.path.name, error)
            return
        with self._wake:
            self.fault = None
        if self._on_turn:
            self._on_turn(None)


def _settle(future: Future[Any], result: Any, refusal: Exception | None) -> None:
    try:
        if refusal is not None:
            future.set_exception(refusal)
        else:
            future.set_result(result)
    except InvalidStateError:  # the caller went away; the write stands
        pass


def _fail(futures: list[Future[Any]], fault: StoreFault) -> None:
    for future in futures:
        _settle(future, None, fault)


class Reader:
    """Reading connections of one file for coroutines: a small pool, each query under a deadline."""

    def __init__(self, path: Path, connections: int = 2) -> None:
        self.path = path
        self._free: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        self._unopened = connections
        self._opened: list[Any] = []

    async def fetch(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows. StoreFault when the file cannot be read; TimeoutError after `limits.query_seconds_max`."""
        async with self._connection() as db:
            deadline = time.monotonic() + limits.query_seconds_max
            await db.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            try:
                rows: list[tuple[Any, ...]] = await db.execute_fetchall(sql, parameters)
                return rows
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    raise TimeoutError(
                        f"{self.path.name}: the query took over {limits.query_seconds_max:.0f} s"
                    ) from error
                raise StoreFault(fault_of(error) or Fault.IO, self.path.name, str(error)) from error
            except sqlite3.DatabaseError as error:
                raise StoreFault(fault_of(error) or Fault.IO, self.path.name, str(error)) from error

    async def close(self) -> None:
        """End every connection, one that is in use too: each has a thread that would keep the process alive."""
        for connection in self._opened:
            await connection.close()
        self._opened.clear()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._unopened and self._free.empty():
            self._unopened -= 1
            db = await self._open()
        else:
            db = await self._free.get()
        try:
            yield db
        finally:
            self._free.put_nowait(db)

    async def _open(self) -> Any:
        import aiosqlite

        connection = aiosqlite.Connection(lambda: connect_reader(self.path), 64)
        try:
            await connection
        except BaseException:  # a caller that went away meanwhile must not leave the connection's thread behind
            self._unopened += 1
            connection.stop()
            raise
        self._opened.append(connection)
        return connection
