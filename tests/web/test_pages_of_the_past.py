"""The pages as of a moment: what stood then, unmistakable, without anything to press; and which moments may be asked for."""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec
import pytest
from starlette.testclient import TestClient

from fleet import events as facts
from fleet import past
from fleet.document import Kind
from fleet.limits import HOUR, MINUTE, SECOND
from fleet.node import Desired
from tests.web.conftest import bearer
from tests.web.island import NOW_NS, Island
from web import asked, render
from web.policy import Entry
from web.ports import AuthorityLine, Refused
from web.routes import TABLE
from web.words import iso

HOUR_AGO = iso(NOW_NS - HOUR)


@pytest.mark.parametrize(
    ("raw", "at_ns"),
    [
        ("2026-11-20T14:21:00Z", 1_795_184_460 * SECOND),
        ("2026-11-20t14:21:00z", 1_795_184_460 * SECOND),
        ("2026-11-20 14:21", 1_795_184_460 * SECOND),
        ("2026-11-20T15:21:00+01:00", 1_795_184_460 * SECOND),
        ("2026-11-20T14:21:00.250Z", 1_795_184_460 * SECOND + 250_000_000),
        ("1795184460", 1_795_184_460 * SECOND),
        ("1795184460000000001", 1_795_184_460_000_000_001),
    ],
)
def test_a_moment_is_written_in_three_ways(raw: str, at_ns: int) -> None:
    assert asked.read_moment(raw) == at_ns


@pytest.mark.parametrize(
    "raw",
    ["yesterday", "-5", "1e9", "٣٣٣", "2026-13-40T99:00", "2026-11-20", "179518446000", "2026-11-20T14:21:00Z\x00"],
)
def test_what_is_no_moment_is_refused_with_how_to_write_one(ask: TestClient, raw: str) -> None:
    with pytest.raises(Refused, match="2026-11-20T14:21:00Z"):
        asked.read_moment(raw)
    answer = ask.get("/api/v1/nodes", params={"as_of": raw}, headers=bearer("bob"))
    assert answer.status_code == 400
    assert "as_of" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/", "/nodes/{id}", "/api/v1/nodes", "/api/v1/nodes/{id}", "/api/v1/nodes/{id}/series"]
)
@pytest.mark.parametrize(
    ("moment", "words"), [("2040-01-01T00:00:00Z", "in the future"), ("5", "before the first event")]
)
def test_a_moment_out_of_range_gets_one_clear_answer(
    ask: TestClient, island: Island, path: str, moment: str, words: str
) -> None:
    node_id = next(iter(island.rows))
    answer = ask.get(path.format(id=node_id), params={"as_of": moment, "metric": "battery_pct"}, headers=bearer("bob"))
    assert answer.status_code == 400
    assert words in answer.text
    assert "from 2026-11-21" in answer.text
    assert iso(NOW_NS).replace("T", " ").replace("Z", " UTC") in answer.text


def test_a_box_without_a_past_says_so(ask: TestClient, island: Island) -> None:
    island.past = None
    answer = ask.get("/", params={"as_of": HOUR_AGO}, headers=bearer("bob"))
    assert answer.status_code == 400
    assert "keeps no past" in answer.text


def test_the_fleet_of_a_moment_is_what_the_log_says_of_it(ask: TestClient, island: Island) -> None:
    assert island.past is not None
    for minutes in (0, 10, 60, 200):
        moment_ns = NOW_NS - minutes * MINUTE
        there = island.past._history.crowd(moment_ns).modes()
        view = ask.get("/", params={"as_of": str(moment_ns), "format": "json"}, headers=bearer("bob")).json()
        assert sum(view["reach"].values()) == view["matching"] == len(there)
        assert view["as_of"]["at_ns"] == view["now_ns"] == moment_ns
        listed = ask.get(
            "/api/v1/nodes", params={"as_of": str(moment_ns), "limit": "500"}, headers=bearer("bob")
        ).json()
        assert {one["node"]["id"]: one["node"]["connectivity"]["mode"] or "" for one in listed["nodes"]} == there


