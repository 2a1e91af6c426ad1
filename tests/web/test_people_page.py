"""People on the pages: who may look where and who is watched; the hub's accounts at a site; the sealed account; the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from fleet.connectivity import Mode
from fleet.limits import HOUR
from fleet.people import ALL
from tests.web.conftest import bearer
from tests.web.island import NOW_NS, PASSWORD, Island, People, harbor_link
from web.app import application
from web.policy import Entry, Policy, admit
from web.ports import AccountView, Glass, Identity, LinkQuery, LinksView, Refused, Role, RosterView


class Mainland(Island):
    """A hub with two sites, as far as the page of accounts asks."""

    hub = True

    async def links(self, who: Identity, query: LinkQuery | None = None) -> LinksView:
        sites = [
            msgspec.structs.replace(harbor_link(), peer=f"01{name}", name=name, mode=Mode.LIVE)
            for name in ("alder", "birch")
        ]
        return LinksView(now_ns=NOW_NS, links=tuple(sites))


@pytest.fixture
def harbor(people: People) -> Iterator[TestClient]:
    """Carol, an operator-admin, has signed in at the hub."""
    people.held["carol"] = AccountView(name="carol", role=Role.OPERATOR_ADMIN, created_ns=NOW_NS, disabled=False)
    people.secrets["carol"] = PASSWORD
    app = application(Mainland("harbor", nodes=2), people, clock=lambda: NOW_NS)
    with TestClient(app, follow_redirects=False) as client:
        assert client.post("/login", data={"name": "carol", "password": PASSWORD}).status_code == 303
        yield client


FORM = {"csrf": "csrf-alice"}
CAROL = {"csrf": "csrf-carol"}


# -- who may, and who is watched -------------------------------------------------------------------------------------


def test_each_role_includes_the_ones_before_it() -> None:
    for policy in (Policy.VIEWER, Policy.OPERATOR, Policy.ADMIN, Policy.OPERATOR_ADMIN):
        row = Entry("GET", "/x", None, policy)  # type: ignore[arg-type]
        for role in Role:
            who = Identity(name="x", role=role)
            if role >= policy:
                admit(row, who)
            else:
                with pytest.raises(Refused, match=f"needs the role {Role(policy).word}"):
                    admit(row, who)


def test_whatever_one_looks_at_who_looks_across_tenants_is_told(ask: TestClient, people: People) -> None:
    ask.get("/", headers=bearer("olga") | {"user-agent": "Firefox"})
    ask.get("/api/v1/nodes", headers=bearer("olga"))
    ask.get("/nodes/01M6B73GE30000000000000003", headers=bearer("olga"))
    ask.post("/api/v1/quarantine/1", json={"decision": "drop"}, headers=bearer("olga"))
    assert [route for _, route, _ in people.looked] == [
        "GET /",
        "GET /api/v1/nodes",
        "GET /nodes/{id}",
        "POST /api/v1/quarantine/{id}",
    ]
    assert people.looked[0] == ("scripts of olga", "GET /", "Firefox")


def test_what_is_refused_or_open_to_all_is_no_look_and_those_of_a_tenant_are_not_watched(
    ask: TestClient, people: People
) -> None:
    for name in ("alice", "bob"):
        ask.get("/", headers=bearer(name))
        ask.get("/journal", headers=bearer(name))
    ask.get("/audit", headers=bearer("olga"))
    ask.get("/healthz", headers=bearer("olga"))
    ask.get("/")
    assert people.looked == []


async def test_a_page_that_is_open_when_its_session_ends_is_led_to_the_sign_in(island: Island, people: People) -> None:
    secret = await people.sign_in("bob", PASSWORD, "")
    ended = asyncio.Event()

    async def receive() -> dict[str, object]:
        await ended.wait()
        return {"type": "http.disconnect"}

    heard: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        body = bytes(message.get("body", b""))
        heard.append(body)
        if b"event: beat" in body:
            people.sessions.clear()

    cookie = (b"cookie", f"skerry_session={secret}".encode())
    scope = {"type": "http", "method": "GET", "path": "/live", "query_string": b"topic=site", "headers": [cookie]}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http", "root_path": ""}
    await application(island, people, clock=lambda: NOW_NS)(scope, receive, send)
    assert b"event: stale" in heard[-2]
    assert heard[-1] == b"", "and the stream is over"


# -- the hub's accounts ----------------------------------------------------------------------------------------------


def test_at_a_hub_an_account_is_made_for_all_sites_for_some_or_for_none(harbor: TestClient, people: People) -> None:
    for name, where, sites, held in (
        ("erik", "all", "", (ALL,)),
        ("nils", "named", "alder, birch", ("alder", "birch")),
        ("sven", "hub", "", ()),
    ):
        form = CAROL | {"name": name, "password": PASSWORD, "role": "operator", "where": where, "sites": sites}
        assert harbor.post("/account/accounts", data=form).status_code == 303
        assert people.held[name].sites == held
    page = harbor.get("/account").text
    assert "operator · at every site" in page
    assert "operator · at alder, birch" in page
    assert "operator · this hub alone" in page
    form = CAROL | {"name": "nils", "role": "operator-admin", "where": "all"}
    assert harbor.post("/account/accounts/change", data=form).status_code == 303
    assert (people.held["nils"].role, people.held["nils"].sites) == (Role.OPERATOR_ADMIN, (ALL,))


@pytest.mark.parametrize(("where", "sites"), [("named", "aldre"), ("named", ""), ("everywhere", "")])
def test_a_site_that_nobody_knows_lets_nobody_in_unseen(harbor: TestClient, where: str, sites: str) -> None:
    form = CAROL | {"name": "erik", "password": PASSWORD, "role": "viewer", "where": where, "sites": sites}
    answer = harbor.post("/account/accounts", data=form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text


def test_a_role_that_there_is_not_is_refused(harbor: TestClient) -> None:
    form = CAROL | {"name": "carol", "role": "owner"}
    assert harbor.post("/account/accounts/change", data=form).status_code == 422


def test_the_hub_shows_which_sites_lack_the_newest_list_and_why(harbor: TestClient, people: People) -> None:
    people.list = RosterView(version=7, made_ns=NOW_NS, held={"01alder": 7, "01birch": 6})
    page = harbor.get("/account").text
    assert "1 site of 2 have this list" in page
    assert "Not yet: birch" in page
    people.list = RosterView(
        version=7, made_ns=NOW_NS, held={"01alder": 7, "01birch": 8}, problems={"01birch": "older"}
    )
    assert "birch (it refused the newest: older)" in harbor.get("/account").text
    people.list = RosterView(version=7, made_ns=NOW_NS, held={"01alder": 7, "01birch": 7})
    assert "Every site has this list" in harbor.get("/account").text


def test_a_site_shows_where_an_account_comes_from_and_how_old_that_is(alice: TestClient, people: People) -> None:
    people.held["nils"] = AccountView(
        name="nils", role=Role.OPERATOR, created_ns=NOW_NS, disabled=False, origin="harbor", changed_by="Carol"
    )
    people.list = RosterView(version=7, made_ns=1, hub="harbor", heard_ns=NOW_NS - 3 * HOUR, clashes=("bob",))
    page = alice.get("/account").text
    assert "From hub harbor" in page
    assert "3 h 00 min ago" in page
    assert "until the next contact or stick" in page
    assert "bob: harbor has an account of that name too" in page
    row = page[page.index("<b>nils</b>") : page.index("</li>", page.index("<b>nils</b>"))]
    assert "from hub harbor" in row
    assert "<form" not in row, "it is changed at the hub"


# -- the sealed account ----------------------------------------------------------------------------------------------


def test_the_secret_of_the_envelope_is_shown_once(alice: TestClient, people: People) -> None:
    answer = alice.post("/account/glass", data=FORM)
    assert "7KQ2M-4XD9A" in answer.text
    page = alice.get("/account").text
    assert "7KQ2M" not in page
    assert "Sealed" in page


def test_while_the_glass_is_broken_every_page_says_so_to_everybody(ask: TestClient, people: People) -> None:
    people.glass = Glass(used_ns=NOW_NS - HOUR, address="10.6.6.6", until_ns=NOW_NS + HOUR)
    for path, name in (("/", "bob"), ("/journal", "olga"), ("/account", "alice"), ("/intake", "bob")):
        page = ask.get(path, headers=bearer(name)).text
        assert "The break-glass account is in use" in page
        assert "from 10.6.6.6" in page
    assert "The break-glass account is in use" in ask.get("/login").text
    people.glass = Glass(used_ns=NOW_NS - HOUR, address="10.6.6.6", until_ns=NOW_NS - 1)
    assert "is in use" not in ask.get("/", headers=bearer("bob")).text
    assert "Used" in ask.get("/account", headers=bearer("alice")).text


def test_a_hub_has_no_envelope(harbor: TestClient) -> None:
    assert "Break glass" not in harbor.get("/account").text


# -- the audit -------------------------------------------------------------------------------------------------------


def test_the_audit_is_searched_by_person_and_kind(alice: TestClient, island: Island) -> None:
    whole = alice.get("/audit?format=json").json()["events"]
    assert whole
    assert all("words" in one["event"] for one in whole)
    some = alice.get("/audit?format=json&kind=node").json()["events"]
    assert {one["event"]["kind"].partition(".")[0] for one in some} <= {"node"}
    page = alice.get("/audit?person=nobody-at-all").text
    assert "Nobody did such a thing" in page
    page = alice.get("/audit?limit=1").text
    assert "Older" in page


@pytest.mark.parametrize(
    "query",
    ["kind=node.heard", "kind=nonsense", "limit=1000000000", "before=x", "from=yesterday", "to=x", "from=20&to=10"],
)
def test_what_cannot_be_asked_is_one_clear_answer(alice: TestClient, query: str) -> None:
    answer = alice.get(f"/audit?{query}")
    assert answer.status_code == 400
    assert "as_of" not in answer.text


def test_the_audit_leaves_as_a_file(alice: TestClient) -> None:
    answer = alice.get("/audit/export?person=alice")
    assert answer.headers["content-disposition"].startswith('attachment; filename="audit-alder-')
    assert answer.text.startswith('{"kind":"skerry audit"')


def test_a_name_full_of_markup_stays_a_name(alice: TestClient) -> None:
    answer = alice.get("/audit?person=%3Cscript%3Ealert(1)%3C/script%3E&subject=%22%3E%3Cimg%20src=x%3E")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
