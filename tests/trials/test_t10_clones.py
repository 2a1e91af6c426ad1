"""T10: a cloned card, an old image that was put back, a hub that was put back: ten schedules of two boxes.

Found at the first contact of the second copy; both histories are kept; nothing genuine is lost; when a person has taken
one copy away and released the site, it goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.document import Id, Kind
from fleet.limits import MINUTE, SECOND
from store import document, peers
from sync.protocol import State
from tests.simulation.boxes import TENANT, memory_folder
from tests.simulation.world import Copy, World

pytestmark = pytest.mark.trial


@pytest.fixture
def world() -> Iterator[World]:
    root: Path = memory_folder()
    made = World(root, 10, 1)
    assert made.run_for(30 * SECOND, made.all_live)
    made.write(made.copies[0], 5)
    made.run_for(20 * SECOND)
    yield made
    made.close()
    shutil.rmtree(root)


def twins(world: World) -> tuple[Copy, Copy]:
    original = world.copies[0]
    world.ledger.forked.add(original.writer)
    twin = world.clone(original, world.image(original))
    twin.wrote = 1_000_000
    return original, twin


def is_found(world: World) -> bool:
    return world.run_for(2 * MINUTE, lambda: bool(world.held()))


def goes_on(world: World, gone: Copy | None) -> None:
    """Both are heard; a person takes one away and releases the site; everything of both is there."""
    if gone is not None:
        assert world.run_for(5 * MINUTE, lambda: not world.ledger.missing(world)), world.ledger.missing(world)
        world.remove(gone)
    assert world.settle(10 * MINUTE)
    world.write(world.running[0], 3)
    assert world.rest(2 * MINUTE)
    world.run_for(2 * MINUTE)
    assert world.ledger.audit(world) == []


@pytest.mark.parametrize("stays", ["the original", "the copy"])
def test_a_clone_that_comes_while_the_original_is_live_is_found(world: World, stays: str) -> None:
    original, twin = twins(world)
    world.write(original, 3)
    world.run_for(5 * SECOND)
    world.write(twin, 4)
    assert is_found(world)
    goes_on(world, twin if stays == "the original" else original)


@pytest.mark.parametrize("stays", ["the original", "the copy"])
def test_a_clone_that_worked_alone_is_found_and_its_history_is_kept(world: World, stays: str) -> None:
    original, twin = twins(world)
    for copy in (original, twin):
        copy.line.cut()
    for _ in range(4):
        world.write(original, 3)
        world.write(twin, 5)
        world.run_for(10 * SECOND)
    twin.line.heal()
    assert world.run_for(MINUTE, lambda: twin.box.state == State.LIVE)
    assert not world.held()  # the first to come back is believed
    original.line.heal()
    assert is_found(world)  # at the first contact of the second
    goes_on(world, twin if stays == "the original" else original)


@pytest.mark.parametrize("stays", ["the original", "the copy"])
def test_what_two_copies_wrote_of_one_node_stands_side_by_side_at_both_ends(world: World, stays: str) -> None:
    """One author, one number, two words: no document can hold both, and neither may be lost."""
    original, twin = twins(world)
    node = f"{original.box.name}-node-0"
    for copy, word in ((original, "as the original has it"), (twin, "as the copy has it")):
        copy.line.cut()
        copy.box.edit(node, {"name": word}, "Alice")
        copy.box.edit(node, {"notes": word}, "Alice")
    original.line.heal()
    world.run_for(MINUTE)
    twin.line.heal()
    assert is_found(world)
    goes_on(world, twin if stays == "the original" else original)
    for box in (world.hub, world.running[0].box):
        view = document.look(box.db, Id(TENANT, Kind.NODE, node))
        told = {each.pointer: {each.effective.value, *(one.value for one in each.others)} for each in view.conflicts}
        assert told == {key: {"as the original has it", "as the copy has it"} for key in ("name", "notes")}


def test_two_copies_that_return_at_one_instant_are_found(world: World) -> None:
    original, twin = twins(world)
    for copy in (original, twin):
        copy.line.cut()
    world.run_for(10 * SECOND)
    world.write(original, 3)
    world.write(twin, 3)
    world.heal()
    assert is_found(world)
    goes_on(world, twin)


def test_an_old_image_that_is_put_back_goes_on_in_a_new_epoch(world: World) -> None:
    site = world.copies[0]
    image = world.image(site)
    world.write(site, 10)
    world.run_for(20 * SECOND)
    world.ledger.forked.add(site.writer)
    world.restore(site, image)
    assert world.run_for(2 * MINUTE, lambda: len(peers.heads_of(world.hub.db, TENANT, site.writer)) == 2)
    goes_on(world, None)


def test_an_old_image_that_worked_before_its_return_keeps_both_histories(world: World) -> None:
    site = world.copies[0]
    image = world.image(site)
    world.write(site, 10)
    world.run_for(20 * SECOND)
    world.ledger.forked.add(site.writer)
    site.line.cut()
    world.restore(site, image)
    world.write(site, 6)
    world.run_for(5 * SECOND)
    site.line.heal()
    assert is_found(world)
    goes_on(world, None)
    (kept,) = world.hub.db.execute("SELECT count(*) FROM branch").fetchone()
    assert kept
    (told,) = world.hub.db.execute("SELECT count(*) FROM event WHERE kind='log.forked'").fetchone()
    assert told == 1


def test_a_hub_that_is_put_back_gets_everything_again_and_holds_nobody(world: World) -> None:
    site = world.copies[0]
    image = world.hub_image()
    world.write(site, 10)
    world.edit(site, at_hub=False)
    world.seal(site)
    world.run_for(2 * MINUTE)
    before = peers.newest_receipt(world.hub.db, site.writer, both=True)
    world.restore_hub(image)
    assert world.run_for(MINUTE, world.all_live)
    assert not world.held()
    goes_on(world, None)
    after = peers.newest_receipt(world.hub.db, site.writer, both=True)
    assert before is not None
    assert after is not None
    assert after.number > before.number  # no number is given twice


def test_a_hub_that_is_put_back_goes_on_with_its_own_log_in_a_new_epoch(world: World) -> None:
    site = world.copies[0]
    image = world.hub_image()
    world.edit(site, at_hub=True)
    world.edit(site, at_hub=True)
    world.run_for(20 * SECOND)
    world.restore_hub(image)
    assert world.run_for(MINUTE, world.all_live)
    world.edit(site, at_hub=True)
    goes_on(world, None)
    peer = peers.get(world.hub.db, site.writer)
    assert peer is not None
    assert peer.log_epoch == 2


def test_a_welcome_that_is_lost_again_and_again_makes_no_clone_of_an_honest_site(world: World) -> None:
    site = world.copies[0]
    for _ in range(6):
        world.partition(site, 2 * SECOND)
        world.run_for(3 * SECOND)
        world.half_open(site, "down", 25 * SECOND)
        world.partition(site, SECOND)
        world.run_for(40 * SECOND)
    world.run_for(MINUTE)
    assert not world.held()
    goes_on(world, None)
