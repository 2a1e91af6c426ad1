"""An appliance that subscribes to a real Mosquitto: what is published there is here once, and acknowledged when it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from appliance.compose import Appliance
from appliance.config import Bridge
from fleet.node import Kind
from fleet.people import Identity, Role
from store.frames import Record
from tests.cast import eventually_async, paho_ends
from tests.conftest import ALDER
from tests.mosquitto import Mosquitto, needs_mosquitto

pytestmark = needs_mosquitto

T = TypeVar("T")
ALICE = Identity(name="alice", role=Role.ADMIN)
SECRET = "correct horse battery"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path / "mosquitto")
    yield made
    made.stop()


def plant(broker: Mosquitto, **more: object) -> Bridge:
    values = {"name": "plant", "url": f"mqtt://127.0.0.1:{broker.port}", "topics": ("sensors/{node}/telemetry",)}
    return Bridge(**{**values, **more})  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def site(folder: Path, *bridges: Bridge) -> AsyncIterator[Appliance]:
    box = Appliance(folder, msgspec.structs.replace(ALDER, bridge=bridges))
    await box.start()
    try:
        yield box
    finally:
        await box.stop()


async def until(look: Callable[[], T], good: Callable[[T], bool] = bool) -> T:
    async def looking() -> T:
        return look()

    return await eventually_async(looking, good)


async def connected(box: Appliance, connections: int = 1) -> None:
    """Subscribed too."""
    await until(lambda: box.bridges[0].connections >= connections)
    await until(lambda: box.lines["bridge-plant"].state, lambda state: state == "connected")


def publish(broker: Mosquitto, *payloads: bytes, topic: str = "sensors/kestrel/telemetry", **options: object) -> None:
    """With QoS 1; returns when the broker has acknowledged them all."""
    client = Client(CallbackAPIVersion.VERSION2)
    if "user" in options:
        client.username_pw_set("device", SECRET)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    sent = [client.publish(topic, one, qos=1, retain=bool(options.get("retain"))) for one in payloads]
    for one in sent:
        one.wait_for_publish(20)
    paho_ends(client)


def kept(box: Appliance) -> list[Record]:
    return [one for one in box.history.after(0, 10_000).records if one.source.startswith("bridge/")]


async def arrived(box: Appliance, count: int) -> list[Record]:
    return await until(lambda: kept(box), lambda found: len(found) >= count)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_what_is_published_is_a_record_of_its_node_and_acknowledged(
    tmp_path: Path, broker: Mosquitto, version: str
) -> None:
    async with site(tmp_path / "alder", plant(broker, version=version)) as box:
        await connected(box)
        publish(broker, b'{"battery":71}', b"battery=70")
        found = await arrived(box, 2)
        assert {one.source for one in found} == {"bridge/plant/kestrel"}
        assert [one.content for one in found] == [b'{"battery":71}', b"battery=70"]
        node_id = await box.box.adopt(ALICE, "bridge/plant/kestrel", "kestrel", Kind.EDGE, ())
        assert box.world.nodes[node_id].snapshot.values["battery_pct"].value == 70
        await until(lambda: box.bridges[0].unacknowledged, lambda count: count == 0)
        line = next(one for one in (await box.box.intake(ALICE)).lines if one.intake == "bridge-plant")
        assert (line.records, line.state, line.problem) == (2, "connected", None)
        assert line.durable_s_p99 is not None
        assert "skerry_bridge_up" in {one.name for one in await box.box.gauges()}
    assert broker.said().count("Received PUBACK from skerry-") == 2


async def test_what_comes_while_the_site_is_off_is_there_afterwards_once_and_in_order(
    tmp_path: Path, broker: Mosquitto
) -> None:
    said = [b'{"n":%d}' % number for number in range(500)]
    async with site(tmp_path / "alder", plant(broker)) as box:
        await connected(box)
        publish(broker, *said[:100])
        await arrived(box, 100)
    publish(broker, *said[100:400])
    async with site(tmp_path / "alder", plant(broker)) as box:
        await connected(box)
        publish(broker, *said[400:])
        await arrived(box, 500)
        assert [one.content for one in kept(box)] == said
        assert box.bridges[0].repeated == 0


async def test_while_the_gate_is_full_nothing_is_acknowledged_and_the_broker_keeps_it(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with site(tmp_path / "alder", plant(broker)) as box:
        await connected(box)
        box.gate.records_max = 0
        publish(broker, *(b"%d" % number for number in range(40)))
        await until(lambda: box.lines["bridge-plant"].state, lambda state: "gate full" in state)
        assert kept(box) == []
        assert "Received PUBACK from skerry-" not in broker.said()
        box.gate.records_max = 1_000
        assert [one.content for one in await arrived(box, 40)] == [b"%d" % number for number in range(40)]
        assert not +box.gate.tally("bridge-plant").refused


async def test_what_the_disk_refused_is_asked_for_again(tmp_path: Path, broker: Mosquitto) -> None:
    async with site(tmp_path / "alder", plant(broker)) as box:
        await connected(box)
        box.telemetry.paused = True
        publish(broker, b"1", b"2", b"3")
        await until(lambda: box.gate.fault)
        box.telemetry.paused = False
        assert [one.content for one in await arrived(box, 3)] == [b"1", b"2", b"3"]
        await until(lambda: broker.said().count("Received PUBACK from skerry-"), lambda count: count == 3)
        assert len(kept(box)) == 3


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_what_is_retained_comes_once_and_is_no_sign_of_life(
    tmp_path: Path, broker: Mosquitto, version: str
) -> None:
    publish(broker, b'{"battery":50}', retain=True)
    async with site(tmp_path / "alder", plant(broker, version=version)) as box:
        (one,) = await arrived(box, 1)
        assert "retained" in one.marks
        node_id = await box.box.adopt(ALICE, "bridge/plant/kestrel", "kestrel", Kind.EDGE, ())
    more = plant(broker, version=version, topics=("sensors/{node}/telemetry", "other/{node}"))
    async with site(tmp_path / "alder", more) as box:  # a new subscription: in 3.1.1 the broker sends it once more
        await connected(box)
        publish(broker, b"after it", topic="other/merlin")
        await arrived(box, 2)
        assert [one.content for one in kept(box)] == [b'{"battery":50}', b"after it"]
        assert box.bridges[0].repeated == (version == "3.1.1")
        assert box.world.nodes[node_id].snapshot.values["battery_pct"].value == 50
        assert box.world.nodes[node_id].standing.mode is None


async def test_topics_that_are_not_wanted_any_more_are_let_go(tmp_path: Path, broker: Mosquitto) -> None:
    async with site(tmp_path / "alder", plant(broker)) as box:
        await connected(box)
    async with site(tmp_path / "alder", plant(broker, topics=("other/{node}",))) as box:
        await connected(box)
        publish(broker, b"1")
        publish(broker, b"2", topic="other/merlin")
        await arrived(box, 1)
        assert [one.source for one in kept(box)] == ["bridge/plant/merlin"]


async def test_what_names_no_node_or_is_too_long_is_in_quarantine_and_stops_nothing(
    tmp_path: Path, broker: Mosquitto
) -> None:
    bridge = plant(broker, topics=("lines/+",), node_key="serial")
    async with site(tmp_path / "alder", bridge) as box:
        await connected(box)
        publish(broker, b"who?", b'{"serial":"k","x":"%b"}' % (b"x" * 70_000), b'{"serial":"k"}', topic="lines/4")
        (one,) = await arrived(box, 1)
        assert one.content == b'{"serial":"k"}'
        held = await eventually_async(
            lambda: box.box.quarantine(ALICE, 0, 10, settled=False), lambda items: len(items) == 2
        )
        assert {one.reason for one in held} == {"names no node", "longer than a record may be"}
        assert sum(box.gate.tally("bridge-plant").refused.values()) == 2
        await until(lambda: broker.said().count("Received PUBACK from skerry-"), lambda count: count == 3)


async def test_a_wrong_password_is_said_and_a_new_one_counts_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passwords, secret = tmp_path / "passwords", tmp_path / "plant.password"
    secret.write_text("wrong\n")
    process = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", "-c", str(passwords), "device", SECRET)
    assert await process.wait() == 0
    passwords.chmod(0o644)
    broker = Mosquitto(tmp_path / "mosquitto", f"password_file {passwords}", anonymous=False)
    try:
        bridge = plant(broker, user="device", password_file=str(secret))
        async with site(tmp_path / "alder", bridge) as box:
            said = await until(lambda: box.lines["bridge-plant"].problem)
            assert said is not None
            assert "the broker refuses: Not authorized" in said
            secret.write_text(f"{SECRET}\n")
            await connected(box)
            publish(broker, b"1", user="device")
            await arrived(box, 1)
            shown = json.dumps(msgspec.to_builtins(await box.box.intake(ALICE)))
            assert SECRET not in shown + caplog.text
    finally:
        broker.stop()


async def test_a_broker_that_is_away_is_asked_again_until_it_is_there(tmp_path: Path, broker: Mosquitto) -> None:
    async with site(tmp_path / "alder", plant(broker)) as box:
        await connected(box)
        broker.kill()
        said = await until(lambda: box.lines["bridge-plant"].problem)
        assert said is not None
        assert "again in" in said
        assert (await box.box.health()).ready  # a broker that is away is no fault of this box
        broker.start()
        await connected(box, 2)
        publish(broker, b"1")
        await arrived(box, 1)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # paho leaves a failed socket to the collector
async def test_over_tls_the_broker_is_who_its_certificate_says(tmp_path: Path) -> None:
    ca, key, folder = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "mosquitto"
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", str(key), "-out", str(ca), "-days", "2", "-subj", "/CN=plant"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    broker = Mosquitto(folder, f"certfile {ca}", f"keyfile {key}")
    url = f"mqtts://127.0.0.1:{broker.port}"
    try:
        async with site(tmp_path / "birch", plant(broker, url=url)) as box:
            said = await until(lambda: box.lines["bridge-plant"].problem)
            assert said is not None
            assert "certificate verify failed" in said
        async with site(tmp_path / "alder", plant(broker, url=url, ca_file=str(ca))) as box:
            await connected(box)
            client = Client(CallbackAPIVersion.VERSION2)
            client.tls_set(str(ca))
            client.connect("127.0.0.1", broker.port)
            client.loop_start()
            for number in range(300):  # more than one read of the line holds
                client.publish("sensors/kestrel/telemetry", b"%d" % number, qos=1)
            await arrived(box, 300)
            paho_ends(client)
    finally:
        broker.stop()
