"""How many events a second does the journal take, signed, chained and durable, beside bare SQLite?

Ours: `Journal` on its `Writer`, as the appliance runs it: bodies are encoded, numbered, hashed, signed, stored and
committed with synchronous=FULL, and the caller hears of it afterwards. The peer is `sqlite3.executemany` of the same
finished rows into the same tables (events and mentions) with the same indexes and the same pragmas: nothing encoded,
no hash, no signature, no thread. Both start on an empty file. Runs are interleaved, ours, peer, ours, peer, after a
warm-up of both; figures are medians.

In batches: 5,000 events to a commit, the caller waiting for each commit before it offers the next.
Singly: one event to a commit, append and wait, one after the other; the disk's flush is most of it.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet import events
from fleet.connectivity import Mode
from fleet.envelope import Log
from fleet.limits import SECOND
from store import journal, keys
from store.clock import WallClock
from store.database import Writer, connect
from store.folder import bring_up

BATCH_EVENTS = 5_000
BATCHES = 40
SINGLES = 1_500
NODES = 1_000
PAIRS = 5

_INSERT_EVENT = "INSERT INTO event VALUES (?,?,?,?,?,?,?)"
_INSERT_MENTION = "INSERT INTO mention VALUES (?,?,?)"
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_LOG = Log("fleet", "01BENCH0000000000000000000", 1)

Row = tuple[int, int, int, str, str, int, bytes]
Fact = tuple[str, events.Body]
_T = TypeVar("_T")


class Rates(NamedTuple):
    """Medians, per second."""

    batched: float
    singly: float
    runs: list[int]


def run() -> dict[str, object]:
    facts = _facts(BATCH_EVENTS * BATCHES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _rows(folder / "rows.db", facts)
        gc.collect()
        gc.freeze()  # the work prepared for both sides is no part of a box: keep it out of the collector's way
        flush_s = _flush_seconds(folder / "flush")
        _ours(folder, facts[: BATCH_EVENTS * 4], BATCH_EVENTS)
        _peer(folder, rows[: BATCH_EVENTS * 4], BATCH_EVENTS)
        pairs = [(_measure(_ours, folder, facts), _measure(_peer, folder, rows)) for _ in range(PAIRS)]
    ours, peer = _median([one for one, _ in pairs]), _median([one for _, one in pairs])
    return {
        "bench": "journal_append",
        "ours": round(ours.batched),
        "peer": round(peer.batched),
        "ratio": round(ours.batched / peer.batched, 3),
        "unit": "events/s",
        "detail": {
            "events": len(facts),
            "batch_events": BATCH_EVENTS,
            "pairs": PAIRS,
            "ours_runs": ours.runs,
            "peer_runs": peer.runs,
            "single_commits_per_s": round(ours.singly),
            "peer_single_commits_per_s": round(peer.singly),
            "single_ratio": round(ours.singly / peer.singly, 3),
            "flush_us": round(flush_s * 1e6),  # one 4 KiB write and fdatasync on this disk, the floor of a commit
            "bytes_per_event": round(sum(len(row[6]) for row in rows) / len(rows)),
        },
    }


def _facts(count: int) -> list[Fact]:
    """Turns of a thousand nodes, in no particular order of node: what a site's log is made of."""
    nodes = [f"01NODE{number:020d}" for number in range(NODES)]
    facts: list[Fact] = []
    for number in range(count):
        node = nodes[number * 617 % NODES]
        if number % 2:
            body: events.Body = events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, number * SECOND, 30 * SECOND)
        else:
            body = events.NodeHeard(Mode.RETURNING, Mode.DISCONNECTED, "syslog-udp", number, 45 * SECOND)
        facts.append((node, body))
    return facts


def _measure(side: Callable[[Path, Sequence[_T], int], float], folder: Path, work: Sequence[_T]) -> tuple[float, float]:
    return side(folder, work, BATCH_EVENTS), side(folder, work[:SINGLES], 1)


def _median(runs: Sequence[tuple[float, float]]) -> Rates:
    batched, singly = zip(*runs, strict=True)
    return Rates(statistics.median(batched), statistics.median(singly), [round(each) for each in batched])


def _ours(folder: Path, facts: Sequence[Fact], batch: int) -> float:
    """Events per second, from the first offer to the last acknowledgement."""
    path = _fresh(folder / "ours.db")
    ledger = journal.Journal(_LOG, _KEY, WallClock())
    writer = Writer(path, [ledger])

    def append(part: Sequence[Fact]) -> None:
        def job(db: sqlite3.Connection) -> None:
            for subject, body in part:
                ledger.stage(subject, body)

        writer.submit(job).result()

    began = time.perf_counter()
    for start in range(0, len(facts), batch):
        append(facts[start : start + batch])
    seconds = time.perf_counter() - began
    writer.close()
    return len(facts) / seconds


def _peer(folder: Path, rows: Sequence[Row], batch: int) -> float:
    path = _fresh(folder / "peer.db")
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    columns = [tuple(zip(*part, strict=True)) for part in parts]
    mentions = [list(zip(*journal.mentions(one[0], one[4], one[3]), strict=True)) for one in columns]
    with closing(connect(path)) as db:
        began = time.perf_counter()
        for part, mention in zip(parts, mentions, strict=True):
            db.execute("BEGIN IMMEDIATE")
            db.executemany(_INSERT_EVENT, part)
            db.executemany(_INSERT_MENTION, mention)
            db.execute("COMMIT")
        seconds = time.perf_counter() - began
    return len(rows) / seconds


def _rows(path: Path, facts: Sequence[Fact]) -> list[Row]:
    """The rows that our own journal makes of `facts`."""
    _ours(path.parent, facts, BATCH_EVENTS)
    with closing(connect(path.with_name("ours.db"))) as db:
        return db.execute("SELECT * FROM event ORDER BY position").fetchall()


def _fresh(path: Path) -> Path:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    bring_up(path)
    with closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        journal.start_log(db, _LOG, keys.public_bytes(_KEY), 0)
        db.execute("COMMIT")
    return path


def _flush_seconds(path: Path) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        samples = []
        for number in range(200):
            os.pwrite(fd, bytes(4096), number * 4096)
            began = time.perf_counter()
            os.fdatasync(fd)
            samples.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    return statistics.median(samples)
