"""The page Links, and what was written in two places at once: what they say, what they refuse, what a stick brings."""

from __future__ import annotations

import msgspec
import pytest
from starlette.testclient import TestClient

from fleet.connectivity import Mode
from fleet.events import LinkChanged
from fleet.limits import MINUTE
from fleet.people import Identity
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.conftest import Server, bearer
from tests.web.island import NOW_NS, PASSWORD, Island, People
from tests.web.test_browser import look
from web import words
from web.app import application
from web.ports import LinkQuery, LinkState, LinkSums, LinksView, LinkView, ReceiptView

ALICE, BOB = bearer("alice"), bearer("bob")
SMALL = """() => [...document.querySelectorAll("button, .button, select, textarea, input:not([type=hidden])")]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 120))"""
CSRF = {"csrf": "csrf-alice"}


def harbor(island: Island) -> LinkView:
    assert island.link is not None
    return island.link


def path(island: Island, more: str = "") -> str:
    return f"/links/{harbor(island).peer}{more}"


def test_the_page_says_how_far_the_hub_is_behind_and_what_is_proven(ask: TestClient) -> None:
    text = ask.get("/links", headers=BOB).text
    assert "harbor is behind by" in text
    assert '<span class="nowrap">3 d</span>' in text
    said = "Everything up to event 12\u202f345 is at harbor: 12\u202f345 events, 14 files, 2 intentional drops; signed by both"
    assert said in text
    assert "4\u202f223 events waiting" in text
    assert "On the stick since yesterday: 4,012 events." in text
    assert 'class="state unknown"' in text, "cut off is the normal state"
    assert "#s-offline" not in text.partition('id="live"')[2], "and never an alarm in itself"


def test_a_viewer_sees_and_touches_nothing(ask: TestClient, island: Island) -> None:
    text = ask.get("/links", headers=BOB).text
    assert "Pause" not in text
    assert "Cut the link" not in text
    assert ask.post(path(island), data={"action": "cut"}, headers=BOB).status_code == 403
    assert not harbor(island).cut


def test_a_link_is_cut_and_restored_by_buttons_that_need_no_script(alice: TestClient, island: Island) -> None:
    assert alice.post(path(island), data={**CSRF, "action": "cut"}).headers["location"].endswith("?done=cut")
    assert "Nothing is lost; everything waits here" in alice.get(path(island, "?done=cut")).text
    text = alice.get("/links").text
    assert "Cut by an operator" in text
    assert "Restore the link" in text
    assert alice.post(path(island), data={**CSRF, "action": "restore"}).status_code == 303
    assert not harbor(island).cut
    assert [one.body.action for one in island.log if isinstance(one.body, LinkChanged)] == ["cut", "restore"]


def test_a_lane_is_paused_and_goes_on(alice: TestClient, island: Island) -> None:
    assert alice.post(path(island), data={**CSRF, "action": "pause:segments"}).status_code == 303
    assert [lane.name for lane in harbor(island).lanes if lane.paused] == ["segments"]
    text = alice.get("/links").text
    assert 'value="resume:segments"' in text
    assert 'value="pause:control"' not in text, "greetings are never paused"
    assert alice.post(path(island), data={**CSRF, "action": "resume:segments"}).status_code == 303
    assert not any(lane.paused for lane in harbor(island).lanes)


def test_caps_are_bytes_and_nothing_else(alice: TestClient, island: Island) -> None:
    assert alice.post(path(island), data={**CSRF, "action": "per_s", "value": "64000"}).status_code == 303
    assert alice.post(path(island), data={**CSRF, "action": "per_hour", "value": "5000000"}).status_code == 303
    assert "At most 64.0 kB a second and 5.0 MB an hour go out." in alice.get("/links").text
    for wrong in ("-1", "1.5", "many", "٣", "9" * 16):
        answer = alice.post(path(island), data={**CSRF, "action": "per_s", "value": wrong})
        assert answer.status_code == 422
        assert "A cap is a whole number of bytes" in answer.text
    assert (harbor(island).per_s_max, harbor(island).per_hour_max) == (64_000, 5_000_000)


