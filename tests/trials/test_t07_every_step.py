"""T7: hub or site ends at every step of the protocol, before its commit or between commit and send. A to G hold, the
site is LIVE again, and a stale fence is refused wherever it shows up."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.limits import MINUTE, MS, SECOND
from store import peers
from sync import messages
from sync.hub import Phase
from sync.link import Parcel
from sync.messages import Bye, Lane, Level, Ping
from sync.protocol import State
from tests.simulation.boxes import SimClock, SimHub, SimSite, memory_folder
from tests.simulation.world import START_NS, World

pytestmark = pytest.mark.trial


@pytest.fixture
def root() -> Iterator[Path]:
    made = memory_folder()
    yield made
    shutil.rmtree(made)


def _story(world: World) -> None:
    """Everything once: admission, present, log, documents both ways, a segment, a receipt, a cut and a return."""
    site = world.copies[0]
    world.present(site)
    world.write(site, 20)
    world.seal(site)
    world.run_for(4 * SECOND)
    world.edit(site, at_hub=True)
    world.edit(site, at_hub=False)
    world.run_for(4 * SECOND)
    world.partition(site, 2 * SECOND)
    world.write(site, 5)
    world.run_for(8 * SECOND)


def _steps() -> int:
    root = memory_folder()
    world = World(root, 7, 1)
    _story(world)
    world.close()
    shutil.rmtree(root)
    return world.steps


@pytest.mark.parametrize("before_commit", [True, False], ids=["before the commit", "between commit and send"])
@pytest.mark.parametrize("who", ["site", "hub"])
def test_a_box_that_ends_at_any_step_comes_back_and_nothing_is_lost(who: str, before_commit: bool) -> None:
    steps, killed = _steps(), 0
    assert steps > 30
    for step in range(1, steps + 1):
        root = memory_folder()
        world = World(root, 7, 1)
        world.kill_at[step] = (who, before_commit)
        _story(world)
        world.heal()
        assert world.run_for(MINUTE, world.all_live), step
        assert world.rest(2 * MINUTE), step
        world.run_for(90 * SECOND)
        assert world.ledger.audit(world) == [], step
        assert not world.counts["a person released a site"]
        killed += sum(count for what, count in world.counts.items() if "killed" in what)
        world.close()
        shutil.rmtree(root)
    assert killed > steps // 4


def _two(root: Path) -> tuple[SimHub, SimSite, list[int]]:
    now = [START_NS]
    clock = SimClock(lambda: now[0])
    hub = SimHub(root / "hub", "harbor", "01HARBOR000000000000000000", clock, random.Random(1))
    hub.invite("alder", "secret")
    site = SimSite(root / "alder", "alder", "01ALDER0000000000000000000", clock, random.Random(2), "secret")
    return hub, site, now


def _talk(hub: SimHub, site: SimSite, now: list[int], turns: int = 30) -> None:
    down: list[Parcel] = []
    for _ in range(turns):
        now[0] += 50 * MS
        down = hub.turn(site.turn(down, True, now[0]), now[0])


def test_a_stale_fence_is_always_refused(root: Path) -> None:
    hub, site, now = _two(root)
    _talk(hub, site, now)
    assert site.state == State.LIVE
    stale = site.uplink.site.fence
    site.restart()  # a new process, a new session
    _talk(hub, site, now)
    assert site.uplink.site.fence > stale
    before = hub.db.execute("SELECT count(*), max(position) FROM event").fetchone()
    words = (Ping(stale, 1), Level(stale, ()), messages.Stream(stale, 1, 0, b"x"), messages.Bye(stale, "no"))
    parcels = [Parcel(site.writer, Lane.LOG, messages.encode(word)) for word in words]
    said = [messages.decode(one.data) for one in hub.turn(parcels, now[0])]
    assert [one for one in said if isinstance(one, Bye)] == [Bye(stale, "there is no such session here any more")]
    assert hub.db.execute("SELECT count(*), max(position) FROM event").fetchone() == before
    assert hub.harbor.sessions[site.writer].phase is Phase.LIVE


def test_of_two_hubs_with_one_identity_only_the_one_with_the_newest_fence_stores_anything(root: Path) -> None:
    hub, site, now = _two(root)
    _talk(hub, site, now)
    fence = site.uplink.site.fence
    hub.run(lambda db: peers.raise_fence(db, site.writer))  # the other hub, on the same database, welcomed it
    site.write("x")
    before = hub.db.execute("SELECT count(*) FROM event").fetchone()
    word = Parcel(site.writer, Lane.CONTROL, messages.encode(Ping(fence, 1)))
    said = [messages.decode(one.data) for one in hub.turn([word], now[0])]
    assert [type(one) for one in said] == [Bye]
    assert hub.harbor.sessions[site.writer].phase is Phase.NONE
    assert hub.db.execute("SELECT count(*) FROM event").fetchone() == before
