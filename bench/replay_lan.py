"""A site comes back with a million events: how fast are they verified, stored and projected at the hub?

The limit, in the same run: the same blocks decoded, hashed, verified and inserted by a bare loop into a database with the
same pragmas, 10,000 events a transaction, and no protocol, no broker, no second process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from bench.island import island
from bench.mainland import backlog, harbor, join, place, wait_until
from fleet import envelope, events
from store import journal
from store.database import connect
from store.folder import Folder, bring_up

_EVENTS = int(os.environ.get("SKERRY_BENCH_EVENTS", "1000000"))
_COMMIT_EVENTS = 10_000


def run() -> dict[str, object]:
    with place() as root:
        alder = root / "alder"
        writer = backlog(alder, _EVENTS)
        bare_s = _bare(alder, writer, root / "bare")
        with harbor(root) as hub, island("--name", "alder", data=alder) as site:
            join(hub, site, "alder")
            wait_until(lambda: hub.events(writer) > 0, 60, 0.005)
            began, first = time.perf_counter(), hub.events(writer)
            wait_until(lambda: hub.events(writer) >= _EVENTS, 600)
            took_s = time.perf_counter() - began
            live_s = took_s + wait_until(lambda: hub.site("alder").get("mode") == "LIVE", 120)
            memory = {"hub_mb": hub.rss_bytes() / 1e6, "site_mb": site.rss_bytes() / 1e6}
    ours, peer = (_EVENTS - first) / took_s, _EVENTS / bare_s
    return {
        "bench": "replay_lan",
        "ours": round(ours),
        "peer": round(peer),
        "ratio": round(ours / peer, 3),
        "unit": "events/s at the hub (peer: a bare loop)",
        "detail": {
            "events": _EVENTS,
            "drained_s": round(took_s, 2),
            "live_s": round(live_s, 2),
            **{name: round(value, 1) for name, value in memory.items()},
        },
    }


def _bare(data: Path, writer: str, target: Path) -> float:
    """Seconds for decode, hash, verify and insert."""
    with contextlib.closing(sqlite3.connect(f"file:{data / 'site.db'}?mode=ro", uri=True)) as db:
        raws = [envelope.encode(block) for block in journal.blocks(db, 1)]
        (raw_key,) = db.execute("SELECT public_key FROM log WHERE id=1").fetchone()
    key = envelope.public_key(raw_key)
    folder = Folder(target)
    folder.prepare()
    bring_up(folder.site_db)
    with contextlib.closing(connect(folder.site_db)) as db:
        began = time.perf_counter()
        position = since = 0
        db.execute("BEGIN IMMEDIATE")
        for raw in raws:
            block = envelope.decode(raw)
            if envelope.check(block, key) is not None:
                raise RuntimeError("a block does not hold")
            facts = [events.decode(one, writer=writer, epoch=1) for one in block.events]
            if not position:
                log_id = journal.start_log(db, block.log, raw_key, 0)
            kinds, subjects = [fact.kind for fact in facts], [fact.subject for fact in facts]
            journal.insert_block(db, log_id, position + 1, block, kinds, subjects, [fact.wall_ns for fact in facts])
            position, since = position + len(facts), since + len(facts)
            if since >= _COMMIT_EVENTS:
                db.execute("COMMIT")
                db.execute("BEGIN IMMEDIATE")
                since = 0
        db.execute("COMMIT")
        return time.perf_counter() - began
