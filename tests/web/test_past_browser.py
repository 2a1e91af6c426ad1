"""The time slider in Chromium: by keyboard, without script, clean for axe, and nothing sideways on a small screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fleet.document import Kind
from fleet.events import HealthChanged, VersionChanged
from fleet.limits import HOUR
from fleet.node import Desired
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.conftest import Server
from tests.web.island import PASSWORD
from tests.web.test_browser import look
from tests.web.test_pages_of_the_past import NORTH, decided_otherwise

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def turning(served: Server) -> str:
    """A node with a past."""
    past = served.island.past
    assert past is not None
    return max(served.island.rows, key=lambda node: len(past._history.turns(node, 99)))


def grouped(served: Server) -> tuple[str, str, str]:
    """A domain and a bundle with nodes and a past, in which it was decided now by harbor, now by alder; one of the nodes."""
    island, slate = served.island, served.island.slate
    slate.put(Kind.DOMAIN, NORTH, {"name": "North valley", "notes": "above the dam"}, ago_ns=5 * HOUR)
    slate.put(Kind.BUNDLE, "01BASE", {"name": "base", "target_version": "9.9.9"}, ago_ns=5 * HOUR)
    nodes = [row.id for row in island.rows.values() if row.version][:6]
    for node_id in nodes:
        island.nodes_held[node_id] = msgspec.structs.replace(island.nodes_held[node_id], desired=Desired())
        written = {"domain_id": NORTH, "policy_bundle_id": "01BASE"}
        slate.wanted[node_id] = {field: slate.stamped(said, ago_ns=4 * HOUR) for field, said in written.items()}
        island._fact(node_id, VersionChanged("", "1.4.2"), 4 * HOUR)
    island._fact(nodes[1], HealthChanged("OK", "FAILED", "motor 3"), 2 * HOUR)
    decided_otherwise(island, NORTH)
    island.log.sort(key=lambda one: one.hlc)
    return NORTH, "01BASE", nodes[0]


def test_the_slider_moves_the_whole_page_by_keyboard(browser: Any, served: Server) -> None:
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(f"{served.url}/nodes/{turning(served)}")
        assert page.locator("#past").count() == 0
        page.focus("#slide")
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#past")
        assert "as_of=" in page.url
        assert page.evaluate("document.activeElement.id") == "slide", "the keyboard stays where it was"
        first = page.locator("#past .big").inner_text()
        page.keyboard.press("PageDown")
        page.wait_for_selector(f"#past .big:not(:text-is('{first}'))")
        assert page.locator("main form[method=post]").count() == 0
        page.click("text=Back to now")
        page.wait_for_selector("#slide")
        assert page.locator("#past").count() == 0
        assert_clean(page)


def test_without_script_a_small_form_goes_to_a_moment(browser: Any, served: Server) -> None:
    with page_of(browser, served.url, script=False, width=390) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        page.goto(f"{served.url}/nodes/{turning(served)}")
        page.click("text=Show this moment")
        assert page.locator("#past").is_visible()
        page.goto(served.url)
        page.click("text=1 h before")
        assert page.locator("#past").is_visible()
        page.click(".nodes th a >> nth=0")
        assert "as_of=" in page.url
        assert page.locator("#past").is_visible()
        page.click("text=Back to now")
        assert page.locator("#past").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark", "night"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_on_pages_of_the_past(browser: Any, served: Server, scheme: str, width: int) -> None:
    with page_of(browser, served.url, scheme=scheme, width=width) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        domain, bundle, node_id = grouped(served)
        page.goto(served.url)
        assert page.locator("#domain option").count() > 2
        page.click("text=1 h before")
        moment = page.url.partition("as_of=")[2]
        known = (
            *("/links", "/policies", "/journal", "/attention", "/quarantine", "/audit", f"/nodes/{turning(served)}"),
            *(f"/domains/{domain}", f"/domains/{domain}/authority", f"/policies/{bundle}", f"/nodes/{node_id}"),
        )
        paths = [page.url, *(f"{served.url}{path}?as_of={moment}" for path in known)]
        for path in [*paths, f"{served.url}/nodes/{turning(served)}"]:
            page.goto(path)
            assert look(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} scrolls sideways"
        assert_clean(page)
