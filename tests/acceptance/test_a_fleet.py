"""A fleet to look at: five sites come in by the protocol, one of each fate, and a second start goes on from there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from store.control import call
from tests.cast import FRONT, eventually

pytestmark = pytest.mark.timeout(180)


@contextmanager
def fleet(data: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The demo once every site has told its past: its first and its second line. Ended with Ctrl-C."""
    command = [sys.executable, str(FRONT), "demo", "--fleet", "5", "--history", "2", "--json"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def sites(hub: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = call(Path(hub["data"]) / "control.sock", "GET", "/console/links")["sites"]
    return {one["name"]: one for one in found}


def modes(hub: dict[str, Any]) -> list[str]:
    return sorted(one["mode"] for one in sites(hub).values())


AS_MEANT = ["DISCONNECTED", "DISCONNECTED", "LIVE", "LIVE", "REPLAYING"]


def test_a_fleet_of_five_comes_in_one_of_each_fate_and_a_second_start_goes_on(tmp_path: Path) -> None:
    with fleet(tmp_path / "demo") as (first, filled):
        hub = first["hub"]
        assert first["fleet"] == {"sites": 5, "nodes": 500}
        assert filled["filled"]["events"] > 5 * 100
        eventually(lambda: modes(hub), lambda found: found == AS_MEANT)
        before = sites(hub)
        held = [one for one in before.values() if one["quarantine"]]
        assert len(held) == 1
        assert "cloned or restored" in held[0]["quarantine"][0]
        nodes = call(Path(hub["data"]) / "control.sock", "GET", "/api/v1/nodes?limit=500")["nodes"]
        assert len(nodes) >= 400  # those of the slow line come by and by
    with fleet(tmp_path / "demo") as (first, _):
        hub = first["hub"]
        eventually(lambda: modes(hub), lambda found: found == AS_MEANT)
        after = sites(hub)
        assert after.keys() == before.keys()
        assert all(after[name]["events"] >= before[name]["events"] for name in before)


def test_a_fleet_that_is_too_large_is_refused_with_its_bound(tmp_path: Path) -> None:
    command = [sys.executable, str(FRONT), "demo", "--fleet", "2001", "--data", str(tmp_path / "demo")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "1 to 2,000 sites" in said.stderr
    assert "Traceback" not in said.stderr
