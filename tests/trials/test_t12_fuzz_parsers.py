"""T12: no bytes make a parser of the intake raise, and what it says stays inside its bounds.

100,000 inputs for each family: a corpus, mutated; and inputs that are well made but say odd things: frames of random
content with a right checksum, known keys with values that they should not have. The seed is printed;
`SEED=… pytest tests/trials/test_t12_fuzz_parsers.py` runs the same inputs again.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import math
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from appliance.intake import bridge_topics, http, payload, syslog
from appliance.intake.mqtt_session import matches
from appliance.intake.payload import Mark
from fleet import limits, mavlink
from fleet.metrics import CANONICAL
from fleet.reading import Reading

INPUTS = 100_000
RECEIVED_NS = 1_795_239_626 * limits.SECOND
RECORD_MAX = limits.record_bytes_max
CRC_EXTRA = {0: 50, 1: 124, 24: 24, 33: 104, 147: 154, 245: 130, 253: 83}

Check = Callable[[bytes, random.Random], None]


def framed(rng: random.Random, number: int, content: bytes) -> bytes:
    """A frame whose checksum holds, whatever it holds."""
    if rng.random() < 0.3:
        head = struct.pack("<BBBBB", len(content), rng.randrange(256), 7, rng.choice((0, 1, 191)), number)
        magic, tail = b"\xfe", b""
    else:
        signed = rng.random() < 0.2
        head = struct.pack("<BBBBBBHB", len(content), int(signed), 0, 9, 7, rng.choice((0, 1, 191)), number, 0)
        magic, tail = b"\xfd", rng.randbytes(13) if signed else b""
    crc = mavlink.crc(head + content + bytes([CRC_EXTRA[number]]))
    return magic + head + content + struct.pack("<H", crc) + tail


def any_frame(rng: random.Random) -> bytes:
    content = rng.choice((rng.randbytes, bytes, lambda size: b"\xff" * size))(rng.randrange(256))
    return framed(rng, rng.choice(list(CRC_EXTRA)), content)


_FRAMES = b"".join(any_frame(random.Random(number)) for number in range(4))
BODIES = (
    b'{"device":"drone-7","battery":87,"temp":21.5,"lat":59.9,"lon":10.7,"status":"OK","ts":1795262400,"armed":true}',
    b'{"values":{"battery":{"pct":87}},"gps":{"lat":1,"lon":2,"alt":3},"msg":"heartbeat","level":"warn","x":[1,{"a":[]}]}',
    b'[{"battery":87},{"battery":NaN,"t":-Infinity,"big":1e308}]',
    b'heartbeat battery=87% temp=21.5C rssi=-71 note="say \\"hi\\"" mode=LAND version=2.4.1 time=2026-11-21T05:40:26Z',
    b"mavlink=" + _FRAMES.hex().encode(),
    b'{"mavlink":"' + base64.b64encode(_FRAMES) + b'"}',
    _FRAMES.hex().encode(),
    base64.b64encode(_FRAMES),
    "grüezi \ufeff \u2028 battery=٣ temp=½".encode(),
    b'{"a":' * 40 + b"1" + b"}" * 40,
)
HEADERS = (
    b"<134>1 2026-11-21T05:40:26.070822+00:00 drone-7 agent 4 STATUS - ",
    b'<14>1 - birch agent - HEARTBEAT [a@1 battery="87" note="\\" \\\\ \\]"][meta sysUpTime="12"] \xef\xbb\xbf',
    b"<13>Nov 21 05:40:26 alder sshd[412]: ",
    b"<13>2026-11-21T05:40:26.079317+00:00 vm dev9 ",
    b"<13>Feb 29 2024 05:40:60.5: alder ",
    b"<11>pyapp: ",
    b"",
)
SPICE = (
    b"\x00", b"\n", b"\r\n", b" ", b'"', b"\\", b"]", b"[", b"{", b"}", b"=", b":", b"<", b">", b"-", b",", b"\xff",
    b"\xed\xa0\x80", b"<191>1 ", b"<192>", b"999999999 ", b"0", b"1e999", b"9" * 30, b"NaN", b"-Infinity", b"\xfd",
    b"\xfe", b"\xef\xbb\xbf", b"2090-01-01T00:00:00Z", b"1970-01-01", b"ts=", b'"ts":', b"\\ud800", b"null", b"true",
    b"[" * 40, b"mavlink=", b"Jan 32 ",
)  # fmt: skip


KEYS = (
    *CANONICAL, *payload.NAMES, "ts", "time", "timestamp", "health", "status", "version", "mode", "flight", "landed_state",
    "armed", "heartbeat", "type", "severity", "level", "msg", "mavlink", "gps", "values", "Rotor.2", "k" * 129, "", "\u2028",
)  # fmt: skip
VALUES: tuple[object, ...] = (
    0, -1, 87, 21.5, -0.0, 91, 180.5, 1e308, -1e308, 5e-324, 2**63, -(2**64), 10**310, 1_795_262_400, 1_795_262_400_123,
    1_795_262_400.5, True, False, None, "", "OK", "87%", "nan", "-inf", "1_000", " 5 ", "0x10", "heartbeat", "LAND", "7", "²",
    "2026-11-21T05:40:26Z", "2026-W47-6", "0001-01-01T00:00:00+23:59", "fd", "/Q==", "n" * 200, "\x00", "grüezi", [], [1, {}],
)  # fmt: skip


def any_object(rng: random.Random, depth: int = 0) -> dict[str, object]:
    """Keys that mean something, with values that they should and should not have."""
    keys = rng.choices(KEYS, k=80 if depth == 0 and rng.random() < 0.03 else rng.choice((0, 1, 3, 6)))
    return {key: any_object(rng, depth + 1) if depth < 4 and rng.random() < 0.1 else rng.choice(VALUES) for key in keys}


def in_words(rng: random.Random) -> bytes:
    quote = rng.choice(("", '"', "'"))
    return " ".join(f"{key}={quote}{value}{quote}" for key, value in any_object(rng).items()).encode()


def in_json(rng: random.Random) -> bytes:
    return json.dumps(any_object(rng), ensure_ascii=rng.random() < 0.5).encode()


def mutated(rng: random.Random, corpus: tuple[bytes, ...]) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        span = rng.randrange(1, 20)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + span]
        elif kind == 2:
            data[at:at] = rng.choice(SPICE)
        elif kind == 3:
            data[at:at] = data[at : at + span] * rng.randrange(1, 4)
        elif kind == 4:
            data[at:] = rng.choice(corpus)[rng.randrange(100) :]
        else:
            data[at : at + span] = rng.randbytes(span)
    return bytes(data)


def mind(reading: Reading) -> None:
    """What holds of every reading."""
    assert len(reading.metrics) <= limits.metrics_per_record_max
    assert all(math.isfinite(value) and type(value) is float for value in reading.metrics.values())
    assert all(0 < len(name) <= limits.name_chars_max for name in reading.metrics if name)
    assert reading.severity is None or 0 <= reading.severity <= 7
    assert reading.name is None or 0 < len(reading.name) <= limits.name_chars_max
    assert reading.version is None or 0 < len(reading.version) <= limits.name_chars_max
    assert reading.text is None or 0 < len(reading.text) <= RECORD_MAX
    assert set(reading.marks) <= set(Mark)
    assert len(set(reading.marks)) == len(reading.marks)
    if reading.claimed_ns is not None:
        assert limits.claimed_ns_min <= reading.claimed_ns <= limits.claimed_ns_max
    if reading.position is not None:
        assert abs(reading.position.lat_deg) <= 90
        assert abs(reading.position.lon_deg) <= 180


# -- the families: how an input is made, and what must hold of it ------------------------------------------------------


def mavlink_bytes(rng: random.Random) -> bytes:
    frames = b"".join(any_frame(rng) for _ in range(rng.randrange(1, 4)))
    return frames if rng.random() < 0.5 else mutated(rng, (frames, any_frame(rng)))


def check_mavlink(data: bytes, rng: random.Random) -> None:
    found = mavlink.decode(data)
    assert len(found) <= mavlink.FRAMES_MAX + 1
    for frame in found:
        if isinstance(frame, mavlink.Message):
            mind(mavlink.reading(frame))
        else:
            assert 0 <= frame.offset < len(data)


def payload_bytes(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        frames = any_frame(rng) + any_frame(rng)
        return rng.choice(
            (b"mav=" + frames.hex().encode(), base64.b64encode(frames), b'{"mav":"%s"}' % frames.hex().encode())
        )
    return rng.choice((in_words, in_json, lambda rng: mutated(rng, BODIES)))(rng)


def check_payload(data: bytes, rng: random.Random) -> None:
    mind(payload.reading(payload.read(data)))


SYSLOG = tuple(header + body for header in HEADERS for body in (*BODIES[:4], b"msg\n", b"multi\nline\x00"))


def check_syslog(data: bytes, rng: random.Random) -> None:
    reading = syslog.parse(data, received_ns=RECEIVED_NS)
    mind(reading)
    name = syslog.sender(data)
    assert not name or reading.name == name


def check_framer(data: bytes, rng: random.Random) -> None:
    """Any stream is split within bounds; and messages that were counted come back exactly, whatever was before."""
    framer, frames, at = syslog.Framer(), [], 0
    while at < len(data):
        step = rng.randrange(1, 64)
        frames += framer.feed(data[at : at + step])
        at += step
    frames += framer.close()
    assert all(0 < len(frame.raw) <= RECORD_MAX for frame in frames)
    assert all(frame.raw in data for frame in frames)
    counted = [frame.raw for frame in frames]
    again = syslog.Framer()
    stream = b"".join(b"%d %s" % (len(raw), raw) for raw in counted)
    middle = rng.randrange(len(stream) + 1)
    assert [frame.raw for frame in again.feed(stream[:middle]) + again.feed(stream[middle:])] == counted
    assert again.close() == []


HTTP = (*BODIES, b"\n".join(BODIES[:2]), b"[" + b",".join(BODIES[:2]) + b"]", gzip.compress(BODIES[0]))


def http_bytes(rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return mutated(rng, HTTP)
    lines = [in_json(rng) for _ in range(rng.choice((1, 1, 2)))]
    return b"\n".join(lines) if rng.random() < 0.8 else mutated(rng, (b"[" + b",".join(lines) + b"]",))


def check_http(data: bytes, rng: random.Random) -> None:
    with contextlib.suppress(http.BadBody):  # most inputs are no gzip; they are split as they are
        data = http.inflate(data, 10_000)
    kind = rng.choice(("", "application/json", "application/x-ndjson"))
    records, refusals = http.split(data, kind)
    assert http.named(data, kind) == ([(record, http.sender(record)) for record in records], refusals)
    assert records or refusals
    assert all(len(refusal.raw) <= RECORD_MAX for refusal in refusals)
    for record in records:
        assert record in data
        json.loads(record)  # what is taken for JSON is JSON for others too
        reading = http.parse(record, RECEIVED_NS)
        mind(reading)
        assert Mark.UNPARSED not in reading.marks
        name = http.sender(record)
        assert not name or reading.name == name
    for refusal in refusals:
        mind(http.parse(refusal.raw, RECEIVED_NS))
        http.sender(refusal.raw)


TEMPLATES = ("sensors/{node}/telemetry", "plant/dev-{node}/#", "a/+/{node}", "lines/+/state", "$SYS/#", "+/+/+")
TOPICS = (
    b"sensors/alder-7/telemetry",
    b"plant/dev-17/a/b",
    b"a/b/c",
    b"lines/4/state",
    "mast/é/\U0001f6f0".encode(),
    b"/",
)


def bridge_bytes(rng: random.Random) -> bytes:
    """A topic, and what came on it."""
    topic, raw = mutated(rng, TOPICS), rng.choice((in_json, in_words, lambda rng: mutated(rng, BODIES)))(rng)
    return topic.replace(b"\0", b"") + b"\0" + raw


def check_bridge(data: bytes, rng: random.Random) -> None:
    """Whatever a broker brings: the templates agree with what was subscribed, and a name is one."""
    words, _, raw = data.partition(b"\0")
    topic = words.decode(errors="replace")
    texts = rng.sample(TEMPLATES, 2) + [topic] * (rng.random() < 0.2)
    made = [one for one in map(bridge_topics.template, texts) if isinstance(one, bridge_topics.Template)]
    for one in made:
        if not (topic.startswith("$") and one.filter[:1] in "+#"):
            assert matches(one.filter, topic) or not one.pattern.fullmatch(topic)
    name = bridge_topics.node_of(made, "machine.serial", topic, raw)
    assert len(name) <= limits.name_chars_max
    assert name.isprintable()
    bridge_topics.wrong_with(texts, rng.choice(("", "a.b")))
    mind(bridge_topics.parse(raw, RECEIVED_NS))
    memory = bridge_topics.Memory(2)
    seen = bridge_topics.came(rng.randrange(3), topic, raw)
    assert not memory.repeated(seen, dup=True, retained=True)
    memory.stored(seen)
    assert memory.repeated(seen, dup=True, retained=True)


FAMILIES: dict[str, tuple[Callable[[random.Random], bytes], Check]] = {
    "mavlink": (mavlink_bytes, check_mavlink),
    "payload": (payload_bytes, check_payload),
    "syslog": (lambda rng: mutated(rng, SYSLOG), check_syslog),
    "framer": (lambda rng: b"\n".join(mutated(rng, SYSLOG) for _ in range(rng.randrange(1, 3))), check_framer),
    "http": (http_bytes, check_http),
    "bridge": (bridge_bytes, check_bridge),
}


def inputs(seed: int, make: Callable[[random.Random], bytes]) -> Iterator[tuple[random.Random, bytes]]:
    """Each input begins with a seed of its own, so that one that fails can be made again alone."""
    rng = random.Random()
    for number in range(INPUTS):
        rng.seed(seed + number)
        yield rng, make(rng)


@pytest.mark.trial
@pytest.mark.parametrize("family", FAMILIES)
def test_no_input_makes_a_parser_raise(family: str, record_property: Callable[[str, object], None]) -> None:
    seed = int(os.environ.get("SEED") or time.time_ns())
    record_property("seed", seed)
    sys.stdout.write(f"T12 {family}: SEED={seed}, {INPUTS} inputs\n")
    make, check = FAMILIES[family]
    for number, (rng, data) in enumerate(inputs(seed, make)):
        try:
            check(data, rng)
        except Exception as error:
            error.add_note(f"T12 {family}: SEED={seed}, input {number}: {data[:2000]!r}")
            raise


SIZES = (480, 2048, 8192, RECORD_MAX - 1, RECORD_MAX, RECORD_MAX + 1)
HEAD = b"<13>1 2026-11-21T05:40:26Z alder app - - - "


@pytest.mark.trial
@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_that_the_rfcs_name_are_exact(size: int) -> None:
    """RFC 5424 6.1 (480, 2048), RFC 5425 4.3.1 (2048, 8192), and our own bound, which is that of UDP."""
    raw, fits = HEAD.ljust(size, b"x"), size <= RECORD_MAX
    kept, marks = raw[:RECORD_MAX], () if fits else ("oversize",)
    reading = syslog.parse(raw, received_ns=RECEIVED_NS)
    assert (reading.text, reading.marks) == (kept[len(HEAD) :].decode(), marks)
    for stream in (b"%d %s" % (size, raw), b"%d %s\n" % (size + 1, raw), raw + b"\n", raw + b"\r\n", raw + b"\x00"):
        framer = syslog.Framer()
        assert framer.feed(stream + b"<1>next\n<1>") == [syslog.Frame(kept, marks), syslog.Frame(b"<1>next")]
    record = b'{"x":"%s"}' % (b"x" * (size - 8))
    assert http.split(record, "") == (
        ([record], []) if fits else ([], [http.Refusal(http.Reason.TOO_LONG, record[:RECORD_MAX])])
    )
