"""Who did what, from the journal: the search behind the page *Audit*, newest first.

There is no second list of what people did: it is the signed log itself that is read. A search among ten million events
that finds little would take long, so it stops after a while and says how far back it has come; it goes on from there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from fleet import audit
from fleet.audit import Page, Query
from fleet.events import Recorded
from store import journal
from store.database import connect_reader
from store.shared import told

SEARCH_S = 0.25
_STEP = 20_000  # positions looked at between two looks at the clock
_ROWS = 500

_FOUND = (
    "SELECT event.position, log.writer, log.epoch, event.seq, event.raw FROM event JOIN log ON log.id = event.log_id"
    " WHERE event.position >= ? AND event.position < ? AND kind IN ({kinds}) AND event.wall_ns >= ? AND event.wall_ns < ?"
    " ORDER BY event.position DESC LIMIT ?"
)
_AGES = (-(1 << 62), 1 << 62)


def search(db: sqlite3.Connection, query: Query, seconds: float = SEARCH_S) -> Page:
    """At most `query.limit` events. Nothing is found when the query's kind is none of `audit.AUDITED`."""
    deadline = time.monotonic() + seconds
    found: list[Recorded] = []
    kinds = audit.kinds_of(query)
    if not kinds:
        return Page(events=())
    for low, batch in _batches(db, query, kinds):
        for event in batch:
            if not audit.concerns(event, query.person):
                continue
            found.append(event)
            if len(found) == query.limit:
                return Page(events=tuple(found), next=event.position)
        if low > 1 and time.monotonic() > deadline:
            (looked_ns,) = db.execute("SELECT wall_ns FROM event WHERE position=?", (low,)).fetchone() or (None,)
            return Page(events=tuple(found), next=low, looked_ns=looked_ns)
    return Page(events=tuple(found))


def page(site_db: Path, query: Query) -> Page:
    """`search`, on a connection of its own."""
    with closing(connect_reader(site_db)) as db:
        return search(db, query)


def every(db: sqlite3.Connection, query: Query) -> Iterator[Recorded]:
    """All of it, however long that takes."""
    kinds = audit.kinds_of(query)
    for _, batch in _batches(db, query, kinds) if kinds else ():
        for event in batch:
            if audit.concerns(event, query.person):
                yield event


def _batches(db: sqlite3.Connection, query: Query, kinds: Sequence[str]) -> Iterator[tuple[int, list[Recorded]]]:
    """(position that the search has come down to, what was found on the way)."""
    if query.subject:
        yield from _of_subject(db, query, frozenset(kinds))
        return
    (newest,) = db.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
    high = min(query.before or newest + 1, newest + 1)
    sql = _FOUND.format(kinds=",".join("?" * len(kinds)))
    oldest, youngest = query.from_ns, query.to_ns
    ages = (_AGES[0] if oldest is None else oldest, _AGES[1] if youngest is None else youngest)
    while high > 1:
        low = max(high - _STEP, 1)
        rows = db.execute(sql, (low, high, *kinds, *ages, _ROWS)).fetchall()
        high = rows[-1][0] if len(rows) == _ROWS else low
        yield high, told(journal.rows_to_events(rows))


def _of_subject(db: sqlite3.Connection, query: Query, kinds: frozenset[str]) -> Iterator[tuple[int, list[Recorded]]]:
    before = query.before or 1 << 62
    while True:
        rows = db.execute(*journal.newest(before, _ROWS, query.subject, None)).fetchall()
        if not rows:
            return
        before = rows[-1][0]
        events = [
            one
            for one in journal.rows_to_events(rows)
            if one.kind in kinds
            and (query.from_ns is None or one.wall_ns >= query.from_ns)
            and (query.to_ns is None or one.wall_ns < query.to_ns)
        ]
        yield before, told(events)
