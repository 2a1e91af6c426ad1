"""A domain as people see it: who decides and until when, over which relays its nodes are reached."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest
from starlette.testclient import TestClient

from fleet.connectivity import Mode
from fleet.document import Kind
from fleet.limits import HOUR, MINUTE
from store import batch
from tests.web.conftest import bearer
from tests.web.island import NOW_NS, Island
from tests.web.test_authority_page import LINE
from web.ports import BATCH_FIELDS, BATCH_NODES_MAX, DebtLine, SiteLine

NORTH = "north"


class Nodes(NamedTuple):
    mast: str
    gate: str
    drone: str
    other: str


@pytest.fixture
def north(island: Island) -> Nodes:
    """A domain of three nodes, of which the mast is a relay of another one."""
    ids = {row.name: node_id for node_id, row in island.rows.items()}
    found = Nodes(ids["mast-1"], ids["gate-alder"], ids["kestrel-1"], ids["kestrel-2"])
    island.slate.put(Kind.DOMAIN, NORTH, {"name": "North"})
    for node_id in (found.gate, found.drone, found.other):
        island.nodes_held[node_id] = msgspec.structs.replace(island.nodes_held[node_id], domain_id=NORTH)
    return found


def over(island: Island, node_id: str, relay: str) -> None:
    island.slate.wanted.setdefault(node_id, {})["upstream"] = island.slate.stamped(relay)


def test_who_decides_and_until_when_stands_on_the_page_of_the_domain(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    assert "Nobody was ever put in charge" in alice.get(f"/domains/{NORTH}").text
    island.lines_of_authority = [LINE]
    page = alice.get(f"/domains/{NORTH}").text
    assert "harbor decides" in page
    assert "59 min from now, if nothing more is heard; then alder decides alone" in page
    contest = "Epoch 3: alder holds, and harbor believed it was theirs."
    late = msgspec.structs.replace(LINE, contests=(contest,), until_ns=NOW_NS - MINUTE)
    island.lines_of_authority = [late]
    page = alice.get(f"/domains/{NORTH}").text
    assert contest in page
    assert "the lease ran out" in page


def test_a_path_is_drawn_from_the_site_and_told_as_a_list(alice: TestClient, island: Island, north: Nodes) -> None:
    over(island, north.drone, north.gate)
    over(island, north.gate, north.mast)
    page = alice.get(f"/domains/{NORTH}").text
    drawing, _, listed = page.partition('<div class="branches">')
    order = [drawing.index(f">{name} <tspan>") for name in ("mast-1", "gate-alder", "kestrel-1")]
    assert order == sorted(order)
    order = [listed.index(f'href="/nodes/{node_id}"') for node_id in (north.mast, north.gate, north.drone)]
    assert order == sorted(order)
    assert "of another domain" in listed


def test_a_path_over_a_silent_relay_is_silent_and_says_so(alice: TestClient, island: Island, north: Nodes) -> None:
    island.rows[north.gate] = msgspec.structs.replace(island.rows[north.gate], mode=Mode.DISCONNECTED)
    over(island, north.drone, north.gate)
    page = alice.get(f"/domains/{NORTH}").text
    assert "its path is silent" in page
    assert page.index("kestrel-1 <tspan>silent") > 0


def test_a_circle_that_came_by_merging_stands_apart_with_its_names(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    over(island, north.gate, north.mast)
    over(island, north.mast, north.gate)
    over(island, north.drone, north.gate)
    page = alice.get(f"/domains/{NORTH}").text
    assert "These relays go in a circle" in page
    assert "mast-1</a> → " in page
    assert "gate-alder</a> → " in page
    assert "Reached only over a circle" in page


def test_a_node_over_one_that_is_not_there_hangs_from_the_site_and_is_named(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    over(island, north.drone, "gone")
    assert "Reached over a node that is not at alder" in alice.get(f"/domains/{NORTH}").text


def test_beyond_sixty_nodes_what_carries_nothing_is_counted(island: Island, alice: TestClient) -> None:
    island.slate.put(Kind.DOMAIN, NORTH, {"name": "North"})
    first, *_ = island.rows
    for number in range(70):
        node_id = f"01NODE{number:020}"
        island.rows[node_id] = msgspec.structs.replace(island.rows[first], id=node_id, name=f"sensor-{number}")
        island.nodes_held[node_id] = msgspec.structs.replace(island.nodes_held[first], id=node_id, domain_id=NORTH)
        if number:
            over(island, node_id, "01NODE00000000000000000000")
    page = alice.get(f"/domains/{NORTH}").text
    assert "sensor-0 <tspan>" in page
    assert "sensor-1 <tspan>" not in page
    assert "69 nodes <tspan>live" in page


def test_a_node_page_offers_the_relays_and_gateways_of_its_site(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    over(island, north.drone, north.gate)
    page = alice.get(f"/nodes/{north.drone}").text
    choices = page.partition('id="e-upstream"')[2].partition("</select>")[0]
    assert "The site itself" in choices
    assert f'<option value="{north.gate}" selected>gate-alder</option>' in choices
    assert "kestrel-2" not in choices


def test_how_far_the_hub_is_behind_each_site_stands_there_with_its_day(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    assert "is behind its sites" not in alice.get(f"/domains/{NORTH}").text  # a site has none
    line = SiteLine(peer="01CEDAR", name="cedar", mode=Mode.AUTONOMOUS, since_ns=NOW_NS - HOUR, heard_ns=NOW_NS - HOUR)
    late = msgspec.structs.replace(line, peer="01BRCH", name="birch", mode=Mode.REPLAYING, backlog=4_223)
    island.behind = [
        DebtLine(site=late, debt_s=7_200.0, trail=(None, 3_600.0, 7_200.0)),
        DebtLine(site=line, debt_s=0.0, trail=(None, None)),
    ]
    page = alice.get(f"/domains/{NORTH}").text
    assert "birch over the last 24 h: at most 2 h" in page
    assert "4\u202f223 events missing" in page
    assert "nothing is drawn where alder did not look" in page
    assert "No trail yet" in page


# -- one change to many nodes ------------------------------------------------------------------------------------

EDIT = f"/domains/{NORTH}/edit"
FORM = {"csrf": "csrf-alice", "field": "target_version", "value": "2.0.0"}


def sure(page: str) -> str:
    return page.partition('name="sure" value="')[2].partition('"')[0]


def test_what_a_change_would_touch_is_shown_first_and_nothing_is_written(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    island.decided_elsewhere = {north.gate}
    page = alice.post(EDIT, data=FORM).text
    assert "Version wanted 2.0.0: 2 nodes change" in page
    assert "1 node refuses" in page
    assert "harbor decides what is wanted here" in page
    assert not any("target_version" in said for said in island.slate.wanted.values())
    page = alice.post(EDIT, data=FORM | {"sure": sure(page)}).text
    assert "2 changed, 1 refused" in page
    assert island.slate.wanted[north.drone]["target_version"].value == "2.0.0"


def test_only_those_ticked_are_changed(alice: TestClient, island: Island, north: Nodes) -> None:
    form = FORM | {f"n-{north.drone}": "1"}
    page = alice.post(EDIT, data=form).text
    assert "1 node changes" in page
    assert "1 changed" in alice.post(EDIT, data=form | {"sure": sure(page)}).text
    assert "target_version" not in island.slate.wanted.get(north.other, {})


def test_a_filter_narrows_what_is_changed(alice: TestClient, island: Island, north: Nodes) -> None:
    island.rows[north.drone] = msgspec.structs.replace(island.rows[north.drone], version="0.9.9")
    page = alice.get(f"{EDIT}?version=0.9.9").text
    assert "<b>1</b> matches" in page
    assert "1 node changes" in alice.post(EDIT, data=FORM | {"version": "0.9.9"}).text


def test_when_other_nodes_match_than_were_shown_nothing_is_written(
    alice: TestClient, island: Island, north: Nodes
) -> None:
    shown = sure(alice.post(EDIT, data=FORM).text)
    island.nodes_held[north.mast] = msgspec.structs.replace(island.nodes_held[north.mast], domain_id=NORTH)
    answer = alice.post(EDIT, data=FORM | {"sure": shown})
    assert answer.status_code == 409
    assert "nothing was written" in answer.text
    assert not any("target_version" in said for said in island.slate.wanted.values())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"n-gone": "1"}, "No node is chosen"),
        ({"field": "name"}, "One of these can be changed at once"),
        ({"field": "policy_bundle_id", "policy_bundle_id": "gone"}, "There is no policy of that id here"),
        ({"version": "no such"}, "No node is chosen"),
    ],
)
def test_what_cannot_be_done_to_many_is_refused_in_words(
    alice: TestClient, north: Nodes, more: dict[str, str], words: str
) -> None:
    answer = alice.post(EDIT, data=FORM | more)
    assert answer.status_code == 422
    assert words in answer.text


def test_more_than_a_thousand_at_once_are_refused(alice: TestClient, island: Island, north: Nodes) -> None:
    for number in range(BATCH_NODES_MAX):
        node_id = f"01NODE{number:020}"
        island.rows[node_id] = msgspec.structs.replace(island.rows[north.drone], id=node_id)
        island.nodes_held[node_id] = msgspec.structs.replace(island.nodes_held[north.drone], id=node_id)
    answer = alice.post(EDIT, data=FORM)
    assert answer.status_code == 422
    assert "At most 1,000 nodes at once; these are 1,003" in answer.text


def test_a_program_tries_it_first_and_then_does_it(ask: TestClient, island: Island, north: Nodes) -> None:
    path, olga = f"/api/v1{EDIT}", bearer("olga")
    wish = {"field": "add_tag", "value": "winter", "nodes": [north.drone, north.other], "dry_run": True}
    assert ask.post(path, json=wish, headers=olga).json() == {
        "done": False, "changed": 2, "same": 0, "sites": [["alder", 2]], "refused": [],
    }  # fmt: skip
    assert ask.post(path, json=wish | {"dry_run": False}, headers=olga).json()["done"]
    assert ask.post(path, json=wish, headers=olga).json()["same"] == 2
    assert ask.post(path, json=wish | {"nodes": ["gone"]}, headers=olga).status_code == 422
    assert ask.post(path, json=wish, headers=bearer("bob")).status_code == 403


def test_the_page_offers_what_the_store_takes() -> None:
    assert BATCH_FIELDS == batch.FIELDS
