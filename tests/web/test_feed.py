"""The event feed: programs follow the journal as it grows, come back where they were, and miss nothing in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from fleet.events import TokenRevoked
from tests.web.conftest import Server, bearer
from tests.web.island import NOW_NS, Island, People
from web import feed

BOB = bearer("bob")


@pytest.fixture
def server(island: Island, people: People) -> Iterator[Server]:
    server = Server(island, people, lambda: NOW_NS)
    yield server
    server.stop()


def follow(
    server: Server, count: int, query: str = "", then: Callable[[], None] = lambda: None, **headers: str
) -> list[dict[str, Any]]:
    """The next `count` messages, each with its id; `then` happens as soon as the feed stands."""
    found: list[dict[str, Any]] = []
    with httpx2.stream("GET", f"{server.url}/api/v1/events/feed{query}", headers=BOB | headers, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line.startswith(":"):
                then()
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                found.append({"id": int(fields["id"]), "kind": fields["event"], "said": json.loads(fields["data"])})
                fields = {}
                if len(found) == count:
                    break
            else:
                fields = {}
    return found


def happen(server: Server, count: int) -> None:
    def write() -> None:
        for _ in range(count):
            server.island._fact("alice", TokenRevoked("old", "Alice"))
        server.island.touch("journal")

    server.call(write)


def test_a_follower_with_a_cursor_gets_every_event_once_and_in_order(server: Server) -> None:
    every = [one.position for one in server.island.log]
    messages = follow(server, len(every), "?after=0")
    assert [one["id"] for one in messages] == every
    assert [one["said"]["position"] for one in messages] == every
    assert messages[0]["kind"] == server.island.log[0].kind


def test_who_comes_back_with_the_last_id_goes_on_behind_it(server: Server) -> None:
    every = [one.position for one in server.island.log]
    rest = follow(server, len(every) - 7, **{"Last-Event-ID": str(every[6])})
    assert [one["id"] for one in rest] == every[7:]


def test_what_happens_while_one_follows_comes_by_itself(server: Server) -> None:
    messages = follow(server, 3, then=lambda: happen(server, 3))
    assert [one["kind"] for one in messages] == ["token.revoked"] * 3


@pytest.mark.parametrize("held", ["x", "-1", "9" * 30, "1 2"])
def test_an_id_that_was_never_given_is_refused(ask: TestClient, held: str) -> None:
    answer = ask.get("/api/v1/events/feed", headers=BOB | {"Last-Event-ID": held})
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.json()["error"]


def test_too_many_followers_are_told_what_else_there_is(ask: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FEEDS_MAX", 0)
    answer = ask.get("/api/v1/events/feed", headers=BOB)
    assert answer.status_code == 503
    assert "/api/v1/events" in answer.json()["error"]
