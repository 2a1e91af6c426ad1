"""T22: whoever can write into site.db, but has not the writer's key, is found; and nobody else is accused.

A thousand tamperings of the tables `event`, `block` and `log`, each on its own copy: edits, deletions, cuts, swaps,
forgeries that recompute every hash. The check must name the block of the first bad record. Who cuts off the end, or
writes it all anew under another key, leaves a log that holds in itself: that is found against what stands outside
it, the head that somebody noted and the writer's key.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from powerloss import Box, note

from appliance import archive
from fleet import envelope, events
from fleet.envelope import Head, Log
from store import journal, keys
from store.database import connect_reader

CASES, UNTOUCHED = 1_000, 200
SEED = int(os.environ.get("SEED", "20261121"))
BLOCKS = 24

pytestmark = pytest.mark.trial


class Book:
    """A journal as bytes, to be tampered with as often as wanted."""

    def __init__(self, root: Path) -> None:
        rng = random.Random(SEED)
        self.folder = root
        with closing(Box(root)) as box:
            for turn in range(BLOCKS):
                bodies = [(f"alder-{rng.randrange(5)}", _body(rng, turn)) for _ in range(rng.randrange(1, 6))]
                box.site.submit(partial(_stage, box.journal, bodies)).result()
            self.log, self.head = box.log, box.journal.head
        self.memory = memory_of(root / "site.db")
        with closing(self.copy()) as db:
            self.spans = db.execute("SELECT first_seq, last_seq FROM block ORDER BY first_seq").fetchall()

    def copy(self) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.deserialize(self.memory)
        return db

    def span(self, seq: int) -> tuple[int, int]:
        return next((first, last) for first, last in self.spans if first <= seq <= last)


def _stage(log: journal.Journal, bodies: Sequence[tuple[str, events.Body]], db: sqlite3.Connection) -> None:
    for subject, body in bodies:
        log.stage(subject, body)


def memory_of(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(":memory:")) as memory:
        db.backup(memory)
        content = bytearray(memory.serialize())
    content[18:20] = b"\x01\x01"  # the file format's version: a copy in memory has no write-ahead log
    return bytes(content)


def _body(rng: random.Random, turn: int) -> events.Body:
    return events.AccountRefused(f"bob-{turn}", "10.0.0.9", rng.randbytes(rng.randrange(40)).hex())


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    return Book(tmp_path_factory.mktemp("t22") / "alder")


# -- what Mallory does: each changes the copy and returns the numbers one of which must be named -------------------

Tamper = Callable[[sqlite3.Connection, Book, random.Random], set[int]]


def _block_of(book: Book, seq: int) -> set[int]:
    return {book.span(seq)[0]}


def _flip_event(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    seq = rng.randint(1, book.head.seq)
    (raw,) = db.execute("SELECT raw FROM event WHERE seq=?", (seq,)).fetchone()
    at = rng.randrange(len(raw))
    changed = raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    db.execute("UPDATE event SET raw=? WHERE seq=?", (changed, seq))
    return _block_of(book, seq)


def _replace_event(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    seq = rng.randint(1, book.head.seq)
    body = events.AccountCreated("mallory", "ADMIN", "alice")
    staged = ("mallory", body, events.encode_body(body))
    (raw,) = events.encode_all(seq, rng.randrange(1 << 60), 0, events.Clock.SYNCED, [staged])
    db.execute("UPDATE event SET raw=?, kind=?, subject='mallory', wall_ns=0 WHERE seq=?", (raw, body.KIND, seq))
    return _block_of(book, seq)


def _edit_column(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    seq = rng.randint(1, book.head.seq)
    column, value = rng.choice((("kind", "node.heard"), ("subject", "birch"), ("wall_ns", rng.randrange(1 << 60))))
    db.execute(f"UPDATE event SET {column}=? WHERE seq=?", (value, seq))
    return _block_of(book, seq)


def _move_event(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    seq = rng.randint(1, book.head.seq)
    db.execute("UPDATE event SET position = position + 100000 WHERE seq=?", (seq,))
    return _block_of(book, seq)


def _edit_block(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    first, _ = rng.choice(book.spans)
    column, size = rng.choice((("hash", 32), ("previous", 32), ("signature", 64)))
    db.execute(f"UPDATE block SET {column}=? WHERE first_seq=?", (rng.randbytes(size), first))
    return {first}


def _stretch_block(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    first, last = rng.choice(book.spans[:-1])
    db.execute("UPDATE block SET last_seq=? WHERE first_seq=?", (last + 1, first))
    return {first}


def _wrong_type(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    seq = rng.randint(1, book.head.seq)
    value = rng.choice(("words", 7, 1.5, "", b""))
    table, column = rng.choice((("event", "raw"), ("block", "hash"), ("block", "previous"), ("block", "signature")))
    key, place = ("seq", seq) if table == "event" else ("first_seq", book.span(seq)[0])
    db.execute(f"UPDATE {table} SET {column}=? WHERE {key}=?", (value, place))
    return _block_of(book, seq)


def _delete_event(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    seq = rng.randint(1, book.head.seq)
    db.execute("DELETE FROM event WHERE seq=?", (seq,))
    return _block_of(book, seq)


def _delete_block(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    """With its events or without: what is missing, or what comes after it, is named."""
    first, last = rng.choice(book.spans[:-1])
    db.execute("DELETE FROM block WHERE first_seq=?", (first,))
    if rng.random() < 0.7:
        db.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", (first, last))
    return {first, last + 1}


def _swap_events(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    one, other = sorted(rng.sample(range(1, book.head.seq + 1), 2))
    held = dict(db.execute("SELECT seq, raw FROM event WHERE seq IN (?,?)", (one, other)))
    db.execute("UPDATE event SET raw=? WHERE seq=?", (held[other], one))
    db.execute("UPDATE event SET raw=? WHERE seq=?", (held[one], other))
    return _block_of(book, one)


def _swap_signatures(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    one, other = sorted(first for first, _ in rng.sample(book.spans, 2))
    held = dict(db.execute("SELECT first_seq, signature FROM block WHERE first_seq IN (?,?)", (one, other)))
    db.execute("UPDATE block SET signature=? WHERE first_seq=?", (held[other], one))
    db.execute("UPDATE block SET signature=? WHERE first_seq=?", (held[one], other))
    return {one}


def _slip_in(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    (raw,) = db.execute("SELECT raw FROM event WHERE seq=1").fetchone()
    seq = book.head.seq + rng.randint(1, 3)
    db.execute("INSERT INTO event VALUES (?,1,?,'node.heard','birch',0,?)", (100_000 + seq, seq, raw))
    return {book.head.seq + 1}


def _rename_log(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    column, value = rng.choice((("tenant", "other"), ("epoch", 2), ("writer", "01KAJ6X00000000000000000ZZ")))
    db.execute(f"UPDATE log SET {column}=?", (value,))
    return {1}


def _other_key(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    key = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    db.execute("UPDATE log SET public_key=?", (rng.choice((keys.public_bytes(key), rng.randbytes(7), "words")),))
    return {1}


def _forge_tail(db: sqlite3.Connection, book: Book, rng: random.Random) -> set[int]:
    """One event is other than it was, and every hash from there on fits; the signatures are Mallory's or stolen."""
    start = rng.choice(book.spans)[0]
    forge(db, book.log, start, rng.choice((Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)), None)))
    return {start}


