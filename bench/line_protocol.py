"""Points of line protocol a second, durable before 204, beside Debian's InfluxDB with the same bodies in the same run.

The same compiled sender (`posts.c`) sends the same bodies to both: 5,000 points each, as a Telegraf that collects from 25
hosts writes them, four fields a point; afterwards every point is looked for. InfluxDB syncs its log before it answers, as we
do. It is asked in turns with us, so that both have the machine's same minutes. `claimed`: the hosts are nodes, so that what
comes is read as well.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.influx import PROGRAM, ask, influx
from bench.island import Island, island, posted, posts

_POINTS = 5_000  # of a body
_BODIES = 40
_CONNECTIONS = 4
_SECONDS = 6.0
_ROUNDS = 3
_HOSTS = 25


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        program, bodies = posts(folder), _bodies(folder)
        ours, theirs, claimed = [], [], []
        for _ in range(_ROUNDS):
            with island() as made:
                ours.append(_ours(program, made, bodies))
            if PROGRAM is not None:
                theirs.append(_theirs(program, folder / f"influx-{len(theirs)}", bodies))
        size = sum(body.stat().st_size for body in bodies) / len(bodies) / _POINTS
        with island() as made:
            _adopt(made, program, bodies[:1])
            claimed.append(_ours(program, made, bodies))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    best, peer = max(one["per_s"] for one in ours), max((one["per_s"] for one in theirs), default=0)
    return {
        "bench": "line_protocol",
        "ours": best,
        "peer": peer,
        "ratio": round(best / peer, 2) if peer else None,
        "unit": "points/s, durable",
        "detail": {"ours": ours, "influxdb": theirs, "claimed": claimed, "bytes_a_point": round(size, 1)},
    }


def _bodies(folder: Path) -> list[Path]:
    """Every point has a time of its own, so that a database must keep each."""
    rng, made = random.Random(1), []
    for number in range(_BODIES):
        path = folder / f"body-{number:02d}.lp"
        path.write_text("".join(_line(rng, number * _POINTS + index) for index in range(_POINTS)))
        made.append(path)
    return made


def _line(rng: random.Random, number: int) -> str:
    series = f"cpu,cpu=cpu{number // _HOSTS % 4},host=host-{number % _HOSTS:03d}"
    user, system, idle = (f"{rng.random() * most:.6f}" for most in (100, 10, 100))
    fields = f"usage_user={user},usage_system={system},usage_idle={idle},usage_iowait=0"
    return f"{series} {fields} {1795253400000000000 + number}\n"


def _ours(program: Path, made: Island, bodies: list[Path]) -> dict[str, Any]:
    before = _points(made)
    sent = posted(program, made.http, "/api/v2/write?org=fleet&bucket=site", _CONNECTIONS, _SECONDS, bodies)
    stored = _points(made) - before
    assert stored == sent.good * _POINTS, (stored, sent)
    waiting = made.call("GET", "/intake?format=json")["waiting_to_read"]
    began = time.monotonic()
    while made.call("GET", "/intake?format=json")["waiting_to_read"] and time.monotonic() - began < 120:
        time.sleep(0.1)
    return {
        "per_s": round(stored / sent.seconds),
        "other_answers": sent.bad,
        "answer_ms_p50": sent.p50_ms,
        "answer_ms_p99": sent.p99_ms,
        "records": made.stored(),
        "waiting_to_read": waiting,
        "read_after_s": round(time.monotonic() - began, 1),
        "rss_bytes": made.rss_bytes(),
    }


def _points(made: Island) -> int:
    lines = made.call("GET", "/intake?format=json")["lines"]
    return sum(int(line["points"]) for line in lines if line["intake"] == "lines")


def _adopt(made: Island, program: Path, bodies: list[Path]) -> None:
    posted(program, made.http, "/api/v2/write", 1, 0.0, bodies)
    for number in range(_HOSTS):
        name = f"host-{number:03d}"
        body = {"source": f"lines/127.0.0.1/{name}", "name": name, "kind": "DC", "tags": []}
        made.call("POST", "/api/v1/adopt", body)


def _theirs(program: Path, folder: Path, bodies: list[Path]) -> dict[str, Any]:
    with influx(folder) as port:
        sent = posted(program, port, "/write?db=site", _CONNECTIONS, _SECONDS, bodies)
        said = ask(port, "SELECT count(usage_user) FROM cpu")
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "per_s": round(sent.good * _POINTS / sent.seconds),
        "other_answers": sent.bad,
        "answer_ms_p50": sent.p50_ms,
        "answer_ms_p99": sent.p99_ms,
        "counted": said.strip()[:200],
    }
