"""Chromium for the tests of the pages: one browser a module, a fresh context a test, and an ear for what must not
happen: script errors and reports of a broken policy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed here (Debian package chromium)")

LISTEN = """
window.__heard = [];
document.addEventListener("securitypolicyviolation", (e) => __heard.push(`policy: ${e.violatedDirective} ${e.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page_of(
    browser: Any, url: str, *, token: str = "token-alice", scheme: str = "auto", width: int = 1280, script: bool = True
) -> Iterator[Any]:
    """A page of a new context, with a session where the person has one."""
    context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
    context.add_cookies([{"name": "skerry_scheme", "value": scheme, "url": url}])
    context.add_init_script(LISTEN)
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda line: page.wrong.append(line.text) if "Security Policy" in line.text else None)
    try:
        yield page
    finally:
        context.close()


def sign_in(page: Any, url: str, name: str, password: str) -> None:
    page.goto(f"{url}/login")
    page.fill("#name", name)
    page.fill("#password", password)
    page.click(".gate button")
    page.wait_for_selector("nav.main")


def until(page: Any, expression: str) -> None:
    """Wait until an expression holds. (The browser's own waiting evaluates strings, which our policy forbids.)"""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {expression}")


def assert_clean(page: Any) -> None:
    assert page.wrong == []
    assert page.evaluate("window.__heard") == []
