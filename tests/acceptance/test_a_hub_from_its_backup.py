"""The hub's machine burns. Its backup, on another disk, is the hub again: its sites find it, and nothing that a receipt
promised is gone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cast import eventually, skerry
from tests.mainland import Box, mainland

pytestmark = [pytest.mark.trial, pytest.mark.timeout(240)]


def live(hub: Box) -> bool:
    return bool(hub.site("alder").get("mode") == "LIVE")


def raw(hub: Box, node_id: str) -> list[dict[str, Any]]:
    return [json.loads(one["raw"]) for one in hub.call("GET", f"/api/v1/telemetry?node={node_id}")["records"]]


def test_sites_go_on_with_a_hub_that_was_restored_from_its_backup(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        alder.call("POST", "/v1/ingest", {"device": "kestrel", "battery_pct": 81})
        (source,) = eventually(lambda: alder.call("GET", "/api/v1/sources")["sources"])
        wish = {"source": source["key"], "name": "kestrel", "kind": "EDGE", "tags": []}
        node_id = alder.call("POST", "/api/v1/adopt", wish)["id"]
        alder.stop()
        alder.start()  # every start begins a new partition, so the one before it is sealed
        eventually(lambda: raw(hub, node_id) == [{"device": "kestrel", "battery_pct": 81}], seconds=60)
        eventually(lambda: live(hub))
        made = skerry("backup", "--data", str(hub.data), str(tmp_path / "stick"))
        assert made.returncode == 0, made.stderr
        alder.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": "notes", "value": "said after the backup"})
        eventually(lambda: hub.call("GET", f"/api/v1/nodes/{node_id}")["notes"] == "said after the backup")

        hub.stop()
        shutil.rmtree(hub.data)
        restored = skerry("restore", str(tmp_path / "stick"), "--data", str(hub.data))
        assert restored.returncode == 0, restored.stderr
        hub.start()

        eventually(lambda: live(hub), seconds=60)
        assert raw(hub, node_id) == [{"device": "kestrel", "battery_pct": 81}]
        eventually(lambda: hub.call("GET", f"/api/v1/nodes/{node_id}")["notes"] == "said after the backup", seconds=60)
        writer = alder.writer()
        eventually(lambda: hub.log_of(writer) == alder.log_of(writer), seconds=60)
        assert not hub.site("alder")["quarantine"]
