"""What several benchmarks need: an appliance as a real process on a fresh folder, and the paced sender."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from store.control import NotRunning, Refusal, call
from store.ports import is_free

ROOT = Path(__file__).parent.parent


class Island:
    def __init__(self, data: Path, http: int, syslog: int, process: subprocess.Popen[bytes], mqtt: int = 0) -> None:
        self.data, self.http, self.syslog, self.process, self.mqtt = data, http, syslog, process, mqtt

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return call(self.data / "control.sock", method, path, body)

    def stored(self) -> int:
        """Rows that a query finds: the records in the open partitions."""
        total = 0
        for path in sorted((self.data / "telemetry").glob("*.db")):
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                total += db.execute("SELECT coalesce(sum(records), 0) FROM frame").fetchone()[0]
        return total

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        return 0


_given: set[int] = set()


def free_port() -> int:
    """Free for TCP and UDP, below the ports that the kernel gives to others in the meantime and those that a demo takes,
    and not given before: who was given it may not listen yet. Workers that test side by side share none."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    while True:
        port = random.SystemRandom().randrange(10_000, 24_000) // 8 * 8 + worker
        if port in _given:
            continue
        _given.add(port)
        if is_free(port):
            return port


@contextlib.contextmanager
def island(*flags: str, data: Path | None = None, environment: dict[str, str] | None = None) -> Iterator[Island]:
    """A running appliance; stopped and, unless `data` was given, removed afterwards."""
    folder = (
        data or Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    )
    http, syslog, mqtt = free_port(), free_port(), free_port()
    command = [
        sys.executable,
        os.environ.get("SKERRY_PY", str(ROOT / "skerry.py")),
        "appliance",
        "run",
        "--data",
        str(folder),
    ]
    command += [
        "--http",
        f"127.0.0.1:{http}",
        "--syslog-udp",
        f"127.0.0.1:{syslog}",
        "--syslog-tcp",
        f"127.0.0.1:{syslog}",
        "--mqtt",
        f"127.0.0.1:{mqtt}",
    ]
    log = (folder.parent / f"{folder.name}.log").open("wb")
    process = subprocess.Popen([*command, *flags], stdout=log, stderr=log, env={**os.environ, **(environment or {})})
    made = Island(folder, http, syslog, process, mqtt)
    try:
        wait_ready(made)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)
            (folder.parent / f"{folder.name}.log").unlink(missing_ok=True)


def wait_ready(made: Island, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            made.call("GET", "/readyz")
            return
        except (NotRunning, Refusal, json.JSONDecodeError):
            if made.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the appliance did not start") from None
            time.sleep(0.02)


def sender(folder: Path) -> Path:
    """The compiled sender."""
    made = folder / "blast"
    subprocess.run(["cc", "-O2", "-o", str(made), str(Path(__file__).parent / "blast.c")], check=True)
    return made


def blast(program: Path, port: int, per_s: int, seconds: float) -> tuple[int, float]:
    """Send; (messages sent, messages a second that were really reached)."""
    said = subprocess.run(
        [str(program), "127.0.0.1", str(port), str(per_s), str(seconds)], capture_output=True, check=True, text=True
    )
    sent, took = said.stdout.split()
    return int(sent), int(sent) / float(took)


def settle(count: Any, wanted: int, seconds: float = 20.0) -> int:
    """Wait until `count()` reaches `wanted` or stands still for two seconds; what it is then."""
    seen, since, deadline = count(), time.monotonic(), time.monotonic() + seconds
    while seen < wanted and time.monotonic() - since < 2.0 and time.monotonic() < deadline:
        time.sleep(0.1)
        fresh = count()
        if fresh != seen:
            seen, since = fresh, time.monotonic()
    return int(seen)


def posts(folder: Path) -> Path:
    """The compiled sender of HTTP posts."""
    made = folder / "posts"
    subprocess.run(["cc", "-O2", "-o", str(made), str(Path(__file__).parent / "posts.c")], check=True)
    return made


class Posted(NamedTuple):
    """Answers with 2xx and others, how long it took, and how long an answer took."""

    good: int
    bad: int
    seconds: float
    p50_ms: float
    p99_ms: float


def posted(program: Path, port: int, path: str, connections: int, seconds: float, bodies: list[Path]) -> Posted:
    """Send `bodies` in turn, one under way on each connection."""
    command = [str(program), "127.0.0.1", str(port), path, str(connections), str(seconds), *map(str, bodies)]
    good, bad, *times = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return Posted(int(good), int(bad), *map(float, times))
