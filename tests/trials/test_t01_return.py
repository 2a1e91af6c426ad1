"""T1, the return: site, hub and nats-server are killed with -9 at random instants while people write; what was
acknowledged at the site is at the hub once, byte for byte, and nobody has to do anything for it.

Kills do not wait for each other: a box dies while it starts, while the others start, or while all is well.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from psutil import NoSuchProcess

from store import journal
from store.control import NotRunning, Refusal
from tests.cast import eventually
from tests.mainland import Box, mainland

KILLS = 100
PEACE_EVERY = 20  # after so many kills all come to serve again
PATIENCE_S = 120.0  # nothing but a machine that is busy with something else takes so long
SEED = int(os.environ.get("SEED", "20261121"))

pytestmark = [pytest.mark.trial, pytest.mark.timeout(600)]


class Alice(threading.Thread):
    """She writes in a node's notes, one word after the other, and remembers what was acknowledged."""

    def __init__(self, site: Box, node_id: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self._site, self._node_id, self.over = site, node_id, threading.Event()

    def run(self) -> None:
        word = 0
        while not self.over.wait(0.01):
            word += 1
            try:
                said = f"word-{word}"
                self._site.call("PATCH", f"/api/v1/nodes/{self._node_id}", {"field": "notes", "value": said})
                self.acknowledged.append(said)
            except (NotRunning, Refusal, OSError):
                time.sleep(0.05)


def broker_killed(hub: Box) -> bool:
    """Whether there was one to kill."""
    hub.serves()  # or it ended by itself
    try:
        hub.broker().kill()
    except (StopIteration, NoSuchProcess):
        return False
    return True


def words_at(hub: Box, writer: str) -> list[str]:
    from fleet.events import NodeChanged, decode_any

    found = [decode_any(raw, writer=writer, epoch=epoch, seq=seq).body for epoch, seq, raw in hub.log_of(writer)]
    return [body.value for body in found if isinstance(body, NodeChanged) and body.field == "notes"]


def test_whatever_is_killed_what_was_acknowledged_arrives_once(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    doomed = (["alder", "harbor", "nats-server"] * KILLS)[:KILLS]
    rng.shuffle(doomed)
    starting: Counter[str] = Counter()
    slowest_s = 0.0
    with mainland(tmp_path, "alder") as (hub, alder):
        body = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": []}
        node_id = alder.call("POST", "/api/v1/adopt", body)["id"]
        writer = alder.writer()
        alice = Alice(alder, node_id)
        alice.start()
        for number, who in enumerate(doomed, 1):
            time.sleep(rng.random() * 0.6)
            if who == "nats-server":
                eventually(lambda: broker_killed(hub), seconds=PATIENCE_S)
            else:
                box = alder if who == "alder" else hub
                if rng.random() < 0.5:
                    eventually(box.serves, seconds=PATIENCE_S)
                starting[who] += not box.serves()
                box.kill()
                box.start(wait=False)
            if number % PEACE_EVERY == 0:
                began = time.monotonic()
                eventually(lambda: alder.serves() and hub.serves(), seconds=PATIENCE_S)
                slowest_s = max(slowest_s, time.monotonic() - began)
                eventually(lambda: hub.site("alder").get("mode") == "LIVE", seconds=PATIENCE_S)
        eventually(lambda: alder.serves() and hub.serves(), seconds=PATIENCE_S)
        before = len(alice.acknowledged)
        eventually(lambda: len(alice.acknowledged) > before)
        alice.over.set()
        alice.join()
        assert len(alice.acknowledged) > KILLS
        eventually(lambda: hub.site("alder").get("mode") == "LIVE", seconds=PATIENCE_S)
        eventually(lambda: len(hub.log_of(writer)) >= len(alder.log_of(writer)), seconds=60)
        here, there = hub.log_of(writer), alder.log_of(writer)
        assert here == there[: len(here)], f"seed {SEED}"  # byte for byte, in order, without a hole
        told = words_at(hub, writer)
        assert len(told) == len(set(told)), f"seed {SEED}: repeated"
        assert set(alice.acknowledged) <= set(told), f"seed {SEED}: {set(alice.acknowledged) - set(told)}"
        with hub.database() as db:
            assert all(verdict.fault is None for verdict in journal.verify(db))
    print(
        f"\nkills {dict(Counter(doomed))}, of them while starting {dict(starting)}, all back in {slowest_s:.1f} s at most"
    )
    print(f"{len(alice.acknowledged)} words acknowledged, {len(here)} events")
