"""A log on the wire: the same blocks come out, and whatever is wrong with the bytes has a name."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest
from backports import zstd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet import envelope, limits
from fleet.envelope import Block, Log
from store.keys import public_bytes
from sync import wire
from sync.wire import Header, Problem, WireProblem

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = public_bytes(KEY)
ALDER = Log("fleet", "01ALDER0000000000000000000", 1)
BIRCH = Log("fleet", "01BRCH00000000000000000000", 1)


def chain(log: Log, *sizes: int, event_bytes: int = 40) -> list[Block]:
    """Blocks of so many events each. The bytes are noise: the wire does not look into them."""
    dice, head, blocks = random.Random(1), envelope.EMPTY, []
    for size in sizes:
        blocks.append(envelope.seal(log, head, [dice.randbytes(event_bytes) for _ in range(size)], KEY))
        head = blocks[-1].head
    return blocks


def one(log: Log, blocks: list[Block]) -> bytes:
    return b"".join(wire.write(blocks, PUBLIC, log))


def parts(raw: bytes) -> list[Header | Block]:
    return list(wire.read([raw]))


def problem_of(raw: bytes) -> Problem:
    with pytest.raises(WireProblem) as caught:
        parts(raw)
    assert str(caught.value).startswith(caught.value.problem.value)
    return caught.value.problem


def framed(*encoded: bytes) -> bytes:
    data = zstd.compress(b"".join(struct.pack(">I", len(raw)) + raw for raw in encoded))
    return struct.pack(">I", len(data)) + data


def headed(rest: bytes, header: bytes | None = None) -> bytes:
    header = msgspec.msgpack.encode(Header(*ALDER, PUBLIC)) if header is None else header
    return wire.MAGIC + struct.pack(">HI", 1, len(header)) + header + rest


def end(block: Block | None = None) -> bytes:
    head = block.head if block else envelope.EMPTY
    return struct.pack(">IQ32s", 0, *head)


def test_what_is_written_is_read() -> None:
    blocks = chain(ALDER, 1, 500, 3, 1)
    assert parts(one(ALDER, blocks)) == [Header(*ALDER, PUBLIC), *blocks]


def test_logs_stand_one_after_the_other() -> None:
    alder, birch = chain(ALDER, 2, 2), chain(BIRCH, 1)
    raw = one(ALDER, alder) + one(BIRCH, birch) + one(BIRCH, [])
    assert parts(raw) == [Header(*ALDER, PUBLIC), *alder, Header(*BIRCH, PUBLIC), *birch, Header(*BIRCH, PUBLIC)]


@pytest.mark.parametrize("size", [1, 3, 7, 64 * 1024])
def test_it_does_not_matter_how_the_bytes_arrive(size: int) -> None:
    blocks = chain(ALDER, 5, 5)
    raw = one(ALDER, blocks)
    assert list(wire.read(raw[at : at + size] for at in range(0, len(raw), size))) == parts(raw)
    assert list(wire.read(wire.pieces(io.BytesIO(raw)))) == parts(raw)


def test_a_log_cut_at_any_byte_is_found_and_what_came_before_it_stands() -> None:
    blocks = chain(ALDER, 2, 3)
    raw = one(ALDER, blocks)
    for cut in range(len(raw)):
        seen: list[Header | Block] = []
        with pytest.raises(WireProblem) as caught:
            seen.extend(wire.read([raw[:cut]]))
        expected = Problem.GARBAGE if cut < len(wire.MAGIC) else Problem.TRUNCATED
        assert caught.value.problem is expected, cut
        assert caught.value.at == cut


def test_a_log_cut_between_two_chunks_is_cut_all_the_same() -> None:
    blocks = chain(ALDER, 4, 4)
    assert problem_of(headed(framed(envelope.encode(blocks[0])))) is Problem.TRUNCATED
    assert problem_of(headed(framed(envelope.encode(blocks[0])) + end(blocks[1]))) is Problem.END


@pytest.mark.parametrize("raw", [b"", b"\x00", b"hello, this is not a log", b"SQLite format 3\x00", bytes(10_000)])
def test_garbage_is_garbage(raw: bytes) -> None:
    assert problem_of(raw) is Problem.GARBAGE


def test_garbage_after_a_log_is_not_swallowed() -> None:
    assert problem_of(one(ALDER, chain(ALDER, 1)) + b"and more besides") is Problem.GARBAGE


def test_a_newer_version_says_so() -> None:
    raw = bytearray(one(ALDER, []))
    raw[len(wire.MAGIC) + 1] = 2
    assert problem_of(bytes(raw)) is Problem.VERSION


def test_a_length_is_believed_only_within_its_bound() -> None:
    assert problem_of(headed(struct.pack(">I", wire.CHUNK_BYTES_MAX + 1))) is Problem.SIZE
    assert problem_of(headed(struct.pack(">I", 0xFFFFFFFF))) is Problem.SIZE
    assert problem_of(wire.MAGIC + struct.pack(">HI", 1, wire.HEADER_BYTES_MAX + 1)) is Problem.SIZE


def test_a_bomb_is_refused_without_being_inflated() -> None:
    bomb = zstd.compress(bytes(1 << 30), options={zstd.CompressionParameter.compression_level: 3})
    assert len(bomb) < 200_000
    raw = headed(struct.pack(">I", len(bomb)) + bomb)
    tracemalloc.start()
    try:
        assert problem_of(raw) is Problem.SIZE
        assert tracemalloc.get_traced_memory()[1] < 4 * wire.BLOCK_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 27}
    stream = zstd.ZstdCompressor(options=options)
    data = stream.compress(b"x") + stream.flush()
    assert problem_of(headed(struct.pack(">I", len(data)) + data)) is Problem.DAMAGED


def test_what_is_not_one_whole_frame_of_blocks_is_damaged() -> None:
    whole = zstd.compress(b"")
    block = envelope.encode(chain(ALDER, 1)[0])
    for data in (
        whole + whole,
        whole[:-1],
        b"not zstd",
        zstd.compress(b"\x00\x00"),
        zstd.compress(b"\x00\x00\x00\x09x"),
    ):
        assert problem_of(headed(struct.pack(">I", len(data)) + data)) is Problem.DAMAGED
    for raw in (b"\xc1", b"\x90", block + b"\x00", block[:-1], b"\x91" * 5000 + b"\x01"):
        assert problem_of(headed(framed(raw))) is Problem.DAMAGED


def test_a_header_that_is_none_is_damaged() -> None:
    for header in (b"", b"\x90", msgspec.msgpack.encode(Header(*ALDER, b"short"))):
        assert problem_of(headed(end(), header)) is Problem.DAMAGED


def test_a_block_of_another_log_is_not_smuggled_in() -> None:
    (stray,) = chain(BIRCH, 1)
    assert problem_of(headed(framed(envelope.encode(stray)) + end(stray))) is Problem.WRITER


def test_the_largest_block_travels() -> None:
    count = limits.block_bytes_max // 4096
    (large,) = chain(ALDER, count, event_bytes=4096)
    assert envelope.check(large, KEY.public_key()) is None
    assert parts(one(ALDER, [large]))[1] == large


def test_a_log_is_written_and_read_a_chunk_at_a_time() -> None:
    """Twenty times the chunk goes through; no more than a few are ever held."""

    def endless() -> Iterator[Block]:
        head = envelope.EMPTY
        for number in range(320):
            block = envelope.seal(ALDER, head, [number.to_bytes(4) * 16_384], KEY)
            head = block.head
            yield block

    tracemalloc.start()
    try:
        count = sum(isinstance(part, Block) for part in wire.read(wire.write(endless(), PUBLIC, ALDER)))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert count == 320
