"""Who did what, from the journal: the search behind the page *Audit*, newest first.

There is no second list of what people did: it is the signed log itself that is read, by the kinds that it mentions. A
search for one person among very many deeds may take long, so it stops after a while and says how far back it has come; it
goes on from there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from heapq import merge
from operator import itemgetter
from pathlib import Path

from fleet import audit
from fleet.audit import Page, Query
from fleet.events import Recorded
from fleet.past import Stretch
from store import journal
from store.database import connect_reader
from store.shared import told

SEARCH_S = 0.25
_LOOK = 200  # events between two looks at the clock


def search(db: sqlite3.Connection, query: Query, seconds: float = SEARCH_S) -> Page:
    """At most `query.limit` events. Nothing is found when the query's kind is none of `audit.AUDITED`."""
    deadline = time.monotonic() + seconds
    kinds = frozenset(audit.kinds_of(query))
    found: list[Recorded] = []
    for number, event in enumerate(_newest(db, query, kinds), 1):
        if event.kind in kinds and audit.concerns(event, query.person):
            found.append(event)
            if len(found) == query.limit:
                return Page(events=tuple(told(found)), next=event.position)
        if number % _LOOK == 0 and time.monotonic() > deadline:
            return Page(events=tuple(told(found)), next=event.position, looked_ns=event.wall_ns)
    return Page(events=tuple(told(found)))


def page(site_db: Path, query: Query) -> Page:
    """`search`, on a connection of its own."""
    with closing(connect_reader(site_db)) as db:
        return search(db, query)


def every(db: sqlite3.Connection, query: Query) -> Iterator[Recorded]:
    """All of it, however long that takes."""
    kinds = frozenset(audit.kinds_of(query))
    for event in _newest(db, query, kinds):
        if event.kind in kinds and audit.concerns(event, query.person):
            yield from told((event,))


def _newest(db: sqlite3.Connection, query: Query, kinds: frozenset[str]) -> Iterator[Recorded]:
    """The events of these kinds, newest first, each kind's list read only as far as it is needed; those about one subject
    are of all kinds."""
    stretch = Stretch(from_ns=query.from_ns, until_ns=None if query.to_ns is None else query.to_ns - 1)
    before = query.before or 1 << 62
    wanted = [None] if query.subject and kinds else sorted(kinds)
    lists = [db.execute(*journal.newest(before, -1, query.subject, kind, stretch)) for kind in wanted]
    for row in merge(*lists, key=itemgetter(0), reverse=True):
        yield from journal.rows_to_events((row,))
