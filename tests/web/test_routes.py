"""Who may ask for what, over every route and every identity; and what a foreign page can do: nothing."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.web.conftest import ROLES, bearer
from tests.web.island import NOW_NS, PASSWORD, SETUP_SECRET, Island, People
from web.app import application
from web.auth import from_control_socket
from web.policy import Entry, Policy, Table, Talk, admit
from web.ports import Identity, Refused, Role
from web.routes import TABLE

ROWS = [pytest.param(entry, id=f"{entry.method} {entry.path}") for entry in TABLE]


async def hello(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def test_every_route_has_a_policy_and_stands_once() -> None:
    table = Table(TABLE)
    assert len(table.entries) == len({(entry.method, entry.path) for entry in table.entries})
    assert all(isinstance(entry.policy, Policy) for entry in table.entries)


def test_a_route_without_a_policy_fails_at_the_start() -> None:
    with pytest.raises(AssertionError, match="no policy"):
        application(Island(nodes=0), People(), extra_routes=[Entry("GET", "/x", hello, None)], clock=lambda: 0)  # type: ignore[arg-type]


def test_the_public_routes_are_known_by_name() -> None:
    public = {f"{entry.method} {entry.path}" for entry in TABLE if entry.policy is Policy.PUBLIC}
    assert public == {
        "GET /static/{name}",
        "GET /static/vendor/{name}",
        "GET /login",
        "POST /login",
        "GET /setup/{secret}",
        "POST /setup/{secret}",
        "POST /scheme",
        "GET /healthz",
        "GET /readyz",
    }


@pytest.mark.parametrize("entry", ROWS)
@pytest.mark.parametrize("role", ROLES)
def test_each_identity_comes_as_far_as_its_role(ask: TestClient, island: Island, entry: Entry, role: str) -> None:
    if entry.path in ("/live", "/api/v1/events/feed", "/api/v1/state/stream") and role != "anonymous":
        pytest.skip("a stream without an end; other tests read it")
    path = entry.path.replace("{id}", next(iter(island.rows))).replace("{secret}", "x").replace("{name}", "skerry.css")
    token = {"authorization": f"Bearer {ROLES[role]}"} if ROLES[role] else {}
    status = ask.request(entry.method, path, headers=token).status_code
    rank = list(ROLES).index(role)
    if rank >= entry.policy:
        assert status not in (401, 403, 405, 500), status
    elif role == "anonymous":
        assert status == (303 if not entry.path.startswith("/api") else 401) or entry.path == "/metrics"
    else:
        assert status == 403


@pytest.mark.parametrize("entry", [row for row in ROWS if row.values[0].method != "GET"])  # type: ignore[attr-defined]
def test_no_change_without_the_token_of_the_session(alice: TestClient, island: Island, entry: Entry) -> None:
    path = entry.path.replace("{id}", next(iter(island.rows))).replace("{secret}", "x")
    before = (len(island.log), dict(island.rows), dict(island.items))
    foreign = alice.request(
        entry.method, path, headers={"origin": "http://mallory.example", "content-type": "application/json"}
    )
    assert foreign.status_code == 403
    if entry.policy is not Policy.PUBLIC:
        assert alice.request(entry.method, path).status_code == 403
        assert alice.request(entry.method, path, headers={"x-csrf-token": "csrf-bob"}).status_code == 403
    assert (len(island.log), island.rows, island.items) == before


def test_the_token_may_come_in_the_form_or_in_a_header(alice: TestClient, island: Island) -> None:
    assert alice.post("/quarantine/1", data={"csrf": "csrf-alice", "decision": "drop"}).status_code == 303
    assert (
        alice.post("/quarantine/2", data={"decision": "retry"}, headers={"x-csrf-token": "csrf-alice"}).status_code
        == 303
    )
    assert island.settled == [(1, "drop"), (2, "retry")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://testserver"}, 303),
        ({"sec-fetch-site": "same-origin"}, 303),
        ({"origin": "null"}, 403),
        ({"origin": "http://testserver.mallory.example"}, 403),
        ({"origin": "http://testserver", "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_where_a_form_comes_from_decides(alice: TestClient, headers: dict[str, str], status: int) -> None:
    answer = alice.post("/quarantine/3", data={"csrf": "csrf-alice", "decision": "drop"}, headers=headers)
    assert answer.status_code == status


def test_a_foreign_page_cannot_sign_anybody_in(ask: TestClient) -> None:
    form = {"name": "bob", "password": PASSWORD}
    answer = ask.post("/login", data=form, headers={"origin": "http://mallory.example"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_bearer_needs_no_csrf_token(ask: TestClient, island: Island) -> None:
    answer = ask.post("/api/v1/quarantine/1", json={"decision": "drop"}, headers=bearer("olga"))
    assert answer.json() == {"done": True}
    assert island.settled == [(1, "drop")]


def test_an_anonymous_person_is_sent_to_the_sign_in_and_back(ask: TestClient) -> None:
    answer = ask.get("/nodes/01M6B73GE30000000000000003?hours=6")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/nodes/01M6B73GE30000000000000003%3Fhours%3D6"
    page = ask.get(answer.headers["location"])
    assert 'name="next" value="/nodes/01M6B73GE30000000000000003?hours=6"' in page.text


def test_a_live_part_of_a_session_that_ended_sends_the_whole_page_to_the_sign_in(ask: TestClient) -> None:
    answer = ask.get("/", headers={"hx-request": "true", "hx-target": "div#live"})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/login"


@pytest.mark.parametrize(
    "onward", ["//mallory.example", "https://mallory.example", "/\\mallory.example", "/logout", "/a\nb"]
)
def test_a_sign_in_never_leads_to_another_site(ask: TestClient, onward: str) -> None:
    answer = ask.post("/login", data={"name": "bob", "password": PASSWORD, "next": onward})
    assert answer.headers["location"] == "/"


def test_the_session_cookie_is_out_of_reach_for_scripts(ask: TestClient) -> None:
    answer = ask.post("/login", data={"name": "bob", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie


def test_one_browser_may_be_signed_in_at_several_boxes_of_one_machine(ask: TestClient) -> None:
    """And a box's way in with TLS takes nothing from the one without: browsers keep cookies by host, whatever the port."""
    fields = {"name": "bob", "password": PASSWORD}
    for base, name in (
        ("http://alder", "skerry_session"),
        ("https://alder", "skerry_session_tls"),
        ("http://alder:8081", "skerry_session_8081"),
        ("https://alder:8443", "skerry_session_8443"),
    ):
        assert ask.post(f"{base}/login", data=fields).headers["set-cookie"].startswith(f"{name}="), base
    held = {one.name for one in ask.cookies.jar}
    assert held == {"skerry_session", "skerry_session_tls", "skerry_session_8081", "skerry_session_8443"}


