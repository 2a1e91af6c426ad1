"""The pages of a hub in Chromium: 24 nodes of four sites, of which one is cut off for three weeks and one is held."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet import events
from hub.compose import Hub
from tests.hub.sites import ALDER, BIRCH, CEDAR, ELM, HARBOR, filled, present
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in, until
from tests.web.test_browser import FED, look

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("browser")]

PASSWORD = "correct horse battery"
SMALL = """() => [...document.querySelectorAll(
    "button, .button, select, textarea, input:not([type=hidden]), nav.main a, .tally a, .attention a")]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 120))"""
PATHS = (
    "/",
    "/?site=cedar",
    "/links",
    *(f"/links/{writer}" for writer in (ALDER, BIRCH, CEDAR, ELM)),
    *(f"/nodes/{present(site, 0, 1).node_id}" for site in (0, 2)),
    "/attention",
    "/plan",
    f"/plan/{ALDER}",
    "/quarantine",
    "/journal",
    "/account",
    "/audit",
)


class Served:
    """A hub in a thread of its own; `call` runs a function in its loop."""

    def __init__(self, root: Path) -> None:
        self.hub = Hub(root, HARBOR)
        self._up, self._down = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(30)
        self.url = f"http://{self.hub.addresses['http']}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.hub.start()
        self._up.set()
        await self._down.wait()
        await self.hub.stop()

    def call(self, what: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(what)

    def stop(self) -> None:
        self.call(self._down.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def harbor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("harbor") / "data")
    filled(served.hub.fleet, served.hub.ground.clock.now_ns())
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser(harbor: Served) -> Iterator[Any]:
    """Alice has made her account by the link of the first start."""
    with chromium() as started:
        with page_of(started, harbor.url) as page:
            page.goto(harbor.url + str(harbor.hub.setup_path))
            page.fill("#name", "alice")
            page.fill("#password", PASSWORD)
            page.fill("#again", PASSWORD)
            page.click("text=Make the account")
            page.wait_for_selector("nav.main")
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark", "night"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_gloves_hit_everything(browser: Any, harbor: Served, scheme: str, width: int) -> None:
    with page_of(browser, harbor.url, scheme=scheme, width=width) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        for path in PATHS:
            page.goto(harbor.url + path)
            assert look(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} scrolls sideways"
            assert page.evaluate(SMALL) == [], path
        assert_clean(page)


def test_the_pages_of_a_hub_read_without_script(browser: Any, harbor: Served) -> None:
    with page_of(browser, harbor.url, script=False, width=390) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.click("nav.main >> text=Links")
        page.click("text=cedar")
        assert page.locator("text=Its nodes are as it last told them.").is_visible()
        page.click("nav.main >> text=Fleet")
        page.select_option("#site", "birch")
        page.click("text=Find >> nth=-1")
        assert page.locator(".nodes tbody tr").count() == 6


def test_a_site_that_turns_shows_by_itself(browser: Any, harbor: Served) -> None:
    with page_of(browser, harbor.url) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/links")
        until(page, FED)
        assert page.locator(f"#l-{BIRCH} .state").inner_text() == "Catching up"

        def forget() -> None:
            harbor.hub.fleet.sites[BIRCH].forks = ("two different events 9",)
            harbor.hub.stale.mark("links")

        harbor.call(forget)
        page.wait_for_selector(f"#l-{BIRCH} >> text=forked")
        assert_clean(page)


def test_what_a_site_tells_of_a_node_shows_by_itself(browser: Any, harbor: Served) -> None:
    """What it says now, and what happened to it."""
    told, hub = present(1, 3, 1), harbor.hub
    here = hub.fleet.nodes[told.node_id]
    with page_of(browser, harbor.url) as page:
        sign_in(page, harbor.url, "alice", PASSWORD)
        page.goto(f"{harbor.url}/nodes/{told.node_id}")
        until(page, FED)
        fresh = here._replace(present=msgspec.structs.replace(here.present, text="told just now"))
        harbor.call(lambda: hub.fleet.put(told.node_id, fresh))
        page.wait_for_selector("#live >> text=told just now")
        happened = events.VersionChanged("1.0.0", "9.8.7-happened")

        def job(db: sqlite3.Connection) -> None:
            hub.ground.journal.stage(told.node_id, happened)

        harbor.call(lambda: asyncio.ensure_future(hub.ground.writer.write(job)))
        page.wait_for_selector("#timeline >> text=9.8.7-happened")
        assert_clean(page)
