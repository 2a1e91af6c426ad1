"""The pages in Chromium: they live, they say when they are cut off, they read without script, and axe finds nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in, until
from tests.web.conftest import Server
from tests.web.island import PASSWORD, People

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("browser")]

FED = "!!document.getElementById('feed')._htmx?.sse"
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RULES = """() => axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]}).then((found) =>
  found.violations.map((v) => v.id + ": " +
    v.nodes.slice(0, 4).map((n) => n.html.slice(0, 160) + " " + (n.any[0]?.message || "")).join(" | ")))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def every_path(served: Server) -> list[str]:
    kestrel, silent, failed = (f"/nodes/{list(served.island.rows)[number]}" for number in (3, 21, 14))
    return [
        "/",
        "/?text=zzz",
        kestrel,
        silent,
        failed,
        "/intake",
        "/devices",
        "/quarantine",
        "/journal",
        "/journal/verify",
        "/account",
        "/audit",
        "/nowhere",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark", "night"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_on_any_page(browser: Any, served: Server, scheme: str, width: int) -> None:
    with page_of(browser, served.url, scheme=scheme, width=width) as page:
        page.goto(f"{served.url}/login")
        found = {"/login": look(page)}
        sign_in(page, served.url, "alice", PASSWORD)
        for path in every_path(served):
            page.goto(served.url + path)
            found[path] = look(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} scrolls sideways"
        assert {path: wrong for path, wrong in found.items() if wrong} == {}
        assert_clean(page)


def look(page: Any) -> list[str]:
    page.wait_for_load_state("load")
    page.evaluate(AXE)
    found: list[str] = page.evaluate(RULES)
    return found


def test_the_page_of_an_empty_site_and_the_first_start_are_clean_too(browser: Any, served: Server) -> None:
    served.call(lambda: (served.island.rows.clear(), served.island.unclaimed.clear(), served.island.items.clear()))
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        for path in ("/", "/intake", "/quarantine"):
            page.goto(served.url + path)
            assert look(page) == []
        served.call(lambda: served.people.held.clear())
        for path in ("/login", "/setup/first-light"):
            page.goto(served.url + path)
            assert look(page) == []
        assert_clean(page)


def test_a_change_shows_by_itself(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "bob", PASSWORD)
        until(page, FED)
        first = next(iter(served.island.rows.values()))

        def rename() -> None:
            served.island.rows[first.id] = msgspec.structs.replace(first, name="kite-77")
            served.island.touch("site")

        served.call(rename)
        page.wait_for_selector("text=kite-77")
        assert_clean(page)


def test_a_search_narrows_the_list_and_stays_over_updates(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "bob", PASSWORD)
        until(page, FED)
        page.keyboard.press("/")
        page.keyboard.type("merlin")
        until(page, "document.querySelectorAll('.nodes tbody tr').length === 4")
        assert "text=merlin" in page.url
        served.call(lambda: served.island.move_on(served.island.now()))
        page.wait_for_timeout(1500)
        assert page.locator(".nodes tbody tr").count() == 4
        assert page.locator("#text").input_value() == "merlin"
        assert_clean(page)


def test_ages_tick_between_updates(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "bob", PASSWORD)
        ages = "[...document.querySelectorAll('.nodes time[data-ago]')].map((one) => one.textContent).join()"
        before = page.evaluate(ages)
        until(page, f"{ages} !== {before!r}")


def test_a_stopped_server_shows_and_its_return_heals_the_page(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "bob", PASSWORD)
        until(page, FED)
        assert page.locator("#cut").is_hidden()
        served.stop()
        page.wait_for_selector("#cut:not([hidden])", timeout=20_000)
        words = page.locator("#cut").text_content()
        assert re.search(r"Cut off from the appliance since \d\d:\d\d:\d\d UTC", words)
        assert page.locator("body.is-cut").count() == 1
        again = Server(served.island, served.people, served.island.now, port=served.port)
        try:
            page.wait_for_selector("#cut", state="hidden", timeout=20_000)
            assert page.locator("body.is-cut").count() == 0
        finally:
            again.stop()


def test_a_session_that_ends_sends_the_page_to_the_sign_in(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "bob", PASSWORD)
        until(page, FED)
        served.call(lambda: (served.people.sessions.clear(), served.island.touch("site")))
        page.wait_for_url("**/login")


@pytest.mark.parametrize(
    "path", ["/", "node", "/intake", "/devices", "/quarantine", "/journal", "/journal/verify", "/account"]
)
def test_every_page_reads_without_script(browser: Any, served: Server, path: str) -> None:
    at = every_path(served)[2] if path == "node" else path
    telling = {
        "/": "merlin-3", "node": "What happened", "/intake": "Disk budget", "/devices": "never used",
        "/quarantine": "JSON nested deeper",
        "/journal": "went quiet", "/journal/verify": "Whole and unchanged", "/account": "Change your password",
    }  # fmt: skip
    with page_of(browser, served.url, script=False) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(served.url + at)
        assert page.locator(f"text={telling[path]}").first.is_visible()
        if path == "/":
            page.select_option("#reach", "offline")
            page.click("text=Find >> nth=-1")
            assert page.locator(".nodes tbody tr").count() == 1


def test_a_node_is_adopted_and_moved_by_hand(browser: Any, served: Server) -> None:
    with page_of(browser, served.url, width=390) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(f"{served.url}/intake")
        page.locator("button:has-text('Adopt')").first.click()
        page.wait_for_selector("h1:has-text('kestrel-9')")
        page.fill("#reason", "checked on the bench")
        page.locator("button:has-text('ENROLLED')").click()
        page.wait_for_selector("text=Moved.")
        assert_clean(page)


def test_charts_draw_and_the_map_zooms(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        before = page.get_attribute("#map", "viewBox")
        page.click("[data-zoom=in]")
        assert page.get_attribute("#map", "viewBox") != before
        served.call(lambda: served.island.touch("site"))
        page.wait_for_timeout(1500)
        assert page.get_attribute("#map", "viewBox") != before, "an update keeps the window"
        page.click("[data-zoom=all]")
        assert page.get_attribute("#map", "viewBox") == before
        page.goto(served.url + every_path(served)[2])
        page.wait_for_selector(".plot.drawn canvas")
        assert_clean(page)


def test_targets_are_large_enough_for_gloves(browser: Any, served: Server) -> None:
    small = """() => [...document.querySelectorAll(
        "button, .button, select, input:not([type=hidden]), nav.main a, .tally a, .attention a")]
      .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 120))"""
    with page_of(browser, served.url, width=390) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        for path in every_path(served):
            page.goto(served.url + path)
            assert page.evaluate(small) == [], path


def test_the_first_admin_comes_in_by_the_link(browser: Any, served: Server) -> None:
    served.call(lambda: served.people.__dict__.update(People(empty=True).__dict__))
    with page_of(browser, served.url) as page:
        page.goto(f"{served.url}/setup/first-light")
        page.fill("#name", "alice")
        page.fill("#password", "four words are good")
        page.fill("#again", "four words are good")
        page.click("text=Make the account")
        page.wait_for_selector("text=Needs attention")
        assert_clean(page)
