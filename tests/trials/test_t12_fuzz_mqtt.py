"""T12: no bytes make the codec or the conversation of MQTT fall, none takes long, and after any of them the others are served.

100,000 inputs: packets of every kind, well made and then mutated, cut, repeated, spliced, and their lengths made to lie; and
conversations: a connected client that says a shuffled run of them. The seed is printed; `SEED=… pytest
tests/trials/test_t12_fuzz_mqtt.py` runs the same inputs again.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from appliance.intake import mqtt_codec as codec
from appliance.intake.mqtt_codec import (
    V5,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Granted,
    Kind,
    Malformed,
    Packet,
    Ping,
    Properties,
    Property,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
)
from fleet import limits
from tests.appliance.mqtt_talk import Box, Client

SEED = int(os.environ.get("SEED", "20261129"))
PACKETS, TALKS, SAID = 80_000, 2_000, 12  # inputs to the codec; conversations, and what is said in each
LEVELS = (V311, V5)

pytestmark = [pytest.mark.trial, pytest.mark.timeout(600)]

TOPICS = (
    "t",
    "v1/devices/me/telemetry",
    "gateway",
    "mallory/t",
    "secret/t",
    "nothing",
    "a/b/c",
    "❄",
    "$SYS/x",
    "x" * 600,
)
FILTERS = (*TOPICS, "#", "+", "a/#", "+/b/+", "a+", "#/a", "$share/g/t", "")
VALUES: dict[Property, codec.Value] = {
    Property.PAYLOAD_FORMAT: 1, Property.MESSAGE_EXPIRY: 5, Property.CONTENT_TYPE: "json", Property.RESPONSE_TOPIC: "r",
    Property.CORRELATION: b"\x00\x01", Property.SUBSCRIPTION_ID: 7, Property.SESSION_EXPIRY: 60,
    Property.AUTH_METHOD: "x", Property.AUTH_DATA: b"y", Property.REQUEST_PROBLEM: 0, Property.WILL_DELAY: 3,
    Property.RECEIVE_MAXIMUM: 2, Property.ALIAS_MAXIMUM: 9, Property.TOPIC_ALIAS: 1, Property.PACKET_MAXIMUM: 64,
    Property.USER: [("k", "v"), ("k", "w")], Property.REASON_STRING: "why", Property.SERVER_KEEP_ALIVE: 9,
}  # fmt: skip
PLACES = {
    Kind.PUBLISH: (1, 2, 3, 8, 9, 35, 38), Kind.CONNECT: (17, 23, 33, 34, 38, 39), Kind.SUBSCRIBE: (11, 38),
    Kind.DISCONNECT: (17, 31, 38),
}  # fmt: skip


def properties(rng: random.Random, kind: Kind) -> Properties:
    """Mostly what may stand there, sometimes what may not."""
    allowed = [Property(number) for number in PLACES.get(kind, (31, 38))]
    found = Properties()
    for name in (
        rng.sample(list(VALUES), rng.randrange(3)) if rng.random() < 0.1 else rng.sample(allowed, rng.randrange(2))
    ):
        value = VALUES[name]
        found[name] = [7] if name is Property.SUBSCRIPTION_ID and kind is Kind.PUBLISH else value
    return found


def packet(rng: random.Random) -> Packet:
    kind = rng.choice((Kind.PUBLISH, Kind.PUBLISH, Kind.PUBLISH, Kind.SUBSCRIBE, Kind.CONNECT, *Kind))
    number, more = rng.choice((1, 2, 3, 0xFFFF, 0)), properties(rng, kind)
    qos = rng.randrange(3)
    match kind:
        case Kind.CONNECT:
            will = Will(rng.choice(TOPICS), rng.randbytes(5), qos, rng.random() < 0.5) if rng.random() < 0.3 else None
            user, password = rng.choice((None, "alice", "")), rng.choice((None, b"", b"secret"))
            return Connect(
                rng.choice(LEVELS),
                rng.choice(("bob", "", "x" * 300)),
                rng.random() < 0.5,
                60,
                will,
                user,
                password,
                more,
            )
        case Kind.PUBLISH:
            payload = rng.choice((b"", b"{}", rng.randbytes(rng.randrange(300)), b"x" * 70_000))
            return Publish(rng.choice(TOPICS), payload, qos, rng.random() < 0.2, False, number if qos else 0, more)
        case Kind.PUBACK | Kind.PUBREC | Kind.PUBREL | Kind.PUBCOMP:
            return Ack(kind, number, rng.choice((0, 0, 0x80, 0x92)), more)
        case Kind.SUBSCRIBE:
            filters = tuple(
                Filter(rng.choice(FILTERS), qos, handling=rng.randrange(3)) for _ in range(rng.randrange(1, 4))
            )
            return Subscribe(number, filters, more)
        case Kind.UNSUBSCRIBE:
            return Unsubscribe(number, tuple(rng.choices(FILTERS, k=rng.randrange(1, 4))), more)
        case Kind.SUBACK | Kind.UNSUBACK:
            return Granted(kind, number, (0,), more)
        case Kind.CONNACK:
            return Connack(0, False, more)
        case Kind.DISCONNECT:
            return Disconnect(rng.choice((0, 4, 0x81)), more)
        case Kind.AUTH:
            return Auth(0x18, more)
        case _:
            return Ping(kind)


def fair(rng: random.Random) -> Packet:
    """One that a client may say, so that a conversation goes on."""
    while True:
        said = packet(rng)
        match said:
            case Connect() | Connack() | Granted() | Auth() | Ping(Kind.PINGRESP):
                continue
            case Disconnect() if rng.random() < 0.8:
                continue
            case Ping():
                return said
        if getattr(said, "packet_id", 1) or (isinstance(said, Publish) and not said.qos):
            return said


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """As it is, or with something wrong in it; half of those with a length that is right all the same."""
    data = bytearray(raw)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(7):
            case 0 if data:
                data[at] = rng.randrange(256)
            case 1 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = rng.choice((b"\x00", b"\xff", b"\x00\x00", b"\xed\xa0\x80", rng.randbytes(4)))
            case 3 if data:
                del data[at : at + rng.randrange(1, 5)]
            case 4 if data:
                del data[at:]
            case 5 if len(data) > 1:
                data[1] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case _:
                data += data[at : at + 20]
    if data and rng.random() < 0.5:
        found = _head_of(bytes(data))
        data[:] = data[:1] + codec.varint(max(len(data) - found, 0)) + data[found:]
    return bytes(data)


def _head_of(data: bytes) -> int:
    """How long the head is that a packet of ours had."""
    end = 1
    while end < min(len(data), 5) and data[end] & 0x80:
        end += 1
    return min(end + 1, len(data))


def test_no_bytes_make_the_codec_fall() -> None:
    rng = random.Random(SEED)
    kinds: Counter[str] = Counter()
    slowest = 0.0
    for number in range(PACKETS):
        level = rng.choice(LEVELS)
        raw = (
            mutated(rng, codec.encode(packet(rng), level)) if rng.random() < 0.95 else rng.randbytes(rng.randrange(40))
        )
        began = time.perf_counter()
        try:
            found = codec.head(raw, 0, 1 << 20)
            if found is None or found[2] > len(raw):
                kinds["cut"] += 1
                continue
            said = codec.decode(found[0], raw[found[1] : found[2]], level)
            again = codec.encode(said, level)
            kinds["read"] += 1
        except Malformed as error:
            kinds["refused"] += 1
            if not (error.reason >= 0x80 and str(error)):
                pytest.fail(f"seed {SEED}, input {number}: {raw.hex()}: {error!r}")
            continue
        except Exception as error:
            raise AssertionError(f"seed {SEED}, input {number}, level {level}: {raw.hex()}") from error
        finally:
            slowest = max(slowest, time.perf_counter() - began)
        head = codec.head(again, 0, 1 << 20)
        assert head is not None
        if not isinstance(said, Connect):
            assert codec.decode(head[0], again[head[1] :], level) == said, f"seed {SEED}, input {number}: {raw.hex()}"
    assert min(kinds.values()) > PACKETS / 50, kinds
    print(f"T12 MQTT seed {SEED}: {PACKETS} packets {dict(kinds)}, the slowest {slowest * 1e3:.1f} ms")


def test_no_conversation_makes_the_decider_fall_and_bob_is_served_all_the_while() -> None:
    rng = random.Random(SEED)
    box = Box()
    bob = box.client(client_id="bob-himself")
    ends: Counter[str] = Counter()
    for talk in range(TALKS):
        client = Client(box, rng.choice(LEVELS))
        said: list[bytes] = []
        try:
            if rng.random() < 0.9:
                stays = Properties({Property.SESSION_EXPIRY: 60}) if rng.random() < 0.5 else codec.NONE
                hello = Connect(client.level, f"mallory-{rng.randrange(5)}", rng.random() < 0.5, properties=stays)
                behind = mutated(rng, codec.encode(packet(rng), client.level)) if rng.random() < 0.1 else b""
                client.bytes_say(codec.encode(hello, client.level) + behind)
            box.slow = rng.random() < 0.3
            box.room = [0.0, 0.1] if rng.random() < 0.1 else []
            for _ in range(SAID):
                raw = codec.encode(fair(rng) if rng.random() < 0.97 else packet(rng), client.level)
                said.append(mutated(rng, raw) if rng.random() < 0.05 else raw)
                client.bytes_say(said[-1], rng.choice((0, 0, 3)) if len(said[-1]) < 1_000 else 0)
                client.send(rng.choice(TOPICS), b"x")
                if client.connection.wait_s:
                    client.goes_on()
                if rng.random() < 0.2:
                    box.commit(stored=rng.random() < 0.8)
            box.commit()
            if rng.random() < 0.5:
                box.pass_s(rng.choice((1, 100)))
            client.breaks()
        except Exception as error:
            told = " ".join(piece.hex() for piece in said)
            raise AssertionError(f"seed {SEED}, conversation {talk}, level {client.level}: {told}") from error
        ends[client.ended[:40]] += 1
        box.clients.remove(client)
        bob.heard.clear()
        if talk % 20 == 0:
            box.slow, box.room = False, []
            assert bob.publishes(b"{}", 1, 1) == [Ack(Kind.PUBACK, 1)]
        box.stored.clear()
        box.said.clear()
    sessions = box.sessions
    assert len(sessions.held) <= 6 + box.made
    assert sessions.retained_count <= limits.mqtt_retained_max
    assert sessions.retained_bytes == sum(
        len(one.payload) for kept in sessions.retained.values() for one in kept.values()
    )
    assert sessions.retained_count == sum(map(len, sessions.retained.values()))
    assert all(len(one.outgoing) <= limits.mqtt_outgoing_max for one in sessions.held.values())
    print(f"T12 MQTT seed {SEED}: {TALKS} conversations of {SAID}, ended by {dict(ends.most_common(8))}")
