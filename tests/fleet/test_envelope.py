"""A block is found out whatever is done to it, and never accused wrongly."""

from __future__ import annotations

import hashlib
import random
import struct

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import envelope, limits
from fleet.envelope import Block, Fault, Head, Log

ALDER_KEY = Ed25519PrivateKey.from_private_bytes(b"alder".ljust(32))
MALLORY_KEY = Ed25519PrivateKey.from_private_bytes(b"mallory".ljust(32))
ALDER = ALDER_KEY.public_key()
LOG = Log("fleet", "01ALDER0000000000000000000", 1)


def chain(count: int = 6, key: Ed25519PrivateKey = ALDER_KEY, log: Log = LOG, seed: int = 1) -> list[Block]:
    dice, head, blocks = random.Random(seed), envelope.EMPTY, []
    for _ in range(count):
        raw = [dice.randbytes(dice.randint(1, 60)) for _ in range(dice.randint(1, 5))]
        blocks.append(envelope.seal(log, head, raw, key))
        head = blocks[-1].head
    return blocks


def first_bad(blocks: list[Block], log: Log = LOG) -> tuple[int, Fault] | None:
    """The reader's whole walk: index of the first block that does not hold, and why."""
    head = envelope.EMPTY
    for index, block in enumerate(blocks):
        fault = envelope.check(block, ALDER) or envelope.follows(block, head)
        if fault is None and block.log != log:
            fault = Fault.WRITER
        if fault:
            return index, fault
        head = block.head
    return None


def altered(block: Block, **fields: object) -> Block:
    return msgspec.structs.replace(block, **fields)


def test_the_preimage_is_what_the_docstring_says() -> None:
    def lp(raw: bytes) -> bytes:
        return len(raw).to_bytes(4) + raw

    previous, raw = bytes(range(32)), [b"one", b"", b"three"]
    preimage = b"skerry block\x00\x00\x01" + lp(b"fleet") + lp(LOG.writer.encode())
    preimage += struct.pack(">QQI", 1, 5, 3) + previous + b"".join(map(lp, raw))
    assert envelope.block_hash(LOG, 5, previous, raw) == hashlib.sha256(preimage).digest()


def test_an_honest_chain_is_never_accused() -> None:
    for seed in range(100):
        assert first_bad(chain(seed=seed)) is None


def test_a_signature_is_no_part_of_a_blocks_identity() -> None:
    block = chain(1)[0]
    assert altered(block, signature=bytes(64)).hash == block.hash


def test_a_thousand_tamperings_are_found_and_the_first_bad_block_is_named() -> None:
    """Any bit of any field of any block, a step at a time through the whole encoded block."""
    found = 0
    for seed in range(12):
        dice, blocks = random.Random(seed), chain(seed=seed)
        for at, block in enumerate(blocks):
            raw = envelope.encode(block)
            for position in range(0, len(raw), 3):
                flipped = bytearray(raw)
                flipped[position] ^= 1 << dice.randrange(8)
                try:
                    forged = envelope.decode(bytes(flipped))
                except ValueError:
                    found += 1
                    continue
                assert forged != block
                verdict = first_bad([*blocks[:at], forged, *blocks[at + 1 :]])
                assert verdict is not None
                assert verdict[0] == at
                found += 1
    assert found >= 1_000


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"version": 2}, Fault.VERSION),
        ({"events": ()}, Fault.EMPTY),
        ({"events": (b"x",) * (limits.block_events_max + 1)}, Fault.SIZE),
        ({"events": (bytes(limits.event_bytes_max + 1),)}, Fault.SIZE),
        ({"events": (bytes(limits.event_bytes_max),) * 65}, Fault.SIZE),
        ({"tenant": "other"}, Fault.HASH),
        ({"writer": "01BRCH00000000000000000000"}, Fault.HASH),
        ({"epoch": 2}, Fault.HASH),
        ({"epoch": -1}, Fault.WRITER),
        ({"epoch": (1 << 64) - 1}, Fault.WRITER),
        ({"first_seq": 2}, Fault.HASH),
        ({"first_seq": 0}, Fault.CHAIN),
        ({"first_seq": -1}, Fault.CHAIN),
        ({"first_seq": (1 << 64) - 1}, Fault.CHAIN),
        ({"previous": bytes(31)}, Fault.CHAIN),
        ({"previous": bytes([1]) * 32}, Fault.HASH),
        ({"hash": bytes(32)}, Fault.HASH),
        ({"hash": b""}, Fault.HASH),
        ({"signature": bytes(64)}, Fault.SIGNATURE),
        ({"signature": b""}, Fault.SIGNATURE),
        ({"events": (b"other",)}, Fault.HASH),
    ],
)
def test_each_field_is_covered(fields: dict[str, object], fault: Fault) -> None:
    block = envelope.seal(LOG, envelope.EMPTY, [b"one"], ALDER_KEY)
    assert envelope.check(altered(block, **fields), ALDER) is fault


