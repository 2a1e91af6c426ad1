"""T11 across a link: sites with a wrong clock come back to a hub with a right one, and the other way round. Order and
dedupe stay, nobody is locked out, receipts are made, and of two words the one holds that the rules say.

In virtual time every clock, at either end, at every turn of a return; then real processes over the real line, whose
certificates have dates (libfaketime; what is monotonic is the machine's).
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fleet.document import Id
from fleet.events import decode_any
from fleet.limits import MINUTE, MS, SECOND
from store import document, journal, peers
from store.control import NotRunning, Refusal
from sync.protocol import State
from tests.cast import eventually
from tests.mainland import Box, mainland
from tests.simulation.boxes import TENANT, memory_folder
from tests.simulation.world import START_NS, YEAR_NS, Copy, Quality, World
from tests.trials.test_t01_return import words_at
from tests.trials.test_t11_clock import LIBRARY, Clock

SKEWS_NS = {
    "1970": -START_NS + SECOND,
    "ten years back": -10 * YEAR_NS,
    "a minute back": -MINUTE,
    "ten years ahead": 10 * YEAR_NS,
    "2038": 2_147_483_647 * SECOND - START_NS,
}
NOT_BELIEVED = ("1970", "ten years back")  # before this program was made
SLOW = Quality(delay_ns=300 * MS, bytes_per_s=2_400)
CACHE_S = 1
DATE = 1_795_000_000  # seconds from 1970 to about today
RUNS = (  # whose clock, at its start and then while events come in: seconds from the machine's
    ("alder", -DATE, 0),
    ("alder", 362_000_000, -DATE),
    ("alder", 315_360_000, -315_360_000),
    ("harbor", -DATE, 362_000_000),
    ("harbor", 315_360_000, 0),
    ("harbor", -315_360_000, 0),
)

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]


@pytest.fixture
def world() -> Iterator[World]:
    root: Path = memory_folder()
    made = World(root, 11, 2)
    assert made.run_for(30 * SECOND, made.all_live)
    made.write(made.copies[0], 5)
    made.run_for(20 * SECOND)
    yield made
    made.close()
    shutil.rmtree(root)


# -- in virtual time ----------------------------------------------------------------------------------------------


def set_clock(world: World, who: str, skew_ns: int) -> None:
    world.clock_jump(world.copies[0] if who == "site" else None, skew_ns)


def cut_off(world: World) -> Copy:
    """Alder is cut off for ten minutes, and works; Alice there and Bob at the hub name one node."""
    site = world.copies[0]
    world.partition(site, 10 * MINUTE)
    for turn in range(8):
        world.after(turn * MINUTE, partial(world.write, site, 20))
        world.after(turn * MINUTE, partial(world.present, site))
    world.run_for(9 * MINUTE)
    return site


def wrong_all_the_time(world: World, who: str, skew_ns: int) -> None:
    set_clock(world, who, skew_ns)
    cut_off(world)
    world.run_for(2 * MINUTE)


def wrong_until_the_middle_of_the_return(world: World, who: str, skew_ns: int) -> None:
    set_clock(world, who, skew_ns)
    site = cut_off(world)
    world.degrade(site, SLOW, 3 * MINUTE)
    world.ambush(site, State.REPLAYING, partial(set_clock, world, who, 0))
    world.run_for(3 * MINUTE)
    assert (site.box.clock.skew_ns, world.hub.clock.skew_ns) == (0, 0)


def wrong_from_the_middle_of_the_return(world: World, who: str, skew_ns: int) -> None:
    site = cut_off(world)
    world.degrade(site, SLOW, 3 * MINUTE)
    world.ambush(site, State.REPLAYING, partial(set_clock, world, who, skew_ns))
    world.run_for(3 * MINUTE)
    assert {site.box.clock.skew_ns, world.hub.clock.skew_ns} == {0, skew_ns}


def wrong_every_other_second_of_the_return(world: World, who: str, skew_ns: int) -> None:
    site = cut_off(world)
    world.degrade(site, SLOW, 3 * MINUTE)
    for second in range(20):
        world.after(MINUTE + second * SECOND, partial(set_clock, world, who, 0 if second % 2 else skew_ns))
    world.run_for(3 * MINUTE)


SCHEDULES: tuple[Callable[[World, str, int], None], ...] = (
    wrong_all_the_time,
    wrong_until_the_middle_of_the_return,
    wrong_from_the_middle_of_the_return,
    wrong_every_other_second_of_the_return,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("who", ["site", "hub"])
@pytest.mark.parametrize("clock", SKEWS_NS)
def test_a_return_under_a_wrong_clock_is_a_return(
    world: World, clock: str, who: str, schedule: Callable[[World, str, int], None]
) -> None:
    before = [receipts(world, copy) for copy in world.copies]
    schedule(world, who, SKEWS_NS[clock])
    goes_on(world, before)


@pytest.mark.parametrize(("site", "hub"), [*itertools.permutations(("1970", "2038", "ten years ahead"), 2)])
def test_two_wrong_clocks_are_no_worse_than_one(world: World, site: str, hub: str) -> None:
    before = [receipts(world, copy) for copy in world.copies]
    set_clock(world, "hub", SKEWS_NS[hub])
    wrong_all_the_time(world, "site", SKEWS_NS[site])
    goes_on(world, before)


def goes_on(world: World, before: list[int]) -> None:
    """The clocks stay as they are."""
    assert world.run_for(MINUTE, world.all_live)
    assert not world.held()
    for copy in world.copies:
        world.write(copy, 3)
        world.present(copy)
        world.seal(copy)
    assert world.rest(2 * MINUTE)
    world.run_for(3 * MINUTE)
    assert world.all_live()
    assert world.ledger.audit(world) == []
    assert world.counts["a person released a site"] == 0
    for copy, number in zip(world.copies, before, strict=True):
        assert receipts(world, copy) > number
        in_order(world, copy)


def receipts(world: World, copy: Copy) -> int:
    newest = peers.newest_receipt(world.hub.db, copy.writer, both=True)
    return newest.number if newest else 0


def in_order(world: World, copy: Copy) -> None:
    here, there = world.hub.events_of(copy.writer), copy.box.events_of(copy.writer)
    assert here == there[: len(here)]
    stamps = [decode_any(raw, writer=copy.writer, epoch=epoch, seq=seq).hlc for epoch, seq, raw in here]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("who", ["site", "hub"])
@pytest.mark.parametrize("clock", SKEWS_NS)
def test_of_two_names_holds_the_one_whose_clock_is_believed_and_then_the_later_one(
    world: World, clock: str, who: str
) -> None:
    """Alice names a node at the site while it is cut off, Bob names it at the hub a second later."""
    site, node = world.copies[0], f"{world.copies[0].box.name}-node-0"
    world.partition(site, MINUTE)
    world.run_for(SECOND)
    set_clock(world, who, SKEWS_NS[clock])
    site.box.edit(node, {"name": "alice says"}, "Alice")
    world.run_for(SECOND)
    world.hub.edit(site.writer, node, {"name": "bob says"}, "Bob")
    assert world.run_for(3 * MINUTE, world.all_live)
    world.run_for(3 * MINUTE)
    wrong, right = ("alice says", "bob says") if who == "site" else ("bob says", "alice says")
    ahead = clock not in NOT_BELIEVED and SKEWS_NS[clock] > 0
    holds = wrong if ahead else right
    for db in (site.box.db, world.hub.db):
        view = document.look(db, Id(TENANT, "node", node))
        assert view.values["name"].value == holds
        (conflict,) = view.conflicts
        assert [other.value for other in conflict.others] == [right if ahead else wrong], "kept, and shown"
    assert world.ledger.audit(world) == []


# -- real processes ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian package faketime)")
def test_a_real_line_is_up_again_whatever_the_clocks_say(tmp_path: Path) -> None:
    clocks: dict[str, Clock] = {}
    for name in ("alder", "harbor"):
        (tmp_path / f"clock of {name}").mkdir()
        clocks[name] = Clock(tmp_path / f"clock of {name}")
        clocks[name].set(0)
    faked = {name: only_the_clock(clock.environment()) for name, clock in clocks.items()}
    acknowledged: list[str] = []
    with mainland(tmp_path, "alder", clocks=faked) as (hub, alder):
        boxes = {"alder": alder, "harbor": hub}
        body = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": []}
        node_id = alder.call("POST", "/api/v1/adopt", body)["id"]
        writer = alder.writer()
        is_live_with_all_of_it(hub, alder, "as it was")
        for who, start_s, then_s in RUNS:
            said = f"{who}, {start_s:+,} s, then {then_s:+,} s"
            receipt = newest_receipt(hub, writer)
            boxes[who].stop()
            clocks[who].set(start_s)
            if who == "harbor":
                write(alder, node_id, acknowledged)
            boxes[who].start()
            write(alder, node_id, acknowledged)
            is_live_with_all_of_it(hub, alder, said)
            clocks[who].set(then_s)
            time.sleep(CACHE_S + 0.2)
            write(alder, node_id, acknowledged)
            is_live_with_all_of_it(hub, alder, said)
            eventually(partial(newest_receipt, hub, writer), lambda number, than=receipt: number > than)
            assert hub.site("alder")["quarantine"] == [], said
            clocks[who].set(0)
        told = words_at(hub, writer)
        assert len(told) == len(set(told))
        assert set(acknowledged) <= set(told)
        with hub.database() as db:
            assert all(verdict.fault is None for verdict in journal.verify(db))
    print(f"\n{len(RUNS)} real runs, {2 * len(RUNS)} clocks, {len(acknowledged)} words")


def only_the_clock(environment: dict[str, str]) -> dict[str, str]:
    """Read again every second: two boxes that do so at each look at the clock would do nothing else."""
    faked = {name: value for name, value in environment.items() if not name.startswith("SKERRY")}
    del faked["FAKETIME_NO_CACHE"]
    return {**faked, "FAKETIME_CACHE_DURATION": str(CACHE_S)}


def write(alder: Box, node_id: str, acknowledged: list[str]) -> None:
    for _ in range(10):
        word = f"word-{len(acknowledged)}"
        alder.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": "notes", "value": word})
        acknowledged.append(word)


def is_live_with_all_of_it(hub: Box, alder: Box, said: str) -> None:
    writer, there = alder.writer(), alder.log_of(alder.writer())

    def so() -> tuple[bool, str, int]:
        try:
            here = hub.log_of(writer)
            found = hub.site("alder")
        except (NotRunning, Refusal):
            return False, said, 0
        return here[: len(there)] == there and found.get("mode") == "LIVE", said, len(here)

    eventually(so, lambda found: found[0], seconds=100)


def newest_receipt(hub: Box, writer: str) -> int:
    with hub.database() as db:
        newest = peers.newest_receipt(db, writer, both=True)
    return newest.number if newest else 0
