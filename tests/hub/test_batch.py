"""One change to many nodes, at the hub: each in the log towards its site, and what another decides on is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.document import Kind as DocumentKind
from fleet.events import AuthorityBegan, Clock, DocumentChanged, Recorded
from fleet.people import Refused
from hub.compose import Hub
from hub.state import NodeHere
from store import journal
from store.database import connect_reader
from tests.hub.sites import ALDER, BIRCH, HARBOR, present
from tests.hub.test_granting import BOB, admitted
from web.ports import MemberQuery

EVERY = [present(site, index, 1).node_id for site in (0, 1) for index in range(3)]
OF_ALDER, OF_BIRCH = EVERY[:3], EVERY[3:]


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Hub]:
    """alder and birch with three nodes each."""
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    now_ns = hub.ground.clock.now_ns()
    for site, writer, name in ((0, ALDER, "alder"), (1, BIRCH, "birch")):
        await admitted(hub, writer, name)
        for index in range(3):
            told = present(site, index, now_ns)
            hub.fleet.put(told.node_id, NodeHere(writer, told, now_ns, now_ns))
    yield hub
    await hub.stop()


def said(hub: Hub) -> list[str]:
    """The nodes whose documents were written, in the order of the journal."""
    with closing(connect_reader(hub.folder.site_db)) as db:
        facts = [one for each in journal.read(db) for one in each]
    return [one.body.document for one in facts if isinstance(one.body, DocumentChanged)]


async def test_a_preview_writes_nothing_and_the_change_is_an_event_for_each_node(harbor: Hub) -> None:
    seen = await harbor.box.change_many(BOB, EVERY, "target_version", "1.5", dry_run=True)
    assert (seen.done, seen.changed, seen.sites) == (False, 6, (("alder", 3), ("birch", 3)))
    assert said(harbor) == []
    done = await harbor.box.change_many(BOB, EVERY, "target_version", "1.5", dry_run=False)
    assert (done.done, done.changed, done.refused) == (True, 6, ())
    assert sorted(said(harbor)) == sorted(EVERY)
    again = await harbor.box.change_many(BOB, EVERY, "target_version", "1.5", dry_run=False)
    assert (again.changed, again.same) == (0, 6)


async def test_what_a_site_decides_on_is_refused_with_its_reason_and_the_rest_goes_on(harbor: Hub) -> None:
    north = await harbor.box.policies.create(BOB, DocumentKind.DOMAIN, "North")
    await harbor.box.change_many(BOB, EVERY, "domain_id", north, dry_run=False)
    took = AuthorityBegan(1, "accepted", "LOCAL", (), 0, "carry on", "hand back", (), 0, 0, "alice", "its own hills")
    harbor.authority.fold([Recorded(0, ALDER, 1, 1, 1 << 50, 0, Clock.SYNCED, took.KIND, 1, north, took)])
    seen = await harbor.box.change_many(BOB, EVERY, "target_version", "1.5", dry_run=True)
    done = await harbor.box.change_many(BOB, EVERY, "target_version", "1.5", dry_run=False)
    for one in (seen, done):
        assert (one.changed, one.sites) == (3, (("birch", 3),))
        assert [(refused.id, refused.site) for refused in one.refused] == [(node_id, "alder") for node_id in OF_ALDER]
        assert "alder decides what is wanted here (epoch 1)" in one.refused[0].why
    tagged = await harbor.box.change_many(BOB, EVERY, "add_tag", "winter", dry_run=False)
    assert (tagged.changed, tagged.refused) == (6, ())  # a tag is nobody's to command


async def test_a_tag_goes_on_and_off_and_leaves_the_others(harbor: Hub) -> None:
    await harbor.box.change(BOB, OF_ALDER[0], "tags", "scout")
    await harbor.box.change_many(BOB, OF_ALDER, "add_tag", "winter", dry_run=False)
    view = await harbor.box.node(BOB, OF_ALDER[0])
    assert view is not None
    assert view.node.tags == ("scout", "winter")
    done = await harbor.box.change_many(BOB, EVERY, "remove_tag", "winter", dry_run=False)
    assert (done.changed, done.same) == (3, 3)
    with pytest.raises(Refused, match="write one tag"):
        await harbor.box.change_many(BOB, OF_ALDER, "add_tag", "two words", dry_run=False)


async def test_nodes_that_are_given_a_domain_are_its_members_at_once(harbor: Hub) -> None:
    north = await harbor.box.policies.create(BOB, DocumentKind.DOMAIN, "North")
    await harbor.box.change_many(BOB, [*OF_ALDER, OF_BIRCH[0]], "domain_id", north, dry_run=False)
    members = await harbor.box.policies.members(BOB, north, MemberQuery())
    assert members is not None
    assert [(one.site, one.name) for one in members.nodes] == [
        ("alder", "kestrel-1"), ("alder", "kestrel-2"), ("alder", "kestrel-3"), ("birch", "merlin-1"),
    ]  # fmt: skip
    narrowed = await harbor.box.policies.members(BOB, north, MemberQuery(site="birch", version="1.4.2"))
    assert narrowed is not None
    assert [one.name for one in narrowed.nodes] == ["merlin-1"]


async def test_a_node_that_is_gone_is_named_and_stops_nobody(harbor: Hub) -> None:
    done = await harbor.box.change_many(BOB, [OF_ALDER[0], "gone"], "target_version", "1.5", dry_run=False)
    assert (done.changed, [one.id for one in done.refused]) == (1, ["gone"])
