"""The plan on its page: one form, by keyboard alone if need be, looked at before and undone after."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from fleet.events import ConflictDecided
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.conftest import Server, bearer
from tests.web.island import PASSWORD, Island
from tests.web.test_browser import look
from web.pages import plan

OLGA = bearer("olga")


def fields(html: str) -> dict[str, str]:
    """What a browser sends of the page's form as it was filled."""
    form = html.partition('<form id="plan"')[2].partition("</form>")[0] or html.partition('action="/plan/apply"')[2]
    found: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", form.partition("</form>")[0]):
        said = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if said.get("type") not in ("radio", "checkbox") or " checked" in tag:
            found[said.get("name", "")] = said.get("value", "")
    return found


@pytest.fixture
def filled(island: Island) -> Island:
    island.plans.disagree(60)
    return island


def test_an_island_where_nobody_disagrees_says_so(alice: TestClient) -> None:
    said = alice.get("/plan").text
    assert "Nothing to decide." in said
    assert "<fieldset" not in said


def test_every_word_is_shown_with_who_where_when_and_how_far_its_clock_is_believed(
    alice: TestClient, filled: Island
) -> None:
    said = alice.get("/plan").text
    assert said.count("<fieldset") == plan.SHOWN_MAX
    assert "Alice at alder" in said
    assert "by a free-running clock" in said
    assert "Bob at harbor" in said
    assert "proposed</b>: Bob wrote it later." in said
    assert "as delivered" in said
    assert "what both had seen before is not known" in said
    assert "This version knows no field of this name." in said
    assert "domain survey west" in said


def test_a_viewer_sees_the_plan_and_cannot_decide(ask: TestClient, filled: Island) -> None:
    said = ask.get("/plan", headers=bearer("bob") | {"accept": "text/html"}).text
    assert "Bob wrote it later." in said
    assert "See what would change" not in said
    assert ask.post("/api/v1/plan/apply", json={}, headers=bearer("bob")).status_code == 403


def test_the_list_narrows_by_field_name_and_sort(ask: TestClient, filled: Island) -> None:
    for query, matching in (
        ("field=target_version", 25),
        ("text=kestrel-1", 3),
        ("text=north+7", 1),
        ("sort=automatic", 0),
        ("text=nobody", 0),
    ):
        answer = ask.get(f"/api/v1/plan?{query}", headers=OLGA).json()
        assert (query, answer["matching"]) == (query, matching)
        assert ask.get(f"/plan?{query}", headers=OLGA | {"accept": "text/html"}).status_code == 200
    assert [one["field"] for one in ask.get("/api/v1/plan?sort=automatic", headers=OLGA).json()["automatic"]] == [
        "tags/scout"
    ]


@pytest.mark.parametrize("query", ["sort=loud", "offset=-1", "limit=1000000000", "field=" + "x" * 200])
def test_a_query_that_makes_no_sense_is_refused_with_a_sentence(ask: TestClient, query: str) -> None:
    answer = ask.get(f"/api/v1/plan?{query}", headers=OLGA)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_a_site_that_is_not_there_is_not_there(ask: TestClient) -> None:
    assert ask.get("/plan/01NOBODY", headers=OLGA).status_code == 404
    assert ask.get("/api/v1/plan?site=01NOBODY", headers=OLGA).status_code == 404


def test_what_would_change_is_shown_before_and_done_after(alice: TestClient, filled: Island) -> None:
    sent = fields(alice.get("/plan").text)
    assert sum(name.startswith("s-") for name in sent) == plan.SHOWN_MAX
    shown = alice.post("/plan/preview", data=sent)
    assert "Apply 51 decisions" in shown.text
    assert "stays as it is" in shown.text
    assert len(filled.plans.disputes) == 62
    done = alice.post("/plan/apply", data=fields(shown.text))
    assert (done.status_code, done.headers["location"]) == (303, "/plan?done=applied")
    assert len(filled.plans.disputes) == 11
    decided = [one.body for one in filled.log if isinstance(one.body, ConflictDecided)]
    assert len(decided) == 51
    assert {(one.actor, one.why) for one in decided} == {("alice", plan.WHY)}
    after = alice.get("/plan?done=applied").text
    assert "51 decisions for alder applied" in after
    (undo,) = re.findall(r'action="/plan/undo">.*?name="plan" value="(\w+)"', after, re.S)
    gone = alice.post("/plan/undo", data={"csrf": sent["csrf"], "plan": undo, "why": "wrong list"})
    assert gone.headers["location"] == "/plan?done=undone"
    assert len(filled.plans.disputes) == 62


