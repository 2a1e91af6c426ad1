"""QoS 1 a second from eight publishers, each message on the disk before its PUBACK, beside Mosquitto, which keeps nothing.

The same compiled publisher speaks to both by turns, on the same machine at the same time, with as many messages
unacknowledged as its window; what counts is the middle of the runs. A window of 1 waits for the disk each time. Beside it:
the same from devices with tokens, whose messages are not only stored but read meanwhile, node by node.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

from bench.island import island, settle
from bench.publishers import CLIENTS, mosquitto, publish, pump

_WINDOW = 100  # what ThingsBoard tells its clients to keep in flight at most
_WINDOWS = {1: 4_000, 20: 100_000, _WINDOW: 300_000}  # and how many messages of each
_RUNS = 3


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    ours: dict[int, list[float]] = {window: [] for window in _WINDOWS}
    peer: dict[int, list[float]] = {window: [] for window in _WINDOWS}
    known: list[float] = []
    acknowledged = 0
    try:
        program = pump(folder)
        with island() as made, mosquitto(folder) as port:
            for _ in range(_RUNS):
                for window, messages in _WINDOWS.items():
                    acked, took = publish(program, made.mqtt, 1, window, messages)
                    ours[window].append(acked / took)
                    acknowledged += acked
                    if port:
                        acked, took = publish(program, port, 1, window, messages)
                        peer[window].append(acked / took)
            tokens = [
                made.call("POST", "/api/v1/devices", {"name": f"drone-{number}"})["secret"] for number in range(CLIENTS)
            ]
            for _ in range(_RUNS):
                acked, took = publish(program, made.mqtt, 1, _WINDOW, _WINDOWS[_WINDOW], tokens)
                known.append(acked / took)
                acknowledged += acked
            stored = settle(made.stored, acknowledged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    best, other = statistics.median(ours[_WINDOW]), statistics.median(peer[_WINDOW] or [0.0])
    return {
        "bench": "mqtt_qos1",
        "ours": round(best),
        "peer": round(other),
        "ratio": round(best / other, 3) if other else None,
        "unit": "messages/s acknowledged",
        "detail": {
            "peer": "mosquitto, persistence off, nobody subscribed",
            "publishers": CLIENTS,
            "window": _WINDOW,
            "acknowledged": acknowledged,
            "ours_from_known_devices": [round(one) for one in known],
            "of_those_not_stored": max(acknowledged - stored, 0),
            "ours_by_window": {window: [round(one) for one in runs] for window, runs in ours.items()},
            "peer_by_window": {window: [round(one) for one in runs] for window, runs in peer.items()},
        },
    }
