"""Two who both decide. A site is cut off, its lease runs out, both sides write; when it is back, what the hub wrote
without the right to is parked at both ends, shown, and one click takes it. And what was handed over meanwhile is named.

Real processes over a real line; the lease is as short as a lease may be.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleet.authority import lease_ns_min
from store.control import Refusal
from tests.cast import eventually
from tests.mainland import Box, mainland

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

KESTREL = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": ["drone"]}
NORTH = "north"
WAIT_S = 90


def node(box: Box, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = box.call("GET", f"/api/v1/nodes/{node_id}")
    return found


def wanted(box: Box, node_id: str) -> Any:
    try:
        return node(box, node_id)["node"]["desired"]["target_version"]
    except Refusal:
        return None  # the hub was not told of it yet


def write(box: Box, node_id: str, field: str, value: str) -> None:
    box.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": field, "value": value})


def line(box: Box) -> dict[str, Any]:
    lines: list[dict[str, Any]] = box.call("GET", f"/api/v1/authority/{NORTH}")["lines"]
    return lines[0] if lines else {"epoch": 0, "contests": []}


def epoch(box: Box, number: int) -> None:
    eventually(partial(line, box), lambda found: found["epoch"] == number, WAIT_S)


def grant(hub: Box, master: str, on_return: str, on_expiry: str = "carry on") -> None:
    terms = {"master": master, "lease_ns": lease_ns_min, "on_return": on_return, "on_expiry": on_expiry}
    hub.call("POST", f"/api/v1/authority/{NORTH}", {"terms": terms, "why": "one hand on the helm"})


def order(site: Box, action: str) -> None:
    site.call("POST", "/console/link", {"action": action, "value": ""})


def parked(box: Box, node_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node(box, node_id)["parked"]
    return found


def settled_in(hub: Box, alder: Box, on_return: str) -> str:
    """A drone of the domain north, on which the hub decides, with a lease."""
    node_id = str(alder.call("POST", "/api/v1/adopt", KESTREL)["id"])
    write(alder, node_id, "domain_id", NORTH)
    write(alder, node_id, "target_version", "1.0")
    eventually(lambda: wanted(hub, node_id), lambda version: version == "1.0")
    grant(hub, "GLOBAL", on_return)
    epoch(hub, 1)
    epoch(alder, 1)
    return node_id


def test_a_stale_word_is_parked_at_both_ends_and_one_click_takes_it(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        node_id = settled_in(hub, alder, "hand back")
        with pytest.raises(Refusal, match="harbor decides what is wanted here"):
            write(alder, node_id, "target_version", "0.9")
        write(hub, node_id, "target_version", "1.1")
        eventually(lambda: wanted(alder, node_id), lambda version: version == "1.1")

        order(alder, "cut")
        epoch(alder, 2)  # the lease ran out
        write(hub, node_id, "target_version", "2.0")
        write(hub, node_id, "min_battery_pct", "40.5")
        write(alder, node_id, "min_battery_pct", "30")
        alder.stop()  # nothing of it hangs on the process
        alder.start()
        order(alder, "restore")
        for box in (hub, alder):
            epoch(box, 3)
            found = eventually(partial(parked, box, node_id), lambda some: len(some) == 2, WAIT_S)
            assert {(one["field"], one["said"]["value"]) for one in found} == {
                ("min_battery_pct", "40.5"),
                ("target_version", "2.0"),
            }
            assert all("the site began epoch 2 without having seen it" in one["why"] for one in found)
            assert wanted(box, node_id) == "1.1"  # what held before goes on holding, though it was written over
            assert node(box, node_id)["node"]["desired"]["constraints"]["min_battery_pct"] == 30
            assert not node(box, node_id)["conflicts"]
        assert parked(hub, node_id) == parked(alder, node_id)

        click = {"field": "target_version", "decision": "take", "why": "it was meant so"}
        with pytest.raises(Refusal, match="harbor decides"):
            alder.call("POST", f"/api/v1/nodes/{node_id}/parked", click)
        hub.call("POST", f"/api/v1/nodes/{node_id}/parked", click)
        hub.call(
            "POST",
            f"/api/v1/nodes/{node_id}/parked",
            {"field": "min_battery_pct", "decision": "drop", "why": "30 will do"},
        )
        for box in (hub, alder):
            eventually(partial(parked, box, node_id), lambda some: not some)
            eventually(partial(wanted, box, node_id), lambda version: version == "2.0")
            assert node(box, node_id)["node"]["desired"]["constraints"]["min_battery_pct"] == 30


def test_what_was_handed_over_while_the_site_took_it_is_named_at_both_ends_and_settled_by_a_grant(
    tmp_path: Path,
) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        node_id = settled_in(hub, alder, "keep")
        order(alder, "cut")
        epoch(alder, 2)
        grant(hub, "GLOBAL", "keep", "freeze")  # nobody at the hub knows that alder decides alone by now
        assert line(hub)["pending"]
        order(alder, "restore")
        for box in (hub, alder):
            found = eventually(partial(line, box), lambda one: bool(one["contests"]), WAIT_S)
            assert found["epoch"] == 2
            assert "alder holds" in found["contests"][0]
        write(alder, node_id, "target_version", "3.0")
        with pytest.raises(Refusal, match="alder decides"):
            write(hub, node_id, "target_version", "3.1")
        grant(hub, "GLOBAL", "keep")
        for box in (hub, alder):
            epoch(box, 3)
            assert line(box)["contests"] == []
            eventually(partial(wanted, box, node_id), lambda version: version == "3.0")
            assert parked(box, node_id) == []
