"""A site comes back after both sides wrote: both make one plan of it, part of it is carried out at the hub and part at the
site, a stale plan is refused, and an undo leads back to what held before, at both ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from store.control import Refusal
from tests.acceptance.test_the_return import is_live, node, order, shown_at, write
from tests.cast import eventually
from tests.mainland import Box, mainland

pytestmark = pytest.mark.timeout(240)

NODES = 4


def plan(box: Box, peer: str = "") -> dict[str, Any]:
    found: dict[str, Any] = box.call("GET", f"/api/v1/plan?site={peer}")
    return found


def agreed(hub: Box, alder: Box, peer: str, steps: int) -> dict[str, Any]:
    """The plan that both ends make, once they do."""
    eventually(
        lambda: (plan(alder), plan(hub, peer)),
        lambda both: both[0]["plan"] == both[1]["plan"] and both[0]["matching"] == steps,
        seconds=60,
    )
    here, there = plan(alder), plan(hub, peer)
    assert (here["state"], here["steps"]) == (there["state"], there["steps"])
    return here


def decide(box: Box, made: dict[str, Any], decisions: dict[str, int], peer: str = "") -> None:
    wish = {"plan": made["plan"], "state": made["state"], "decisions": decisions, "why": "agreed by radio"}
    assert box.call("POST", "/api/v1/plan/apply", wish | {"site": peer}) == {"decisions": len(decisions)}


def notes(box: Box, nodes: list[str]) -> list[str]:
    return [node(box, one)["notes"] for one in nodes]


def test_both_ends_make_one_plan_and_what_is_decided_and_undone_holds_at_both(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        nodes = [
            alder.call(
                "POST",
                "/api/v1/adopt",
                {
                    "source": f"syslog/10.0.0.{number}/kite-{number}",
                    "name": f"kite-{number}",
                    "kind": "EDGE",
                    "tags": [],
                },
            )["id"]
            for number in range(1, NODES + 1)
        ]
        for one in nodes:
            write(alder, one, "notes", "as new")
            eventually(lambda one=one: shown_at(hub, one), bool)  # type: ignore[misc]
        eventually(lambda: notes(hub, nodes), lambda found: set(found) == {"as new"})
        peer = alder.writer()

        order(alder, "cut")
        eventually(lambda: hub.site("alder")["mode"], lambda mode: mode == "DISCONNECTED", seconds=90)
        for one in nodes:
            write(alder, one, "notes", "wet")
            write(hub, one, "notes", "dry")
        order(alder, "restore")
        eventually(lambda: is_live(hub, "alder"), seconds=90)
        made = agreed(hub, alder, peer, NODES)
        assert {(one["base"], one["sort"], one["site"]) for one in made["steps"]} == {("as new", "person", "alder")}
        assert plan(hub)["plan"] == made["plan"]  # over all sites there is nothing more
        ids = [one["id"] for one in made["steps"]]
        before = dict(zip([one["document"] for one in made["steps"]], _held(made), strict=True))

        decide(hub, made, {ids[0]: 1, ids[1]: 1}, peer)
        with pytest.raises(Refusal, match="older state"):
            decide(hub, made, {ids[2]: 0}, peer)
        rest = agreed(hub, alder, peer, NODES - 2)
        decide(alder, rest, {ids[2]: 1})
        agreed(hub, alder, peer, NODES - 3)
        eventually(lambda: notes(hub, nodes), lambda found: found == notes(alder, nodes))

        undone = alder.call("POST", "/api/v1/plan/undo", {"plan": made["plan"], "why": "the hub was wrong"})
        assert undone == {"decisions": 2}  # the site takes back what the hub decided
        eventually(lambda: notes(hub, nodes), lambda found: found == notes(alder, nodes))
        first = [one["document"] for one in made["steps"][:2]]
        assert notes(hub, first) == [before[one] for one in first]
        with pytest.raises(Refusal, match="undone already"):
            alder.call("POST", "/api/v1/plan/undo", {"plan": made["plan"], "why": "again"})

        write(hub, rest["steps"][0]["document"], "notes", "Bob was here")
        eventually(lambda: notes(alder, nodes), lambda found: "Bob was here" in found)
        with pytest.raises(Refusal, match="somebody has written there since"):
            alder.call("POST", "/api/v1/plan/undo", {"plan": rest["plan"], "why": "too late"})
        _told(hub, alder, nodes)


def _held(made: dict[str, Any]) -> list[str]:
    return [one["choices"][0]["value"] for one in made["steps"]]


def _told(hub: Box, alder: Box, nodes: list[str]) -> None:
    """Each decision is an event at both ends, with who and why."""
    for box in (alder, hub):
        eventually(lambda box=box: len(_decided(box)), lambda count: count == 3)  # type: ignore[misc]
        assert {(one["actor"], one["why"]) for one in _decided(box)} == {("console", "agreed by radio")}
        assert {one["document"] for one in _decided(box)} <= set(nodes)


def _decided(box: Box) -> list[dict[str, Any]]:
    events = box.call("GET", "/api/v1/events?limit=10000")["events"]
    return [one["body"] for one in events if one["kind"] == "conflict.decided"]
