"""What somebody has taken up at one end is taken up at the other; one site's own affairs are no other site's."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.test_people_of_the_hub import Browser
from tests.acceptance.test_policies_travel import KESTREL, speak
from tests.acceptance.test_the_return import is_live, order
from tests.cast import eventually, skerry
from tests.mainland import Box, mainland

pytestmark = pytest.mark.timeout(180)


def queue(box: Box) -> dict[str, dict[str, Any]]:
    """All that stands in it, or is quiet, by key."""
    view = box.call("GET", "/api/v1/attention")
    return {
        one["key"]: one | {"quiet": quiet} for quiet in (False, True) for one in view["quiet" if quiet else "items"]
    }


def say(box: Box, key: str, action: str, **more: object) -> None:
    box.call("POST", f"/api/v1/attention/{quote(key, safe='')}", {"action": action, **more})


def site_documents(box: Box) -> list[str]:
    with closing(sqlite3.connect(box.data / "site.db")) as db:
        return [row[0] for row in db.execute("SELECT DISTINCT id FROM document WHERE kind='site'")]


def test_what_is_seen_or_taken_at_one_end_is_so_at_the_other(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder", "birch") as (hub, alder, birch):
        for name in ("alder", "birch"):
            eventually(lambda name=name: is_live(hub, name))  # type: ignore[misc]
        node_id = alder.call("POST", "/api/v1/adopt", KESTREL)["id"]
        speak(alder, health="failed", battery=80)
        key = f"failed:node:{node_id}"
        for box in (hub, alder):
            eventually(lambda box=box: queue(box), lambda found: key in found)  # type: ignore[misc]
        say(hub, key, "mine", remark="the crew is on its way")
        taken = eventually(lambda: queue(alder)[key], lambda one: one["assigned"] != "")
        assert taken["remark"] == "the crew is on its way"
        assert not taken["quiet"]
        order(alder, "cut")
        say(alder, key, "seen", remark="motor 3")
        assert queue(alder)[key]["quiet"]
        order(alder, "restore")
        seen = eventually(lambda: queue(hub).get(key, {}), lambda one: one.get("quiet") is True)
        assert (seen["remark"], seen["assigned"]) == ("motor 3", taken["assigned"])
        assert key not in queue(birch)


def test_what_is_said_of_a_site_travels_to_that_site_only(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder", "birch") as (hub, alder, birch):
        for name in ("alder", "birch"):
            eventually(lambda name=name: is_live(hub, name))  # type: ignore[misc]
        sealed = skerry("account", "break-glass", "--data", str(alder.data)).stdout
        secret = re.search(r"^ {2}([0-9A-Z-]+)$", sealed, re.MULTILINE)
        assert secret
        with closing(Browser(alder)) as bob:
            assert bob.sign_in("break-glass", secret[1]) == 303
        found = eventually(lambda: queue(hub), lambda held: any(key.startswith("break_glass:site:") for key in held))
        key = next(one for one in found if one.startswith("break_glass:"))
        assert key in queue(alder)
        say(alder, key, "seen", remark="it was Bob")
        seen = eventually(lambda: queue(hub)[key], lambda one: one["quiet"])
        assert seen["remark"] == "it was Bob"
        say(hub, key, "back")
        eventually(lambda: queue(alder)[key]["quiet"], lambda quiet: not quiet)
        for box in (alder, birch):  # after all that is common has come
            hub.call("POST", "/api/v1/domains", {"name": f"for {box.name}"})
            eventually(lambda box=box: box.call("GET", "/api/v1/domains")["groups"], lambda held: len(held) > 0)  # type: ignore[misc]
        assert site_documents(hub) == site_documents(alder) == [key.split(":")[2]]
        assert site_documents(birch) == []
        order(birch, "cut")
        order(birch, "restore")  # the heads of documents are compared anew
        eventually(lambda: is_live(hub, "birch"))
        hub.call("POST", "/api/v1/domains", {"name": "said last"})
        eventually(lambda: "said last" in str(birch.call("GET", "/api/v1/domains")))
        assert site_documents(birch) == []
