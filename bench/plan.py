"""How long does it take to make the plan of a hub with 10,000 nodes, when 1,000 of them were written on both sides at once?

Ours: which documents are open (one query), then each of them loaded, its words found, what their authors had all seen
looked up in its history, the rules asked, and the plan hashed. `again_s` is the same a second time, as a page asks that
is looked at again: nothing has changed, so only heads are compared. The bound is 2 s, and `ratio` is ours over it.

The limit: a bare loop that loads the same documents by automerge and reads every value once, with nothing judged.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from automerge import core

from bench.documents import ALDER, HARBOR, _box, _received, _written
from fleet.plan import Sort
from store.disputes import Disputes
from store.document import EMPTY, Work
from store.document_check import Checker
from tests.simulation.boxes import Box, SimClock

DOCUMENTS = int(os.environ.get("SKERRY_BENCH_DOCUMENTS", "10000"))
EVERY = 10
RUNS = 5
BOUND_S = 2.0


def run() -> dict[str, object]:
    checker = Checker()
    checker([Work(EMPTY, ())])
    with tempfile.TemporaryDirectory() as name:
        harbor = Box(Path(name) / "harbor", "harbor", HARBOR.writer, SimClock(time.time_ns), owner=True)
        alder = _box(Path(name) / "alder.db")
        _received(alder, _written(harbor.db, HARBOR, range(DOCUMENTS), "as delivered"), checker)
        changed = range(0, DOCUMENTS, EVERY)
        _written(harbor.db, HARBOR, changed, "south")
        _received(harbor.db, _written(alder, ALDER, changed, "north"), checker)
        alder.close()
        first, again, limits, busy = list[float](), list[float](), list[float](), list[float]()
        for _ in range(RUNS):
            disputes = Disputes("fleet", harbor.journal, harbor.shared, lambda db, one: (None, ()))
            began, cpu = time.perf_counter(), time.process_time()
            plan = disputes.look(harbor.db).plan
            made = time.perf_counter()
            busy.append(time.process_time() - cpu)
            assert disputes.look(harbor.db).plan.hash == plan.hash
            first.append(made - began)
            again.append(time.perf_counter() - made)
            limits.append(_limit(harbor))
        harbor.close()
    checker.close()
    assert len(plan.of(Sort.PERSON)) == 2 * len(changed)
    ours = statistics.median(first)
    return {
        "bench": "plan",
        "ours": round(ours, 3),
        "peer": BOUND_S,
        "ratio": round(ours / BOUND_S, 3),
        "unit": "s",
        "detail": {
            "documents": DOCUMENTS,
            "written_on_both_sides": len(changed),
            "steps": len(plan.steps),
            "runs_s": [round(one, 3) for one in first],
            "processor_s": round(statistics.median(busy), 3),
            "again_s": round(statistics.median(again), 3),
            "bare_loop_s": round(statistics.median(limits), 3),
        },
    }


def _limit(harbor: Box) -> float:
    """Seconds to load the open documents and read what stands in them."""
    rows = harbor.db.execute("SELECT saved FROM document WHERE disputed").fetchall()
    began = time.perf_counter()
    for (saved,) in rows:
        document = core.Document.load(saved)
        for key in document.keys(core.ROOT):
            document.get(core.ROOT, key)
    return time.perf_counter() - began
