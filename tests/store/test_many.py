"""One change to many nodes, at a site: in one transaction, an event and a changed row each."""

from __future__ import annotations

import pytest

from fleet.events import NodeChanged
from fleet.people import Refused
from tests.store.test_commands import KESTREL, MERLIN, Bridge, bridge

__all__ = ["bridge"]


async def adopted(bridge: Bridge) -> None:
    for node_id, name in ((KESTREL, "kestrel"), (MERLIN, "merlin")):
        await bridge.adopt(node_id, name, f"syslog/10.0.0.7/{name}", tags=("scout",))


def changed(bridge: Bridge) -> list[tuple[str, str, str, str]]:
    bodies = [(one.subject, one.body) for one in bridge.told() if isinstance(one.body, NodeChanged)]
    return [(subject, body.field, body.former, body.value) for subject, body in bodies]


async def test_each_node_gets_its_event_and_its_row(bridge: Bridge) -> None:
    await adopted(bridge)
    both = (KESTREL, MERLIN)
    seen, _ = await bridge.commands.change_many("alice", both, "target_version", "1.5", dry_run=True)
    assert [one.changes for one in seen] == [True, True]
    assert changed(bridge) == []
    _, nodes = await bridge.commands.change_many("alice", both, "target_version", "1.5", dry_run=False)
    assert [one.desired.target_version for one in nodes] == ["1.5", "1.5"]
    assert bridge.nodes() == nodes
    assert changed(bridge) == [(one, "target_version", "", "1.5") for one in both]
    again, nodes = await bridge.commands.change_many("alice", both, "target_version", "1.5", dry_run=False)
    assert [(one.changes, one.refused) for one in again] == [(False, ""), (False, "")]
    assert nodes == []


async def test_a_tag_is_added_beside_the_others_and_taken_away_again(bridge: Bridge) -> None:
    await adopted(bridge)
    await bridge.commands.change_many("alice", [KESTREL], "add_tag", "winter", dry_run=False)
    assert changed(bridge) == [(KESTREL, "tags", "scout", "scout winter")]
    _, nodes = await bridge.commands.change_many("alice", [KESTREL, MERLIN], "remove_tag", "scout", dry_run=False)
    assert [one.tags for one in nodes] == [("winter",), ()]


async def test_a_node_that_is_not_there_stops_nobody_and_a_wrong_value_stops_all(bridge: Bridge) -> None:
    await adopted(bridge)
    outcomes, nodes = await bridge.commands.change_many("alice", ["gone", KESTREL], "add_tag", "x", dry_run=False)
    assert [(one.node_id, bool(one.refused)) for one in outcomes] == [("gone", True), (KESTREL, False)]
    assert [one.id for one in nodes] == [KESTREL]
    for field, text in (("add_tag", "two words"), ("name", "x"), ("target_version", "x" * 200)):
        with pytest.raises(Refused):
            await bridge.commands.change_many("alice", [KESTREL], field, text, dry_run=False)