def test_a_plan_of_an_older_state_is_refused_and_the_new_one_shown(alice: TestClient, filled: Island) -> None:
    sent = fields(alice.get("/plan").text)
    filled.plans.disputes.pop()
    for path in ("/plan/preview", "/plan/apply"):
        answer = alice.post(path, data=sent)
        assert answer.status_code == 409
        assert "made on an older state" in answer.text
        assert answer.text.count("<fieldset") == plan.SHOWN_MAX


def test_a_decision_without_a_reason_is_refused(alice: TestClient, filled: Island) -> None:
    sent = fields(alice.get("/plan").text) | {"why": " "}
    answer = alice.post("/plan/apply", data=sent)
    assert (answer.status_code, "Write why" in answer.text) == (422, True)
    assert len(filled.plans.disputes) == 62


def test_a_program_reads_decides_and_undoes(ask: TestClient, filled: Island) -> None:
    made = ask.get("/api/v1/plan", headers=OLGA).json()
    step, other = made["steps"][:2]
    wish = {"plan": made["plan"], "state": made["state"], "decisions": {step["id"]: 1, other["id"]: -1}, "why": "said"}
    assert ask.post("/api/v1/plan/apply", json=wish, headers=OLGA).json() == {"decisions": 1}
    again = ask.post("/api/v1/plan/apply", json=wish, headers=OLGA)
    assert (again.status_code, "older state" in again.json()["error"]) == (409, True)
    for wrong in ({"plan": "ab" * 32}, {"plan": made["plan"], "why": ""}):
        assert ask.post("/api/v1/plan/undo", json={"why": "x", **wrong}, headers=OLGA).status_code in (404, 422)
    undone = ask.post("/api/v1/plan/undo", json={"plan": made["plan"], "why": "no"}, headers=OLGA)
    assert undone.json() == {"decisions": 1}
    assert ask.get("/api/v1/plan", headers=OLGA).json()["counts"] == made["counts"]


# -- in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


SMALL = """() => [...document.querySelectorAll("button, .button, select, label:has([type=radio]), label:has([type=checkbox]),"
    + "input:not([type=hidden], [type=radio], [type=checkbox])")]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 120))"""


@pytest.mark.browser
@needs_chromium
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("scheme", ["light", "dark", "night"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_clean_and_fits(browser: Any, served: Server, scheme: str, width: int) -> None:
    with page_of(browser, served.url, scheme=scheme, width=width) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(f"{served.url}/plan")
        assert look(page) == []
        served.call(lambda: served.island.plans.disagree(20))
        page.goto(f"{served.url}/plan")
        page.wait_for_selector("fieldset.decision")
        for summary in page.locator("details summary").all():
            summary.click()
        assert look(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SMALL) == []
        page.click("text=See what would change")
        page.wait_for_selector("h1:has-text('What would change')")
        assert look(page) == []
        page.click("button.primary")
        page.wait_for_selector("text=Carried out, as a whole.")
        assert look(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert_clean(page)


@pytest.mark.browser
@needs_chromium
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("script", [True, False], ids=["with the script", "without any"])
def test_fifty_conflicts_are_decided_by_keyboard_alone(browser: Any, served: Server, script: bool) -> None:
    """The fifth of them against the proposal, two left open; nothing but keys is pressed."""
    served.call(lambda: served.island.plans.disagree(50))
    with page_of(browser, served.url, script=script) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(f"{served.url}/plan")
        page.wait_for_selector("fieldset.decision")
        if script:
            for number in range(50):
                page.keyboard.press("j")
                if number % 5 == 4:
                    page.keyboard.press("2")
                if number in (7, 8):
                    page.keyboard.press("0")
        else:
            page.keyboard.press("Tab")
            while not page.evaluate("document.activeElement.type === 'radio'"):
                page.keyboard.press("Tab")
            for number in range(50):
                for _ in range(1 if number % 5 == 4 else 2 if number in (7, 8) else 0):
                    page.keyboard.press("ArrowDown")
                page.keyboard.press("Tab")
                while number < 49 and not page.evaluate("document.activeElement.type === 'radio'"):
                    page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('What would change')")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Carried out, as a whole.")
        decided = [one.body for one in served.island.log if isinstance(one.body, ConflictDecided)]
        assert len(decided) == 49  # the mark that settles by rule is one of them
        assert sum(str(one.taken).startswith("north") for one in decided) == 10
        assert page.locator("fieldset.decision").count() == 2
        assert_clean(page)


@pytest.mark.browser
@needs_chromium
@pytest.mark.xdist_group("browser")
def test_a_takes_all_proposals_back(browser: Any, served: Server) -> None:
    served.call(lambda: served.island.plans.disagree(5))
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(f"{served.url}/plan")
        for key in ("j", "2", "j", "0", "a"):
            page.keyboard.press(key)
        assert page.locator("input[data-proposed]:checked").count() == 5
        assert_clean(page)
