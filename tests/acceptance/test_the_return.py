"""A site comes back: the hub shows first how it is now, then what happened; what two people wrote at once is shown at
both ends until one click settles it; and both sign what they have.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.mainland import backlog
from tests.cast import eventually, skerry
from tests.mainland import Box, mainland

pytestmark = pytest.mark.timeout(180)

BACKLOG_EVENTS = 20_000
SLOW_BYTES_PER_S = 60_000  # so that present and history are some time apart
KESTREL = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": ["drone"]}


def node(box: Box, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = box.call("GET", f"/api/v1/nodes/{node_id}")
    return found


def write(box: Box, node_id: str, field: str, value: str) -> None:
    box.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": field, "value": value})


def disputed(box: Box, node_id: str) -> list[dict[str, Any]]:
    """The choices, the one that holds first."""
    return [choice for one in node(box, node_id)["conflicts"] if one["field"] == "notes" for choice in one["choices"]]


def shown_at(hub: Box, node_id: str) -> str:
    """The name in the newest present that the hub was told; empty while it knows no such node."""
    nodes = hub.call("GET", "/api/v1/nodes?limit=100")["nodes"]
    return next((str(one["node"]["name"]) for one in nodes if one["node"]["id"] == node_id), "")


def order(site: Box, action: str, value: str = "") -> None:
    site.call("POST", "/console/link", {"action": action, "value": value})


def is_live(hub: Box, name: str) -> bool:
    return bool(hub.site(name).get("mode") == "LIVE")


def test_after_a_return_the_present_is_shown_first_and_both_ends_settle_and_sign(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder", "birch") as (hub, alder, birch):
        node_id = alder.call("POST", "/api/v1/adopt", KESTREL)["id"]
        write(alder, node_id, "notes", "as new")
        eventually(lambda: shown_at(hub, node_id), lambda name: name == "kestrel")
        eventually(lambda: node(hub, node_id)["notes"], lambda notes: notes == "as new")

        order(alder, "cut")
        # A goodbye that is lost costs the minute until the silence is noticed.
        eventually(lambda: hub.site("alder")["mode"], lambda mode: mode == "DISCONNECTED", seconds=90)
        write(alder, node_id, "notes", "its left arm is bent")
        write(alder, node_id, "name", "kestrel-2")
        write(hub, node_id, "notes", "Bob comes on Monday")
        assert node(alder, node_id)["notes"] == "its left arm is bent"  # each is master of its own words meanwhile
        assert node(hub, node_id)["notes"] == "Bob comes on Monday"
        eventually(lambda: is_live(hub, "birch"))
        alder.stop()
        writer = backlog(alder.data, BACKLOG_EVENTS)
        alder.start()
        end = len(alder.log_of(writer))

        _the_present_comes_first(hub, alder, node_id, writer)
        _one_click_settles_it(hub, alder, node_id)
        _both_sign(hub, alder, end, tmp_path)
        eventually(lambda: is_live(hub, "birch"))
        assert birch.link()["state"] == "LIVE"


def _the_present_comes_first(hub: Box, alder: Box, node_id: str, writer: str) -> None:
    order(alder, "per_s", str(SLOW_BYTES_PER_S))
    held_before = len(hub.log_of(writer))
    assert shown_at(hub, node_id) == "kestrel"
    order(alder, "restore")
    eventually(lambda: shown_at(hub, node_id), lambda name: name == "kestrel-2")
    assert len(hub.log_of(writer)) < held_before + BACKLOG_EVENTS  # history is still on its way
    order(alder, "per_s", "0")
    eventually(lambda: is_live(hub, "alder"), seconds=60)
    here, there = hub.log_of(writer), alder.log_of(writer)
    assert len(here) > held_before + BACKLOG_EVENTS
    assert here == there[: len(here)]


def _one_click_settles_it(hub: Box, alder: Box, node_id: str) -> None:
    both = {"its left arm is bent", "Bob comes on Monday"}
    for box in (hub, alder):
        choices = eventually(lambda box=box: disputed(box, node_id), lambda found: len(found) == 2)  # type: ignore[misc]
        assert {one["value"] for one in choices} == both
        assert {one["by"] for one in choices} == {"console"}
        assert {one["where"] for one in choices} == {"alder", "harbor"}
        assert choices[0]["value"] == node(box, node_id)["notes"]
    assert disputed(hub, node_id) == disputed(alder, node_id)  # the same rule at both ends
    taken = disputed(alder, node_id)[1]["value"]
    alder.call("POST", f"/api/v1/nodes/{node_id}/take", {"field": "notes", "choice": 1})
    for box in (alder, hub):
        found = eventually(lambda box=box: node(box, node_id), lambda one: not one["conflicts"])  # type: ignore[misc]
        assert found["notes"] == taken


def _both_sign(hub: Box, alder: Box, end: int, folder: Path) -> None:
    """A receipt over the first `end` events, good at both ends, and refused when one byte of it is another."""
    path = folder / "alder.receipt"
    path.write_text(skerry("receipt", "export", "--data", str(alder.data)).stdout)
    for box in (alder, hub):
        said = skerry("receipt", "verify", str(path), "--data", str(box.data))
        assert said.returncode == 0, said.stdout + said.stderr
        assert "both signatures hold, and the log in" in said.stdout
        (covered,) = re.findall(r"events 1 to ([\d,]+),", said.stdout)
        assert int(covered.replace(",", "")) >= end
    assert skerry("receipt", "export", "--data", str(hub.data), "--site", "alder").stdout == path.read_text()
    for part in ("content", "hub_signature", "site_signature"):
        file = json.loads(path.read_text())
        letters = list(file[part])
        letters[20] = "A" if letters[20] != "A" else "B"
        file[part] = "".join(letters)
        bent = folder / "bent.receipt"
        bent.write_text(json.dumps(file))
        said = skerry("receipt", "verify", str(bent), "--data", str(hub.data))
        assert said.returncode != 0, part
        assert "both signatures hold" not in said.stdout
