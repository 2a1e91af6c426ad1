#!/usr/bin/env python3
"""What would a fleet on a skerry coast say, and to whom? 25 devices (or up to 5,000) that speak the device contract.

Rules of this file:
- Standard library only: a device knows the contract (CONTRACT.md), never the code behind it.
- The world comes first and is pure: what a device says is a function of (seed, device, simulated second) and of the
  instant the simulation began. No state is carried from one second to the next, so any second can be asked for.
- Sending comes second and never changes the world. What is away, full or slow is counted, kept within a bound and
  tried again; it never stops the clock.
- Every device has an address of its own in 127.0.0.0/8: the system answers ping for it, and the appliance sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import hashlib
import ipaddress
import itertools
import json
import math
import resource
import signal
import socket
import struct
import sys
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TextIO

DEVICES_MAX = 5_000
HOME = (58.35, 11.25)
DEGREE_M = 111_320.0  # of latitude
NS = 1_000_000_000

QUEUE_PACKETS_MAX = 600  # a line keeps so many while the other side is away; what comes then is lost
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.5, 30.0
ANSWER_S_MAX = 15.0
ANSWER_BYTES_MAX = 1 << 20
SLOTS = 20  # a second is sent in so many parts


def chance(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone (the finalizer of SplitMix64 over a sum)."""
    x = 0
    for part in key:
        x = (x + part + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (x >> 11) / 2.0**53


# -- identities --------------------------------------------------------------------------------------------------


class Way(StrEnum):
    UDP = "syslog-udp"
    TCP = "syslog-tcp"
    HTTP = "http"
    MQTT = "mqtt"


class Dialect(StrEnum):
    JSON = "json"  # RFC 5424 with a JSON object as message; over HTTP and MQTT the object alone
    STRUCTURED = "structured data"  # RFC 5424 with the numbers as structured data
    PAIRS = "key=value"  # RFC 3164
    MAVLINK = "mavlink"  # RFC 5424 with frames in hex; over HTTP in base64
    MAVLINK_OLD = "mavlink 3164"


class Role(StrEnum):
    DRONE = "drone"
    LAPTOP = "laptop"
    STATION = "fts"


SEATS = (Role.DRONE,) * 14 + (Role.LAPTOP,) * 6 + (Role.STATION,) * 5  # one site; a larger fleet is many
KIND = {Role.DRONE: "EDGE", Role.LAPTOP: "EDGE", Role.STATION: "RELAY"}
MODELS = {
    Role.DRONE: ("Jetson Orin NX 16GB", "Jetson Orin Nano 8GB"),
    Role.LAPTOP: ("Fieldbook 14", "Fieldbook 12 Rugged"),
    Role.STATION: ("FTS Mast 2", "FTS Mast 2 Long Range"),
}
FIRMWARE = {
    Role.DRONE: ("2.4.1", "2.4.1", "2.4.1", "2.4.0", "2.3.7"),
    Role.LAPTOP: ("1.9.0", "1.9.0", "1.8.2"),
    Role.STATION: ("3.1.4", "3.1.4", "3.1.2"),
}
HABITS = {
    Role.DRONE: (
        (Way.UDP, Dialect.JSON),
        (Way.UDP, Dialect.STRUCTURED),
        (Way.UDP, Dialect.PAIRS),
        (Way.UDP, Dialect.MAVLINK),
        (Way.TCP, Dialect.JSON),
        (Way.HTTP, Dialect.JSON),
        (Way.UDP, Dialect.MAVLINK_OLD),
        (Way.HTTP, Dialect.MAVLINK),
        (Way.TCP, Dialect.STRUCTURED),
        (Way.MQTT, Dialect.JSON),
    ),
    Role.LAPTOP: ((Way.HTTP, Dialect.JSON),),
    Role.STATION: ((Way.TCP, Dialect.JSON), (Way.UDP, Dialect.JSON)),
}
MASTS = tuple((1500 * math.sin(2 * math.pi * n / 5), 1500 * math.cos(2 * math.pi * n / 5)) for n in range(5))


class Pattern(NamedTuple):
    """How one drone flies: seconds of each phase of its cycle, and the loop it draws."""

    offset_s: float
    phase_s: tuple[float, ...]  # in the order of Phase
    radius_m: float
    height_m: float
    turns: tuple[int, int]  # of the loop, east-west and north-south, over one flight
    lean: float  # between the two, radians


class Device(NamedTuple):
    """`pad` is where it stands, metres east and north of the middle of its group."""

    ordinal: int
    name: str
    role: Role
    address: str
    model: str
    serial: str
    firmware: str
    way: Way
    dialect: Dialect
    group: int
    pad: tuple[float, float]
    late_s: float  # when in each second it speaks
    pattern: Pattern


def fleet(seed: int, count: int, base: str = "127.42.0.0", ways: Iterable[Way] = Way) -> tuple[Device, ...]:
    """The same devices for ever for one seed. Each takes the way of its habit, or another of `ways` without it."""
    open_ways = set(ways)
    return tuple(_device(seed, index, base, open_ways) for index in range(count))


def _device(seed: int, index: int, base: str, ways: set[Way]) -> Device:
    draw = functools.partial(chance, seed, index)
    group, place = divmod(index, len(SEATS))
    role = SEATS[place]
    rank = place - SEATS.index(role)  # among its kind in the group
    number = group * SEATS.count(role) + rank
    habit, dialect = HABITS[role][number % len(HABITS[role])]
    angle, spread = 2 * math.pi * draw(1), (900 if role is Role.DRONE else 120) * draw(2)
    return Device(
        ordinal=index,
        name=f"{role}-{number + 1:02d}",
        role=role,
        address=str(ipaddress.IPv4Address(base) + 1 + index),
        model=MODELS[role][int(draw(3) * len(MODELS[role]))],
        serial=f"{role.upper()[:2]}{int(draw(4) * 10**10):010d}",
        firmware=FIRMWARE[role][int(draw(5) * len(FIRMWARE[role]))],
        way=next(way for way in (habit, *Way) if way in ways),
        dialect=dialect,
        group=group,
        pad=MASTS[rank] if role is Role.STATION else (spread * math.sin(angle), spread * math.cos(angle)),
        late_s=draw(6),
        pattern=_pattern(draw),
    )


def _pattern(draw: Callable[[int], float]) -> Pattern:
    track_s, turns = 180 + 180 * draw(11), (2 + int(3 * draw(12)), 3 + int(3 * draw(13)))
    radius_m = (8 + 6 * draw(14)) * track_s / (2 * math.pi * max(turns) * 0.64)  # 0.64: the mean of the envelope
    phase_s = (60 + 150 * draw(15), 8.0, 12.0, track_s, 16.0, 4.0)
    return Pattern(sum(phase_s) * draw(16), phase_s, radius_m, 40 + 80 * draw(17), turns, math.pi * draw(18))


# -- the world ---------------------------------------------------------------------------------------------------


class Phase(StrEnum):
    REST = "rest"  # on the ground, charging
    ARM = "arm"
    TAKEOFF = "takeoff"
    TRACK = "track"
    LAND = "land"
    DISARM = "disarm"  # on the ground, still armed


PHASES = tuple(Phase)
FLIGHT = {Phase.TAKEOFF: "TAKEOFF", Phase.TRACK: "AIR", Phase.LAND: "LANDING"}  # else GROUND


class State(NamedTuple):
    """What a device knows of itself. `velocity` is east, north, up in m/s; heights in metres."""

    uptime_s: float
    health: str
    metrics: dict[str, float]
    lat: float
    lon: float
    alt_m: float
    rel_alt_m: float = 0.0
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    heading_deg: float = 0.0
    phase: Phase = Phase.REST


class Packet(NamedTuple):
    """What goes out at once: one message, or over HTTP the messages of one request. Bodies are without framing."""

    device: Device
    mids: tuple[str, ...]
    bodies: tuple[bytes, ...]


class World(NamedTuple):
    """`start_ns` is the simulated Unix time of second 0. `muted` devices never say a word."""

    seed: int
    start_ns: int
    devices: tuple[Device, ...]
    home: tuple[float, float] = HOME
    muted: frozenset[str] = frozenset()

    def silent(self, device: Device, second: float) -> bool:
        """In every five minutes each uplink may drop once, for 20 to 60 s, never in the first 40."""
        if device.name in self.muted:
            return True
        window, inside = divmod(second, 300)
        key = (self.seed, device.ordinal, 20, int(window))
        if chance(*key, 1) < 0.5:
            return False
        begin, length = 40 + 200 * chance(*key, 2), 20 + 40 * chance(*key, 3)
        return begin <= inside < begin + length

    def state(self, device: Device, second: float) -> State:
        return _STATES[device.role](self, device, second)

    def packet(self, device: Device, second: int) -> Packet | None:
        """What a device sends in a second. Laptops save air time: every other second, two reports in one request."""
        if self.silent(device, second):
            return None
        seconds = [second]
        if device.role is Role.LAPTOP and device.way is Way.HTTP:
            if second % 2:
                return None
            seconds = [s for s in (second - 1, second) if s >= 0 and not self.silent(device, s)]
        mids = tuple(f"{device.name}-{self.start_ns // NS + s}" for s in seconds)
        bodies = tuple(self._body(device, s, mid) for s, mid in zip(seconds, mids, strict=True))
        return Packet(device, mids, bodies)

    def messages(self, second: int) -> tuple[Packet, ...]:
        """All that the fleet says in a second."""
        packets = (self.packet(device, second) for device in self.devices)
        return tuple(packet for packet in packets if packet)

    def _body(self, device: Device, second: int, mid: str) -> bytes:
        at = second + device.late_s
        message = Words(device, mid, self.start_ns + int(at * 1000) * 1_000_000, self.state(device, at), second)
        return (_http if device.way in (Way.HTTP, Way.MQTT) else _DIALECTS[device.dialect])(message)

    def around(self, device: Device, east_m: float = 0.0, north_m: float = 0.0) -> tuple[float, float]:
        """Latitude and longitude of a place by the device's pad; groups lie on a spiral, four kilometres apart."""
        far, angle = 4000 * math.sqrt(device.group), 2.4 * device.group
        north, east = north_m + device.pad[1] + far * math.cos(angle), east_m + device.pad[0] + far * math.sin(angle)
        lat, lon = self.home
        return lat + north / DEGREE_M, lon + east / (DEGREE_M * math.cos(math.radians(lat)))

    def noise(self, device: Device, second: float, salt: int) -> float:
        """In [-1, 1]: a slow swing and a fast one of its own for each device and salt."""
        swing = math.sin(second / (11 + 1.5 * salt) + device.ordinal * salt)
        return 0.7 * swing + 0.6 * (chance(self.seed, device.ordinal, salt, int(second)) - 0.5)

    def uptime_s(self, device: Device, second: float) -> float:
        return second + 40_000 * chance(self.seed, device.ordinal, 19)


def moment(pattern: Pattern, second: float) -> tuple[int, Phase, float]:
    """Cycle, phase, and how much of the phase has passed (0 to 1)."""
    cycle, inside = divmod(second + pattern.offset_s, sum(pattern.phase_s))
    for phase, length in zip(PHASES, pattern.phase_s, strict=True):
        if inside < length:
            return int(cycle), phase, inside / length
        inside -= length
    return int(cycle), Phase.DISARM, 1.0  # only by rounding


def _aloft(pattern: Pattern, second: float) -> tuple[float, float, float]:
    """East, north and up of the home, metres: a loop that opens from the home and closes on it."""
    _, phase, part = moment(pattern, second)
    ease = part * part * (3 - 2 * part)
    if phase is not Phase.TRACK:
        return 0.0, 0.0, pattern.height_m * {Phase.TAKEOFF: ease, Phase.LAND: 1 - ease}.get(phase, 0.0)
    reach = math.sin(math.pi * part)
    east = reach * pattern.radius_m * math.sin(2 * math.pi * pattern.turns[0] * part)
    north = reach * pattern.radius_m * math.sin(2 * math.pi * pattern.turns[1] * part + pattern.lean)
    return east, north, pattern.height_m + 6 * reach * math.sin(6 * math.pi * part)


def _battery(world: World, device: Device, second: float) -> float:
    """Charged at rest, drained from arming to disarming; each cycle has a low and a full mark of its own."""
    cycle, phase, part = moment(device.pattern, second)
    mark = functools.partial(chance, world.seed, device.ordinal)
    low, full = 24 + 36 * mark(30, cycle - (phase is Phase.REST)), 95 + 5 * mark(31, cycle)
    if phase is Phase.REST:
        return low + (full - low) * min(1.0, 1.2 * part)
    lengths, at = device.pattern.phase_s, PHASES.index(phase)
    return full - (full - low) * (sum(lengths[1:at]) + part * lengths[at]) / sum(lengths[1:])


def _drone(world: World, device: Device, second: float) -> State:
    noise = functools.partial(world.noise, device, second)
    cycle, phase, part = moment(device.pattern, second)
    place, before, after = (_aloft(device.pattern, second + shift) for shift in (0.0, -0.5, 0.5))
    velocity = after[0] - before[0], after[1] - before[1], after[2] - before[2]
    moving = math.hypot(*velocity[:2]) > 0.3
    bearing = math.degrees(math.atan2(*velocity[:2])) % 360 if moving else 360 * chance(device.ordinal, cycle)
    east, north = device.pad[0] + place[0], device.pad[1] + place[1]
    distance_m = min(math.hypot(mast[0] - east, mast[1] - north, place[2]) for mast in MASTS)
    rssi = -46 - 20 * math.log10(max(distance_m, 10) / 50) + 3 * noise(1)
    battery, busy, flying = _battery(world, device, second), phase is not Phase.REST, phase in FLIGHT
    current = (17 if flying else 1.5 if busy else 0.4) * (1 + 0.1 * noise(2))
    metrics = {
        "battery_pct": round(battery, 1),
        "voltage_v": round(20.4 + battery * 0.046 - current * 0.03, 2),
        "current_a": round(current, 2),
        "temp_c": round(36 + 16 * ((100 - battery) / 60 if busy else 1 - part) + 2 * noise(3), 1),
        "rssi_dbm": round(rssi, 1),
        "snr_db": round(min(40.0, rssi + 97 + 2 * noise(4)), 1),
        "vibration_mps2": round((7 if flying else 0.4) * (1 + 0.4 * noise(5)), 2),
        "cpu_pct": round((62 if flying else 24) + 14 * noise(6), 1),
        "satellites": 16 + round(3 * noise(7)),
    }
    health, uptime_s = "DEGRADED" if battery < 30 else "OK", world.uptime_s(device, second)
    where = world.around(device, *place[:2])
    return State(uptime_s, health, metrics, *where, 12 + place[2], place[2], velocity, bearing, phase)


def _laptop(world: World, device: Device, second: float) -> State:
    noise = functools.partial(world.noise, device, second)
    swing = math.sin(2 * math.pi * (second / 5400 + chance(world.seed, device.ordinal, 32)))
    metrics = {
        "battery_pct": round(72 + 26 * swing, 1),
        "temp_c": round(51 + 7 * noise(3), 1),
        "cpu_pct": round(31 + 24 * noise(6), 1),
        "ram_pct": round(58 + 9 * noise(8), 1),
        "disk_pct": round(40 + 30 * chance(device.ordinal, 33), 1),
        "rssi_dbm": round(-58 + 6 * noise(1), 1),
    }
    return State(world.uptime_s(device, second), "OK", metrics, *world.around(device), 9.0)


def _station(world: World, device: Device, second: float) -> State:
    """A station speaks of its link to the mainland; slow weather makes it lossy now and then."""
    noise = functools.partial(world.noise, device, second)
    weather = max(0.0, world.noise(device, second / 40, 9)) ** 3
    metrics = {
        "rtt_ms": round(24 + 90 * weather + 6 * noise(10), 1),
        "loss_pct": round(12 * weather, 2),
        "rssi_dbm": round(-61 - 14 * weather + 2 * noise(1), 1),
        "snr_db": round(27 - 13 * weather + 2 * noise(4), 1),
        "bandwidth_kbps": round(8200 * (1 - 0.6 * weather) + 300 * noise(11)),
        "temp_c": round(29 + 4 * noise(3), 1),
        "voltage_v": round(26.1 + 0.5 * noise(2), 2),
    }
    health = "DEGRADED" if metrics["loss_pct"] > 4 else "OK"
    return State(world.uptime_s(device, second), health, metrics, *world.around(device), 34.0)


_STATES = {Role.DRONE: _drone, Role.LAPTOP: _laptop, Role.STATION: _station}


# -- MAVLink 2 (mavlink.io, "Packet serialization") ----------------------------------------------------------------
#
# FD, length, incompatible and compatible flags, sequence, system, component, message id (3 bytes, little endian),
# payload with its trailing zeros cut, CRC-16/MCRF4XX over all but the FD and then the message's extra byte.

_HEAD = struct.Struct("<BBBBBBB")
_HEARTBEAT = (0, 50, struct.Struct("<IBBBBB"))
_STATUS = (1, 124, struct.Struct("<IIIHHhHHHHHHb"))
_POSITION = (33, 104, struct.Struct("<IiiiihhhH"))
_BATTERY = (147, 154, struct.Struct("<iih10HhBBBb"))
_LANDED = (245, 130, struct.Struct("<BB"))
_LANDED_STATE = {"GROUND": 1, "AIR": 2, "TAKEOFF": 3, "LANDING": 4}


_CRC = tuple(functools.reduce(lambda crc, _: crc >> 1 ^ 0x8408 * (crc & 1), range(8), byte) for byte in range(256))


def crc16(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc


def frame(kind: tuple[int, int, struct.Struct], sequence: int, system: int, *fields: int) -> bytes:
    """One frame from component 1, the autopilot. Fields are in wire order, the largest first."""
    number, extra, layout = kind
    payload = layout.pack(*fields).rstrip(b"\0") or b"\0"
    inner = _HEAD.pack(len(payload), 0, 0, sequence & 0xFF, system, 1, number & 0xFF) + b"\0\0" + payload
    return b"\xfd" + inner + struct.pack("<H", crc16(inner + bytes((extra,))))


def frames(system: int, second: int, state: State) -> bytes:
    """What an autopilot says each second: heartbeat, position, landed state and one of two words on its battery."""
    metrics, armed, sequence = state.metrics, state.phase is not Phase.REST, itertools.count(4 * second)
    east, north, up = (round(100 * v) for v in state.velocity)
    place = round(state.lat * 1e7), round(state.lon * 1e7), round(state.alt_m * 1000), round(state.rel_alt_m * 1000)
    power = round(metrics["current_a"] * 100), round(metrics["battery_pct"])
    volts, boot_ms = round(metrics["voltage_v"] * 1000), int(state.uptime_s * 1000) & 0xFFFFFFFF

    def say(kind: tuple[int, int, struct.Struct], *fields: int) -> bytes:
        return frame(kind, next(sequence), system, *fields)

    said = say(_HEARTBEAT, 0, 2, 3, 0x81 if armed else 0x01, 4 if armed else 3, 3)
    said += say(_POSITION, boot_ms, *place, north, east, -up, round(state.heading_deg * 100) % 36000)
    said += say(_LANDED, 0, _LANDED_STATE[FLIGHT.get(state.phase, "GROUND")])
    if second % 2:
        cells = volts, *[0xFFFF] * 9
        return said + say(_BATTERY, -1, -1, round(metrics["temp_c"] * 100), *cells, power[0], 0, 1, 1, power[1])
    return said + say(_STATUS, 0, 0, 0, round(metrics["cpu_pct"] * 10), volts, power[0], *[0] * 6, power[1])


# -- dialects ----------------------------------------------------------------------------------------------------


class Words(NamedTuple):
    """One message before it is put in a dialect. `second` is of the simulation, `at_ns` Unix time."""

    device: Device
    mid: str
    at_ns: int
    state: State
    second: int

    @property
    def mavlink(self) -> bytes:
        return frames(self.device.ordinal % 250 + 1, self.second, self.state)


_json = json.JSONEncoder(separators=(",", ":")).encode
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _object(words: Words) -> dict[str, object]:
    device, state = words.device, words.state
    said: dict[str, object] = {"mid": words.mid, "device": device.name, "heartbeat": True, "health": state.health}
    said |= {"version": device.firmware, "uptime_s": round(state.uptime_s, 1)}
    said |= {"lat": round(state.lat, 7), "lon": round(state.lon, 7), "alt": round(state.alt_m, 1)}
    if device.role is Role.DRONE:
        said |= {"armed": state.phase is not Phase.REST, "flight": FLIGHT.get(state.phase, "GROUND")}
        said |= {"height": round(state.rel_alt_m, 1), "heading": round(state.heading_deg, 1)}
        said |= {"speed": round(math.hypot(*state.velocity[:2]), 2), "climb": round(state.velocity[2], 2)}
    return said


def _flat(words: Words, quote: str = "") -> str:
    """Pairs, under the names that small firmware likes: without units, booleans as 0 and 1."""
    said = _object(words) | {name.partition("_")[0]: value for name, value in words.state.metrics.items()}
    said["fw"] = said.pop("version")
    numbers = ((key, int(value) if isinstance(value, bool) else value) for key, value in said.items())
    return " ".join(f"{key}={quote}{value}{quote}" for key, value in numbers)


def _header(words: Words, stamp: str) -> str:
    priority = 16 * 8 + (6 if words.state.health == "OK" else 4)  # local0, informational or warning
    return f"<{priority}>{stamp} {words.device.name}"


def _new(words: Words, app: str, data: str, text: str) -> bytes:
    """RFC 5424."""
    when = datetime.fromtimestamp(words.at_ns // NS, UTC)
    stamp = f"1 {when:%Y-%m-%dT%H:%M:%S}.{words.at_ns % NS // 1_000_000:03d}Z"
    return f"{_header(words, stamp)} {app} - STATUS {data} {text}".encode()


def _old(words: Words, app: str, text: str) -> bytes:
    """RFC 3164: no year, no zone, the day padded with a space."""
    when = datetime.fromtimestamp(words.at_ns // NS, UTC)
    return f"{_header(words, f'{_MONTHS[when.month - 1]} {when.day:2d} {when:%H:%M:%S}')} {app}: {text}".encode()


def _structured(words: Words) -> bytes:
    pairs = _flat(words, quote='"')  # no value needs an escape
    return _new(words, "agent", f"[skerry@32473 {pairs}]", words.state.phase)  # 32473: RFC 5612, for examples


def _hex(words: Words) -> str:
    return f"mid={words.mid} fw={words.device.firmware} mavlink={words.mavlink.hex()}"


def _http(words: Words) -> bytes:
    said: dict[str, object] = {"ts": words.at_ns // 1_000_000}
    if words.device.dialect in (Dialect.MAVLINK, Dialect.MAVLINK_OLD):
        said |= {"mid": words.mid, "device": words.device.name, "version": words.device.firmware}
        return _json(said | {"mavlink": base64.b64encode(words.mavlink).decode()}).encode()
    return _json(said | _object(words) | {"metrics": words.state.metrics}).encode()


_DIALECTS: dict[Dialect, Callable[[Words], bytes]] = {
    Dialect.JSON: lambda words: _new(words, "agent", "-", _json(_object(words) | words.state.metrics)),
    Dialect.STRUCTURED: _structured,
    Dialect.PAIRS: lambda words: _old(words, "agent", _flat(words)),
    Dialect.MAVLINK: lambda words: _new(words, "mavlink", "-", _hex(words)),
    Dialect.MAVLINK_OLD: lambda words: _old(words, "mavlink", _hex(words)),
}


# -- sending -----------------------------------------------------------------------------------------------------


class Fate(StrEnum):
    ACKED = "acked"
    SENT = "sent"  # by a way in that does not acknowledge
    REFUSED = "refused"
    OPEN = "open"  # not known to have arrived when the simulation ended
    LOST = "lost"  # let go by the device itself


class Ledger:
    """One JSON line per message, written when its fate is known: {mid, sha256, way, fate, acked}.

    `sha256` is of the message's own bytes, without framing; `acked` is null where the way in does not acknowledge.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self.tally: Counter[str] = Counter()

    def write(self, packet: Packet, fate: Fate) -> None:
        self.tally[fate] += len(packet.mids)
        if self._file is None:
            return
        acked = fate is Fate.ACKED if packet.device.way in (Way.HTTP, Way.MQTT) else None
        for mid, body in zip(packet.mids, packet.bodies, strict=True):
            line = {"mid": mid, "sha256": hashlib.sha256(body).hexdigest(), "way": packet.device.way}
            self._file.write(json.dumps(line | {"fate": fate, "acked": acked}) + "\n")


class Target(NamedTuple):
    host: str
    port: int
    path: str


class Line:
    """One device's connection, made from its own address when it is needed, and the queue before it.

    The queue holds QUEUE_PACKETS_MAX; when it is full, what comes next is lost. With 429, 5xx or no answer a packet
    stays first in the queue and is tried again later. Over TCP syslog nothing comes back: what the system took is sent.
    Over MQTT (3.1.1, QoS 1) a packet has arrived when its PUBACK is here.
    """

    def __init__(self, device: Device, target: Target, ledger: Ledger, seed: int) -> None:
        self.queue: deque[Packet] = deque()
        self._device, self._target, self._ledger = device, target, ledger
        self._lots = (chance(seed, device.ordinal, 40, draw) for draw in itertools.count())
        self._filled = asyncio.Event()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked_s = 0.0  # the wait that the last answer asked for

    def offer(self, packet: Packet) -> None:
        if len(self.queue) == QUEUE_PACKETS_MAX:
            self._ledger.write(packet, Fate.LOST)
            return
        self.queue.append(packet)
        self._filled.set()

    async def run(self) -> None:
        attempt = 0
        while True:
            if not self.queue:
                self._filled.clear()
                await self._filled.wait()
            fate = await self._try(self.queue[0])
            if fate is not None:
                self._ledger.write(self.queue.popleft(), fate)
                attempt = 0
                continue
            backoff_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**attempt) * (1 - 0.5 * next(self._lots))
            await asyncio.sleep(max(self._asked_s, backoff_s))
            attempt = min(attempt + 1, 10)

    async def _try(self, packet: Packet) -> Fate | None:
        """None: to be tried again."""
        self._asked_s, way = 0.0, self._device.way
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                if self._streams is None or self._streams[0].at_eof() or self._streams[1].is_closing():
                    self.hang_up()
                    host, port, _ = self._target
                    self._streams = await asyncio.open_connection(host, port, local_addr=(self._device.address, 0))
                    if way is Way.MQTT:
                        await _ask_mqtt(self._streams, _connect(self._device.name), CONNECTED)
                if way is Way.MQTT:
                    for number, body in enumerate(packet.bodies, 1):
                        await _ask_mqtt(
                            self._streams, _publication(number, body), PUBLISHED + number.to_bytes(2, "big")
                        )
                    return Fate.ACKED
                reader, writer = self._streams
                writer.write(self._request(packet) if way is Way.HTTP else _counted(packet))
                await writer.drain()
                status = await self._status(reader) if way is Way.HTTP else 0
        except (OSError, EOFError, ValueError) as error:  # away, gone half way, or not speaking our language
            self._ledger.tally[f"{way} {type(error).__name__}"] += 1
            self.hang_up()
            return None
        if status < 300:
            return Fate.ACKED if status else Fate.SENT
        self._ledger.tally[f"{way} {status}"] += 1
        return None if status in (408, 425, 429) or status >= 500 else Fate.REFUSED

    def _request(self, packet: Packet) -> bytes:
        """One message goes as a JSON object, several as an array."""
        host, port, path = self._target
        body = packet.bodies[0] if len(packet.bodies) == 1 else b"[" + b",".join(packet.bodies) + b"]"
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def _status(self, reader: asyncio.StreamReader) -> int:
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in rest)}
        length, wait = fields.get("content-length", ""), fields.get("retry-after", "")
        if wait.isdecimal():
            self._asked_s = min(float(wait), BACKOFF_S_MAX)
        if length.isdecimal() and int(length) <= ANSWER_BYTES_MAX and fields.get("connection") != "close":
            await reader.readexactly(int(length))
        else:
            self.hang_up()
        return int(first.split()[1])

    def hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def abandon(self) -> None:
        while self.queue:
            self._ledger.write(self.queue.popleft(), Fate.OPEN)
        self.hang_up()


MQTT_TOPIC = b"v1/devices/me/telemetry"
CONNECTED, PUBLISHED = b"\x20\x02\0\0", b"\x40\x02"  # CONNACK that lets in; PUBACK before its packet identifier


def _control(kind: int, body: bytes) -> bytes:
    """An MQTT control packet (MQTT 3.1.1, 2.2)."""
    length, left = b"", len(body)
    while not length or left:
        left, low = divmod(left, 128)
        length += bytes((low | (0x80 if left else 0),))
    return bytes((kind,)) + length + body


def _text(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def _connect(name: str) -> bytes:
    """A clean session without keep alive: these devices fall silent for minutes of their own time."""
    return _control(0x10, _text(b"MQTT") + b"\x04\x02\0\0" + _text(name.encode()))


def _publication(number: int, body: bytes) -> bytes:
    return _control(0x32, _text(MQTT_TOPIC) + number.to_bytes(2, "big") + body)


async def _ask_mqtt(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], packet: bytes, wanted: bytes) -> None:
    """Send a packet and wait for the answer that it wants; ValueError for any other."""
    reader, writer = streams
    writer.write(packet)
    await writer.drain()
    answer = await reader.readexactly(len(wanted))
    if answer != wanted:
        raise ValueError(f"MQTT answered {answer.hex()}")


def _counted(packet: Packet) -> bytes:
    """Octet counting, RFC 6587 3.4.1."""
    return b"".join(b"%d %b" % (len(body), body) for body in packet.bodies)


class Sender:
    """Takes packets, each on its device's own way and from its own address. Call inside a running loop."""

    def __init__(self, world: World, targets: dict[Way, Target], ledger: Ledger) -> None:
        self._ledger, self._targets = ledger, targets
        self._sockets: dict[int, socket.socket] = {}
        self._lines: dict[int, Line] = {}
        for device in world.devices:
            if device.way is Way.UDP:
                # Not connected, so that a port nobody listens on yet costs the next datagram nothing.
                self._sockets[device.ordinal] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.setblocking(False)
                sock.bind((device.address, 0))
            else:
                self._lines[device.ordinal] = Line(device, targets[device.way], ledger, world.seed)
        self._tasks = [asyncio.create_task(line.run()) for line in self._lines.values()]

    def send(self, packet: Packet) -> None:
        if line := self._lines.get(packet.device.ordinal):
            line.offer(packet)
            return
        fate = Fate.SENT
        try:
            self._sockets[packet.device.ordinal].sendto(packet.bodies[0], self._targets[Way.UDP][:2])
        except OSError as error:
            self._ledger.tally[f"{Way.UDP} {type(error).__name__}"] += 1
            fate = Fate.LOST
        self._ledger.write(packet, fate)

    async def close(self) -> None:
        """Give the lines two seconds to empty, then stop."""
        for _ in range(40):
            if not any(line.queue for line in self._lines.values()):
                break
            await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._lines.values():
            line.abandon()
        for sock in self._sockets.values():
            sock.close()


async def play(world: World, sender: Sender, speed: float, duration_s: float, stop: asyncio.Event) -> None:
    """Let the world's seconds pass at `speed`, until `stop` or for `duration_s` (0: no end)."""
    slots: list[list[Device]] = [[] for _ in range(SLOTS)]
    for each in world.devices:
        slots[int(each.late_s * SLOTS)].append(each)
    now = asyncio.get_running_loop().time
    began, step_s = now(), min(1.0, 1 / speed) / SLOTS
    for second in itertools.count():
        for slot, devices in enumerate(slots):
            due = began + second / speed + slot * step_s
            if duration_s and due >= began + duration_s:
                return
            await _until(stop, due - now())
            if stop.is_set():
                return
            for each in devices:
                if packet := world.packet(each, second):
                    sender.send(packet)


async def _until(stop: asyncio.Event, delay_s: float) -> None:
    if delay_s <= 0:
        await asyncio.sleep(0)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await stop.wait()


async def run(world: World, targets: dict[Way, Target], speed: float, duration_s: float, ledger: Ledger) -> None:
    """The whole simulation, until its time is up or the process is asked to stop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sender = Sender(world, targets, ledger)
    try:
        await play(world, sender, speed, duration_s, stop)
    finally:
        await sender.close()


# -- the command line --------------------------------------------------------------------------------------------


def _target(text: str) -> Target:
    """Names are resolved once: a device that asks each second stops with the site's DNS."""
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
        port = parts.port or (80 if parts.scheme == "http" else 0)
        address = str(socket.getaddrinfo(parts.hostname or "", port, socket.AF_INET)[0][4][0])
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not port or parts.scheme not in ("", "http"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither HOST:PORT nor http://HOST:PORT")
    return Target(address, port, parts.path.rstrip("/") or "/v1/ingest")


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="simulator", description="A fleet of simulated devices (see CONTRACT.md).")
    flags.add_argument("--syslog-udp", type=_target, metavar="HOST:PORT")
    flags.add_argument("--syslog-tcp", type=_target, metavar="HOST:PORT")
    flags.add_argument("--http", type=_target, metavar="URL", help="path /v1/ingest unless the URL has one")
    flags.add_argument("--mqtt", type=_target, metavar="HOST:PORT")
    flags.add_argument("--devices", type=int, default=25, metavar="N", help=f"1 to {DEVICES_MAX:,}")
    flags.add_argument("--seed", type=int, default=7)
    flags.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second")
    flags.add_argument("--duration", type=float, default=0.0, metavar="SECONDS", help="0: until stopped")
    flags.add_argument("--start", type=float, metavar="UNIX", help="simulated time at the start; now unless given")
    flags.add_argument("--home", type=float, nargs=2, default=HOME, metavar=("LAT", "LON"))
    flags.add_argument("--base", default="127.42.0.0", help="the first device has the address after this one")
    flags.add_argument("--silent-from-start", nargs="*", default=[], metavar="NAME", help="devices that never speak")
    flags.add_argument("--list", action="store_true", help="print who there is, as JSON lines, and leave")
    flags.add_argument("--ledger", type=Path, metavar="FILE", help="append one JSON line per message")
    return flags


def _card(device: Device) -> str:
    card = {"name": device.name, "kind": KIND[device.role], "role": device.role, "address": device.address}
    card |= {"intake": device.way.partition("-")[0], "model": device.model, "serial": device.serial}
    return json.dumps(card | {"firmware": device.firmware})


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all went as asked, 2 when it cannot be done as asked. The tally goes to the error stream as JSON."""
    flags = _flags()
    asked = flags.parse_args(arguments)
    targets = {Way.UDP: asked.syslog_udp, Way.TCP: asked.syslog_tcp, Way.HTTP: asked.http, Way.MQTT: asked.mqtt}
    targets = {way: target for way, target in targets.items() if target is not None}
    if not 1 <= asked.devices <= DEVICES_MAX or not 0 < asked.speed <= 1000 or asked.duration < 0:
        flags.error(f"--devices is 1 to {DEVICES_MAX:,}, --speed above 0 and at most 1,000, --duration not negative")
    if not targets and not asked.list:
        flags.error("say where to: --syslog-udp, --syslog-tcp, --http, --mqtt, or --list")
    try:
        devices = fleet(asked.seed, asked.devices, asked.base, targets or Way)
    except ValueError as error:
        flags.error(str(error))
    if asked.list:
        print("\n".join(_card(device) for device in devices))
        return 0
    start_ns = time.time_ns() if asked.start is None else int(asked.start * NS)
    world = World(asked.seed, start_ns, devices, tuple(asked.home), frozenset(asked.silent_from_start))
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))  # a socket for each device
    file = asked.ledger.open("a", encoding="utf-8", buffering=1) if asked.ledger else None
    ledger = Ledger(file)
    try:
        for each in (devices[0], devices[-1]):
            with socket.socket() as probe:
                probe.bind((each.address, 0))
        asyncio.run(run(world, targets, asked.speed, asked.duration, ledger))
    except OSError as error:
        print(f"the devices' addresses cannot be used: {error}", file=sys.stderr)
        return 2
    finally:
        if file is not None:
            file.close()
    print(json.dumps(dict(sorted(ledger.tally.items()))), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
