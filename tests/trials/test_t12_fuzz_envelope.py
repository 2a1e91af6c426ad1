"""T12 for what a log is made of: 100,000 and more inputs, seeded; broken bytes, and whole ones with a wrong inside that
is hashed and signed as it should be. Each is read or refused in the one way that its reader promises; nothing crashes,
nothing grows, and what was accepted verifies.
"""

from __future__ import annotations

import random
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backports import zstd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet import envelope, events, limits, series
from fleet.envelope import Block, Head, Log
from fleet.events import KINDS, Clock
from store import journal
from store.keys import public_bytes
from sync import receive, wire
from sync.wire import WireProblem

pytestmark = pytest.mark.trial

SEED = 12
KEY = Ed25519PrivateKey.from_private_bytes(b"alder".ljust(32))
PUBLIC = public_bytes(KEY)
LOG = Log("fleet", "01ALDER0000000000000000000", 1)
EDGES = [0, 1, -1, 127, 128, 255, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]
SCHEMA = (Path(journal.__file__).parent / "schema.sql").read_text()


def mutated(raw: bytes, dice: random.Random) -> bytes:
    """One to four small harms: flips, cuts, repeats, insertions, and numbers that make a length or a type huge."""
    out = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 1:
                del out[at : at + dice.randint(1, 9)]
            case 2:
                out[at:at] = out[max(at - dice.randint(1, 30), 0) : at]
            case 3:
                out[at:at] = dice.randbytes(dice.randint(1, 9))
            case 4:
                out[at : at + 5] = bytes([dice.choice(b"\xc6\xdb\xdd\xdf\xc9\xcf")]) + b"\xff" * 4
            case 5:
                out[at : at + 4] = struct.pack(">I", dice.choice(EDGES) & 0xFFFFFFFF)
    return bytes(out)


def wild(dice: random.Random, depth: int = 0) -> Any:
    """Any value that MessagePack can carry."""
    match dice.randrange(9 if depth < 4 else 7):
        case 0:
            return dice.choice(EDGES)
        case 1:
            return dice.choice(["", "drone", "node.heard", "\x00", "\ud7ff\U0010ffff", "x" * 600])
        case 2:
            return dice.randbytes(dice.randrange(40))
        case 3:
            return dice.choice([None, True, False])
        case 4:
            return dice.choice([0.0, -0.0, 1e308, float("inf"), float("nan")])
        case 5:
            return dice.randrange(1 << 16)
        case 6:
            return dice.choice(["LIVE", "ACTIVE/DELAYED", "first"])
        case 7:
            return [wild(dice, depth + 1) for _ in range(dice.randrange(5))]
        case _:
            return {str(n): wild(dice, depth + 1) for n in range(dice.randrange(4))}


BODIES = [("node.heartbeat_resumed", [1, 2]), ("token.revoked", ["ci", "Alice"]), ("appliance.started", ["1.0", True])]


def an_event(dice: random.Random, seq: int) -> list[Any]:
    """An event as plain values, with up to three of them wrong."""
    kind, fields = dice.choice([*BODIES, ("node.teleported", wild(dice)), (dice.choice([*KINDS]), [wild(dice)] * 3)])
    made = [seq, seq << 16, 5, 2, kind, 1, "drone", fields]
    for _ in range(dice.choice([0, 0, 1, 3])):
        made[dice.randrange(len(made))] = wild(dice)
    return made if dice.random() < 0.9 else made[: dice.randrange(9)]


def seeds(dice: random.Random) -> list[Block]:
    blocks, head = [], envelope.EMPTY
    for count in (1, 4, 2):
        first = head.seq + 1
        raw = [msgspec.msgpack.encode(an_event(dice, first + n)) for n in range(count)]
        blocks.append(envelope.seal(LOG, head, raw, KEY))
        head = blocks[-1].head
    return blocks


def refused_or_read(read: Callable[[bytes], object], raw: bytes, refusal: type[Exception]) -> bool:
    try:
        read(raw)
    except refusal:
        return False
    return True


def test_fifty_thousand_broken_blocks() -> None:
    dice = random.Random(SEED)
    whole = [envelope.encode(block) for block in seeds(dice)]
    accepted = 0
    for _ in range(50_000):
        raw = mutated(dice.choice(whole), dice)
        try:
            block = envelope.decode(raw)
        except ValueError:
            continue
        if envelope.check(block, KEY.public_key()) is None:
            accepted += 1
            assert envelope.encode(block) in whole  # harmed where it does not matter: the encoding of a length
    assert accepted < 50_000


def test_forty_thousand_broken_events() -> None:
    dice, read = random.Random(SEED + 1), 0
    for number in range(40_000):
        raw = msgspec.msgpack.encode(an_event(dice, number))
        if number % 2:
            raw = mutated(raw, dice)
        if refused_or_read(lambda raw: events.decode(raw, writer="A", epoch=1), raw, ValueError):
            read += 1
            events.fields(events.decode(raw, writer="A", epoch=1).body)
    assert 1_000 < read < 40_000


