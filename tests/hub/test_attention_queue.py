"""What needs a person at a hub: put together from what sites told and what people wrote, with real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from fleet.document import Kind
from fleet.limits import DAY, HOUR, MINUTE
from fleet.people import Identity, Refused, Role
from fleet.reading import Health
from hub.state import Certificate
from store.attention import Marks
from store.clock import WallClock
from store.shared import Shared
from tests.hub.test_hub_box import Harbor
from web.ports import Attention, AttentionQuery, AttentionView, AttentionWish, NodeQuery

ALICE = Identity(name="Alice", role=Role.OPERATOR)


class Queue:
    """The box and those who take things up. What is written stays in the hub's own log."""

    def __init__(self, root: Path) -> None:
        self.harbor = Harbor(root)
        self.box, self.fleet = self.harbor.box, self.harbor.fleet
        ground = self.harbor.ground
        self.clock: WallClock = ground.clock
        shared = Shared(ground.journal, ground.clock, owner=True)
        self.box.marks = Marks(ground.writer, shared, "default", lambda db, one: (None, ()))
        ground.journal.listen(self.box.drifting.heard)

    async def view(self, **query: str) -> AttentionView:
        return await self.box.attention(ALICE, AttentionQuery(**query))

    async def line(self, key: str) -> Attention | None:
        view = await self.view()
        return next((one for one in (*view.items, *view.quiet) if one.key == key), None)

    async def say(self, key: str, action: str, **more: object) -> None:
        await self.box.handle(ALICE, msgspec.convert({"key": key, "action": action, **more}, AttentionWish))

    async def waits(self, key: str) -> bool:
        return any(one.key == key for one in (await self.view()).items)

    def ill(self, node_id: str, since_ns: int) -> str:
        """Make a node fail; the key of the item that it becomes."""
        here = self.fleet.nodes[node_id]
        present = msgspec.structs.replace(here.present, health=Health.FAILED, since_ns=since_ns)
        self.fleet.put(node_id, here._replace(present=present))
        return f"failed:node:{node_id}"


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    made = Queue(tmp_path / "harbor")
    yield made
    await made.harbor.ground.close()


def heard(queue: Queue) -> str:
    """A node whose site is heard, and which is well."""
    return next(one.id for one in queue.box._everyone().rows.values() if one.lost_ns is None)


async def test_what_is_worse_stands_first_and_the_first_screen_shows_the_same(queue: Queue) -> None:
    key = queue.ill(heard(queue), queue.clock.now_ns() - HOUR)
    view = await queue.view()
    scores = [one.score for one in view.items]
    assert scores == sorted(scores, reverse=True)
    assert key in [one.key for one in view.items]
    site = await queue.box.site(ALICE, NodeQuery())
    assert [one.key for one in site.attention] == [one.key for one in view.items]
    assert site.needing == view.total == len(view.items)


async def test_who_has_seen_it_stands_beside_it_and_what_begins_anew_is_back(queue: Queue) -> None:
    node_id = heard(queue)
    key = queue.ill(node_id, queue.clock.now_ns() - HOUR)
    await queue.say(key, "seen", remark="motor 3 is on the bench")
    line = await queue.line(key)
    assert line is not None
    assert (line.seen_by, line.remark) == ("Alice", "motor 3 is on the bench")
    assert not await queue.waits(key)
    queue.ill(node_id, queue.clock.now_ns() + MINUTE)
    assert await queue.waits(key)
    await queue.say(key, "seen")
    assert await queue.waits(key), "it began after this was said"


async def test_what_can_wait_sleeps_and_what_is_put_back_stands_there_again(queue: Queue) -> None:
    key = queue.ill(heard(queue), queue.clock.now_ns() - HOUR)
    await queue.say(key, "later", until_ns=queue.clock.now_ns() + HOUR)
    assert not await queue.waits(key)
    await queue.say(key, "back")
    assert await queue.waits(key)
    line = await queue.line(key)
    assert line is not None
    assert (line.seen_ns, line.later_until_ns, line.remark) == (None, None, "")


async def test_what_somebody_has_stays_in_the_queue_with_the_name(queue: Queue) -> None:
    key = queue.ill(heard(queue), queue.clock.now_ns() - HOUR)
    await queue.say(key, "mine")
    await queue.say(key, "mine", to="Bob", remark="you know that motor")
    line = await queue.line(key)
    assert line is not None
    assert (line.assigned, line.assigned_by, line.remark) == (
        "Bob",
        "Alice",
        "you know that motor",
    )
    assert await queue.waits(key)


async def test_a_site_in_quarantine_can_be_taken_up_in_its_own_document(queue: Queue) -> None:
    key = next(one.key for one in (await queue.view(cause="quarantine")).items)
    await queue.say(key, "seen")
    kind, writer = key.split(":")[1:]
    assert kind == Kind.SITE
    assert writer in queue.fleet.sites
    assert not await queue.waits(key)
    assert (Kind.SITE, writer) in queue.box.drifting.board.handled


async def test_forks_gaps_and_a_connected_site_that_stays_behind_are_items_and_a_site_cut_off_is_none(
    queue: Queue,
) -> None:
    now_ns = queue.clock.now_ns()
    site = next(one for one in queue.fleet.sites.values() if one.mode is not None and one.mode.name == "LIVE")
    site.forks = ("epoch 1: two histories from event 7 on",)
    site.certificate = Certificate(3, now_ns, 10, 1, 0, 2, b"", True)
    site.head_seq, site.oldest_missing_ns, site.since_ns = site.acked_seq + 500, now_ns - 2 * HOUR, now_ns - DAY
    causes = {one.cause for one in (await queue.view(site=site.name)).items}
    assert {"fork", "gap", "debt"} <= causes
    await queue.say(f"fork:site:{site.writer}", "seen")
    assert not await queue.waits(f"fork:site:{site.writer}")
    site.forks += ("epoch 1: another one from event 9 on",)
    assert await queue.waits(f"fork:site:{site.writer}"), "one more fork is another one"
    cut = [one for one in queue.fleet.sites.values() if one.mode is not None and one.mode.name == "DISCONNECTED"]
    calm = [one.name for one in cut if not one.quarantine]
    assert calm
    assert not [one for one in (await queue.view()).items if one.site in calm]


async def test_what_has_no_document_goes_only_with_its_cause(queue: Queue) -> None:
    queue.harbor.parts.quarantine.put("link", "mallory", "not a message", b"\x00")
    await queue.harbor.parts.quarantine.flush()
    line = await queue.line("input:box:quarantine")
    assert line is not None
    assert not line.takes
    with pytest.raises(Refused):
        await queue.say(line.key, "seen")


@pytest.mark.parametrize(
    ("action", "more", "status"),
    [("later", {}, 422), ("sold", {}, 422), ("seen", {"remark": "x" * 1_000}, 422)],
)
async def test_what_means_nothing_is_refused(queue: Queue, action: str, more: dict[str, str], status: int) -> None:
    key = queue.ill(heard(queue), queue.clock.now_ns() - HOUR)
    with pytest.raises(Refused) as no:
        await queue.say(key, action, **more)
    assert no.value.status == status


async def test_nobody_takes_up_what_is_not_there(queue: Queue) -> None:
    with pytest.raises(Refused) as no:
        await queue.say("silent:node:nobody", "seen")
    assert no.value.status == 404
