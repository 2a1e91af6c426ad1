"""The queue on its page: what is the matter, who has it, and three words to say of it."""

from __future__ import annotations

import re

from starlette.testclient import TestClient

from fleet.attention import Cause
from fleet.limits import DAY, HOUR
from tests.web.conftest import bearer
from tests.web.island import NOW_NS, Island
from web import words
from web.pages.attention import until


def key_of(html: str) -> str:
    found = re.search(r'name="key" value="([^"]+)"', html)
    assert found
    return found[1]


def test_every_cause_has_a_name() -> None:
    assert set(words.NEEDS) == set(Cause)


def test_what_is_seen_leaves_the_queue_and_stands_below_with_who_and_why(alice: TestClient, island: Island) -> None:
    page = alice.get("/attention").text
    key, csrf = key_of(page), re.findall(r'name="csrf" value="([^"]+)"', page)[0]
    sent = {"csrf": csrf, "key": key, "action": "seen", "remark": "the <b>crew</b> knows"}
    answer = alice.post("/attention", data=sent, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/attention?done=seen")
    queue, _, below = alice.get("/attention").text.partition("Seen or asleep: 1")
    assert f'value="{key}"' not in queue
    assert "seen by alice" in below
    assert "the &lt;b&gt;crew&lt;/b&gt; knows" in below
    alice.post("/attention", data={"csrf": csrf, "key": key, "action": "back"})
    assert "Seen or asleep" not in alice.get("/attention").text


def test_a_viewer_sees_the_queue_and_says_nothing_of_it(ask: TestClient, island: Island) -> None:
    page = ask.get("/attention", headers=bearer("bob") | {"accept": "text/html"}).text
    assert "Needs attention" in page
    assert "Take up" not in page


def test_an_island_where_all_is_well_says_so(alice: TestClient, island: Island) -> None:
    island.rows.clear()
    assert "Nothing needs you right now." in alice.get("/attention").text


def test_a_program_takes_up_what_it_names_and_hears_when_it_is_gone(ask: TestClient, island: Island) -> None:
    olga = bearer("olga")
    key = ask.get("/api/v1/attention", headers=olga).json()["items"][0]["key"]
    said = ask.post(f"/api/v1/attention/{key}", json={"action": "mine", "to": "Bob"}, headers=olga)
    assert said.status_code == 200
    assert ask.get("/api/v1/attention", headers=olga).json()["items"][0]["assigned"] == "Bob"
    gone = ask.post("/api/v1/attention/silent:site:nowhere", json={"action": "seen"}, headers=olga)
    assert gone.status_code == 404
    assert ask.get("/api/v1/attention?cause=boredom", headers=olga).status_code == 400


def test_later_is_an_hour_a_watch_or_the_next_morning() -> None:
    assert until("1h", NOW_NS) == NOW_NS + HOUR
    assert until("8h", NOW_NS) == NOW_NS + 8 * HOUR
    assert until("morning", 3 * DAY) == 3 * DAY + 6 * HOUR
    assert until("morning", 3 * DAY + 6 * HOUR) == 4 * DAY + 6 * HOUR
    assert until("", NOW_NS) == 0
