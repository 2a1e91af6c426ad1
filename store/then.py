"""What had people written, as of a moment? Documents as they stood then, for the pages of the past.

Of all nodes (`owns`) only those are looked up that somebody has written of since; the others say what they say now.

A word counts from the moment that its stamp names, wherever it was written and whenever it came here; so a page of the past
is the same at both ends once both hold the same. Whether a word was parked then is not asked: all that was said is there.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fleet.board import Own, own
from fleet.document import Id, Kind, View
from fleet.node import Node
from fleet.past import stamp_at
from store import document, node_words
from store.database import connect_reader


class Owned(NamedTuple):
    """What nodes' own documents said, by node (one of which nothing is held said nothing); of which nodes that is not known
    yet, and how many documents are not looked at in all: ask again."""

    own: Mapping[str, Own]
    left: frozenset[str]
    unread: int


LOOK_UP_S = 0.15  # for one page; the next one goes on from there
LOOKED_UP_MAX = 20_000  # documents of which is remembered what was looked up


class _Looked(NamedTuple):
    """A document that was looked up: what it says now, when it changed (stamps), and what it said after so many changes."""

    now: Own
    steps: Sequence[int]
    said: dict[int, Own | None]


class Documents:
    """Calls block. `where` names the place of a log's writer; `now` is what every node's document says now, and how many
    documents are not read yet."""

    def __init__(
        self,
        site_db: Path,
        tenant: str,
        where: Callable[[str], str],
        now: Callable[[], tuple[Mapping[str, Own], int]],
    ) -> None:
        self._site_db, self._tenant, self.where, self._now = site_db, tenant, where, now
        self._looked: dict[str, _Looked] = {}  # by node, the one looked up last at the end
        self._lock = threading.Lock()

    def owns(self, moment_ns: int) -> Owned:
        """What every node's own document said at a moment."""
        stamp, (now, unknown) = stamp_at(moment_ns), self._now()
        then, later = dict(now), [node_id for node_id, said in now.items() if said.stamp > stamp]
        if not later:
            return Owned(then, frozenset(), unknown)
        left, deadline = set[str](), time.monotonic() + LOOK_UP_S
        with closing(connect_reader(self._site_db)) as db:
            for node_id in later:
                document_id, now_says = Id(self._tenant, Kind.NODE, node_id), then.pop(node_id)
                looked = self._looked.get(node_id)
                changes = bisect_right(looked.steps, stamp) if looked is not None and looked.now is now_says else None
                if looked is None or changes is None or changes not in looked.said:
                    if time.monotonic() > deadline:
                        left.add(node_id)
                        continue
                    looked, changes = self._look(db, document_id, now_says, stamp)
                said = looked.said[changes]
                if said is not None:
                    then[node_id] = said
        return Owned(then, frozenset(left), unknown + len(left))

    def _look(self, db: sqlite3.Connection, one: Id, now: Own, stamp: int) -> tuple[_Looked, int]:
        """What is known of a document, what it said at a stamp included, and how often it had changed by then."""
        looked = self._looked.get(one.id)
        if looked is None or looked.now is not now:
            looked = _Looked(now, document.steps(db, one), {0: None})
        changes = bisect_right(looked.steps, stamp)
        if changes not in looked.said:
            view = document.as_of(db, one, stamp)
            looked.said[changes] = own(view) if view is not None else None
        with self._lock:
            self._looked.pop(one.id, None)
            while len(self._looked) >= LOOKED_UP_MAX:
                del self._looked[next(iter(self._looked))]
            self._looked[one.id] = looked
        return looked, changes

    def one(self, kind: Kind, name: str, moment_ns: int) -> View | None:
        """None when nobody had written it by then."""
        with closing(connect_reader(self._site_db)) as db:
            return document.as_of(db, Id(self._tenant, kind, name), stamp_at(moment_ns))

    def some(self, names: Iterable[tuple[Kind, str]], moment_ns: int) -> Mapping[tuple[Kind, str], View]:
        """Those of these that somebody had written by then."""
        with closing(connect_reader(self._site_db)) as db:
            found = {one: document.as_of(db, Id(self._tenant, *one), stamp_at(moment_ns)) for one in names}
        return {one: view for one, view in found.items() if view is not None}

    def every(self, kind: Kind, moment_ns: int) -> Mapping[str, View]:
        """Of bundles or domains: those that had been written by then, by id."""
        with closing(connect_reader(self._site_db)) as db:
            rows = db.execute("SELECT DISTINCT id FROM document WHERE tenant=? AND kind=?", (self._tenant, kind))
            found = {
                name: document.as_of(db, Id(self._tenant, kind, name), stamp_at(moment_ns))
                for (name,) in rows.fetchall()
            }
        return {name: view for name, view in found.items() if view is not None and view.values}

    def applied(self, node: Node, view: View) -> Node:
        return node_words.applied(node, view)
