"""T14: the tenant matrix. Every row of the hub's own route table, asked for as each of eight people and programs, at a real
hub with two tenants beside its first, each with a site, a node, documents, people, tokens and what is in quarantine.

Two ways lead to what belongs to another: its address with its ids, and one's own address with its ids. Along both, what is
foreign is answered as what is absent, word for word; nothing of the other stands in any answer, and nothing in its folder
has changed afterwards but that those who may look across looked. A planted leak shows that the matrix finds one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from fleet.events import AccessSeen, AccountRefused
from fleet.people import Identity, Role
from hub.compose import Hub
from hub.config import Config, Http, Link
from hub.config import Hub as HubSection
from hub.realm import Realm
from store import journal
from tests.cast import BOB, PASSWORD, eventually_async, send_udp
from tests.mainland import Box, _site
from web.policy import Entry, Policy
from web.ports import NodeView
from web.routes import TALKS

pytestmark = [
    pytest.mark.trial,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("tenants"),
]

CONSOLE = Identity(name="console", role=Role.OPERATOR_ADMIN, via="console")
CONFIG = Config(
    hub=HubSection(name="harbor"), http=Http(listen="127.0.0.1:0"), link=Link(listen="127.0.0.1:0", tls=False)
)
STREAMS = ("/live", "/api/v1/events/feed", "/api/v1/state/stream")
GHOST = "thule"  # a tenant that is not here
NOBODYS = "01ABSENT000000000000000000"
AGENT = "trial 14"


class Place(NamedTuple):
    """A tenant: where it is, what it has, and how one may recognise it."""

    tenant: str
    prefix: str
    realm: Realm
    ids: Mapping[str, str]
    marks: tuple[str, ...]


class Person(NamedTuple):
    """`home` is the tenant that the account is of."""

    words: str
    home: str
    across: bool
    line: httpx2.AsyncClient
    csrf: str = ""


class Stage(NamedTuple):
    hub: Hub
    polar: Place
    tropic: Place
    people: tuple[Person, ...]
    owner: Person  # tropic's admin: shows that what is asked for is there


def rows(hub: Hub) -> tuple[Entry, ...]:
    return hub.tenants.rows


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    tmp_path = tmp_path_factory.mktemp("tenants")
    hub = Hub(tmp_path / "harbor", CONFIG)
    await hub.start()
    polar_site = _site(tmp_path, "alder", {"SKERRY_PING_ENABLED": "false", "SKERRY_SITE_TENANT": "polar"})
    tropic_site = _site(tmp_path, "birch", {"SKERRY_PING_ENABLED": "false", "SKERRY_SITE_TENANT": "tropic"})
    async with contextlib.AsyncExitStack() as lines:
        try:
            for tenant in ("polar", "tropic"):
                await hub.tenants.add(CONSOLE, tenant, f"{tenant}-first")
            polar = await furnished(hub, "polar", polar_site)
            tropic = await furnished(hub, "tropic", tropic_site)
            people, owner = await cast(hub, lines)
            yield Stage(hub, polar, tropic, people, owner)
        finally:
            for box in (polar_site, tropic_site):
                await asyncio.to_thread(box.stop)
            await hub.stop()


async def furnished(hub: Hub, tenant: str, site: Box) -> Place:
    """A site that came, told of a node and was stopped; documents, people, a token, something in quarantine."""
    realm, prefix = hub.tenants.realms[tenant], f"/t/{tenant}"
    admin = await realm.accounts.create_token(CONSOLE, f"{tenant}-token", Role.ADMIN)
    for name, role in ((f"{tenant}-vera", Role.VIEWER), (f"{tenant}-anna", Role.ADMIN)):
        await realm.accounts.create_account(CONSOLE, name, PASSWORD, role)
    await asyncio.to_thread(site.start)
    async with line_of(hub, admin) as line:
        invited = (await line.post(f"{prefix}/console/invite", json={"name": site.name})).json()
        await asyncio.to_thread(site.call, "POST", "/console/join", invited)
        send_udp(site.udp, b"<14>Nov 29 10:00:00 drone-1 up: battery 80", address=BOB)
        source = await eventually_async(lambda: asyncio.to_thread(first_source, site))
        wish = {"source": source, "name": f"{tenant}-kestrel", "kind": "EDGE", "tags": []}
        node = (await asyncio.to_thread(site.call, "POST", "/api/v1/adopt", wish))["id"]
        await eventually_async(
            lambda: line.get(f"{prefix}/api/v1/nodes/{node}"), lambda answer: answer.status_code == 200
        )
        policy = (await line.post(f"{prefix}/api/v1/policies", json={"name": f"{tenant}-bundle"})).json()["id"]
        domain = (await line.post(f"{prefix}/api/v1/domains", json={"name": f"{tenant}-north"})).json()["id"]
        peer = next(iter(realm.fleet.sites))
        await eventually_async(lambda: line.get(f"{prefix}/links/{peer}/receipts/1"), lambda a: a.status_code == 200)
    await asyncio.to_thread(site.stop)
    for number in range(2 if tenant == "polar" else 5):  # so that tropic has a number that polar has not
        realm.quarantine.put("link", site.name, f"{tenant} said what is no message {number}", b"?")
        await realm.quarantine.flush()
    item = (await realm.box.quarantine(CONSOLE, 0, 1, False))[0].id
    await eventually_async(lambda: quiet(realm))
    ids = {"node": node, "peer": peer, "policy": policy, "domain": domain, "item": str(item), "plan": peer}
    marks = (node, peer, policy, domain, site.name, f"{tenant}-", f"{tenant} said")
    return Place(tenant, prefix, realm, ids, marks)


def first_source(site: Box) -> str:
    found = site.call("GET", "/api/v1/sources")["sources"]
    return str(found[0]["key"]) if found else ""


async def quiet(realm: Realm) -> bool:
    """Nothing more is written when the site has gone."""
    before = realm.ground.journal.position
    await asyncio.sleep(0.5)
    return realm.ground.journal.position == before


def line_of(hub: Hub, token: str = "") -> httpx2.AsyncClient:
    headers = {"user-agent": AGENT} | ({"authorization": f"Bearer {token}"} if token else {})
    return httpx2.AsyncClient(
        base_url=f"http://{hub.addresses['http']}", headers=headers, trust_env=False, timeout=30, follow_redirects=False
    )


async def cast(hub: Hub, lines: contextlib.AsyncExitStack) -> tuple[tuple[Person, ...], Person]:
    for name, role in (
        ("hilda", Role.VIEWER),
        ("hanna", Role.ADMIN),
        ("olga", Role.OPERATOR),
        ("otto", Role.OPERATOR_ADMIN),
    ):
        await hub.accounts.create_account(CONSOLE, name, PASSWORD, role)
    polar = hub.tenants.realms["polar"].accounts

    async def signed_in(words: str, home: str, name: str, *, across: bool = False) -> Person:
        line = await lines.enter_async_context(line_of(hub))
        assert (await line.post(f"{home}/login", data={"name": name, "password": PASSWORD})).status_code == 303
        found = re.search(r'name="csrf" value="(\w+)"', (await line.get(f"{home}/account")).text)
        assert found, name
        cookies = "; ".join(f"{one.name}={one.value}" for one in line.cookies.jar)  # sent everywhere, as Mallory would
        line.headers["cookie"] = cookies
        line.cookies.clear()
        return Person(words, home, across, line, found[1])

    async def program(words: str, home: str, token: str, *, across: bool = False) -> Person:
        return Person(words, home, across, await lines.enter_async_context(line_of(hub, token)))

    people = (
        Person("nobody", "/nowhere", False, await lines.enter_async_context(line_of(hub))),
        await signed_in("viewer of polar", "/t/polar", "polar-vera"),
        await signed_in("admin of polar", "/t/polar", "polar-anna"),
        await program("token of polar", "/t/polar", await polar.create_token(CONSOLE, "polar-more", Role.ADMIN)),
        await signed_in("viewer of the first tenant", "", "hilda"),
        await program("admin of the first tenant", "", await hub.accounts.create_token(CONSOLE, "hanna", Role.ADMIN)),
        await program("operator", "", await hub.accounts.create_token(CONSOLE, "olga", Role.OPERATOR), across=True),
        await signed_in("operator-admin", "", "otto", across=True),
    )
    return people, await signed_in("admin of tropic", "/t/tropic", "tropic-anna")


# -- what is asked ------------------------------------------------------------------------------------------------

_JSON: dict[str, Any] = {  # what each takes; a row that is not here gets the whole form below
    "/api/v1/nodes/{id}": {"field": "name", "value": "mine"},
    "/api/v1/nodes/{id}/move": {"target": "ENROLLED", "reason": "because"},
    "/api/v1/nodes/{id}/take": {"field": "name", "choice": 0},
    "/api/v1/nodes/{id}/parked": {"field": "name", "decision": "drop", "why": "because"},
    "/api/v1/policies": {"name": "ID"},
    "/api/v1/policies/{id}": {"fields": {"version": "9"}},
    "/api/v1/policies/{id}/preview": {"fields": {"version": "9"}},
    "/api/v1/policies/{id}/take": {"field": "version", "choice": 0},
    "/api/v1/domains": {"name": "ID"},
    "/api/v1/domains/{id}": {"fields": {"name": "mine"}},
    "/api/v1/domains/{id}/take": {"field": "name", "choice": 0},
    "/api/v1/domains/{id}/edit": {"field": "version", "value": "9", "nodes": ["NODE"]},
    "/api/v1/adopt": {"source": "NODE", "name": "mine"},
    "/api/v1/quarantine/{id}": {"decision": "drop"},
    "/api/v1/links/{id}": {"action": "release", "value": "because"},
    "/api/v1/authority/{id}": {
        "terms": {"owner": "site", "mode": "carry_on", "until_ns": 0, "controllers": [], "scope": "PEER"},
        "why": "because",
    },
    "/api/v1/authority/{id}/return": {"why": "because"},
    "/api/v1/attention/{id}": {"key": "ID", "action": "acknowledge"},
    "/api/v1/plan/apply": {"plan": "ID", "state": "ID", "decisions": {"ID": 0}, "why": "because", "peer": "PEER"},
    "/api/v1/plan/undo": {"plan": "ID", "why": "because"},
    "/api/v1/tokens": {"name": "ID", "role": "nonsense"},
    "/api/v1/accounts": {"name": "ID", "password": "short"},
    "/console/entries": {"name": "ID"},
    "/console/role": {"name": "ID", "role": "viewer"},
    "/console/break-glass": {"again": False},
    "/console/invite": {"name": "ID", "urls": ["nonsense"]},
    "/console/bundle/write": {"to": "/nowhere/at/all", "site": "PEER"},
    "/console/bundle/read": {"path": "/nowhere/at/all"},
    "/console/tenants": {"name": "-", "admin": "ID"},
}
_FORM = {
    **dict.fromkeys(("name", "source", "key", "plan", "state", "subject", "was_name"), "ID"),
    **dict.fromkeys(("why", "reason", "remark"), "because"),
    **{"node": "NODE", "peer": "PEER", "step-ID": "0", "n-NODE": "1", "action": "release", "value": "x", "field": "name"},
    **{"decision": "drop", "choice": "0", "target": "ENROLLED", "scheme": "auto", "role": "viewer", "password": ""},
    **{"notes": "mine", "version": "9", "owner": "site", "mode": "carry_on", "kind": "nonsense"},
}  # fmt: skip
_QUERY = "subject=NODE&node=NODE&node_id=NODE&site=PEER&domain=DOMAIN&peer=PEER&topic=node:NODE&name=ID&limit=5"


class Asked(NamedTuple):
    method: str
    path: str
    json: Any
    form: dict[str, str] | None


def asked(entry: Entry, ids: Mapping[str, str]) -> Asked:
    """A row of the table as a request for what has these ids."""
    kind = next((ids[name] for word, name in _OF if f"/{word}/" in entry.path), ids["node"])

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {filled(key): filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        if not isinstance(value, str):
            return value
        for word in ("node", "peer", "domain"):
            value = value.replace(word.upper(), ids[word])
        return value.replace("ID", kind) if value.endswith("ID") else value

    path = entry.path.replace("{id}", kind).replace("{number}", "1").replace("{secret}", ids["node"])
    path = path.replace("{name}", "skerry.css")
    if entry.method in ("GET", "DELETE"):
        return Asked(entry.method, f"{path}?{filled(_QUERY.replace('name=ID', f'name={kind}'))}", None, None)
    if entry.path in _JSON:
        return Asked(entry.method, path, filled(_JSON[entry.path]), None)
    return Asked(entry.method, path, None, filled(_FORM))


_OF = (
    ("links", "peer"), ("plan", "plan"), ("policies", "policy"), ("domains", "domain"), ("quarantine", "item"),
    ("authority", "domain"),
)  # fmt: skip


class Answer(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


async def answered(person: Person, prefix: str, wish: Asked) -> Answer:
    form = wish.form | {"csrf": person.csrf} if wish.form is not None and person.csrf else wish.form
    headers = {"x-csrf-token": person.csrf} if person.csrf else {}
    async with person.line.stream(
        wish.method, f"{prefix}{wish.path}", json=wish.json, data=form, headers=headers
    ) as answer:
        body = ""
        if not (answer.status_code == 200 and wish.path.startswith(STREAMS)):
            body = (await answer.aread()).decode(errors="replace")
        kept = tuple(sorted((k, v) for k, v in answer.headers.items() if k not in ("date", "content-length", "etag")))
        return Answer(answer.status_code, kept, body)


_TIME = re.compile(r"\d[\d.,:\u202f]*( ?(ms|s|min|h|d|days?|B|KiB|MiB|%)\b)?")
_ADDRESS = re.compile(r'(?<!data-house )(?<=[ \n])(?!(?:value|d|title)=)[\w:-]+="/(?!t/tropic/|static/)[^"]*"')
_ULID = re.compile(r"01[0-9A-HJKMNP-TV-Z]{24}")


def plain(text: str, *words: str) -> str:
    """Without what was asked for, and without times and numbers."""
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "*")
    return _TIME.sub("#", _ULID.sub("*", text))


def same(one: Answer, other: Answer, *words: str) -> bool:
    return plain(str(one), *words) == plain(str(other), *words)


def difference(one: Answer, other: Answer, *words: str) -> str:
    here, there = plain(str(one), *words), plain(str(other), *words)
    at = next((at for at, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), 0)
    return f"{here[max(0, at - 60) : at + 60]} is not {there[max(0, at - 60) : at + 60]}"


def ghostly(ids: Mapping[str, str]) -> dict[str, str]:
    """Ids of the same form that nothing ever had."""
    return {name: NOBODYS if len(value) == 26 else "987654" for name, value in ids.items()}


class Leak(NamedTuple):
    person: str
    row: str
    way: str
    what: str


async def matrix(stage: Stage, only: tuple[str, ...] = ()) -> tuple[list[Leak], int]:
    """What of tropic came to somebody who may not see it, and how many requests were made."""
    leaks: list[Leak] = []
    tropic, asked_for = stage.tropic, 0
    ghosts = ghostly(tropic.ids)
    words = (*(one for one in (*tropic.ids.values(), *ghosts.values()) if not one.isdigit()), tropic.tenant, GHOST)
    for entry in rows(stage.hub):
        if only and entry.path not in only:
            continue
        row, wish, ghost = f"{entry.method} {entry.path}", asked(entry, tropic.ids), asked(entry, ghosts)
        for person in stage.people:
            if person.across:
                continue
            foreign = await answered(person, tropic.prefix, wish)
            absent = await answered(person, f"/t/{GHOST}", wish)
            asked_for += 2
            if not same(foreign, absent, *words):
                leaks.append(Leak(person.words, row, "its address", difference(foreign, absent, *words)))
            if entry.policy is not Policy.PUBLIC and foreign.status < 300:
                leaks.append(Leak(person.words, row, "its address", str(foreign.status)))
            answers = [foreign]
            if person.home != "/nowhere" and entry.path != "/logout":
                here, there = await answered(person, person.home, wish), await answered(person, person.home, ghost)
                answers.append(here)
                asked_for += 2
                if "{" in entry.path and not same(here, there, *words):
                    leaks.append(Leak(person.words, row, "own address", difference(here, there, *words)))
            said = str(wish)
            for answer in answers:
                found = [mark for mark in tropic.marks if mark in answer.body and mark not in said]
                if found:
                    leaks.append(Leak(person.words, row, "in the answer", ", ".join(found)))
    return leaks, asked_for


def held(realm: Realm) -> dict[str, list[Any]]:
    """All that tropic's database holds, but for what it notes of itself."""
    with contextlib.closing(sqlite3.connect(realm.folder.site_db)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        kept = [name for name in names if name not in ("event", "block", "view", "meta", "log", "sqlite_sequence")]
        return {name: sorted(map(repr, db.execute(f'SELECT * FROM "{name}"'))) for name in kept}


def told(realm: Realm, after: int) -> Iterator[Any]:
    with contextlib.closing(sqlite3.connect(realm.folder.site_db)) as db:
        for batch in journal.read(db, after):
            yield from batch


# -- the trial ----------------------------------------------------------------------------------------------------


async def test_nothing_of_a_tenant_comes_to_another_and_nothing_is_changed_there(stage: Stage) -> None:
    before, position = held(stage.tropic.realm), stage.tropic.realm.ground.journal.position
    leaks, asked_for = await matrix(stage)
    assert leaks == [], "\n".join(map(str, leaks[:40]))
    assert asked_for > 2_000
    assert held(stage.tropic.realm) == before
    said = list(told(stage.tropic.realm, position))
    assert {type(one.body) for one in said} <= {AccountRefused}, "but that sign-ins were tried"
    print(f"{len(rows(stage.hub))} rows, {asked_for} requests, 0 leaks")


async def test_who_looks_across_sees_it_and_every_look_is_told_where_he_looked(stage: Stage) -> None:
    tropic = stage.tropic
    for person in (one for one in stage.people if one.across):
        for entry in rows(stage.hub):
            if (
                entry.method != "GET"
                or entry.policy is Policy.PUBLIC
                or entry.path in STREAMS
                or "journal" in entry.path
            ):
                continue
            if entry.path.startswith(("/console/bundle", "/tenants", "/console/tenants")):
                continue
            position = tropic.realm.ground.journal.position
            answer = await answered(person, tropic.prefix, asked(entry, tropic.ids))
            absent = await answered(person, f"/t/{GHOST}", asked(entry, tropic.ids))
            assert absent.status in (403, 404), entry
            if answer.status == 403:
                continue
            seen = [one.body for one in told(tropic.realm, position) if isinstance(one.body, AccessSeen)]
            assert [(one.route, one.address, one.agent) for one in seen] == [
                (f"{entry.method} {entry.path}", "127.0.0.1", AGENT)
            ], entry
            assert seen[0].name in ("olga of default", "otto of default")
    view: NodeView = (await stage.people[-1].line.get(f"{tropic.prefix}/api/v1/nodes/{tropic.ids['node']}")).json()
    assert view["row"]["name"] == "tropic-kestrel"  # type: ignore[index]


async def test_what_is_asked_for_is_there(stage: Stage) -> None:
    """The control of the other way: its own admin gets it, so that a refusal is not the only answer there is."""
    shown, astray = set(), set()
    for entry in rows(stage.hub):
        if entry.method == "GET" and entry.path not in STREAMS:
            answer = await answered(stage.owner, stage.tropic.prefix, asked(entry, stage.tropic.ids))
            if "text/html" in str(answer.headers):
                astray |= {f"{entry.path}: {found}" for found in _ADDRESS.findall(answer.body)}
            if answer.status == 200 and (
                entry.path.endswith("{number}") or any(mark in answer.body for mark in stage.tropic.marks)
            ):
                shown.add(entry.path)
    assert astray == set(), "every address on a page of tropic leads to tropic"
    assert {"/nodes/{id}", "/links/{id}", "/links/{id}/receipts/{number}", "/policies/{id}", "/domains/{id}"} <= shown
    assert {"/api/v1/nodes/{id}", "/api/v1/policies", "/quarantine", "/account", "/audit", "/journal"} <= shown


async def test_a_planted_leak_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    polar, tropic = stage.polar.realm.box, stage.tropic.realm.box
    own = polar.node

    async def leaky(who: Identity, node_id: str) -> NodeView | None:
        return await own(who, node_id) or await tropic.node(who, node_id)

    monkeypatch.setattr(polar, "node", leaky)
    leaks, _ = await matrix(stage, ("/nodes/{id}", "/api/v1/nodes/{id}"))
    assert {leak.row for leak in leaks} >= {"GET /nodes/{id}", "GET /api/v1/nodes/{id}"}
    monkeypatch.setattr(polar, "node", own)
    assert (await matrix(stage, ("/nodes/{id}",)))[0] == []
    monkeypatch.setattr("web.auth._across", lambda who: who)  # a viewer of the first tenant is let in everywhere
    leaks, _ = await matrix(stage, ("/api/v1/nodes/{id}",))
    assert {leak.person for leak in leaks} == {"viewer of the first tenant", "admin of the first tenant"}


async def test_no_websocket_opens_at_another_tenant(stage: Stage) -> None:
    node = stage.tropic.ids["node"]
    for talk in TALKS:
        for person in (*stage.people, stage.owner):
            opens = person.across or person is stage.owner
            assert await knocked(stage, person, f"{stage.tropic.prefix}{talk.path}") is opens, person.words
            assert await knocked(stage, person, f"/t/{GHOST}{talk.path}") is False, person.words
            if not opens and person.home != "/nowhere":  # what is told of a node that one's own tenant has not
                assert await knocked(stage, person, f"{person.home}{talk.path}?node={node}", "tropic-") is True


async def knocked(stage: Stage, person: Person, path: str, never: str = "") -> bool:
    headers = {name: value for name, value in person.line.headers.items() if name in ("authorization", "cookie")}
    try:
        async with connect(f"ws://{stage.hub.addresses['http']}{path}", additional_headers=headers, proxy=None) as line:
            said = str(await line.recv())
            assert not never or never not in said
            return True
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
        return False
