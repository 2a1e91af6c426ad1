"""What does "nothing was lost" mean, so that anybody can check it? A completeness receipt, signed by both sides.

It lists, for one site: each log from its first event to a named end, how many events that is; the segments whose bytes
the hub holds (those that came since by name: from here on the site may prune them); what was let go on purpose, with
the reason; what is missing, with the reason; and the root hash over all of it. The hub signs when it has committed all
that; the site signs when it finds the same. Each receipt names the one before it by hash, so that none can be left out
later.

    root = SHA-256( domain ‖ lp(tenant) ‖ lp(site) ‖ for each log lp([epoch, seq, head hash]) ‖ for each segment sha256 )

Rules of the file
  1  Pure. Bytes are signed as they are stored and sent; nothing encodes them again.
  2  A receipt claims only what can be checked against either side's own data.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fleet import envelope
from fleet.envelope import PrivateKey, PublicKey

VERSION = 1
_SIGNATURE = b"skerry receipt\x00"
_ROOT = b"skerry receipt root\x00"
_LENGTH = struct.Struct(">I")
LISTED_MAX = 1_000  # drops and gaps beyond it are counted by reason, not listed one by one


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Events 1 to `seq` of one epoch, without a hole; `hash` is the end of the chain."""

    epoch: int
    seq: int
    hash: bytes


class Drop(msgspec.Struct, frozen=True, array_like=True):
    """Let go on purpose and said so in the log (`seq` of `epoch`): `what` raw, series, intake …; how many."""

    epoch: int
    seq: int
    what: str
    reason: str
    count: int


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Missing at the hub, and why."""

    what: str
    reason: str
    count: int


class Lanes(msgspec.Struct, frozen=True, array_like=True):
    """Counts since the first receipt: presents are messages, segments and records as sealed."""

    events: int
    presents: int
    segments: int
    segment_bytes: int
    records: int


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    version: int
    number: int
    tenant: str
    site: str  # writer
    hub: str  # writer
    site_name: str
    hub_name: str
    at_ns: int
    clock: int
    logs: tuple[Span, ...]
    lanes: Lanes
    segments_root: bytes  # SHA-256 over the segments' hashes, in the order of their first record
    segments_missing: int  # on their way, or for the next receipt to list
    drops: tuple[Drop, ...]
    gaps: tuple[Gap, ...]
    documents_root: bytes
    previous: bytes  # SHA-256 of the content of the receipt before this one; empty for the first
    root: bytes
    segments: tuple[bytes, ...] = ()  # the SHA-256 of those that no receipt listed that both have signed; LISTED_MAX


class Verdict(StrEnum):
    """What a check says. The value is the sentence a person reads."""

    GOOD = "the receipt holds"
    SHAPE = "these bytes are no receipt"
    ROOT = "the receipt's root hash does not match what it lists"
    HUB = "the receipt is not signed by the hub it names"
    SITE = "the receipt is not signed by the site it names"
    NOT_YET = "the site has not countersigned it"
    LOG = "the log here differs from what the receipt says of it"
    SHORT = "the log here ends before what the receipt says"
    SEGMENTS = "the segments here differ from what the receipt says of them"


class Signed(NamedTuple):
    content: bytes
    hub_signature: bytes
    site_signature: bytes = b""


def segments_root(hashes: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"skerry segments\x00" + b"".join(hashes)).digest()


def root_of(tenant: str, site: str, logs: Sequence[Span], segments: bytes) -> bytes:
    parts = [tenant.encode(), site.encode(), *(_encode(log) for log in logs), segments]
    return hashlib.sha256(_ROOT + b"".join(_LENGTH.pack(len(part)) + part for part in parts)).digest()


def content_of(receipt: Receipt) -> bytes:
    return _encode(receipt)


def sign(content: bytes, key: PrivateKey) -> bytes:
    return key.sign(_SIGNATURE + content)


def read(content: bytes) -> Receipt:
    """ValueError when the bytes are no receipt."""
    try:
        return _decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"{Verdict.SHAPE}: {error}") from error


def check(signed: Signed, hub: PublicKey, site: PublicKey | None = None) -> Verdict:
    """The receipt alone: its root and its signatures. Without the site's key only the hub's word is checked."""
    try:
        receipt = read(signed.content)
    except ValueError:
        return Verdict.SHAPE
    if not envelope.vouches(hub, signed.hub_signature, _SIGNATURE + signed.content):
        return Verdict.HUB
    if root_of(receipt.tenant, receipt.site, receipt.logs, receipt.segments_root) != receipt.root:
        return Verdict.ROOT
    if site is None:
        return Verdict.GOOD
    if not signed.site_signature:
        return Verdict.NOT_YET
    good = envelope.vouches(site, signed.site_signature, _SIGNATURE + signed.content)
    return Verdict.GOOD if good else Verdict.SITE


def agrees(receipt: Receipt, hash_at: Mapping[tuple[int, int], bytes | None], segments: bytes | None) -> Verdict:
    """The receipt against one side's own data: `hash_at` gives the hash of the block of (epoch, seq) that ends there,
    None when there is none; `segments` the root over the segments that this side knows (None: not compared)."""
    for log in receipt.logs:
        held = hash_at.get((log.epoch, log.seq))
        if held is None:
            return Verdict.SHORT
        if held != log.hash:
            return Verdict.LOG
    if segments is not None and segments != receipt.segments_root:
        return Verdict.SEGMENTS
    return Verdict.GOOD


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Receipt).decode
