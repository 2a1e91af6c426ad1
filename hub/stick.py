"""What a file from a site brings, and what one for it takes back: the same messages as on a wire, in one transaction.

Rules of the file
  1  A file is verified and its sender known before a message of it is looked at (`sync.bundle`).
  2  Bringing a file again changes nothing; bringing an old one changes nothing.
  3  What goes back: receipts, what the hub wrote towards the site since the site last heard, heads of documents.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from hub.shelf import HubShelf
from store import peers
from sync import messages
from sync.hub import Me, Session
from sync.link import Parcel
from sync.messages import Ack, Custody, Heads, Hello, Lane, Level, LogHead, Present, ReceiptOffered, RosterOffered

_PART_MESSAGES_MAX = 100_000


class Bringing:
    """A file of one site, a batch of its messages at a time; each inside a transaction of its own, `shelf.done` to be
    run after it."""

    def __init__(self, me: Me, shelf: HubShelf, writer: str, shown_ns: int = 0) -> None:
        self._shown_ns = shown_ns  # when the present that is shown was true
        self.problem = ""
        self.events = self.segments = 0
        self._me, self._shelf, self._writer = me, shelf, writer
        self._session = Session(me, writer)
        self._begun = False
        self._last: list[messages.Message] = []  # what speaks of the whole, once the whole is here

    def feed(self, db: sqlite3.Connection, batch: Iterable[Parcel], now_ns: int) -> None:
        shelf, session, before = self._shelf, self._session, self._counts(db)
        shelf.begin(db)
        for parcel in batch:
            try:
                message = messages.decode(parcel.data)
            except ValueError as error:
                shelf.apart(self._writer, str(error), parcel.data[:4096], now_ns)
                continue
            if isinstance(message, Hello):
                self.problem = self.problem or session.carried(message, now_ns, shelf)
                self._begun = not self.problem
            elif isinstance(message, Level | Heads):
                self._last.append(message)
            elif isinstance(message, Present) and message.at_ns < self._shown_ns:
                continue  # of an older file than what is shown
            elif self._begun:
                session.heard(message, now_ns, b"", b"", shelf)
                session.pump(now_ns, shelf)
        after = self._counts(db)
        self.events += after[0] - before[0]
        self.segments += after[1] - before[1]

    def end(self, db: sqlite3.Connection, now_ns: int) -> None:
        self._shelf.begin(db)
        for message in self._last if self._begun else ():
            self._session.heard(message, now_ns, b"", b"", self._shelf)
            self._session.pump(now_ns, self._shelf)
        if not self._begun:
            self.problem = self.problem or "the file does not say whose it is; read its first part first"

    def _counts(self, db: sqlite3.Connection) -> tuple[int, int]:
        events = sum(head.seq for _, head in peers.heads_of(db, self._me.tenant, self._writer))
        return events, len(peers.segments(db, self._writer, peers.HERE))

    @property
    def words(self) -> str:
        if self.problem:
            return self.problem
        if not self.events and not self.segments:
            return "the file brought nothing that was not here"
        return f"the file brought {self.events:,} new events and {self.segments:,} new segments"


def take_back(
    db: sqlite3.Connection, me: Me, shelf: HubShelf, writer: str, heard: Iterable[LogHead], now_ns: int
) -> list[Parcel]:
    """The messages of a file for a site that heard so much; in the order of their lanes."""
    shelf.begin(db)
    said: list[messages.Message] = []
    newest = peers.newest_receipt(db, writer)
    if newest is not None:
        said.append(ReceiptOffered(0, newest.content, newest.hub_signature))
    people = shelf.roster(writer)
    if people is not None:
        said.append(RosterOffered(0, *people))
    said += [Custody(0, one.sha256) for one in peers.segments(db, writer, peers.HERE)[-1_000:]]
    listed = shelf.listed(writer)
    said += [Heads(0, b"", tuple(listed[first : first + 4_000])) for first in range(0, len(listed), 4_000)]
    session = Session(me, writer)
    session.towards(heard, now_ns)
    while parts := [part for part in session.pump(now_ns, shelf) if part.LANE is Lane.LOG]:
        for part in parts:
            said.append(part)
            if isinstance(part, messages.Stream):
                session.heard(Ack(0, part.stream, part.offset + len(part.data), 1 << 40), now_ns, b"", b"", shelf)
        if len(said) > _PART_MESSAGES_MAX:
            break
    said.sort(key=lambda one: one.LANE)
    return [Parcel(writer, one.LANE, messages.encode(one)) for one in said if one.LANE <= Lane.LOG]
