"""`sync.site` and `appliance.shelf`, with a real hub behind the line: what the trials do not show by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise

import pytest

from fleet.document import Id
from fleet.limits import MINUTE, MS, SECOND
from store import document, peers, shared
from sync import messages, receipt
from sync.messages import Heads, Hello, Lane, Level, Released
from sync.protocol import RECEIPT_NS, Caps, State
from tests.simulation.boxes import TENANT, memory_folder
from tests.simulation.world import YEAR_NS, Copy, Quality, World


@pytest.fixture
def world() -> Iterator[World]:
    root = memory_folder()
    made = World(root, 3, 1)
    assert made.run_for(30 * SECOND, made.all_live)
    yield made
    made.close()
    shutil.rmtree(root)


def test_a_site_whose_events_never_stop_is_live_all_the_same(world: World) -> None:
    site = world.copies[0]
    world.degrade(site, Quality(delay_ns=300 * MS), 10 * MINUTE)
    world.partition(site, 5 * SECOND)
    for number in range(600):
        world.after(number * 100 * MS, lambda: world.write(site))
    assert world.run_for(50 * SECOND, lambda: site.box.state == State.RETURNING)
    assert world.run_for(50 * SECOND, lambda: site.box.state == State.LIVE)


def test_a_segment_comes_through_while_events_trickle_in(world: World) -> None:
    site = world.copies[0]
    world.degrade(site, Quality(delay_ns=300 * MS), 10 * MINUTE)
    for number in range(600):
        world.after(number * 100 * MS, lambda: world.write(site))
    world.seal(site)
    done = "SELECT count(*) FROM custody WHERE state='here'"
    assert world.run_for(50 * SECOND, lambda: world.hub.db.execute(done).fetchone() == (1,))


def test_a_site_may_prune_what_a_receipt_of_both_lists_and_nothing_else(world: World) -> None:
    site = world.copies[0]
    world.seal(site)
    here = "SELECT count(*) FROM custody WHERE state='here'"
    assert world.run_for(50 * SECOND, lambda: world.hub.db.execute(here).fetchone() == (1,))
    assert [(one.sha256,) for one in _not_covered(site)] == site.box.db.execute("SELECT sha256 FROM segment").fetchall()
    assert world.run_for(2 * RECEIPT_NS, lambda: not _not_covered(site)), "nothing else happened, and a receipt came"
    (sha256,) = site.box.db.execute("SELECT sha256 FROM custody").fetchone()
    newest = peers.newest_receipt(site.box.db, site.writer, both=True)
    assert newest is not None
    assert receipt.read(newest.content).segments == (sha256,)
    world.seal(site)
    world.write(site)
    assert world.run_for(4 * RECEIPT_NS, lambda: len(_listed(site)) == 2)
    assert len(set(_listed(site))) == 2, "each is listed once"


def _not_covered(site: Copy) -> list[peers.Segment]:
    site.box.shelf.begin(site.box.db)
    return list(site.box.shelf.segments_not_covered(whole=False))


def _listed(site: Copy) -> list[bytes]:
    rows = site.box.db.execute("SELECT content FROM receipt WHERE length(site_signature) > 0")
    return [sha256 for (content,) in rows for sha256 in receipt.read(content).segments]


def test_a_clock_that_is_set_back_ten_years_costs_one_new_session(world: World) -> None:
    site = world.copies[0]
    fence = site.box.uplink.site.fence
    site.box.clock.skew_ns = -10 * YEAR_NS
    assert world.run_for(30 * SECOND, lambda: site.box.uplink.site.fence > fence)
    assert world.run_for(30 * SECOND, world.all_live)
    world.write(site, 3)
    assert world.rest(10 * SECOND)


def test_released_said_twice_changes_nothing(world: World) -> None:
    site = world.copies[0].box.uplink.site
    before = site.level_seq
    site.heard(Released(site.fence), world.now_ns, world.copies[0].box.shelf)
    assert site.level_seq == before != ()


def test_a_new_epoch_is_begun_once(world: World) -> None:
    site = world.copies[0]
    image = world.image(site)
    world.write(site, 3)
    world.run_for(5 * SECOND)
    world.restore(site, image)
    assert world.run_for(30 * SECOND, lambda: site.box.journal.log.epoch == 2)
    world.run_for(MINUTE)
    assert site.box.journal.log.epoch == 2


def test_nothing_but_a_hello_is_said_while_all_lanes_stand_still(world: World) -> None:
    site = world.copies[0]
    site.box.uplink.site.caps = Caps(paused=frozenset(Lane) - {Lane.CONTROL})
    world.run_for(5 * SECOND)
    world.write(site, 3)
    said = site.box.turn([], True, world.now_ns)
    assert {parcel.lane for parcel in said} <= {Lane.CONTROL}


def test_a_transaction_that_fell_begins_with_a_hello(world: World) -> None:
    box = world.copies[0].box
    box.uplink.fell(world.now_ns)
    said = [messages.decode(parcel.data) for parcel in box.turn([], True, world.now_ns)]
    assert [type(one) for one in said] == [Hello]


def test_a_list_of_documents_in_runs_loses_none_and_each_run_speaks_for_itself() -> None:
    listed = sorted(("node", f"n{number:05}#0", b"h") for number in range(2 * shared.LISTED_MAX + 7))
    runs = list(shared.runs(listed))
    assert [entry for run in runs for entry in run[:-1]][1:] == listed
    assert all(former[-1] == later[0] for former, later in pairwise(runs))
    assert max(map(len, runs)) <= shared.LISTED_MAX
    assert [list(run) for run in shared.runs([])] == [[("", "", b"")] * 2]


def test_a_level_speaks_of_what_is_acknowledged(world: World) -> None:
    site = world.copies[0]
    world.partition(site, SECOND)
    world.write(site, 4)
    seen: list[Level] = []
    turn = world.hub.turn

    def listening(parcels: list, now_ns: int, **more: bool) -> list:  # type: ignore[type-arg]
        for parcel in parcels:
            said = messages.decode(parcel.data)
            if isinstance(said, Level):
                here = world.hub.events_of(site.writer)
                assert len(here) >= said.logs[-1].seq
                seen.append(said)
        return turn(parcels, now_ns, **more)

    world.hub.turn = listening  # type: ignore[method-assign]
    world.run_for(10 * SECOND)
    assert seen


def test_what_the_hub_asks_of_documents_while_a_site_is_busy_is_answered_then(world: World) -> None:
    """T23, seed 20261129: a bundle that was made while a site joined, and wrote, reached it ten minutes later."""
    copy = world.copies[0]
    site, bundle = copy.box.uplink.site, Id(TENANT, "bundle", "scouts")
    world.hub.run(lambda db: world.hub.shared.edit(db, bundle, {"notes": "in no log that the site hears"}, "Bob"))
    world.half_open(copy, "up", 5 * SECOND)
    world.write(copy)
    assert world.run_for(4 * SECOND, lambda: not site.out.idle)
    site.heard(Heads(site.fence, world.hub.shared.root(world.hub.db, TENANT)), world.now_ns, copy.box.shelf)
    assert world.run_for(MINUTE, lambda: "notes" in document.look(copy.box.db, bundle).values)
