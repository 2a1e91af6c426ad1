"""T12: no topic and no body makes the device API raise, and what it takes stays inside its bounds.

100,000 messages: topics put together from pieces of real ones, bodies from a corpus, mutated. Whatever comes is records
with the bytes that came, an answer, or a sentence from a closed list. The seed is printed; `SEED=… pytest
tests/trials/test_t12_fuzz_device_api.py` runs the same inputs again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter

import msgspec

from appliance.intake import attributes, topics
from appliance.intake import device_bodies as bodies
from appliance.intake.device import Taken, Turned
from appliance.intake.device_api import BUSY
from appliance.intake.device_bodies import Fault
from appliance.intake.device_calls import UNASKED
from appliance.intake.topics import Not
from fleet import limits
from tests.appliance.lines import KESTREL, MAST, NEW, STRANGER, Site, Wire

INPUTS = 100_000
REASONS = frozenset((*Fault, *Turned, Not.KNOWN.value, Not.FOREIGN.value, UNASKED, BUSY))

WHOLE = (
    *topics._WHOLE,
    *topics._OF_GATEWAYS,
    "/provision/request",
    *(start + "7" for start, _ in topics._NUMBERED),
    "v1/devices/kestrel/telemetry",
    "v1/devices/buoy/rpc/response/3",
    "v1/devices/01MAST/attributes/request/99",
)
PIECES = ("v1", "v2", "devices", "gateway", "me", "telemetry", "attributes", "request", "response", "rpc", "claim", "t", "a",
          "r", "req", "res", "j", "p", "1", "007", "99999999999", "-1", "", "+", "#", "kestrel", "01MAST", "buoy", "\x00",
          "ä", "\ud800", "provision", "x" * 300, "١")  # fmt: skip
BODIES = (
    b'{"k":1}',
    b'[{"ts":1795253400123,"values":{"temperature":21.5,"ok":true,"s":"x"}},{"k":NaN}]',
    b'{"clientKeys":"a,b","sharedKeys":"c"}',
    b'{"method":"getSessionLimits","params":{"timeout":5000}}',
    b'{"method":"getCurrentTime"}',
    b'{"buoy":[{"ts":1,"values":{"t":1}}],"mast":{"t":2}}',
    b'{"buoy":{"rev":1,"gone":null}}',
    b'{"device":"buoy","type":"float"}',
    b'{"id":1,"device":"buoy","client":true,"key":"k"}',
    b'{"id":2,"device":"buoy","client":false,"keys":["a","b"]}',
    b'{"device":"buoy","id":1,"data":{"ok":1}}',
    b'{"secretKey":"tern","durationMs":60000}',
    b'{"buoy":{"secretKey":"tern","durationMs":1e999}}',
    b'{"deviceName":"n","provisionDeviceKey":"k","provisionDeviceSecret":"GUESSED"}',
    b"{}",
    b"[]",
    b"null",
    b"",
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b"[" * 5_000,
    b'{"a":"' + b"y" * 70_000 + b'"}',
    json.dumps({f"d{n}": [] for n in range(1_200)}).encode(),
)
SPICE = (b"\x00", b"\xff", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"null", b"NaN", b"1e999", b"-", b"\\ud800",
         b"9" * 40, b"true", b" ", b"\n", b"\xed\xa0\x80")  # fmt: skip


def any_topic(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(WHOLE)
    if rng.random() < 0.5:
        levels = rng.choice(WHOLE).split("/")
        levels[rng.randrange(len(levels))] = rng.choice(PIECES)
        return "/".join(levels)
    return "/".join(rng.choice(PIECES) for _ in range(rng.randrange(8)))


def any_body(rng: random.Random) -> bytes:
    body = bytearray(rng.choice(BODIES[:18] if rng.random() < 0.98 else BODIES))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(3):
            case 0:
                body[at:at] = rng.choice(SPICE)
            case 1:
                del body[at : at + rng.randrange(1, 6)]
            case _:
                body[at : at + 1] = rng.randbytes(1)
    return bytes(body)


def check(taken: Taken, body: bytes) -> str:
    assert not (taken.records and taken.refused)
    if taken.refused:
        assert taken.refused in REASONS, taken.refused
        return "refused"
    assert taken.intake in ("", attributes.INTAKE)
    assert len(taken.records) <= limits.gateway_devices_max
    for behind, raw in taken.records:
        assert raw in body  # the very bytes
        assert len(raw) <= limits.record_bytes_max
        assert behind == "" or topics.is_name(behind)
        for point in bodies.points(raw):
            assert point in raw
        if taken.intake:
            said = attributes.parse(raw, 0).attributes
            assert all(len(text.encode()) <= limits.attribute_bytes_max for text in said.values())
            for text in said.values():
                msgspec.json.decode(text.encode())
    return "records" if taken.records else "nothing"


async def fuzz(seed: int) -> Counter[str]:
    rng, site, fates = random.Random(seed), Site(), Counter[str]()
    wires = [Wire(device, "#") for device in (KESTREL, MAST, STRANGER, NEW)]
    for wire in wires:
        site.api.opened(wire)
    for number in range(INPUTS):
        wire, topic, body = rng.choice(wires), any_topic(rng), any_body(rng)
        taken = site.api.published(wire, topic, body)
        fates[check(taken, body)] += 1
        if topics.holds_secret(topic) and taken.refused:
            assert taken.secret
        topics.may_subscribe(wire.device, topic)
        if number % 500 == 0:
            await site.settle()
            await asyncio.sleep(0)
            for one in wires:
                one.heard.clear()
    assert len(site.api.seats) <= 2 * (limits.gateway_devices_max + 1)
    return fates


async def test_no_message_makes_the_device_api_raise() -> None:
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    print(f"SEED={seed}")
    fates = await fuzz(seed)
    assert sum(fates.values()) == INPUTS
    assert min(fates["records"], fates["refused"], fates["nothing"]) > INPUTS // 100, fates
