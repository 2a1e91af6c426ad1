"""The link of a site as its pages see it: none, then a hub that has never answered, then an operator's word on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from appliance.compose import Appliance
from fleet import events
from fleet.connectivity import Mode
from fleet.document import Author, Id, Stamped
from fleet.events import Clock
from fleet.ids import ulid
from fleet.node import Kind
from fleet.people import Identity, Refused, Role
from store import document
from store.database import connect
from store.folder import bring_up
from store.link_file import LinkFile
from web.ports import NodeQuery

ALICE = Identity(name="alice", role=Role.ADMIN)
HARBOR = ulid(1_795_000_000_000, b"\x01" * 10)


def invitation(url: str = "nats://127.0.0.1:1") -> bytes:
    file = LinkFile(
        tenant="default",
        site="alder",
        hub="harbor",
        hub_writer=HARBOR,
        hub_key="11" * 32,
        url=url,
        link=HARBOR,
        password="secret",
        secret="22" * 32,
    )
    return msgspec.json.encode(file)


async def test_a_site_without_a_hub_has_no_link_and_lacks_nothing(alder: Appliance) -> None:
    assert (await alder.box.links(ALICE)).links == ()
    with pytest.raises(Refused, match="no such link"):
        await alder.box.link_change(ALICE, HARBOR, "cut", "")
    with pytest.raises(Refused, match="no link file"):
        await alder.box.link_join(ALICE, b"holiday.jpg")


async def test_a_hub_that_never_answered_is_behind_by_everything(alder: Appliance) -> None:
    assert "harbor from now on" in await alder.box.link_join(ALICE, invitation())
    (link,) = (await alder.box.links(ALICE)).links
    assert (link.name, link.peer, link.heard_ns, link.receipt) == ("harbor", HARBOR, None, None)
    assert link.mode in (Mode.AUTONOMOUS, Mode.RETURNING)
    assert link.missing_events == alder.journal.head.seq
    assert (link.debt_s or 0) > 0
    assert [lane.name for lane in link.lanes] == ["control", "snapshots", "log", "segments"]
    assert (await alder.box.site(ALICE, NodeQuery())).attention == (), "to be cut off is no alarm"
    words = (await alder.box.bundle_state(ALICE, HARBOR)).words
    assert f"the {link.missing_events:,} events that harbor lacks" in words[0]
    with pytest.raises(Refused, match="no such receipt"):
        await alder.box.receipt(ALICE, HARBOR, 1)


async def test_what_an_operator_says_holds_and_stands_in_the_log(alder: Appliance) -> None:
    await alder.box.link_join(ALICE, invitation())
    for action, value in (("cut", ""), ("pause", "segments"), ("per_s", "64000"), ("per_hour", "5000000")):
        await alder.box.link_change(ALICE, HARBOR, action, value)
    (link,) = (await alder.box.links(ALICE)).links
    assert (link.cut, link.per_s_max, link.per_hour_max) == (True, 64_000, 5_000_000)
    assert [lane.name for lane in link.lanes if lane.paused] == ["segments"]
    assert link.actions[0] == "restore"
    told = [one.body for one in await alder.box.events(ALICE, 0, 100) if isinstance(one.body, events.LinkChanged)]
    assert [(one.action, one.value, one.actor) for one in told] == [
        ("cut", "", "alice"),
        ("pause", "segments", "alice"),
        ("per_s", "64000", "alice"),
        ("per_hour", "5000000", "alice"),
    ]


def written_at_harbor(path: Path, place: Id, rows: Sequence[tuple[object, ...]]) -> tuple[bytes, ...]:
    """What Bob writes at harbor, in the document as it was before Alice wrote in hers."""
    bring_up(path)
    stamp = Stamped(None, "bob", HARBOR, 1, 1, 1_795_000_000_000_000_000, Clock.SYNCED)
    with closing(connect(path)) as db:
        db.executemany("INSERT INTO document VALUES (?,?,?,?,?,?,?,?)", rows)
        made = document.edit(db, place, {"notes": "grounded"}, stamp)
    assert isinstance(made, document.Made)
    return tuple(made.changes)


async def test_words_of_two_places_are_shown_and_one_is_taken(alder: Appliance, tmp_path: Path) -> None:
    await alder.box.link_join(ALICE, invitation())
    node_id = await alder.box.adopt(ALICE, "syslog/10.0.0.9/kestrel", "kestrel", Kind.EDGE, ())
    place = Id("default", "node", node_id)
    there = written_at_harbor(tmp_path / "harbor.db", place, await alder.reader.fetch("SELECT * FROM document"))
    await alder.box.change(ALICE, node_id, "notes", "left wing repaired")
    incoming = [document.Incoming(place, 0, one, Author(HARBOR, 1)) for one in there]
    await alder.site.write(lambda db: document.receive(db, incoming, alder.shared._check, 0))
    view = await alder.box.node(ALICE, node_id)
    assert view is not None
    (conflict,) = view.conflicts
    assert conflict.field == "notes"
    assert {(one.value, one.by, one.where) for one in conflict.choices} == {
        ("left wing repaired", "alice", "alder"),
        ("grounded", "bob", "harbor"),
    }
    wanted = next(index for index, one in enumerate(conflict.choices) if one.value == "grounded")
    await alder.box.take(ALICE, node_id, "notes", wanted)
    view = await alder.box.node(ALICE, node_id)
    assert view is not None
    assert (view.notes, view.conflicts) == ("grounded", ())
