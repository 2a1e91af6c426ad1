"""Every projection rebuilt from the log, as `skerry hub rebuild` does it: events a second into the views and the history.

The peer is the limit: a bare loop that reads the same rows and decodes them, in one process, and keeps nothing. Processor
time is told beside the clock's: on a machine that others use too, only that can be compared.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bench.mainland import backlog, place, rss_bytes
from hub.rebuild import every
from store import anew, history, views
from store.database import connect_reader
from store.views import View

_EVENTS = int(os.environ.get("SKERRY_BENCH_EVENTS", "2000000"))
_NODES = int(os.environ.get("SKERRY_BENCH_NODES", "20000"))
_WANTED_PER_S = 200_000


def run() -> dict[str, object]:
    with place() as root:
        data = root / "harbor"
        backlog(data, _EVENTS, "harbor", _NODES)
        bare_s = _timed(lambda: _replayed(data / "site.db", []))
        alone_s = _timed(lambda: anew.make(data / "site.db", root / "alone.db", parts=1))
        folded = every()
        fold_s = _timed(lambda: _replayed(data / "site.db", folded))
        began = time.perf_counter()
        made = anew.make(data / "site.db", root / "history.db")
        took_s = time.perf_counter() - began
        for view in folded:
            name = view.projection.name
            assert views.digest(made.states[name]) == views.digest(view.state), name
        assert history.digest(root / "history.db") == history.digest(root / "alone.db")
        size, events = (root / "history.db").stat().st_size, made.position
    ours, peer = events / took_s, events / bare_s.clock

    def us(took: Took) -> float:
        return round(took.processor / events * 1e6, 2)

    return {
        "bench": "rebuild",
        "ours": round(ours),
        "peer": round(peer),
        "ratio": round(ours / peer, 3),
        "unit": "events/s into all projections (peer: a bare loop that decodes the same rows)",
        "detail": {
            "events": events,
            "nodes": _NODES,
            "projections": [*made.states, "history"],
            "wanted_per_s": _WANTED_PER_S,
            "processes": anew.parts_for(events),
            "one_process_per_s": round(events / alone_s.clock),
            "views_event_by_event_per_s": round(events / fold_s.clock),
            "processor_us_per_event": {"bare": us(bare_s), "one process": us(alone_s), "views": us(fold_s)},
            "history_bytes_per_event": round(size / events, 1),
            "rss_mib": round(rss_bytes(os.getpid()) / 2**20),
            "load": os.getloadavg()[0],
        },
    }


class Took(NamedTuple):
    clock: float
    processor: float


def _timed(work: Callable[[], object]) -> Took:
    """Seconds, without the collector of cycles, as the rebuild runs."""
    gc.disable()
    began, used = time.perf_counter(), time.process_time()
    work()
    took = Took(time.perf_counter() - began, time.process_time() - used)
    gc.enable()
    return took


def _replayed(site_db: Path, made: list[View[Any]]) -> None:
    with closing(connect_reader(site_db)) as db:
        for batch in views.replay(db):
            for view in made:
                view.fold(batch)