def test_what_cannot_be_done_to_a_link_is_refused_with_what_can(alice: TestClient, island: Island) -> None:
    answer = alice.post(path(island), data={**CSRF, "action": "release", "value": "it is good"})
    assert answer.status_code == 409
    assert "What can be done to this link here and now: cut, pause, resume, per_s, per_hour." in answer.text
    assert alice.post("/links/nowhere", data={**CSRF, "action": "cut"}).status_code == 404


def test_a_quarantined_site_is_released_with_a_reason(alice: TestClient, island: Island) -> None:
    held = {"quarantine": ("its log has forked",), "forks": ("two different events 9",), "actions": ("release",)}
    island.link = msgspec.structs.replace(harbor(island), **held)
    text = alice.get("/links").text
    assert "In quarantine" in text
    assert "its log has forked" in text
    assert "two different events 9" in text
    assert alice.post(path(island), data={**CSRF, "action": "release", "value": " "}).status_code == 422
    assert alice.post(path(island), data={**CSRF, "action": "release", "value": "card was cloned"}).status_code == 303
    assert isinstance(island.log[-1].body, LinkChanged)
    assert island.log[-1].body.value == "card was cloned"


def test_a_receipt_is_saved_as_a_file(ask: TestClient, island: Island) -> None:
    answer = ask.get(path(island, "/receipts/7"), headers=BOB)
    assert answer.headers["content-disposition"] == 'attachment; filename="receipt-alder-7.json"'
    assert answer.json() == {"kind": "skerry receipt"}
    assert ask.get(path(island, "/receipts/8"), headers=BOB).status_code == 404
    assert ask.get(path(island, "/receipts/-1"), headers=BOB).status_code == 400


def test_a_bundle_is_written_for_harbor(alice: TestClient, island: Island) -> None:
    answer = alice.post(path(island, "/bundle"), data=CSRF)
    assert answer.content == b"a bundle of alder"
    assert answer.headers["content-disposition"].startswith('attachment; filename="alder-to-harbor-')


def test_a_bundle_is_read_from_a_form_piece_by_piece(alice: TestClient, island: Island) -> None:
    raw = bytes(range(256)) * 8_192 + b"\r\n--not a boundary\r\n"
    answer = alice.post("/links/bundle", data=CSRF, files={"file": ("harbor.skb", raw)})
    assert answer.status_code == 200
    assert "12 events, nothing missing." in answer.text
    assert island.brought == raw


