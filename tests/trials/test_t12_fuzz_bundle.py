"""T12 for bundles: 25,000 inputs, seeded. Broken bytes, and whole files with a wrong inside that alder's true key
hashed, sealed and signed as it should be. Each is read or refused with a `Problem`; nothing crashes, nothing grows.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleet.events import Clock
from store import sealing
from sync import bundle
from sync.bundle import BundleProblem, Header, Problem, Reader, Receiver, Recipient, Sender
from sync.link import Parcel
from sync.messages import PARCEL_BYTES_MAX, Lane

pytestmark = pytest.mark.trial

SEED = int(os.environ.get("SEED", "20261121"))
KEY = Ed25519PrivateKey.from_private_bytes(b"alder".ljust(32))
PUBLIC = KEY.public_key()
HARBOR_KEY = X25519PrivateKey.from_private_bytes(b"harbor".ljust(32))
ONCE = X25519PrivateKey.from_private_bytes(b"once".ljust(32))  # one for all files here: only the speed needs it
ALDER, HARBOR = "01ALDER0000000000000000000", "01HARBR0000000000000000000"
NOW_NS = 1_795_219_200_000_000_000
EDGES = [0, 1, -1, 127, 128, 255, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]
WHAT = [Parcel(ALDER, lane, lane.name.encode() * 9) for lane in Lane for _ in range(3)]
PLAIN = b"".join(map(bundle._record, WHAT))
FIELDS: list[Any] = [
    "fleet", ALDER, HARBOR, sealing.public_bytes(HARBOR_KEY), sealing.public_bytes(ONCE), bytes(16), 1, 1, NOW_NS, 2, 0,
    True, False, (3, 3, 3, 3),
]  # fmt: skip
ME = Receiver(HARBOR_KEY, "fleet", HARBOR, True)


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
    match dice.randrange(7 if depth < 3 else 5):
        case 0:
            return dice.choice(EDGES)
        case 1:
            return dice.choice(["", "fleet", HARBOR, "\x00", "\x1b[2J", "\ud7ff\U0010ffff", "x" * 600])
        case 2:
            return dice.randbytes(dice.choice([0, 16, 31, 32, 33]))
        case 3:
            return dice.choice([None, True, False, 0.5, float("nan"), float("inf")])
        case 4:
            return dice.randrange(1 << 16)
        case 5:
            return [wild(dice, depth + 1) for _ in range(dice.randrange(5))]
        case _:
            return {str(n): wild(dice, depth + 1) for n in range(dice.randrange(4))}


def likely(value: Any, dice: random.Random) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return dice.choice([0, 1, 2, NOW_NS - 1, NOW_NS + 1, bundle.PARTS_MAX, *EDGES])
        case str():
            return dice.choice(["fleet", "others", ALDER, HARBOR, "x" * 128, "x" * 129, ""])
        case bytes():
            return dice.randbytes(len(value))
    return dice.sample(value, len(value))


def file_of(header: bytes, plain: bytes, *, body: bytes | None = None, front: bytes | None = None) -> bytes:
    """Hashed, sealed and signed as it should be."""
    full, rest = divmod(len(plain), bundle.CHUNK_BYTES)
    chunks = full + bool(rest) or 1
    size = len(plain) + chunks * sealing.TAG_BYTES if body is None else len(body)
    front = front or bundle._FRONT.pack(PUBLIC.public_bytes_raw(), len(header), size)
    start = bundle.MAGIC + b"\x00\x01" + front + header
    if body is None:
        stream = sealing.sealer(ONCE, sealing.public_bytes(HARBOR_KEY), hashlib.sha256(start).digest())
        cuts = [plain[n * bundle.CHUNK_BYTES :][: bundle.CHUNK_BYTES] for n in range(chunks)]
        body = b"".join(stream.seal(n, one, n == chunks - 1) for n, one in enumerate(cuts))
    whole = start + body
    return whole + KEY.sign(b"skerry bundle signature\x00" + hashlib.sha256(whole).digest())


HEADER = msgspec.msgpack.encode(FIELDS)
WHOLE = file_of(HEADER, PLAIN)


class Harbor:
    """Reads from one file on a disk; what came is counted."""

    def __init__(self, folder: Path) -> None:
        self.path, self.said = folder / "x.bundle", Counter[Problem | None]()
        assert self.read(WHOLE) == WHAT

    def tell(self) -> None:
        print({problem.name if problem else "read": count for problem, count in self.said.most_common()})

    def read(self, raw: bytes) -> list[Parcel]:
        self.path.write_bytes(raw)
        came: list[Parcel] = []
        problem = None
        try:
            with Reader.open(self.path, ME, key_of=lambda *who: PUBLIC, now_ns=NOW_NS, clock=Clock.SYNCED) as reader:
                assert reader.header.recipient == HARBOR
                for parcel in reader.parcels():
                    assert len(parcel.data) <= PARCEL_BYTES_MAX
                    assert not came or came[-1].lane <= parcel.lane
                    assert parcel.peer == reader.header.sender
                    came.append(parcel)
                assert tuple(sum(one.lane == lane for one in came) for lane in Lane) == reader.header.counts
        except BundleProblem as found:
            problem = found.problem
        self.said[problem] += 1
        seen = bundle.inspect(self.path)
        assert seen.problem is None or problem is not None
        if seen.header is not None:
            assert (seen.header.tenant + seen.header.sender + seen.header.recipient).isprintable()
        return came


@pytest.fixture
def harbor(tmp_path: Path) -> Harbor:
    return Harbor(tmp_path)


def test_seven_thousand_broken_files(harbor: Harbor) -> None:
    dice = random.Random(SEED)
    for _ in range(7_000):
        raw = mutated(WHOLE, dice)
        assert not harbor.read(raw) or raw == WHOLE
    harbor.tell()
    assert harbor.said[None] < 100


def test_eight_thousand_wrong_headers_that_are_signed(harbor: Harbor) -> None:
    dice = random.Random(SEED + 1)
    for number in range(8_000):
        fields = [*FIELDS]
        for _ in range(dice.choice([1, 1, 2, 3])):
            place = dice.randrange(len(fields))
            fields[place] = wild(dice) if dice.random() < 0.3 else likely(FIELDS[place], dice)
        fields = fields[: dice.randrange(15)] if dice.random() < 0.05 else fields + [wild(dice)] * (number % 3 == 0)
        header = msgspec.msgpack.encode(fields)
        harbor.read(file_of(mutated(header, dice) if dice.random() < 0.1 else header, PLAIN))
    harbor.tell()
    assert {Problem.RECIPIENT, Problem.TENANT, Problem.DIRECTION, Problem.SEALED, Problem.EXPIRED} <= set(harbor.said)


def test_seven_thousand_wrong_insides_that_are_sealed_and_signed(harbor: Harbor) -> None:
    """A parcel that comes out is one that alder sealed, whole and in its lane's turn."""
    dice = random.Random(SEED + 2)
    for _ in range(7_000):
        records: list[bytes] = []
        for _ in range(dice.randrange(8)):
            data = dice.randbytes(dice.choice([0, 1, 40]))
            length = len(data) if dice.random() < 0.9 else dice.choice([PARCEL_BYTES_MAX + 1, 0xFFFFFFFF, 39, 41])
            records.append(bundle._PARCEL.pack(dice.choice([0, 1, 2, 3, 3, 4, 255]), length) + data)
        plain = b"".join(sorted(records) if dice.random() < 0.7 else records)
        plain = mutated(plain, dice) if dice.random() < 0.2 else plain
        counts = [sum(record[0] == lane for record in records) for lane in Lane]
        counts[dice.randrange(4)] += dice.choice([0, 0, 0, 1])
        fields = [*FIELDS[:-1], counts]
        harbor.read(file_of(msgspec.msgpack.encode(fields), plain))
    harbor.tell()
    assert set(harbor.said) == {Problem.INSIDE, None}
    assert harbor.said[None] > 500


