"""T8: the broker forgets, or lies. Its store is wiped, rolled back to an earlier copy, and full of flipped bits; each time
with parcels in it that no hub had taken yet. What was acknowledged at the site is at the hub once in the end, from the
site's log alone, and nobody has to do anything for it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from store import journal
from tests.cast import eventually
from tests.mainland import Box, mainland
from tests.trials.test_t01_return import words_at

SEED = int(os.environ.get("SEED", "20261121"))
SEEDS = range(SEED, SEED + 10)
FLIPS_PER_FILE = 8
WORDS = 12

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]
Harm = Callable[[Path], None]


class Coast(NamedTuple):
    """Harbor, alder, and what Alice wrote there and was told to be kept."""

    hub: Box
    alder: Box
    node_id: str
    acknowledged: list[str]

    @property
    def store(self) -> Path:
        return self.hub.data / "broker" / "jetstream"

    def write(self, count: int = WORDS) -> None:
        for _ in range(count):
            word = f"word-{len(self.acknowledged)}"
            self.alder.call("PATCH", f"/api/v1/nodes/{self.node_id}", {"field": "notes", "value": word})
            self.acknowledged.append(word)


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coast]:
    with mainland(tmp_path_factory.mktemp("t08"), "alder") as (hub, alder):
        body = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": []}
        node_id = alder.call("POST", "/api/v1/adopt", body)["id"]
        eventually(lambda: hub.site("alder").get("mode") == "LIVE")
        yield Coast(hub, alder, node_id, [])


def harmed(coast: Coast, harm: Harm) -> None:
    """The hub stands still while the broker takes in; then both end, and the store is not what it was."""
    hub = coast.hub
    broker = hub.broker()
    assert hub.process is not None
    coast.write()
    hub.process.send_signal(signal.SIGSTOP)
    coast.write()
    broker.kill()
    hub.kill()
    coast.write()
    harm(coast.store)
    hub.start()


def everything_arrives_once(coast: Coast, what: str) -> None:
    hub, alder = coast.hub, coast.alder
    writer = alder.writer()
    there = alder.log_of(writer)
    eventually(lambda: events_here(hub, writer), lambda count: count >= len(there), seconds=60)
    here, told = hub.log_of(writer), words_at(hub, writer)
    assert here[: len(there)] == there, f"{what}: not the same log"
    assert len(told) == len(set(told)), f"{what}: repeated"
    assert set(coast.acknowledged) <= set(told), f"{what}: {set(coast.acknowledged) - set(told)}"
    eventually(lambda: hub.site("alder").get("mode") == "LIVE", seconds=60)
    assert hub.site("alder")["quarantine"] == [], what


def events_here(hub: Box, writer: str) -> int:
    with contextlib.closing(hub.database()) as db:
        sql = "SELECT count(*) FROM event JOIN log ON log.id=event.log_id WHERE log.writer=?"
        return int(db.execute(sql, (writer,)).fetchone()[0])


def flip(store: Path, dice: random.Random) -> int:
    """Bits in every file of the store that has any bytes; how many files that is."""
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.stat().st_size]
    for path in files:
        raw = bytearray(path.read_bytes())
        for _ in range(FLIPS_PER_FILE):
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
    return len(files)


def test_a_wiped_store_costs_nothing(coast: Coast) -> None:
    held: list[int] = []

    def wipe(store: Path) -> None:
        held.extend(path.stat().st_size for path in store.rglob("*.blk"))
        shutil.rmtree(store)

    harmed(coast, wipe)
    assert sum(held) > 0  # there was something to lose
    everything_arrives_once(coast, "wiped")


def test_a_store_of_an_earlier_time_costs_nothing(coast: Coast, tmp_path: Path) -> None:
    image = tmp_path / "earlier"
    harmed(coast, lambda store: shutil.copytree(store, image) and None)  # with parcels that are taken meanwhile
    everything_arrives_once(coast, "copied")

    def roll_back(store: Path) -> None:
        shutil.rmtree(store)
        shutil.copytree(image, store)

    harmed(coast, roll_back)
    everything_arrives_once(coast, "rolled back")


@pytest.mark.parametrize("seed", SEEDS)
def test_flipped_bits_cost_nothing(coast: Coast, seed: int) -> None:
    dice = random.Random(seed)
    flipped: list[int] = []
    harmed(coast, lambda store: flipped.append(flip(store, dice)))
    assert flipped[0] > 0
    everything_arrives_once(coast, f"bits flipped, seed {seed}")


def test_a_store_that_is_wiped_under_a_running_broker_costs_nothing(coast: Coast) -> None:
    shutil.rmtree(coast.store)
    coast.write()
    coast.hub.broker().kill()  # the hub starts it again
    coast.write()
    everything_arrives_once(coast, "wiped while it ran")
    with contextlib.closing(coast.hub.database()) as db:
        assert all(verdict.fault is None for verdict in journal.verify(db))
