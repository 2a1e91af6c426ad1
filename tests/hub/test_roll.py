"""The roll of a hub: sums and order follow what was told, and a page is the same as if every row were looked at anew."""

from __future__ import annotations

import random

import msgspec
import pytest

from fleet.connectivity import Mode, Reach
from fleet.limits import SECOND
from fleet.node import Kind
from fleet.present import Present, Told
from fleet.reading import Health, Position
from hub import roll as roll_module
from hub.box import _HEARD, _lost_ns, _row
from hub.roll import Roll
from hub.state import FleetHere, NodeHere, SiteHere
from web import rows
from web.ports import NodeQuery

NOW_NS = 1_800_000_000 * SECOND
SITES = ("alder", "birch")
QUERIES = (
    NodeQuery(limit=10),
    NodeQuery(limit=10, offset=25),
    NodeQuery(text="DRONE-1", limit=500),
    NodeQuery(text="10.0.0.7"),
    NodeQuery(text="drone-1", site="alder", limit=500),
    NodeQuery(text="mesh", reach=Reach.ONLINE, limit=500),
    *(NodeQuery(reach=reach, limit=500) for reach in Reach),
    NodeQuery(kind=Kind.RELAY, order="name", limit=500),
    NodeQuery(tag="mesh", order="battery", limit=500),
    NodeQuery(site="birch", limit=500),
    NodeQuery(site="nowhere"),
    NodeQuery(order="rtt", limit=3),
    NodeQuery(order="seen", offset=40, limit=20),
)


def present(number: int, dice: random.Random) -> Present:
    at_ns = NOW_NS - dice.randrange(600) * SECOND
    return Present(
        f"node-{number:03}",
        f"drone-{number:03}",
        dice.choice((Kind.EDGE, Kind.RELAY)),
        dice.choice(((), ("mesh",), ("mesh", "survey"))),
        dice.choice((Mode.LIVE, Mode.LIVE, Mode.DELAYED, Mode.DISCONNECTED)),
        NOW_NS,
        at_ns,
        "mqtt",
        dice.choice((Health.OK, Health.OK, Health.FAILED)),
        position=Position(58.0, 11.0) if dice.random() < 0.5 else None,
        address=f"10.0.0.{number}",
        values={"battery_pct": Told(float(dice.randrange(100)), at_ns, "mqtt"), "rtt_ms": Told(1.0, at_ns, "ping")},
    )


def fleet_of(nodes: int, dice: random.Random) -> FleetHere:
    fleet = FleetHere()
    for name in SITES:
        fleet.sites[name] = SiteHere(writer=name, name=name, public_key=b"", mode=Mode.LIVE, heard_ns=NOW_NS)
    for number in range(nodes):
        tell(fleet, number, dice)
    return fleet


def tell(fleet: FleetHere, number: int, dice: random.Random) -> None:
    here = NodeHere(SITES[number % 2], present(number, dice), NOW_NS, NOW_NS)
    fleet.put(here.present.node_id, here)


def rolled(fleet: FleetHere) -> Roll:
    roll = Roll(fleet, _row, _lost_ns, lambda site: site.mode in _HEARD)
    roll.refresh()
    return roll


def same(roll: Roll, fleet: FleetHere) -> None:
    """What the roll says is what a look at every node says."""
    roll.refresh()
    every = [
        _row(here, fleet.sites[here.site].name, _lost_ns(fleet.sites[here.site], here)) for here in fleet.nodes.values()
    ]
    assert roll.reach() == rows.tally(every)
    assert roll.tags() == rows.tags(every)
    everyone, alike = roll.everyone(), rows.everyone(every)
    assert (everyone.rows, everyone.by_name) == (alike.rows, alike.by_name)
    ids = sorted(alike.rows)
    assert [*roll.behind("")] == ids
    assert [*roll.behind(ids[0] if ids else "")] == ids[1:]
    lines = [line for row in every for line in rows.needs(row, NOW_NS)]
    assert sorted(map(repr, roll.needs(NOW_NS))) == sorted(map(repr, lines))
    for query in QUERIES:
        wanted, found = rows.chosen(every, query), roll.find(query)
        assert roll.matching(query) == rows.ids(every, query)
        assert found.matching == len(wanted)
        assert len(found.places) == len(rows.places(wanted))
        if query.order != "rtt":  # of equals any may come first
            assert [row.name for row in found.page] == [row.name for row in rows.page(wanted, query)]


def test_sums_order_and_pages_are_those_of_a_look_at_every_node() -> None:
    fleet = fleet_of(120, random.Random(1))
    same(rolled(fleet), fleet)


@pytest.mark.parametrize("seed", range(5))
def test_they_stay_so_while_nodes_are_told_renamed_and_gone_and_sites_are_lost(seed: int) -> None:
    dice = random.Random(seed)
    fleet = fleet_of(120, dice)
    roll = rolled(fleet)
    for _ in range(12):
        for number in dice.sample(range(140), 15):
            tell(fleet, number, dice)
        for node_id in dice.sample(sorted(fleet.nodes), 3):
            fleet.put(node_id, None)
        one = dice.choice(sorted(fleet.nodes))
        here = fleet.nodes[one]
        fleet.put(one, here._replace(present=msgspec.structs.replace(here.present, name=f"heron-{dice.random()}")))
        site = fleet.sites[dice.choice(SITES)]
        site.mode = dice.choice((Mode.LIVE, Mode.DISCONNECTED))
        same(roll, fleet)


@pytest.mark.parametrize("seed", range(3))
def test_orders_that_are_kept_follow_what_is_told(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fleet so large that a page is not sorted for."""
    monkeypatch.setattr(roll_module, "_MANY", 20)
    monkeypatch.setattr(roll_module, "_PIECE", 7)
    test_they_stay_so_while_nodes_are_told_renamed_and_gone_and_sites_are_lost(seed)


def test_more_moves_than_are_made_one_by_one_end_in_the_same_order() -> None:
    dice = random.Random(3)
    fleet = fleet_of(1_500, dice)
    roll = rolled(fleet)
    for name in SITES:
        fleet.sites[name].mode = Mode.DISCONNECTED
    same(roll, fleet)


def test_a_node_that_moves_to_another_site_counts_there() -> None:
    fleet = fleet_of(2, random.Random(1))
    fleet.put("node-000", fleet.nodes["node-000"]._replace(site="birch"))
    assert fleet.nodes_of["alder"] == set()
    assert fleet.nodes_of["birch"] == {"node-000", "node-001"}
    same(rolled(fleet), fleet)
