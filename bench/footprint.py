"""What a small box pays: cold start, idle memory, bytes written to disk per raw record, size on disk.

The peer of the bytes is plain SQLite with one row a record (same messages, same pragmas, committed as often); the
others have no peer and stand against their bounds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.island import ROOT, Island, blast, free_port, island, sender, settle, wait_ready

_STARTS = 5
_PER_S = 2_000  # the reference load of a site
_SECONDS = 60.0


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        starts = _cold_starts(folder / "data")
        rss, bytes_a_record, records = _running(sender(folder))
        peer = _plain_rows(folder / "plain.db", records)
        installed = _installed(folder / "venv")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "bench": "footprint",
        "ours": round(bytes_a_record, 1),
        "peer": round(peer, 1),
        "ratio": round(bytes_a_record / peer, 3),
        "unit": "bytes written per raw record",
        "detail": {
            "cold_start_s": round(statistics.median(starts[1:]), 3),
            "first_start_s": round(starts[0], 3),
            "rss_idle_mb": round(rss / 1e6, 1),
            "installed_mb": round(installed / 1e6, 1),
            "records": records,
            "records_per_s": _PER_S,
            "peer": "SQLite, one row a record, WAL, FULL, a commit every 0.2 s",
        },
    }


def _cold_starts(data: Path) -> list[float]:
    """Seconds from exec to the first good answer; the first start makes the folder."""
    found = []
    for _ in range(_STARTS + 1):
        http = free_port()
        command = [sys.executable, str(ROOT / "skerry.py"), "appliance", "run", "--data", str(data)]
        command += ["--http", f"127.0.0.1:{http}", "--syslog-udp", "127.0.0.1:0", "--syslog-tcp", "127.0.0.1:0"]
        command += ["--mqtt", "127.0.0.1:0"]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_ready(Island(data, http, 0, process))
        found.append(time.perf_counter() - began)
        process.terminate()
        process.wait(30)
    return found


def _running(program: Path) -> tuple[int, float, int]:
    """(idle memory, bytes the process had the disk write per record, records)."""
    with island() as made:
        time.sleep(5)
        rss = made.rss_bytes()
        before = _written(made)
        sent, _ = blast(program, made.syslog, _PER_S, _SECONDS)
        settle(made.stored, sent)
        time.sleep(12)  # the values of the last seconds are saved too
        return rss, (_written(made) - before) / sent, sent


def _written(made: Island) -> int:
    for line in Path(f"/proc/{made.process.pid}/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    raise RuntimeError("this kernel does not count what a process writes (/proc/PID/io)")


def _plain_rows(path: Path, records: int) -> float:
    """The peer runs in a process of its own, so that its writes can be counted the same way."""
    code = f"""
import sqlite3, time
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("PRAGMA journal_mode=wal"); db.execute("PRAGMA synchronous=2")
db.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, at INTEGER, source TEXT, raw BLOB)")
message = ('<134>1 2026-11-21T05:40:26.070822Z drone-%02d skerry - - - {{"mid": "drone-%02d-%d", "battery_pct": %.1f, '
           '"temp_c": 41.3, "rssi_dbm": -61, "snr_db": 18.2, "vibration_mps2": 0.7}}')
step = {int(_PER_S * 0.2)}
for first in range(0, {records}, step):
    db.execute("BEGIN")
    db.executemany("INSERT INTO record (at, source, raw) VALUES (?,?,?)", [
        (time.time_ns(), "syslog/127.0.0.1/drone-%02d" % (n % 25), (message % (n % 25, n % 25, n, 40 + n % 500 / 10)).encode())
        for n in range(first, first + step)])
    db.execute("COMMIT")
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
print([line for line in open("/proc/self/io") if line.startswith("write_bytes")][0].split()[1])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return int(said.stdout) / records


def _installed(folder: Path) -> int:
    """Wheel and dependencies in a fresh environment, less what Python brings itself."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", "--no-compile"]
    subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements.lock")], check=True)
    wheel = folder / "wheel"
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(wheel),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    subprocess.run([*pip, "--no-deps", *map(str, wheel.glob("*.whl"))], check=True)
    return sum(path.stat().st_size for path in folder.glob("lib/python*/site-packages/**/*") if path.is_file())
