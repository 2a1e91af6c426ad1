"""What had people written, as of a moment? Documents as they stood then, for the pages of the past.

A word counts from the moment that its stamp names, wherever it was written and whenever it came here; so a page of the past
is the same at both ends once both hold the same. Whether a word was parked then is not asked: all that was said is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from fleet.document import Id, Kind, View
from fleet.node import Node
from fleet.past import stamp_at
from store import document, node_words
from store.database import connect_reader


class Documents:
    """Calls block. `where` names the place of a log's writer."""

    def __init__(self, site_db: Path, tenant: str, where: Callable[[str], str]) -> None:
        self._site_db, self._tenant, self.where = site_db, tenant, where

    def one(self, kind: Kind, name: str, moment_ns: int) -> View | None:
        """None when nobody had written it by then."""
        with closing(connect_reader(self._site_db)) as db:
            return document.as_of(db, Id(self._tenant, kind, name), stamp_at(moment_ns))

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