def test_a_box_behind_tls_makes_its_cookies_secure() -> None:
    client = TestClient(
        application(Island(nodes=1), People(), clock=lambda: NOW_NS, secure_cookies=True), follow_redirects=False
    )
    assert "Secure" in client.post("/login", data={"name": "bob", "password": PASSWORD}).headers["set-cookie"]


def test_a_wrong_password_is_told_in_a_summary_and_tells_nothing(ask: TestClient) -> None:
    wrong = ask.post("/login", data={"name": "bob", "password": "guess"})
    nobody = ask.post("/login", data={"name": "bop", "password": "guess"})
    assert wrong.status_code == nobody.status_code == 401
    assert 'role="alert"' in wrong.text
    assert wrong.text.replace("bob", "bop") == nobody.text


def test_signing_out_ends_the_session(alice: TestClient, people: People) -> None:
    answer = alice.post("/logout", data={"csrf": "csrf-alice"})
    assert answer.headers["location"] == "/login?done=signed-out"
    assert people.sessions == {}
    assert alice.get("/").status_code == 303


def test_the_first_start_makes_an_admin_once(island: Island) -> None:
    people = People(empty=True)
    client = TestClient(application(island, people, clock=lambda: NOW_NS), follow_redirects=False)
    assert "Nobody has an account yet" in client.get("/login").text
    form = {"name": "alice", "password": "a long password", "again": "a long password"}
    assert client.post("/setup/guessed", data=form).status_code == 404
    assert client.post(f"/setup/{SETUP_SECRET}", data=form | {"again": "other"}).status_code == 422
    assert client.post(f"/setup/{SETUP_SECRET}", data=form | {"password": "short", "again": "short"}).status_code == 422
    assert client.post(f"/setup/{SETUP_SECRET}", data=form).headers["location"] == "/"
    assert people.held["alice"].role is Role.ADMIN
    assert client.get("/").status_code == 200
    assert client.get(f"/setup/{SETUP_SECRET}").status_code == 404


@pytest.mark.parametrize(
    ("server", "client", "console"),
    [
        (("/run/skerry.sock", None), None, True),
        (("127.0.0.1", 8080), ("127.0.0.1", 5), False),
        (("127.0.0.1", 8080), None, False),
        (None, None, False),
        (("/run/skerry.sock", None), ("10.0.0.1", 5), False),
    ],
)
def test_only_the_control_socket_is_the_console(server: object, client: object, console: bool) -> None:
    assert from_control_socket({"type": "http", "server": server, "client": client}) is console


def test_admission_counts_roles_upwards() -> None:
    row = Entry("GET", "/x", hello, Policy.OPERATOR)
    admit(row, Identity(name="olga", role=Role.OPERATOR))
    with pytest.raises(Refused, match="needs the role operator"):
        admit(row, Identity(name="bob", role=Role.VIEWER))


def test_the_box_may_bring_routes_of_its_own() -> None:
    extra = [Entry("POST", "/v1/ingest", hello, Policy.PUBLIC, None)]
    client = TestClient(application(Island(nodes=0), People(), extra_routes=extra, clock=lambda: 0))
    assert len(client.post("/v1/ingest", content=b"x" * 200_000).content) == 200_000


def test_a_websocket_is_turned_away(ask: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), ask.websocket_connect("/live"):
        pass


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


def talking(policy: Policy = Policy.VIEWER) -> TestClient:
    app = application(Island(nodes=1), People(), extra_talks=[Talk("/talk", echo, policy)], clock=lambda: NOW_NS)
    return TestClient(app, follow_redirects=False)


def test_a_websocket_opens_for_whom_its_policy_admits() -> None:
    client = talking()
    with client.websocket_connect("/talk", headers=bearer("bob")) as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/talk"):
        pass
    with pytest.raises(WebSocketDisconnect), talking(Policy.ADMIN).websocket_connect("/talk", headers=bearer("bob")):
        pass


def test_a_foreign_page_opens_no_websocket_with_the_cookie_of_a_session() -> None:
    client = talking()
    client.post("/login", data={"name": "alice", "password": PASSWORD})
    with client.websocket_connect("/talk", headers={"origin": "http://testserver"}) as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/talk", headers={"origin": "http://mallory"}):
        pass


def test_a_websocket_without_a_policy_fails_at_the_start() -> None:
    with pytest.raises(AssertionError, match="no policy"):
        application(Island(nodes=0), People(), extra_talks=[Talk("/x", echo, None)], clock=lambda: 0)  # type: ignore[arg-type]