def test_moving_a_byte_from_one_event_to_the_next_is_found() -> None:
    block = envelope.seal(LOG, envelope.EMPTY, [b"ab", b"c"], ALDER_KEY)
    assert envelope.check(altered(block, events=(b"a", b"bc")), ALDER) is Fault.HASH
    assert envelope.check(altered(block, events=(b"ab", b"c", b"")), ALDER) is Fault.HASH


def test_mallory_can_hash_but_not_sign() -> None:
    block = chain(1)[0]
    forged = envelope.seal(LOG, envelope.EMPTY, [b"forged"], MALLORY_KEY)
    assert envelope.check(forged, ALDER) is Fault.SIGNATURE
    assert envelope.check(altered(forged, signature=block.signature), ALDER) is Fault.SIGNATURE


def test_a_signature_over_something_else_does_not_count() -> None:
    """Domain separation: a signature made for a backup's manifest, or over the bare hash, signs no block."""
    block = chain(1)[0]
    for made in (block.hash, b"skerry backup manifest\x00" + block.hash):
        assert envelope.check(altered(block, signature=ALDER_KEY.sign(made)), ALDER) is Fault.SIGNATURE


def test_reordering_removing_repeating_and_splicing_are_found() -> None:
    blocks, others = chain(6), chain(6, seed=2)
    assert first_bad([blocks[0], blocks[2], blocks[1], *blocks[3:]]) == (1, Fault.GAP)
    assert first_bad([*blocks[:2], *blocks[3:]]) == (2, Fault.GAP)
    assert first_bad(blocks[1:]) == (0, Fault.GAP)
    assert first_bad([*blocks[:2], blocks[1], *blocks[2:]]) == (2, Fault.FORK)
    same_length = envelope.seal(LOG, others[0].head._replace(seq=blocks[0].head.seq), [b"x"], ALDER_KEY)
    assert first_bad([blocks[0], same_length]) == (1, Fault.CHAIN)
    tail = Head(blocks[1].head.seq, others[1].hash)
    assert first_bad([*blocks[:2], envelope.seal(LOG, tail, [b"x"], ALDER_KEY)]) == (2, Fault.CHAIN)


def test_a_block_of_another_tenant_or_epoch_signed_by_the_same_key_is_of_another_log() -> None:
    for log in (LOG._replace(tenant="other"), LOG._replace(epoch=2), LOG._replace(writer="01BRCH00000000000000000000")):
        assert first_bad(chain(log=log)) == (0, Fault.WRITER)


def test_a_log_cut_at_its_end_is_whole_as_far_as_it_goes() -> None:
    """Only somebody who knows the head can tell: a receipt, the end of an export, a cursor."""
    assert first_bad(chain()[:3]) is None


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_block_are_refused_in_one_way(raw: bytes) -> None:
    try:
        block = envelope.decode(raw)
    except ValueError:
        return
    assert envelope.check(block, ALDER) is not None


def test_a_block_survives_its_encoding() -> None:
    for block in chain():
        assert envelope.decode(envelope.encode(block)) == block


@pytest.mark.parametrize("raw", [b"", b"\xc0", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffx"])
def test_depth_and_claimed_sizes_do_no_harm(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a block"):
        envelope.decode(raw)


def test_a_public_key_has_32_bytes() -> None:
    with pytest.raises(ValueError):
        envelope.public_key(b"short")


def test_every_fault_is_a_sentence() -> None:
    assert all(" " in fault.value and fault.value[0].islower() for fault in Fault)
