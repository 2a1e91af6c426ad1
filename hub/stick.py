"""What a file from a site brings, and what one for it takes back: the same messages as on a wire, in one transaction.

Rules of the file
  1  A file is verified and its sender known before a message of it is looked at (`sync.bundle`).
  2  Bringing a file again changes nothing; bringing an old one changes nothing.
  3  What goes back: receipts, what the hub wrote towards the site since the site last heard, heads of documents.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from hub.shelf import HubShelf
from store import peers
from sync import messages
from sync.hub import Me, Session
from sync.link import Parcel
from sync.messages import Ack, Custody, Heads, Hello, Lane, Level, LogHead, ReceiptOffered

_PART_MESSAGES_MAX = 100_000


class Brought(NamedTuple):
    """What came of a file: events and segments that are new, and the sentence for the person."""

    events: int
    segments: int
    words: str
    good: bool


def bring(
    db: sqlite3.Connection, me: Me, shelf: HubShelf, writer: str, parcels: Iterable[Parcel], now_ns: int
) -> Brought:
    """One file of one site; inside the caller's transaction, `shelf.done` to be run after it."""
    shelf.begin(db)
    session = Session(me, writer)
    before, segments_before = _counts(db, me.tenant, writer)
    begun = False
    last: list[messages.Message] = []  # what speaks of the whole, once the whole is here
    for parcel in parcels:
        try:
            message = messages.decode(parcel.data)
        except ValueError as error:
            shelf.apart(writer, str(error), parcel.data[:4096], now_ns)
            continue
        if isinstance(message, Hello):
            reason = session.carried(message, now_ns, shelf)
            if reason:
                return Brought(0, 0, reason, good=False)
            begun = True
        elif isinstance(message, Level | Heads):
            last.append(message)
        elif begun:
            session.heard(message, now_ns, b"", b"", shelf)
            session.pump(now_ns, shelf)
    if not begun:
        return Brought(0, 0, "the file does not say whose it is", good=False)
    for message in last:
        session.heard(message, now_ns, b"", b"", shelf)
        session.pump(now_ns, shelf)
    after, segments_after = _counts(db, me.tenant, writer)
    events, segments = after - before, segments_after - segments_before
    said = f"{events:,} new events and {segments:,} new segments" if events or segments else "nothing that was not here"
    return Brought(events, segments, f"the file brought {said}", good=True)


def _counts(db: sqlite3.Connection, tenant: str, writer: str) -> tuple[int, int]:
    events = sum(head.seq for _, head in peers.heads_of(db, tenant, writer))
    return events, len(peers.segments(db, writer, peers.HERE))


def take_back(
    db: sqlite3.Connection, me: Me, shelf: HubShelf, writer: str, heard: Iterable[LogHead], now_ns: int
) -> list[Parcel]:
    """The messages of a file for a site that heard so much; in the order of their lanes."""
    shelf.begin(db)
    said: list[messages.Message] = []
    newest = peers.newest_receipt(db, writer)
    if newest is not None:
        said.append(ReceiptOffered(0, newest.content, newest.hub_signature))
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
