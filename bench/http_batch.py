"""Records a second by `POST /v1/ingest`, durable before 200: in batches of 500, and one by one.

The sender is compiled (`posts.c`) and keeps its connections. Beside it, in the same run, a bare loop that does what cannot be
left out for a batch: decode it, encode its records as a frame and commit them. What nobody can be faster than.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.island import Island, island, posted, posts
from store import frames
from store.database import connect
from store.frames import Offer

_BATCH = 500
_BODIES = 40
_SECONDS = 6.0
_CONNECTIONS = {"batches": 4, "singles": 64}


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        program = posts(folder)
        batches = [_write(folder / f"batch-{number:02d}.json", _array(number)) for number in range(_BODIES)]
        singles = [_write(folder / f"one-{number:02d}.json", _record(number)) for number in range(_BODIES)]
        with island() as made:
            many = _sent(program, made, batches, "batches", _BATCH)
        with island() as made:
            single = _sent(program, made, singles, "singles", 1)
        bare = _bare(folder, [path.read_bytes() for path in batches])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "bench": "http_batch",
        "ours": many["per_s"],
        "peer": bare,
        "ratio": round(many["per_s"] / bare, 2),
        "unit": f"records/s in batches of {_BATCH}, durable",
        "singles_per_s": single["per_s"],
        "detail": {"batches": many, "singles": single, "peer": "a bare loop: decode, encode, commit"},
    }


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _record(number: int) -> str:
    return json.dumps(
        {
            "device": f"drone-{number % 25:03d}",
            "mid": f"drone-{number}",
            "battery_pct": 40 + number % 50,
            "temp_c": 41.3,
        }
        | {"rssi_dbm": -61, "snr_db": 18.2, "vibration_mps2": 0.7, "heartbeat": True}
    )


def _array(number: int) -> str:
    return "[" + ",".join(_record(number * _BATCH + index) for index in range(_BATCH)) + "]"


def _sent(program: Path, made: Island, bodies: list[Path], what: str, records: int) -> dict[str, Any]:
    sent = posted(program, made.http, "/v1/ingest", _CONNECTIONS[what], _SECONDS, bodies)
    assert made.stored() >= sent.good * records, (made.stored(), sent)
    return {
        "per_s": round(sent.good * records / sent.seconds),
        "connections": _CONNECTIONS[what],
        "other_answers": sent.bad,
        "answer_ms_p50": sent.p50_ms,
        "answer_ms_p99": sent.p99_ms,
        "waiting_to_read": made.call("GET", "/intake?format=json")["waiting_to_read"],
    }


def _bare(folder: Path, bodies: list[bytes]) -> int:
    """One core, no network: every record decoded once, a frame and a commit for each four bodies."""
    split = msgspec.json.Decoder(list[msgspec.Raw]).decode
    decode = msgspec.json.Decoder().decode
    db: sqlite3.Connection = connect(folder / "bare.db")
    db.execute("CREATE TABLE frame (first_id INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    stored, began = 0, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        for start in range(0, len(bodies), 4):
            offers = []
            for body in bodies[start : start + 4]:
                raws = [bytes(raw) for raw in split(body)]
                for raw in raws:
                    decode(raw)
                offers += [Offer(0, "http/127.0.0.1/bare", raw) for raw in raws]
            frame = frames.encode(frames.records_of(stored + 1, offers))
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO frame VALUES (?,?)", (frame.first_id, frame.data))
            db.execute("COMMIT")
            stored += len(offers)
    took = time.perf_counter() - began
    db.close()
    return round(stored / took)
