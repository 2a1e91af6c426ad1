"""What do a site and a hub say to each other? Shapes and bytes, and nothing of when or why.

A message is a MessagePack array `[kind, body]`, the body itself an array in the order of its fields. So fields are
only ever added at the end, with a default; an older reader skips what it does not know. A kind that nobody here knows
is `Unknown`: counted, and passed by.

    lane 0  control     hello, challenge, proof, welcome, refused, acks, receipts, quarantine, resend, heads
    lane 1  snapshots   the present of nodes, latest wins
    lane 2  log         bytes of a stream of blocks
    lane 3  segments    chunks of sealed files

Rules of the file
  1  What a proof or a receipt signs is written out here, once, for both sides (`*_content`): domain-separated and
     length-prefixed.
  2  Everything after the welcome carries the session's fence; a message of another session is stale.
  3  What orders a site about (`Order`) is signed by the hub: who only has the line can delay, and no more.
  4  A signature covers the fields that a message had in version 1 (`SIGNED_FIELDS`), whatever was added behind them: the
     other end, which may be older, cannot sign or check what it does not know. A later field that must be believed asks
     for a new version of the protocol, or for a signature of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec

from fleet.envelope import Log

PROTOCOL = 1  # the newest version spoken here
PROTOCOL_OLDEST = 1
PARCEL_BYTES_MAX = 900 * 1024  # below a broker's usual 1 MiB
NONCE_BYTES = 16
TOKEN_BYTES = 32


class Lane(IntEnum):
    """The smaller, the sooner."""

    CONTROL = 0
    SNAPSHOTS = 1
    LOG = 2
    SEGMENTS = 3


class Message(msgspec.Struct, frozen=True, array_like=True):
    KIND: ClassVar[str] = ""
    LANE: ClassVar[Lane] = Lane.CONTROL


class Unknown(NamedTuple):
    """A kind from a newer version."""

    kind: str


KINDS: dict[str, type[Message]] = {}
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {}
_M = TypeVar("_M", bound=Message)


def _said(kind: str, lane: Lane = Lane.CONTROL) -> Callable[[type[_M]], type[_M]]:
    def register(cls: type[_M]) -> type[_M]:
        assert kind not in KINDS
        cls.KIND, cls.LANE = kind, lane
        KINDS[kind] = cls
        _DECODERS[kind] = msgspec.msgpack.Decoder(cls)
        return cls

    return register


class LogHead(msgspec.Struct, frozen=True, array_like=True):
    """The end of one log as somebody knows it."""

    writer: str
    epoch: int
    seq: int
    hash: bytes


# -- the site says ----------------------------------------------------------------------------------------------


@_said("hello")
class Hello(Message, frozen=True):
    """Here I am: who, how far my logs go, since when I was alone. `logs` are all epochs of my log, oldest first, and
    `heard` the end of the hub's log towards me as I have it."""

    oldest: int
    newest: int
    tenant: str
    writer: str
    site: str
    public_key: bytes
    logs: tuple[LogHead, ...]
    heard: tuple[LogHead, ...]
    hlc: int
    alone_since_ns: int
    nonce: bytes
    invitation: bytes = b""  # SHA-256 of invitation ‖ writer, at the first contact only
    receipt: int = 0  # number of the newest receipt that I hold
    program: str = ""
    sealing_key: bytes = b""  # X25519, for files on a stick


@_said("proof")
class Proof(Message, frozen=True):
    """`signature` over `proof_content`. `ratchet` is HMAC-SHA-256(token of the last session, hub's nonce)."""

    signature: bytes
    ratchet: bytes = b""
    receipt: bytes = b""  # the newest receipt, signed by the hub: should the hub have forgotten it


@_said("receipt.accepted")
class ReceiptAccepted(Message, frozen=True):
    fence: int
    number: int
    signature: bytes  # the site's, over the same content


@_said("receipt.disputed")
class ReceiptDisputed(Message, frozen=True):
    fence: int
    number: int
    reason: str


