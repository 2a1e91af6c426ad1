"""What a site writes on a stick for its hub, and what it reads from one: the same messages as on a wire.

Rules of the file
  1  A file begins after what a receipt, signed by both, covers. Where nothing ever comes back (a diode), it begins after
     the file before it, unless everything is asked for.
  2  Reading a file again, or an old one, changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from appliance.shelf import SiteShelf
from fleet.envelope import Log
from store import peers
from sync import messages, present, receipt, stream
from sync.flow import PART_BYTES_MAX
from sync.link import Parcel
from sync.messages import (
    Chunk,
    Heads,
    Hello,
    Level,
    LogHead,
    Message,
    Present,
    ReceiptAccepted,
    ReceiptOffered,
    Stream,
)
from sync.site import Me

_GROUP_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 512 * 1024
_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
_SENT = "stick_sent"


def take_along(
    db: sqlite3.Connection, me: Me, shelf: SiteShelf, now_ns: int, *, one_way: bool = False, whole: bool = False
) -> Iterator[Parcel]:
    """The messages of a file for the hub, lane by lane. To be consumed within the caller's transaction."""
    shelf.begin(db)
    for said in _said(db, me, shelf, now_ns, one_way=one_way, whole=whole):
        yield Parcel(me.log.writer, said.LANE, messages.encode(said))


def _said(
    db: sqlite3.Connection, me: Me, shelf: SiteShelf, now_ns: int, *, one_way: bool, whole: bool
) -> Iterator[Message]:
    memory, heads = shelf.memory(), shelf.logs()
    covered = {} if whole else _sent(db) if one_way else _covered(db, me.log.writer)
    yield Hello(
        messages.PROTOCOL_OLDEST,
        messages.PROTOCOL,
        me.log.tenant,
        me.log.writer,
        me.site,
        me.public_key,
        tuple(head for head, _ in heads),
        tuple(shelf.heard()),
        shelf.hlc(),
        memory.alone_since_ns,
        bytes(messages.NONCE_BYTES),
        shelf.shown_invitation(),
        memory.receipt_number,
        me.program,
        shelf.sealing_key,
    )
    newest = peers.newest_receipt(db, me.log.writer, both=True)
    if newest is not None:
        yield ReceiptAccepted(0, newest.number, newest.site_signature)
    yield Level(0, tuple(head for head, _ in heads))
    if not one_way:
        listed = shelf.listed()
        for first in range(0, len(listed), 4_000):
            yield Heads(0, b"", tuple(listed[first : first + 4_000]))
    rows = present.rows_of(shelf.presents(), {}, now_ns)
    lists = list(present.parts_of(rows, 256 * 1024))
    for index, part in enumerate(lists):
        said = Present(0, 1, True, index, len(lists), now_ns, present.pack(part))
        signature = me.sign(messages.present_content(me.log, said))
        yield msgspec.structs.replace(said, signature=signature)
    yield from _stream(me, shelf, heads, covered)
    if one_way:
        db.execute(_META, (_SENT, msgspec.json.encode({head.epoch: head.seq for head, _ in heads}).decode()))
    for segment in shelf.segments_not_covered(whole=whole or one_way):
        offset = 0
        while offset < segment.bytes_stored:
            data, gone = shelf.chunk(segment.sha256, offset, _CHUNK_BYTES)
            yield Chunk(0, 0, segment.sha256, offset, data, gone)
            if not data:
                break
            offset += len(data)


def _stream(
    me: Me, shelf: SiteShelf, heads: Sequence[tuple[LogHead, bytes]], covered: dict[int, int]
) -> Iterator[Message]:
    packer, offset = stream.Packer(), 0
    for head, key in heads:
        log, sent = Log(me.log.tenant, me.log.writer, head.epoch), covered.get(head.epoch, 0)
        while sent < head.seq:
            blocks = tuple(shelf.blocks(log, sent, _GROUP_BYTES))
            if not blocks:
                break
            data = packer.pack(stream.Group(log, key, blocks))
            for first in range(0, len(data), PART_BYTES_MAX):
                piece = data[first : first + PART_BYTES_MAX]
                yield Stream(0, 1, offset, piece)
                offset += len(piece)
            sent = blocks[-1].head.seq


def _covered(db: sqlite3.Connection, writer: str) -> dict[int, int]:
    newest = peers.newest_receipt(db, writer, both=True)
    return {span.epoch: span.seq for span in receipt.read(newest.content).logs} if newest else {}


def _sent(db: sqlite3.Connection) -> dict[int, int]:
    row = db.execute("SELECT value FROM meta WHERE key=?", (_SENT,)).fetchone()
    return msgspec.json.decode(row[0], type=dict[int, int]) if row else {}


def bring(db: sqlite3.Connection, me: Me, shelf: SiteShelf, parcels: Iterable[Parcel], now_ns: int) -> tuple[bool, str]:
    """A file from the hub; inside the caller's transaction, `shelf.done` to be run after it."""
    shelf.begin(db)
    hub = shelf.memory()
    unpacker, at = stream.Unpacker(me.log.tenant), 0
    events, certified, problem = 0, 0, ""
    last: list[Heads] = []
    for parcel in parcels:
        try:
            said = messages.decode(parcel.data)
        except ValueError as error:
            shelf.apart("hub", str(error), parcel.data[:4096])
            continue
        match said:
            case ReceiptOffered(content=content, signature=signature):
                answer = shelf.certify(content, signature, hub.hub_key, now_ns)
                certified += bool(answer.signature)
                problem = problem or answer.reason
            case Heads():
                last.append(said)
            case Stream(offset=offset, data=data):
                if offset != at:
                    problem = problem or "a part before this one is missing; read that one first, then this one again"
                    continue
                at += len(data)
                try:
                    for group in unpacker.feed(data):
                        _, why = shelf.take(group, hub.hub_key, now_ns)
                        problem = problem or why
                        events += sum(len(block.events) for block in group.blocks)
                except stream.StreamProblem as error:
                    problem = problem or str(error)
            case _:
                pass
    for heads in last:
        shelf.compare(heads, now_ns)
    words = f"{events:,} events of the hub and {certified} receipt{'s' if certified != 1 else ''} were read"
    return (not problem, problem or words)
