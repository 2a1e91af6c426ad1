"""Blocks: the events of one commit, chained by hash and signed by their writer.

    preimage  = "skerry block" NUL ‖ version u16 ‖ lp(tenant) ‖ lp(writer) ‖ epoch u64 ‖ first seq u64 ‖ count u32
                ‖ previous hash (32 bytes) ‖ lp(event bytes) …                     lp(x) = length u32 ‖ x, big endian
    hash      = SHA-256(preimage)
    signature = Ed25519(writer's key, "skerry block signature" NUL ‖ hash)

The first block of a log has 32 zero bytes as its previous hash. The signature is never part of an identity: two
blocks with one hash are one block. Verification works on bytes as they came; parsing comes after.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet import limits

VERSION = 1
GENESIS = bytes(32)
_NUMBER_MAX = (1 << 63) - 1  # what a database holds

_BLOCK = b"skerry block\x00"
_SIGNATURE = b"skerry block signature\x00"
_LENGTH = struct.Struct(">I")
_VERSION = struct.Struct(">H")
_PLACE = struct.Struct(">QQI")


PrivateKey: TypeAlias = Ed25519PrivateKey
PublicKey: TypeAlias = Ed25519PublicKey


class Log(NamedTuple):
    """What one writer wrote in one epoch. Two logs never share a sequence."""

    tenant: str
    writer: str
    epoch: int


class Head(NamedTuple):
    """The end of a log: the last sequence number and the hash of the block that holds it."""

    seq: int
    hash: bytes


EMPTY = Head(0, GENESIS)


class Block(msgspec.Struct, frozen=True, array_like=True):
    version: int
    tenant: str
    writer: str
    epoch: int
    first_seq: int
    previous: bytes
    hash: bytes
    signature: bytes
    events: tuple[bytes, ...]

    @property
    def log(self) -> Log:
        return Log(self.tenant, self.writer, self.epoch)

    @property
    def head(self) -> Head:
        return Head(self.first_seq + len(self.events) - 1, self.hash)


class Fault(StrEnum):
    """Why a block is refused. The value is the sentence a person reads."""

    VERSION = "the block is of a version this box does not know"
    EMPTY = "the block holds no events"
    SIZE = "the block is larger than a block may be"
    HASH = "the block's content does not match its hash"
    SIGNATURE = "the block is not signed by the writer it names"
    CHAIN = "the block does not follow the one before it"
    GAP = "events are missing before this block"
    FORK = "another block with the same sequence numbers is already here"
    WRITER = "the block is of another log"
    START = "the log does not begin with the event that names its key"


def _lp(raw: bytes) -> bytes:
    return _LENGTH.pack(len(raw)) + raw


def block_hash(log: Log, first_seq: int, previous: bytes, events: Sequence[bytes]) -> bytes:
    parts = [
        _BLOCK,
        _VERSION.pack(VERSION),
        _lp(log.tenant.encode()),
        _lp(log.writer.encode()),
        _PLACE.pack(log.epoch, first_seq, len(events)),
        previous,
    ]
    framed = [b""] * (2 * len(events))
    framed[::2] = map(_LENGTH.pack, map(len, events))
    framed[1::2] = events
    parts += framed
    return hashlib.sha256(b"".join(parts)).digest()


def seal(log: Log, head: Head, events: Sequence[bytes], key: PrivateKey) -> Block:
    """Chain `events` to `head` and sign them."""
    assert events, "a block holds at least one event"
    digest = block_hash(log, head.seq + 1, head.hash, events)
    signature = key.sign(_SIGNATURE + digest)
    return Block(VERSION, *log, head.seq + 1, head.hash, digest, signature, tuple(events))


def check(block: Block, key: PublicKey) -> Fault | None:
    """The block alone: version, bounds, hash, signature. None when all hold."""
    if block.version != VERSION:
        return Fault.VERSION
    if not block.events:
        return Fault.EMPTY
    sizes = [len(event) for event in block.events]
    if (
        len(sizes) > limits.block_events_max
        or max(sizes) > limits.event_bytes_max
        or sum(sizes) > limits.block_bytes_max
    ):
        return Fault.SIZE
    if len(block.previous) != len(GENESIS) or block.first_seq < 1 or block.head.seq > _NUMBER_MAX:
        return Fault.CHAIN
    if not 0 <= block.epoch <= _NUMBER_MAX:
        return Fault.WRITER
    if block_hash(block.log, block.first_seq, block.previous, block.events) != block.hash:
        return Fault.HASH
    return None if vouches(key, block.signature, _SIGNATURE + block.hash) else Fault.SIGNATURE


def vouches(key: PublicKey, signature: bytes, content: bytes) -> bool:
    """Whether `signature` was made over `content` by the owner of `key`."""
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def follows(block: Block, head: Head) -> Fault | None:
    """Whether `block` is the one right after `head`. None when it is."""
    if block.first_seq > head.seq + 1:
        return Fault.GAP
    if block.first_seq <= head.seq:
        return Fault.FORK
    return None if block.previous == head.hash else Fault.CHAIN


def public_key(raw: bytes) -> PublicKey:
    """ValueError when `raw` is not the 32 bytes of an Ed25519 public key."""
    return Ed25519PublicKey.from_public_bytes(raw)


def decode(raw: bytes) -> Block:
    """ValueError when the bytes are no block."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a block: {error}") from error


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Block).decode
