"""What does any box stand on? Its data folder: who writes there, the journal with its one writer and its readers, the
clock. An appliance and a hub begin, run and end on it in the same way.

Rules of the file
  1  The folder is held by the caller before it is opened here.
  2  Whatever cannot be read of what this program wrote itself is a StoreFault: damaged, and said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator

import msgspec

from fleet import envelope, events
from fleet.envelope import Log
from store import journal, keys
from store.clock import WallClock
from store.database import Reader, Writer, connect, connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.folder import Folder, FolderProblem, bring_up

SET_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
_CLOCK_S = 1.0
APPLIANCE, HUB = "appliance", "hub"


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """What this box wrote itself, and cannot read any more, is a StoreFault."""
    try:
        yield
    except (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError, TypeError) as error:
        raise StoreFault(fault_of(error) or Fault.DAMAGED, name, str(error)) from error


class Ground:
    """Opened when made, with site.db at this program's revision; `close` ends it. `tenant` and `site` name the box at
    its first start, and `kind` says what it is; afterwards what stands in the folder holds.

    StoreFault, FolderProblem or KeyProblem when it cannot be opened.
    """

    def __init__(
        self,
        folder: Folder,
        tenant: str,
        site: str,
        on_turn: Callable[[StoreFault | None], None],
        kind: str = APPLIANCE,
    ) -> None:
        self.folder = folder
        with readable(folder.site_db.name):
            bring_up(folder.site_db)
            self._claim(kind)
            self.key = keys.load_or_create(folder.writer_key)
            self.public_key = keys.public_bytes(self.key)
            self.clock = WallClock(int(self._meta("clock_floor") or 0))
            self.clean = self._meta("clean") == "1"  # the last stop was orderly
            self.identity = self._identify(tenant, site)
            self.journal = journal.Journal(self.identity.log, self.key, self.clock)
            self.writer = Writer(folder.site_db, [self.journal], on_turn=on_turn)
        self.reader = Reader(folder.site_db)

    def _claim(self, kind: str) -> None:
        """A hub on an appliance's folder, or the other way round, would write its own log into the other's."""
        held = self._meta("box")
        if held is None:
            with contextlib.closing(connect(self.folder.site_db)) as db:
                db.execute(SET_META, ("box", kind))
        elif held != kind:
            whose = f"a{'n' * (held == APPLIANCE)} {held}"
            raise FolderProblem(f"{self.folder.root} is the data folder of {whose}; run: skerry {held} run --data DIR")

    def _meta(self, key: str) -> str | None:
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else None

    def _identify(self, tenant: str, site: str) -> journal.Identity:
        """Who writes here: read from the folder, or made at the first start."""
        with contextlib.closing(connect(self.folder.site_db)) as db:
            identity = journal.read_identity(db)
            if identity is None:
                log = Log(tenant, keys.new_ulid(self.clock.now_ns()), 1)
                identity = journal.Identity(log, site)
                db.execute("BEGIN IMMEDIATE")
                journal.write_identity(db, identity)
                journal.start_log(db, log, self.public_key, self.clock.now_ns())
                db.execute("COMMIT")
            if journal.public_key(db, identity.log) != self.public_key:
                raise keys.KeyProblem(
                    f"{self.folder.writer_key} is not the key that this folder's log is signed with;"
                    " restore it from a backup"
                )
        return identity

    def begin(self, version: str, *more: events.Body) -> None:
        """The first events of this run, on the disk."""
        fresh = self.journal.head == envelope.EMPTY
        writer = self.identity.log.writer

        def job(db: sqlite3.Connection) -> None:
            if fresh:
                self.journal.stage(writer, events.LogStarted("first", self.public_key))
            for body in (events.ApplianceStarted(version, self.clean or fresh), *more):
                self.journal.stage(writer, body)
            db.execute(SET_META, ("clean", "0"))

        self.writer.submit(job).result()

    def end(self, reason: str, *checkpoints: Callable[[sqlite3.Connection], None]) -> None:
        """The last event of this run; then what saves time at the next start."""

        def job(db: sqlite3.Connection) -> None:
            self.journal.stage(self.identity.log.writer, events.ApplianceStopped(reason))
            db.execute(SET_META, ("clean", "1"))
            db.execute(SET_META, ("clock_floor", str(self.clock.floor_ns)))

        self.writer.submit(job).result()
        for checkpoint in checkpoints:
            self.writer.submit(checkpoint).result()

    async def watch_clock(self) -> None:
        """For ever: a clock that jumps is told in the log, and its floor kept."""
        while True:
            await asyncio.sleep(_CLOCK_S)
            step_ns = self.clock.step_ns()
            if not step_ns:
                continue
            stepped, floor_ns = events.ClockStepped(step_ns, self.clock.confidence()), self.clock.floor_ns

            def job(db: sqlite3.Connection, stepped: events.ClockStepped = stepped, floor_ns: int = floor_ns) -> None:
                self.journal.stage(self.identity.log.writer, stepped)
                db.execute(SET_META, ("clock_floor", str(floor_ns)))

            with contextlib.suppress(StoreFault):
                await self.writer.write(job)

    async def close(self) -> None:
        await self.reader.close()
        self.writer.close()
