"""Mosquitto's own bridge, pointed at an appliance as at any other broker: what its clients publish is here once."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from bench.island import free_port
from tests.cast import Site, eventually, island, paho_ends
from tests.mosquitto import Mosquitto, needs_mosquitto

pytestmark = needs_mosquitto

EACH = 200


def publish(broker: Mosquitto, first: int) -> None:
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    sent = [
        client.publish("sensors/kestrel/telemetry", b'{"n":%d}' % number, qos=1)
        for number in range(first, first + EACH)
    ]
    for one in sent:
        one.wait_for_publish(30)
    paho_ends(client)


def heard(site: Site) -> Counter[str]:
    return Counter(one["raw"] for one in site.records() if '{"n":' in (one["raw"] or ""))


@pytest.mark.parametrize(("version", "private"), [("mqttv311", "true"), ("mqttv50", "false")])
def test_what_its_clients_publish_is_here_once_also_after_the_appliance_was_away(
    tmp_path: Path, version: str, private: str
) -> None:
    port = free_port()

    def running() -> AbstractContextManager[Site]:
        return island(tmp_path / "alder", "--mqtt", f"127.0.0.1:{port}")

    with running() as site:
        body = {"name": "mosquitto-of-the-plant", "gateway": True, "why": "the plant has a broker"}
        token = site.call("POST", "/api/v1/devices", body)["secret"]
    broker = Mosquitto(
        tmp_path / "mosquitto",
        "connection alder",
        f"address 127.0.0.1:{port}",
        "topic +/telemetry out 1 sensors/ v1/devices/",
        f"remote_username {token}",  # a gateway: it speaks for others
        f"bridge_protocol_version {version}",
        f"try_private {private}",  # it asks whether the other side is a Mosquitto, and does without
        "cleansession false",
        "restart_timeout 1",
        "max_inflight_messages 1",  # then what was under way when somebody fell is repeated, and nothing else
    )
    try:
        with running() as site:
            eventually(broker.said, lambda said: "Received CONNACK on connection local." in said)
            publish(broker, 0)
            found = eventually(lambda: heard(site), lambda found: len(found) == EACH)
            assert {one["source"].rpartition("/")[2] for one in site.records()} >= {"kestrel"}
        publish(broker, EACH)  # nobody is there
        with running() as site:
            found = eventually(lambda: heard(site), lambda found: len(found) == 2 * EACH)
    finally:
        broker.stop()
    assert set(found) == {f'{{"n":{number}}}' for number in range(2 * EACH)}
    assert sum(found.values()) <= 2 * EACH + 1
