"""A site comes back over a line of 600 ms round trip and 21 kB/s each way: how fast does its history fill in, and how old is
its present meanwhile? 100 nodes change once a second throughout. `peer` is the bound, 1,000 events/s.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sqlite3
import threading
import time
from pathlib import Path

import msgspec

from bench.island import Island, island
from bench.mainland import Harbor, backlog, harbor, join, place, wait_until
from tests.trials.proxy import Proxy, Way

_NODES = 100
_EVENTS = int(os.environ.get("SKERRY_BENCH_EVENTS", "60000"))
_RATE_BYTES_PER_S = 21_000
_ONE_WAY_S = 0.3
_BOUND_EVENTS_PER_S = 1_000.0
_BOUND_BYTES = 20.0
_BOUND_AGE_S = 3.0


def run() -> dict[str, object]:
    way = Way(_ONE_WAY_S, _RATE_BYTES_PER_S)
    with place() as root, harbor(root) as hub, Proxy(("127.0.0.1", hub.line), way, way) as proxy:
        alder = root / "alder"
        _adopt_all(alder)
        writer = backlog(alder, _EVENTS)
        with island("--name", "alder", data=alder) as site:
            speaking = threading.Event()
            speaker = threading.Thread(target=_speak, args=(site, speaking), daemon=True)
            speaker.start()
            time.sleep(3)
            join(hub, site, "alder", proxy.port)
            wait_until(lambda: hub.events(writer) > 0, 120)
            time.sleep(5)  # past the beginning
            first, carried, began = hub.events(writer), proxy.passed_up, time.perf_counter()
            ages: list[float] = []
            while hub.events(writer) < _EVENTS and time.perf_counter() - began < 300:
                ages.append(_age_s(hub))
                time.sleep(0.1)
            took_s, got = time.perf_counter() - began, hub.events(writer) - first
            used = proxy.passed_up - carried
            log_bytes = hub.site("alder")
            speaking.set()
            speaker.join()
    ordered = sorted(ages)
    ours = got / took_s
    return {
        "bench": "replay_satellite",
        "ours": round(ours, 1),
        "peer": _BOUND_EVENTS_PER_S,
        "ratio": round(ours / _BOUND_EVENTS_PER_S, 3),
        "unit": "events/s (peer: the bound)",
        "detail": {
            "events": got,
            "seconds": round(took_s, 1),
            "bytes_per_event_all_lanes": round(used / max(got, 1), 2),
            "bytes_per_event_bound": _BOUND_BYTES,
            "line_used": round(used / took_s / _RATE_BYTES_PER_S, 3),
            "age_s_p50": round(ordered[len(ordered) // 2], 2),
            "age_s_max": round(ordered[-1], 2),
            "age_s_bound": _BOUND_AGE_S,
            "rtt_ms": log_bytes.get("rtt_ms"),
        },
    }


def _adopt_all(data: Path) -> None:
    with island("--name", "alder", data=data) as site:
        for number in range(_NODES):
            body = {
                "source": f"http/127.0.0.1/drone-{number:03d}",
                "name": f"drone-{number:03d}",
                "kind": "EDGE",
                "tags": [],
            }
            site.call("POST", "/api/v1/adopt", body)


def _speak(site: Island, over: threading.Event) -> None:
    """Each node once a second: a tenth of them every 100 ms. `temp_c` is the second it was said in."""
    connection = http.client.HTTPConnection("127.0.0.1", site.http, timeout=30)
    turn, began = 0, time.monotonic()
    while not over.wait(max(began + turn / 10 - time.monotonic(), 0)):
        turn += 1
        lines = b"\n".join(
            msgspec.json.encode(
                {
                    "device": f"drone-{number:03d}",
                    "battery_pct": round(90 - turn / 100 % 60, 1),
                    "temp_c": round(time.time() % 100_000, 2),
                    "rssi_dbm": -60 - turn % 20,
                    "lat": 58 + number / 1_000 + turn / 100_000,
                    "lon": 11 + number / 700 + turn / 90_000,
                    "heartbeat": True,
                }
            )
            for number in range(turn % 10, _NODES, 10)
        )
        connection.request("POST", "/v1/ingest", lines, {"content-type": "application/x-ndjson"})
        connection.getresponse().read()


def _age_s(hub: Harbor) -> float:
    """Of the oldest node at the hub: how long ago what it shows was said."""
    now = time.time() % 100_000
    with contextlib.closing(sqlite3.connect(f"file:{hub.data / 'site.db'}?mode=ro", uri=True)) as db:
        bodies = db.execute("SELECT body FROM present").fetchall()
    said = [msgspec.msgpack.decode(body)[-1].get("temp_c", [0.0])[0] for (body,) in bodies]
    return max((now - one for one in said), default=0.0)