@_said("heads")
class Heads(Message, frozen=True):
    """The heads of documents: the root alone, or what differs below it. Both sides say it."""

    fence: int
    root: bytes
    documents: tuple[tuple[str, str, bytes], ...] = ()  # (kind, id, heads); empty while the roots are compared


@_said("level")
class Level(Message, frozen=True):
    """Nothing of mine is left to send: my logs end here, and all of it was acknowledged."""

    fence: int
    logs: tuple[LogHead, ...]


@_said("roster.held")
class RosterHeld(Message, frozen=True):
    """Of the hub's people this version is here; and why not the one that was offered, if that is so."""

    fence: int
    version: int
    problem: str = ""


@_said("bye")
class Bye(Message, frozen=True):
    """I close in order: nobody needs to wait for a time-out."""

    fence: int
    reason: str


# -- the hub says -----------------------------------------------------------------------------------------------


@_said("challenge")
class Challenge(Message, frozen=True):
    """`signature` over `challenge_content`: the hub proves itself first."""

    version: int
    hub: str  # the hub's writer
    public_key: bytes
    nonce: bytes
    signature: bytes


@_said("welcome")
class Welcome(Message, frozen=True):
    """`acked` is how far the hub has each log of the site; sending goes on right behind it. At most `window_bytes`
    may be under way unacknowledged. `token` is what the next session's ratchet is made from."""

    fence: int
    token: bytes
    acked: tuple[LogHead, ...]
    window_bytes: int
    now_ns: int
    receipt: int = 0
    signature: bytes = b""


@_said("refused")
class Refused(Message, frozen=True):
    """No session. `again_s` says when it makes sense to ask again (0: not before a person did something)."""

    reason: str
    again_s: int = 0
    new_epoch: bool = False  # the site's log ends before what the hub has: go on in a new epoch
    common: LogHead | None = None  # the last event that both have
    nonce: bytes = b""  # of the hello that is refused
    signature: bytes = b""  # over `refusal_content`: a stranger on the line cannot send a site into a new epoch


@_said("ack")
class Ack(Message, frozen=True):
    """What is committed here of the other side's log stream: all bytes below `offset` were taken, and the log stands at
    `head`. `resend`: what comes next does not fit; send on from `offset`."""

    fence: int
    stream: int
    offset: int
    window_bytes: int
    head: LogHead | None = None
    resend: bool = False


@_said("rewind")
class Rewind(Message, frozen=True):
    """Events of a log are missing or refused here: begin the stream again, with the logs from these ends on."""

    fence: int
    stream: int
    heads: tuple[LogHead, ...]
    reason: str = ""


@_said("snapshots.kept")
class SnapshotsKept(Message, frozen=True):
    fence: int
    number: int


@_said("want")
class Want(Message, frozen=True):
    """Send `size` bytes of a segment from `offset`, marked with `window`."""

    fence: int
    window: int
    sha256: bytes
    offset: int
    size: int


@_said("custody")
class Custody(Message, frozen=True):
    """A segment came together here, bit for bit, and is stored. Only a receipt that lists it allows to prune it: this
    word is for the page."""

    fence: int
    sha256: bytes


@_said("receipt")
class ReceiptOffered(Message, frozen=True):
    """A completeness receipt (`sync.receipt`), its content as bytes and the hub's signature over them."""

    fence: int
    content: bytes
    signature: bytes


@_said("quarantined")
class Quarantined(Message, frozen=True):
    """The site's operations are limited until a person at the hub says otherwise."""

    fence: int
    reasons: tuple[str, ...]
    signature: bytes = b""


@_said("released")
class Released(Message, frozen=True):
    fence: int
    signature: bytes = b""


@_said("roster")
class RosterOffered(Message, frozen=True):
    """The hub's people for this site (`store.roster`), content as bytes and the hub's signature over `roster_content`. It
    is no `Order`: it holds by itself, on a stick as well, and its version says which of two is newer."""

    fence: int
    content: bytes
    signature: bytes


Order = Welcome | Quarantined | Released  # what the hub decides about a site; `signature` over `order_content`


