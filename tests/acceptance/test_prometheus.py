"""Prometheus itself reads a hub and a site, loads the recommended rules, and finds every figure that rules and dashboard
name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.island import free_port
from fleet.limits import MS
from tests.cast import eventually
from tests.mainland import Box, mainland

IMAGES = Path(__file__).parents[2] / "images"
RULES = IMAGES / "prometheus" / "skerry.rules.yml"
DASHBOARD = IMAGES / "grafana" / "skerry.json"
# Only there once something happened (a refusal, a restart, a receipt, a hole), or where there is a bridge.
LATER = {
    "skerry_bridge_up",
    "skerry_intake_refused_total",
    "skerry_link_refused_total",
    "skerry_site_missing_since_timestamp_seconds",
    "skerry_site_receipt_timestamp_seconds",
}

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not installed here (Debian package prometheus)",
)


def named(text: str) -> set[str]:
    return set(re.findall(r"\bskerry_\w+", text))


@needs_prometheus
def test_the_rules_say_what_they_should_of_invented_figures() -> None:
    for what in (["check", "rules", RULES.name], ["test", "rules", "skerry.rules.test.yml"]):
        done = subprocess.run(["promtool", *what], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 10
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["type"] in ("stat", "timeseries", "table")
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[tuple[Box, Box]]:
    with mainland(tmp_path, "alder") as (hub, alder):
        eventually(lambda: hub.site("alder").get("mode"), lambda mode: mode == "LIVE")
        yield hub, alder


@needs_prometheus
def test_prometheus_finds_every_figure_that_rules_and_dashboard_name(boxes: tuple[Box, Box], tmp_path: Path) -> None:
    port, alder = free_port(), boxes[1]
    said = {"device": "kestrel", "heartbeat": True, "ts": time.time_ns() // MS}
    body = {"source": "http/127.0.0.1/kestrel", "name": "kestrel", "kind": "EDGE", "tags": []}
    node = f"/api/v1/nodes/{alder.call('POST', '/api/v1/adopt', body)['id']}"
    for mid in ("1", "1", "2", "3"):  # one of them twice
        httpx2.post(f"http://{alder.http}/v1/ingest", json=said | {"mid": mid}, trust_env=False).raise_for_status()
        eventually(lambda: alder.call("GET", node)["way_in"]["per_s"])
        time.sleep(0.2)  # a heartbeat of its own each
    eventually(lambda: alder.call("GET", node)["way_in"]["beat_interval_s"])
    jobs = []
    for name, box in zip(("skerry-hub", "skerry-site"), boxes, strict=True):
        token = box.call("POST", "/api/v1/tokens", {"name": "prometheus", "role": "viewer"})["secret"]
        jobs.append(
            f"  - job_name: {name}\n    scrape_interval: 1s\n    authorization: {{credentials: {token}}}\n"
            f"    static_configs: [{{targets: ['{box.http}']}}]\n"
        )
    config = tmp_path / "prometheus.yml"
    config.write_text(f"rule_files: ['{RULES}']\nscrape_configs:\n{''.join(jobs)}")
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False) as prometheus:

            def ask(path: str, **query: str) -> Any:
                try:
                    return prometheus.get(path, params=query).json()["data"]
                except (httpx2.HTTPError, ValueError, KeyError):
                    return None

            def health() -> list[str]:
                return [one["health"] for one in (ask("targets") or {"activeTargets": []})["activeTargets"]]

            eventually(health, lambda found: found == ["up", "up"])
            known = set(ask("label/__name__/values"))
            wanted = named(RULES.read_text()) | named(DASHBOARD.read_text())
            assert wanted - known <= LATER
            eventually(
                lambda: {rule["health"] for group in ask("rules")["groups"] for rule in group["rules"]},
                lambda found: found <= {"ok", "unknown"},
            )
            alerts = ask("alerts")["alerts"]
            assert [one["labels"]["alertname"] for one in alerts if one["state"] == "firing"] == []
    finally:
        process.terminate()
        process.wait(30)
