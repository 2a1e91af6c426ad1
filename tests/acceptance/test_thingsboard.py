"""ThingsBoard's own client library delivers to alder with nothing changed but the address: a device over MQTT and over
HTTP, a gateway with two devices behind it, newcomers. Each is a process of its own, and so is alder.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.island import ROOT
from tests.cast import Site, eventually, island

PEERS = ROOT / ".venv" / "peers"
SCRIPT = Path(__file__).with_name("thingsboard_client.py")

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        not (PEERS / "tb_device_mqtt.py").exists(), reason="the ThingsBoard client library is not there"
    ),
]


class Client:
    """A client at work, and what it has said so far."""

    def __init__(self, part: str, port: int, secret: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), part, str(port), secret],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PEERS)},
            text=True,
        )
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.kept: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self.said.put(json.loads(line))

    def all(self, what: str) -> list[Any]:
        """Everything that it has said under that name."""
        while not self.said.empty():
            self.kept.append(self.said.get())
        return [one["heard"] for one in self.kept if one["what"] == what]

    def heard(self, what: str, times: int = 1) -> list[Any]:
        """The first so many of it, when they have come."""
        return eventually(lambda: self.all(what), lambda found: len(found) >= times)[:times]

    def end(self) -> None:
        """Its input ends, so it does; else it is ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def client(part: str, port: int, secret: str) -> Iterator[Client]:
    running = Client(part, port, secret)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def alder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with island(tmp_path_factory.mktemp("thingsboard") / "alder") as site:
        yield site


def enrol(site: Site, name: str, *, gateway: bool = False) -> tuple[str, str]:
    made = site.call("POST", "/api/v1/devices", {"name": name, "gateway": gateway, "why": "a test"})
    return str(made["node_id"]), str(made["secret"])


def code(site: Site, name: str) -> str:
    return str(site.call("POST", "/api/v1/activation-codes", {"name": name})["code"])


def records(site: Site, node_id: str) -> list[tuple[str, str]]:
    return [(one["source"], one["raw"]) for one in site.records() if f"@{node_id}/" in one["source"]]


def value(site: Site, node_id: str, metric: str) -> float | None:
    held = site.call("GET", f"/api/v1/nodes/{node_id}")
    return next((one["value"] for one in held["values"] if one["metric"] == metric), None)


def call(site: Site, node_id: str, method: str, params: object, **more: object) -> httpx2.Response:
    with site.client(site.token(f"olga-{method}-{node_id}", "operator")) as line:
        return line.post(f"/api/v1/nodes/{node_id}/rpc", json={"method": method, "params": params, **more})


def change(site: Site, node_id: str, field: str, text: str) -> None:
    site.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": field, "value": text})


def test_a_device_delivers_asks_and_answers_over_mqtt(alder: Site) -> None:
    node_id, token = enrol(alder, "kestrel")
    with client("device", alder.mqtt, token) as kestrel:
        assert kestrel.heard("limits") == [52_428]  # four fifths of 65,536, by the library's own rule
        assert kestrel.heard("telemetry", 2) == [0, 0]
        assert kestrel.heard("attributes") == [0]
        assert records(alder, node_id) == [
            (f"mqtt/@{node_id}/", '[{"temperature":21.5,"ok":true}]'),
            (f"mqtt/@{node_id}/", '[{"ts":1795253400123,"values":{"humidity":44}}]'),
            (f"attributes/@{node_id}/", '{"fw":"2.4.1","model":"K"}'),
        ]
        eventually(lambda: value(alder, node_id, "temp_c"), lambda found: found == 21.5)
        assert value(alder, node_id, "humidity") == 44.0
        eventually(
            lambda: alder.call("GET", f"/api/v1/nodes/{node_id}")["row"]["version"], lambda found: found == "2.4.1"
        )
        asked = {"client": {"fw": "2.4.1", "model": "K"}, "shared": {"name": "kestrel"}}
        assert kestrel.heard("attributes asked") == [asked]
        assert isinstance(kestrel.heard("time")[0], int)
        assert "no method" in kestrel.heard("no such method")[0]["error"]

        change(alder, node_id, "target_version", "2.5")
        assert kestrel.heard("told") == [{"target_version": "2.5"}]
        change(alder, node_id, "target_version", "")
        assert kestrel.heard("told", 2)[1] == {"deleted": ["target_version"]}

        answer = call(alder, node_id, "setGpio", {"pin": 4})
        assert (answer.status_code, answer.json()) == (200, {"answer": {"echo": {"pin": 4}}})
        assert kestrel.heard("called") == [{"method": "setGpio", "params": {"pin": 4}}]
        assert call(alder, node_id, "blink", [1], one_way=True).json() == {"answer": None}

        assert kestrel.heard("claim") == [0]
        assert alder.call("POST", f"/api/v1/nodes/{node_id}/claimed", {"secret": "tern-42"}) == {"done": True}
    told = [event["kind"] for event in alder.events() if event["subject"] == node_id]
    assert told.count("device.called") == told.count("device.call_ended") == 2
    assert "device.claimed" in told
    assert "tern-42" not in str(alder.events()) + alder.said()
    assert call(alder, node_id, "late", None, timeout_ms=1).status_code in (409, 504)


