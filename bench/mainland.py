"""What the benchmarks of the return need: a hub and sites as real processes, a backlog, and what the hub holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance.compose import CONNECTIVITY, LIFECYCLE
from bench.island import ROOT, Island, free_port, wait_ready
from fleet.events import Body, NodeDegraded, NodeHeard, NodeQuiet, NodeRecovered
from fleet.projections import connectivity, lifecycle
from store.control import call
from store.database import connect_reader
from store.folder import Folder
from store.ground import Ground
from store.views import View

BLOCK_EVENTS = 500
_VIEWS = ((CONNECTIVITY, connectivity.State), (LIFECYCLE, lifecycle.State))
_ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Harbor:
    def __init__(self, data: Path, line: int, process: subprocess.Popen[bytes], http: int = 0) -> None:
        self.data, self.line, self.process, self.http = data, line, process, http

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return call(self.data / "control.sock", method, path, body)

    def events(self, writer: str = "") -> int:
        """Events of a site's logs (or of all sites) that are committed here."""
        where = "log.writer=?" if writer else "log.writer NOT IN (SELECT value FROM meta WHERE key='writer')"
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'site.db'}?mode=ro", uri=True)) as db:
            (count,) = db.execute(
                "SELECT coalesce(sum(last), 0) FROM (SELECT max(last_seq) AS last FROM block JOIN log ON"
                f" log.id = block.log_id WHERE {where} GROUP BY log.id)",
                (writer,) if writer else (),
            ).fetchone()
        return int(count)

    def site(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.call("GET", "/console/links")["sites"]
        return next((one for one in found if one["name"] == name), {})

    def rss_bytes(self) -> int:
        return rss_bytes(self.process.pid)


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder for one benchmark, gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def kept(name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """A folder for one benchmark, with what `make` put there. With SKERRY_BENCH_CACHE, a folder outside the repository,
    that is made once, and each run gets a copy."""
    cache = os.environ.get("SKERRY_BENCH_CACHE")
    with place() as root:
        if cache is None:
            make(root)
        else:
            held = Path(cache).resolve() / name
            if not held.exists():
                fresh = held.with_name(held.name + ".new")
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir(parents=True)
                make(fresh)
                fresh.rename(held)
            shutil.copytree(held, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
        yield root


@contextlib.contextmanager
def harbor(root: Path, *, tls: bool = True, ready_s: float = 20.0) -> Iterator[Harbor]:
    """A running hub with its broker."""
    data, line, http = root / "harbor", free_port(), free_port()
    command = [sys.executable, str(ROOT / "skerry.py"), "hub", "run", "--data", str(data)]
    command += ["--http", f"127.0.0.1:{http}", "--link", f"127.0.0.1:{line}"]
    environment = {**os.environ, "SKERRY_LINK_TLS": "true" if tls else "false"}
    with (root / "harbor.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    made = Harbor(data, line, process, http)
    try:
        wait_ready(made, ready_s)  # type: ignore[arg-type]
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def join(hub: Harbor, site: Island, name: str, port: int | None = None) -> None:
    """By link file; over `port` where something stands between."""
    made = hub.call("POST", "/console/invite", {"name": name})
    if port is not None:
        made["url"] = [f"{url.rpartition(':')[0]}:{port}" for url in made["url"]]
    site.call("POST", "/console/join", made)


def writer_of(data: Path) -> str:
    with contextlib.closing(sqlite3.connect(f"file:{data / 'site.db'}?mode=ro", uri=True)) as db:
        return str(db.execute("SELECT value FROM meta WHERE key='writer'").fetchone()[0])


def node_ids(count: int, seed: int = 1) -> list[str]:
    dice = random.Random(seed)
    return ["01M7Z" + "".join(dice.choices(_ULID, k=21)) for _ in range(count)]


def history(count: int, ids: list[str], seed: int = 2) -> Iterator[tuple[str, Body]]:
    """Turns of state as an evaluator makes them: stamps to the nanosecond, measured numbers."""
    dice = random.Random(seed)
    now_ns = time.time_ns()
    for number in range(count):
        node = dice.choice(ids)
        at_ns = now_ns + number * 1_000_000
        match number % 4:
            case 0:
                yield (
                    node,
                    NodeQuiet("DISCONNECTED", "LIVE", at_ns - dice.randrange(15 * 10**9, 40 * 10**9), 15 * 10**9),
                )
            case 1:
                yield node, NodeHeard("RETURNING", "DISCONNECTED", "syslog", number * 7, dice.randrange(60 * 10**9))
            case 2:
                rtt, loss = round(dice.uniform(300, 900), 1), round(dice.uniform(0, 60), 1)
                yield node, NodeDegraded("DELAYED", "LIVE", "round trip over the bound", rtt, loss)
            case _:
                yield (
                    node,
                    NodeRecovered("LIVE", "DELAYED", "round trip back inside it", round(dice.uniform(1, 90), 1), 0.0),
                )


def backlog(data: Path, count: int, name: str = "alder", nodes: int = 100) -> str:
    """A site's folder whose log holds `count` events that nobody has; the writer."""
    folder = Folder(data)
    folder.prepare()
    ground = Ground(folder, "default", name, lambda fault: None)
    if not ground.journal.head.seq:
        ground.begin("bench")
    facts = history(count, node_ids(nodes))
    waiting = []
    for _ in range(0, count, BLOCK_EVENTS):
        block = [fact for _, fact in zip(range(BLOCK_EVENTS), facts, strict=False)]

        def job(db: sqlite3.Connection, block: list[tuple[str, Body]] = block) -> None:
            for subject, body in block:
                ground.journal.stage(subject, body)

        waiting.append(ground.writer.submit(job))
        if len(waiting) > 8:  # a job is a block only if it is alone in its commit
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    writer = ground.identity.log.writer
    with contextlib.closing(connect_reader(folder.site_db)) as db:
        views = [View(projection, state) for projection, state in _VIEWS]
        for view in views:
            view.load(db)
    ground.end("asked to", *(view.checkpoint for view in views))
    asyncio.run(ground.close())
    return writer


def wait_until(good: Callable[[], bool], seconds: float, pause_s: float = 0.05) -> float:
    """Seconds until it is so. RuntimeError when it never is."""
    began = time.perf_counter()
    while not good():
        if time.perf_counter() - began > seconds:
            raise RuntimeError(f"not within {seconds:.0f} s")
        time.sleep(pause_s)
    return time.perf_counter() - began
