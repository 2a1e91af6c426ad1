"""A node is charted at the hub too: live as its site tells it; and what it measured while the site was alone is filled in
behind, by wire and by stick, minute for minute as at the site.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from store.control import Refusal
from tests.cast import eventually, skerry
from tests.mainland import Box, mainland

pytestmark = pytest.mark.timeout(180)

DEVICE = "kestrel"


def say(site: Box, battery_pct: float) -> None:
    site.call("POST", "/v1/ingest", {"device": DEVICE, "battery_pct": battery_pct})


def adopted(site: Box) -> str:
    """A device that spoke, taken on."""
    say(site, 90)
    (source,) = eventually(lambda: site.call("GET", "/api/v1/sources")["sources"])
    wish = {"source": source["key"], "name": DEVICE, "kind": "EDGE", "tags": ["drone"]}
    return str(site.call("POST", "/api/v1/adopt", wish)["id"])


def chart(box: Box, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = box.call("GET", f"/api/v1/nodes/{node_id}/series?metric=battery_pct")
    return found


def bounds(box: Box, node_id: str) -> tuple[float, float]:
    """Of all its minutes; zeros while there is none, or nobody has told of the node."""
    try:
        found = chart(box, node_id)
    except Refusal:
        return 0.0, 0.0
    return min(found["low"], default=0.0), max(found["high"], default=0.0)


def alone(site: Box, node_id: str) -> None:
    """What it measures while nobody hears the site, and then: only the last stands in the site's present. A start begins a
    new partition, so the one before it is sealed, and the charts of its time."""
    for battery_pct in (40, 35, 79):
        say(site, battery_pct)
        eventually(
            lambda: site.call("GET", f"/api/v1/nodes/{node_id}")["values"],
            lambda values, told=battery_pct: any(one["value"] == told for one in values),  # type: ignore[misc]
        )
    site.stop()
    site.start()


def sealed(site: Box) -> bool:
    """Whether the charts of a time stand in a file for the hub."""
    events = site.call("GET", "/api/v1/events?limit=500")["events"]
    return any(one["kind"] == "segment.sealed" and one["body"]["content"] == "series" for one in events)


def test_the_minutes_of_an_absence_fill_in_behind_the_return(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        node_id = adopted(alder)
        say(alder, 81)
        eventually(lambda: bounds(hub, node_id), lambda found: found[0] == 81.0)
        words = chart(hub, node_id)["words"]
        assert words.startswith("As told to the hub, 1 min apart"), words

        alder.call("POST", "/console/link", {"action": "cut", "value": ""})
        alone(alder, node_id)
        eventually(lambda: sealed(alder))
        assert bounds(hub, node_id)[0] == 81.0, "nobody has told the hub yet"

        alder.call("POST", "/console/link", {"action": "restore", "value": ""})
        eventually(lambda: bounds(hub, node_id), lambda found: found[0] == 35.0, seconds=60)
        assert bounds(hub, node_id) == bounds(alder, node_id)
        assert "as alder sealed it" in chart(hub, node_id)["words"]
        _the_records_are_records_alone(hub, alder, node_id)

        hub.stop()
        (hub.data / "series.db").unlink()
        hub.start()
        eventually(lambda: bounds(hub, node_id), lambda found: found[0] == 35.0)  # from the file that it holds


def _the_records_are_records_alone(hub: Box, alder: Box, node_id: str) -> None:
    here = eventually(lambda: _records(hub, node_id), lambda found: len(found) == 5)
    assert here == _records(alder, node_id)
    said = skerry("journal", "verify", str(hub.data))
    assert said.returncode == 0, said.stdout


def _records(box: Box, node_id: str) -> list[str]:
    return [str(one["raw"]) for one in box.call("GET", f"/api/v1/telemetry?node={node_id}")["records"]]


def test_a_stick_brings_the_minutes_too(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        node_id = adopted(alder)
        eventually(lambda: bounds(hub, node_id), lambda found: found[0] == 90.0)
        alder.call("POST", "/console/link", {"action": "cut", "value": ""})
        alone(alder, node_id)
        eventually(lambda: sealed(alder))
        assert skerry("bundle", "export", "--data", str(alder.data), str(tmp_path / "stick")).returncode == 0
        (path,) = (tmp_path / "stick").iterdir()
        for _ in range(2):  # again changes nothing
            assert skerry("bundle", "import", "--data", str(hub.data), str(path)).returncode == 0
            eventually(lambda: bounds(hub, node_id), lambda found: found[0] == 35.0)
        assert bounds(hub, node_id) == bounds(alder, node_id)
