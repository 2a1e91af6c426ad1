"""The stories of a synthetic fleet: the same from the same seed, in order, and such as a real site could tell."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from appliance import fleet_story
from appliance.fleet_demo import Order, progress
from appliance.fleet_story import Fate, Plan, Story
from fleet import ids, lifecycle
from fleet.connectivity import TABLE, Mode
from fleet.events import LifecycleMoved, NodeAdopted, NodeDegraded, NodeHeard, NodeQuiet, NodeRecovered, encode_body
from fleet.limits import DAY, SECOND

NOW_NS = 1_795_219_200 * SECOND
WRITER = "01ALDER0000000000000000000"
TURNS = (NodeDegraded, NodeHeard, NodeQuiet, NodeRecovered)


def plan(number: int = 0, sites: int = 20) -> Plan:
    return fleet_story.plans(sites, 40, 7)[number]


def story(number: int = 0, days: int = 21) -> Story:
    return fleet_story.told(plan(number), WRITER, days, NOW_NS)


def test_the_same_seed_makes_the_same_fleet_and_the_same_stories() -> None:
    assert fleet_story.plans(20, 40, 7) == fleet_story.plans(20, 40, 7)
    assert fleet_story.plans(20, 40, 7) != fleet_story.plans(20, 40, 8)
    assert story() == story()


def test_every_site_of_the_largest_fleet_has_a_name_of_its_own() -> None:
    plans = fleet_story.plans(fleet_story.SITES_MAX, 100, 7)
    assert len({one.name for one in plans}) == fleet_story.SITES_MAX


def test_a_small_fleet_has_one_site_of_each_fate_and_a_large_one_is_mostly_cut_off() -> None:
    assert {one.fate for one in fleet_story.plans(5, 100, 7)} == set(Fate)
    fates = Counter(one.fate for one in fleet_story.plans(1_000, 100, 7))
    assert fates[Fate.AWAY] > fates[Fate.LIVE] > 200


def test_a_story_is_told_in_order_within_its_days_and_every_fact_can_be_an_event() -> None:
    facts = story().facts
    walls_ns = [fact.wall_ns for fact in facts]
    assert walls_ns == sorted(walls_ns)
    assert NOW_NS - 21 * DAY <= walls_ns[0] <= walls_ns[-1] <= NOW_NS
    assert all(encode_body(fact.body) for fact in facts)


def test_every_node_is_adopted_once_before_anything_else_is_said_of_it() -> None:
    told = story()
    first = {fact.subject: fact.body for fact in reversed(told.facts)}
    adopted = Counter(fact.subject for fact in told.facts if isinstance(fact.body, NodeAdopted))
    assert all(isinstance(first[node_id], NodeAdopted) and ids.is_ulid(node_id) for node_id in told.nodes)
    assert set(adopted.values()) == {1}
    assert adopted.keys() == told.nodes.keys()


def test_no_step_of_a_life_is_one_that_no_edge_allows() -> None:
    moves = [fact.body for number in range(5) for fact in story(number).facts if isinstance(fact.body, LifecycleMoved)]
    assert [lifecycle.refusal(lifecycle.place(one.origin), lifecycle.place(one.target)) for one in moves] == [
        None
    ] * len(moves)


def test_no_turn_of_connectivity_is_one_that_the_table_does_not_hold_and_the_last_is_the_present() -> None:
    steps = {(former, mode) for (former, _), mode in TABLE.items()}
    told = story(1)
    modes: dict[str, Mode | None] = dict.fromkeys(told.nodes)
    for fact in told.facts:
        if isinstance(fact.body, TURNS):
            turn = (Mode(fact.body.former) if fact.body.former else None, Mode(fact.body.mode))
            assert turn in steps
            assert turn[0] is modes[fact.subject]
            modes[fact.subject] = turn[1]
    assert modes == {node_id: present.mode for node_id, present in told.nodes.items()}


def test_people_wrote_about_some_nodes_in_the_past_and_wanted_versions_that_not_all_have() -> None:
    told = story()
    assert told.edited_ns < NOW_NS
    assert told.edits.keys() <= told.nodes.keys()
    assert any(values["target_version"] != told.nodes[node_id].version for node_id, values in told.edits.items())


def test_a_story_of_one_day_holds_too() -> None:
    assert len(story(days=1).facts) > 6 * 40


def test_a_node_that_speaks_on_is_seen_now_and_one_that_is_silent_is_not() -> None:
    dice = random.Random(1)
    nodes = {node_id: present for number in range(5) for node_id, present in story(number).nodes.items()}
    for present in nodes.values():
        stepped, body = fleet_story.step(present, NOW_NS + 60 * SECOND, dice)
        if body is None and present.mode is Mode.DISCONNECTED:
            assert stepped.seen_ns == present.seen_ns
        elif stepped.mode is not Mode.DISCONNECTED:
            assert stepped.seen_ns == NOW_NS + 60 * SECOND


@pytest.mark.parametrize("order", [Order(0, 21, 7), Order(2_001, 21, 7), Order(5, 0, 7), Order(5, 366, 7)])
def test_a_fleet_that_cannot_be_made_is_refused_with_its_bounds(order: Order) -> None:
    assert "a fleet has 1 to" in order.problem
    assert not Order(2_000, 365, 7).problem


def test_progress_says_how_fast_it_goes_and_how_long_it_takes() -> None:
    assert progress(100, 0, 1_000, 180_000, 20.0) == "100 of 1,000 sites · 180,000 events · 9,000/s · 3 min left"
    assert progress(0, 0, 5, 0, 0.0) == "0 of 5 sites · 0 events"
