"""Who did what, as a file that anybody can check: JSON Lines with the proof beside each event.

    {"kind": "skerry audit", …}    whose box made it, its key, when, and what was asked for
    {"log": …}                     a log that events below are of, and the key it is signed with
    {"block": …}                   a signed block, whole: its events as bytes, the hash before it, its own, the signature
    {"event": …}                   one event in plain values: where it stands, and the hash of its block
    {"end": …}                     how many, the SHA-256 of all lines before, and the box's signature over it

Rules of the file
  1  An event is in the file when its block is, before it. What the plain values say is checked against the block's bytes.
  2  Who takes a line out, adds one or alters one breaks the end. Who makes a new end needs the box's key.
  3  Keys come from the file. That they are the right ones is known by a data folder (`--data`), or by comparing them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from fleet import audit, envelope, events
from fleet.audit import Query
from fleet.envelope import Block, Log
from fleet.events import Recorded
from store import journal
from store.audit import every
from store.database import connect_reader
from store.folder import Folder
from store.shared import told

KIND = "skerry audit"
VERSION = 1
LINE_BYTES_MAX = 16 * 1024 * 1024
_PIECE_LINES = 200
_END = b"skerry audit\x00"

_encode = msgspec.json.Encoder().encode


class _Head(msgspec.Struct, frozen=True):
    kind: str
    version: int
    box: str
    log: Log
    public_key: bytes
    made_ns: int
    query: dict[str, Any]


class _LogLine(msgspec.Struct, frozen=True):
    log: Log
    public_key: bytes


class _BlockLine(msgspec.Struct, frozen=True):
    block: bytes  # `envelope.encode`
    hash: str


class _EventLine(msgspec.Struct, frozen=True):
    event: dict[str, Any]


class _EndLine(msgspec.Struct, frozen=True):
    events: int
    sha256: str
    signature: bytes


_WHOSE = "SELECT public_key FROM log WHERE tenant=? AND writer=? AND epoch=?"
_BLOCK = (
    "SELECT log.id, log.tenant, log.public_key, block.first_seq FROM log JOIN block ON block.log_id = log.id"
    " WHERE log.writer=? AND log.epoch=? AND block.first_seq<=? ORDER BY block.first_seq DESC LIMIT 1"
)


def plain(event: Recorded, digest: str) -> dict[str, Any]:
    """An event as a line says it."""
    said = told([event])[0]
    return {
        "position": event.position,
        "writer": event.writer,
        "epoch": event.epoch,
        "seq": event.seq,
        "wall_ns": event.wall_ns,
        "clock": event.clock.name,
        "kind": event.kind,
        "version": event.version,
        "subject": event.subject,
        "who": audit.person_of(said),
        "from": audit.place_of(event),
        "fields": dict(events.fields(said.body)),
        "block": digest,
    }


def lines(
    site_db: Path, identity: journal.Identity, vouch: Callable[[bytes], bytes], query: Query, now_ns: int
) -> Generator[bytes, None, None]:
    """The lines of the file. `vouch` signs by the key of `identity`."""
    with closing(connect_reader(site_db)) as db:
        (key,) = db.execute(_WHOSE, identity.log).fetchone()
        asked = msgspec.structs.asdict(query)
        head = _Head(KIND, VERSION, identity.site, identity.log, key, now_ns, asked)
        digest, count = hashlib.sha256(), 0
        logs: set[Log] = set()
        block: Block | None = None
        pending: list[bytes] = [_encode(head)]
        for event in every(db, query):
            if block is None or not _holds(block, event):
                log_id, tenant, public_key, first = db.execute(
                    _BLOCK, (event.writer, event.epoch, event.seq)
                ).fetchone()
                block = next(journal.blocks(db, log_id, first - 1))
                log = Log(tenant, event.writer, event.epoch)
                if log not in logs:
                    logs.add(log)
                    pending.append(_encode({"log": _LogLine(log, public_key)}))
                pending.append(_encode({"block": _BlockLine(envelope.encode(block), block.hash.hex())}))
            pending.append(_encode({"event": plain(event, block.hash.hex())}))
            count += 1
            for raw in pending:
                digest.update(raw + b"\n")
                yield raw + b"\n"
            pending = []
        for raw in pending:
            digest.update(raw + b"\n")
            yield raw + b"\n"
        end = _EndLine(count, digest.hexdigest(), vouch(_END + digest.digest()))
        yield _encode({"end": end}) + b"\n"


def _holds(block: Block, event: Recorded) -> bool:
    same = (block.writer, block.epoch) == (event.writer, event.epoch)
    return same and block.first_seq <= event.seq <= block.head.seq


async def chunks(
    site_db: Path, identity: journal.Identity, vouch: Callable[[bytes], bytes], query: Query, now_ns: int
) -> AsyncIterator[bytes]:
    """The file, as it is made on a thread, piece by piece."""
    made = lines(site_db, identity, vouch, query, now_ns)

    def piece() -> bytes:
        return b"".join(line for line, _ in zip(made, range(_PIECE_LINES), strict=False))

    try:
        while found := await asyncio.to_thread(piece):
            yield found
    finally:
        made.close()


# -- checking ----------------------------------------------------------------------------------------------------


def verify(path: Path, data: Path | None) -> tuple[bool, str]:
    """Whether the file holds, by itself and (with `data`) against the logs of a folder; and what it is, in a sentence."""
    try:
        with path.open("rb") as file:
            good, words, keys, blocks = _check(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""))
    except OSError as error:
        return False, f"{path} cannot be read: {error.strerror}"
    if not good:
        return False, f"{path}: {words}"
    if data is None:
        shown = ", ".join(sorted({f"{log.writer} {key.hex()[:16]}…" for log, key in keys.items()}))
        return (
            True,
            f"{path}: {words}\n  keys as the file has them: {shown}; compare them, or name a folder with --data",
        )
    with closing(connect_reader(Folder(data).site_db)) as db:
        for log, key in keys.items():
            if journal.public_key(db, log) != key:
                return False, f"{path}: {words}, but {data} knows {log.writer} by another key, or not at all"
        for log, first, digest in blocks:
            row = db.execute(
                "SELECT hash FROM block WHERE first_seq=? AND log_id="
                "(SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?)",
                (first, *log),
            ).fetchone()
            if row is None or row[0] != digest:
                return False, f"{path}: {words}, but the log of {log.writer} in {data} is another one at event {first}"
    return True, f"{path}: {words}; the logs in {data} are the same there"


_Checked = tuple[bool, str, dict[Log, bytes], list[tuple[Log, int, bytes]]]


def _check(found: Iterator[bytes]) -> _Checked:
    keys: dict[Log, bytes] = {}
    seen: list[tuple[Log, int, bytes]] = []
    digest, count, number, head = hashlib.sha256(), 0, 0, None
    block: Block | None = None
    for number, raw in enumerate(found, 1):
        try:
            if head is None:
                head = msgspec.json.decode(raw, type=_Head)
                if (head.kind, head.version) != (KIND, VERSION):
                    return False, "it is no audit file of this version", keys, seen
                digest.update(raw)
                keys[head.log] = head.public_key
                continue
            ((what, body),) = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()
            if what == "end":
                end = msgspec.json.decode(body, type=_EndLine)
                return (*_ended(head, end, count, digest, next(found, b"")), keys, seen)
            digest.update(raw)
            match what:
                case "log":
                    line = msgspec.json.decode(body, type=_LogLine)
                    if keys.setdefault(line.log, line.public_key) != line.public_key:
                        return False, f"line {number}: a log has two keys", keys, seen
                case "block":
                    block = envelope.decode(msgspec.json.decode(body, type=_BlockLine).block)
                    fault = envelope.check(block, envelope.public_key(keys[block.log]))
                    if fault is not None:
                        return False, f"line {number}: {fault.value}", keys, seen
                    seen.append((block.log, block.first_seq, block.hash))
                case "event":
                    count += 1
                    if block is None or not _same(block, msgspec.json.decode(body)):
                        return False, f"line {number}: what it says is not what was signed", keys, seen
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            return False, f"line {number} cannot be read ({type(error).__name__})", keys, seen
    return False, f"it ends after line {number}, before its end: it was cut off", keys, seen


def _ended(head: _Head, end: _EndLine, count: int, digest: Any, rest: bytes) -> tuple[bool, str]:
    key = envelope.public_key(head.public_key)
    good = end.sha256 == digest.hexdigest() and end.events == count and not rest
    if not good or not envelope.vouches(key, end.signature, _END + digest.digest()):
        return False, f"lines were taken out, added or altered since {head.box} made it"
    return (
        True,
        f"{count:,} events as {head.box} had them; every block is signed by the writer it names, nothing is missing",
    )


def _same(block: Block, said: dict[str, Any]) -> bool:
    index = said["seq"] - block.first_seq
    if not 0 <= index < len(block.events) or said["block"] != block.hash.hex():
        return False
    signed = events.decode_any(
        block.events[index], writer=block.writer, epoch=block.epoch, seq=said["seq"], position=said["position"]
    )
    return bool(msgspec.json.decode(_encode(plain(signed, block.hash.hex()))) == said)