# -- either says ------------------------------------------------------------------------------------------------


@_said("ping")
class Ping(Message, frozen=True):
    fence: int
    number: int


@_said("pong")
class Pong(Message, frozen=True):
    fence: int
    number: int


# -- data -------------------------------------------------------------------------------------------------------


@_said("present", Lane.SNAPSHOTS)
class Present(Message, frozen=True):
    """The present of nodes (`sync.present` packs `rows`). `whole`: these are all of part `part` of `parts`; what is
    not named in any part is gone. `signature` is the site's over `present_content`."""

    fence: int
    number: int
    whole: bool
    part: int
    parts: int
    at_ns: int
    rows: bytes
    signature: bytes = b""


@_said("stream", Lane.LOG)
class Stream(Message, frozen=True):
    """Bytes of a log stream (`sync.stream`) from `offset`. `stream` counts the streams of a session: a rewind begins
    the next one, at offset 0."""

    fence: int
    stream: int
    offset: int
    data: bytes


@_said("chunk", Lane.SEGMENTS)
class Chunk(Message, frozen=True):
    fence: int
    window: int
    sha256: bytes
    offset: int
    data: bytes
    gone: str = ""  # why there is no such segment any more


# -- bytes ------------------------------------------------------------------------------------------------------

_encode = msgspec.msgpack.Encoder().encode
_frame = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode


def encode(message: Message) -> bytes:
    return _encode((message.KIND, message))


def decode(raw: bytes) -> Message | Unknown:
    """ValueError (with the reason) when the bytes are no message."""
    if len(raw) > PARCEL_BYTES_MAX * 2:
        raise ValueError(f"{len(raw):,} bytes are more than a message may have")
    try:
        kind, body = _frame(raw)
        decoder = _DECODERS.get(kind)
        return decoder.decode(body) if decoder else Unknown(kind[:64])
    except (msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a message: {error}") from error


# -- what is signed ---------------------------------------------------------------------------------------------

SIGNED_FIELDS = {"hello": 15, "welcome": 7, "quarantined": 3, "released": 2, "present": 8}


def _covered(message: Message) -> bytes:
    """A message as its signature has it (rule 4)."""
    names = message.__struct_fields__[: SIGNED_FIELDS[message.KIND]]
    return _encode((message.KIND, [getattr(message, name) for name in names]))


_LENGTH = struct.Struct(">I")


def _signed(domain: bytes, *parts: bytes) -> bytes:
    return b"".join((domain, b"\x00", *(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))))


def challenge_content(hello: Hello, hub: str, nonce: bytes) -> bytes:
    return _signed(b"skerry challenge", hello.nonce, hello.writer.encode(), hub.encode(), nonce)


def proof_content(hello: Hello, hub: str, nonce: bytes) -> bytes:
    """Binds the whole hello: what it says of heads and versions cannot be altered on the way."""
    return _signed(b"skerry proof", nonce, hub.encode(), _covered(hello))


def refusal_content(hello: Hello, reason: str, new_epoch: bool, common: LogHead | None) -> bytes:
    parts = (hello.nonce, hello.writer.encode(), reason.encode(), bytes([new_epoch]), _encode(common))
    return _signed(b"skerry refusal", *parts)


def order_content(hello: Hello, order: Order) -> bytes:
    """Binds the order to the session that this hello began."""
    plain = msgspec.structs.replace(order, signature=b"")
    return _signed(b"skerry order", hello.nonce, hello.writer.encode(), _covered(plain))


def roster_content(content: bytes) -> bytes:
    return _signed(b"skerry roster", content)


def withheld(raw: bytes) -> bytes:
    """What of bytes that cannot be worked on may be shown to people: nothing of a roster, for it holds the hashes of
    passwords."""
    return b"" if b"roster" in raw[:16] else raw


def present_content(log: Log, message: Present) -> bytes:
    plain = msgspec.structs.replace(message, signature=b"")
    return _signed(b"skerry present", log.tenant.encode(), log.writer.encode(), _covered(plain))
