"""In what form does a log travel? As a file, on a stick, or down a wire: the same bytes.

    log     = magic ‖ version u16 ‖ lp(MessagePack [tenant, writer, epoch, public key]) ‖ chunk … ‖ end
    chunk   = lp(zstd frame with checksum of: lp(block) …)               lp(x) = length u32 ‖ x, big endian
    end     = length 0 ‖ last seq u64 ‖ hash of the last block (32 bytes; zeros when the log is empty)

Logs stand one after the other. What comes without its end was cut off.

Rules of the file
  1  Nothing is larger in memory than one chunk, whatever the other side says; a size is checked before it is read.
  2  This module knows shapes, not truth: whether a block's hash, signature and chain hold is for `fleet.envelope`.
  3  A block is encoded once, by its writer; what is read is what was written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import partial
from typing import BinaryIO

import msgspec
from backports import zstd

from fleet import envelope, limits
from fleet.envelope import Block, Head, Log

MAGIC = b"skerry log\x00\n"
VERSION = 1

BLOCK_BYTES_MAX = limits.block_bytes_max + 1024 * 1024  # encoded: room for 10,000 lengths and the header
CHUNK_BYTES_MAX = BLOCK_BYTES_MAX + 1024 * 1024  # compressed: what does not compress grows a little
HEADER_BYTES_MAX = 4_096

_CHUNK_BYTES = 1024 * 1024  # of blocks, before compression; a larger block has a chunk of its own
_PIECE_BYTES = 64 * 1024
_LENGTH = struct.Struct(">I")
_START = struct.Struct(">H")
_END = struct.Struct(">Q32s")
_WRITE: dict[int, int] = {zstd.CompressionParameter.compression_level: 3, zstd.CompressionParameter.checksum_flag: 1}
_READ: dict[int, int] = {
    zstd.DecompressionParameter.window_log_max: 25
}  # 32 MiB, however large a window a frame asks for


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Whose log comes now, and the key that its blocks say they are signed with (Ed25519, 32 bytes)."""

    tenant: str
    writer: str
    epoch: int
    public_key: bytes

    @property
    def log(self) -> Log:
        return Log(self.tenant, self.writer, self.epoch)


class Problem(StrEnum):
    """What is wrong with the bytes. The value is the sentence a person reads."""

    GARBAGE = "this is no log of Skerry"
    VERSION = "this log was written by a newer Skerry; read it with that version"
    TRUNCATED = "the log is cut off; get the rest of it, or a whole copy"
    SIZE = "a part of the log is larger than any part may be"
    DAMAGED = "a part of the log cannot be read; get another copy"
    WRITER = "a block of another log stands in this one"
    END = "the end of the log is not the one it names; blocks are missing or were added"


class WireProblem(Exception):
    """The bytes are no whole log. `problem` says why; what was read before it stands."""

    def __init__(self, problem: Problem, at: int, detail: str = "") -> None:
        super().__init__(f"{problem} (at byte {at:,}{f': {detail}' if detail else ''})")
        self.problem, self.at = problem, at


def write(blocks: Iterable[Block], public_key: bytes, log: Log) -> Iterator[bytes]:
    """One log in pieces of about a mebibyte at most. `blocks` are its blocks in order."""
    header = _encode(Header(*log, public_key))
    yield MAGIC + _START.pack(VERSION) + _LENGTH.pack(len(header)) + header
    held: list[bytes] = []
    size, head = 0, envelope.EMPTY
    for block in blocks:
        raw = envelope.encode(block)
        if held and size + len(raw) > _CHUNK_BYTES:
            yield _chunk(held)
            held, size = [], 0
        held += (_LENGTH.pack(len(raw)), raw)
        size += len(raw)
        head = block.head
    if held:
        yield _chunk(held)
    yield _LENGTH.pack(0) + _END.pack(*head)


def _chunk(parts: list[bytes]) -> bytes:
    data = zstd.compress(b"".join(parts), options=_WRITE)
    return _LENGTH.pack(len(data)) + data


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """A file as `read` takes it."""
    return iter(partial(file.read, _PIECE_BYTES), b"")


def read(chunks: Iterable[bytes]) -> Iterator[Header | Block]:
    """Each log as its header and then its blocks. WireProblem where the bytes stop making sense; a log without its
    end, and a source without any log, are such places."""
    source = _Source(chunks)
    while True:
        header = _header(source)
        yield header
        head = envelope.EMPTY
        while length := _length(source, CHUNK_BYTES_MAX):
            for block in _blocks(source.take(length), source.at):
                if block.log != header.log:
                    raise WireProblem(Problem.WRITER, source.at, f"{block.writer}, epoch {block.epoch}")
                head = block.head
                yield block
        if Head(*_END.unpack(source.take(_END.size))) != head:
            raise WireProblem(Problem.END, source.at)
        if source.ended():
            return


def _header(source: _Source) -> Header:
    at = source.at
    if source.take(len(MAGIC), Problem.GARBAGE) != MAGIC:
        raise WireProblem(Problem.GARBAGE, at)
    (version,) = _START.unpack(source.take(_START.size))
    if version != VERSION:
        raise WireProblem(Problem.VERSION, at, f"version {version}")
    raw = source.take(_length(source, HEADER_BYTES_MAX))
    try:
        header = _decode_header(raw)
        envelope.public_key(header.public_key)
        return header
    except (msgspec.MsgspecError, ValueError) as error:
        raise WireProblem(Problem.DAMAGED, at, str(error)) from error


def _length(source: _Source, most: int) -> int:
    (length,) = _LENGTH.unpack(source.take(_LENGTH.size))
    if length > most:
        raise WireProblem(Problem.SIZE, source.at, f"{length:,} bytes")
    return int(length)


def _blocks(data: bytes, at: int) -> Iterator[Block]:
    inflater = zstd.ZstdDecompressor(options=_READ)
    try:
        inflated = inflater.decompress(data, max_length=BLOCK_BYTES_MAX + 1)
    except zstd.ZstdError as error:
        raise WireProblem(Problem.DAMAGED, at, str(error)) from error
    if len(inflated) > BLOCK_BYTES_MAX:
        raise WireProblem(Problem.SIZE, at, f"a chunk inflates beyond {BLOCK_BYTES_MAX:,} bytes")
    if not inflater.eof or inflater.unused_data:
        raise WireProblem(Problem.DAMAGED, at, "a chunk is not one whole zstd frame")
    offset = 0
    while offset < len(inflated):
        start = offset + _LENGTH.size
        if start > len(inflated):
            raise WireProblem(Problem.DAMAGED, at, "a chunk ends within a length")
        offset = start + int(_LENGTH.unpack_from(inflated, offset)[0])
        if offset > len(inflated):
            raise WireProblem(Problem.DAMAGED, at, "a chunk ends within a block")
        try:
            yield envelope.decode(inflated[start:offset])
        except ValueError as error:
            raise WireProblem(Problem.DAMAGED, at, str(error)) from error


class _Source:
    """Bytes from an iterator, so many at a time."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.at = 0
        self._chunks = iter(chunks)
        self._held = b""

    def take(self, count: int, short: Problem = Problem.TRUNCATED) -> bytes:
        parts, missing = [self._held], count - len(self._held)
        while missing > 0:
            part = next(self._chunks, None)
            if part is None:
                raise WireProblem(short, self.at + count - missing)
            parts.append(part)
            missing -= len(part)
        joined = b"".join(parts)
        self._held = joined[count:]
        self.at += count
        return joined[:count]

    def ended(self) -> bool:
        while not self._held:
            part = next(self._chunks, None)
            if part is None:
                return True
            self._held = part
        return False


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