def test_three_thousand_wrong_fronts_and_bodies_that_are_signed(harbor: Harbor) -> None:
    dice = random.Random(SEED + 3)
    body = WHOLE[bundle._START_BYTES + len(HEADER) : -64]
    for number in range(3_000):
        if number % 2:
            raw = file_of(HEADER, PLAIN, body=mutated(body, dice) if number % 4 == 1 else body[: dice.randrange(20)])
        else:
            sizes = dice.choice([len(HEADER), 0, 2_049, 0xFFFFFFFF]), dice.choice([len(body), 0, 15, 16, (1 << 64) - 1])
            key = dice.choice([PUBLIC.public_bytes_raw(), bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
            raw = file_of(HEADER, PLAIN, body=body, front=bundle._FRONT.pack(key, *sizes))
        assert raw == WHOLE or not harbor.read(raw)
    harbor.tell()
    assert {Problem.CHANGED, Problem.ALTERED, Problem.TRUNCATED} <= set(harbor.said)


def test_bombs_are_refused_with_little_memory(harbor: Harbor) -> None:
    deep = b"\x91" * (bundle.HEADER_BYTES_MAX - 1) + b"\x00"
    tracemalloc.start()
    try:
        for header in (deep, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b""):
            assert not harbor.read(file_of(header, PLAIN))
        assert set(harbor.said) == {None, Problem.INSIDE}
        many = bundle._PARCEL.pack(0, 0) * 200_000  # the smallest parcels there are
        fields = [*FIELDS[:-1], (200_000, 0, 0, 0)]
        assert len(harbor.read(file_of(msgspec.msgpack.encode(fields), many))) == 200_000
        with harbor.path.open("wb") as file:  # a hole of four gibibytes, of which the front speaks
            file.write(bundle.MAGIC + b"\x00\x01" + bundle._FRONT.pack(PUBLIC.public_bytes_raw(), len(HEADER), 1 << 28))
            file.truncate(bundle._START_BYTES + len(HEADER) + (1 << 28) + 64)
        assert bundle.inspect(harbor.path).problem is Problem.ALTERED
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_bundle_that_was_really_exported_is_what_these_are(tmp_path: Path) -> None:
    recipient = Recipient(HARBOR, sealing.public_bytes(HARBOR_KEY))
    sender = Sender(KEY, "fleet", ALDER)
    made = bundle.export(lambda: WHAT, tmp_path, sender, recipient, now_ns=NOW_NS, clock=Clock.SYNCED, expires_ns=0)
    (header,) = [bundle.inspect(path).header for path in made.paths]
    assert header is not None
    ours = dict(zip(Header.__struct_fields__, FIELDS, strict=True))
    assert {name: getattr(header, name) for name in ours if name not in ("ephemeral", "bundle")} == {
        name: value for name, value in ours.items() if name not in ("ephemeral", "bundle")
    }