def test_a_list_of_the_past_goes_on_page_by_page(ask: TestClient) -> None:
    seen: list[str] = []
    after = ""
    while True:
        query = {"as_of": str(NOW_NS), "limit": "7", "after": after}
        answer = ask.get("/api/v1/nodes", params=query, headers=bearer("bob")).json()
        seen += [one["node"]["id"] for one in answer["nodes"]]
        if answer["next"] is None:
            break
        after = answer["next"]
    assert seen == sorted(set(seen))
    whole = ask.get("/", params={"as_of": str(NOW_NS), "format": "json", "limit": "500"}, headers=bearer("bob")).json()
    assert len(seen) == whole["matching"]
    pages = [
        row["id"]
        for offset in range(0, whole["matching"], 7)
        for row in ask.get(
            "/",
            params={"as_of": str(NOW_NS), "format": "json", "limit": "7", "offset": str(offset)},
            headers=bearer("bob"),
        ).json()["rows"]
    ]
    assert pages == [row["id"] for row in whole["rows"]]


def test_a_page_of_the_past_says_so_and_has_nothing_to_press(alice: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    for path in ("/", f"/nodes/{node_id}"):
        page = alice.get(path, params={"as_of": HOUR_AGO}).text
        assert 'id="past"' in page
        for words in ("As of", "1 h 00 min ago", "Back to now"):
            assert words in page
        main = page[page.index("<main") : page.index("</main>")]
        assert 'method="post"' not in main
        assert "sse:connect" not in page, "nothing of it moves"
        for link in re.findall(r'href="(/(?:nodes/[^"]*|\?[^"]*)?)"', page):
            assert "as_of=" in link, link
    assert 'id="past"' not in alice.get("/").text


def test_links_of_a_past_page_keep_their_own_query_and_place() -> None:
    moment = "2026-11-20T14:21:00Z"
    for given, wanted in (
        ('<a href="/">', f'<a href="/?as_of={moment}">'),
        ('<a href="/?site=alder">', f'<a href="/?site=alder&amp;as_of={moment}">'),
        ('<a href="/nodes/X?before=3#h">', f'<a href="/nodes/X?before=3&amp;as_of={moment}#h">'),
        ('<a href="/?as_of=">', '<a href="/?as_of=">'),
        ('<a href="/journal">', f'<a href="/journal?as_of={moment}">'),
        ('<a href="/domains/X/authority">', f'<a href="/domains/X/authority?as_of={moment}">'),
        ('<a href="/journal/verify">', '<a href="/journal/verify">'),
        ('<a href="/domains/X/edit">', '<a href="/domains/X/edit">'),
        ('<a href="/intake">', '<a href="/intake">'),
        ('<form data-moment hx-get="/">', '<form data-moment hx-get="/">'),
        (
            '<form method="get" action="/">',
            f'<form method="get" action="/"><input type="hidden" name="as_of" value="{moment}">',
        ),
        ('<form method="get" action="/" data-moment>', '<form method="get" action="/" data-moment>'),
    ):
        assert render.carried(given, moment) == wanted


def test_a_node_that_was_not_there_yet_is_named_with_its_first_moment(ask: TestClient, island: Island) -> None:
    assert island.past is not None
    history = island.past._history
    first = {node_id: history.first_of(node_id) for node_id in island.rows}
    node_id, first_ns = max(((one, at) for one, at in first.items() if at is not None), key=lambda pair: pair[1])
    answer = ask.get(f"/nodes/{node_id}", params={"as_of": str(first_ns - MINUTE)}, headers=bearer("bob"))
    assert answer.status_code == 400
    assert "was not there" in answer.text or "before the first event" in answer.text
    assert ask.get(f"/nodes/{node_id}", params={"as_of": str(first_ns)}, headers=bearer("bob")).status_code == 200


def test_the_slider_spans_the_life_of_a_node_and_marks_its_turns(alice: TestClient, island: Island) -> None:
    assert island.past is not None
    node_id = next(node for node in island.rows if len(island.past._history.turns(node, 99)) > 1)
    page = alice.get(f"/nodes/{node_id}").text
    turns = island.past._history.turns(node_id, 99)
    assert f'type="range" min="{turns[0].since_ns // SECOND}" max="{NOW_NS // SECOND + 1}"' in page
    assert 'class="turns"' in page
    then = alice.get(f"/nodes/{node_id}", params={"as_of": str(turns[-1].since_ns // SECOND)}).text
    assert f'value="{turns[-1].since_ns // SECOND}"' in then


def test_nobody_else_s_words_get_into_a_page_of_the_past(alice: TestClient, island: Island) -> None:
    page = alice.get("/", params={"as_of": HOUR_AGO, "text": '"><script>alert(1)</script>'}).text
    assert "<script>alert" not in page


def test_a_moment_in_a_stamp_is_the_moment() -> None:
    assert past.moment_of(past.stamp_at(NOW_NS)) == NOW_NS


# -- what people had written, links, the journal ---------------------------------------------------------------------


@pytest.mark.parametrize("home", ["/policies", "/domains"])
def test_a_bundle_and_a_domain_are_shown_as_they_were_written_at_a_moment(
    alice: TestClient, island: Island, home: str
) -> None:
    kind = Kind.BUNDLE if home == "/policies" else Kind.DOMAIN
    name = island.slate.put(kind, "01OLD", {"name": "as of old", "notes": "the first"}, ago_ns=2 * HOUR)
    island.slate.documents[kind, name]["notes"].append(island.slate.stamped("the second", ago_ns=HOUR // 2))
    page = alice.get(f"{home}/{name}", params={"as_of": HOUR_AGO}).text
    assert 'id="past"' in page
    assert "the first" in page
    assert "the second" not in page
    assert 'method="post"' not in page[page.index("<main") : page.index("</main>")]
    answer = alice.get(f"/api/v1{home}/{name}", params={"as_of": HOUR_AGO}).json()
    assert {word["field"]: word["value"] for word in answer["words"]} == {"name": "as of old", "notes": "the first"}
    assert [one["name"] for one in alice.get(f"/api/v1{home}", params={"as_of": HOUR_AGO}).json()["groups"]].count(
        "as of old"
    ) == 1
    assert "as of old" in alice.get("/policies", params={"as_of": HOUR_AGO}).text
    early = alice.get(f"{home}/{name}", params={"as_of": str((NOW_NS - 3 * HOUR) // SECOND)})
    assert early.status_code == 400
    assert "had not been written" in early.text
    assert alice.get(f"{home}/01NOBODY", params={"as_of": HOUR_AGO}).status_code == 404


def test_nodes_of_no_domain_have_their_page_of_a_moment(alice: TestClient) -> None:
    moment = {"as_of": str((NOW_NS - HOUR - 30 * MINUTE) // SECOND)}  # before they were given one
    (none,) = alice.get("/api/v1/domains", params=moment).json()["groups"]
    assert (none["id"], none["name"], none["described"]) == ("", "No domain", False)
    assert 'href="/domains/none' in alice.get("/policies", params=moment).text
    page = alice.get("/domains/none", params=moment).text
    assert "<h1>No domain</h1>" in page
    assert 'href="/?domain=none' in page
    assert "What was written in it" not in page
    assert alice.get("/api/v1/domains/none", params=moment).json()["nodes"] == none["nodes"] > 0


def test_the_journal_of_a_moment_ends_there(alice: TestClient, island: Island) -> None:
    page = alice.get("/journal", params={"as_of": HOUR_AGO, "format": "json"}).json()
    assert page["events"]
    assert all(one["wall_ns"] <= NOW_NS - HOUR for one in page["events"])
    told = alice.get("/journal", params={"as_of": HOUR_AGO}).text
    assert 'id="past"' in told
    assert "Export" not in told


def test_links_of_a_moment_say_how_they_stood(alice: TestClient, island: Island) -> None:
    assert island.link is not None
    page = alice.get("/links", params={"as_of": HOUR_AGO}).text
    assert 'id="past"' in page
    assert island.link.name in page
    assert alice.get("/api/v1/links", params={"as_of": HOUR_AGO}).json()["as_of"]["at_ns"] == NOW_NS - HOUR


def test_what_was_wanted_of_a_node_and_how_it_stood_is_of_the_moment(alice: TestClient, island: Island) -> None:
    node_id = next(node for node in island.rows if island.rows[node].version)
    held = island.slate.wanted.setdefault(node_id, {})
    held |= {
        "name": island.slate.stamped("its name then", ago_ns=3 * HOUR),
        "target_version": island.slate.stamped("9.9.9", ago_ns=2 * HOUR),
        "notes": island.slate.stamped("of today", ago_ns=0),
    }
    view = alice.get(f"/nodes/{node_id}", params={"as_of": HOUR_AGO, "format": "json"}).json()
    assert view["row"]["name"] == view["node"]["name"] == "its name then"
    assert view["node"]["desired"]["target_version"] == "9.9.9"
    assert [one["wanted"] for one in view["drift"] if one["pointer"] == "/actual/reported_version"] == ["9.9.9"]
    assert "9.9.9" in alice.get(f"/nodes/{node_id}", params={"as_of": HOUR_AGO}).text
    assert alice.get(f"/api/v1/nodes/{node_id}/drift", params={"as_of": HOUR_AGO}).json()["drift"] == view["drift"]


NORTH = "north"


def decided_otherwise(island: Island, subject: str) -> None:
    """harbor grants three hours ago, for half an hour; the line goes down two hours ago, and alder takes over."""
    terms = ("GLOBAL", (), HOUR // 2, "safe subset", "hand back")
    granted = facts.AuthorityGranted(island.writer, 1, *terms, "Bob", "one hand on the helm")
    island._fact(subject, granted, 3 * HOUR, writer="01HARBOR")
    stamp = island.log[-1].hlc
    island._fact(subject, facts.AuthorityBegan(1, "accepted", *terms, (), stamp), 3 * HOUR - MINUTE)
    island._fact("", facts.LinkTurned("harbor", "REPLAYING", "LIVE", "covered"), 3 * HOUR - MINUTE)
    island._fact("", facts.LinkTurned("harbor", "LIVE", "AUTONOMOUS", "line down"), 2 * HOUR)
    alone = ("LOCAL", (), HOUR // 2, "safe subset", "hand back")
    island._fact(subject, facts.AuthorityBegan(2, "taken", *alone, (), stamp, HOUR // 2), 2 * HOUR - HOUR // 2)
    island.lines_of_authority = [AuthorityLine(subject=subject, place=island.writer, site="alder", epoch=2)]


def test_who_decided_is_of_the_moment_with_its_epoch_its_lease_and_its_terms(alice: TestClient, island: Island) -> None:
    decided_otherwise(island, NORTH)

    def at(ago_ns: int) -> list[dict[str, object]]:
        query = {"as_of": str(NOW_NS - ago_ns)}
        view = alice.get(f"/api/v1/authority/{NORTH}", params=query).json()
        assert view["as_of"]["at_ns"] == view["now_ns"] == NOW_NS - ago_ns
        assert view["actions"] == []
        page = alice.get(f"/domains/{NORTH}/authority", params=query)
        assert page.status_code == 200
        assert 'method="post"' not in page.text[page.text.index("<main") : page.text.index("</main>")]
        assert "sse:connect" not in page.text
        lines: list[dict[str, object]] = view["lines"]
        return lines

    assert at(4 * HOUR) == []
    (granted,) = at(3 * HOUR - SECOND)
    assert (granted["epoch"], granted["pending"]) == (0, "the hub decides")
    (live,) = at(2 * HOUR + HOUR // 2)
    assert (live["epoch"], live["holders"], live["cause"]) == (1, ["harbor"], "accepted")
    assert live["until_ns"] == NOW_NS - 2 * HOUR, "while the line is up, half an hour from that moment"
    (silent,) = at(2 * HOUR - MINUTE)
    assert (silent["epoch"], silent["until_ns"]) == (1, NOW_NS - 2 * HOUR + HOUR // 2)
    (alone,) = at(HOUR)
    assert (alone["epoch"], alone["holders"], alone["cause"]) == (2, ["alder"], "taken")
    assert (alone["on_expiry"], alone["on_return"]) == ("safe subset", "hand back")
    page = alice.get(f"/domains/{NORTH}/authority", params={"as_of": str(NOW_NS - 2 * HOUR + MINUTE)}).text
    assert "harbor decides</p>" in page
    assert "29 min from then, if nothing more is heard; then alder decides alone: only what makes things safer" in page


def test_the_page_of_a_node_and_of_a_domain_say_who_decided_then(alice: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    island.slate.put(Kind.DOMAIN, NORTH, {"name": "north"}, ago_ns=5 * HOUR)
    island.slate.wanted[node_id] = {"domain_id": island.slate.stamped(NORTH, ago_ns=5 * HOUR)}
    decided_otherwise(island, NORTH)
    for path in (f"/nodes/{node_id}", f"/domains/{NORTH}"):
        for ago_ns, who in ((2 * HOUR + MINUTE, "harbor decides</p>"), (HOUR, "alder decides</p>")):
            assert who in alice.get(path, params={"as_of": str(NOW_NS - ago_ns)}).text
    view = alice.get(f"/api/v1/nodes/{node_id}", params={"as_of": str(NOW_NS - HOUR)}).json()
    assert (view["authority"]["epoch"], view["authority"]["subject"]) == (2, NORTH)
    assert view["node"]["authority"]["master_of_record"] == "LOCAL"


READS = [one for one in TABLE if one.method == "GET"]


@pytest.mark.parametrize("entry", READS, ids=lambda one: one.path)
def test_every_read_answers_as_of_or_says_in_a_sentence_why_not(entry: Entry) -> None:
    assert entry.past != bool(entry.now), "one of the two"
    assert entry.past or entry.now.endswith(".")


@pytest.mark.parametrize(
    "entry", [one for one in READS if not one.past and "{" not in one.path], ids=lambda one: one.path
)
def test_what_knows_only_the_present_says_so_and_never_shows_it_as_the_past(alice: TestClient, entry: Entry) -> None:
    answer = alice.get(entry.path, params={"as_of": HOUR_AGO, "format": "json"})
    assert answer.status_code == 400
    assert answer.json()["error"] == entry.now


def test_what_does_not_know_the_past_is_streams_files_health_and_who_may_come_in() -> None:
    """A page that is added knows the past, or stands here."""
    assert {entry.path.removeprefix("/api/v1") for entry in READS if not entry.past} == {
        *("/static/{name}", "/static/vendor/{name}", "/openapi.json"),
        *("/login", "/setup/{secret}", "/account", "/me", "/tokens", "/devices", "/activation-codes"),
        *("/live", "/events/feed", "/state/stream"),
        *("/journal/export", "/journal/verify", "/audit/export", "/links/{id}/receipts/{number}"),
        *("/metrics", "/healthz", "/readyz"),
        *("/domains/{id}/edit", "/plan", "/plan/{id}", "/intake", "/sources"),
    }


# -- a stretch of time -------------------------------------------------------------------------------------------------


def test_events_of_a_stretch_and_up_to_a_moment_for_programs(ask: TestClient, island: Island) -> None:
    def events(**query: str) -> list[int]:
        answer = ask.get("/api/v1/events", params={"limit": "1000", **query}, headers=bearer("bob"))
        assert answer.status_code == 200, answer.text
        return [one["wall_ns"] for one in answer.json()["events"]]

    every, hour, two = events(), NOW_NS - HOUR, NOW_NS - 4 * HOUR
    for early, late in ((two, hour), (hour, NOW_NS)):
        within = [at for at in every if early <= at < late]
        assert within
        assert events(**{"from": iso(early), "to": iso(late)}) == within
    assert events(as_of=HOUR_AGO) == [at for at in every if at <= hour] != every
    assert events(**{"from": iso(two), "to": iso(NOW_NS), "as_of": HOUR_AGO}) == [
        at for at in every if two <= at <= hour
    ]
    backwards = ask.get("/api/v1/events", params={"from": iso(hour), "to": iso(two)}, headers=bearer("bob"))
    assert backwards.status_code == 400
    assert "nothing lies between" in backwards.json()["error"]
    wrong = ask.get("/api/v1/events", params={"to": "soon"}, headers=bearer("bob"))
    assert wrong.status_code == 400
    assert "“to”" in wrong.json()["error"]


def test_the_journal_page_takes_a_stretch_of_time_and_keeps_it_on_older_pages(
    alice: TestClient, island: Island
) -> None:
    early, late = NOW_NS - 6 * HOUR, NOW_NS - HOUR
    query = {"from": iso(early)[:-1], "to": iso(late)[:-1], "limit": "2"}
    page = alice.get("/journal", params={**query, "format": "json"}).json()
    assert len(page["events"]) == 2
    assert all(early <= one["wall_ns"] < late for one in page["events"])
    shown = alice.get("/journal", params=query).text
    assert f'value="{query["from"]}"' in shown
    assert f"from={quote(query['from'])}&amp;to={quote(query['to'])}&amp;before={page['before']}" in shown


def test_the_audit_of_a_moment_ends_there(alice: TestClient, island: Island) -> None:
    whole = alice.get("/audit", params={"format": "json", "limit": "500"}).json()["events"]
    then = alice.get("/audit", params={"format": "json", "limit": "500", "as_of": HOUR_AGO}).json()["events"]
    assert then == [one for one in whole if one["event"]["wall_ns"] <= NOW_NS - HOUR] != whole
    assert 'id="past"' in alice.get("/audit", params={"as_of": HOUR_AGO}).text


# -- quarantine, receipts, records -------------------------------------------------------------------------------------


def test_quarantine_of_a_moment_is_what_waited_then_with_nothing_to_press(alice: TestClient, island: Island) -> None:
    last = max(island.items)
    island.items[last] = msgspec.structs.replace(island.items[last], settled_ns=NOW_NS - MINUTE, decision="drop")
    at_ns = island.items[last].at_ns
    query = {"as_of": str(at_ns)}
    assert [one["id"] for one in alice.get("/api/v1/quarantine", params=query).json()["items"]] == [last]
    page = alice.get("/quarantine", params=query).text
    main = page[page.index("<main") : page.index("</main>")]
    assert f'id="q-{last}"' in main
    assert 'method="post"' not in main
    assert alice.get("/api/v1/quarantine", params=query | {"settled": "1"}).json()["items"] == []


def test_links_of_a_moment_have_the_receipt_of_that_moment(alice: TestClient, island: Island) -> None:
    assert island.link is not None
    assert island.link.receipt is not None
    made = msgspec.structs.replace(island.link.receipt, at_ns=NOW_NS - 2 * HOUR)
    island.link = msgspec.structs.replace(island.link, receipt=made)
    for ago_ns, number in ((HOUR, made.number), (3 * HOUR, None)):
        query = {"as_of": str(NOW_NS - ago_ns)}
        (link,) = alice.get("/api/v1/links", params=query).json()["links"]
        assert (link["receipt"] and link["receipt"]["number"]) == number
        shown = alice.get("/links", params=query).text
        assert (f"number {made.number}" in shown) == (number is not None)


def test_raw_records_of_a_moment_end_there_and_the_cursor_with_them(ask: TestClient, island: Island) -> None:
    moment_ns, after, seen = island.records[299].at_ns, 0, list[int]()
    while True:
        query = {"as_of": str(moment_ns), "after": str(after), "limit": "70"}
        answer = ask.get("/api/v1/telemetry", params=query, headers=bearer("bob")).json()
        seen += [one["id"] for one in answer["records"]]
        if answer["next"] == after:
            break
        after = answer["next"]
    assert seen == [one.id for one in island.records if one.at_ns <= moment_ns]
    assert after == seen[-1]


# -- by domain and by policy bundle -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "field"), [("domain", "domain_id"), ("bundle", "policy_bundle_id")])
def test_the_fleet_is_listed_by_domain_and_by_bundle_now_and_as_of_a_moment(
    alice: TestClient, island: Island, name: str, field: str
) -> None:
    kind = Kind.DOMAIN if name == "domain" else Kind.BUNDLE
    for one in ("01WEST", "01EAST"):
        island.slate.put(kind, one, {"name": one.lower()}, ago_ns=5 * HOUR)
    there, moved = list(island.rows)[:2]
    for node_id, value, ago_ns in ((there, "01WEST", 3 * HOUR), (moved, "01EAST", HOUR // 2)):
        island.slate.wanted[node_id] = {field: island.slate.stamped(value, ago_ns=ago_ns)}

    def of(group: str, as_of: str = "") -> set[str]:
        query = {name: group, "limit": "500", "as_of": as_of}
        listed = {one["node"]["id"] for one in alice.get("/api/v1/nodes", params=query).json()["nodes"]}
        page = alice.get("/", params={**query, "format": "json"}).json()
        assert {row["id"] for row in page["rows"]} == listed
        assert page["matching"] == len(listed)
        shown = alice.get("/", params=query).text
        assert f'<option value="{group}" selected>' in shown
        return listed

    assert of("01WEST") == of("01WEST", HOUR_AGO) == {there}
    assert of("01EAST") == {moved}
    assert of("01EAST", HOUR_AGO) == set()
    if name == "domain":
        assert moved in of("none", HOUR_AGO)
        assert moved not in of("none")


def test_a_list_for_programs_takes_the_filters_of_the_page(ask: TestClient, island: Island) -> None:
    tag = next(tag for row in island.rows.values() for tag in row.tags)
    for query, fits in (
        ({"tag": tag}, lambda row: tag in row.tags),
        ({"kind": "GATEWAY"}, lambda row: row.kind == "GATEWAY"),
        ({"reach": "offline"}, lambda row: row.reach == "offline"),
        ({"text": "kestrel"}, lambda row: "kestrel" in row.name),
    ):
        found = ask.get("/api/v1/nodes", params={**query, "limit": "500"}, headers=bearer("bob")).json()["nodes"]
        wanted = {row.id for row in island.rows.values() if fits(row)}
        assert {one["node"]["id"] for one in found} == wanted != set()
        pages, after = list[str](), ""
        while True:
            some = ask.get(
                "/api/v1/nodes", params={**query, "limit": "2", "after": after}, headers=bearer("bob")
            ).json()
            pages += [one["node"]["id"] for one in some["nodes"]]
            after = some["next"]
            if after is None:
                break
        assert pages == sorted(wanted)


def test_the_page_of_a_bundle_of_the_past_sums_up_its_nodes(alice: TestClient, island: Island) -> None:
    node_id = next(node for node in island.rows if island.rows[node].version)
    base = island.slate.put(Kind.BUNDLE, "01BASE", {"name": "base", "target_version": "9.9.9"}, ago_ns=5 * HOUR)
    island.slate.wanted[node_id] = {"policy_bundle_id": island.slate.stamped(base, ago_ns=3 * HOUR)}
    island.nodes_held[node_id] = msgspec.structs.replace(island.nodes_held[node_id], desired=Desired())
    island._fact(node_id, facts.VersionChanged("", "1.4.2"), 3 * HOUR)
    island.log.sort(key=lambda one: one.hlc)
    sums = alice.get(f"/api/v1/policies/{base}", params={"as_of": HOUR_AGO}).json()["sums"]
    assert (sums["nodes"], sums["counted"], sums["out"], sums["score"]) == (1, 1, 1, 100.0)
    page = alice.get(f"/policies/{base}", params={"as_of": HOUR_AGO}).text
    assert "runs 1.4.2, wanted 9.9.9" in page
    assert "Limits on measured values are not in these sums" in page
    assert f'href="/?bundle={base}&amp;as_of=' in page
    earlier = alice.get(f"/api/v1/policies/{base}", params={"as_of": str(NOW_NS - 4 * HOUR)}).json()["sums"]
    assert earlier["nodes"] == 0
    listed = alice.get("/api/v1/policies", params={"as_of": HOUR_AGO}).json()["groups"]
    assert [one["nodes"] for one in listed if one["id"] == base] == [1]


# -- what needed a person ----------------------------------------------------------------------------------------------


def test_what_needed_a_person_then_is_what_the_log_says_of_it(alice: TestClient, island: Island) -> None:
    well, silent, failed = [node for node in island.rows if island.rows[node].version][:3]
    for node_id in (well, silent, failed):
        island._fact(node_id, facts.NodeHeard("LIVE", "", "syslog"), 4 * HOUR)
    island._fact(silent, facts.NodeQuiet("DISCONNECTED", "LIVE", 1, 15), 3 * HOUR)
    island._fact(failed, facts.HealthChanged("OK", "FAILED", "motor 3"), 3 * HOUR - MINUTE)
    island._fact(silent, facts.NodeHeard("LIVE", "DISCONNECTED", "syslog"), HOUR // 2)
    island.log.sort(key=lambda one: one.hlc)
    seen = island.slate.stamped(iso(NOW_NS - 2 * HOUR), who="bob", ago_ns=2 * HOUR)
    island.slate.wanted[failed] = {"acknowledged/failed": seen, "domain_id": island.slate.stamped("x", ago_ns=4 * HOUR)}
    decided_otherwise(island, NORTH)

    def at(ago_ns: int, **query: str) -> tuple[dict[str, str], dict[str, str]]:
        asked_for = {"as_of": str(NOW_NS - ago_ns), **query}
        view = alice.get("/api/v1/attention", params=asked_for).json()
        assert view["as_of"]["at_ns"] == NOW_NS - ago_ns
        page = alice.get("/attention", params=asked_for).text
        main = page[page.index("<main") : page.index("</main>")]
        assert 'method="post"' not in main
        assert all(one["words"] in main for one in view["items"])
        both = ({one["node_id"]: one["cause"] for one in view[part]} for part in ("items", "quiet"))
        awake, quiet = ({one: cause for one, cause in part.items() if one in (well, silent, failed)} for part in both)
        return awake, quiet

    assert at(3 * HOUR + MINUTE) == ({}, {})
    assert at(2 * HOUR + MINUTE) == ({silent: "silent", failed: "failed"}, {})
    assert at(2 * HOUR + MINUTE, cause="silent") == ({silent: "silent"}, {})
    assert at(2 * HOUR + MINUTE, domain="x") == ({failed: "failed"}, {})
    assert at(HOUR) == ({silent: "silent"}, {failed: "failed"}), "somebody had seen it by then"
    assert at(HOUR // 4) == ({}, {failed: "failed"})
    since = alice.get("/api/v1/attention", params={"as_of": HOUR_AGO, "cause": "silent"}).json()["items"]
    assert [one["since_ns"] for one in since if one["node_id"] == silent] == [NOW_NS - 3 * HOUR]


def test_two_who_believed_that_they_decide_needed_a_person_then(alice: TestClient, island: Island) -> None:
    decided_otherwise(island, NORTH)
    over = facts.AuthorityGranted(island.writer, 2, "GLOBAL", (), 0, "carry on", "hand back", "Bob", "mine")
    island._fact(NORTH, over, HOUR, writer="01HARBOR")
    for ago_ns, contested in ((HOUR // 2, True), (HOUR + MINUTE, False)):
        view = alice.get("/api/v1/attention", params={"as_of": str(NOW_NS - ago_ns)}).json()
        assert ([one["link"] for one in view["items"] if one["cause"] == "contest"] != []) == contested
