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
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from fleet.document import Author, Id, Stamped, Value, View
from fleet.envelope import Log
from fleet.events import DocumentChanged, Recorded
from store import document
from store.clock import WallClock
from store.document import Fate, Incoming, Made, Place, Refused
from store.document_check import Checker
from store.journal import Journal

_CHANGES_MAX = 5_000  # said again in one transaction; the next comparison finds the rest
Listed = tuple[str, str, bytes]  # kind, id with its generation, heads


class Folded(NamedTuple):
    changed: tuple[Id, ...]
    refused: tuple[tuple[bytes, str], ...]  # raw bytes and the sentence


class Shared:
    """The documents of one box. `owner`: whether this box says when a full document begins anew (the hub does)."""

    def __init__(self, journal: Journal, clock: WallClock, *, owner: bool) -> None:
        self._journal, self._clock, self._owner = journal, clock, owner
        self._check = Checker()

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
        for outcome in document.receive(db, incoming, self._check, now_ns):
            if outcome.fate is Fate.APPLIED:
                changed[outcome.document] = None
            elif outcome.fate is Fate.REFUSED:
                refused.append((outcome.raw, outcome.reason))
        for one in changed:
            if document.current(db, one).generation > 0:
                self._say(document.carry(db, one, self._author(log), owner=self._owner), log)
        return Folded(tuple(changed), tuple(refused))

    # -- comparison of heads ------------------------------------------------------------------------------------

    def heads(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> document.Heads:
        held = document.heads(db, tenant)
        return held if scope is None else {place: each for place, each in held.items() if place.document.id in scope}

    def root(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> bytes:
        return document.digest(self.heads(db, tenant, scope)).root

    def listed(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> Sequence[Listed]:
        held = self.heads(db, tenant, scope)
        return [(place.document.kind, f"{place.document.id}#{place.generation}", each) for place, each in held.items()]

    def complete(
        self,
        db: sqlite3.Connection,
        tenant: str,
        theirs: Sequence[Listed],
        log: Log | None,
        scope: Collection[str] | None,
    ) -> Sequence[Listed]:
        """Say again, in `log`, what the other side lacks of the documents it listed (and of those in `scope` that it
        did not). Returns the heads of what differs, as they are here, for it to do the same."""
        mine, there = document.heads(db, tenant), dict[Place, bytes]()
        for kind, name, heads in theirs:
            identity, _, generation = name.rpartition("#")
            if identity and generation.isdigit():
                there[Place(Id(tenant, kind, identity), int(generation))] = heads
        if scope is not None:
            there |= {place: b"" for place in mine if place.document.id in scope and place not in there}
        differ = [place for place, heads in there.items() if mine.get(place, b"") != heads]
        said = 0
        for place in differ:
            if place not in mine or said >= _CHANGES_MAX:
                continue
            for one in document.changes_since(db, place, there[place]):
                body = DocumentChanged(one.document.kind, one.document.id, one.generation, one.raw, repeated=True)
                self._journal.stage(one.document.id, body, log)
                said += 1
        return [
            (place.document.kind, f"{place.document.id}#{place.generation}", mine.get(place, b"")) for place in differ
        ]


def look(db: sqlite3.Connection, tenant: str, kind: str, name: str) -> View:
    return document.look(db, Id(tenant, kind, name))
