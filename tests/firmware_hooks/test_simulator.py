"""What the simulated fleet promises: the same world for the same seed, and real messages from real addresses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import importlib.util
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from appliance.intake import http, mqtt_codec, payload, syslog
from fleet.reading import Reading

SCRIPT = Path(__file__).parents[2] / "firmware-hooks" / "simulator.py"
START_NS = 1_795_253_400_123_000_000
SEED = 7


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("skerry_simulator", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulator: Any = load()


def world(seed: int = SEED, count: int = 25, **more: Any) -> Any:
    return simulator.World(seed, START_NS, simulator.fleet(seed, count), **more)


def drones(of: Any) -> Any:
    return [device for device in of.devices if device.role is simulator.Role.DRONE]


def bodies(of: Any, seconds: range) -> list[bytes]:
    return [body for second in seconds for packet in of.messages(second) for body in packet.bodies]


# -- the world ---------------------------------------------------------------------------------------------------


def test_the_same_seed_says_the_same_bytes() -> None:
    assert bodies(world(), range(60)) == bodies(world(), range(60))


def test_any_second_can_be_asked_for_without_the_ones_before() -> None:
    one = world()
    assert [one.messages(second) for second in (90, 3, 41)] == [world().messages(second) for second in (90, 3, 41)]


def test_another_seed_is_another_world() -> None:
    assert bodies(world(), range(5)) != bodies(world(seed=8), range(5))
    assert simulator.fleet(SEED, 25)[0].serial != simulator.fleet(8, 25)[0].serial


def test_a_site_has_14_drones_6_laptops_and_5_stations() -> None:
    fleet = simulator.fleet(SEED, 25)
    assert Counter(device.role for device in fleet) == {"drone": 14, "laptop": 6, "fts": 5}
    assert [fleet[0].name, fleet[13].name, fleet[14].name, fleet[24].name] == [
        "drone-01",
        "drone-14",
        "laptop-01",
        "fts-05",
    ]


def test_a_large_fleet_repeats_the_pattern_and_keeps_every_identity_apart() -> None:
    fleet = simulator.fleet(SEED, 5000)
    assert Counter(device.role for device in fleet) == {"drone": 2800, "laptop": 1200, "fts": 1000}
    for of in ("name", "address", "serial"):
        assert len({getattr(device, of) for device in fleet}) == 5000
    assert fleet[:25] == simulator.fleet(SEED, 25)


def test_every_message_has_an_id_of_its_own() -> None:
    mids = [mid for second in range(120) for packet in world().messages(second) for mid in packet.mids]
    assert len(mids) == len(set(mids)) > 2500
    assert all(re.fullmatch(r"(drone|laptop|fts)-\d\d-\d+", mid) for mid in mids)


def test_all_speak_in_the_first_second() -> None:
    assert len({packet.device.name for packet in world().messages(0)}) == 25
    assert len(world(count=1000).messages(0)) == 1000


def test_a_flight_has_its_phases_in_order() -> None:
    order = [str(phase) for phase in simulator.Phase]
    one = world()
    for drone in drones(one):
        phases = [str(one.state(drone, second).phase) for second in range(1200)]
        turns = [phase for before, phase in itertools.pairwise(phases) if phase != before]
        first = order.index(turns[0])
        assert turns == [order[(first + step) % len(order)] for step in range(len(turns))]
        assert set(turns) == set(order)


def test_a_battery_drains_in_flight_and_is_charged_on_the_ground() -> None:
    one = world()
    for drone in drones(one):
        states = [one.state(drone, second) for second in range(1200)]
        levels = [state.metrics["battery_pct"] for state in states]
        assert 0 < min(levels) < 65 < max(levels) <= 100
        for before, after in itertools.pairwise(states):
            gain = after.metrics["battery_pct"] - before.metrics["battery_pct"]
            if before.phase == after.phase == simulator.Phase.TRACK:
                assert gain <= 0
            if before.phase == after.phase == simulator.Phase.REST:
                assert gain >= 0


def test_a_drone_flies_a_smooth_loop_and_lands_where_it_took_off() -> None:
    one = world()
    for drone in drones(one):
        states = [one.state(drone, second) for second in range(700)]
        pads = {
            (round(state.lat, 6), round(state.lon, 6)) for state in states if state.phase is not simulator.Phase.TRACK
        }
        assert len(pads) == 1
        assert all(state.rel_alt_m == 0 for state in states if state.phase is simulator.Phase.REST)
        assert max(state.rel_alt_m for state in states) > 30
        assert max(abs(speed) for state in states for speed in state.velocity) < 40
        assert all(abs(state.lat - 58.35) < 0.03 and abs(state.lon - 11.25) < 0.05 for state in states)


def test_uplinks_drop_for_20_to_60_seconds_and_come_back() -> None:
    one = world()
    lengths = []
    for device in one.devices:
        runs = itertools.groupby(range(1500), functools.partial(one.silent, device))
        silences = [list(run) for silent, run in runs if silent]
        lengths += [len(silence) for silence in silences]
        assert all(one.packet(device, second) is None for silence in silences for second in silence)
    assert len(lengths) > 20
    assert 20 <= min(lengths) < max(lengths) <= 60


def test_a_muted_device_never_speaks() -> None:
    one = world(muted=frozenset({"drone-01", "fts-02"}))
    names = {packet.device.name for second in range(10) for packet in one.messages(second)}
    assert len(names) == 23
    assert not names & {"drone-01", "fts-02"}


def test_without_its_own_way_a_device_takes_another() -> None:
    only_http = simulator.World(SEED, START_NS, simulator.fleet(SEED, 25, ways=[simulator.Way.HTTP]))
    assert all(json.loads(body)["device"] for body in bodies(only_http, range(2)))
    no_http = simulator.fleet(SEED, 25, ways=[simulator.Way.UDP, simulator.Way.TCP])
    assert {device.way for device in no_http} == {"syslog-udp", "syslog-tcp"}


# -- the messages ------------------------------------------------------------------------------------------------

NEW = re.compile(
    rb"<(?:134|132)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<name>\S+) (?:agent|mavlink) - STATUS "
    rb'(?:-|\[skerry@32473(?: \w+="[^"\\\]]+")+\]) (?P<text>.+)'
)
OLD = re.compile(rb"<(?:134|132)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (?P<name>\S+) (?:agent|mavlink): (?P<text>.+)")


def test_messages_are_well_formed_in_every_dialect() -> None:
    seen = set()
    for second in (0, 1, 2):
        for packet in world().messages(second):
            device = packet.device
            seen.add((device.way, device.dialect))
            for mid, body in zip(packet.mids, packet.bodies, strict=True):
                assert body.isascii()
                assert len(body) < 2048
                assert mid.encode() in body
                match = NEW.fullmatch(body) or OLD.fullmatch(body)
                if device.way in (simulator.Way.HTTP, simulator.Way.MQTT):
                    assert json.loads(body)["device"] == device.name
                else:
                    assert match is not None
                    assert match["name"].decode() == device.name
                    if device.dialect is simulator.Dialect.JSON:
                        assert json.loads(match["text"])["mid"] == mid
    assert len(seen) >= 10


def test_the_appliance_reads_what_the_devices_meant() -> None:
    one = world()
    for second in range(0, 600, 13):
        for packet in one.messages(second):
            device = packet.device
            for mid, body in zip(packet.mids, packet.bodies, strict=True):
                at = int(mid.rpartition("-")[2]) - START_NS // 10**9 + device.late_s
                state, reading = one.state(device, at), read(device.way, body, START_NS + second * 10**9)
                assert (reading.name, reading.heartbeat, reading.marks) == (device.name, True, ())
                assert reading.version == device.firmware
                assert reading.position is not None
                assert abs(reading.position.lat_deg - state.lat) < 1e-6
                if device.role is simulator.Role.DRONE:
                    assert reading.armed == (state.phase is not simulator.Phase.REST)
                    assert reading.flight == simulator.FLIGHT.get(state.phase, "GROUND")
                    assert abs(reading.metrics["battery_pct"] - state.metrics["battery_pct"]) <= 0.5
                else:
                    assert state.metrics.items() <= reading.metrics.items()


def read(way: Any, body: bytes, at_ns: int) -> Reading:
    if way is simulator.Way.MQTT:
        return payload.reading(payload.read(body))
    return (http.parse if way is simulator.Way.HTTP else syslog.parse)(body, received_ns=at_ns)


def test_the_old_timestamp_pads_the_day_with_a_space() -> None:
    early = simulator.World(SEED, 1_793_613_600_000_000_000, simulator.fleet(SEED, 3))
    assert b">Nov  2 10:00:00 drone-03 agent: " in early.messages(0)[2].bodies[0]


@pytest.fixture(scope="module")
def mavlink() -> Any:
    return pytest.importorskip("pymavlink.dialects.v20.common")


def frames_of(packet: Any) -> Iterator[bytes]:
    for body in packet.bodies:
        if body.startswith(b"{"):
            yield base64.b64decode(json.loads(body)["mavlink"])
        else:
            yield bytes.fromhex(body.partition(b"mavlink=")[2].decode())


def test_mavlink_frames_are_read_by_pymavlink(mavlink: Any) -> None:
    one = world()
    dialects = (simulator.Dialect.MAVLINK, simulator.Dialect.MAVLINK_OLD)
    kinds: Counter[str] = Counter()
    for second in range(0, 700, 7):
        for packet in one.messages(second):
            if packet.device.dialect not in dialects:
                continue
            state = one.state(packet.device, second + packet.device.late_s)
            for data in frames_of(packet):
                said = {message.get_type(): message for message in mavlink.MAVLink(None).parse_buffer(bytearray(data))}
                kinds.update(said.keys())
                agree(said, state)
    assert set(kinds) == {"HEARTBEAT", "GLOBAL_POSITION_INT", "EXTENDED_SYS_STATE", "SYS_STATUS", "BATTERY_STATUS"}


def agree(said: dict[str, Any], state: Any) -> None:
    position, battery = said["GLOBAL_POSITION_INT"], said.get("SYS_STATUS") or said["BATTERY_STATUS"]
    assert len(said) == 4
    assert bool(said["HEARTBEAT"].base_mode & 128) == (state.phase is not simulator.Phase.REST)
    assert said["HEARTBEAT"].get_srcComponent() == 1
    assert (position.lat, position.lon) == (round(state.lat * 1e7), round(state.lon * 1e7))
    assert position.relative_alt == round(state.rel_alt_m * 1000)
    assert position.vz == -round(state.velocity[2] * 100)
    assert battery.battery_remaining == round(state.metrics["battery_pct"])
    assert battery.current_battery == round(state.metrics["current_a"] * 100)
    landed = {"takeoff": 3, "track": 2, "land": 4}.get(state.phase, 1)
    assert said["EXTENDED_SYS_STATE"].landed_state == landed


# -- sending -----------------------------------------------------------------------------------------------------


class Harbor:
    """A real receiver on four ports that writes down who said what; answers HTTP with the next of `statuses`, and lets so
    many PUBACKs be lost with their connections as `deaf` says."""

    def __init__(self, statuses: list[int], deaf: int = 0) -> None:
        self.statuses, self.deaf = statuses, deaf
        self.heard: dict[str, list[tuple[str, bytes]]] = {"syslog-udp": [], "syslog-tcp": [], "http": [], "mqtt": []}
        self.names: list[str] = []
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        self.datagrams.setblocking(False)
        self.writers: set[asyncio.StreamWriter] = set()
        self.posted = asyncio.Event()

    async def __aenter__(self) -> Harbor:
        asyncio.get_running_loop().add_reader(self.datagrams, self._datagram)
        self.tcp = await asyncio.start_server(self._counted, "127.0.0.1", 0)
        self.http = await asyncio.start_server(self._requests, "127.0.0.1", 0)
        self.mqtt = await asyncio.start_server(self._messages, "127.0.0.1", 0)
        servers = (self.tcp, self.http, self.mqtt)
        ports = [self.datagrams.getsockname()[1], *(one.sockets[0].getsockname()[1] for one in servers)]
        self.flags = [f"--syslog-udp=127.0.0.1:{ports[0]}", f"--syslog-tcp=127.0.0.1:{ports[1]}"]
        self.flags += [f"--http=http://127.0.0.1:{ports[2]}", f"--mqtt=127.0.0.1:{ports[3]}"]
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self.datagrams)
        self.datagrams.close()
        for server in (self.tcp, self.http, self.mqtt):
            server.close()
        for writer in self.writers:
            writer.close()
        for server in (self.tcp, self.http, self.mqtt):
            await server.wait_closed()

    def _datagram(self) -> None:
        raw, (address, _) = self.datagrams.recvfrom(65_536)
        self.heard["syslog-udp"].append((address, raw))

    async def _counted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        address = writer.get_extra_info("peername")[0]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int((await reader.readuntil(b" ")).strip())
                self.heard["syslog-tcp"].append((address, await reader.readexactly(length)))
        writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        address = writer.get_extra_info("peername")[0]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("POST /v1/ingest HTTP/1.1\r\n")
                body = await reader.readexactly(int(re.findall(r"Content-Length: (\d+)", head)[0]))
                status = self.statuses.pop(0) if self.statuses else 202
                if status < 300:
                    self.heard["http"].append((address, body))
                writer.write(f"HTTP/1.1 {status} So\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                await writer.drain()
                self.posted.set()
        writer.close()

    async def _messages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        address, data = writer.get_extra_info("peername")[0], b""
        while more := await reader.read(65_536):
            data += more
            while (found := mqtt_codec.head(data, 0, 1 << 20)) is not None and found[2] <= len(data):
                first, begin, end = found
                packet, data = mqtt_codec.decode(first, data[begin:end], mqtt_codec.V311), data[end:]
                if isinstance(packet, mqtt_codec.Connect):
                    self.names.append(packet.client_id)
                    writer.write(mqtt_codec.encode(mqtt_codec.Connack(0), mqtt_codec.V311))
                    continue
                assert isinstance(packet, mqtt_codec.Publish)
                assert (packet.topic, packet.qos) == ("v1/devices/me/telemetry", 1)
                self.heard["mqtt"].append((address, packet.payload))
                if self.deaf:
                    self.deaf -= 1
                    writer.close()
                    return
                puback = mqtt_codec.Ack(mqtt_codec.Kind.PUBACK, packet.packet_id)
                writer.write(mqtt_codec.encode(puback, mqtt_codec.V311))
        writer.close()


async def sail(*flags: str) -> dict[str, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), *flags, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors
    tally: dict[str, int] = json.loads(errors)
    return tally


async def test_25_devices_are_heard_from_25_addresses_on_four_ways(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with Harbor([]) as harbor:
        await sail(*harbor.flags, "--speed=2", "--duration=1.9", f"--start={START_NS / 1e9}", f"--ledger={ledger}")
    addresses = {address for heard in harbor.heard.values() for address, _ in heard}
    assert addresses == {f"127.42.0.{number}" for number in range(1, 26)}
    said = {body for heard in harbor.heard.values() for _, body in heard}
    assert set(bodies(world(), range(1))) <= {part for body in said for part in elements(body)}
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len({row["mid"] for row in rows}) == len(rows) >= 25
    assert {row["acked"] for row in rows if row["way"] in ("http", "mqtt")} == {True}
    assert {row["acked"] for row in rows if row["way"].startswith("syslog")} == {None}
    assert harbor.names == ["drone-10"]


def elements(body: bytes) -> list[bytes]:
    """The messages of a request as they were before they were put in an array."""
    if not body.startswith(b"["):
        return [body]
    return [json.dumps(part, separators=(",", ":")).encode() for part in json.loads(body)]


async def test_what_is_not_taken_is_kept_and_tried_again(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with Harbor([429, 507, 503]) as harbor:
        tally = await sail(harbor.flags[2], "--devices=20", "--duration=1.5", f"--ledger={ledger}")
    assert [tally["http 429"], tally["http 507"], tally["http 503"]] == [1, 1, 1]
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    acked = {row["mid"] for row in rows if row["acked"]}
    arrived = {json.loads(part)["mid"] for _, body in harbor.heard["http"] for part in elements(body)}
    assert acked == arrived
    assert len(acked) >= 20


async def test_a_message_whose_puback_was_lost_is_sent_again(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with Harbor([], deaf=2) as harbor:
        await sail(harbor.flags[3], "--devices=1", "--duration=3.5", f"--ledger={ledger}")
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    arrived = [json.loads(body)["mid"] for _, body in harbor.heard["mqtt"]]
    assert arrived[0] == arrived[1] == arrived[2]
    assert {row["mid"] for row in rows if row["acked"]} == set(arrived)
    assert len(set(arrived)) > 1
    assert harbor.names == ["drone-01"] * 3


async def test_a_refused_message_is_let_go_and_written_down(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with Harbor([413]) as harbor:
        tally = await sail(harbor.flags[2], "--devices=1", "--speed=2", "--duration=1.5", f"--ledger={ledger}")
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert tally["refused"] == 1
    assert [rows[0]["fate"], rows[0]["acked"]] == ["refused", False]
    assert rows[1]["acked"]


async def test_with_nobody_there_the_clock_goes_on_and_failures_are_counted() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refuses connections
        port = nobody.getsockname()[1]
        tally = await sail(
            f"--syslog-udp=127.0.0.1:{port}",
            f"--syslog-tcp=127.0.0.1:{port}",
            f"--http=127.0.0.1:{port}",
            "--duration=1.2",
        )
    assert tally["sent"] >= 10
    assert tally["open"] >= 10
    assert tally["http ConnectionRefusedError"] >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_leaves_when_it_is_asked_to(number: signal.Signals) -> None:
    async with Harbor([]) as harbor:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), *harbor.flags, stderr=asyncio.subprocess.PIPE
        )
        await harbor.posted.wait()
        process.send_signal(number)
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert json.loads(errors)["acked"] >= 1


# -- the command line --------------------------------------------------------------------------------------------


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, check=False)


def test_the_list_names_every_device_with_its_address() -> None:
    rows = [json.loads(line) for line in command("--list", "--base", "127.9.0.0").stdout.splitlines()]
    assert len(rows) == 25
    assert set(rows[0]) == {"name", "kind", "role", "address", "intake", "model", "serial", "firmware"}
    assert Counter(row["intake"] for row in rows) == {"syslog": 16, "http": 8, "mqtt": 1}
    assert rows[0]["address"] == "127.9.0.1"
    assert Counter(row["kind"] for row in rows) == {"EDGE": 20, "RELAY": 5}


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--devices", "0", "--list"],
        ["--devices", "5001", "--list"],
        ["--speed", "0", "--list"],
        ["--syslog-udp", "nowhere"],
        ["--http", "https://127.0.0.1:8443"],
        ["--base", "here", "--list"],
        ["--base", "192.0.2.0", "--http", "127.0.0.1:9"],
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(flags: list[str]) -> None:
    answer = command(*flags)
    assert answer.returncode == 2
    assert answer.stderr
    assert "Traceback" not in answer.stderr
