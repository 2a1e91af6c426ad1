"""What all nodes' documents said at a moment is what each document says of it, asked one by one; only what was written of
since is looked up, and what there was no time for is counted."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.board import own
from fleet.document import Id, Kind
from fleet.past import stamp_at
from store import document, then
from store.database import connect_reader
from store.then import Documents
from tests.store.alder import TENANT
from tests.store.test_drifting import Bridge

NODES = [f"D{number}" for number in range(6)]


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(tmp_path / "alder")
    yield made
    made.alder.stop()


def documents(bridge: Bridge) -> Documents:
    return Documents(bridge.alder.folder.site_db, TENANT, str, bridge.board.owns)


def history(bridge: Bridge) -> list[int]:
    """A random one; the moments between its steps."""
    dice, moments = random.Random(3), [time.time_ns()]
    for _ in range(40):
        time.sleep(0.003)
        field = dice.choice(("domain_id", "policy_bundle_id", "target_version"))
        bridge.write(dice.choice(NODES), **{field: dice.choice(("north", "south", None))})
        moments.append(time.time_ns())
    return moments


def test_what_all_nodes_said_is_what_each_document_says_of_the_moment(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(then, "LOOK_UP_S", 60.0)
    moments, held = history(bridge), documents(bridge)
    with closing(connect_reader(bridge.alder.folder.site_db)) as db:
        for moment_ns in random.Random(4).sample(moments, len(moments)):
            wanted = {}
            for node_id in NODES:
                view = document.as_of(db, Id(TENANT, Kind.NODE, node_id), stamp_at(moment_ns))
                if view is not None:
                    wanted[node_id] = own(view)
            for _ in range(2):  # looked up, and remembered
                found = held.owns(moment_ns)
                assert (found.own, found.left, found.unread) == (wanted, frozenset(), 0)


def test_what_there_was_no_time_for_is_named_and_comes_with_the_next_look(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node_id in NODES:
        bridge.write(node_id, domain_id="north")
    time.sleep(0.003)
    moment_ns, held = time.time_ns(), documents(bridge)
    time.sleep(0.003)
    for node_id in NODES[1:]:
        bridge.write(node_id, domain_id="south")
    monkeypatch.setattr(then, "LOOK_UP_S", -1.0)
    found = held.owns(moment_ns)
    assert (found.own.keys(), found.left, found.unread) == ({NODES[0]}, frozenset(NODES[1:]), len(NODES) - 1)
    monkeypatch.setattr(then, "LOOK_UP_S", 5.0)
    whole = held.owns(moment_ns)
    assert {one.domain for one in whole.own.values()} == {"north"}
    assert (len(whole.own), whole.unread) == (len(NODES), 0)


def test_documents_that_are_not_read_after_a_start_are_counted(bridge: Bridge) -> None:
    for node_id in NODES:
        bridge.write(node_id, domain_id="north")
    fresh = bridge.keep()
    found = Documents(bridge.alder.folder.site_db, TENANT, str, fresh.owns).owns(time.time_ns())
    assert (found.own, found.unread) == ({}, len(NODES))