def test_a_bundle_may_come_from_a_program_as_it_is(ask: TestClient, island: Island) -> None:
    headers = bearer("olga") | {"content-type": "application/octet-stream", "accept": "application/json"}
    answer = ask.post("/links/bundle", content=b"raw", headers=headers)
    assert answer.json() == {"done": True, "words": "Read 3 bytes from harbor: 12 events, nothing missing."}
    assert ask.post("/links/bundle", content=b"", headers=headers).json() == {"error": "The file is empty."}


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data", b"", 403),
        ("multipart/form-data; boundary=x", b"no boundary at all", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=csrf\r\n\r\ncut", 403),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 9_000 + b": b\r\n\r\n", 400),
        ("application/x-www-form-urlencoded", b"csrf=csrf-alice", 415),
        ("text/plain", b"hello", 415),
    ],
)
def test_an_upload_that_is_none_is_told_so(
    alice: TestClient, island: Island, kind: str, body: bytes, status: int
) -> None:
    answer = alice.post("/links/bundle", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert island.brought == b""


def test_an_upload_without_the_token_of_the_session_is_not_read(alice: TestClient, island: Island) -> None:
    assert alice.post("/links/bundle", files={"file": ("x", b"raw")}).status_code == 403
    assert alice.post("/links/bundle", data={"csrf": "csrf-bob"}, files={"file": ("x", b"raw")}).status_code == 403
    assert island.brought == b""


def test_a_form_without_its_file_says_which_is_missing(alice: TestClient) -> None:
    answer = alice.post("/links/join", data=CSRF)
    assert answer.status_code == 422
    assert "There is no file in this form." in answer.text


def test_only_pages_that_take_files_read_uploads(alice: TestClient, island: Island) -> None:
    assert alice.post(path(island), data={**CSRF, "action": "cut"}, files={"file": ("x", b"raw")}).status_code == 415


def test_a_site_without_a_hub_is_told_what_to_do_and_takes_the_link_file_in(alice: TestClient, island: Island) -> None:
    island.link = None
    text = alice.get("/links").text
    assert "No hub yet. This site is complete in itself." in text
    assert "skerry hub invite alder --data DIR --to alder.link" in text
    wrong = alice.post("/links/join", data=CSRF, files={"file": ("alder.link", b"holiday.jpg")})
    assert wrong.status_code == 422
    assert "This is no link file" in wrong.text
    large = alice.post("/links/join", data=CSRF, files={"file": ("alder.link", b"x" * 100_000)})
    assert large.status_code == 413
    right = alice.post("/links/join", data=CSRF, files={"file": ("alder.link", b'{"kind": "skerry link"}')})
    assert right.headers["location"] == "/links?done=joined"
    assert harbor(island).name == "harbor"


def test_only_an_admin_takes_a_link_file_in(ask: TestClient, island: Island) -> None:
    island.link = None
    assert "ask an admin" in ask.get("/links", headers=bearer("olga")).text
    body = {"content": b"{}", "headers": bearer("olga") | {"content-type": "application/octet-stream"}}
    assert ask.post("/links/join", **body).status_code == 403  # type: ignore[arg-type]


def test_the_links_stand_in_the_api_and_are_changed_there(ask: TestClient, island: Island) -> None:
    answer = ask.get("/api/v1/links", headers=BOB).json()
    assert [(one["name"], one["debt_s"], one["cut"]) for one in answer["links"]] == [("harbor", 259_200.0, False)]
    assert answer == ask.get("/links?format=json", headers=BOB).json()
    assert ask.get(path(island, "?format=json"), headers=BOB).json() == answer["links"][0]
    wish = {"action": "pause", "value": "log"}
    assert ask.post(f"/api/v1{path(island)}", json=wish, headers=BOB).status_code == 403
    assert ask.post(f"/api/v1{path(island)}", json=wish, headers=bearer("olga")).json() == {"done": True}
    assert [lane.name for lane in harbor(island).lanes if lane.paused] == ["log"]


def test_htmx_gets_the_live_part_alone(ask: TestClient) -> None:
    part = ask.get("/links", headers=BOB | {"hx-request": "true", "hx-target": "div#live"}).text
    assert part.startswith('<div id="live"')
    assert "<html" not in part


def test_a_node_shows_what_was_written_at_once_and_one_click_takes_the_other(alice: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    island.disagree(node_id)
    text = alice.get(f"/nodes/{node_id}").text
    assert "Written in two places at once" in text
    assert "alice at alder" in text
    assert "bob at harbor" in text
    assert "by a free-running clock" in text
    stale = {**CSRF, "field": "target_version", "choice": "1", "value": "1.4.8"}
    assert "Look again" in alice.post(f"/nodes/{node_id}/take", data=stale).text
    answer = alice.post(f"/nodes/{node_id}/take", data=stale | {"value": "1.4.9"})
    assert answer.headers["location"] == f"/nodes/{node_id}?done=taken"
    assert island.nodes_held[node_id].desired.target_version == "1.4.9"
    assert "Written in two places" not in alice.get(f"/nodes/{node_id}").text


def test_notes_are_written_and_kept_as_they_are(alice: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    island.notes[node_id] = "left wing\nrepaired <twice>"
    text = alice.get(f"/nodes/{node_id}").text
    assert "repaired &lt;twice&gt;</textarea>" in text
    form = {**CSRF, "name": "kestrel-1", "was_name": "kestrel-1", "notes": "fit again", "was_notes": "left wing"}
    assert alice.post(f"/nodes/{node_id}/change", data=form).status_code == 303
    assert [getattr(one.body, "field", "") for one in island.log[-1:]] == ["notes"]
    assert alice.post(f"/nodes/{node_id}/change", data=form | {"notes": "x" * 4_001}).status_code == 422


@pytest.mark.parametrize(
    ("receipt", "sentence"),
    [
        (
            {"drops": 0, "gaps": 0, "seq": 9, "events": 21, "segments": 1, "countersigned": True},
            "Everything up to event 9 is at harbor: 21 events, 1 file, nothing dropped; signed by both",
        ),
        (
            {"drops": 1, "gaps": 3, "events": 1, "segments": 0, "countersigned": False},
            "Everything up to event 1 is at harbor: 1 event, 0 files, 1 intentional drop, 3 named gaps;"
            " not yet signed by birch; signed by harbor",
        ),
    ],
)
def test_a_receipt_in_words(receipt: dict[str, object], sentence: str) -> None:
    made = msgspec.convert({"number": 1, "at_ns": NOW_NS - MINUTE, "root": ""} | receipt, ReceiptView)
    assert words.covered(made, "harbor", "birch") == sentence


@pytest.mark.parametrize("mode", [None, *Mode])
def test_every_mode_of_a_link_has_a_shape_and_a_word(mode: Mode | None) -> None:
    assert words.link_state(mode)[0] in ("online", "degraded", "unknown")
    assert words.link_state(mode, quarantined=True) == ("offline", "In quarantine")


def test_every_page_of_a_hub_leads_to_its_own_pages() -> None:
    island = Island(nodes=0)
    island.hub, island.link = True, None
    client = TestClient(application(island, People(), clock=lambda: NOW_NS))
    text = client.get("/", headers=ALICE).text
    assert "No site yet. Invite one." in text
    assert 'href="/intake"' not in text
    assert "No site yet. Invite one." in client.get("/links", headers=ALICE).text


class Many(Island):
    """A hub of 120 sites; a query is answered as `hub.box` does."""

    def __init__(self) -> None:
        super().__init__(nodes=0)
        self.hub = True

    async def links(self, who: Identity, query: LinkQuery | None = None) -> LinksView:
        query = query or LinkQuery(limit=1_000)
        every = [LinkView(peer=f"01SITE{number:04}", name=f"site-{number:03}", mode=Mode.LIVE) for number in range(120)]
        found = [one for one in every if query.text in one.name and query.peer in ("", one.peer)]
        found = found if query.state in (None, LinkState.LIVE) else []
        states = {state: 120 if state is LinkState.LIVE else 0 for state in LinkState}
        shown = tuple(found[query.offset : query.offset + query.limit])
        return LinksView(NOW_NS, shown, matching=len(found), sums=LinkSums(states, missing_events=7))


def test_a_hub_of_many_sites_shows_them_by_the_page() -> None:
    client = TestClient(application(Many(), People(), clock=lambda: NOW_NS), headers=ALICE)
    text = client.get("/links").text
    assert text.count('<tr id="l-') == 50
    assert "1–50 of 120" in text
    assert "7 events, 0 files" in text
    assert 'href="/links?offset=50"' in text
    assert "101–120 of 120" in client.get("/links?offset=100").text
    found = client.get("/links?text=site-11&state=live").text
    assert found.count('<tr id="l-') == 10
    assert 'value="site-11"' in found
    assert "No site matches." in client.get("/links?text=nowhere").text
    assert "No site matches." in client.get("/links?state=held").text
    assert "site-007" in client.get("/links/01SITE0007").text
    assert len(client.get("/api/v1/links").json()["links"]) == 120
    assert len(client.get("/api/v1/links?limit=7&offset=3").json()["links"]) == 7


@pytest.mark.parametrize("asked", ["state=well", "limit=51", "limit=0", "offset=-1", "limit=9000000000"])
def test_a_list_of_links_that_cannot_be_is_refused(asked: str) -> None:
    client = TestClient(application(Many(), People(), clock=lambda: NOW_NS), headers=ALICE)
    assert client.get(f"/links?{asked}").status_code == 400


@pytest.mark.browser
@needs_chromium
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_of_links_and_of_two_words_at_once_are_clean_to_axe(served: Server, width: int) -> None:
    node_id = next(iter(served.island.rows))
    served.island.disagree(node_id)
    served.island.notes[node_id] = "left wing repaired"
    with chromium() as browser, page_of(browser, served.url, width=width) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        for at in ("/links", f"/nodes/{node_id}"):
            page.goto(served.url + at)
            assert look(page) == [], at
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{at} scrolls sideways"
            assert page.evaluate(SMALL) == [], at
        page.click("text=Take this one")
        page.wait_for_selector("text=Taken.")
        page.goto(f"{served.url}/links")
        page.click("text=Cut the link")
        page.wait_for_selector("text=Restore the link")
        served.call(lambda: setattr(served.island, "link", None))
        page.goto(f"{served.url}/links")
        assert look(page) == []
        assert page.evaluate(SMALL) == []
        assert_clean(page)
