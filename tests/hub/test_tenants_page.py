"""The page of a hub's tenants, and the switch: what who looks across sees, and what everybody else does."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fleet.people import Identity, Refused, Role
from hub.compose import Hub
from tests.cast import PASSWORD
from tests.hub.sites import HARBOR, filled
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.test_browser import look

CONSOLE = Identity(name="console", role=Role.OPERATOR_ADMIN, via="console")


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    for name, role in (("olga", Role.OPERATOR), ("otto", Role.OPERATOR_ADMIN), ("alice", Role.ADMIN)):
        await hub.accounts.create_account(CONSOLE, name, PASSWORD, role)
    yield hub
    await hub.stop()


def url(hub: Hub) -> str:
    return f"http://{hub.addresses['http']}"


@contextlib.asynccontextmanager
async def session(hub: Hub, name: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url(hub), trust_env=False, timeout=30) as line:
        assert (await line.post("/login", data={"name": name, "password": PASSWORD})).status_code == 303
        yield line


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', page)
    assert found
    return found[1]


async def test_the_page_says_what_to_do_and_adds_a_tenant(harbor: Hub) -> None:
    async with session(harbor, "otto") as otto:
        page = (await otto.get("/tenants")).text
        assert "Only default is here" in page
        form = {"csrf": csrf(page), "name": "Polar!", "admin": "anna"}
        refused = await otto.post("/tenants", data=form)
        assert (refused.status_code, "1 to 32 small letters" in refused.text) == (422, True)
        page = (await otto.post("/tenants", data=form | {"name": "polar"})).text
        assert "polar is here" in page
        enter = re.search(r"/t/polar/enter/\w+[\w-]*", page)
        assert enter
        filled(harbor.tenants.realms["polar"].fleet, harbor.ground.clock.now_ns())
        page = (await otto.get("/tenants")).text
        assert "2 of 4 sites live" in page
        assert "10 of 24 nodes live" in page
        async with httpx2.AsyncClient(base_url=url(harbor), trust_env=False) as anna:
            assert (await anna.get(enter[0])).headers["location"] == "/t/polar/"
            me = (await anna.get("/t/polar/api/v1/me")).json()
            assert (me["name"], me["role"], me["tenant"]) == ("anna", "admin", "polar")
            assert "switch" not in (await anna.get("/t/polar/")).text


async def test_the_switch_stands_on_every_page_of_who_looks_across(harbor: Hub) -> None:
    await harbor.tenants.add(CONSOLE, "polar", "anna")
    async with session(harbor, "olga") as olga:
        for prefix, name in (("", "default"), ("/t/polar", "polar")):
            for path in ("/", "/policies", "/links", "/quarantine", "/journal", "/account", "/attention", "/plan"):
                page = (await olga.get(prefix + path)).text
                assert re.search(rf'<a class="tenant[^>]*href="/tenants"[^>]*>.*<b>{name}</b>', page), prefix + path
        assert "Change your password" not in (await olga.get("/t/polar/account")).text
        own = await olga.post(
            "/t/polar/account/password", data={"csrf": csrf(await text(olga, "/")), "password": PASSWORD}
        )
        assert own.status_code == 409
    async with session(harbor, "alice") as alice:
        assert "switch" not in await text(alice, "/")
        assert (await alice.get("/tenants")).status_code == 403


async def text(line: httpx2.AsyncClient, path: str) -> str:
    return str((await line.get(path)).text)


async def test_who_looks_in_signs_out_where_the_account_is(harbor: Hub) -> None:
    await harbor.tenants.add(CONSOLE, "polar", "anna")
    async with session(harbor, "olga") as olga:
        token = csrf(await text(olga, "/t/polar/account"))
        answer = await olga.post("/t/polar/logout", data={"csrf": token})
        assert answer.headers["location"] == "../../login?done=signed-out"
        assert (await olga.get("/")).status_code == 303
        assert (await olga.get("/t/polar/")).status_code == 303


async def test_who_is_let_go_at_the_first_tenant_is_out_everywhere(harbor: Hub) -> None:
    await harbor.tenants.add(CONSOLE, "polar", "anna")
    async with session(harbor, "olga") as olga:
        assert (await olga.get("/t/polar/")).status_code == 200
        await harbor.accounts.change_account(CONSOLE, "olga", Role.VIEWER)
        assert (await olga.get("/t/polar/")).status_code == 303
        assert (await olga.get("/")).status_code == 200


async def test_nobody_who_looks_across_is_made_at_another_tenant(harbor: Hub) -> None:
    await harbor.tenants.add(CONSOLE, "polar", "anna")
    people = harbor.tenants.realms["polar"].accounts
    for role in (Role.OPERATOR, Role.OPERATOR_ADMIN):
        with pytest.raises(Refused, match="at the hub’s first tenant"):
            await people.create_account(CONSOLE, "mallory", PASSWORD, role)
        with pytest.raises(Refused, match="at the hub’s first tenant"):
            await people.create_token(CONSOLE, "mallory", role)
        with pytest.raises(Refused, match="at the hub’s first tenant"):
            await people.change_account(CONSOLE, "anna", role)
    with pytest.raises(Refused, match="set-up link"):
        await people.set_up(await harbor.accounts.setup_secret(), "mallory", PASSWORD, "")


async def test_wrong_passwords_lock_an_address_out_of_all_tenants_and_of_those_that_are_not_there(harbor: Hub) -> None:
    await harbor.tenants.add(CONSOLE, "polar", "anna")
    async with httpx2.AsyncClient(base_url=url(harbor), trust_env=False, timeout=30) as mallory:
        for number in range(20):
            where = ("", "/t/polar", "/t/thule")[number % 3]
            wrong = {"name": f"guess-{number}", "password": "nonsense here"}
            assert (await mallory.post(f"{where}/login", data=wrong)).status_code == 401
        for where in ("", "/t/polar", "/t/thule", "/t/other"):
            answer = await mallory.post(f"{where}/login", data={"name": "anna", "password": PASSWORD})
            assert answer.status_code == 429, where


@needs_chromium
@pytest.mark.browser
@pytest.mark.xdist_group("browser")
async def test_the_pages_in_a_browser(harbor: Hub) -> None:
    await asyncio.to_thread(look_at, url(harbor), "/tenants")
    for name in ("polar", "tropic", "north-sea-wind"):
        await harbor.tenants.add(CONSOLE, name, "anna")
    filled(harbor.tenants.realms["polar"].fleet, harbor.ground.clock.now_ns())
    await asyncio.to_thread(look_at, url(harbor), "/tenants", "/t/polar/", "/t/polar/account", "/t/polar/links")


def look_at(base: str, *paths: str) -> None:
    with chromium() as browser:
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                with page_of(browser, base, scheme=scheme, width=width) as page:
                    sign_in(page, base, "otto", PASSWORD)
                    for path in paths:
                        page.goto(base + path)
                        assert look(page) == [], path
                        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                        assert small(page) == [], path
                    assert_clean(page)


def small(page: Any) -> list[str]:
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("button, .button, a.tenant, input:not([type=hidden])")]
      .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 120))"""
    )
    return found
