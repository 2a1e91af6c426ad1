"""Nothing that a broker acknowledged to a device is lost on its way here, whoever falls in between."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.cast import Site, eventually, island, paho_ends
from tests.mosquitto import Mosquitto, needs_mosquitto

pytestmark = needs_mosquitto

KILLS = 2  # of each
MESSAGES_EACH = 150


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path / "mosquitto")
    yield made
    made.stop()


class Publisher:
    """A device that publishes with QoS 1 until it is stopped, and notes what the broker acknowledged."""

    def __init__(self, broker: Mosquitto) -> None:
        self.sent = 0
        self._acknowledged: set[int] = set()
        self._names: dict[int, str] = {}
        self._stop, self._going = threading.Event(), threading.Event()
        self._going.set()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="kestrel", clean_session=False)
        self._client.on_publish = lambda client, data, mid, code, properties: self._acknowledged.add(mid)
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(10)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> set[str]:
        """It may be told of an acknowledgement before of the number that the message got."""
        return {self._names[mid] for mid in tuple(self._acknowledged) if mid in self._names}

    def _run(self) -> None:
        while not self._stop.is_set():
            self._going.wait()
            self.sent += 1
            name = f"k-{self.sent}"
            message = self._client.publish("sensors/kestrel/telemetry", f'{{"mid":"{name}"}}', qos=1)
            self._names[message.mid] = name
            time.sleep(0.002)
            while self.sent - len(self._acknowledged) > 50 and not self._stop.is_set():
                time.sleep(0.01)

    def rest(self) -> None:
        """Everything sent is acknowledged, and nothing more is sent."""
        self._going.clear()
        eventually(lambda: len(self.acknowledged) == self.sent, seconds=60)

    def go_on(self) -> None:
        self._going.set()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        paho_ends(self._client)


def test_a_broker_and_an_appliance_that_are_killed_in_turn_lose_and_double_nothing(
    tmp_path: Path, broker: Mosquitto
) -> None:
    config = tmp_path / "skerry.toml"
    config.write_text(
        f'[[bridge]]\nname = "plant"\nurl = "mqtt://127.0.0.1:{broker.port}"\ntopics = ["sensors/{{node}}/telemetry"]\n'
    )

    def running() -> AbstractContextManager[Site]:
        return island(tmp_path / "alder", "--config", str(config))

    with running() as site:  # the session is there from the first time on
        eventually(lambda: state_of(site), lambda state: state == "connected")
    device = Publisher(broker)

    def more() -> None:
        before = len(device.acknowledged)
        eventually(lambda: len(device.acknowledged) >= before + MESSAGES_EACH, seconds=60)

    def fall() -> None:
        device.rest()
        broker.save()
        broker.kill()
        broker.start()
        device.go_on()

    for _ in range(KILLS):
        with running() as site:
            more()
            site.kill()
        more()  # nobody is there to take it
        fall()
        with running() as site:
            more()
            fall()
            more()
            site.kill()
    device.rest()
    device.stop()
    with running() as site:

        def missing() -> set[str]:
            return device.acknowledged - {name(one["raw"]) for one in site.records()}

        eventually(missing, lambda found: not found, seconds=60)
        came = Counter(name(one["raw"]) for one in site.records() if one["source"].startswith("bridge/"))
    assert not set(came) - {f"k-{number}" for number in range(1, device.sent + 1)}
    doubled = {one: times for one, times in came.items() if times > 1}
    assert not doubled


def name(raw: str | None) -> str:
    return (raw or "").removeprefix('{"mid":"').removesuffix('"}')


def state_of(site: Site) -> str:
    lines = site.call("GET", "/intake?format=json")["lines"]
    return str(next(one["state"] for one in lines if one["intake"] == "bridge-plant"))
