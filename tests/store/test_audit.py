"""Who did what: found in the log itself, newest first, and a search that stops for its time says how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet import audit, events
from fleet.audit import Page, Query
from store.audit import every, search
from store.database import connect_reader
from tests.store.alder import DRONE, Alder, heard

DEEDS: tuple[tuple[str, events.Body], ...] = (
    ("alice", events.AccountCreated("alice", "ADMIN", "set-up link from 10.0.0.7")),
    ("alice", events.AccountSignedIn("alice", "10.0.0.7")),
    (DRONE, heard()),
    ("bob", events.AccountCreated("bob", "VIEWER", "alice")),
    ("mallory", events.AccountRefused("mallory", "10.6.6.6", "wrong name or password")),
    (DRONE, events.NodeChanged("name", "a", "b", "bob")),
    ("olga", events.AccessSeen("olga", "OPERATOR", "session", "GET /", "10.0.0.9", "Firefox")),
    (DRONE, heard(2)),
    (DRONE, events.LifecycleMoved("ENROLLED", "ACTIVE", "first heard")),  # nobody did that
    ("bob", events.AccountChanged("bob", "disabled", "yes", "Alice")),
    ("break-glass", events.GlassBroken("10.0.0.8", 5)),
    ("01ALDER", events.RosterTaken("harbor", 3, (("nils", "added as viewer", "Olga"),))),
)


@pytest.fixture
def alder(tmp_path: Path) -> Iterator[Alder]:
    made = Alder(tmp_path / "alder")
    for one in DEEDS:
        made.say(one)
    yield made
    made.stop()


def found(alder: Alder, query: Query, seconds: float = 10.0) -> Page:
    with closing(connect_reader(alder.folder.site_db)) as db:
        return search(db, query, seconds)


def kinds(page: Page) -> list[str]:
    return [one.kind for one in page.events]


def test_the_deeds_of_people_are_found_and_what_machines_do_is_not(alder: Alder) -> None:
    page = found(alder, Query())
    assert kinds(page) == [
        body.KIND for _, body in reversed(DEEDS) if body.KIND not in ("node.heard", "lifecycle.moved")
    ]
    assert (page.next, page.looked_ns) == (0, None)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (Query(person="ALICE"), 4),  # what was done by her, and to her account
        (Query(person="bob"), 3),
        (Query(person="mallory"), 1),
        (Query(person="olga"), 2),  # who sent somebody to this site counts too
        (Query(person="nils"), 1),
        (Query(person="harbor"), 1),
        (Query(person="break-glass"), 1),
        (Query(person="nobody"), 0),
        (Query(kind="account"), 5),
        (Query(kind="account.refused"), 1),
        (Query(kind="node.heard"), 0),
        (Query(kind="nonsense"), 0),
        (Query(subject=DRONE), 1),
        (Query(subject="bob", person="alice"), 2),
        (Query(from_ns=1 << 61), 0),
        (Query(to_ns=1), 0),
        (Query(from_ns=1, to_ns=1 << 61), 9),
        (Query(subject="bob", to_ns=1), 0),
    ],
)
def test_a_search_finds_what_was_asked_for(alder: Alder, query: Query, count: int) -> None:
    assert len(found(alder, query).events) == count
    with closing(connect_reader(alder.folder.site_db)) as db:
        assert len(list(every(db, query))) == count


def test_a_page_goes_on_where_the_one_before_it_ended(alder: Alder) -> None:
    whole, seen, before = kinds(found(alder, Query())), [], 0
    while True:
        page = found(alder, Query(limit=4, before=before))
        seen += kinds(page)
        before = page.next
        if not before:
            break
    assert seen == whole


def test_a_search_that_stops_for_its_time_says_how_far_it_has_come(
    alder: Alder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.audit._LOOK", 3)
    seen, before, stops = [], 0, 0
    while True:
        page = found(alder, Query(person="alice", before=before), 0.0)
        seen += kinds(page)
        before = page.next
        if not before:
            break
        assert page.looked_ns
        stops += 1
    assert seen == kinds(found(alder, Query(person="alice")))
    assert stops >= 3


def test_who_and_from_where_is_read_from_the_event_itself(alder: Alder) -> None:
    said = [(audit.person_of(one), audit.place_of(one)) for one in found(alder, Query()).events]
    assert said == [
        ("hub harbor", ""),
        ("break-glass", "10.0.0.8"),
        ("Alice", ""),
        ("olga", "10.0.0.9"),
        ("bob", ""),
        ("mallory", "10.6.6.6"),
        ("alice", ""),
        ("alice", "10.0.0.7"),
        ("set-up link from 10.0.0.7", ""),
    ]


def test_every_kind_that_names_an_actor_is_audited() -> None:
    assert {kind for kind, body in events.KINDS.items() if "actor" in body.__struct_fields__} <= set(audit.AUDITED)
    assert "document.changed" in audit.AUDITED
    assert "node.heard" not in audit.AUDITED
