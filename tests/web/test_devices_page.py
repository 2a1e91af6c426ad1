"""The page Devices, and the same for programs."""

from __future__ import annotations

import msgspec
from starlette.testclient import TestClient

from tests.web.conftest import bearer
from tests.web.desk import CODE, TOKEN, Desk
from tests.web.island import NOW_NS, Island, People
from web.app import application


def desk(island: Island) -> Desk:
    assert isinstance(island.devices, Desk)
    return island.devices


def test_every_device_stands_there_with_what_it_shows_when_it_did_and_from_where(alice: TestClient) -> None:
    page = alice.get("/devices").text
    for words in (
        "5 devices enrolled",
        "gate-house",
        "12 min ago",
        "from 10.0.0.7",
        "never used",
        "revoked",
        "expired",
    ):
        assert words in page
    assert '<a href="/devices" aria-current="page">Devices</a>' in page


def test_a_code_is_shown_once_with_what_to_type_at_the_device(alice: TestClient, island: Island) -> None:
    made = alice.post("/devices/codes", data={"csrf": "csrf-alice", "name": "drone-31"})
    assert CODE in made.text
    assert "/v1/provision -H &#39;Content-Type" in made.text or "/v1/provision" in made.text
    assert made.headers["cache-control"] == "no-store"
    assert CODE not in alice.get("/devices").text
    assert desk(island).asked == [("code", "alice", "drone-31", "1")]


def test_a_token_is_shown_once(alice: TestClient, island: Island) -> None:
    made = alice.post("/devices/enrol", data={"csrf": "csrf-alice", "name": "drone-31", "credential": "token"})
    assert TOKEN in made.text
    assert TOKEN not in alice.get("/devices").text
    assert desk(island).asked == [("enrol", "alice", "drone-31", "token", "entered on the page")]


def test_nothing_is_revoked_without_a_reason(alice: TestClient, island: Island) -> None:
    refused = alice.post("/devices/01CRED00/revoke", data={"csrf": "csrf-alice"})
    assert refused.status_code == 422
    assert "Say why" in refused.text
    done = alice.post("/devices/01CRED00/revoke", data={"csrf": "csrf-alice", "why": "lost in the sea"})
    assert done.headers["location"] == "/devices?done=credential-revoked"
    assert desk(island).asked == [("revoke", "alice", "01CRED00", "lost in the sea")]


def test_whoever_only_looks_sees_no_button(ask: TestClient) -> None:
    page = ask.get("/devices", headers=bearer("bob")).text
    assert "Enrolled" in page
    assert "<button>Revoke" not in page
    assert "Make the code" not in page


def test_an_empty_page_says_what_to_do(alice: TestClient, island: Island) -> None:
    desk(island).devices.clear()
    desk(island).mode = "prod"
    page = alice.get("/devices").text
    assert "No device is enrolled yet" in page
    assert "Make a code above" in page
    assert "Quarantine" in page


def test_a_long_list_goes_on_where_it_stopped(ask: TestClient) -> None:
    first = ask.get("/api/v1/devices?limit=2", headers=bearer("bob")).json()
    second = ask.get(f"/api/v1/devices?limit=50&after={first['next']}", headers=bearer("bob")).json()
    assert len(first["devices"]) + len(second["devices"]) == 5
    assert second["next"] is None


def test_programs_do_the_same(ask: TestClient, island: Island) -> None:
    made = ask.post("/api/v1/activation-codes", json={"uses": 3}, headers=bearer("olga"))
    assert (made.status_code, made.json()["code"]) == (201, CODE)
    given = ask.post("/api/v1/devices", json={"name": "drone-31"}, headers=bearer("olga"))
    assert (given.status_code, given.json()["secret"]) == (201, TOKEN)
    new = ask.post("/api/v1/devices/01CRED00/rotate", json={"why": "it was time"}, headers=bearer("olga"))
    assert new.json()["secret"] == TOKEN
    assert ask.post("/api/v1/devices/nobody/revoke", json={"why": "x"}, headers=bearer("olga")).status_code == 404
    assert (
        ask.post("/api/v1/devices", json={"name": "x", "credential": "song"}, headers=bearer("olga")).status_code == 422
    )
    codes = ask.get("/api/v1/activation-codes", headers=bearer("bob")).json()["codes"]
    assert [one["used"] for one in codes] == [3]
    gone = ask.delete(f"/api/v1/activation-codes/{codes[0]['id']}", headers=bearer("olga"))
    assert gone.json() == {"done": True}


def test_a_hub_has_no_devices(people: People) -> None:
    harbor = Island("harbor")
    harbor.devices = None
    with TestClient(application(harbor, people, clock=lambda: NOW_NS)) as client:
        assert client.get("/api/v1/devices", headers=bearer("alice")).status_code == 404


def test_what_was_turned_away_is_taken_in_as_whose_it_is(alice: TestClient, island: Island) -> None:
    number = max(island.items)
    island.items[number] = msgspec.structs.replace(island.items[number], outside=True, reason="unknown credential")
    assert f'href="/quarantine?take={number}#q-{number}"' in alice.get("/quarantine").text
    page = alice.get(f"/quarantine?take={number}").text
    assert "Of which enrolled device" in page
    assert page.count("Of which enrolled device") == 1
    form = {"csrf": "csrf-alice", "decision": "retry", "node": "drone-31", "alike": "1"}
    done = alice.post(f"/quarantine/{number}", data=form)
    assert done.headers["location"] == "/quarantine?done=retry"
    assert (number, "retry") in island.settled
