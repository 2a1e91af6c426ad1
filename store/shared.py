"""How do documents travel? As changes in the logs: an edit is stored and said in one transaction, and what others said is
merged in the transaction that stores it.

Rules of the file
  1  An edit and its events are one transaction; so are a block and the changes in it.
  2  What cannot be merged is handed back with its sentence, for quarantine; the line moves on.
  3  What the other side lacks after a comparison of heads is said again in the log, so that it is as durable and as
     provable as the first time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fleet.document import Author, Id, Stamped, Value, View
from fleet.envelope import Log
from fleet.events import DocumentChanged, DocumentTold, Recorded
from fleet.limits import SECOND
from store import document
from store.clock import WallClock
from store.document import Fate, Incoming, Made, Place, Refused
from store.document_check import Checker
from store.journal import Journal

_CHANGES_MAX = 5_000  # said again in one transaction; the next comparison finds the rest
_DIGITS_MAX = 6
_AGAIN_NS = 3600 * SECOND  # what did not help is said again once an hour
LISTED_MAX = 2_000  # documents in one message
Listed = tuple[str, str, bytes]  # kind, id with its generation, heads
_EDGE: Listed = ("", "", b"")  # where all documents begin, and where they end


def told(events: Iterable[Recorded]) -> list[Recorded]:
    """Events for pages: a change of a document says what it changed."""
    return [one._replace(body=_told(one.body)) if isinstance(one.body, DocumentChanged) else one for one in events]


def _told(body: DocumentChanged) -> DocumentTold:
    said, who = document.told(body.change)
    return DocumentTold(body.document_kind, tuple(said), who, body.repeated)


class Folded(NamedTuple):
    changed: tuple[Id, ...]
    refused: tuple[tuple[bytes, str], ...]  # raw bytes and the sentence


class Shared:
    """The documents of one box. `owner`: whether this box says when a full document begins anew (the hub does)."""

    def __init__(self, journal: Journal, clock: WallClock, *, owner: bool) -> None:
        self._journal, self._clock, self._owner = journal, clock, owner
        self._check = Checker()
        self._repeated: dict[tuple[Log | None, Place], tuple[bytes, bytes, int]] = {}  # theirs, mine, when

    def close(self) -> None:
        self._check.close()

    def _author(self, log: Log | None) -> Author:
        log = log or self._journal.log
        return Author(log.writer, log.epoch)

    def edit(
        self, db: sqlite3.Connection, place: Id, values: Mapping[str, Value], who: str, log: Log | None = None
    ) -> Made | Refused | None:
        """Write values and say so in `log` (this box's own if not given). None when nothing would change."""
        author = self._author(log)
        stamp = Stamped(None, who, *author, self._journal.stamp(), self._clock.now_ns(), self._clock.confidence())
        if document.current(db, place).full and self._owner:
            self._say(document.rotate(db, place, author), log)
        made = document.edit(db, place, values, stamp)
        self._say(made, log)
        return made

    def _say(self, made: Made | Refused | None, log: Log | None) -> None:
        if isinstance(made, Made):
            for change in made.changes:
                body = DocumentChanged(made.document.kind, made.document.id, made.generation, change)
                self._journal.stage(made.document.id, body, log)

    def fold(
        self, db: sqlite3.Connection, tenant: str, facts: Iterable[Recorded], now_ns: int, log: Log | None
    ) -> Folded:
        """Merge what a block of somebody else says of documents. `log` is where a late value is carried over."""
        incoming = [
            Incoming(
                Id(tenant, fact.body.document_kind, fact.body.document),
                fact.body.generation,
                fact.body.change,
                None if fact.body.repeated else Author(fact.writer, fact.epoch),
            )
            for fact in facts
            if isinstance(fact.body, DocumentChanged)
        ]
        if not incoming:
            return Folded((), ())
        changed: dict[Id, None] = {}
        refused: list[tuple[bytes, str]] = []
        owners = (lambda: self._mine(db, tenant)) if self._owner else None
        for outcome in document.receive(db, incoming, self._check, now_ns, owners):
            if outcome.fate is Fate.APPLIED:
                changed[outcome.document] = None
            elif outcome.fate is Fate.REFUSED:
                refused.append((outcome.raw, outcome.reason))
        for one in changed:
            if document.current(db, one).generation > 0:
                self._say(document.carry(db, one, self._author(log), owner=self._owner), log)
        return Folded(tuple(changed), tuple(refused))

    def _mine(self, db: sqlite3.Connection, tenant: str) -> list[Author]:
        """All logs that this box ever wrote, towards whomever."""
        rows = db.execute(
            "SELECT writer, epoch FROM log WHERE tenant=? AND public_key=(SELECT public_key FROM log WHERE writer=?"
            " AND epoch=?)",
            (tenant, self._journal.log.writer, self._journal.log.epoch),
        )
        return [Author(*row) for row in rows]

    # -- comparison of heads ------------------------------------------------------------------------------------

    def heads(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> document.Heads:
        held = document.heads(db, tenant)
        return held if scope is None else {place: each for place, each in held.items() if place.document.id in scope}

    def root(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> bytes:
        return document.digest(self.heads(db, tenant, scope)).root

    def listed(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> Sequence[Listed]:
        held = self.heads(db, tenant, scope)
        return sorted((*_name(place), each) for place, each in held.items())

    def complete(
        self,
        db: sqlite3.Connection,
        tenant: str,
        theirs: Sequence[Listed],
        log: Log | None,
        scope: Collection[str] | None,
    ) -> Sequence[Listed]:
        """Say again, in `log`, what the other side lacks of the documents it listed; with `scope`, `theirs` is a run
        (`runs`), and what is in the scope and missing between its ends is lacking too. Returns the heads of what
        differs, as they are here, for it to do the same."""
        mine, there = document.heads(db, tenant), dict[Place, bytes]()
        for kind, name, heads in theirs:
            identity, _, generation = name.rpartition("#")
            if identity and generation.isascii() and generation.isdigit() and len(generation) < _DIGITS_MAX:
                there[Place(Id(tenant, kind, identity), int(generation))] = heads
        if scope is not None and theirs:
            first, last = theirs[0][:2], theirs[-1][:2]
            there |= {
                place: b""
                for place in mine
                if place.document.id in scope
                and place not in there
                and first < _name(place)
                and (last == _EDGE[:2] or _name(place) < last)
            }
        differ = [place for place, heads in there.items() if mine.get(place, b"") != heads]
        said = 0
        for place in differ:
            if said >= _CHANGES_MAX:
                break
            if place in mine and self._may_help(log, place, there[place], mine[place]):
                said += self._say_again(db, place, there[place], log)
        return [(*_name(place), mine.get(place, b"")) for place in differ]

    def _may_help(self, log: Log | None, place: Place, theirs: bytes, mine: bytes) -> bool:
        """What a side refuses, it refuses again: the same is not said over and over."""
        now_ns = self._clock.now_ns()
        before = self._repeated.get((log, place))
        if before is not None and before[:2] == (theirs, mine) and abs(now_ns - before[2]) < _AGAIN_NS:
            return False
        self._repeated[log, place] = (theirs, mine, now_ns)
        return True

    def forget(self) -> None:
        """What was said may be undone."""
        self._repeated.clear()

    def _say_again(self, db: sqlite3.Connection, place: Place, theirs: bytes, log: Log | None) -> int:
        changes = document.changes_since(db, place, theirs)
        for one in changes:
            body = DocumentChanged(one.document.kind, one.document.id, one.generation, one.raw, repeated=True)
            self._journal.stage(one.document.id, body, log)
        return len(changes)


def _name(place: Place) -> tuple[str, str]:
    return place.document.kind, f"{place.document.id}#{place.generation}"


def runs(listed: Sequence[Listed]) -> Iterator[Sequence[Listed]]:
    """A sorted list in runs for one message each. A run begins with the last entry of the one before it, so each says
    by itself what there is between its ends, and none need arrive for the others to count."""
    whole = [_EDGE, *listed, _EDGE]
    for first in range(0, len(whole) - 1, LISTED_MAX - 1):
        yield whole[first : first + LISTED_MAX]


def look(db: sqlite3.Connection, tenant: str, kind: str, name: str) -> View:
    return document.look(db, Id(tenant, kind, name))
