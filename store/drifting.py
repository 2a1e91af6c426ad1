"""Who keeps the board of drift (`fleet.board`) in step with what is written and told, and off the way of everything else?

Rules of the file
  1  The board is worked on by one thread at a time, never by the event loop; pages read `latest`, which is replaced as a
     whole, or `ask`. What people said of what needs them, and which documents are open, may be read from it at any time:
     one entry, or a copy.
  2  What was written is heard of after its commit, as an event of the journal, and read then. So an edit, a merge and a
     replay all come in by one door.
  3  It goes on in slices: a start with a hundred thousand documents keeps nobody waiting. What was written since goes
     before them, `latest` says how many are not read yet, and who asks waits `WAIT_S` at most.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Generic, TypeVar

from fleet.authority import Judged
from fleet.board import Board, Own, Seen
from fleet.document import Id, Kind
from fleet.events import AuthorityBegan, DocumentChanged, Recorded, VersionChanged
from store import document, journal
from store.database import connect_reader
from store.shared import told

SLICE_DOCUMENTS = 1_000  # read in one go, about 0.15 s
SLICE_NODES = 5_000  # judged in one go
PERIOD_S = 1.0
FRESH_S = 1.5
WAIT_S = 0.3
_DECIDED = "authority"  # beside the kinds of documents

S = TypeVar("S")
T = TypeVar("T")
# The nodes as told, the sites that are heard, and which were told or went since the last time (None: nobody knows).
Told = Callable[[], tuple[Mapping[str, Seen], frozenset[str], Iterable[str] | None]]


class Drifting(Generic[S]):
    """`sum_up` makes what pages look at of the board and of how many documents are not read yet."""

    def __init__(self, site_db: Path, tenant: str, told: Told, sum_up: Callable[[Board, int], S]) -> None:
        self._site_db, self._tenant, self._told, self._sum_up = site_db, tenant, told, sum_up
        self.look: Callable[[sqlite3.Connection, Id], Judged] = lambda db, place: Judged(document.look(db, place))
        self.board = Board()
        self._lock = threading.Lock()
        self._written: deque[tuple[str, str]] = deque()
        self._stored: deque[tuple[str, str]] = deque()  # from before the start
        self._latest: S | None = None
        self._folded_s = 0.0

    def load(self, db: sqlite3.Connection) -> None:
        """All documents are to be read: bundles and domains first."""
        rows = db.execute(
            "SELECT DISTINCT kind, id FROM document WHERE tenant=? ORDER BY kind=?, kind, id", (self._tenant, Kind.NODE)
        )
        self._stored.extend(rows.fetchall())

    def heard(self, batch: Sequence[Recorded]) -> None:
        """A listener of the journal, on the writer's thread."""
        for one in batch:
            if isinstance(one.body, DocumentChanged):
                self._written.append((one.body.document_kind, one.body.document))
            elif isinstance(one.body, AuthorityBegan):
                self._written.append((_DECIDED, one.subject))

    async def latest(self) -> S:
        if self._latest is None:
            await self.refresh()
        assert self._latest is not None  # a slice makes it
        return self._latest

    async def refresh(self) -> None:
        """Take in what was written and told, as far as that goes in a moment; the rest follows by itself."""
        began = time.monotonic()
        while await asyncio.to_thread(self._slice) and time.monotonic() - began < WAIT_S:
            pass

    async def ask(self, work: Callable[[Board], T]) -> T:
        """Read the board: with all that is written, and with what was told until a moment ago."""
        if self._latest is None or self._written or time.monotonic() - self._folded_s > FRESH_S:
            await self.refresh()
        return await asyncio.to_thread(self._locked, work)

    def owns(self) -> tuple[Mapping[str, Own], int]:
        """What every node's own document says, as far as they are read, and how many documents are not yet. Blocks."""
        with self._lock:
            self._read(self._written)
            return self.board.owns(), len(self._stored)

    async def versions(self, node_ids: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        """Which version each node turned to last, and when, as far as the journal knows."""
        return await asyncio.to_thread(self._versions, node_ids)

    def _versions(self, node_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        with closing(connect_reader(self._site_db)) as db:
            for node_id in node_ids:
                sql, parameters = journal.newest(1 << 62, 1, node_id, "node.version_changed")
                for one in journal.rows_to_events(db.execute(sql, parameters)):
                    if isinstance(one.body, VersionChanged):
                        found[node_id] = (one.body.version, one.wall_ns)
        return found

    async def history(self, name: str, limit: int) -> Sequence[Recorded]:
        """What was said of a bundle or a domain, newest first; what a hub said again to its sites is not told twice."""

        def work() -> Sequence[Recorded]:
            with closing(connect_reader(self._site_db)) as db:
                sql, parameters = journal.newest(1 << 62, limit, name, None, once=True)
                return told(journal.rows_to_events(db.execute(sql, parameters)))

        return await asyncio.to_thread(work)

    def _locked(self, work: Callable[[Board], T]) -> T:
        with self._lock:
            return work(self.board)

    def _slice(self, *, stored: bool = False) -> bool:
        """Whether there is more to do. With `stored`, what is left from the start is read too."""
        with self._lock:
            self._read(self._written)
            if stored:
                self._read(self._stored)
            seen, heard, fresh = self._told()
            left = self.board.fold(seen, heard, SLICE_NODES, fresh)
            self._latest, self._folded_s = self._sum_up(self.board, len(self._stored)), time.monotonic()
            return bool(left or self._written or (stored and self._stored))

    def _read(self, waiting: deque[tuple[str, str]]) -> None:
        some = {waiting.popleft(): None for _ in range(min(len(waiting), SLICE_DOCUMENTS))}
        if not some:
            return
        with closing(connect_reader(self._site_db)) as db:
            for kind, name in some:
                if kind == _DECIDED:  # which words of its nodes take effect is another question from here on
                    self._written.extend((Kind.NODE, one) for one in self.board.concerned(name))
                    continue
                judged = self.look(db, Id(self._tenant, kind, name))
                self.board.write(kind, name, judged.view, [one.stamped for one in judged.parked])

    async def run(self, stale: Callable[[str], None]) -> None:
        """Supervised, for ever."""
        while True:
            former, written, more = self._latest, self.board.written, True
            while more:
                more = await asyncio.to_thread(self._slice, stored=True)
            if self._latest != former or self.board.written != written:
                stale("site")
                stale("policies")
            await asyncio.sleep(PERIOD_S)
