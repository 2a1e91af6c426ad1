"""How long does a return take to bring 10,000 documents together, a twentieth of them edited on both sides at once?

Ours: two boxes with 10,000 documents each, in files of their own. Both compare (root, buckets, heads), each side reads
the changes that the other does not have, and each receives the other's: read strictly, merged in the confined child,
stored in one transaction a side. Both have to end with one root. The bound for all of that is 3 s, and `ratio` is ours
over it. A checker's child is running already, as on a box that has been up.

The limit: automerge alone loading the same documents once, and merging the same changes by load, in this process,
with nothing read, judged, compared or stored.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from automerge import core

from fleet.document import Author, Id, Stamped
from fleet.events import Clock
from store import document
from store.database import connect
from store.document import Incoming, Made, Work
from store.document_check import Checker

DOCUMENTS = 10_000
EVERY = 20
RUNS = 3
BOUND_S = 3.0
ALDER, HARBOR = Author("01ALDER", 1), Author("01HARBOR", 1)


class _Phases(NamedTuple):
    compare_s: float
    gather_s: float
    merge_s: float

    @property
    def total_s(self) -> float:
        return sum(self)


def run() -> dict[str, object]:
    checker = Checker()
    checker([Work(document.EMPTY, ())])
    phases, equal_s, limits = list[_Phases](), list[float](), list[float]()
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as name:
            alder, harbor = _box(Path(name) / "alder.db"), _box(Path(name) / "harbor.db")
            base = _written(alder, HARBOR, range(DOCUMENTS), "as delivered")
            _received(harbor, base, checker)
            changed = range(0, DOCUMENTS, EVERY)
            _written(alder, ALDER, changed, "north")
            _written(harbor, HARBOR, changed, "south")
            limits.append(_limit(alder, harbor))
            phases.append(_return(alder, harbor, checker))
            began = time.perf_counter()
            _differing(alder, harbor)
            equal_s.append(time.perf_counter() - began)
            (saved,) = alder.execute("SELECT avg(length(saved)) FROM document").fetchone()
            alder.close()
            harbor.close()
    checker.close()
    median = _Phases(*(statistics.median(column) for column in zip(*phases, strict=True)))
    ours = statistics.median(one.total_s for one in phases)
    return {
        "bench": "documents",
        "ours": round(ours, 3),
        "peer": BOUND_S,
        "ratio": round(ours / BOUND_S, 3),
        "unit": "s",
        "detail": {
            "documents": DOCUMENTS,
            "changed_on_both_sides": DOCUMENTS // EVERY,
            "runs_s": [round(one.total_s, 3) for one in phases],
            "compare_s": round(median.compare_s, 3),
            "gather_s": round(median.gather_s, 3),
            "merge_s": round(median.merge_s, 3),
            "compare_when_equal_s": round(statistics.median(equal_s), 3),
            "raw_automerge_s": round(statistics.median(limits), 3),
            "saved_bytes": round(saved),
        },
    }


def _box(path: Path) -> sqlite3.Connection:
    db = connect(path)
    db.executescript(document.TABLES)
    return db


def _written(db: sqlite3.Connection, by: Author, numbers: Sequence[int], name: str) -> list[Incoming]:
    """A name, a tag and a wanted version for each of these nodes, by one author."""
    out: list[Incoming] = []
    db.execute("BEGIN IMMEDIATE")
    for number in numbers:
        stamp = Stamped(None, "Alice", *by, number + len(name), number * 1_000_000_000, Clock.SYNCED)
        values = {"name": f"{name} {number}", "tags/scout": True, "target_version": name}
        made = document.edit(db, Id("fleet", "node", f"01NODE{number:020d}"), values, stamp)
        assert isinstance(made, Made)
        out += [Incoming(made.document, made.generation, raw, by) for raw in made.changes]
    db.execute("COMMIT")
    return out


def _received(db: sqlite3.Connection, incoming: Sequence[Incoming], checker: Checker) -> None:
    db.execute("BEGIN IMMEDIATE")
    outcomes = document.receive(db, incoming, checker, 0)
    db.execute("COMMIT")
    assert {one.fate for one in outcomes} <= {document.Fate.APPLIED, document.Fate.KNOWN}


def _differing(alder: sqlite3.Connection, harbor: sqlite3.Connection) -> tuple[document.Heads, document.Heads]:
    """What each side holds where the two differ."""
    mine, theirs = document.heads(alder, "fleet"), document.heads(harbor, "fleet")
    buckets = document.differing_buckets(document.digest(mine), document.digest(theirs))
    if not buckets:
        return {}, {}
    here, there = document.heads(alder, "fleet", buckets), document.heads(harbor, "fleet", buckets)
    places = document.differing(here, there)
    return {one: here.get(one, b"") for one in places}, {one: there.get(one, b"") for one in places}


def _return(alder: sqlite3.Connection, harbor: sqlite3.Connection, checker: Checker) -> _Phases:
    start = time.perf_counter()
    here, there = _differing(alder, harbor)
    compared = time.perf_counter()
    forth = [one for place, heads in there.items() for one in document.changes_since(alder, place, heads)]
    back = [one for place, heads in here.items() for one in document.changes_since(harbor, place, heads)]
    gathered = time.perf_counter()
    _received(harbor, forth, checker)
    _received(alder, back, checker)
    end = time.perf_counter()
    assert len(here) == DOCUMENTS // EVERY
    assert document.heads(alder, "fleet") == document.heads(harbor, "fleet")
    return _Phases(compared - start, gathered - compared, end - gathered)


def _limit(alder: sqlite3.Connection, harbor: sqlite3.Connection) -> float:
    """Seconds for both sides: every document loaded once, the changed ones merged by load and saved."""
    mine, theirs = (
        [row[0] for row in db.execute("SELECT saved FROM document ORDER BY kind, id")] for db in (alder, harbor)
    )
    changes = [
        (here, b"".join(bytes(one.raw_bytes) for one in core.Document.load(there).get_changes([])[1:]))
        for pair in list(zip(mine, theirs, strict=True))[::EVERY]
        for here, there in (pair, pair[::-1])
    ]
    began = time.perf_counter()
    for saved in (*mine, *theirs):
        core.Document.load(saved)
    for saved, raw in changes:
        core.Document.load(saved + raw).save()
    return time.perf_counter() - began
