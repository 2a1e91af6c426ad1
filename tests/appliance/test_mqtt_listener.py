"""MQTT on real sockets: the clients that people have deliver with nothing changed but the address; who comes in is decided by
the connection; what cannot be stored is not acknowledged; whoever stalls or floods is cut off alone."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from appliance.compose import Appliance
from appliance.intake import mqtt_codec as codec
from appliance.intake.device import PROVISION, Device, Turned
from appliance.intake.gate import Gate, Stored
from appliance.intake.mqtt_codec import (
    V5,
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Kind,
    Ping,
    Publish,
    Reason,
    Subscribe,
)
from appliance.intake.mqtt_listener import Endpoint, Peer
from appliance.intake.mqtt_session import Terms
from fleet import limits
from store.certificates import ServerCertificate, ensure_server_certificate
from tests.appliance.mqtt_talk import LEVELS, Api, ack
from tests.appliance.plain_door import OpenDoor
from tests.cast import Site, eventually, eventually_async, island, paho_ends

ALICE = Device("01ALICE", "alice", "cred-a")
QOS = (0, 1, 2)


def found(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


class Door(OpenDoor):
    """Knows Alice by token, password and certificate."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.tell: Callable[[str], None] = lambda credential: None
        self.room: list[float] = []

    async def token(self, token: str, address: str = "") -> Device | Turned:
        self.asked.append(("token", token, address))
        return ALICE if token == "hers" else Turned.UNKNOWN

    async def password(self, user: str, password: str, client_id: str, address: str = "") -> Device | Turned:
        self.asked.append(("password", user, password, client_id))
        return ALICE if (user, password) == ("alice", "secret") else Turned.UNKNOWN

    async def certificate(self, der: bytes, address: str = "") -> Device | Turned:
        name = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        self.asked.append(("certificate", str(name)))
        return ALICE if name == "alice" else Turned.REVOKED

    async def anonymous(self, name: str, address: str) -> Device | Turned:
        self.asked.append(("anonymous", name))
        if name == "broken":
            raise RuntimeError("the registry cannot be read")
        return Turned.MISSING if name == "strict" else await super().anonymous(name, address)

    def allow(self, device: Device, messages: int, size: int) -> float:
        return self.room.pop(0) if self.room else 0.0

    def on_revoked(self, tell: Callable[[str], None]) -> None:
        self.tell = tell


