"""A gigabyte of sealed telemetry goes to the hub, and the site is killed five times on the way: every byte once.

Bytes a second from the first segment byte at the hub to the last, the time of the kills and restarts taken off; RSS of both.
`peer` is the bound, 50 MB/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

from bench.island import island
from bench.mainland import backlog, harbor, join, place, rss_bytes, wait_until, writer_of
from fleet.events import SegmentSealed
from store.folder import Folder
from store.ground import Ground

_BYTES = int(os.environ.get("SKERRY_BENCH_BYTES", str(1_000_000_000)))
_SEGMENT_BYTES = 16 * 1024 * 1024
_KILLS = int(os.environ.get("SKERRY_BENCH_KILLS", "5"))
_BOUND_MB_PER_S = 50.0


def run() -> dict[str, object]:
    with place() as root:
        alder = root / "alder"
        backlog(alder, 100)
        names = _seal(alder, _BYTES)
        writer = writer_of(alder)
        peaks = {"site_mb": 0.0, "hub_mb": 0.0}
        busy_s = 0.0
        joined = False
        with harbor(root) as hub:
            for kill in range(_KILLS + 1):
                with island("--name", "alder", data=alder) as site:
                    if not joined:
                        join(hub, site, "alder")
                        joined = True
                    goal = _BYTES * (kill + 1) // (_KILLS + 1) if kill < _KILLS else _BYTES
                    before = _here(hub.data)
                    wait_until(lambda before=before: _here(hub.data) > before, 60, 0.01)  # type: ignore[misc]
                    began = time.perf_counter()
                    while _here(hub.data) < goal and time.perf_counter() - began < 300:
                        peaks["site_mb"] = max(peaks["site_mb"], site.rss_bytes() / 1e6)
                        peaks["hub_mb"] = max(peaks["hub_mb"], rss_bytes(hub.process.pid) / 1e6)
                        time.sleep(0.02)
                    busy_s += time.perf_counter() - began
                    if kill < _KILLS:
                        site.process.send_signal(signal.SIGKILL)
                        site.process.wait()
            wait_until(lambda: _whole(hub.data, writer) == len(names), 60)
            same = _same(hub.data, names)
    ours = _BYTES / busy_s / 1e6
    return {
        "bench": "segments",
        "ours": round(ours, 1),
        "peer": _BOUND_MB_PER_S,
        "ratio": round(ours / _BOUND_MB_PER_S, 3),
        "unit": "MB/s (peer: the bound)",
        "detail": {
            "bytes": _BYTES,
            "segments": len(names),
            "kills": _KILLS,
            "every_byte_once": same,
            "seconds": round(busy_s, 2),
            **{name: round(value, 1) for name, value in peaks.items()},
        },
    }


def _seal(data: Path, total: int) -> list[str]:
    """Segment files of noise, which nothing can compress, and the events that name them."""
    folder = Folder(data)
    ground = Ground(folder, "default", "alder", lambda fault: None)
    dice, names, first, left = random.Random(3), list[str](), 1, total

    def job(db: sqlite3.Connection, row: tuple[object, ...], body: SegmentSealed) -> None:
        db.execute("INSERT INTO segment VALUES (?,?,?,?,?,?,?,?,NULL)", row)
        ground.journal.stage(ground.identity.log.writer, body)

    while left > 0:
        content = dice.randbytes(min(_SEGMENT_BYTES, left))
        left -= len(content)
        digest = hashlib.sha256(content).digest()
        (folder.segments / f"{digest.hex()}.jsonl.zst").write_bytes(content)
        names.append(digest.hex())
        last, size = first + 999, len(content)
        row = (first, last, digest, 1_000, 1, 2, size, 3)
        body = SegmentSealed(digest, first, last, 1_000, 1, 2, size)
        ground.writer.submit(lambda db, row=row, body=body: job(db, row, body)).result()  # type: ignore[misc]
        first = last + 1
    ground.end("asked to")
    asyncio.run(ground.close())
    return names


def _here(data: Path) -> int:
    total = 0
    for path in (data / "segments").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _whole(data: Path, writer: str) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{data / 'site.db'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM custody WHERE site=? AND state='here'", (writer,)).fetchone()[0])


def _same(data: Path, names: list[str]) -> bool:
    files = {path.name.partition(".")[0]: path for path in (data / "segments").glob("*.jsonl.zst")}
    return sorted(files) == sorted(names) and all(
        hashlib.sha256(path.read_bytes()).hexdigest() == name for name, path in files.items()
    )
