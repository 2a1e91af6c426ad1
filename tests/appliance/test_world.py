"""The world: a node claims senders; whatever way in a sender uses, its records are the node's."""

from __future__ import annotations

import pytest

from appliance.evaluator import Standing
from appliance.world import NodeState, SourceKey, SourceState, World, source_key
from fleet.node import Kind, Node
from fleet.snapshot import Snapshot

KESTREL, MERLIN = "01KESTREL00000000000000001", "01MERLIN000000000000000001"


@pytest.fixture
def world() -> World:
    made = World()
    for node_id in (KESTREL, MERLIN):
        made.nodes[node_id] = NodeState(Node(id=node_id, name=node_id, kind=Kind.EDGE), Standing(), Snapshot())
    for text in ("syslog/10.0.0.7/kestrel", "http/10.0.0.7/kestrel", "syslog/10.0.0.7/", "syslog/10.0.0.8/kestrel"):
        made.sources[text] = SourceState(source_key(text), None, 1, 1, 1, 1, b"", dirty=False)
    return made


def test_a_claim_takes_every_way_in_of_the_sender_and_nothing_else(world: World) -> None:
    world.claim("10.0.0.7/kestrel", KESTREL)
    held = {text for text, source in world.sources.items() if source.node_id == KESTREL}
    assert held == {"syslog/10.0.0.7/kestrel", "http/10.0.0.7/kestrel"}
    assert {str(source.key) for source in world.sources_of(KESTREL)} == held
    assert world.nodes[KESTREL].claims == {"10.0.0.7/kestrel"}
    assert {text for text, source in world.sources.items() if source.dirty} == held


def test_a_release_gives_them_back(world: World) -> None:
    world.claim("10.0.0.7/kestrel", KESTREL)
    world.claim("10.0.0.8/kestrel", KESTREL)
    world.release("10.0.0.7/kestrel")
    assert {str(source.key) for source in world.sources_of(KESTREL)} == {"syslog/10.0.0.8/kestrel"}
    assert world.nodes[KESTREL].claims == {"10.0.0.8/kestrel"}
    world.release("10.9.9.9/nobody")


def test_a_sender_of_another_address_with_the_same_name_is_another(world: World) -> None:
    world.claim("10.0.0.7/kestrel", KESTREL)
    world.claim("10.0.0.8/kestrel", MERLIN)
    assert world.sources["syslog/10.0.0.8/kestrel"].node_id == MERLIN
    assert world.sources["syslog/10.0.0.7/kestrel"].node_id == KESTREL


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("syslog/10.0.0.7/kestrel", SourceKey("syslog", "10.0.0.7", "kestrel")),
        ("syslog/10.0.0.7/a/b", SourceKey("syslog", "10.0.0.7", "a/b")),
        ("syslog/10.0.0.7", SourceKey("syslog", "10.0.0.7", "")),
        ("", SourceKey("", "", "")),
    ],
)
def test_any_text_is_a_source_key(text: str, key: SourceKey) -> None:
    assert source_key(text) == key
