"""In what bytes does a log go over a link? As one zstd stream a session, so that small groups compress like large ones.

    stream = zstd( lp(group) … )                                              lp(x) = length u32 ‖ x, big endian
    group  = MessagePack [writer, epoch, first seq, previous hash, public key, [[signature, [event …]] …]]

The hashes of a group's blocks are not sent: they are computed from what is, and the signatures tell whether that is
what was signed. Each group is flushed, so that what has arrived can be read.

Rules of the file
  1  The writer's bytes are the reader's bytes: an event is never encoded again.
  2  A size is checked before it is believed; nothing inflates beyond `GROUP_BYTES_MAX`.
  3  This module knows shapes, not truth.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from backports import zstd

from fleet import envelope, limits
from fleet.envelope import Block, Log

GROUP_BYTES_MAX = limits.block_bytes_max + 4 * 1024 * 1024
_LEVEL = 9
_WINDOW_LOG = 19  # 512 KiB, held for each session at the receiving end
_LENGTH = struct.Struct(">I")
LEVEL_HUB = 1  # a hub holds a compressor for each site, and says little to it: 50 kB in place of 10 MB
_HUB_WINDOW_LOG, _HUB_HASH_LOG = 17, 12
_READ: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
_PIECE_BYTES = 1024 * 1024


class StreamProblem(Exception):
    """The bytes are no log stream; str() says what is wrong. The stream is over."""


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    signature: bytes
    events: tuple[bytes, ...]


class _Group(msgspec.Struct, frozen=True, array_like=True):
    writer: str
    epoch: int
    first_seq: int
    previous: bytes
    key: bytes
    blocks: tuple[_Signed, ...]


class Group(NamedTuple):
    """Blocks of one log that follow one another, and the key the sender names for it."""

    log: Log
    key: bytes
    blocks: tuple[Block, ...]


class Packer:
    def __init__(self, level: int = _LEVEL) -> None:
        self._level = level
        self._made: zstd.ZstdCompressor | None = None  # it takes memory, and many a stream says nothing

    @property
    def _zstd(self) -> zstd.ZstdCompressor:
        if self._made is None:
            level, window = zstd.CompressionParameter.compression_level, zstd.CompressionParameter.window_log
            options: dict[int, int] = {level: self._level, window: _WINDOW_LOG}
            if self._level == LEVEL_HUB:
                options |= {window: _HUB_WINDOW_LOG, zstd.CompressionParameter.hash_log: _HUB_HASH_LOG}
            self._made = zstd.ZstdCompressor(options=options)
        return self._made

    def pack(self, group: Group) -> bytes:
        first = group.blocks[0]
        raw = _encode(
            _Group(
                group.log.writer,
                group.log.epoch,
                first.first_seq,
                first.previous,
                group.key,
                tuple(_Signed(block.signature, block.events) for block in group.blocks),
            )
        )
        return self._zstd.compress(_LENGTH.pack(len(raw)) + raw, zstd.ZstdCompressor.FLUSH_BLOCK)


class Unpacker:
    """One stream's bytes back into groups. `tenant` is whose logs they must be: it is not in the bytes."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._zstd = zstd.ZstdDecompressor(options=_READ)
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Group]:
        """The groups that are whole with `data`. StreamProblem when the bytes make no sense."""
        piece = self._inflate(data)
        while True:
            self._held += piece
            yield from self._whole()
            if self._zstd.needs_input or self._zstd.eof:
                return
            piece = self._inflate(b"")

    def _inflate(self, data: bytes) -> bytes:
        try:
            return self._zstd.decompress(data, max_length=_PIECE_BYTES)
        except (zstd.ZstdError, EOFError) as error:
            raise StreamProblem(f"the log stream cannot be inflated: {error}") from error

    def _whole(self) -> Iterator[Group]:
        held, at = self._held, 0
        while len(held) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, at)
            if length > GROUP_BYTES_MAX:
                raise StreamProblem(f"a group of {length:,} bytes is larger than any may be")
            end = at + _LENGTH.size + length
            if len(held) < end:
                break
            raw = bytes(held[at + _LENGTH.size : end])
            at = end
            yield self._group(raw)
        del held[:at]

    def _group(self, raw: bytes) -> Group:
        try:
            group = _decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # text that is no UTF-8 is a ValueError
            raise StreamProblem(f"a group cannot be read: {error}") from error
        log, previous, seq = Log(self._tenant, group.writer, group.epoch), group.previous, group.first_seq
        if len(previous) != len(envelope.GENESIS) or seq < 1 or not 0 <= group.epoch < 1 << 63 or seq >= 1 << 62:
            raise StreamProblem("a group says no possible place in a log")
        if any(len(one.events) > limits.block_events_max for one in group.blocks):
            raise StreamProblem("a block holds more events than any may")
        blocks: list[Block] = []
        for signature, events in ((one.signature, one.events) for one in group.blocks):
            digest = envelope.block_hash(log, seq, previous, events)
            blocks.append(Block(envelope.VERSION, *log, seq, previous, digest, signature, events))
            previous, seq = digest, seq + len(events)
        if not blocks or not all(block.events for block in blocks):
            raise StreamProblem("a group holds no events")
        return Group(log, group.key, tuple(blocks))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Group).decode
