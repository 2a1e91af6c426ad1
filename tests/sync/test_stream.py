"""`sync.stream`: groups of blocks in, the same groups out, wherever the bytes are cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import envelope
from fleet.envelope import Block, Log
from sync import stream
from sync.stream import Group, Packer, StreamProblem, Unpacker
from tests.simulation.boxes import key_of

LOG = Log("fjord", "01ALDER", 3)
KEY = key_of("alder")


def groups(count: int = 5) -> list[Group]:
    chance, head, made = random.Random(count), envelope.EMPTY, []
    for _ in range(count):
        blocks: list[Block] = []
        for _ in range(chance.randrange(1, 4)):
            block = envelope.seal(LOG, head, [chance.randbytes(chance.randrange(1, 300)) for _ in range(3)], KEY)
            blocks.append(block)
            head = block.head
        made.append(Group(LOG, b"k" * 32, tuple(blocks)))
    return made


WHOLE = groups()
PACKER = Packer()
BYTES = b"".join(PACKER.pack(group) for group in WHOLE)


@given(st.lists(st.integers(0, len(BYTES)), max_size=8))
def test_a_stream_cut_anywhere_inflates_to_the_same_groups(cuts: list[int]) -> None:
    unpacker, got, at = Unpacker("fjord"), [], 0
    for end in (*sorted(cuts), len(BYTES)):
        got += list(unpacker.feed(BYTES[at:end])) if end > at else []
        assert got == WHOLE[: len(got)]
        at = end
    assert got == WHOLE


@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_a_changed_byte_never_makes_a_block_that_holds(at: int, flip: int) -> None:
    raw = bytearray(BYTES)
    raw[at] ^= flip
    try:
        got = [block for group in Unpacker("fjord").feed(bytes(raw)) for block in group.blocks]
    except StreamProblem as problem:
        assert str(problem)  # noqa: PT017
        return
    honest = [block for group in WHOLE for block in group.blocks]
    public = KEY.public_key()
    assert all(block in honest for block in got if envelope.check(block, public) is None)


def test_a_block_of_another_tenant_does_not_hold() -> None:
    (group, *_) = Unpacker("other").feed(BYTES)
    assert envelope.check(group.blocks[0], KEY.public_key()) is envelope.Fault.SIGNATURE


def test_a_group_that_says_it_is_larger_than_any_is_refused_before_it_is_held() -> None:
    packer = stream.Packer()._zstd
    raw = packer.compress(b"\xff" * 100, stream.zstd.ZstdCompressor.FLUSH_BLOCK)
    with pytest.raises(StreamProblem, match="larger than any"):
        list(Unpacker("fjord").feed(raw))


def test_more_events_than_a_block_may_have_are_refused_before_they_are_hashed() -> None:
    many = stream._Group("w", 1, 1, bytes(32), b"k", (stream._Signed(b"s" * 64, (b"",) * 10_001),))
    raw = stream._encode(many)
    data = stream.Packer()._zstd.compress(stream._LENGTH.pack(len(raw)) + raw, stream.zstd.ZstdCompressor.FLUSH_BLOCK)
    with pytest.raises(StreamProblem, match="more events than any"):
        list(Unpacker("fjord").feed(data))
