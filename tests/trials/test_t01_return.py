"""T1, the return: site, hub and nats-server are killed with -9 at random instants while people write; what was
acknowledged at the site is at the hub once, byte for byte, and nobody has to do anything for it."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
from psutil import NoSuchProcess

from store import journal
from store.control import NotRunning, Refusal
from tests.cast import eventually
from tests.mainland import Box, mainland

KILLS = 30
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


def words_at(hub: Box, writer: str) -> list[str]:
    from fleet.events import NodeChanged, decode_any

    found = [decode_any(raw, writer=writer, epoch=epoch, seq=seq).body for epoch, seq, raw in hub.log_of(writer)]
    return [body.value for body in found if isinstance(body, NodeChanged) and body.field == "notes"]


def test_whatever_is_killed_what_was_acknowledged_arrives_once(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    killed = {"alder": 0, "harbor": 0, "nats-server": 0}
    slowest_s = 0.0
    with mainland(tmp_path, "alder") as (hub, alder):
        body = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": []}
        node_id = alder.call("POST", "/api/v1/adopt", body)["id"]
        writer = alder.writer()
        alice = Alice(alder, node_id)
        alice.start()
        for _ in range(KILLS):
            time.sleep(rng.random() * 1.2)
            who = rng.choice(list(killed))
            killed[who] += 1
            if who == "alder":
                alder.kill()
                slowest_s = max(slowest_s, alder.start())
            elif who == "harbor":
                hub.kill()
                time.sleep(rng.random() * 0.5)
                slowest_s = max(slowest_s, hub.start())
            else:
                try:
                    hub.broker().kill()
                except (StopIteration, NoSuchProcess):
                    continue
        before = len(alice.acknowledged)
        eventually(lambda: len(alice.acknowledged) > before)
        alice.over.set()
        alice.join()
        assert len(alice.acknowledged) > KILLS
        eventually(lambda: hub.site("alder").get("mode") == "LIVE", seconds=90)
        eventually(lambda: len(hub.log_of(writer)) >= len(alder.log_of(writer)), seconds=60)
        here, there = hub.log_of(writer), alder.log_of(writer)
        assert here == there[: len(here)], f"seed {SEED}"  # byte for byte, in order, without a hole
        told = words_at(hub, writer)
        assert len(told) == len(set(told)), f"seed {SEED}: repeated"
        assert set(alice.acknowledged) <= set(told), f"seed {SEED}: {set(alice.acknowledged) - set(told)}"
        with hub.database() as db:
            assert all(verdict.fault is None for verdict in journal.verify(db))
    print(f"kills {killed}, slowest start {slowest_s:.1f} s, {len(told)} words, {len(here)} events")
