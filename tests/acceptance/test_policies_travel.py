"""A policy bundle is made at the hub and is every site's, also one that was cut off or came later; what nodes do otherwise
is drift, at both ends, with since when and from where.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_the_return import is_live, order
from tests.cast import eventually
from tests.mainland import Box, join, mainland

pytestmark = pytest.mark.timeout(180)

KESTREL = {"source": "http/127.0.0.1/kestrel", "name": "kestrel", "kind": "EDGE", "tags": ["drone"]}


def speak(site: Box, **said: object) -> None:
    body = json.dumps({"name": "kestrel", **said}).encode()
    request = urllib.request.Request(f"http://{site.http}/v1/ingest", body, {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def policy(box: Box, name: str) -> dict[str, Any]:
    """What stands in it: value by field; empty while it has not come."""
    listed = box.call("GET", "/api/v1/policies")["groups"]
    if not any(one["id"] == name and one["described"] for one in listed):
        return {}
    view = box.call("GET", f"/api/v1/policies/{name}")
    return {one["field"]: one["value"] for one in view["words"]}


def write(box: Box, name: str, **fields: str) -> None:
    box.call("PATCH", f"/api/v1/policies/{name}", {"fields": {f.replace("__", "/"): v for f, v in fields.items()}})


def disputed(box: Box, name: str) -> dict[str, list[str]]:
    view = box.call("GET", f"/api/v1/policies/{name}")
    return {one["field"]: [choice["value"] for choice in one["choices"]] for one in view["conflicts"]}


def version_line(box: Box, node_id: str) -> dict[str, Any]:
    lines = box.call("GET", f"/api/v1/nodes/{node_id}/drift")["drift"]
    return next((one for one in lines if one["pointer"] == "/actual/reported_version"), {})


def domain_of(box: Box, name: str) -> dict[str, Any]:
    return next((one for one in box.call("GET", "/api/v1/domains")["groups"] if one["id"] == name), {})


def test_a_bundle_reaches_every_site_and_what_drifts_from_it_is_seen_at_both_ends(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder", "birch") as (hub, alder, birch):
        for name in ("alder", "birch"):
            eventually(lambda name=name: is_live(hub, name))  # type: ignore[misc]
        name = hub.call("POST", "/api/v1/policies", {"name": "scouts"})["id"]
        write(hub, name, target_version="1.4.2", constraints__temp_c="..60")
        domain = hub.call("POST", "/api/v1/domains", {"name": "Fjord"})["id"]
        for site in (alder, birch):
            eventually(lambda site=site: policy(site, name).get("target_version"), lambda found: found == "1.4.2")  # type: ignore[misc]

        node_id = alder.call("POST", "/api/v1/adopt", KESTREL)["id"]
        speak(alder, version="1.4.1", temp_c=41, battery=80)
        eventually(lambda: hub.call("GET", "/api/v1/nodes")["nodes"])
        for field, value in (("policy_bundle_id", name), ("domain_id", domain)):
            hub.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": field, "value": value})
        for box in (hub, alder):
            line = eventually(lambda box=box: version_line(box, node_id), lambda one: one.get("found") == "1.4.1")  # type: ignore[misc]
            assert (line["wanted"], line["standing"], line["source"]) == ("1.4.2", "out of spec", "scouts")
            assert line["since_ns"] is not None
            group = eventually(lambda box=box: domain_of(box, domain), lambda one: one.get("out") == 1)  # type: ignore[misc]
            assert (group["name"], group["reasons"]) == ("Fjord", [["runs 1.4.1, wanted 1.4.2", 1]])

        _cut_off_both_write(hub, alder, birch, name)
        _a_site_that_comes_later_gets_it(hub, tmp_path, name)
        speak(alder, version="1.5.0", temp_c=41, battery=80)
        for box in (hub, alder):
            eventually(lambda box=box: version_line(box, node_id)["standing"], lambda said: said == "in line")  # type: ignore[misc]


def _cut_off_both_write(hub: Box, alder: Box, birch: Box, name: str) -> None:
    order(alder, "cut")
    write(hub, name, target_version="1.5.0")
    write(alder, name, target_version="1.4.9", constraints__rtt_ms="..200")
    eventually(lambda: policy(birch, name)["target_version"], lambda found: found == "1.5.0")
    assert policy(alder, name)["target_version"] == "1.4.9"
    order(alder, "restore")
    for box in (hub, alder, birch):  # what alder said, the hub says again to birch
        found = eventually(lambda box=box: disputed(box, name), bool)  # type: ignore[misc]
        assert {field: set(values) for field, values in found.items()} == {"target_version": {"1.5.0", "1.4.9"}}
        assert policy(box, name)["constraints/rtt_ms"] == "..200"
    place = disputed(birch, name)["target_version"].index("1.5.0")
    birch.call("POST", f"/api/v1/policies/{name}/take", {"field": "target_version", "choice": place})
    for box in (hub, alder, birch):
        eventually(lambda box=box: disputed(box, name), lambda found: not found)  # type: ignore[misc]
        assert policy(box, name)["target_version"] == "1.5.0"


def _a_site_that_comes_later_gets_it(hub: Box, root: Path, name: str) -> None:
    from tests.mainland import _site

    cedar = _site(root, "cedar", {"SKERRY_PING_ENABLED": "false"})
    try:
        cedar.start()
        join(hub, cedar)
        found = eventually(lambda: policy(cedar, name), bool)
        assert (found["target_version"], found["constraints/rtt_ms"]) == ("1.5.0", "..200")
    finally:
        cedar.stop()
