"""Policies, a bundle, a domain and what a node is wanted to be, in a real browser at a real hub: alder is heard, cedar is
not.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from fleet.document import Id, Kind, Value
from tests.hub.sites import present
from tests.hub.test_hub_pages import PASSWORD, SMALL, Served, browser, harbor
from tests.web.browser import assert_clean, needs_chromium, page_of, sign_in
from tests.web.test_browser import look

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("browser")]
__all__ = ["browser", "harbor"]

KESTRELS, OSPREYS = ([present(site, index, 1).node_id for index in range(6)] for site in (0, 2))
SMALL_HERE = SMALL.replace(".attention a", ".attention a, .tile")


def written(served: Served, kind: Kind, name: str, **values: Value) -> None:
    def job(db: sqlite3.Connection) -> None:
        place = Id(served.hub.ground.identity.log.tenant, kind, name)
        said = {field.replace("__", "/"): value for field, value in values.items()}
        served.hub.landing.shared.edit(db, place, said, "bob")

    asyncio.run_coroutine_threadsafe(served.hub.ground.writer.write(job), served._loop).result(20)


def made(page: Any, served: Served, field: str, name: str) -> str:
    """As a person makes a bundle or a domain; its id."""
    page.goto(f"{served.url}/policies")
    page.fill(f"#{field}", name)
    page.press(f"#{field}", "Enter")
    page.wait_for_selector("h1")
    return str(page.url.rpartition("/")[2].partition("?")[0])


@pytest.fixture(scope="module")
def told(harbor: Served, browser: Any) -> dict[str, str]:
    """Alice makes a bundle and two domains; alder's kestrels and cedar's ospreys are put under them."""
    with page_of(browser, harbor.url) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        bundle, fjord, coast = (
            made(page, harbor, field, name)
            for field, name in (("n-policy", "Scouts"), ("n-domain", "Fjord"), ("n-domain", "Coast"))
        )
        for nodes, domain in ((KESTRELS, fjord), (OSPREYS, coast)):
            for node_id in nodes:
                written(harbor, Kind.NODE, node_id, policy_bundle_id=bundle, domain_id=domain)
        page.goto(f"{harbor.url}/policies/{bundle}")
        page.fill("#p-version", "1.5.0")
        page.fill("#p-metric", "temp_c")
        page.fill("#p-range", "..40")
        page.click("text=See what it touches")
        assert "What this change would touch" in page.inner_text("#preview")
        assert page.locator("#preview .figure", has_text="Would fall out of spec").inner_text().endswith("6")
        page.click("text=Save; it goes to every site")
        page.wait_for_selector(".done")
        assert page.locator("#h-out ~ .drifters li").count() == 6  # cedar's are unknown, not out of spec
        assert_clean(page)
    return {"bundle": bundle, "fjord": fjord, "coast": coast}


def test_the_worst_domain_stands_first_and_what_is_not_heard_is_unknown(
    harbor: Served, browser: Any, told: dict[str, str]
) -> None:
    with page_of(browser, harbor.url) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(harbor.url)
        tiles = page.locator(".drift .tile")
        assert "Fjord" in tiles.nth(0).inner_text()
        assert "Drifts far" in tiles.nth(0).inner_text()
        assert "runs 1.4.2, wanted 1.5.0" in tiles.nth(0).inner_text()
        coast = page.locator(".tile", has_text="Coast")
        assert "Unknown" in coast.inner_text()
        assert "t-blind" in str(coast.get_attribute("class"))
        coast.click()
        page.wait_for_selector("h1:has-text('Coast')")
        assert "cannot be judged now" in page.inner_text("main")
        assert page.locator(".drifters li").count() == 0


def test_a_node_says_what_is_wanted_found_and_by_whom(harbor: Served, browser: Any, told: dict[str, str]) -> None:
    with page_of(browser, harbor.url) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/nodes/{KESTRELS[0]}")
        words = page.inner_text(".wants")
        for part in ("Version", "1.5.0", "1.4.2", "Scouts", "Out of spec", "Temperature", "at most 40 °C"):
            assert part in words
        assert page.locator("#e-policy_bundle_id option:checked").inner_text() == "Scouts"
        page.goto(f"{harbor.url}/nodes/{OSPREYS[0]}")
        assert "Out of spec" not in page.inner_text(".wants")
        assert "is not heard" in page.inner_text("main")


def test_a_limit_that_cannot_be_read_is_refused_in_words_and_nothing_is_lost(
    harbor: Served, browser: Any, told: dict[str, str]
) -> None:
    with page_of(browser, harbor.url, script=False) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/policies/{told['bundle']}")
        page.fill("#p-metric", "rtt_ms")
        page.fill("#p-range", "quick")
        page.click("text=See what it touches")
        assert "is no range; write 10..80" in page.inner_text(".summary")


def test_the_paths_of_a_domain_are_drawn_and_listed(harbor: Served, browser: Any, told: dict[str, str]) -> None:
    written(harbor, Kind.NODE, KESTRELS[2], upstream=KESTRELS[1])
    with page_of(browser, harbor.url) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/domains/{told['fjord']}")
        assert page.locator(".tree .offline", has_text="kestrel-3").count() == 1, "its relay is silent"
        assert "its path is silent" in page.inner_text(".branches")
        assert_clean(page)
    with page_of(browser, harbor.url, width=390) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/domains/{told['fjord']}")
        assert page.locator(".tree").is_hidden()
        assert page.locator(".branches").is_visible()


def test_what_a_change_of_many_touches_is_seen_without_script(
    harbor: Served, browser: Any, told: dict[str, str]
) -> None:
    with page_of(browser, harbor.url, script=False) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/domains/{told['coast']}")
        page.click("text=Change many at once")
        page.check(f"[name='n-{OSPREYS[0]}']")
        page.select_option("#b-field", "add_tag")
        page.fill("#b-value", "winter")
        page.click("text=See what it touches")
        page.wait_for_selector("#preview")
        assert "1 node refuses" in page.inner_text("#preview"), "nothing was ever said to that site"


@pytest.mark.parametrize("scheme", ["light", "dark", "night"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_gloves_hit_everything(
    harbor: Served, browser: Any, told: dict[str, str], scheme: str, width: int
) -> None:
    domains = [f"/domains/{told[name]}" for name in ("fjord", "coast")]
    paths = ("/policies", f"/policies/{told['bundle']}", *domains, f"{domains[0]}/edit")
    with page_of(browser, harbor.url, scheme=scheme, width=width) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        for path in (*paths, "/domains/none"):
            page.goto(harbor.url + path)
            assert look(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} scrolls sideways"
            assert page.evaluate(SMALL_HERE) == [], path
        assert_clean(page)
