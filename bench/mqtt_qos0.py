"""QoS 0 a second from eight publishers, as fast as they can, from the first byte sent to the last record that a query
finds, beside Mosquitto, whose messages nobody hears: there it is the time until it has read them.

TCP holds a sender back that is faster than the disk, so nothing is lost, and what counts is when everything is stored.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench.island import island
from bench.publishers import CLIENTS, mosquitto, publish, pump

_MESSAGES = 300_000
_RUNS = 3
_WAIT_S = 60.0


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    ours: list[float] = []
    peer: list[float] = []
    lost = 0
    try:
        program = pump(folder)
        with island() as made, mosquitto(folder) as port:
            for _ in range(_RUNS):
                before, began = made.stored(), time.monotonic()
                sent, _ = publish(program, made.mqtt, 0, 1, _MESSAGES)
                while (missing := before + sent - made.stored()) and time.monotonic() - began < _WAIT_S:
                    time.sleep(0.02)
                ours.append(sent / (time.monotonic() - began))
                lost += missing
                if port:
                    began = time.monotonic()
                    sent, _ = publish(program, port, 0, 1, _MESSAGES)
                    peer.append(sent / (time.monotonic() - began))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    best, other = statistics.median(ours), statistics.median(peer or [0.0])
    return {
        "bench": "mqtt_qos0",
        "ours": round(best),
        "peer": round(other),
        "ratio": round(best / other, 3) if other else None,
        "unit": "messages/s stored",
        "detail": {
            "peer": "mosquitto, persistence off, nobody subscribed",
            "publishers": CLIENTS,
            "messages": _MESSAGES * _RUNS,
            "lost": lost,
            "ours_runs": [round(one) for one in ours],
            "peer_runs": [round(one) for one in peer],
        },
    }