def test_ten_thousand_broken_windows_of_series() -> None:
    dice, window = random.Random(SEED + 2), series.Window(0)
    for step in range(30):
        window.add(step * 20, {"cpu": step, "rtt_ms": 1.5})
    whole = window.encode()
    for _ in range(10_000):
        refused_or_read(lambda raw: series.decode(0, raw), mutated(whole, dice), ValueError)


def test_ten_thousand_broken_files() -> None:
    """Harm to the file, and harm to what is compressed inside it (the frame's own checksum made good again)."""
    dice = random.Random(SEED + 3)
    blocks = seeds(dice)
    whole = b"".join(wire.write(blocks, PUBLIC, LOG))
    header = whole[: len(wire.MAGIC) + 6 + struct.unpack_from(">I", whole, len(wire.MAGIC) + 2)[0]]
    inside = b"".join(struct.pack(">I", len(raw)) + raw for raw in map(envelope.encode, blocks))
    end = struct.pack(">IQ32s", 0, *blocks[-1].head)
    read = 0
    for number in range(10_000):
        if number % 2:
            raw = mutated(whole, dice)
        else:
            data = zstd.compress(mutated(inside, dice))
            raw = header + struct.pack(">I", len(data)) + data + end
        read += refused_or_read(lambda raw: list(wire.read([raw])), raw, WireProblem)
    assert read < 10_000


class Harbor:
    """A journal in memory that receives."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(SCHEMA)
        start = events.LogStarted("first", PUBLIC)
        first = events.encode_all(1, 1, 1, Clock.SYNCED, [("log", start, events.encode_body(start))])
        self.head = envelope.EMPTY
        assert isinstance(self.take(envelope.seal(LOG, self.head, first, KEY)), receive.Accept)

    def take(self, block: Block) -> receive.Decision:
        self.db.execute("BEGIN")
        decision = receive.receive(self.db, block, PUBLIC, 1)
        self.db.execute("COMMIT")
        if isinstance(decision, receive.Accept):
            self.head = decision.head
        return decision


def test_four_thousand_wrong_blocks_that_are_hashed_and_signed_as_they_should_be() -> None:
    """The writer's own key on a wrong inside: accepted, kept as it came and verifiable, or refused and no trace."""
    dice, harbor, taken = random.Random(SEED + 4), Harbor(), 0
    for _ in range(4_000):
        first = harbor.head.seq + 1
        raw = [msgspec.msgpack.encode(an_event(dice, first + n)) for n in range(dice.choice([1, 1, 1, 2, 5]))]
        if dice.random() < 0.1:
            raw[0] = mutated(raw[0], dice)
        before = harbor.db.total_changes
        decision = harbor.take(envelope.seal(LOG, harbor.head, raw, KEY))
        assert isinstance(decision, receive.Accept | receive.Refuse)
        taken += isinstance(decision, receive.Accept)
        assert (harbor.db.total_changes > before) == isinstance(decision, receive.Accept)
    assert 100 < taken <= 4_000
    (verdict,) = journal.verify(harbor.db)
    assert (verdict.fault, verdict.head, verdict.blocks) == (None, harbor.head, taken + 1)
    assert sum(map(len, journal.read(harbor.db))) == verdict.events


def test_two_thousand_wrong_envelopes_that_are_hashed_and_signed_as_they_should_be() -> None:
    dice, harbor = random.Random(SEED + 5), Harbor()
    body = events.HeartbeatResumed(1)
    decisions: set[type] = set()
    for _ in range(2_000):
        seq = dice.choice([harbor.head.seq, 0, 1, harbor.head.seq + 5, 1 << 40])
        previous = dice.choice([harbor.head.hash, envelope.GENESIS, dice.randbytes(32), dice.randbytes(31)])
        log = LOG._replace(
            epoch=dice.choice([1, 1, 1, 0, 2, 1 << 40]), tenant=dice.choice(["fleet", "fleet", "", "x" * 99])
        )
        raw = events.encode_all(seq + 1, 1, 1, Clock.SYNCED, [("drone", body, events.encode_body(body))])
        block = envelope.seal(log, Head(seq, previous), raw, KEY)
        if dice.random() < 0.3:
            field = dice.choice(["first_seq", "epoch", "version"])
            block = msgspec.structs.replace(block, **{field: dice.choice(EDGES)})
        decisions.add(type(harbor.take(block)))
    assert decisions == {receive.Accept, receive.Gap, receive.Fork, receive.Refuse}
    assert all(verdict.fault is None for verdict in journal.verify(harbor.db))


def test_bombs_are_refused() -> None:
    deep = b"\x91" * (limits.event_bytes_max - 10) + b"\x00"
    wide = b"\xdd\xff\xff\xff\xff"
    for raw in (
        deep,
        wide,
        b"\x98\x01\x02\x03\x02\xa3new\x01\xa0" + deep,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ):
        with pytest.raises(ValueError):
            events.decode(raw, writer="A", epoch=1)
        with pytest.raises(ValueError):
            envelope.decode(raw)
        with pytest.raises(ValueError):
            series.decode(0, raw)
