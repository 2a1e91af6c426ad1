"""The time slider in Chromium: by keyboard, without script, clean for axe, and nothing sideways on a small screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.conftest import Server
from tests.web.island import PASSWORD
from tests.web.test_browser import look

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
        page.goto(served.url)
        page.click("text=1 h before")
        moment = page.url.partition("as_of=")[2]
        known = ("/links", "/policies", "/journal", f"/nodes/{turning(served)}")
        paths = [page.url, *(f"{served.url}{path}?as_of={moment}" for path in known)]
        for path in [*paths, f"{served.url}/nodes/{turning(served)}"]:
            page.goto(path)
            assert look(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} scrolls sideways"
        assert_clean(page)
