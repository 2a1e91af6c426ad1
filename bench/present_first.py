"""A site of 1,000 nodes comes back with a million events waiting: when does the hub show what each node is *now*?

From the moment the link may come up again to the moment the hub holds the new present of all nodes; on a LAN, and over a
line of 600 ms round trip and 21 kB/s. There is no peer; `peer` is the bound of the LAN case, in seconds.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.island import Island, island
from bench.mainland import Harbor, backlog, harbor, join, place, wait_until
from tests.trials.proxy import Proxy, Way

_NODES = 1_000
_EVENTS = int(os.environ.get("SKERRY_BENCH_EVENTS", "1000000"))
_BOUND_S = 2.0
_SATELLITE_BOUND_S = 8.0
_RATE_BYTES_PER_S = 21_000
_ONE_WAY_S = 0.3


def run() -> dict[str, object]:
    lan = _case(satellite=False)
    satellite = _case(satellite=True)
    return {
        "bench": "present_first",
        "ours": lan["seconds"],
        "peer": _BOUND_S,
        "ratio": round(lan["seconds"] / _BOUND_S, 3),
        "unit": "s until the hub shows the present of 1,000 nodes (peer: the bound)",
        "detail": {
            "lan": lan,
            "satellite": satellite,
            "satellite_bound_s": _SATELLITE_BOUND_S,
            "nodes": _NODES,
            "events_waiting": _EVENTS,
        },
    }


def _case(*, satellite: bool) -> dict[str, Any]:
    with place() as root, harbor(root) as hub, contextlib.ExitStack() as stack:
        alder = root / "alder"
        _adopt_all(alder)
        backlog(alder, _EVENTS)
        port = hub.line
        if satellite:
            way = Way(_ONE_WAY_S, _RATE_BYTES_PER_S)
            proxy = stack.enter_context(Proxy(("127.0.0.1", hub.line), way, way))
            port = proxy.port
        with island("--name", "alder", data=alder) as site:
            site.call("POST", "/console/link", {"action": "cut", "value": ""})
            join(hub, site, "alder", port)
            mark = _speak(site)
            began = time.perf_counter()
            site.call("POST", "/console/link", {"action": "restore", "value": ""})
            wait_until(lambda: _shown(hub, mark) >= _NODES, 120, 0.02)
            seconds = time.perf_counter() - began
            return {"seconds": round(seconds, 2), "events_here_then": hub.events()}


def _adopt_all(data: Path) -> None:
    with island("--name", "alder", data=data) as site:
        for number in range(_NODES):
            body = {
                "source": f"http/127.0.0.1/drone-{number:04d}",
                "name": f"drone-{number:04d}",
                "kind": "EDGE",
                "tags": ["drone"],
            }
            site.call("POST", "/api/v1/adopt", body)


def _speak(site: Island) -> float:
    """Every node says something new; the number by which the hub's page is known to be of now."""
    import http.client

    mark = round(time.time() % 1000, 3)
    lines = b"\n".join(
        msgspec.json.encode(
            {
                "device": f"drone-{number:04d}",
                "battery_pct": 20 + number % 80,
                "temp_c": mark,
                "rssi_dbm": -60 - number % 30,
                "lat": 58 + number / 10_000,
                "lon": 11 + number / 7_000,
                "heartbeat": True,
                "status": "ok",
            }
        )
        for number in range(_NODES)
    )
    connection = http.client.HTTPConnection("127.0.0.1", site.http, timeout=30)
    connection.request("POST", "/v1/ingest", lines, {"content-type": "application/x-ndjson"})
    answer = connection.getresponse()
    answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"the site answered {answer.status}")
    wait_until(lambda: site.call("GET", "/readyz") is not None and _read(site) == 0, 30)
    time.sleep(1.0)
    return mark


def _read(site: Island) -> float:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", site.http, timeout=30)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    return 0.0


def _shown(hub: Harbor, mark: float) -> int:
    """Nodes whose present at the hub has the mark, as committed there."""
    with contextlib.closing(sqlite3.connect(f"file:{hub.data / 'site.db'}?mode=ro", uri=True)) as db:
        bodies = db.execute("SELECT body FROM present").fetchall()
    return sum(_temperature(body) == mark for (body,) in bodies)


def _temperature(body: bytes) -> float | None:
    values = msgspec.msgpack.decode(body)[-1]
    return values.get("temp_c", [None])[0]
