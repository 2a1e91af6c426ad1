"""What a site writes on a stick for its hub, and what it reads from one: the same messages as on a wire.

Rules of the file
  1  A file begins after what a receipt, signed by both, covers. Where nothing ever comes back (a diode), it begins after
     the file before it, unless everything is asked for.
  2  What goes along is settled when the writing begins, so that a medium that was pulled can be gone on with.
  3  Reading a file again, or an old one, changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from appliance.shelf import SiteShelf
from fleet.envelope import Block, Log
from fleet.present import Present as NodePresent
from store import peers
from store.peers import Segment
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
    RosterOffered,
    Stream,
)
from sync.site import Me

_GROUP_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 512 * 1024
_LISTED_MAX = 4_000
_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
_SENT = "stick_sent"
_READ = "stick_read"  # when the newest file from the hub was written, by the hub's clock


class Load(NamedTuple):
    """What goes on a stick, settled."""

    hello: Hello
    receipt: ReceiptAccepted | None
    heads: Sequence[tuple[LogHead, bytes]]
    covered: Mapping[int, int]
    listed: Sequence[tuple[str, str, bytes]]
    nodes: Mapping[str, NodePresent]
    segments: Sequence[Segment]
    at_ns: int

    @property
    def words(self) -> str:
        """For a person: what the file holds."""
        events = sum(head.seq - self.covered.get(head.epoch, 0) for head, _ in self.heads)
        size = sum(segment.bytes_stored for segment in self.segments)
        return f"{events:,} events, the present of {len(self.nodes):,} nodes, {len(self.segments):,} segments ({size:,} bytes)"


def settle(
    db: sqlite3.Connection, me: Me, shelf: SiteShelf, now_ns: int, *, one_way: bool = False, whole: bool = False
) -> Load:
    """Inside a transaction of site.db."""
    shelf.begin(db)
    memory, heads = shelf.memory(), tuple(shelf.logs())
    newest = peers.newest_receipt(db, me.log.writer, both=True)
    hello = Hello(
        messages.PROTOCOL_OLDEST,
        messages.PROTOCOL,
        me.log.tenant,
        me.log.writer,
        me.site,
        me.public_key,
        tuple(head for head, _ in heads),
        tuple(shelf.heard()),
        0,
        memory.alone_since_ns,
        bytes(messages.NONCE_BYTES),
        shelf.shown_invitation(),
        memory.receipt_number,
        me.program,
        shelf.sealing_key,
    )
    covered: Mapping[int, int] = {}
    if one_way and not whole:
        covered = sent_so_far(db)
    elif newest is not None and not whole:
        covered = {span.epoch: span.seq for span in receipt.read(newest.content).logs}
    return Load(
        hello,
        ReceiptAccepted(0, newest.number, newest.site_signature) if newest else None,
        heads,
        covered,
        () if one_way else tuple(shelf.listed()),
        dict(shelf.presents()),
        tuple(shelf.segments_not_covered(whole=whole or one_way)),
        now_ns,
    )


def sent_so_far(db: sqlite3.Connection) -> Mapping[int, int]:
    row = db.execute("SELECT value FROM meta WHERE key=?", (_SENT,)).fetchone()
    return msgspec.json.decode(row[0], type=dict[int, int]) if row else {}


def remember_sent(db: sqlite3.Connection, load: Load) -> None:
    """After a one-way file was written: the next one begins behind it."""
    ends = {head.epoch: head.seq for head, _ in load.heads}
    db.execute(_META, (_SENT, msgspec.json.encode(ends).decode()))


def parcels(
    load: Load,
    me: Me,
    blocks: Callable[[Log, int, int], Sequence[Block]],
    chunk: Callable[[bytes, int, int], tuple[bytes, str]],
) -> Iterator[Parcel]:
    """The messages of the file, lane by lane; the same each time it is asked."""
    for said in _said(load, me, blocks, chunk):
        yield Parcel(me.log.writer, said.LANE, messages.encode(said))


def _said(
    load: Load,
    me: Me,
    blocks: Callable[[Log, int, int], Sequence[Block]],
    chunk: Callable[[bytes, int, int], tuple[bytes, str]],
) -> Iterator[Message]:
    yield load.hello
    if load.receipt is not None:
        yield load.receipt
    yield Level(0, tuple(head for head, _ in load.heads))
    for first in range(0, len(load.listed), _LISTED_MAX):
        yield Heads(0, b"", tuple(load.listed[first : first + _LISTED_MAX]))
    lists = list(present.parts_of(present.rows_of(load.nodes, {}, load.at_ns), 256 * 1024))
    for index, part in enumerate(lists):
        said = Present(0, 1, True, index, len(lists), load.at_ns, present.pack(part))
        yield msgspec.structs.replace(said, signature=me.sign(messages.present_content(me.log, said)))
    packer, offset = stream.Packer(), 0
    for head, key in load.heads:
        log, sent = Log(me.log.tenant, me.log.writer, head.epoch), load.covered.get(head.epoch, 0)
        while sent < head.seq:
            found = tuple(block for block in blocks(log, sent, _GROUP_BYTES) if block.head.seq <= head.seq)
            if not found:
                break
            data = packer.pack(stream.Group(log, key, found))
            for first in range(0, len(data), PART_BYTES_MAX):
                piece = data[first : first + PART_BYTES_MAX]
                yield Stream(0, 1, offset, piece)
                offset += len(piece)
            sent = found[-1].head.seq
    for segment in load.segments:
        at = 0
        while at < segment.bytes_stored:
            piece, gone = chunk(segment.sha256, at, _CHUNK_BYTES)
            yield Chunk(0, 0, segment.sha256, at, piece, gone)
            if not piece:
                break
            at += len(piece)


class Bringing:
    """A file from the hub, a batch of its messages at a time; each inside a transaction of its own."""

    def __init__(self, me: Me, shelf: SiteShelf, written_ns: int) -> None:
        self._written_ns = written_ns
        self.problem = ""
        self.events = self.receipts = 0
        self._shelf = shelf
        self._unpacker, self._at = stream.Unpacker(me.log.tenant), 0
        self._last: list[Heads] = []  # what speaks of the whole, once the whole is here

    def feed(self, db: sqlite3.Connection, batch: Iterable[Parcel], now_ns: int) -> None:
        shelf = self._shelf
        shelf.begin(db)
        for parcel in batch:
            try:
                said = messages.decode(parcel.data)
            except ValueError as error:
                shelf.apart("hub", str(error), messages.withheld(parcel.data)[:4096])
                continue
            match said:
                case ReceiptOffered(content=content, signature=signature):
                    answer = shelf.certify(content, signature, shelf.memory().hub_key, now_ns)
                    self.receipts += bool(answer.signature)
                    self.problem = self.problem or answer.reason
                case RosterOffered(content=content, signature=signature):
                    self._people(content, signature, now_ns)
                case Heads():
                    self._last.append(said)
                case Stream():
                    self._stream(said, now_ns)
                case _:
                    pass

    def _people(self, content: bytes, signature: bytes, now_ns: int) -> None:
        """An older file may hold an older roster: that it is not taken is no fault of the file."""
        memory = self._shelf.memory()
        try:
            self._shelf.roster(content, signature, memory.hub, memory.hub_key, now_ns)
        except ValueError as error:
            self.problem = self.problem or str(error)

    def _stream(self, said: Stream, now_ns: int) -> None:
        if said.offset != self._at:
            self.problem = self.problem or "a part before this one is missing; read that one first, then this one again"
            return
        self._at += len(said.data)
        try:
            for group in self._unpacker.feed(said.data):
                before = sum(head.seq for head in self._shelf.heard())
                _, why = self._shelf.take(group, self._shelf.memory().hub_key, now_ns)
                self.problem = self.problem or why
                self.events += sum(head.seq for head in self._shelf.heard()) - before
        except stream.StreamProblem as error:
            self.problem = self.problem or str(error)

    def end(self, db: sqlite3.Connection, now_ns: int) -> None:
        """What the hub lacked when it wrote the file is said again, once: a file that is read again, or an older one, says
        nothing of today."""
        self._shelf.begin(db)
        row = db.execute("SELECT value FROM meta WHERE key=?", (_READ,)).fetchone()
        if self.problem or (row is not None and int(row[0]) >= self._written_ns):
            return
        for heads in self._last:
            self._shelf.compare(heads, now_ns)
        db.execute(_META, (_READ, str(self._written_ns)))

    @property
    def words(self) -> str:
        receipts = f"{self.receipts} receipt{'s' if self.receipts != 1 else ''}"
        return self.problem or f"the file brought {self.events:,} new events of the hub and {receipts}"
