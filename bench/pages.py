"""Every page of a site with 1,000 nodes and 10 million raw records, while 5,000 messages a second come in.

Times are taken at the other end of a loopback connection, so they hold the server's work and the transfer. There is no
peer for these pages; `peer` is the bound of 60 ms at the 95th percentile.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from appliance.compose import Appliance
from appliance.config import Config, Http, Ping, Site, Syslog
from bench.island import Island, island, sender
from fleet.node import Kind
from fleet.people import Identity, Role
from store.folder import Folder
from store.frames import Offer
from store.telemetry import Telemetry

_NODES = 1_000
_RECORDS = int(os.environ.get("SKERRY_BENCH_RECORDS", "10000000"))
_PER_S = 5_000
_REQUESTS = 60
_BOUND_MS = 60.0
_BATCH = 8_192

_MESSAGE = (
    b'<134>1 2026-11-21T05:40:26.070822Z drone-%03d skerry - - - {"mid": "drone-%03d-%d", "battery_pct": %d, '
    b'"temp_c": 41.3, "rssi_dbm": -61, "lat": 58.%d, "lon": 11.2%d, "heartbeat": true, "status": "ok"}'
)


def run() -> dict[str, object]:
    root = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        data = root / "data"
        asyncio.run(_people(data))
        _past(data)
        figures = _measure(data, sender(root))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    worst = max(figure["p95_ms"] for path, figure in figures.items() if _is_page(path))
    return {
        "bench": "pages",
        "ours": worst,
        "peer": _BOUND_MS,
        "ratio": round(worst / _BOUND_MS, 3),
        "unit": "ms at p95, the slowest page (peer: the bound)",
        "detail": {
            "slowest_read_of_machines_p95_ms": max(
                one["p95_ms"] for path, one in figures.items() if not _is_page(path)
            ),
            "pages": figures,
            "nodes": _NODES,
            "records": _RECORDS,
            "messages_per_s": _PER_S,
            "requests": _REQUESTS,
        },
    }


def _is_page(path: str) -> bool:
    """What people look at; reads of machines are measured beside them."""
    return not path.startswith(("/api/", "/metrics"))


async def _people(data: Path) -> None:
    """A site with its nodes, adopted as a person would."""
    quiet = Config(
        site=Site(name="alder"),
        http=Http(listen="127.0.0.1:0"),
        syslog=Syslog(udp="", tcp=""),
        ping=Ping(enabled=False),
    )
    appliance = Appliance(data, quiet)
    await appliance.start()
    alice = Identity(name="alice", role=Role.ADMIN, via="console")
    for first in range(0, _NODES, 50):
        await asyncio.gather(
            *(
                appliance.box.adopt(
                    alice, f"syslog/127.0.0.1/drone-{number:03d}", f"drone-{number:03d}", Kind.EDGE, ("drone",)
                )
                for number in range(first, first + 50)
            )
        )
    for number, state in enumerate(tuple(appliance.world.nodes.values())):
        await appliance.box.change(alice, state.node.id, "address", f"127.43.{number // 250}.{number % 250 + 1}")
    await appliance.stop()


def _past(data: Path) -> None:
    """Ten million records of the last day, as the recorder would have written them; read up to near the end."""
    folder = Folder(data)
    telemetry = Telemetry(folder)
    telemetry.open(0)
    now_ns = time.time_ns()
    step_ns = 86_400 * 1_000_000_000 // _RECORDS
    for first in range(0, _RECORDS, _BATCH):
        many = range(first, min(first + _BATCH, _RECORDS))
        telemetry.append(
            [
                Offer(
                    now_ns - (_RECORDS - n) * step_ns,
                    f"syslog/127.0.0.1/drone-{n % _NODES:03d}",
                    _MESSAGE % (n % _NODES, n % _NODES, n, n % 100, n % 100_000, n % 1_000),
                )
                for n in many
            ]
        )
        telemetry.rotate_if_due()
    last = telemetry.next_id - 1
    telemetry.close()
    with contextlib.closing(sqlite3.connect(folder.site_db, isolation_level=None)) as db:
        db.execute(
            "INSERT INTO meta VALUES ('cursor', ?) ON CONFLICT DO UPDATE SET value=excluded.value",
            (str(last - 20_000),),
        )
    with contextlib.closing(sqlite3.connect(folder.series_db, isolation_level=None)) as db:
        db.execute(
            "INSERT INTO meta VALUES ('record', ?) ON CONFLICT DO UPDATE SET value=excluded.value", (last - 20_000,)
        )


def _measure(data: Path, program: Path) -> dict[str, dict[str, float]]:
    with island(data=data) as made:
        token = made.call("POST", "/api/v1/tokens", {"name": "bench", "role": "admin"})["secret"]
        _wait_for_keeper(made)
        load = subprocess.Popen([str(program), "127.0.0.1", str(made.syslog), str(_PER_S), "600", str(_NODES)])
        try:
            time.sleep(15)
            node_id = made.call("GET", "/api/v1/nodes?limit=1")["nodes"][0]["node"]["id"]
            return {path.replace(node_id, "{id}"): _times(made, token, path) for path in _paths(node_id)}
        finally:
            load.kill()
            load.wait()


def _wait_for_keeper(made: Island) -> None:
    """Let the keeper seal the past first, as it would have long since. Nothing comes in yet: every partition is past."""
    deadline = time.monotonic() + 600
    while list((made.data / "telemetry").glob("*.db")) and time.monotonic() < deadline:
        time.sleep(1)


def _paths(node_id: str) -> list[str]:
    now_ns = time.time_ns()
    hour_ago = now_ns - 3_600 * 1_000_000_000
    return [
        "/",
        "/?text=drone-7&reach=online&order=name",
        f"/nodes/{node_id}",
        "/intake",
        "/quarantine",
        "/journal",
        "/account",
        "/api/v1/nodes?limit=100",
        f"/api/v1/nodes/{node_id}",
        f"/api/v1/nodes/{node_id}/series?metric=battery_pct&from={hour_ago}&to={now_ns}",
        "/api/v1/events?after=0&limit=100",
        f"/api/v1/telemetry?after=0&node={node_id}&limit=100",
        "/metrics",
    ]


def _times(made: Island, token: str, path: str) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", made.http, timeout=30)
    took: list[float] = []
    size = 0
    for _ in range(_REQUESTS):
        began = time.perf_counter()
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        size = len(answer.read())
        took.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered with {answer.status}")
        time.sleep(0.05)
    connection.close()
    ordered = sorted(took)
    return {
        "p50_ms": round(statistics.median(took), 1),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 1),
        "bytes": size,
    }
