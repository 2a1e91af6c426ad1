"""A device that goes away and comes back to its session: what was wanted and asked of it meanwhile reaches it then. paho of
both versions as the device, the real appliance, a person at the API.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.cast import Site, eventually, island, paho_ends

pytestmark = [
    pytest.mark.timeout(120),
    # paho makes a second pair of sockets for its second loop and leaves the first to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = "v1/devices/me/"


@pytest.fixture(scope="module")
def alder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with island(tmp_path_factory.mktemp("back") / "alder") as site:
        yield site


class Device:
    """A device with a session that stays, unless `stays` is False."""

    def __init__(self, site: Site, name: str, version: int, *, stays: bool = True) -> None:
        made = site.call("POST", "/api/v1/devices", {"name": name, "why": "a test"})
        self.node_id, self.site, self.version = str(made["node_id"]), site, version
        self.heard: list[tuple[str, Any]] = []
        self.present: list[bool] = []
        self.up = threading.Event()
        old = {"clean_session": not stays} if version == paho.MQTTv311 else {}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=version, **old)
        self.client.username_pw_set(made["secret"])
        self.client.on_connect = self._connected
        self.client.on_message = self._message
        self.client.on_subscribe = lambda *_: self.up.set()

    def _connected(self, client: paho.Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self.present.append(flags.session_present)
        if flags.session_present:
            self.up.set()
        else:
            client.subscribe([(ROOT + "attributes", 1), (ROOT + "rpc/request/+", 1)])

    def _message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        topic = message.topic.removeprefix(ROOT)
        self.heard.append((topic, json.loads(message.payload)))
        if topic.startswith("rpc/request/"):
            client.publish(f"{ROOT}rpc/response/{topic.rpartition('/')[2]}", '{"done": true}', qos=1)

    def comes(self) -> None:
        self.up.clear()
        more: dict[str, Any] = {}
        if self.version == paho.MQTTv5:
            stays = Properties(PacketTypes.CONNECT)
            stays.SessionExpiryInterval = 600
            more = {"clean_start": False, "properties": stays}
        self.client.connect("127.0.0.1", self.site.mqtt, **more)
        self.client.loop_start()
        assert self.up.wait(20)

    def goes(self) -> None:
        paho_ends(self.client)
        eventually(lambda: not self.is_connected())

    def is_connected(self) -> bool:
        device = self.site.call("GET", f"/api/v1/nodes/{self.node_id}")["device"]
        return bool(device and device["connected"])


def change(site: Site, node_id: str, field: str, text: str) -> None:
    site.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": field, "value": text})


def call(site: Site, token: str, node_id: str, **more: object) -> httpx2.Response:
    with site.client(token) as line:
        return line.post(f"/api/v1/nodes/{node_id}/rpc", json={"method": "blink", "params": 1, **more})


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5"])
def test_what_was_wanted_and_asked_meanwhile_reaches_it_at_its_return(alder: Site, version: int) -> None:
    drone, token = Device(alder, f"drone-{version}", version), alder.token(f"olga-{version}", "operator")
    drone.comes()
    change(alder, drone.node_id, "target_version", "2.4")
    eventually(lambda: drone.heard, lambda heard: heard == [("attributes", {"target_version": "2.4"})])
    drone.goes()

    late = call(alder, token, drone.node_id, timeout_ms=300)
    assert (late.status_code, "was not connected" in late.json()["error"]) == (504, True)
    for number in (5, 6, 7):
        change(alder, drone.node_id, "target_version", f"2.{number}")
    change(alder, drone.node_id, "tags", "scout")
    with ThreadPoolExecutor(2) as people:
        asked = people.submit(call, alder, token, drone.node_id, timeout_ms=30_000)
        told = people.submit(call, alder, token, drone.node_id, timeout_ms=30_000, one_way=True)
        eventually(lambda: gauge(alder, "calls"), lambda count: count == 2)
        drone.comes()
        assert (asked.result().status_code, asked.result().json()) == (200, {"answer": {"done": True}})
        assert (told.result().status_code, told.result().json()) == (200, {"answer": None})
    assert drone.present == [False, True]
    heard = eventually(lambda: drone.heard[1:], lambda found: len(found) >= 3)
    assert [one for one in heard if one[0] == "attributes"] == [
        ("attributes", {"tags": ["scout"], "target_version": "2.7"})
    ], "the latest, once"
    wish = {"method": "blink", "params": 1}
    assert [body for topic, body in heard if topic.startswith("rpc/")] == [wish, wish], (
        "the late one is not sent any more"
    )
    drone.goes()


def gauge(site: Site, what: str) -> float:
    with site.client(site.token(f"p-{len(site.events())}")) as line:
        text = line.get("/metrics").text
    return next(float(row.split()[-1]) for row in text.splitlines() if f'skerry_device_api{{what="{what}"}}' in row)


def test_who_keeps_no_session_is_not_waited_for(alder: Site) -> None:
    drone = Device(alder, "kestrel", paho.MQTTv311, stays=False)
    drone.comes()
    drone.goes()
    eventually(
        lambda: (
            call(
                alder, alder.token(f"olga-{len(alder.events())}", "operator"), drone.node_id, timeout_ms=100
            ).status_code
        ),
        lambda status: status == 409,
        seconds=40,
    )


def test_a_restart_is_told_to_the_device_which_begins_anew(tmp_path: Path) -> None:
    with island(tmp_path / "alder") as site:
        drone = Device(site, "drone-1", paho.MQTTv311)
        drone.comes()
        drone.goes()
        assert site.stop() == 0
    with island(tmp_path / "alder") as site:
        drone.site = site
        drone.comes()
        assert drone.present == [False, False]
        change(site, drone.node_id, "target_version", "2.4")
        eventually(lambda: drone.heard, lambda heard: heard == [("attributes", {"target_version": "2.4"})])
        drone.goes()