def test_a_gateway_delivers_for_two_devices_behind_it(alder: Site) -> None:
    node_id, token = enrol(alder, "mast-1", gateway=True)
    with client("gateway", alder.mqtt, token) as mast:
        assert mast.heard("telemetry", 2) == [0, 0]
        assert mast.heard("attributes") == [0]
        assert records(alder, node_id) == [
            (f"mqtt/@{node_id}/buoy-1", '[{"ts":1795253400123,"values":{"temperature":4.5}}]'),
            (f"mqtt/@{node_id}/buoy-2", '[{"temperature":5.5}]'),
            (f"attributes/@{node_id}/buoy-1", '{"depth":12}'),
        ]
        assert mast.heard("who am I") == [{"id": 1, "device": "buoy-1", "values": {"name": "buoy-1"}}]
        names = eventually(lambda: {one["name"]: one["id"] for one in alder.nodes()}, lambda found: "buoy-3" in found)
        buoy = names["buoy-1"]
        for name in ("buoy-1", "buoy-2", "buoy-3"):  # the last one is connected and has said nothing yet
            assert alder.call("GET", f"/api/v1/nodes/{names[name]}")["upstream"] == node_id
        (adopted,) = [one["body"] for one in alder.events("node.adopted") if one["subject"] == buoy]
        assert (adopted["actor"], adopted["source"]) == ("gateway mast-1", f"device/@{node_id}/buoy-1")
        assert all(not one["key"].startswith("mqtt/@") for one in alder.call("GET", "/api/v1/sources")["sources"])
        eventually(lambda: value(alder, buoy, "temp_c"), lambda found: found == 4.5)
        eventually(lambda: value(alder, names["buoy-2"], "temp_c"), lambda found: found == 5.5)
        change(alder, buoy, "tags", "sea")
        mast.heard("ready")
        mast.go_on()
        assert mast.heard("client") == [{"id": 2, "device": "buoy-1", "values": {"depth": 12}}]
        (shared,) = mast.heard("shared")
        assert shared == {"id": 3, "device": "buoy-1", "values": {"name": "buoy-1", "tags": ["sea"]}}
        change(alder, buoy, "tags", "sea deep")
        deeper = {"device": "buoy-1", "data": {"tags": ["deep", "sea"]}}
        eventually(lambda: mast.all("told")[-1:], lambda found: found == [deeper])
        answer = call(alder, buoy, "blink", {"n": 2})
        assert (answer.status_code, answer.json()) == (200, {"answer": {"echo": {"n": 2}}})
        (wish,) = mast.heard("called")
        assert wish["device"] == "buoy-1"
        assert call(alder, names["buoy-3"], "blink", {"n": 3}).json() == {"answer": {"echo": {"n": 3}}}
        assert mast.heard("called", 2)[1]["device"] == "buoy-3"


def test_a_newcomer_trades_its_code_over_mqtt_and_its_token_lets_it_in(alder: Site) -> None:
    with client("newcomer", alder.mqtt, code(alder, "merlin")) as merlin:
        (made,) = merlin.heard("credentials")
    assert (made["status"], made["credentialsType"]) == ("SUCCESS", "ACCESS_TOKEN")
    with alder.client() as line:
        assert line.post(f"/api/v1/{made['credentialsValue']}/telemetry", json={"battery": 80}).status_code == 200
    assert "merlin" in [node["name"] for node in alder.nodes()]


