"""People from the mainland to an island: an account made at the hub opens the site's own page with the line cut, and is
shut there when it is shut at the hub; the sealed account is loud at both ends; and what all of them did can be proven.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cast import eventually, skerry
from tests.mainland import Box, mainland

pytestmark = pytest.mark.timeout(180)

PASSWORD = "correct horse battery"


class Browser:
    """Somebody in front of the pages of a box."""

    def __init__(self, box: Box) -> None:
        self._line = httpx2.Client(base_url=f"http://{box.http}", trust_env=False, timeout=30)

    def sign_in(self, name: str, password: str) -> int:
        return int(self._line.post("/login", data={"name": name, "password": password}).status_code)

    def page(self, path: str = "/account") -> str:
        """Empty when nobody is signed in (any more)."""
        answer = self._line.get(path)
        return answer.text if answer.status_code == 200 else ""

    def send(self, path: str, **fields: str) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.page())
        assert found
        return str(self._line.post(path, data={"csrf": found[1], **fields}).text)

    def close(self) -> None:
        self._line.close()


def people(site: Box) -> list[str]:
    return [one["name"] for one in site.call("GET", "/console/accounts")["accounts"]]


def attention(hub: Box) -> str:
    return str(hub.call("GET", "/?format=json")["attention"])


def kinds(hub: Box) -> list[str]:
    found: list[dict[str, Any]] = hub.call("GET", "/audit?format=json&limit=500")["events"]
    return [one["event"]["kind"] for one in found]


def test_people_come_to_an_island_and_go_and_what_they_did_can_be_proven(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder", "birch") as (hub, alder, birch), contextlib.ExitStack() as ways:

        def browser(box: Box) -> Browser:
            return ways.enter_context(contextlib.closing(Browser(box)))

        hub.call("POST", "/api/v1/accounts", {"name": "alice", "password": PASSWORD, "role": "operator-admin"})
        wish = {"name": "olga", "password": PASSWORD, "role": "operator", "sites": ["alder"]}
        hub.call("POST", "/api/v1/accounts", wish)
        eventually(lambda: people(alder), lambda found: found == ["olga"])
        assert people(birch) == []

        alder.call("POST", "/console/link", {"action": "cut"})
        eventually(lambda: hub.site("alder").get("mode"), lambda mode: mode == "DISCONNECTED")
        olga, alice = browser(alder), browser(hub)
        assert olga.sign_in("olga", PASSWORD) == 303, "with no line to anybody"
        assert "Site" in olga.page("/")
        assert alice.sign_in("alice", PASSWORD) == 303
        assert "1 site of 2 have this list" in alice.page() or "Every site has this list" in alice.page()
        alice.send("/account/accounts/disable", name="olga")
        assert "Not yet: alder" in alice.page()
        assert olga.page("/"), "nobody can tell alder yet"
        alder.call("POST", "/console/link", {"action": "restore"})
        eventually(lambda: olga.page("/"), lambda page: page == "")
        assert olga.sign_in("olga", PASSWORD) == 401
        eventually(alice.page, lambda page: "Every site has this list" in page)

        sealed = skerry("account", "break-glass", "--data", str(alder.data)).stdout
        secret = re.search(r"^ {2}([0-9A-Z-]+)$", sealed, re.MULTILINE)
        assert secret
        bob = browser(alder)
        assert bob.sign_in("break-glass", secret[1]) == 303
        assert "The break-glass account is in use" in bob.page("/")
        assert "From hub harbor" in bob.page()
        assert browser(alder).sign_in("break-glass", secret[1]) == 401, "it opens once"
        eventually(lambda: attention(hub), lambda words: "break-glass" in words)
        bob.send("/account/accounts/disable", name="break-glass")
        assert bob.page() == ""
        skerry("account", "break-glass", "--data", str(alder.data))
        eventually(lambda: attention(hub), lambda words: "break-glass" not in words)

        eventually(lambda: kinds(hub), lambda found: {"glass.broken", "access.seen", "roster.taken"} <= set(found))
        file = tmp_path / "audit.jsonl"
        exported = alice.page("/audit/export")
        file.write_text(exported)
        told = skerry("audit", "verify", str(file), "--data", str(hub.data))
        assert told.returncode == 0, told.stderr
        file.write_text(exported.replace('"olga"', '"bob"'))
        assert skerry("audit", "verify", str(file)).returncode == 1
        for box in (hub, alder):
            for secret_word in ("argon2", secret[1]):
                assert secret_word not in json.dumps(box.call("GET", "/account?format=json"))
                assert secret_word not in box.said()
                assert secret_word not in exported