def forge(db: sqlite3.Connection, log: Log, start: int, key: Ed25519PrivateKey | None) -> None:
    row = db.execute("SELECT last_seq, hash FROM block WHERE last_seq < ? ORDER BY first_seq DESC", (start,)).fetchone()
    head = Head(*row) if row else envelope.EMPTY
    body = events.AccountCreated("mallory", "ADMIN", "alice")
    staged = ("mallory", body, events.encode_body(body))
    (raw,) = events.encode_all(start, 1 << 40, 0, events.Clock.SYNCED, [staged])
    db.execute("UPDATE event SET raw=?, kind=?, subject='mallory', wall_ns=0 WHERE seq=?", (raw, body.KIND, start))
    for first, last, signature in db.execute(
        "SELECT first_seq, last_seq, signature FROM block WHERE first_seq >= ? ORDER BY first_seq", (start,)
    ).fetchall():
        raws = [
            row[0] for row in db.execute("SELECT raw FROM event WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last))
        ]
        if key is None:
            digest = envelope.block_hash(log, first, head.hash, raws)
        else:
            block = envelope.seal(log, head, raws, key)
            digest, signature = block.hash, block.signature
        db.execute(
            "UPDATE block SET previous=?, hash=?, signature=? WHERE first_seq=?", (head.hash, digest, signature, first)
        )
        head = Head(last, digest)


TAMPERS: tuple[Tamper, ...] = (
    _flip_event,
    _replace_event,
    _edit_column,
    _move_event,
    _edit_block,
    _stretch_block,
    _wrong_type,
    _delete_event,
    _delete_block,
    _swap_events,
    _swap_signatures,
    _slip_in,
    _rename_log,
    _other_key,
    _forge_tail,
)


def test_a_thousand_tamperings_are_found_and_the_first_bad_record_is_named(book: Book) -> None:
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    for case in range(CASES):
        tamper = TAMPERS[case % len(TAMPERS)]
        with closing(book.copy()) as db:
            named = tamper(db, book, rng)
            (verdict,) = journal.verify(db)
        assert verdict.fault is not None, f"seed {SEED} case {case}: {tamper.__name__} was not found"
        assert verdict.seq in named, f"seed {SEED} case {case}: {tamper.__name__} named {verdict.seq}, not {named}"
        counts[tamper.__name__.strip("_")] += 1
    note(f"T22 seed {SEED}: {CASES} tamperings found, {dict(counts)}")


def test_an_untouched_journal_is_never_accused(book: Book) -> None:
    """However the file lies on the disk: its pages may be moved, its free ones be anything."""
    for case in range(UNTOUCHED):
        with closing(book.copy()) as db:
            if case % 2:
                db.execute("VACUUM")
            if case % 3 == 0:
                db.execute("CREATE TABLE mallory (words)")
                db.execute("DROP TABLE mallory")
            (verdict,) = journal.verify(db)
        assert (verdict.fault, verdict.head) == (None, book.head)
    note(f"T22: {UNTOUCHED} untouched copies, 0 false alarms")


def test_a_log_that_was_cut_off_is_found_against_a_head_that_somebody_noted(book: Book) -> None:
    for first, _ in book.spans:
        with closing(book.copy()) as db:
            for table, column in (("event", "seq"), ("block", "first_seq")):
                db.execute(f"DELETE FROM {table} WHERE {column} >= ?", (first,))
            (verdict,) = journal.verify(db)
        assert verdict.head != book.head
        assert verdict.head.seq + 1 == first


def test_a_log_written_anew_under_another_key_is_found_against_the_writers_key(book: Book, tmp_path: Path) -> None:
    folder = tmp_path / "alder"
    with closing(Box(folder)) as box:
        box.site.submit(lambda db: box.journal.stage("alder", events.AccountSignedIn("alice", "10.0.0.7"))).result()
        log = box.log
    assert archive.verify(folder, lambda done, total: None)[0]
    mallory = Ed25519PrivateKey.generate()
    with closing(sqlite3.connect(folder / "site.db", isolation_level=None)) as db:
        forge(db, log, 1, mallory)
        db.execute("UPDATE log SET public_key=?", (keys.public_bytes(mallory),))
        db.execute("DELETE FROM mention")
        (kind,) = db.execute("SELECT kind FROM event WHERE position=1").fetchone()
        db.executemany("INSERT INTO mention VALUES (?,1,1)", [("mallory",), (f"kind {kind}",)])
    with closing(connect_reader(folder / "site.db")) as reader:
        assert journal.verify(reader)[0].fault is None  # it holds in itself
    good, words = archive.verify(folder, lambda done, total: None)
    assert not good
    assert "keys/writer.pem" in words
