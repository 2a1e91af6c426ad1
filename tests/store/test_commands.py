"""Commands: a wish becomes an event and a changed row together, or a sentence and nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fleet import events
from fleet.lifecycle import Phase, Place, State
from fleet.node import Endpoint, Kind, Node
from fleet.people import Refused
from store import document, journal
from store.commands import Commands, load_nodes
from store.database import connect_reader
from store.shared import told
from tests.store.alder import TENANT, Alder

KESTREL = "01KESTREL00000000000000001"
MERLIN = "01MERLIN000000000000000001"
UDP, HTTP = "syslog/10.0.0.7/kestrel", "http/10.0.0.7/kestrel"


class Bridge:
    def __init__(self, root: Path) -> None:
        self.alder = Alder(root)
        self.commands = Commands(self.alder.journal, self.alder.site, TENANT, self.alder.shared)

    async def adopt(self, node_id: str = KESTREL, name: str = "kestrel", *sources: str, **more: Any) -> Node:
        node = Node(id=node_id, name=name, kind=Kind.EDGE, tenant=TENANT, **more)
        return await self.commands.adopt("alice", node, sources or (UDP,), tuple(row(one) for one in sources or (UDP,)))

    def told(self) -> list[events.Recorded]:
        with connect_reader(self.alder.folder.site_db) as db:
            return [event for batch in journal.read(db) for event in batch]

    def nodes(self) -> list[Node]:
        with connect_reader(self.alder.folder.site_db) as db:
            return load_nodes(db, TENANT)

    def claims(self) -> dict[str, str | None]:
        with connect_reader(self.alder.folder.site_db) as db:
            return dict(db.execute("SELECT key, node_id FROM source").fetchall())


def row(source: str) -> tuple[object, ...]:
    return (source, TENANT, 1, 2, 3, 4, b"<13>hello")


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    made = Bridge(tmp_path / "alder")
    yield made
    made.alder.stop()


async def refused(wish: object, status: int) -> str:
    with pytest.raises(Refused) as no:
        await wish  # type: ignore[misc]
    assert no.value.status == status
    return str(no.value)


async def test_an_adoption_is_a_node_its_sources_and_the_events_that_say_so(bridge: Bridge) -> None:
    await bridge.adopt(KESTREL, "kestrel", UDP, HTTP, tags=("drone",))
    assert [node.name for node in bridge.nodes()] == ["kestrel"]
    assert bridge.claims() == {UDP: KESTREL, HTTP: KESTREL}
    *facts, document = [event.body for event in bridge.told()]
    assert facts == [
        events.NodeAdopted("kestrel", "EDGE", UDP, "alice", ("drone",)),
        events.SourceClaimed(UDP, KESTREL, "alice"),
        events.SourceClaimed(HTTP, KESTREL, "alice"),
        events.LifecycleMoved("PROVISIONING", "ENROLLED", "adopted", "alice"),
    ]
    assert isinstance(document, events.DocumentChanged)
    assert {event.subject for event in bridge.told()} == {KESTREL}


async def test_a_change_of_a_document_is_told_as_fields_and_who(bridge: Bridge) -> None:
    await bridge.adopt(KESTREL, "kestrel", UDP, tags=("drone",))
    await bridge.commands.change("bob", KESTREL, "notes", "its left arm is bent")
    said = [one.body for one in told(bridge.told()) if isinstance(one.body, events.DocumentTold)]
    assert set(said[0].said) == {("name", "kestrel"), ("kind", "EDGE"), ("tags/drone", "True")}
    assert said[-1] == events.DocumentTold("node", (("notes", "its left arm is bent"),), "bob", repeated=False)
    assert document.told(b"no change") == ([], "")


async def test_a_source_belongs_to_one_node(bridge: Bridge) -> None:
    await bridge.adopt()
    words = await refused(bridge.adopt(MERLIN, "merlin", UDP), 409)
    assert "release it there first" in words
    assert [node.name for node in bridge.nodes()] == ["kestrel"]


async def test_two_people_who_adopt_the_same_source_at_once_make_one_node(bridge: Bridge) -> None:
    both = await asyncio.gather(bridge.adopt(), bridge.adopt(MERLIN, "merlin", UDP), return_exceptions=True)
    assert sum(isinstance(one, Node) for one in both) == 1
    assert len(bridge.nodes()) == 1
    assert sum(event.kind == "node.adopted" for event in bridge.told()) == 1


async def test_a_name_belongs_to_one_node(bridge: Bridge) -> None:
    await bridge.adopt()
    await refused(bridge.adopt(MERLIN, "kestrel", "syslog/10.0.0.8/merlin"), 409)
    await bridge.adopt(MERLIN, "merlin", "syslog/10.0.0.8/merlin")
    words = await refused(bridge.commands.change("bob", MERLIN, "name", "kestrel"), 409)
    assert "choose another name" in words
    assert bridge.claims() == {UDP: KESTREL, "syslog/10.0.0.8/merlin": MERLIN}


@pytest.mark.parametrize(
    ("more", "name"),
    [({}, ""), ({}, " "), ({}, "x" * 129), ({}, "a\nb"), ({"tags": ("a b",)}, "kestrel"), ({"tags": ("t",) * 33}, "k")],
)
async def test_a_bad_name_or_tag_leaves_nothing_behind(bridge: Bridge, more: dict[str, Any], name: str) -> None:
    await refused(bridge.adopt(KESTREL, name, **more), 422)
    assert (bridge.nodes(), bridge.told(), bridge.claims()) == ([], [], {})


async def test_a_claim_and_its_release(bridge: Bridge) -> None:
    await bridge.adopt()
    await bridge.commands.claim("bob", (HTTP,), (row(HTTP),), KESTREL)
    assert bridge.claims()[HTTP] == KESTREL
    await bridge.commands.release("bob", (HTTP, UDP), KESTREL)
    assert bridge.claims() == {UDP: None, HTTP: None}
    assert [event.kind for event in bridge.told()[-3:]] == ["source.claimed", "source.released", "source.released"]


async def test_a_claim_for_nobody_or_of_another_s_source_is_refused(bridge: Bridge) -> None:
    await refused(bridge.commands.claim("bob", (UDP,), (row(UDP),), KESTREL), 404)
    await bridge.adopt()
    await bridge.adopt(MERLIN, "merlin", "syslog/10.0.0.8/merlin")
    await refused(bridge.commands.claim("bob", (UDP,), (row(UDP),), MERLIN), 409)
    assert bridge.claims()[UDP] == KESTREL


CHANGES: list[tuple[str, str, str, str]] = [
    ("name", "kestrel-2", "kestrel", "kestrel-2"),
    ("tags", "drone, north drone", "", "drone north"),
    ("kind", "GATEWAY", "EDGE", "GATEWAY"),
    ("domain_id", "harbor/north", "", "harbor/north"),
    ("target_version", "1.5", "", "1.5"),
    ("min_battery_pct", "30", "", "30.0"),
    ("address", "10.0.0.7 10.0.0.8=fts", "", "10.0.0.7=primary 10.0.0.8=fts"),
]


def seen(node: Node, field: str) -> str:
    match field:
        case "tags":
            return " ".join(node.tags)
        case "target_version":
            return node.desired.target_version or ""
        case "min_battery_pct":
            return str(node.desired.constraints.min_battery_pct or "")
        case "address":
            return " ".join(f"{one.address}={one.role}" for one in node.endpoints)
        case _:
            return str(getattr(node, field) or "")


@pytest.mark.parametrize(("field", "value", "former", "now"), CHANGES)
async def test_a_change_is_recorded_with_what_was_before(
    bridge: Bridge, field: str, value: str, former: str, now: str
) -> None:
    await bridge.adopt()
    changed = await bridge.commands.change("bob", KESTREL, field, f" {value} ")
    assert seen(changed, field) == now
    assert bridge.nodes() == [changed]
    assert bridge.told()[-1].body == events.NodeChanged(field, former, value, "bob")
    told = len(bridge.told())
    await bridge.commands.change("bob", KESTREL, field, value)
    assert len(bridge.told()) == told, "the same again is no change"


@pytest.mark.parametrize("field", ["domain_id", "target_version", "min_battery_pct", "address", "tags"])
async def test_what_was_set_can_be_taken_back(bridge: Bridge, field: str) -> None:
    await bridge.adopt()
    value = next(one[1] for one in CHANGES if one[0] == field)
    await bridge.commands.change("bob", KESTREL, field, value)
    assert seen(await bridge.commands.change("bob", KESTREL, field, ""), field) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("kind", "SUBMARINE"),
        ("tags", "<b>"),
        ("min_battery_pct", "nan"),
        ("min_battery_pct", "101"),
        ("min_battery_pct", "much"),
        ("address", "kestrel.example"),
        ("address", "10.0.0.7/24"),
        ("id", MERLIN),
        ("tenant", "birch"),
        ("", ""),
    ],
)
async def test_a_change_that_will_not_do_changes_nothing(bridge: Bridge, field: str, value: str) -> None:
    before = await bridge.adopt()
    told = len(bridge.told())
    await refused(bridge.commands.change("mallory", KESTREL, field, value), 422)
    assert bridge.nodes() == [before]
    assert len(bridge.told()) == told


async def test_a_change_to_nobody_is_refused(bridge: Bridge) -> None:
    await refused(bridge.commands.change("bob", MERLIN, "name", "merlin"), 404)


async def test_one_refused_wish_does_not_spoil_those_beside_it(bridge: Bridge) -> None:
    await bridge.adopt()
    wishes = [bridge.commands.change("bob", KESTREL, "tags", f"t{number}") for number in range(20)]
    wishes[7:7] = [bridge.commands.change("mallory", KESTREL, "kind", "SUBMARINE")]
    done = await asyncio.gather(*wishes, return_exceptions=True)
    assert [isinstance(one, Refused) for one in done].count(True) == 1
    assert sum(event.kind == "node.changed" for event in bridge.told()) == 20


async def test_a_move_along_an_edge_is_an_event(bridge: Bridge) -> None:
    place = await bridge.commands.move("alice", KESTREL, Place(Phase.ACTIVE, State.DELAYED), "UPDATING", "1.5")
    assert place == Place(Phase.UPDATING)
    assert bridge.told()[-1].body == events.LifecycleMoved("ACTIVE/DELAYED", "UPDATING", "1.5", "alice")


async def test_a_move_that_no_edge_allows_is_refused_with_where_it_can_go(bridge: Bridge) -> None:
    words = await refused(bridge.commands.move("alice", KESTREL, Place(Phase.ENROLLED), "RETIRED", "tired"), 409)
    assert words == "a node cannot go from ENROLLED to RETIRED; from ENROLLED it can go to ACTIVE"
    end = await refused(bridge.commands.move("alice", KESTREL, Place(Phase.RETIRED), "ACTIVE", "back"), 409)
    assert "it is the end" in end
    await refused(bridge.commands.move("alice", KESTREL, Place(Phase.ACTIVE), "SLEEPING", ""), 422)
    assert bridge.told() == []


async def test_an_endpoint_has_a_role(bridge: Bridge) -> None:
    await bridge.adopt()
    changed = await bridge.commands.change("bob", KESTREL, "address", "fe80::7%eth0=fts, 10.0.0.7")
    assert changed.endpoints == (
        Endpoint(address="fe80::7%eth0", role="fts"),
        Endpoint(address="10.0.0.7", role="primary"),
    )
