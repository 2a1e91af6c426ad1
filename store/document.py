"""How is what people write down together kept, merged and compared? The only module that knows automerge.

A document is one flat automerge map. Each author writes a field in a slot of its own and takes away the slots of that
field that it has seen:

    key   = slot "/" pointer         slot = the first 16 hex digits of the author's actor id
    value = the stamped value as JSON text (`fleet.document.Stamped`)

So words written at once stand side by side as keys, whatever else was merged since, and one read shows them all. When
a document is full, its owner starts the next generation: a fresh document of the values that stand, others' values in
slots "owner.author", and under "owner/@generation" the heads of what was carried over. Both generations stay; what
comes late for the old one is merged there and carried over then (`carry`), so no value is ever lost on the way.

Rules of the file
  1  An author's actor id is fixed by its log and the document, so a document does not grow with restarts. Two changes
     with one number by one actor are the work of two copies of a box: no document can hold both. The one that comes
     second, and whatever builds on it, is a *double*: the owner says its words beside what stands, in a generation of
     their own (`beside`), and the other end lets its own copy of the old generation go (`give_way`).
  2  A change is read strictly before automerge sees it: puts and deletes of slots, and nothing else. The verdict hangs
     on the change alone, so both ends come to the same one. What it would do in memory is tried in another process
     (`store.document_check`); `merge` is what runs there.
  3  A change whose dependencies are missing waits in its table. A refused one is answered with a sentence, and kept by
     whoever asked; brought again, it is judged again.
  4  Functions that take a connection run in the caller's transaction.

The tables are `TABLES`; `heads` is sorted 32-byte hashes, one after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate, groupby
from typing import NamedTuple, TypeVar

import msgspec
from automerge import core

from fleet import document as words
from fleet.document import Author, Id, Kind, Stamped, Value, View

TABLES = """
CREATE TABLE document (
    tenant VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    heads BLOB NOT NULL,
    changes INTEGER NOT NULL,
    saved BLOB NOT NULL,
    disputed BOOLEAN,
    PRIMARY KEY (tenant, kind, id, generation)
);
CREATE INDEX document_disputed ON document (tenant, disputed);
CREATE TABLE document_waiting (
    tenant VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    hash BLOB NOT NULL,
    raw BLOB NOT NULL,
    since_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, id, generation, hash)
) WITHOUT ROWID;
CREATE TABLE document_double (
    tenant VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, id, generation, hash)
) WITHOUT ROWID;
"""

changes_max = 10_000
saved_bytes_max = 256 * 1024
HARD = 2  # times the limits above: room for what others wrote before they heard that it is time to rotate
change_bytes_max = 131_072  # any one value of the schema fits, however it is escaped
change_ops_max = 1_024
change_deps_max = 256
carried_bytes_max = 32_768  # of values in one change of a new generation
waiting_max = 1_000  # for one document
doubles_max = 1_000  # of one generation
heavy_max = 3  # changes of one document, in one batch, that may each end the process that tries them
generations_max = 1_000
id_chars_max = 64
_HASH_BYTES = 32
_ACTOR_BYTES = 16
_SLOT_CHARS = 16

T = TypeVar("T")


class Made(NamedTuple):
    """Changes that were just made, in order: what `document.changed` carries."""

    document: Id
    generation: int
    changes: tuple[bytes, ...]


class Refused(NamedTuple):
    """Nothing was done; the sentence says why and what to do."""

    reason: str


def actor_id(document: Id, author: Author) -> bytes:
    parts = [part.encode() for part in ("skerry document actor", *document, author.writer, str(author.epoch))]
    return hashlib.sha256(b"".join(len(raw).to_bytes(4) + raw for raw in parts)).digest()[:_ACTOR_BYTES]


def _slot(document: Id, author: Author) -> str:
    return actor_id(document, author).hex()[:_SLOT_CHARS]


# -- a change, read strictly -----------------------------------------------------------------------------------


class Change(NamedTuple):
    """What one change does: its puts (key to text) and its deletes (None), in order."""

    hash: bytes
    deps: tuple[bytes, ...]
    actor: bytes
    seq: int
    start_op: int
    ops: tuple[tuple[str, str | None], ...]
    raw: bytes


class Unreadable(ValueError):
    """The bytes are no change that an edit makes. Its words say what is wrong."""


_MAGIC = b"\x85\x6f\x4a\x83"
_CHANGE = 1
_KEY, _INSERT, _ACTION, _META, _RAW, _PREDS, _PRED_ACTOR, _PRED_OP = 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73
_COLUMNS = (_KEY, _INSERT, _ACTION, _META, _RAW, _PREDS, _PRED_ACTOR, _PRED_OP)
_PUT, _DELETE = 1, 3
_NULL, _TEXT = 0, 6


class _Cursor:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.raw):
            raise Unreadable("the change is cut off")
        return self.raw[self.at - count : self.at]

    def unsigned(self) -> int:
        """LEB128, in its shortest form, up to 63 bits."""
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 56:
                raise Unreadable("a number of the change is too large")
        if shift and not byte:
            raise Unreadable("a number of the change is not in its shortest form")
        return value

    def signed(self) -> int:
        start = self.at
        self.at = next((at for at in range(start, len(self.raw)) if self.raw[at] < 0x80), len(self.raw)) + 1
        taken = self.raw[start : self.at]
        if self.at > len(self.raw) or len(taken) > 9:
            raise Unreadable("a number of the change is too large or cut off")
        value = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(taken))
        return value - (1 << 7 * len(taken)) if taken[-1] & 0x40 else value

    def text(self) -> str:
        return self.take(self.unsigned()).decode()

    @property
    def ended(self) -> bool:
        return self.at == len(self.raw)


def decode(raw: bytes) -> Change:
    """A change as an edit makes it (https://automerge.org/automerge-binary-format-spec). Unreadable when it is not.

    Only the uncompressed form: a block of the log is compressed as a whole, and what does not inflate is no bomb.
    """
    if len(raw) > change_bytes_max:
        raise Unreadable(f"a change of {len(raw):,} bytes is over the limit of {change_bytes_max:,}")
    chunk = _Cursor(raw)
    if chunk.take(4) != _MAGIC:
        raise Unreadable("this is no change of a document")
    checksum = chunk.take(4)
    if chunk.take(1)[0] != _CHANGE:
        raise Unreadable("this is not one plain change: a whole document, or compressed")
    body = _Cursor(chunk.take(chunk.unsigned()))
    digest = hashlib.sha256(raw[8:]).digest()
    if not chunk.ended or digest[:4] != checksum:
        raise Unreadable("the change does not match its checksum; get another copy")
    try:
        return _decode_body(body, digest, raw)
    except UnicodeDecodeError as error:
        raise Unreadable("the change holds text that is no Unicode") from error


def _decode_body(body: _Cursor, digest: bytes, raw: bytes) -> Change:
    count = body.unsigned()
    if count > change_deps_max:
        raise Unreadable(f"a change that follows {count:,} others is over the limit of {change_deps_max}")
    deps = tuple(body.take(_HASH_BYTES) for _ in range(count))
    actor = body.take(body.unsigned())
    seq, start_op, time, message = body.unsigned(), body.unsigned(), body.signed(), body.unsigned()
    actors = 1 + body.unsigned()
    if any(len(body.take(body.unsigned())) != _ACTOR_BYTES for _ in range(1, actors)):
        raise Unreadable("an actor of the change has a wrong length")
    if len(actor) != _ACTOR_BYTES or not (0 < seq < 1 << 31 and 0 < start_op < 1 << 31) or time or message:
        raise Unreadable("the head of the change is not as an edit makes it")
    columns = _columns(body)
    ops = _ops(columns)
    _check_predecessors(columns, len(ops), actors, start_op)
    return Change(digest, deps, actor, seq, start_op, ops, raw)


def told(raw: bytes) -> tuple[list[tuple[str, str]], str]:
    """What a change says, as (field, value), and who said it; nothing when it cannot be read."""
    said, who = list[tuple[str, str]](), ""
    with contextlib.suppress(ValueError):
        for key, text in decode(raw).ops:
            match = _OWN.fullmatch(key)
            if match is None or text is None or _CLAIM.fullmatch(match[3]):
                continue
            stamp = words.decode(text)
            said.append((match[3], "" if stamp.value is None else str(stamp.value)))
            who = stamp.who
    return said, who


def _check_predecessors(columns: Mapping[int, bytes], ops: int, actors: int, start_op: int) -> None:
    """Which earlier writes each op takes away: how many, by which actors, and the differences of their numbers."""
    counts = _run_lengths(columns[_PREDS], _Cursor.unsigned)
    by = _run_lengths(columns[_PRED_ACTOR], _Cursor.unsigned)
    steps = _run_lengths(columns[_PRED_OP], _Cursor.signed)
    numbers = accumulate(step or 0 for step in steps)
    if (
        len(counts) != ops
        or not sum(count or 0 for count in counts) == len(by) == len(steps)
        or not all(index is not None and index < actors for index in by)
        or not all(0 < number < start_op for number in numbers)
    ):
        raise Unreadable("the change takes away what cannot be there")


def _columns(body: _Cursor) -> Mapping[int, bytes]:
    found = [(body.unsigned(), body.unsigned()) for _ in range(min(body.unsigned(), len(_COLUMNS) + 1))]
    names = [name for name, _ in found]
    if names != [name for name in _COLUMNS if name in names]:
        raise Unreadable("the change does more than put and delete fields")
    columns: dict[int, bytes] = defaultdict(bytes)
    columns.update((name, body.take(length)) for name, length in found)
    if not body.ended:
        raise Unreadable("the change holds more than it says")
    return columns


def _ops(columns: Mapping[int, bytes]) -> tuple[tuple[str, str | None], ...]:
    keys = _run_lengths(columns[_KEY], _Cursor.text)
    actions = _run_lengths(columns[_ACTION], _Cursor.unsigned)
    metas = _run_lengths(columns[_META], _Cursor.unsigned)
    inserts = _Cursor(columns[_INSERT])
    if not keys or len(actions) != len(keys) or len(metas) != len(keys) or inserts.unsigned() != len(keys):
        raise Unreadable("the columns of the change do not fit together")
    values = _Cursor(columns[_RAW])
    ops: list[tuple[str, str | None]] = []
    for key, action, meta in zip(keys, actions, metas, strict=True):
        if key is None or meta is None or (action, meta & 15) not in ((_PUT, _TEXT), (_DELETE, _NULL)):
            raise Unreadable("the change does more than put and delete fields")
        text = values.take(meta >> 4).decode()
        ops.append((key, text if action == _PUT else None))
    if not (inserts.ended and values.ended):
        raise Unreadable("the columns of the change do not fit together")
    return tuple(ops)


def _run_lengths(column: bytes, read: Callable[[_Cursor], T]) -> list[T | None]:
    cursor, out = _Cursor(column), list[T | None]()
    while not cursor.ended:
        count = cursor.signed()
        size = abs(count) or cursor.unsigned()
        if len(out) + size > change_ops_max:
            raise Unreadable(f"the change does more than {change_ops_max:,} things")
        if count > 0:
            out += [read(cursor)] * size
        else:
            out += [read(cursor) if count else None for _ in range(size)]
    return out


_OWN = re.compile(r"([0-9a-f]{16})(?:\.([0-9a-f]{16}))?/(.+)")
_CLAIM = re.compile(r"@(\d{1,4})")


def wrong(document: Id, generation: int, change: Change, author: Author | None = None) -> str | None:
    """Why the change may not be part of the document, as a sentence; None when it may. `author` is the log that it
    came in, None when it comes by way of others."""
    if author is not None and change.actor != actor_id(document, author):
        return "the change is written in another's name, or for another document"
    actor = change.actor.hex()[:_SLOT_CHARS]
    for key, text in change.ops:
        match = _OWN.fullmatch(key)
        if match is None:
            return "a field of the change has no author"
        if text is None:
            continue
        slot, carried, pointer = match.groups()
        if slot != actor or (carried and not generation):
            return "the change writes in another author's place"
        claim = _CLAIM.fullmatch(pointer)
        if claim is None:
            reason = _wrong_value(document, carried or actor, pointer, text)
        else:
            reason = (
                None if int(claim[1]) < generation and _heads(text) else "the change carries over what is not there"
            )
        if reason is not None:
            return reason
    return None


def _wrong_value(document: Id, slot: str, pointer: str, text: str) -> str | None:
    try:
        stamp = words.decode(text)
    except ValueError:
        return f"the value of {pointer[: words.pointer_chars_max]} cannot be read"
    reason = words.wrong_stamp(stamp) or words.wrong(document.kind, pointer, stamp.value)
    return reason or (None if _slot(document, stamp.author) == slot else "a value is stamped in another's name")


def _heads(text: str) -> list[bytes]:
    """The heads of a claim; none when it is no claim."""
    found = re.fullmatch(r"[0-9a-f]{64}(,[0-9a-f]{64})*", text)
    return [bytes.fromhex(one) for one in text.split(",")] if found else []


# -- a document, as saved --------------------------------------------------------------------------------------


class Merged(msgspec.Struct, frozen=True, array_like=True):
    """What came of a merge. `saved` is the document after it; hashes say which change went where."""

    saved: bytes
    heads: bytes
    changes: int
    applied: tuple[bytes, ...] = ()
    known: tuple[bytes, ...] = ()
    waiting: tuple[bytes, ...] = ()
    refused: tuple[tuple[bytes, str], ...] = ()
    disputed: bool = False  # words stand against each other in a field
    doubled: tuple[bytes, ...] = ()


def _load(saved: bytes, actor: bytes | None = None) -> core.Document:
    document = core.Document.load(saved)
    if actor is not None:
        document.set_actor(actor)
    return document


def _joined(heads: Iterable[bytes]) -> bytes:
    return b"".join(sorted(heads))


def split(heads: bytes) -> list[bytes]:
    return [heads[at : at + _HASH_BYTES] for at in range(0, len(heads), _HASH_BYTES)]


class _Known(NamedTuple):
    actor: bytes
    seq: int
    max_op: int


def merge(saved: bytes, changes: Iterable[Change], doubles: Iterable[bytes] = ()) -> Merged | None:
    """Apply what can be applied, in whatever order it comes; None when several cannot be applied together, and have to
    be tried one by one. `doubles` are known for such. Only for changes that `wrong` passed, and from others only in a
    process of its own: this is where memory and time can go."""
    before = _load(saved)
    known = {one.hash: _Known(one.actor_id, one.seq, one.max_op) for one in before.get_changes([])}
    numbers = {(one.actor, one.seq): digest for digest, one in known.items()}
    had, refused, ready = list[bytes](), list[tuple[bytes, str]](), list[Change]()
    waiting: list[bytes] = []
    doubled = dict.fromkeys(doubles)
    for change in _in_order(changes):
        if change.hash in known:
            had.append(change.hash)
        elif _is_second(change, known, numbers, doubled):
            doubled[change.hash] = None
        elif not all(dep in known for dep in change.deps):
            waiting.append(change.hash)
        elif reason := _wrong_place(change, known, numbers):
            refused.append((change.hash, reason))
        else:
            known[change.hash] = _Known(change.actor, change.seq, change.start_op + len(change.ops) - 1)
            numbers[change.actor, change.seq] = change.hash
            ready.append(change)
    twice = tuple(doubled)
    after = _applied(saved, before, ready)
    if isinstance(after, str) or len(known) > HARD * changes_max:
        if len(ready) > 1:
            return None
        reason = after if isinstance(after, str) else _FULL
        none = [*refused, *((one.hash, reason) for one in ready)]
        return _merged(saved, before, len(known) - len(ready), had, waiting, none, (), twice)
    return _merged(*after, len(known), had, waiting, refused, [one.hash for one in ready], twice)


def _is_second(
    change: Change,
    known: Mapping[bytes, _Known],
    numbers: Mapping[tuple[bytes, int], bytes],
    doubled: Collection[bytes],
) -> bool:
    """Whether a second copy of the author wrote it, or it builds on what one wrote."""
    if change.hash in doubled or any(dep in doubled for dep in change.deps):
        return True
    return (change.actor, change.seq) in numbers and all(dep in known for dep in change.deps)


def _in_order(changes: Iterable[Change]) -> Iterator[Change]:
    """Each once, after those among them that it follows."""
    todo = {change.hash: change for change in changes}
    missing = {digest: sum(dep in todo for dep in change.deps) for digest, change in todo.items()}
    followers: dict[bytes, list[bytes]] = defaultdict(list)
    for digest, change in todo.items():
        for dep in change.deps:
            followers[dep].append(digest)
    ready = deque(digest for digest, count in missing.items() if not count)
    while ready:
        digest = ready.popleft()
        yield todo[digest]
        for follower in followers[digest]:
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)


_FULL = "the document has no room for it; have its owner start the next generation, then send it again"


def _merged(
    saved: bytes,
    document: core.Document,
    count: int,
    had: Iterable[bytes],
    waiting: Iterable[bytes],
    refused: Iterable[tuple[bytes, str]],
    applied: Iterable[bytes] = (),
    doubled: tuple[bytes, ...] = (),
) -> Merged:
    heads = _joined(document.get_heads())
    said = tuple(applied), tuple(had), tuple(waiting), tuple(refused)
    return Merged(saved, heads, count, *said, _disputed(document), doubled)


def _wrong_place(
    change: Change, known: Mapping[bytes, _Known], numbers: Mapping[tuple[bytes, int], bytes]
) -> str | None:
    if change.seq > 1 and (change.actor, change.seq - 1) not in numbers:
        return "the change skips one by the same author"
    if change.start_op != 1 + max((known[dep].max_op for dep in change.deps), default=0):
        return "the change does not count on from those it follows"
    return None


def _applied(saved: bytes, before: core.Document, ready: Sequence[Change]) -> tuple[bytes, core.Document] | str:
    """The document with all of `ready`, or why it cannot be had."""
    if not ready:
        return saved, before
    try:
        after = core.Document.load(saved + b"".join(one.raw for one in ready))
        out = after.save()
        again = core.Document.load(out)
        deque(_slots(again), maxlen=0)  # what is kept can be read again
    except Exception as error:  # noqa: BLE001 - the binding raises nothing narrower
        return f"the change cannot be applied: {error}"
    heads = {*before.get_heads(), *(one.hash for one in ready)}.difference(*(one.deps for one in ready))
    if not set(again.get_heads()) == set(after.get_heads()) == heads:
        return "the change cannot be applied: it does not stand where it says"
    return (out, again) if len(out) <= HARD * saved_bytes_max else _FULL


def _slots(document: core.Document, heads: list[bytes] | None = None) -> Iterator[tuple[str, str, str]]:
    """What stands: slot, pointer, text."""
    for key in document.keys(core.ROOT, heads):
        found = document.get(core.ROOT, key, heads)
        slot, _, pointer = key.partition("/")
        if found is not None and isinstance(found[0], tuple) and isinstance(found[0][1], str):
            yield slot, pointer, found[0][1]


def _values(document: core.Document, heads: list[bytes] | None = None) -> dict[str, dict[str, Stamped]]:
    """Pointer to slot to value. Heads are those of changes that are here."""
    values: dict[str, dict[str, Stamped]] = defaultdict(dict)
    for slot, pointer, text in _slots(document, heads):
        if not pointer.startswith("@"):
            values[pointer][slot] = words.decode(text)
    return values


def _disputed(document: core.Document) -> bool:
    """Whether words stand against each other in a field. Only a field with several is decoded."""
    texts: dict[str, list[str]] = defaultdict(list)
    for _, pointer, text in _slots(document):
        if not pointer.startswith("@"):
            texts[pointer].append(text)
    several = [map(words.decode, held) for held in texts.values() if len(held) > 1]
    return any(len(words.apart(held)) > 1 for held in several)


def read(kind: str, saved: bytes) -> View:
    """A saved document as people see it."""
    return words.view(kind, {pointer: held.values() for pointer, held in _values(_load(saved)).items()})


class _Put(NamedTuple):
    slot: str
    pointer: str
    text: str
    over: Collection[str] = ()  # slots of the same pointer that it takes away


def _write(saved: bytes, actor: bytes, puts: Sequence[_Put]) -> tuple[Merged, tuple[bytes, ...]]:
    """Make changes, as few as their bounds allow and at least one."""
    document = _load(saved, actor)
    before = document.get_heads()
    for part in _parts(puts):
        with document.transaction() as transaction:
            for put in part:
                transaction.put(core.ROOT, f"{put.slot}/{put.pointer}", core.ScalarType.Str, put.text)
                for slot in put.over:
                    transaction.delete(core.ROOT, f"{slot}/{put.pointer}")
    made = document.get_changes(before)
    count = len(document.get_changes([]))
    merged = _merged(document.save(), document, count, (), (), (), [one.hash for one in made])
    return merged, tuple(one.raw_bytes for one in made)


def _parts(puts: Sequence[_Put]) -> Iterator[list[_Put]]:
    held: list[_Put] = []
    size = ops = 0
    for put in puts:
        more = 1 + len(put.over)
        weight = len(put.text.encode()) + more * (len(put.pointer.encode()) + 2 * _SLOT_CHARS)
        if held and (size + weight > carried_bytes_max or ops + more > change_ops_max):
            yield held
            held, size, ops = [], 0, 0
        held.append(put)
        size, ops = size + weight, ops + more
    yield held


EMPTY = core.Document(bytes(_ACTOR_BYTES)).save()


# -- keeping ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    generation: int
    heads: bytes
    changes: int
    saved: bytes

    @property
    def full(self) -> bool:
        """Whether it is time for the owner to `rotate`."""
        return self.changes >= changes_max or len(self.saved) >= saved_bytes_max


_NOTHING = Row(0, b"", 0, EMPTY)


def generations(db: sqlite3.Connection, document: Id) -> list[Row]:
    """What is here of a document, newest generation first."""
    rows = db.execute(
        "SELECT generation, heads, changes, saved FROM document WHERE tenant=? AND kind=? AND id=?"
        " ORDER BY generation DESC",
        document,
    )
    return [Row(*row) for row in rows]


def current(db: sqlite3.Connection, document: Id) -> Row:
    """The generation that people see and edit: the newest that is here whole. An empty one when there is none."""
    return _current(generations(db, document))


def _current(rows: Sequence[Row]) -> Row:
    return next((row for row in rows if row.generation == 0 or _claims(_load(row.saved), row.generation - 1)), _NOTHING)


def _claims(document: core.Document, generation: int) -> set[bytes]:
    """The heads of an older generation up to which its values were carried into this one."""
    texts = (text for _, pointer, text in _slots(document) if pointer == f"@{generation}")
    return {head for text in texts for head in _heads(text)}


def look(db: sqlite3.Connection, document: Id) -> View:
    """The document as it stands. Empty when nobody wrote in it yet."""
    return read(document.kind, current(db, document).saved)


def values(db: sqlite3.Connection, document: Id) -> dict[str, list[Stamped]]:
    """Every word that stands in the document as people see it, by pointer."""
    held = _values(_load(current(db, document).saved))
    return {pointer: list(words_there.values()) for pointer, words_there in held.items()}


def as_of(db: sqlite3.Connection, document: Id, stamp: int) -> View | None:
    """The document as it stood at a moment (the greatest stamp that belongs to it): the words that had been said by then,
    wherever, and what they build on. None when nobody had written yet."""
    for row in generations(db, document):
        loaded = _load(row.saved)
        if row.generation and not _claims(loaded, row.generation - 1):
            continue
        then: dict[bytes, list[bytes]] = {}
        for one in loaded.get_changes([]):  # each after those it follows
            if all(dep in then for dep in one.deps) and _said_at(one.raw_bytes) <= stamp:
                then[one.hash] = one.deps
        heads = sorted(then.keys() - {dep for deps in then.values() for dep in deps})
        if heads:
            held = _values(loaded, heads)
            return words.view(document.kind, {pointer: each.values() for pointer, each in held.items()})
    return None


def steps(db: sqlite3.Connection, document: Id) -> list[int]:
    """The stamps from which on it stood otherwise than before (`as_of`), in order: in between it stood as it was."""
    changes = (one for row in generations(db, document) for one in _load(row.saved).get_changes([]))
    return sorted({_said_at(one.raw_bytes) for one in changes})


def _said_at(raw: bytes) -> int:
    """The newest stamp of what a change says. One that begins a generation is as old as the words that it carries over."""
    texts = (text for key, text in decode(raw).ops if text is not None and not key.partition("/")[2].startswith("@"))
    return max((words.decode(text).hlc for text in texts), default=0)


def _store(db: sqlite3.Connection, document: Id, generation: int, merged: Merged) -> None:
    db.execute(
        "INSERT INTO document VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE"
        " SET heads=excluded.heads, changes=excluded.changes, saved=excluded.saved, disputed=excluded.disputed",
        (*document, generation, merged.heads, merged.changes, merged.saved, merged.disputed),
    )


def edit(
    db: sqlite3.Connection,
    document: Id,
    values: Mapping[str, Value],
    stamp: Stamped,
    *,
    beside: Collection[Stamped] = (),
    again: Collection[str] = (),
) -> Made | Refused | None:
    """Write `values` by pointer, each stamped like `stamp` (its own value is not looked at), over all that stands
    there now but `beside`. None when it all stands so already, but for the pointers that are to be said `again`. Taking
    the other side of a conflict is an edit with its value."""
    reason = _wrong_id(document) or words.wrong_stamp(stamp)
    reason = reason or next(filter(None, (words.wrong(document.kind, *one) for one in values.items())), None)
    unknown = [pointer for pointer in values if words.field(document.kind, pointer) is None]
    if reason or unknown:
        return Refused(reason or f"a {document.kind} has no {unknown[0]}")
    row = current(db, document)
    if row.full:
        return Refused("the document is full; its owner has to start its next generation")
    mine, held = _slot(document, stamp.author), _values(_load(row.saved))
    puts = []
    for pointer, value in values.items():
        stamped = msgspec.structs.replace(stamp, value=value)
        there = {slot: one for slot, one in held.get(pointer, {}).items() if one not in beside}
        if pointer in again or not _agreed(there.values(), value):
            over = [slot for slot in there if slot != mine]
            puts.append(_Put(mine, pointer, words.encode(stamped).decode(), over))
    return _make(db, document, row, stamp.author, puts) if puts else None


def _agreed(there: Collection[Stamped], value: Value) -> bool:
    return (bool(there) or value is None) and all(one.value == value for one in there)


def _make(db: sqlite3.Connection, document: Id, row: Row, author: Author, puts: Sequence[_Put]) -> Made | Refused:
    merged, changes = _write(row.saved, actor_id(document, author), puts)
    if any(len(raw) > change_bytes_max for raw in changes) or len(merged.saved) > HARD * saved_bytes_max:
        return Refused("that is too much for one edit; make it in several")
    _store(db, document, row.generation, merged)
    return Made(document, row.generation, changes)


# -- what stands against each other ----------------------------------------------------------------------------


class Stand(NamedTuple):
    """All words of a field that stand against each other, and what their authors had all seen there: nothing is known
    of it (`based` false) where a word was carried over from an older generation."""

    pointer: str
    words: tuple[Stamped, ...]
    base: Value = None
    based: bool = False


class Open(NamedTuple):
    """What of a document is open, by pointer, and all of it as it was merged."""

    stands: tuple[Stand, ...]
    view: View


def opened(document: Id, row: Row) -> Open:
    """What is open in a document, whose current generation is `row`."""
    loaded = _load(row.saved)
    values, history = _values(loaded), _History(loaded)
    stands = []
    for pointer, held in sorted(values.items()):
        if len(held) > 1 and len(words.apart(held.values())) > 1:
            base = history.base(pointer, held)
            stands.append(Stand(pointer, tuple(held.values()), *(base or (None, False))))
    return Open(tuple(stands), words.view(document.kind, {pointer: held.values() for pointer, held in values.items()}))


def is_disputed(saved: bytes) -> bool:
    return _disputed(_load(saved))


def _leb128(number: int) -> bytes:
    """As `_Cursor.unsigned` reads it."""
    low, high = number & 0x7F, number >> 7
    return bytes((low | 0x80,)) + _leb128(high) if high else bytes((low,))


class _History:
    """Which change wrote what, and which changes it had seen."""

    def __init__(self, document: core.Document) -> None:
        self._document = document
        changes = document.get_changes([])  # each after those it follows
        self._deps = {one.hash: one.deps for one in changes}
        self._written = [(one.hash, one.actor_id.hex()[:_SLOT_CHARS], one.raw_bytes) for one in reversed(changes)]

    def base(self, pointer: str, slots: Collection[str]) -> tuple[Value, bool] | None:
        """The value at the changes that all the words' authors had seen; None when that is not known."""
        by = [self._wrote(slot, pointer) for slot in slots]
        if any("." in slot for slot in slots) or None in by:
            return None
        common = set[bytes].intersection(*(self._before(digest) for digest in by if digest is not None))
        if not common:
            return None if self._follows_another() else (None, True)
        heads = sorted(common.difference(*(self._deps[one] for one in common)))
        held = [words.decode(text) for _, where, text in _slots(self._document, heads) if where == pointer]
        return (words.effective(words.standing(held)).value if held else None), True

    def _wrote(self, slot: str, pointer: str) -> bytes | None:
        """The newest change of the slot's author that names the key: nobody takes away a slot of their own. To read a
        change takes long; a key stands in its bytes behind its length."""
        key = f"{slot}/{pointer}".encode()
        named = _leb128(len(key)) + key
        return next((digest for digest, actor, raw in self._written if actor == slot and named in raw), None)

    def _before(self, digest: bytes) -> set[bytes]:
        found, todo = set[bytes](), list(self._deps[digest])
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self._deps[one]
        return found

    def _follows_another(self) -> bool:
        """Whether this generation was begun with what an older one held."""
        return any(pointer.startswith("@") for _, pointer, _ in _slots(self._document))


# -- the next generation ---------------------------------------------------------------------------------------


def rotate(db: sqlite3.Connection, document: Id, author: Author) -> Made | Refused:
    """Start the next generation with all that stands, open conflicts included. Only for the document's owner."""
    row = current(db, document)
    if row.generation >= generations_max or not row.heads:
        return Refused("there is nothing to start a next generation of")
    puts = []
    for pointer, held in _values(_load(row.saved)).items():
        last = words.standing(held.values())
        if any(one.value is not None for one in last):
            puts += [_carried(document, author, pointer, one) for one in last]
    puts.append(_claim(document, author, row))
    return _make(db, document, _row(db, document, row.generation + 1), author, puts)


def _carried(document: Id, by: Author, pointer: str, value: Stamped) -> _Put:
    mine, theirs = _slot(document, by), _slot(document, value.author)
    return _Put(mine if mine == theirs else f"{mine}.{theirs}", pointer, words.encode(value).decode())


def _claim(document: Id, by: Author, row: Row) -> _Put:
    return _Put(_slot(document, by), f"@{row.generation}", ",".join(head.hex() for head in split(row.heads)))


def carry(db: sqlite3.Connection, document: Id, author: Author, owner: bool = False) -> Made | Refused | None:
    """Write into the current generation what came to an older one after it was carried over, beside what stands.

    Each author carries its own words, the owner carries everybody's; twice is the same as once. None when there is
    nothing to carry, or when what was carried is not all here yet.
    """
    rows = generations(db, document)
    now = _current(rows)
    loaded = {row.generation: _load(row.saved) for row in rows}
    standing = _values(loaded[now.generation]) if rows else {}
    puts: list[_Put] = []
    for row in rows:
        if row.generation >= now.generation:
            continue
        claims = set[bytes]().union(
            *(_claims(newer, row.generation) for number, newer in loaded.items() if number > row.generation)
        )
        late = _late(loaded[row.generation], claims)
        for pointer, value in late:
            mine = value.author == author
            if (mine or owner) and not _said(standing.get(pointer, {}).values(), value):
                puts.append(_carried(document, author, pointer, value))
        if owner and late:
            puts.append(_claim(document, author, row))
    return _make(db, document, now, author, puts) if puts else None


def _late(old: core.Document, claims: set[bytes]) -> list[tuple[str, Stamped]]:
    if not claims <= {one.hash for one in old.get_changes([])}:
        return []
    then = _values(old, sorted(claims))
    return [
        (pointer, value)
        for pointer, held in _values(old).items()
        for value in words.standing(held.values())
        if value not in then.get(pointer, {}).values()
    ]


def _said(there: Iterable[Stamped], value: Stamped) -> bool:
    return any(one.author == value.author and one.hlc >= value.hlc for one in there)


# -- what others wrote -----------------------------------------------------------------------------------------


class Incoming(NamedTuple):
    """One change as a log or a comparison of heads brings it. `author` is the log it came in, None when it comes by
    way of others."""

    document: Id
    generation: int
    raw: bytes
    author: Author | None = None


class Fate(StrEnum):
    APPLIED = "applied"
    KNOWN = "known"  # it was here already
    WAITING = "waiting"  # for changes that it builds on
    DOUBLED = "doubled"  # said once of each: a second copy of its author wrote it
    REFUSED = "refused"


class Outcome(NamedTuple):
    document: Id
    generation: int
    raw: bytes
    fate: Fate
    reason: str = ""


class Work(msgspec.Struct, frozen=True, array_like=True):
    """One document for a checker: what is here, and what is to be merged into it."""

    saved: bytes
    changes: tuple[Change, ...]
    doubles: tuple[bytes, ...] = ()


# What `merge` says of each; None also when it took more memory or time than a document may
Check = Callable[[Sequence[Work]], list[Merged | None]]

_TOO_HEAVY = "applying the change took too much memory or time, or ended the process that tried; it was let go"
_TOO_DOUBLE = "a second copy of the author wrote too much of this document; take one of the two away first"
_TOO_MANY = "too many changes of the document wait for others already; send those first"


Owners = Callable[[], Collection[Author]]


def receive(
    db: sqlite3.Connection, incoming: Iterable[Incoming], check: Check, now_ns: int, owners: Owners | None = None
) -> list[Outcome]:
    """Judge and merge what others wrote, and try again what waits. Each change has an outcome, and each that waited
    and no longer does. With `owners`, nobody else begins a generation. Afterwards call `carry` for each document with
    an outcome of APPLIED and a generation above 0, or below its current one."""
    outcomes: list[Outcome] = []
    passed: list[tuple[Id, int, Change]] = []
    for one in incoming:
        change = _passed(one, owners)
        if isinstance(change, str):
            outcomes.append(Outcome(one.document, one.generation, one.raw, Fate.REFUSED, change))
        else:
            passed.append((one.document, one.generation, change))
    passed.sort(key=lambda one: one[:2])
    places, work = list[tuple[Id, int, Row, dict[bytes, Change], int]](), list[Work]()
    for (document, generation), group in groupby(passed, key=lambda one: one[:2]):
        row = _row(db, document, generation)
        waits = db.execute(f"SELECT hash, raw FROM document_waiting WHERE {_PLACE}", (*document, generation))
        changes = {digest: decode(raw) for digest, raw in waits}
        waited = len(changes)
        changes |= {change.hash: change for _, _, change in group}
        places.append((document, generation, row, changes, waited))
        work.append(Work(row.saved, tuple(changes.values()), _doubles(db, document, generation)))
    for one_work, (document, generation, row, changes, waited), merged in zip(work, places, check(work), strict=True):
        if merged is None:
            merged = _apart(row, changes, one_work.doubles, check)
        if merged.applied:
            _store(db, document, generation, merged)
        doubled = set(merged.doubled).difference(one_work.doubles)
        outcomes += _settle(db, document, generation, changes, waited, merged, doubled, now_ns)
    return outcomes


def _doubles(db: sqlite3.Connection, document: Id, generation: int) -> tuple[bytes, ...]:
    rows = db.execute(f"SELECT hash FROM document_double WHERE {_PLACE}", (*document, generation))
    return tuple(digest for (digest,) in rows)


def _apart(row: Row, changes: Mapping[bytes, Change], doubles: tuple[bytes, ...], check: Check) -> Merged:
    """One at a time, so that the one that cannot be applied takes no other with it; after a few that are too heavy, the
    rest is refused with them."""
    total = Merged(row.saved, row.heads, row.changes, doubled=doubles)
    heavy = 0
    for change in _in_order(changes.values()):
        alone = check([Work(total.saved, (change,), total.doubled)])[0] if heavy < heavy_max else None
        if alone is None:
            heavy += 1
            alone = msgspec.structs.replace(
                total, applied=(), known=(), waiting=(), refused=((change.hash, _TOO_HEAVY),)
            )
        total = Merged(
            alone.saved,
            alone.heads,
            alone.changes,
            total.applied + alone.applied,
            total.known + alone.known,
            total.waiting + alone.waiting,
            total.refused + alone.refused,
            alone.disputed,
            alone.doubled,
        )
    return total


_PLACE = "tenant=? AND kind=? AND id=? AND generation=?"


def _passed(one: Incoming, owners: Owners | None) -> Change | str:
    if reason := _wrong_id(one.document):
        return reason
    if not 0 <= one.generation <= generations_max:
        return "the document is of a generation that cannot be"
    try:
        change = decode(one.raw)
    except Unreadable as error:
        return str(error)
    owned = owners is None or not _begins(change) or change.actor in {actor_id(one.document, by) for by in owners()}
    if not owned:
        return "a new generation of the document was begun by one who does not own it; only its hub may"
    return wrong(one.document, one.generation, change, one.author) or change


def _begins(change: Change) -> bool:
    """Whether it says up to where an older generation was carried over: what hides that generation from people."""
    found = (_OWN.fullmatch(key) for key, text in change.ops if text is not None)
    return any(match is not None and _CLAIM.fullmatch(match[3]) for match in found)


def _wrong_id(document: Id) -> str | None:
    if document.kind not in list(Kind):
        return "this box knows no documents of that kind; bring it to a newer version"
    if not all(0 < len(part) <= id_chars_max and part.isprintable() for part in document):
        return f"a document's id is 1 to {id_chars_max} printable characters"
    return None


def _row(db: sqlite3.Connection, document: Id, generation: int) -> Row:
    query = f"SELECT generation, heads, changes, saved FROM document WHERE {_PLACE}"
    row = db.execute(query, (*document, generation)).fetchone()
    return Row(*row) if row else _NOTHING._replace(generation=generation)


def _settle(
    db: sqlite3.Connection,
    document: Id,
    generation: int,
    changes: Mapping[bytes, Change],
    waited: int,
    merged: Merged,
    doubled: set[bytes],
    now_ns: int,
) -> Iterator[Outcome]:
    refused, applied, missing = dict(merged.refused), set(merged.applied), set(merged.waiting)
    if doubled and len(merged.doubled) > doubles_max:
        refused |= dict.fromkeys(doubled, _TOO_DOUBLE)
    waiting = [digest for digest in changes if digest in missing]  # those that waited already come first
    refused |= dict.fromkeys(waiting[waiting_max:], _TOO_MANY)
    waits = set(waiting[:waiting_max])
    for digest, change in changes.items():
        place = (*document, generation, digest)
        if digest in waits:
            fate = Fate.WAITING
            db.execute("INSERT OR IGNORE INTO document_waiting VALUES (?,?,?,?,?,?,?)", (*place, change.raw, now_ns))
        else:
            fate = Fate.REFUSED if digest in refused else Fate.APPLIED if digest in applied else Fate.KNOWN
            if digest in doubled and fate is not Fate.REFUSED:
                fate = Fate.DOUBLED
                db.execute("INSERT OR IGNORE INTO document_double VALUES (?,?,?,?,?)", place)
            if waited:
                db.execute(f"DELETE FROM document_waiting WHERE {_PLACE} AND hash=?", place)
        yield Outcome(document, generation, change.raw, fate, refused.get(digest, ""))


# -- two copies of one author ------------------------------------------------------------------------------------

SECOND = ", on a second copy"


def beside(db: sqlite3.Connection, document: Id, raw: bytes, author: Author) -> tuple[Made | Refused | None, bool]:
    """Say the words of a double as this author's, beside all that stands, with who and when they come from. Also whether
    all of them are said: a field in which the author has a word of its own has no room for another's."""
    row, mine, change = current(db, document), _slot(document, author), decode(raw)
    own, held = change.actor.hex()[:_SLOT_CHARS], _values(_load(row.saved))
    puts, whole = [], True
    for key, text in change.ops:
        slot, _, pointer = key.partition("/")
        if text is None or slot != own or pointer.startswith("@"):
            continue
        word, there = words.decode(text), held.get(pointer, {})
        before = there.get(mine)
        if _agreed(there.values(), word.value):
            continue
        if before is not None and (not before.who.endswith(SECOND) or before.hlc >= word.hlc):
            whole = whole and before.value == word.value
            continue
        who = word.who.removesuffix(SECOND)[: words.who_chars_max - len(SECOND)] + SECOND
        said = msgspec.structs.replace(word, who=who, writer=author.writer, epoch=author.epoch)
        puts.append(_Put(mine, pointer, words.encode(said).decode()))
    return (_make(db, document, row, author, puts) if puts else None), whole


def give_way(db: sqlite3.Connection, document: Id) -> None:
    """Where the owner began a new generation, let go of older ones in which two copies of an author wrote: what the owner
    holds of them comes with the next comparison of heads. Not for the owner."""
    now = current(db, document).generation
    older = "tenant=? AND kind=? AND id=? AND generation<?"
    found = db.execute(f"SELECT DISTINCT generation FROM document_double WHERE {older}", (*document, now)).fetchall()
    for (generation,) in found:
        for table in ("document", "document_waiting", "document_double"):
            db.execute(f"DELETE FROM {table} WHERE {_PLACE}", (*document, generation))


# -- comparing ends --------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """One generation of one document: what is compared."""

    document: Id
    generation: int


class Digest(NamedTuple):
    """All documents of a tenant in 32 bytes, and in 256 times 32. Equal roots: nothing is missing on either end."""

    root: bytes
    buckets: tuple[bytes, ...]


Heads = dict[Place, bytes]
BUCKETS = 256


def heads(
    db: sqlite3.Connection,
    tenant: str,
    buckets: Collection[int] = range(BUCKETS),
    nodes: Collection[str] | None = None,
) -> Heads:
    """The heads of all documents in these buckets; of those of nodes and sites, if ids are given, only these: a hub has a
    hundred thousand, and one site a hundred of them."""
    wanted = frozenset(buckets)
    every = "SELECT kind, id, generation, heads FROM document WHERE tenant=?"
    if nodes is None:
        rows = db.execute(f"{every} ORDER BY kind, id, generation", (tenant,)).fetchall()
    else:
        rows = db.execute(f"{every} AND (kind<'node' OR kind>'node') AND kind<>'site'", (tenant,)).fetchall()
        named = msgspec.json.encode(sorted(nodes)).decode()
        listed = f"{every} AND kind IN ('node', 'site') AND id IN (SELECT value FROM json_each(?))"
        rows += db.execute(listed, (tenant, named)).fetchall()
    return {
        Place(Id(tenant, kind, name), generation): held
        for kind, name, generation, held in rows
        if len(wanted) == BUCKETS or _bucket(kind, name) in wanted
    }


def _bucket(kind: str, name: str) -> int:
    return hashlib.sha256(f"{kind}/{name}".encode()).digest()[0]


def digest(held: Heads) -> Digest:
    """Of all heads of a tenant."""
    buckets = [hashlib.sha256() for _ in range(BUCKETS)]
    for ((_, kind, name), generation), each in sorted(held.items()):
        buckets[_bucket(kind, name)].update(f"{kind}/{name}\n{generation}\n{len(each)}\n".encode() + each)
    digests = tuple(bucket.digest() for bucket in buckets)
    return Digest(hashlib.sha256(b"".join(digests)).digest(), digests)


def differing_buckets(mine: Digest, theirs: Digest) -> list[int]:
    """Which buckets to ask for. None differ when the roots are equal."""
    if mine.root == theirs.root:
        return []
    return [number for number, pair in enumerate(zip(mine.buckets, theirs.buckets, strict=True)) if pair[0] != pair[1]]


def differing(mine: Heads, theirs: Heads) -> list[Place]:
    """Where the two ends do not hold the same: each side sends the other `changes_since` there."""
    return sorted(place for place in mine.keys() | theirs.keys() if mine.get(place) != theirs.get(place))


def changes_since(db: sqlite3.Connection, place: Place, theirs: bytes) -> list[Incoming]:
    """What is here and not yet there, where the heads are `theirs`; all that is here when none of them is known."""
    document, generation = place
    changes = _load(_row(db, document, generation).saved).get_changes(split(theirs))
    return [Incoming(document, generation, one.raw_bytes) for one in changes]