class Raw:
    """A client of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, level: int) -> None:
        self.reader, self.writer, self.level = reader, writer, level

    def say(self, *packets: codec.Packet) -> None:
        self.writer.write(b"".join(codec.encode(packet, self.level) for packet in packets))

    async def hear(self) -> codec.Packet | None:
        """None at the end."""
        try:
            raw = await asyncio.wait_for(self.reader.readexactly(2), 20)
            while (found := codec.head(raw, 0, codec.PACKET_BYTES_MAX)) is None:
                raw += await self.reader.readexactly(1)
            raw += await self.reader.readexactly(found[2] - len(raw))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return codec.decode(raw[0], raw[found[1] :], self.level)

    async def gone(self) -> None:
        while await self.hear() is not None:
            pass


class Harness:
    """An endpoint with Alice's door before alder's gate."""

    def __init__(self, alder: Appliance, gate: Gate | None = None, connections_max: int = 100) -> None:
        self.alder, self.door, self.api = alder, Door(), Api()
        self.gate = gate or alder.gate
        self.endpoint = Endpoint(
            self.gate, self.door, self.api, alder.quarantine.put, terms=Terms(), connections_max=connections_max
        )
        self.port = 0
        self.lines: list[asyncio.StreamWriter] = []

    async def raw(self, level: int = V5, tls: ssl.SSLContext | None = None) -> Raw:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        self.lines.append(writer)
        return Raw(reader, writer, level)

    async def client(self, level: int = V5, client_id: str = "bob", **wishes: Any) -> Raw:
        made = await self.raw(level)
        made.say(Connect(level, client_id, **wishes))
        answer = await made.hear()
        assert isinstance(answer, Connack)
        assert answer.reason == 0
        return made

    def kept(self) -> list[tuple[str, bytes]]:
        return [(record.source, record.content) for record in self.alder.history.after(0, 100_000).records]

    def counted(self, reason: str) -> int:
        return self.gate.tally("mqtt").refused[reason]


@contextlib.asynccontextmanager
async def harness(alder: Appliance, **more: Any) -> AsyncIterator[Harness]:
    made = Harness(alder, **more)
    _, made.port = await made.endpoint.listen("127.0.0.1", 0)
    ticking = asyncio.create_task(made.endpoint.run())
    try:
        yield made
    finally:
        for line in made.lines:
            line.close()
        await made.endpoint.stop()
        ticking.cancel()
        for line in made.lines:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await line.wait_closed()


@pytest.fixture
async def bench(alder: Appliance) -> AsyncIterator[Harness]:
    async with harness(alder) as made:
        yield made


# -- the clients that people have ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("mqtt") / "alder"
    with island(data, environment={"SKERRY_MQTT_TLS_LISTEN": "127.0.0.1:0"}) as made:
        yield made


def tls_port(site: Site) -> int:
    return next(int(line.rpartition(":")[2]) for line in site.said().splitlines() if line.split()[0] == "mqtt-tls")


class Paho:
    """paho as its documentation shows it, with what it was told."""

    def __init__(self, version: int, name: str, transport: str = "tcp") -> None:
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion(version), transport=transport  # type: ignore[arg-type]
        )  # fmt: skip
        self.connected = threading.Event()
        self.codes: list[str] = []
        self.heard: list[tuple[str, bytes, int]] = []
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message

    def _on_connect(self, client: paho.Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self.codes.append(str(code))
        self.connected.set()

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload, message.qos))

    @contextlib.contextmanager
    def at(self, port: int) -> Iterator[paho.Client]:
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        try:
            assert self.connected.wait(20)
            yield self.client
        finally:
            paho_ends(self.client)


@pytest.mark.parametrize("way", ["tcp", "tls", "websockets"])
@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])
def test_paho_delivers_at_every_qos_over_every_way(site: Site, version: int, way: str) -> None:
    name = f"paho-{version}-{way}"
    one = Paho(version, name, "websockets" if way == "websockets" else "tcp")
    if way == "tls":
        one.client.tls_set(str(site.data / "tls" / "ca.pem"))
    port = {"tcp": site.mqtt, "tls": tls_port(site), "websockets": site.http}[way]
    with one.at(port) as client:
        assert one.codes == ["Success"]
        for qos in QOS:
            for number in range(20):
                told = client.publish("v1/devices/me/telemetry", f'{{"qos":{qos},"n":{number}}}', qos)
                assert told.rc == MQTTErrorCode.MQTT_ERR_SUCCESS
                if qos:
                    told.wait_for_publish(20)
                    assert told.is_published()
    source = f"mqtt/127.0.0.1/{name}"
    mine = eventually(lambda: [one for one in site.records() if one["source"] == source], lambda all: len(all) == 60)
    assert [one["raw"] for one in mine] == [f'{{"qos":{qos},"n":{number}}}' for qos in QOS for number in range(20)]


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_s_clients_deliver_and_subscribe(site: Site, version: str) -> None:
    for qos in QOS:
        command = [found("mosquitto_pub"), "-V", version, "-p", str(site.mqtt), "-i", f"mosquitto-{version}"]
        subprocess.run([*command, "-q", str(qos), "-t", "t", "-m", f"qos {qos}"], check=True, timeout=30)
    source = f"mqtt/127.0.0.1/mosquitto-{version}"
    mine = eventually(lambda: [one for one in site.records() if one["source"] == source], lambda all: len(all) == 3)
    assert [one["raw"] for one in mine] == ["qos 0", "qos 1", "qos 2"]
    command = [found("mosquitto_sub"), "-V", version, "-p", str(site.mqtt), "-t", "nothing/+", "-q", "2", "-W", "1"]
    assert subprocess.run(command, timeout=30, check=False, capture_output=True).returncode == 27  # it waited in vain


def test_mosquitto_s_clients_of_mqtt_3_1_are_told_that_it_is_too_old(site: Site) -> None:
    command = [found("mosquitto_pub"), "-V", "mqttv31", "-p", str(site.mqtt), "-t", "t", "-m", "x"]
    said = subprocess.run(command, timeout=30, check=False, capture_output=True, text=True)
    assert "unacceptable protocol version" in said.stderr


def test_the_intake_page_has_its_line(site: Site) -> None:
    lines = {line["intake"]: line for line in site.call("GET", "/intake?format=json")["lines"]}
    assert lines["mqtt"]["address"] == f"127.0.0.1:{site.mqtt}, 127.0.0.1:{tls_port(site)} (TLS)"


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])
async def test_paho_hears_what_is_sent_to_it_at_the_qos_it_asked_for(bench: Harness, version: int) -> None:
    one = Paho(version, "bob")

    def run() -> None:
        with one.at(bench.port) as client:
            for qos in QOS:
                client.subscribe(f"to/{qos}/+", qos)
            eventually(lambda: bench.api.lines and len(bench.endpoint.sessions.held) == 1)
            eventually(lambda: len(next(iter(bench.endpoint.sessions.held.values())).subscriptions) == 3)
            (line,) = bench.api.lines
            for qos in QOS:
                asyncio.run_coroutine_threadsafe(send(line, f"to/{qos}/x", b"%d" % qos), loop).result(20)
            eventually(lambda: len(one.heard) == 3)
            eventually(lambda: not next(iter(bench.endpoint.sessions.held.values())).outgoing)

    async def send(line: Any, topic: str, payload: bytes) -> None:
        assert line.send(topic, payload)

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(run)
    assert one.heard == [(f"to/{qos}/x", b"%d" % qos, qos) for qos in QOS]


# -- who is it ----------------------------------------------------------------------------------------------------


async def test_who_it_is_the_connection_says(bench: Harness) -> None:
    for wishes, asked in (
        ({"user": "hers"}, ("token", "hers", "127.0.0.1")),
        ({"user": "hers", "password": b""}, ("token", "hers", "127.0.0.1")),
        ({"user": "alice", "password": b"secret"}, ("password", "alice", "secret", "bob")),
        ({"password": b"hers"}, ("token", "hers", "127.0.0.1")),
        ({}, ("anonymous", "bob")),
    ):
        line = await bench.client(**wishes)
        line.say(Publish("t", str(asked).encode(), 1, packet_id=1))
        assert await line.hear() == ack(Kind.PUBACK, 1)
        assert bench.door.asked[-1] == asked
    expected = ["mqtt/@01ALICE/"] * 4 + ["mqtt/127.0.0.1/bob"]
    assert [source for source, _ in bench.kept()] == expected


async def test_who_comes_to_be_provisioned_is_let_in_as_that_and_nothing_else(bench: Harness) -> None:
    line = await bench.client(user=PROVISION)
    assert bench.door.asked == []
    (peer,) = bench.endpoint.peers
    assert peer.device == Device("", PROVISION, PROVISION, address="127.0.0.1")
    line.say(Disconnect())
    await line.gone()


@pytest.mark.parametrize("level", LEVELS, ids=["3.1.1", "5"])
async def test_who_is_not_let_in_is_told_in_his_protocol_s_words(bench: Harness, level: int) -> None:
    for wishes, codes, counted in (
        ({"user": "wrong"}, (5, 0x87), "unknown credential"),
        ({"user": "alice", "password": b"wrong"}, (5, 0x87), "unknown credential"),
        ({}, (4, 0x86), "no credential"),
    ):
        before = bench.counted(counted)
        line = await bench.raw(level)
        line.say(Connect(level, "strict", **wishes))
        answer = await line.hear()
        assert isinstance(answer, Connack)
        assert answer.reason == codes[level == V5]
        assert await line.hear() is None
        assert bench.counted(counted) == before + 1


async def test_a_door_that_falls_turns_one_away_and_stands(bench: Harness) -> None:
    line = await bench.raw()
    line.say(Connect(V5, "broken"))
    answer = await line.hear()
    assert isinstance(answer, Connack)
    assert answer.reason == Reason.UNAVAILABLE
    await bench.client()


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])
async def test_paho_understands_the_refusal(bench: Harness, version: int) -> None:
    one = Paho(version, "bob")
    one.client.username_pw_set("wrong")

    def run() -> None:
        with one.at(bench.port):
            pass

    await asyncio.to_thread(run)
    assert one.codes[0] == "Not authorized"


def signed(made: ServerCertificate, name: str, folder: Path) -> tuple[str, str]:
    """A certificate for a device, by the site's authority."""
    ca = x509.load_pem_x509_certificate(made.ca.read_bytes())
    authority = load_pem_private_key(made.ca.with_suffix(".key").read_bytes(), None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder(
            ca.subject, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key()
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=3_650))
        .sign(authority, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(files[0]), str(files[1])


async def test_a_client_certificate_says_who_it_is(bench: Harness, tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path / "ours", ["127.0.0.1"], 0)
    theirs = ensure_server_certificate(tmp_path / "mallory", ["127.0.0.1"], 0)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    server.verify_mode = ssl.CERT_OPTIONAL
    server.load_verify_locations(made.ca)
    _, bench.port = await bench.endpoint.listen("127.0.0.1", 0, server)

    async def comes(*files: str) -> codec.Packet | None:
        device = ssl.create_default_context(cafile=str(made.ca))
        if files:
            device.load_cert_chain(*files)
        line = await bench.raw(tls=device)
        line.say(Connect(V5, "bob"))
        answer = await line.hear()
        if isinstance(answer, Connack) and not answer.reason:
            line.say(Publish("t", b"x", 1, packet_id=1))
            assert await line.hear() == ack(Kind.PUBACK, 1)
        return answer

    answer = await comes(*signed(made, "alice", tmp_path))
    assert isinstance(answer, Connack)
    assert answer.reason == 0
    answer = await comes(*signed(made, "bob", tmp_path))
    assert isinstance(answer, Connack)
    assert answer.reason == Reason.NOT_AUTHORIZED
    with contextlib.suppress(ssl.SSLError):
        assert await comes(*signed(theirs, "mallory", tmp_path)) is None  # TLS itself turns it away
    answer = await comes()
    assert isinstance(answer, Connack)
    assert answer.reason == 0
    assert bench.door.asked == [("certificate", "alice"), ("certificate", "bob"), ("anonymous", "bob")]
    assert [source for source, _ in bench.kept()] == ["mqtt/@01ALICE/", "mqtt/127.0.0.1/bob"]


async def test_a_revoked_credential_ends_its_connections_at_once(bench: Harness) -> None:
    alice, bob = await bench.client(user="hers"), await bench.client(client_id="other")
    bench.door.tell("cred-a")
    last = await alice.hear()
    assert isinstance(last, Disconnect)
    assert last.reason == Reason.NOT_AUTHORIZED
    assert await alice.hear() is None
    bob.say(Ping(Kind.PINGREQ))
    assert await bob.hear() == Ping(Kind.PINGRESP)
    assert [line.device.name for line in bench.api.lines] == ["other"]


async def test_a_client_that_comes_twice_keeps_its_newer_connection(bench: Harness) -> None:
    first, second = await bench.client(), await bench.client()
    last = await first.hear()
    assert isinstance(last, Disconnect)
    assert last.reason == Reason.TAKEN_OVER
    assert await first.hear() is None
    second.say(Ping(Kind.PINGREQ))
    assert await second.hear() == Ping(Kind.PINGRESP)
    assert len(bench.api.lines) == 1


# -- what cannot be stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=["3.1.1", "5"])
async def test_a_full_disk_is_no_acknowledgement_an_end_and_a_closed_door_until_there_is_space(
    alder: Appliance, bench: Harness, level: int
) -> None:
    line = await bench.client(level)
    alder.telemetry.paused = True
    line.say(Publish("t", b"kept by the device", 1, packet_id=1))
    last = await line.hear()
    if level == V5:
        assert isinstance(last, Disconnect)
        assert last.reason == Reason.QUOTA
        last = await line.hear()
    assert last is None
    again = await bench.raw(level)
    again.say(Connect(level, "bob"))
    answer = await again.hear()
    assert isinstance(answer, Connack)
    assert answer.reason == (3 if level == V311 else Reason.UNAVAILABLE)
    assert await again.hear() is None
    alder.telemetry.paused = False
    await eventually_async(lambda: asyncio.sleep(0, alder.gate.fault is None))
    line = await bench.client(level)
    line.say(Publish("t", b"kept by the device", 1, packet_id=1, dup=True))
    assert await line.hear() == ack(Kind.PUBACK, 1)
    assert [raw for source, raw in bench.kept() if source.startswith("mqtt/")] == [b"kept by the device"]


async def test_a_full_gate_stops_the_reading_and_everything_is_acknowledged_in_the_end(alder: Appliance) -> None:
    gate = Gate(records_max=10)
    async with harness(alder, gate=gate) as bench:
        line = await bench.client()
        for number in range(1, 8):
            line.say(Publish("t", b"%d" % number, 1, packet_id=number))
            await eventually_async(lambda wanted=number: asyncio.sleep(0, gate.records == wanted))  # type: ignore[misc]
        line.say(*(Publish("t", b"%d" % number, 1, packet_id=number) for number in range(8, 14)))
        peer = next(iter(bench.endpoint.peers))
        await eventually_async(lambda: asyncio.sleep(0, bool(peer._held)))
        assert gate.records < 10
        line.say(Ping(Kind.PINGREQ))
        stored: list[bytes] = []

        def store() -> int:
            for entry in gate.take(0.0):
                stored.extend(offer.raw for offer in entry.offers)
                assert entry.done is not None
                entry.done(Stored(len(stored), len(stored)))
            return len(stored)

        await eventually_async(lambda: asyncio.to_thread(store), lambda found: found == 13)
        heard = [await line.hear() for _ in range(14)]
        assert Ping(Kind.PINGRESP) in heard
        assert [one.packet_id for one in heard if isinstance(one, Ack)] == list(range(1, 14))
        assert stored == [b"%d" % number for number in range(1, 14)]
        assert bench.counted("gate full") == 0


async def test_a_full_gate_and_an_empty_bucket_at_once_lose_nothing(alder: Appliance) -> None:
    gate = Gate(records_max=3)
    async with harness(alder, gate=gate) as bench:
        line = await bench.client()
        line.say(*(Publish("t", b"%d" % number, 1, packet_id=number) for number in (1, 2)))
        await eventually_async(lambda: asyncio.sleep(0, gate.records == 2))
        bench.door.room = [0.05, 0.0, 0.0, 0.05, 0.05, 0.0, 0.05]  # two of five fit, then one, then the rest
        line.say(*(Publish("t", b"%d" % number, 1, packet_id=number) for number in range(3, 8)))
        await eventually_async(lambda: asyncio.sleep(0, len(bench.endpoint.waiting)))
        await asyncio.sleep(0.2)  # the bucket has room again long before the gate has
        assert gate.records == 2
        stored: list[bytes] = []

        def store() -> list[bytes]:
            for entry in gate.take(0.0):
                stored.extend(offer.raw for offer in entry.offers)
                assert entry.done is not None
                entry.done(Stored(1, 1))
            return stored

        await eventually_async(lambda: asyncio.to_thread(store), lambda found: len(found) >= 7)
        assert [await line.hear() for _ in range(7)] == [ack(Kind.PUBACK, number) for number in range(1, 8)]
        assert stored == [b"%d" % number for number in range(1, 8)]


async def test_an_empty_bucket_slows_one_down_and_nobody_else(bench: Harness) -> None:
    slow, other = await bench.client(client_id="slow"), await bench.client(client_id="other")
    bench.door.room = [0.3]
    slow.say(Publish("t", b"late", 1, packet_id=1), Ping(Kind.PINGREQ))
    await eventually_async(lambda: asyncio.sleep(0, not bench.door.room))
    other.say(Ping(Kind.PINGREQ))
    assert await other.hear() == Ping(Kind.PINGRESP)
    assert {type(await slow.hear()), type(await slow.hear())} == {Ack, Ping}
    assert [raw for _, raw in bench.kept()] == [b"late"]


# -- who misbehaves -----------------------------------------------------------------------------------------------


async def test_who_sends_no_packets_is_cut_off_alone_counted_and_kept_apart(alder: Appliance, bench: Harness) -> None:
    good = await bench.client(client_id="good")
    bad = await bench.client(client_id="bad")
    bad.say(Publish("t", b"still good", 1, packet_id=1))
    bad.writer.write(b"\x36\x05\x00\x01tx\x00")
    heard = [await bad.hear() for _ in range(3)]
    last = next(one for one in heard if isinstance(one, Disconnect))
    assert last.reason == Reason.MALFORMED
    scan = await bench.raw()
    scan.writer.write(b"GET / HTTP/1.1\r\nHost: alder\r\n\r\n")
    assert await scan.hear() is None
    good.say(Ping(Kind.PINGREQ))
    assert await good.hear() == Ping(Kind.PINGRESP)
    await eventually_async(lambda: asyncio.sleep(0, len(bench.kept())))
    assert [raw for _, raw in bench.kept()] == [b"still good"]
    assert bench.counted("malformed packet") == 1
    assert bench.counted("protocol error") == 1  # what is no CONNECT is no data, and kept nowhere
    await alder.quarantine.flush()
    items = alder.quarantine
    assert items.put_count == 1


async def test_a_device_that_does_not_read_is_cut_off_and_the_others_hear(bench: Harness) -> None:
    deaf, good = await bench.client(client_id="deaf"), await bench.client(client_id="good")
    for line in (deaf, good):
        line.say(Subscribe(1, (Filter("t"),)))
        await line.hear()
    peer = next(line for line in bench.api.lines if line.device.name == "deaf")
    assert isinstance(peer, Peer)
    payload, sent = b"x" * 60_000, 0
    while peer.send("t", payload):
        sent += 1
        assert sent < 10_000
    assert bench.counted("does not read") == 1
    assert [line.device.name for line in bench.api.lines] == ["good"]
    assert bench.api.lines[0].send("t", b"y")
    assert await good.hear() == Publish("t", b"y")
    assert peer not in bench.endpoint.peers
    assert not peer.send("t", b"late")


async def test_a_device_that_never_reads_again_is_cut_off_after_a_while(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "mqtt_unread_seconds_max", 0)
    deaf = await bench.client(client_id="deaf")
    deaf.say(Subscribe(1, (Filter("t"),)))
    await deaf.hear()
    (peer,) = bench.endpoint.peers
    while not peer.unread_ns:
        peer.send("t", b"x" * 20_000)
        await asyncio.sleep(0)
    await eventually_async(lambda: asyncio.sleep(0, bench.counted("does not read")))
    assert bench.endpoint.peers == set()


async def test_one_connection_too_many_is_closed_and_counted(alder: Appliance) -> None:
    async with harness(alder, connections_max=2) as bench:
        first = await bench.client(client_id="a")
        await bench.client(client_id="b")
        late = await bench.raw()
        assert await late.hear() is None
        assert bench.counted("too many connections") == 1
        first.say(Disconnect())
        await first.gone()
        await bench.client(client_id="c")


async def test_packets_begun_are_bounded_over_all_connections(bench: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "mqtt_partial_bytes_max", 150_000)
    lines = [await bench.client(client_id=f"drone-{number}") for number in range(3)]
    whole = codec.encode(Publish("t", b"x" * 60_000, 1, packet_id=1), V5)
    for line in lines:
        line.writer.write(whole[:-1])
        await line.writer.drain()
    await eventually_async(lambda: asyncio.sleep(0, bench.counted("too many packets begun")))
    survivors = len(bench.endpoint.peers)
    assert survivors == 2
    for line in lines:
        line.writer.write(whole[-1:])
    await eventually_async(lambda: asyncio.sleep(0, len(bench.kept())), lambda found: found == 2)
    assert bench.endpoint.partial_bytes == 0


async def test_a_will_is_stored_when_the_line_breaks(bench: Harness) -> None:
    line = await bench.client(will=codec.Will("last", b"gone"))
    line.writer.transport.abort()
    await eventually_async(lambda: asyncio.sleep(0, bench.kept()))
    assert bench.kept() == [("mqtt/127.0.0.1/bob", b"gone")]
    assert bench.api.lines == []


async def test_a_stop_tells_the_clients(bench: Harness) -> None:
    line = await bench.client()
    await bench.endpoint.stop()
    last = await line.hear()
    assert isinstance(last, Disconnect)
    assert last.reason == Reason.SHUTTING_DOWN
    assert await line.hear() is None
