"""What the pages say, what they refuse and how, and what every answer carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import web
from fleet import events as facts
from fleet.connectivity import Mode, Reach
from fleet.events import KINDS, Clock, Recorded, Unknown
from fleet.limits import HOUR, SECOND
from fleet.node import Kind
from fleet.reading import Position
from tests.web.conftest import bearer
from tests.web.island import NOW_NS, Island, People
from web import chart, words
from web.app import application
from web.ports import NodeRow, Series, WayIn

WEB = Path(web.__path__[0])
PAGES = ("/", "/intake", "/devices", "/quarantine", "/quarantine?settled=1", "/journal", "/journal/verify", "/account")
ALICE = bearer("alice")


def node_path(island: Island, name: str = "kestrel-4") -> str:
    return "/nodes/" + next(row.id for row in island.rows.values() if row.name == name)


@pytest.mark.parametrize("path", [*PAGES, "/login", "/nowhere", "/static/skerry.css", "/api/v1/me", "/healthz"])
def test_every_answer_carries_the_security_headers(ask: TestClient, path: str) -> None:
    headers = ask.get(path, headers=ALICE).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("path", [*PAGES, "node", "/login", "/nowhere"])
def test_no_page_holds_inline_script_or_style(ask: TestClient, island: Island, path: str) -> None:
    text = ask.get(node_path(island) if path == "node" else path, headers=ALICE).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", text), "everything is local"


@pytest.mark.parametrize("path", [*PAGES, "node"])
def test_every_page_has_its_json_beside_it(ask: TestClient, island: Island, path: str) -> None:
    if path == "/journal/verify":
        pytest.skip("a page that is written while it runs")
    at = node_path(island) if path == "node" else path
    answer = ask.get(at + ("&" if "?" in at else "?") + "format=json", headers=ALICE)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()


def test_the_first_screen_says_how_many_are_live(ask: TestClient) -> None:
    text = ask.get("/", headers=ALICE).text
    assert "<title>21 of 25 live" in text
    assert "<b>21</b><span>of 25<br>live</span>" in text
    assert "merlin-3</b> went quiet" in text


def test_a_state_has_a_shape_and_a_word_and_a_class(ask: TestClient) -> None:
    text = ask.get("/?text=fts-east", headers=ALICE).text
    row = re.search(r"<tr id=\"n-.*?</tr>", text, re.DOTALL)
    assert row
    assert 'class="state unknown"' in row[0]
    assert "#s-unknown" in row[0]
    assert "Never heard" in row[0]
    assert "online" not in row[0], "unknown is never green"


def test_what_a_silent_node_said_of_itself_is_told_in_the_past(ask: TestClient) -> None:
    row = re.search(r"<tr id=\"n-.*?</tr>", ask.get("/?text=merlin-3", headers=ALICE).text, re.DOTALL)
    assert row
    assert "was OK" in row[0]


def test_the_list_finds_filters_and_turns_its_pages(ask: TestClient) -> None:
    found = ask.get("/?text=kestrel&reach=degraded", headers=ALICE).text
    assert "kestrel-6</a>" in found
    assert "kestrel-1</a>" not in found
    second = ask.get("/?limit=10&offset=10&order=name", headers=ALICE).text
    assert 'rel="next" href="/?order=name&amp;limit=10&amp;offset=20"' in second
    assert 'rel="prev" href="/?order=name&amp;limit=10"' in second
    assert "No node matches" in ask.get("/?text=zzz", headers=ALICE).text


def test_an_empty_site_says_what_to_do() -> None:
    client = TestClient(application(Island(nodes=0), People(), clock=lambda: NOW_NS))
    text = client.get("/", headers=ALICE).text
    assert "Point a device’s syslog at <code>testserver:5514</code> (syslog-udp)" in text
    assert "3 waiting now" in text


def test_htmx_gets_only_the_part_it_fills(ask: TestClient, island: Island) -> None:
    part = ask.get("/", headers=ALICE | {"hx-request": "true", "hx-target": "div#live"}).text
    assert part.startswith('<div id="live"')
    assert "<html" not in part
    tail = ask.get(node_path(island), headers=ALICE | {"hx-request": "true", "hx-target": "div#tail"}).text
    assert tail.lstrip().startswith('<div id="tail"')


def test_the_raw_tail_is_filtered(ask: TestClient, island: Island) -> None:
    path = node_path(island)
    assert "battery=" in ask.get(path, headers=ALICE).text
    assert (
        "No record of this node contains “nothing like it”"
        in ask.get(f"{path}?text=nothing+like+it", headers=ALICE).text
    )


def test_a_viewer_sees_no_button_that_would_refuse(ask: TestClient, island: Island) -> None:
    for path in (node_path(island), "/intake", "/quarantine"):
        text = ask.get(path, headers=bearer("bob")).text
        assert set(re.findall(r'method="post" action="([^"]+)"', text)) == {"/scheme"}


def test_one_click_adopts(alice: TestClient, island: Island) -> None:
    source = next(iter(island.unclaimed))
    page = alice.get("/intake").text
    assert 'value="kestrel-9"' in page
    answer = alice.post("/adopt", data={"csrf": "csrf-alice", "source": source, "name": "kestrel-9", "kind": "EDGE"})
    assert answer.status_code == 303
    landed = alice.get(answer.headers["location"]).text
    assert "<h1>kestrel-9</h1>" in landed
    assert "Its past records came with it" in landed
    again = alice.post("/adopt", data={"csrf": "csrf-alice", "source": source, "name": "x", "kind": "EDGE"})
    assert again.status_code == 409
    assert "belongs to a node already" in again.text


def test_a_move_that_no_edge_allows_is_refused_in_words(alice: TestClient, island: Island) -> None:
    path = node_path(island)
    wrong = alice.post(f"{path}/move", data={"csrf": "csrf-alice", "target": "RETIRED", "reason": "old"})
    assert wrong.status_code == 409
    assert "a node cannot go from ACTIVE/LIVE_OK to RETIRED" in wrong.text
    assert alice.post(f"{path}/move", data={"csrf": "csrf-alice", "target": "UPDATING"}).status_code == 422
    right = alice.post(f"{path}/move", data={"csrf": "csrf-alice", "target": "UPDATING", "reason": "new firmware"})
    assert right.headers["location"].endswith("?done=moved")
    assert "moved from ACTIVE/LIVE_OK to UPDATING by alice: new firmware" in alice.get(path).text


def test_only_what_was_changed_is_sent_on(alice: TestClient, island: Island) -> None:
    path = node_path(island)
    before = len(island.log)
    form = {"csrf": "csrf-alice", "name": "kestrel-44", "was_name": "kestrel-4", "tags": "a, b", "was_tags": "a, b"}
    assert alice.post(f"{path}/change", data=form).status_code == 303
    assert [one.kind for one in island.log[before:]] == ["node.changed"]
    assert alice.post(f"{path}/change", data=form | {"name": " "}).status_code == 422


def test_the_verdict_ends_the_page(ask: TestClient) -> None:
    text = ask.get("/journal/verify", headers=ALICE).text
    assert text.index("25 %") < text.index("75 %") < text.index("Whole and unchanged") < text.index("</html>")


def test_the_journal_leaves_as_a_file(ask: TestClient) -> None:
    answer = ask.get("/journal/export", headers=ALICE)
    assert answer.headers["content-disposition"] == 'attachment; filename="journal-alder-20261121T0930Z.skj.zst"'
    assert answer.content.startswith(b"\x28\xb5\x2f\xfd")


def test_a_token_shows_its_secret_once(alice: TestClient) -> None:
    made = alice.post("/account/tokens", data={"csrf": "csrf-alice", "name": "grafana", "role": "viewer"})
    assert "skt_3_grafana" in made.text
    assert "skt_3_grafana" not in alice.get("/account").text


def test_a_scheme_is_rendered_by_the_server(ask: TestClient) -> None:
    answer = ask.post("/scheme", data={"scheme": "night", "back": "/login"})
    assert answer.headers["location"] == "/login"
    assert '<html lang="en" class="night">' in ask.get("/login").text
    assert ask.post("/scheme", data={"scheme": "plaid"}).status_code == 422


def test_static_files_are_named_by_hash_and_kept(ask: TestClient) -> None:
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', ask.get("/login").text)
    assert len(found) >= 5
    for url in found:
        answer = ask.get(url)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert ask.get(url, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("folder", [WEB / "static" / "vendor", Path(__file__).parent / "vendor"])
def test_vendored_files_are_what_their_list_says(folder: Path) -> None:
    lines = dict(reversed(line.split("  ")) for line in (folder / "VENDOR.sha256").read_text().splitlines())  # type: ignore[misc]
    assert set(lines) == {path.name for path in folder.iterdir()} - {"VENDOR.sha256"}
    for name, sha in lines.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/?reach=green", "/?kind=TOASTER", "/?order=luck", "/?offset=-1", "/?limit=501", "/?limit=ten", "/?limit=٣",
     "/journal?before=x", "/journal?kind=node.exploded", "/quarantine?limit=0", "/?offset=99999999999999999999999",
     "/?text=" + "x" * 200],
)  # fmt: skip
def test_a_query_that_no_form_sends_gets_a_sentence(ask: TestClient, path: str) -> None:
    answer = ask.get(path, headers=ALICE)
    assert answer.status_code in (400, 422)
    assert "<h1>" in answer.text
    assert ask.get(path + "&format=json", headers=ALICE).json()["error"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/nodes/x", "/nodes/01M6B73GE3000000000000ZZZZ", "/static/..%2fapp.py", "/nodes/a/b/c"]
)
def test_what_is_not_there_has_a_page_that_says_so(ask: TestClient, path: str) -> None:
    answer = ask.get(path, headers=ALICE)
    assert answer.status_code == 404
    assert "Nothing here" in answer.text or path.startswith("/static")


def test_an_address_with_two_slashes_links_to_no_other_site(ask: TestClient) -> None:
    assert '="//' not in ask.get("http://testserver//mallory.example/?x=1", headers=ALICE).text


def test_a_wrong_method_is_told_the_right_ones(ask: TestClient) -> None:
    answer = ask.delete("/intake", headers=ALICE)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert "takes GET, not DELETE" in answer.text


def test_a_form_over_its_cap_is_refused_before_it_is_read(alice: TestClient) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(70):
            yield b"x" * 1024

    assert alice.post("/adopt", content=b"x" * 70_000).status_code == 413
    assert (
        alice.post("/adopt", content=drip(), headers={"content-type": "application/x-www-form-urlencoded"}).status_code
        == 413
    )


@pytest.mark.parametrize("body", [b"\xff\xfe=1", b"&".join(b"a=1" for _ in range(100))])
def test_a_form_that_is_none_gets_a_sentence(alice: TestClient, body: bytes) -> None:
    answer = alice.post("/adopt", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 400
    assert "could not be read" in answer.text
    assert alice.post("/adopt", content=body, headers={"content-type": "text/xml"}).status_code == 415


def test_a_box_that_cannot_answer_says_whose_fault_it_is(ask: TestClient, island: Island) -> None:
    island.down = "The disk does not take writes; the records wait in memory. Free some space."
    answer = ask.get("/", headers=ALICE)
    assert answer.status_code == 503
    assert island.down in answer.text
    assert ask.get("/api/v1/nodes", headers=ALICE).json() == {"error": island.down}
    assert ask.get("/readyz").status_code == 503
    assert ask.get("/healthz").status_code == 200


def test_our_own_mistake_is_called_ours(island: Island, people: People) -> None:
    island.broken = RuntimeError("secret detail")
    client = TestClient(application(island, people, clock=lambda: NOW_NS), raise_server_exceptions=False)
    answer = client.get("/", headers=ALICE)
    assert answer.status_code == 500
    assert "you did nothing wrong" in answer.text
    assert "secret detail" not in answer.text
    island.broken = TimeoutError()
    assert client.get("/", headers=ALICE).status_code == 503


# -- words and pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3900, "1 h 05 min"),
        (172_799, "47 h 59 min"),
        (172_800, "2 d"),
    ],
)
def test_an_age_has_two_units_at_most(seconds: float, said: str) -> None:
    assert words.age(seconds) == said


def test_every_kind_of_event_has_a_sentence() -> None:
    assert set(words.EVENTS) == set(KINDS)
    samples = {"str": "x", "int": 5 * SECOND, "bytes": b"x", "bool": False}
    for kind, body in KINDS.items():
        shape = body.__annotations__
        values = [
            samples.get(str(shape[name]), None if "None" in str(shape[name]) else ()) for name in body.__struct_fields__
        ]
        one = Recorded(1, "w", 1, 1, 0, 0, Clock.SYNCED, kind, 1, "s", body(*values))
        assert len(words.event(one)) > 5


def test_a_kind_from_tomorrow_is_shown_as_such() -> None:
    one = Recorded(1, "w", 1, 1, 0, 0, Clock.SYNCED, "node.sang", 1, "s", Unknown(b"\x91\xa1x"))
    assert "does not know" in words.event(one)
    known = one._replace(kind="node.heard", body=facts.NodeHeard(mode="LIVE", former="", via="ping"))
    assert words.event(known) == "heard for the first time via ping"
    written = facts.DocumentTold(
        "node", (("notes", "wet"), ("tags/drone", "True"), ("domain_id", "")), "Bob", repeated=True
    )
    said = words.event(known._replace(kind="document.changed", body=written))
    assert said == "notes “wet”; tag drone; domain nothing by Bob (sent again)"


def test_a_line_breaks_where_nothing_was_heard() -> None:
    assert chart.spark((1.0, None, 2.0), 10, 10) == "M0.0 10.0h.1M10.0 0.0h.1"
    assert chart.spark((1.0,), 10, 10) == ""
    assert chart.spark((5.0, 5.0), 10, 10) == "M0.0 10.0h.1L10.0 10.0"


def row(number: int, lat: float, lon: float, reach: Reach = Reach.ONLINE) -> NodeRow:
    name = f"buoy-{number}"
    return NodeRow(id=name, name=name, kind=Kind.EDGE, mode=Mode.LIVE, reach=reach, position=Position(lat, lon))


@pytest.mark.parametrize(("lat", "lon"), [(58.35, 11.25), (0.0, 0.0), (-89.9, 179.9), (90.0, -180.0)])
def test_the_map_holds_every_node_wherever_it_is(lat: float, lon: float) -> None:
    for count in (1, 30, 400):
        drawn = chart.map_of([row(number, lat - number * 1e-4, lon + number * 1e-4) for number in range(count)])
        assert drawn
        assert drawn.nodes == count
        assert all(0 <= mark.x <= chart.WIDTH and 0 <= mark.y <= chart.HEIGHT for mark in drawn.marks)
        assert len(drawn.meridians) + len(drawn.parallels) < 80


def test_in_a_crowd_what_needs_attention_keeps_its_own_mark() -> None:
    rows = [row(number, 58 + number * 1e-4, 11 + number % 20 * 1e-3) for number in range(300)]
    drawn = chart.map_of([*rows, row(999, 58.01, 11.01, Reach.OFFLINE)])
    assert drawn
    assert any(mark.row.name == "buoy-999" for mark in drawn.marks)
    assert dict(drawn.crowd).keys() == {Reach.ONLINE}


def series(*at_s: float, step_s: int = 60) -> Series:
    mean = tuple(float(index) for index, _ in enumerate(at_s))
    return Series(metric="battery_pct", unit="%", step_s=step_s, at_s=at_s, low=mean, mean=mean, high=mean)


def test_a_chart_breaks_where_nothing_was_heard_and_leaves_its_ends_empty() -> None:
    drawn = chart.trace(series(100, 160, 220, 700, 760), 0, 1000, 1000, 40)
    assert drawn == "M100.0 40.0h.1L160.0 30.0L220.0 20.0M700.0 10.0h.1L760.0 0.0"
    assert chart.trace(series(), 0, 1000, 1000, 40) == ""
    assert chart.trace(series(500), 0, 1000, 1000, 40) == "M500.0 40.0h.1"


def test_a_node_that_speaks_seldom_has_no_gap_between_its_words() -> None:
    assert chart.gap_s((0, 30, 60, 90, 400), 10) == 75
    assert chart.gap_s((0, 60, 120), 60) == 150
    assert chart.gap_s((), 60) == 150
    assert "M" not in chart.trace(series(*range(0, 600, 30), step_s=10), 0, 600, 600, 40)[1:]


def test_parts_of_a_bar_never_leave_it() -> None:
    pieces = chart.stack([("raw", 90), ("series", 30), ("journal", 1)], 100)
    assert pieces[-1].x + pieces[-1].width <= 100
    assert chart.stack([("raw", 1)], 0)[0].width == 0


def test_the_disk_has_a_forecast_in_words() -> None:
    assert "never fills" in words.forecast(None, 0.0)
    assert "about 11 days" in words.forecast(986_000.0, 4e8)
    assert "Too early" in words.forecast(None, None)
    assert "is full" in words.forecast(0.0, 4e8)


def test_times_no_calendar_holds_are_still_shown() -> None:
    assert words.iso(0) == "1970-01-01T00:00:00Z"
    assert words.when(NOW_NS + HOUR) == "2026-11-21 10:30:00 UTC"
    assert words.clock_time(10**27).count(":") == 2


def test_a_nodes_page_says_how_its_messages_come(alice: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    assert "clock 12 ms behind" in alice.get(f"/nodes/{node_id}").text
    island.ways_in[node_id] = WayIn(
        per_s=1.0,
        repeated=9,
        repeated_in_a_row=7,
        skew_ns=190 * SECOND,
        skewed=True,
        beat_interval_s=5.0,
        missed_beats=4.2,
    )
    page = alice.get(f"/nodes/{node_id}").text
    assert "Its clock is 3 min ahead." in page
    assert "9 sent again, 7 in a row" in page
    assert "a heartbeat every 5 s, 4 missed" in page


def test_the_intake_page_says_how_long_a_record_takes_to_the_disk_and_what_waits(alice: TestClient) -> None:
    page = alice.get("/intake").text
    assert "4.1<i> ms</i>" in page
    assert "99 of 100 within 212 ms" in page
    assert "17 by http" in page
