"""T12 for what a site and a hub say to each other: 60,000 and more inputs, seeded; broken bytes, and whole ones with a wrong
inside that is signed as it should be. Each is read or refused in the one way that its reader promises; nothing crashes,
nothing inflates, and nothing is stored that was not signed.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
from backports import zstd

from fleet import envelope, events
from fleet.limits import MS, SECOND
from fleet.present import Present, Told
from fleet.reading import Position
from store import journal, link_file
from store.link_file import LinkProblem
from sync import messages, present, receipt, stream
from sync.link import Parcel
from sync.messages import KINDS, Lane
from sync.protocol import State
from tests.simulation.boxes import TENANT, Box, key_of, memory_folder
from tests.simulation.world import Copy, World
from tests.trials.test_t12_fuzz_envelope import mutated, wild

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

SEED = 12
AT_NS = 1_800_000_000 * SECOND
SLOW_S = 0.1


class Watch:
    """How long the slowest input took; told, not asserted."""

    def __init__(self, what: str) -> None:
        self.what, self.slowest_s, self.slow, self.count = what, 0.0, 0, 0

    def read(self, read: Callable[[bytes], object], raw: bytes, *refusals: type[Exception]) -> object:
        """What was read; None when it was refused."""
        began = time.perf_counter()
        try:
            return read(raw)
        except refusals:
            return None
        finally:
            took_s = time.perf_counter() - began
            self.count += 1
            self.slow += took_s > SLOW_S
            self.slowest_s = max(self.slowest_s, took_s)

    def tell(self, number: int, what: str = "read") -> None:
        print(
            f"{self.what}: {self.count:,}, {number:,} {what}, slowest {self.slowest_s * 1e3:.1f} ms, {self.slow} over"
        )


# -- readers alone -----------------------------------------------------------------------------------------------


def a_message(dice: random.Random, kind: str) -> bytes:
    """Of a kind that is known, its fields wild but for some that are of the right type."""
    body: list[Any] = []
    for field in msgspec.structs.fields(KINDS[kind]):
        match field.type if dice.random() < 0.8 else None:
            case t if t is int:
                body.append(dice.choice([0, 1, 7, 1 << 40, (1 << 63) - 1]))
            case t if t is str:
                body.append(dice.choice(["", "alder", "x" * 3_000]))
            case t if t is bytes:
                body.append(dice.randbytes(dice.choice([0, 16, 32, 64])))
            case t if t is bool:
                body.append(dice.random() < 0.5)
            case _:
                body.append(wild(dice))
    return msgspec.msgpack.encode((kind, body if dice.random() < 0.9 else body[: dice.randrange(len(body) + 1)]))


def test_twenty_thousand_messages() -> None:
    dice, watch, read = random.Random(SEED), Watch("messages"), 0
    kinds = [*KINDS]
    for number in range(20_000):
        raw = a_message(dice, kinds[number % len(kinds)])
        raw = mutated(raw, dice) if number % 2 else raw
        found = watch.read(messages.decode, raw, ValueError)
        if isinstance(found, messages.Message):
            read += 1
            again = messages.decode(messages.encode(found))
            assert messages.encode(again) == messages.encode(found)
    deep = b"\x92\xa4ping" + b"\x91" * 100_000
    assert watch.read(messages.decode, deep, ValueError) is None
    assert watch.read(messages.decode, bytes(messages.PARCEL_BYTES_MAX * 2 + 1), ValueError) is None
    assert 1_000 < read < 20_000
    watch.tell(read)


def some_groups(dice: random.Random) -> list[stream.Group]:
    log, head, groups = envelope.Log(TENANT, "01ALDER0000000000000000000", 1), envelope.EMPTY, []
    for count in (1, 30, 4):
        bodies = [events.TokenRevoked("ci", dice.randbytes(9).hex()) for _ in range(count)]
        staged = [("drone", body, events.encode_body(body)) for body in bodies]
        raws = events.encode_all(head.seq + 1, 1, AT_NS, events.Clock.SYNCED, staged)
        block = envelope.seal(log, head, raws, key_of("alder"))
        groups.append(stream.Group(log, b"k" * 32, (block,)))
        head = block.head
    return groups


def unpacked(raws: Iterable[bytes]) -> list[stream.Group]:
    unpacker = stream.Unpacker(TENANT)
    return [group for raw in raws for group in unpacker.feed(raw)]


def deflated(plain: bytes) -> bytes:
    return zstd.compress(plain, options={zstd.CompressionParameter.window_log: 19})


def test_ten_thousand_log_streams() -> None:
    dice, watch, read = random.Random(SEED + 1), Watch("streams"), 0
    groups = some_groups(dice)
    packer = stream.Packer()
    pieces = [packer.pack(group) for group in groups]
    other = stream.Packer()
    strange = [other.pack(group) for group in reversed(groups)]
    whole = {block.hash for group in groups for block in group.blocks}
    for number in range(10_000):
        match number % 5:
            case 0:
                raws = [mutated(b"".join(pieces), dice)]
            case 1:  # cut anywhere, fed in two
                joined = b"".join(pieces)[: dice.randrange(1, 400)]
                at = dice.randrange(len(joined))
                raws = [joined[:at], joined[at:]]
            case 2:  # of two streams, or of one in the wrong order
                raws = dice.sample([*pieces, *strange], 3)
            case 3:  # well packed, and wild inside
                group = [wild(dice), 1, dice.choice([1, 0, 1 << 62, 1 << 63]), bytes(32), b"", [[b"", [wild(dice)]]]]
                plain = msgspec.msgpack.encode(group)
                raws = [deflated(struct.pack(">I", len(plain)) + plain)]
            case _:  # a length that lies
                raws = [deflated(struct.pack(">I", dice.getrandbits(32)) + dice.randbytes(50))]
        found = watch.read(lambda _, raws=raws: unpacked(raws), b"", stream.StreamProblem)  # type: ignore[misc]
        for group in found if isinstance(found, list) else ():
            read += 1
            key = key_of("alder").public_key()
            assert all(block.hash in whole or envelope.check(block, key) is not None for block in group.blocks)
    assert read > 500
    watch.tell(read)


@pytest.mark.parametrize("length", [0, 4, 1 << 24])
def test_a_bomb_is_not_inflated(length: int) -> None:
    bomb = deflated(struct.pack(">I", length) + bytes(1 << 30))
    assert len(bomb) < 200_000
    watch = Watch("bomb")
    assert watch.read(lambda raw: unpacked([raw]), bomb, stream.StreamProblem) is None
    watch.tell(0)


def test_rows_that_inflate_beyond_their_bound_are_refused() -> None:
    for plain in (bytes(1 << 30), b"\xdd\xff\xff\xff\xff" + bytes(1 << 20)):
        with pytest.raises(ValueError, match="rows"):
            present.unpack(zstd.compress(plain), AT_NS)


def some_nodes() -> dict[str, Present]:
    told = {"battery_pct": Told(41.5, AT_NS - SECOND, "http"), "temp_c": Told(-3.0, AT_NS - MS, "syslog")}
    place = Position(58.1, 11.2, 30.0)
    return {
        f"node-{number}": Present(
            f"node-{number}", f"drone {number}", seen_ns=AT_NS - SECOND, values=told, position=place
        )
        for number in range(5)
    }


def test_ten_thousand_rows_of_the_present() -> None:
    dice, watch, read = random.Random(SEED + 2), Watch("presents"), 0
    rows = present.rows_of(some_nodes(), {}, AT_NS)
    plain = msgspec.msgpack.encode(rows)
    packed = present.pack(rows)
    for number in range(10_000):
        match number % 4:
            case 0:
                raw = mutated(packed, dice)
            case 1:
                raw = zstd.compress(mutated(plain, dice))
            case 2:
                fields = {dice.randrange(-2, 25): wild(dice) for _ in range(4)} | {"battery_pct": wild(dice)}
                raw = zstd.compress(msgspec.msgpack.encode([(dice.choice(["", "n", "n" * 600]), fields)]))
            case _:
                made = [(node, {**fields, dice.randrange(20): wild(dice)}) for node, fields in rows]
                raw = zstd.compress(msgspec.msgpack.encode(made))
        found = watch.read(lambda raw: present.unpack(raw, AT_NS), raw, ValueError)
        for change in found if isinstance(found, list) else ():
            read += 1
            held = present.apply(change, None)
            assert held is None or msgspec.msgpack.encode(held)  # what is kept can be written
    assert read > 100
    watch.tell(read)


def a_receipt() -> bytes:
    spans, root = (receipt.Span(1, 9, bytes(32)),), receipt.segments_root([])
    lanes = receipt.Lanes(9, 0, 0, 0, 0)
    drops = (receipt.Drop(1, 4, "raw", "the disk was full", 10),)
    gaps = (receipt.Gap("segment", "it was lost", 1),)
    total = receipt.root_of(TENANT, "alder", spans, root)
    rest = (spans, lanes, root, 0, drops, gaps, bytes(32), b"", total)
    return receipt.content_of(receipt.Receipt(1, 1, TENANT, "alder", "harbor", "alder", "harbor", AT_NS, 1, *rest))


def test_ten_thousand_receipts() -> None:
    dice, watch, read = random.Random(SEED + 3), Watch("receipts"), 0
    content, hub, site = a_receipt(), key_of("harbor"), key_of("alder")
    good = receipt.Signed(content, receipt.sign(content, hub), receipt.sign(content, site))
    keys = hub.public_key(), site.public_key()
    assert receipt.check(good, *keys) is receipt.Verdict.GOOD
    for number in range(10_000):
        raw = mutated(content, dice)
        if number % 2:
            fields = msgspec.msgpack.decode(content)
            fields[dice.randrange(len(fields))] = wild(dice)
            raw = msgspec.msgpack.encode(fields)
        read += watch.read(receipt.read, raw, ValueError) is not None
        if number % 10 == 0 and raw != content:
            assert receipt.check(good._replace(content=raw), *keys) is not receipt.Verdict.GOOD
    assert 100 < read < 10_000
    watch.tell(read)


def test_ten_thousand_link_files() -> None:
    dice, watch, read = random.Random(SEED + 4), Watch("link files"), 0
    words = {"tenant": "default", "site": "alder", "hub": "harbor", "hub_writer": "01HARBOR", "hub_key": "ab" * 32}
    words |= {"sealing_key": "cd" * 32, "url": "tls://127.0.0.1:4222", "link": "1", "password": "p", "secret": "00"}
    raw_good = json.dumps({"kind": "skerry link", **words}).encode()
    assert link_file.parse(raw_good).site == "alder"
    for number in range(10_000):
        raw = mutated(raw_good, dice)
        if number % 2:
            wrong = {**words, "kind": "skerry link", dice.choice([*words, "kind", "version"]): wild(dice)}
            raw = json.dumps(wrong, default=lambda value: value.hex()).encode()
        read += watch.read(link_file.parse, raw, LinkProblem) is not None
    for deep in (b"[" * 200_000, b'{"tenant":' * 200_000):
        assert watch.read(link_file.parse, deep, LinkProblem) is None
    assert 100 < read < 10_000
    watch.tell(read)


# -- into a hub and a site that are in session ---------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    root = memory_folder()
    made = World(root, SEED, 2)
    try:
        for copy in made.copies:
            made.write(copy, 20)
            made.present(copy)
        assert made.settle(600 * SECOND)
        yield made
    finally:
        made.close()
        made.hub.close()
        shutil.rmtree(root, ignore_errors=True)


def aged(world: World) -> int:
    world.now_ns += 3 * MS
    return world.now_ns


def said_by(world: World, copy: Copy) -> list[bytes]:
    """Messages of this session, of every kind and true: what is made wrong afterwards gets past the fence."""
    fence = world.hub.harbor.sessions[copy.writer].fence
    heads = (messages.LogHead(copy.writer, 1, 21, bytes(32)),)
    packer = stream.Packer()
    (log, public), blocks = (
        (copy.box.identity.log, copy.box.public_key),
        journal.blocks_after(copy.box.db, copy.box.identity.log, 0, 1 << 20),
    )
    piece = packer.pack(stream.Group(log, public, tuple(blocks)))
    rows = present.pack(present.rows_of(some_nodes(), {}, AT_NS))
    said: list[messages.Message] = [
        messages.Heads(fence, bytes(32), (("node", "n", bytes(32)),)),
        messages.Level(fence, heads),
        messages.Stream(fence, 1, 0, piece),
        messages.Rewind(fence, 1, heads, "why"),
        messages.Ack(fence, 1, 0, 1 << 20, heads[0]),
        messages.ReceiptAccepted(fence, 1, bytes(64)),
        messages.ReceiptDisputed(fence, 1, "no"),
        messages.ReceiptOffered(fence, a_receipt(), bytes(64)),
        messages.Present(fence, 5, True, 0, 1, AT_NS, rows, bytes(64)),
        messages.SnapshotsKept(fence, 5),
        messages.Chunk(fence, 1, bytes(32), 0, b"data"),
        messages.Want(fence, 1, bytes(32), 0, 100),
        messages.Custody(fence, bytes(32)),
        messages.Quarantined(fence, ("why",)),
        messages.Released(fence),
        messages.Ping(fence, 1),
    ]
    return [messages.encode(one) for one in said]


def other(value: Any, dice: random.Random) -> Any:
    """Mostly of the same type, so that it gets past the reader of the message."""
    match value if dice.random() < 0.8 else None:
        case bool():
            return not value
        case int():
            return dice.choice([0, 1, -1, value + 1, 1 << 31, (1 << 62) - 1, 1 << 62, (1 << 63) - 1])
        case bytes():
            return dice.choice([b"", value[: len(value) // 2], mutated(value, dice)])
        case str():
            return dice.choice(["", "x" * 600, value + "\x00"])
        case list() if value:
            return [*value, *value][: dice.randrange(4)]
        case _:
            return wild(dice)


def harmed(dice: random.Random, fence: int, raws: list[bytes]) -> bytes:
    raw = dice.choice(raws)
    match dice.randrange(4):
        case 0:
            return mutated(raw, dice)
        case 1:
            return a_message(dice, dice.choice([*KINDS]))
        case _:  # the fence stays, one field is another
            kind, body = msgspec.msgpack.decode(raw)
            at = dice.randrange(1, len(body)) if len(body) > 1 else 0
            body[at] = other(body[at], dice)
            body[0] = fence
            return msgspec.msgpack.encode((kind, body))


def nothing_unsigned(box: Box) -> None:
    """Every block of every log here holds, and every receipt is signed by whom it names."""
    assert all(verdict.fault is None for verdict in journal.verify(box.db))
    for content, signature in box.db.execute("SELECT content, hub_signature FROM receipt"):
        hub = key_of(receipt.read(content).hub).public_key()
        assert receipt.check(receipt.Signed(content, signature), hub) is receipt.Verdict.GOOD


def test_ten_thousand_messages_into_a_hub(world: World) -> None:
    dice, watch = random.Random(SEED + 5), Watch("messages into a hub")
    alder, birch = world.copies
    names = {node: one.present for node, one in world.hub.fleet.nodes.items() if one.site == birch.writer}
    held = world.hub.events_of(alder.writer)
    for number in range(10_000):
        if number % 20 == 0:
            world.run_for(5 * SECOND)  # a session that was ended begins again
            raws = said_by(world, alder)
        fence = world.hub.harbor.sessions[alder.writer].fence
        parcel = Parcel(alder.writer, dice.choice([*Lane]), harmed(dice, fence, raws))
        watch.read(lambda _, parcel=parcel: world.hub.turn([parcel], aged(world)), b"")  # type: ignore[misc]
    nothing_unsigned(world.hub)
    assert world.hub.events_of(alder.writer)[: len(held)] == held
    assert (
        world.hub.events_of(alder.writer) == alder.box.events_of(alder.writer)[: len(world.hub.events_of(alder.writer))]
    )
    shown = {node: one.present for node, one in world.hub.fleet.nodes.items() if one.site == birch.writer}
    assert shown == names  # birch was never touched
    assert not any(node in world.hub.fleet.nodes for node in some_nodes())  # no present without a signature
    assert world.settle(1_800 * SECOND), [copy.box.uplink.site.reason for copy in world.copies]
    watch.tell(sum(world.hub.harbor.refused.values()), "refused by the reader")


def test_ten_thousand_messages_into_a_site(world: World) -> None:
    dice, watch = random.Random(SEED + 6), Watch("messages into a site")
    alder = world.copies[0]
    before = alder.box.events_of(world.hub.writer)
    for number in range(10_000):
        if number % 20 == 0:
            world.run_for(5 * SECOND)
            raws = said_by(world, alder)
        parcel = Parcel(alder.writer, dice.choice([*Lane]), harmed(dice, alder.box.uplink.site.fence, raws))
        watch.read(lambda _, parcel=parcel: alder.box.turn([parcel], True, aged(world)), b"")  # type: ignore[misc]
    nothing_unsigned(alder.box)
    assert alder.box.events_of(world.hub.writer)[: len(before)] == before
    assert alder.box.identity.log.epoch == 1  # nobody but the hub can send it into a new epoch
    world.partition(alder, 120 * SECOND)  # with the next line all of it is forgotten
    world.run_for(130 * SECOND)
    assert world.settle(1_800 * SECOND), alder.box.uplink.site.reason
    assert alder.box.state == State.LIVE
    watch.tell(sum(alder.box.uplink.refused.values()), "refused by the reader")
