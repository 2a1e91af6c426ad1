"""A device that roams: two real sites, one real agent, a bad line to each, and a ledger that neither of them knows.

The line to the site in use is cut every few seconds, wherever the agent is just then, and the other's comes back. A lost
segment of TCP is seen as a pause of its stream, so loss is `stall_chance` of every piece, each way.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.cast import ROOT, Site, eventually, island
from tests.trials.proxy import Proxy, Way

AGENT = ROOT / "firmware-hooks" / "agent.py"


class Found(NamedTuple):
    put: int
    lost: int
    doubled: int  # numbers that stand more than once, at one site or at both
    at: dict[str, int]
    moves: int
    doubts: int  # batches whose finish nobody answered
    marked: int  # records that say they may stand elsewhere too


@contextlib.contextmanager
def agent(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, str(AGENT), "run", "--config", str(config)], stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def put(config: Path, lines: list[str]) -> None:
    subprocess.run(
        [sys.executable, str(AGENT), "put", "--config", str(config)], input="\n".join(lines).encode(), check=True
    )


def backlog(config: Path) -> dict[str, Any]:
    command = [sys.executable, str(AGENT), "status", "--config", str(config)]
    said: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return said


def roam(
    folder: Path,
    *,
    moves: int,
    every_s: float,
    per_s: int = 40,
    loss: float = 0.05,
    delay_s: float = 0.15,
    doubt_s: float = 900.0,
    seed: int = 1,
    kill: bool = False,
) -> Found:
    """`kill`: the power of the agent goes at every other move. `delay_s`: how long an answer is on its way, so that a cut
    often falls between what a site did and what the device hears of it."""
    dice = random.Random(seed)
    config, log = folder / "agent.json", folder / "agent.log"
    up = Way(delay_s=0.005, stall_chance=loss, stall_s_max=0.25)
    down = up if delay_s == 0 else Way(delay_s=delay_s, stall_chance=loss, stall_s_max=0.25)
    with contextlib.ExitStack() as stack:
        sites = [stack.enter_context(island(folder / name, "--name", name)) for name in ("alder", "birch")]
        lines = [
            stack.enter_context(Proxy(("127.0.0.1", site.http), up, down, seed + n)) for n, site in enumerate(sites)
        ]
        said = {
            "queue": str(folder / "queue.db"),
            "device": "kestrel-1",
            "sites": [f"http://127.0.0.1:{line.port}" for line in lines],
            "batch_records": 25,
            "every_s": 0.2,
            "probe_s": 0.5,
            "doubt_s": doubt_s,
        }
        config.write_text(json.dumps(said))
        running = stack.enter_context(agent(config, log))
        written = 0
        for move in range(moves):
            here, away = lines[move % 2], lines[1 - move % 2]
            here.restore()
            if dice.random() < 0.5:
                away.cut()
            else:
                away.swallow()  # half open: what was sent arrives nowhere, and nobody says so
            if kill and move % 2:
                running.send_signal(signal.SIGKILL)
                running.wait()
                running = stack.enter_context(agent(config, log))
            until = time.monotonic() + every_s * dice.uniform(0.8, 1.2)
            while time.monotonic() < until:
                batch = [json.dumps({"n": written + n, "battery_pct": 80}) for n in range(max(per_s // 4, 1))]
                put(config, batch)
                written += len(batch)
                time.sleep(dice.uniform(0.05, 0.25))
        for line in lines:
            line.up = line.down = Way()
            line.restore()
        eventually(lambda: backlog(config), lambda said: said["records"] == 0, 120)
        return _audited(written, sites, log)


def _audited(written: int, sites: list[Site], log: Path) -> Found:
    """What stands at the sites, against what was put."""
    held: Counter[int] = Counter()
    at: dict[str, int] = {}
    marked = 0
    for name, site in zip(("alder", "birch"), sites, strict=True):
        records = [one for one in site.records() if one["source"].startswith("sensor/")]
        held.update(json.loads(one["raw"])["n"] for one in records)
        at[name] = len(records)
        marked += sum(any(mark.startswith("doubt=") for mark in one["marks"]) for one in records)
    lost = sum(held[number] == 0 for number in range(written))
    doubled = sum(count > 1 for count in held.values())
    said = log.read_text()
    return Found(written, lost, doubled, at, said.count("sending to"), said.count("in doubt at"), marked)
