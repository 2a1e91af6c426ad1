"""Who decides, as people see it: who, since when, until when, what is contested; and what was parked, with its two buttons."""

from __future__ import annotations

from starlette.testclient import TestClient

from fleet.events import Clock
from fleet.limits import HOUR, MINUTE
from tests.web.conftest import bearer
from tests.web.island import NOW_NS, Island
from web.ports import AuthorityLine, AuthorityTerms, Choice, ParkedValue

NORTH, ALDER = "north", "01ALDER0000000000000000000"
BOB, OLGA = bearer("bob"), bearer("olga")
LINE = AuthorityLine(
    subject=NORTH,
    place=ALDER,
    site="alder",
    epoch=3,
    master="GLOBAL",
    holders=("harbor",),
    cause="accepted",
    since_ns=NOW_NS - HOUR,
    lease_ns=HOUR,
    on_expiry="safe subset",
    on_return="hand back",
    heard_ns=NOW_NS - MINUTE,
    until_ns=NOW_NS + 59 * MINUTE,
)


def test_a_domain_that_nobody_was_put_in_charge_of_says_so_and_what_to_do(ask: TestClient) -> None:
    page = ask.get(f"/domains/{NORTH}/authority", headers=BOB | {"accept": "text/html"}).text
    assert "Nobody was ever put in charge" in page


def test_who_decides_stands_there_with_since_when_and_until_when(alice: TestClient, island: Island) -> None:
    island.lines_of_authority = [LINE]
    page = alice.get(f"/domains/{NORTH}/authority").text
    assert "harbor decides" in page
    assert "epoch 3" in page
    assert "59 min from now, if nothing more is heard; then alder decides alone: only what makes things safer" in page


def test_a_lease_that_ran_out_says_that_what_is_written_here_waits(alice: TestClient, island: Island) -> None:
    late = {"until_ns": NOW_NS - MINUTE, "heard_ns": NOW_NS - HOUR}
    island.lines_of_authority = [AuthorityLine(**{name: getattr(LINE, name) for name in LINE.__struct_fields__} | late)]
    assert "alder may decide alone, and what is written here waits" in alice.get(f"/domains/{NORTH}/authority").text


def test_two_who_believe_that_they_decide_stand_on_top(alice: TestClient, island: Island) -> None:
    said = "Epoch 3: alder holds, and harbor believed it was theirs."
    island.lines_of_authority = [
        AuthorityLine(**{name: getattr(LINE, name) for name in LINE.__struct_fields__} | {"contests": (said,)})
    ]
    page = alice.get(f"/domains/{NORTH}/authority").text
    assert page.index("Two believe that they decide at alder") < page.index("harbor decides")
    assert said in page


def test_a_grant_needs_a_reason_and_terms(alice: TestClient, island: Island) -> None:
    path, form = f"/domains/{NORTH}/authority", {"csrf": "csrf-alice", "action": "grant", "master": "LOCAL"}
    assert alice.post(path, data=form).status_code == 422
    assert alice.post(path, data={"csrf": "csrf-alice", "why": "so"}).status_code == 422
    assert alice.post(path, data=form | {"why": "so", "lease_min": "an hour"}).status_code == 400
    assert island.granted == []
    answer = alice.post(path, data=form | {"why": "so", "lease_min": "60", "on_expiry": "freeze", "on_return": "keep"})
    assert answer.headers["location"] == f"{path}?done=granted"
    wish = AuthorityTerms(master="LOCAL", lease_ns=HOUR, on_expiry="freeze", on_return="keep")
    assert island.granted == [("alice", NORTH, wish, "so")]


def test_what_was_taken_is_handed_back_with_a_reason(alice: TestClient, island: Island) -> None:
    path = f"/domains/{NORTH}/authority"
    answer = alice.post(path, data={"csrf": "csrf-alice", "action": "return", "why": "the line is back"})
    assert answer.headers["location"] == f"{path}?done=handed-back"
    assert island.granted == [("alice", NORTH, None, "the line is back")]


def test_a_viewer_sees_who_decides_and_no_form(ask: TestClient, island: Island) -> None:
    island.lines_of_authority = [LINE]
    page = ask.get(f"/domains/{NORTH}/authority", headers=BOB | {"accept": "text/html"}).text
    assert "harbor decides" in page
    assert "Hand back</button>" not in page


def parked(value: str) -> ParkedValue:
    said = Choice(value=value, by="Bob", where="harbor", at_ns=NOW_NS - HOUR, clock=Clock.SYNCED)
    why = "It was written under epoch 1; the site began epoch 2 without having seen it."
    return ParkedValue(field="target_version", choice=0, said=said, why=why)


def test_a_parked_value_is_shown_with_who_when_and_why_and_one_click_takes_it(
    alice: TestClient, island: Island
) -> None:
    node_id = next(iter(island.rows))
    island.parked[node_id] = (parked("2.0"),)
    page = alice.get(f"/nodes/{node_id}").text
    assert "version wanted: 2.0" in page
    assert "Bob at harbor" in page
    assert "the site began epoch 2 without having seen it" in page
    form = {"csrf": "csrf-alice", "field": "target_version", "choice": "0", "value": "2.0", "decision": "take"}
    assert alice.post(f"/nodes/{node_id}/parked", data=form | {"value": "1.9"}).status_code == 409
    answer = alice.post(f"/nodes/{node_id}/parked", data=form)
    assert answer.headers["location"] == f"/nodes/{node_id}?done=parked-take"
    assert "Written while somebody else decided" not in alice.get(f"/nodes/{node_id}").text


def test_where_somebody_else_decides_there_is_no_button_and_a_word_on_who(alice: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    island.parked[node_id] = (parked("2.0"),)
    elsewhere = {"subject": node_id, "here": False}
    island.lines_of_authority = [
        AuthorityLine(**{name: getattr(LINE, name) for name in LINE.__struct_fields__} | elsewhere)
    ]
    page = alice.get(f"/nodes/{node_id}").text
    assert "harbor decides now; take it or let it go there." in page
    assert "Let it go<" not in page


def test_a_program_grants_with_its_reason(ask: TestClient, island: Island) -> None:
    path = f"/api/v1/authority/{NORTH}"
    assert ask.post(path, json={"terms": {"master": "LOCAL"}, "why": " "}, headers=OLGA).status_code == 422
    assert ask.post(path, json={"terms": {"master": "LOCAL"}, "why": "so"}, headers=OLGA).json() == {"done": True}
    assert island.granted == [(island.granted[0][0], NORTH, AuthorityTerms(master="LOCAL"), "so")]
    assert ask.get(path, headers=BOB).json()["subject"] == NORTH