def test_a_device_delivers_asks_and_answers_over_http(alder: Site) -> None:
    node_id, token = enrol(alder, "osprey")
    with client("http", alder.http, token) as osprey:
        assert osprey.heard("connected") == [True]
        eventually(lambda: value(alder, node_id, "temp_c"), lambda found: found == 21.5)
        (asked,) = osprey.heard("attributes asked")
        assert asked["client"] == {"fw": "2.4.1"}
        assert asked["shared"]["name"] == "osprey"
        assert isinstance(osprey.heard("time")[0], int)
        osprey.heard("ready")
        answer = eventually(lambda: call(alder, node_id, "blink", {"n": 2}), lambda found: found.status_code == 200)
        assert answer.json()["answer"]["params"] == {"echo": {"n": 2}}
        change(alder, node_id, "target_version", "2.5")
        assert osprey.heard("told") == [{"target_version": "2.5"}]
    assert token not in alder.said()


def test_a_newcomer_trades_its_code_over_http(alder: Site) -> None:
    with client("http_newcomer", alder.http, code(alder, "hobby")) as hobby:
        assert hobby.heard("connected") == [True]


def test_what_a_device_said_of_itself_outlives_a_kill(tmp_path: Path) -> None:
    with island(tmp_path / "alder") as site:
        _, token = enrol(site, "kestrel")
        with site.client() as line:
            for number in range(20):
                assert line.post(f"/api/v1/{token}/attributes", json={"number": number}).status_code == 200
        site.kill()
    with island(tmp_path / "alder") as site, site.client() as line:
        asked = f"/api/v1/{token}/attributes?clientKeys=number"
        assert eventually(lambda: line.get(asked).json()) == {"client": {"number": 19}}


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed here")
def test_curl_delivers_asks_and_waits(alder: Site) -> None:
    node_id, token = enrol(alder, "tern")

    def curl(path: str, *more: str) -> tuple[str, str]:
        url = f"{alder.url}/api/v1/{token}/{path}"
        done = subprocess.run(
            ["curl", "-s", "-w", "\n%{http_code}", *more, url], capture_output=True, text=True, timeout=60, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        return status, body

    json_of = ("-H", "Content-Type: application/json", "-d")
    assert curl("telemetry", *json_of, '{"temperature": 3.5}') == ("200", "")
    assert curl("attributes", *json_of, '{"fw": "1.0"}') == ("200", "")
    status, body = curl("attributes?clientKeys=fw&sharedKeys=name")
    assert (status, json.loads(body)) == ("200", {"client": {"fw": "1.0"}, "shared": {"name": "tern"}})
    assert curl("rpc?timeout=50")[0] == "408"
    assert curl("telemetry", *json_of, "{")[0] == "400"
    assert curl("rpc/9", *json_of, "1")[0] == "404"
    assert records(alder, node_id)[0] == (f"http/@{node_id}/", '{"temperature": 3.5}')


@pytest.mark.skipif(not shutil.which("mosquitto_pub"), reason="mosquitto-clients is not installed here")
def test_a_topic_of_somebody_else_is_refused_and_one_of_its_own_choice_is_not(alder: Site) -> None:
    node_id, token = enrol(alder, "skua")

    def publish(topic: str, body: str) -> subprocess.CompletedProcess[str]:
        command = ["mosquitto_pub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", str(alder.mqtt), "-u", token, "-q", "1"]
        return subprocess.run(
            [*command, "-t", topic, "-m", body], capture_output=True, text=True, timeout=30, check=False
        )

    assert publish("galley/oven", "temp=180 door=shut").stderr == ""
    assert "Not authorized" in publish("v1/devices/kestrel/telemetry", '{"temperature":1}').stderr
    assert "Payload format invalid" in publish("v1/devices/me/telemetry", "{").stderr
    assert records(alder, node_id) == [(f"mqtt/@{node_id}/", "temp=180 door=shut")]
    first, second = eventually(
        lambda: [
            one for one in alder.call("GET", "/api/v1/quarantine")["items"] if one["source"] == f"mqtt/@{node_id}/"
        ],
        lambda found: len(found) == 2,
    )
    assert {first["reason"], second["reason"]} == {"not the device's own", "this is no valid JSON"}
