"""Lifecycle: every edge is open, every other move is refused with a sentence."""

from __future__ import annotations

import itertools

import pytest

from fleet import lifecycle
from fleet.lifecycle import EDGES, START, Phase, Place, State

PLACES = [*map(Place, Phase), *(Place(Phase.ACTIVE, state) for state in State)]
# The edges once more, in words, so that a change of the table is a change of two places.
MOVES = """
PROVISIONING > ENROLLED
ENROLLED > ACTIVE
ACTIVE > ACTIVE/LIVE_OK ACTIVE/DELAYED ACTIVE/EDGE_CACHED ACTIVE/AUTONOMOUS UPDATING DEGRADED DECOMMISSIONING
ACTIVE/LIVE_OK > ACTIVE/DELAYED UPDATING DEGRADED DECOMMISSIONING
ACTIVE/DELAYED > ACTIVE/EDGE_CACHED UPDATING DEGRADED DECOMMISSIONING
ACTIVE/EDGE_CACHED > ACTIVE/AUTONOMOUS UPDATING DEGRADED DECOMMISSIONING
ACTIVE/AUTONOMOUS > ACTIVE/RETURNING UPDATING DEGRADED DECOMMISSIONING
ACTIVE/RETURNING > ACTIVE/REPLAYING UPDATING DEGRADED DECOMMISSIONING
ACTIVE/REPLAYING > ACTIVE/LIVE_OK QUARANTINED UPDATING DEGRADED DECOMMISSIONING
UPDATING > ACTIVE DEGRADED
DEGRADED > ACTIVE QUARANTINED
QUARANTINED > ACTIVE DECOMMISSIONING
DECOMMISSIONING > RETIRED
RETIRED >
"""
OPEN = {
    (lifecycle.place(origin.strip()), lifecycle.place(target))
    for origin, _, targets in (line.partition(">") for line in MOVES.strip().splitlines())
    for target in targets.split()
}


@pytest.mark.parametrize(("origin", "target"), list(itertools.product(PLACES, PLACES)), ids=str)
def test_a_move_is_open_or_refused_with_a_sentence(origin: Place, target: Place) -> None:
    refusal = lifecycle.refusal(origin, target)
    if (origin, target) in OPEN:
        assert lifecycle.allowed(origin, target)
        assert refusal is None
    else:
        assert not lifecycle.allowed(origin, target)
        assert refusal is not None
        assert refusal.startswith(f"a node cannot go from {origin} to {target}; from {origin} it can go to ")
        assert refusal.endswith(", ".join(map(str, lifecycle.targets(origin))) or "nowhere: it is the end")


def test_every_edge_of_the_table_is_open() -> None:
    assert EDGES <= OPEN


def test_where_a_node_may_go_is_what_is_open() -> None:
    for origin in PLACES:
        assert set(lifecycle.targets(origin)) == {target for one, target in OPEN if one == origin}


def test_every_place_can_be_reached_and_retired_is_the_end() -> None:
    reached = {START}
    for _ in PLACES:
        reached |= {target for origin, target in OPEN if origin in reached}
    assert reached == set(PLACES)
    assert lifecycle.targets(Place(Phase.RETIRED)) == ()


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_place_is_read_as_it_is_written(place: Place) -> None:
    assert lifecycle.place(str(place)) == place


@pytest.mark.parametrize("text", ["", "active", "ACTIVE/", "NOWHERE", "ACTIVE/NOWHERE", "RETIRED/DELAYED", "/DELAYED"])
def test_what_is_no_place_is_refused(text: str) -> None:
    if text == "ACTIVE/":
        assert lifecycle.place(text) == Place(Phase.ACTIVE)
        return
    with pytest.raises(ValueError):
        lifecycle.place(text)
