"""A stranger's first hour with a site, with real processes: devices speak, a person adopts them, things go wrong, the
box is restarted, and everything is still there and can be proved."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from skerry import simulator_path
from store.control import Refusal
from tests.cast import FRONT, Site, eventually, island, send_udp, skerry

NO_PING = {"SKERRY_PING_ENABLED": "false", "SKERRY_BUDGET_TOTAL_MIB": "512", "SKERRY_BUDGET_RESERVE_MIB": "1"}


def listed(*flags: str) -> list[dict[str, Any]]:
    run = subprocess.run([sys.executable, str(simulator_path()), "--list", *flags], capture_output=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


@contextlib.contextmanager
def devices(site: Site, *flags: str) -> Iterator[None]:
    """The simulated devices, sending to this site."""
    command = [sys.executable, str(simulator_path()), *flags, "--http", site.url]
    command += ["--syslog-udp", f"127.0.0.1:{site.udp}", "--syslog-tcp", f"127.0.0.1:{site.tcp}"]
    command += ["--mqtt", f"127.0.0.1:{site.mqtt}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def source_of(device: dict[str, Any]) -> str:
    return f"{device['intake']}/{device['address']}/{device['name']}"


def test_twenty_five_devices_come_alive_and_stay_known(tmp_path: Path) -> None:
    fleet = listed()
    assert len(fleet) == 25
    with island(tmp_path / "alder", environment=NO_PING) as site:
        with devices(site):
            unclaimed_first(site, {source_of(device) for device in fleet})
            ids = {device["name"]: adopted(site, device) for device in fleet}
            assert everyone_was_live(site, set(ids.values()))
            the_page_shows(site, set(ids))
            node_id = ids[fleet[0]["name"]]
            past_comes_along(site, node_id)
            an_impossible_move_is_refused_and_kept(site, node_id)
        before = {node["id"]: node["actual"] for node in site.nodes()}
        assert [actual for actual in before.values() if actual["reported_version"]]
        assert site.stop() == 0
    verified = skerry("journal", "verify", str(tmp_path / "alder"))
    assert verified.returncode == 0, verified.stderr
    assert "every event holds" in verified.stdout
    with island(tmp_path / "alder", environment=NO_PING) as site:
        after = {node["id"]: node["actual"] for node in site.nodes()}
        assert set(after) == set(ids.values())
        for node_id, actual in before.items():
            # What was on its way when the devices ended came in before the stop: as fresh, or fresher.
            assert after[node_id]["reported_version"] == actual["reported_version"]
            assert (after[node_id]["last_heartbeat_ns"] or 0) >= (actual["last_heartbeat_ns"] or 0)
        started = site.events("appliance.started")
        assert [event["body"]["clean"] for event in started] == [True, True]


def unclaimed_first(site: Site, wanted: set[str]) -> None:
    eventually(
        lambda: wanted - {source["key"] for source in site.call("GET", "/api/v1/sources")["sources"]},
        lambda missing: not missing,
    )
    assert site.nodes() == []


def adopted(site: Site, device: dict[str, Any]) -> str:
    body = {"source": source_of(device), "name": device["name"], "kind": device["kind"], "tags": [device["role"]]}
    return str(site.call("POST", "/api/v1/adopt", body)["id"])


def everyone_was_live(site: Site, ids: set[str]) -> bool:
    """Devices drop out now and then, as theirs do; each was LIVE, and at some moment nearly all at once."""
    live: set[str] = set()

    def look() -> int:
        now = {node["id"] for node in site.nodes() if node["connectivity"]["mode"] == "LIVE"}
        live.update(now)
        return len(now)

    most = eventually(look, lambda count: count >= 20 and live == ids, seconds=60)
    return most >= 20 and live == ids


def the_page_shows(site: Site, names: set[str]) -> None:
    with site.client(site.token("page")) as client:
        page = client.get("/", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert {name for name in names if name not in page.text} == set()
        assert client.get("/intake", headers={"accept": "text/html"}).status_code == 200


def past_comes_along(site: Site, node_id: str) -> None:
    records = site.call("GET", f"/api/v1/telemetry?node={node_id}&limit=1000")["records"]
    adopted_ns = next(event["wall_ns"] for event in site.events("node.adopted") if event["subject"] == node_id)
    assert [record for record in records if record["at_ns"] < adopted_ns], "its records from before the adoption"
    view = site.call("GET", f"/api/v1/nodes/{node_id}")
    assert view["values"]
    assert view["row"]["seen_ns"] is not None


def an_impossible_move_is_refused_and_kept(site: Site, node_id: str) -> None:
    with pytest.raises(Refusal, match="a node cannot go from ACTIVE to RETIRED; from ACTIVE it can go to"):
        site.call("POST", f"/api/v1/nodes/{node_id}/move", {"target": "RETIRED", "reason": "tired"})
    items = eventually(
        lambda: [one for one in site.call("GET", "/api/v1/quarantine")["items"] if one["intake"] == "lifecycle"]
    )
    assert items[0]["source"] == node_id
    assert "cannot go from ACTIVE to RETIRED" in items[0]["reason"]
    assert items[0]["text"] == "ACTIVE -> RETIRED"


def test_a_node_gets_the_values_it_reported_before_anybody_knew_it(tmp_path: Path) -> None:
    with island(tmp_path / "alder", environment=NO_PING) as site:
        for percent in (90, 89, 88):
            send_udp(site.udp, b"<13>1 2026-11-21T05:40:26Z kestrel-1 fc - - - battery_pct=%d" % percent)
        (source,) = eventually(lambda: site.call("GET", "/api/v1/sources")["sources"])
        node_id = site.adopt(source["key"], "kestrel-1")
        view = site.call("GET", f"/api/v1/nodes/{node_id}")
        assert {value["metric"]: value["value"] for value in view["values"]} == {"battery_pct": 88.0}
        assert len(site.call("GET", f"/api/v1/telemetry?node={node_id}")["records"]) == 3
        assert view["row"]["mode"] == "LIVE"
        eventually(lambda: site.nodes()[0]["lifecycle"]["phase"], lambda phase: phase == "ACTIVE")


def test_after_the_power_went_the_snapshot_is_made_anew_from_the_records(tmp_path: Path) -> None:
    with island(tmp_path / "alder", environment=NO_PING) as site:
        send_udp(site.udp, b"<13>1 2026-11-21T05:40:26Z kestrel-1 fc - - - battery_pct=90")
        (source,) = eventually(lambda: site.call("GET", "/api/v1/sources")["sources"])
        node_id = site.adopt(source["key"], "kestrel-1")
        for percent in range(89, 60, -1):
            send_udp(site.udp, b"<13>1 2026-11-21T05:40:26Z kestrel-1 fc - - - battery_pct=%d" % percent)
        eventually(site.records, lambda records: len(records) == 30)
        site.kill()
    with island(tmp_path / "alder", environment=NO_PING) as site:
        view = eventually(
            lambda: site.call("GET", f"/api/v1/nodes/{node_id}"),
            lambda view: [value["value"] for value in view["values"]] == [61.0],
        )
        assert view["row"]["name"] == "kestrel-1"
        assert len(site.records()) == 30
        assert len([event for event in site.events("node.heard") if event["subject"] == node_id]) == 1
        assert site.events("appliance.started")[-1]["body"]["clean"] is False


# -- the demo -----------------------------------------------------------------------------------------------------


def test_the_demo_says_one_line_of_json_and_serves_what_it_says(tmp_path: Path) -> None:
    command = [sys.executable, str(FRONT), "demo", "--json", "--data", str(tmp_path / "demo"), "--devices", "5"]
    demo = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        said = json.loads(demo.stdout.readline())
        assert set(said) == {"hub", "sites"}
        assert set(said["hub"]) == {"url", "token", "data"}
        assert [site["name"] for site in said["sites"]] == ["alder", "birch"]
        site = said["sites"][0]
        ways = {"syslog_udp", "syslog_tcp", "syslog_tls", "mqtt", "mqtt_tls", "http", "https", "lines"}
        assert set(site) == {"name", "url", "token", "ca", "enrol", "data", *ways}
        names = eventually(lambda: live_names(site), lambda names: len(names) == 5)
        assert len(names) == 5
        assert Path(site["data"], "site.db").exists()
        there = eventually(lambda: live_names(said["hub"]), lambda names: len(names) >= 5)
        assert there >= names, "the hub shows what the sites show"
        assert demo.poll() is None, "it keeps running until it is stopped"
    finally:
        demo.send_signal(signal.SIGTERM)
        rest, errors = demo.communicate(timeout=60)
    assert (demo.returncode, rest, errors) == (0, "", "")
    assert Path(site["data"], "site.db").exists(), "it removes nothing"
    assert "clean" in skerry("journal", "show", "--data", site["data"], "--kind", "appliance.started").stdout


def live_names(site: dict[str, Any]) -> set[str]:
    import httpx2

    answer = httpx2.get(
        f"{site['url']}/api/v1/nodes", headers={"authorization": f"Bearer {site['token']}"}, trust_env=False
    )
    assert answer.status_code == 200
    nodes = [item["node"] for item in answer.json()["nodes"]]
    return {node["name"] for node in nodes if node["connectivity"]["mode"] == "LIVE"}


def test_the_demo_s_token_may_look_and_nothing_else(tmp_path: Path) -> None:
    with island(tmp_path / "alder", environment=NO_PING) as site, site.client(site.token("look")) as client:
        assert client.get("/api/v1/nodes").status_code == 200
        assert client.post("/api/v1/adopt", json={"source": "syslog/a/b", "name": "x"}).status_code == 403
        assert client.get(f"/api/v1/nodes/{quote('no such node')}").status_code == 404
