"""What does an idle site cost on its link? All bytes both ways on the wire (TLS and TCP payload) over two minutes, LIVE, its
nodes silent. `peer` is the bound, 1 kbit/s."""

from __future__ import annotations

import os
import time

from bench.island import island
from bench.mainland import harbor, join, place, wait_until
from tests.trials.proxy import Proxy

_SECONDS = float(os.environ.get("SKERRY_BENCH_SECONDS", "120"))
_BOUND_BIT_PER_S = 1_000.0


def run() -> dict[str, object]:
    with (
        place() as root,
        harbor(root) as hub,
        Proxy(("127.0.0.1", hub.line)) as proxy,
        island("--name", "alder", data=root / "alder") as site,
    ):
        join(hub, site, "alder", proxy.port)
        wait_until(lambda: hub.site("alder").get("mode") == "LIVE", 60)
        time.sleep(5)
        before = proxy.passed_up + proxy.passed_down
        began = time.perf_counter()
        time.sleep(_SECONDS)
        carried, took_s = (proxy.passed_up + proxy.passed_down) - before, time.perf_counter() - began
    ours = carried * 8 / took_s
    return {
        "bench": "idle_link",
        "ours": round(ours, 1),
        "peer": _BOUND_BIT_PER_S,
        "ratio": round(ours / _BOUND_BIT_PER_S, 3),
        "unit": "bit/s (peer: the bound)",
        "detail": {"bytes": carried, "seconds": round(took_s, 1)},
    }
