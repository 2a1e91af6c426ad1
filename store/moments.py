"""Where did every node stand at a moment? What the connectivity track of history.db says, kept by time.

By subject, as turns are kept, a moment of a hundred thousand nodes is a hundred thousand looks into a file; by time it is
one state and what came after it.

Rules of the file
  1  All of it follows from the turns of the same file, and is written in their transaction. Where it is missing it is made
     of them; until then, and where the way would be too long, whoever asks goes to the turns.
  2  A node has a seat, a number from 0 up. What it turned to is one number too, its stamp and its mode: the greatest up to
     a moment is what stood at it. So the order in which turns come does not matter, nor how late.
  3  Turns are kept by stretch of time. A frame is the state at the start of a stretch; there is one wherever the way from
     the former one has become long. A late turn goes into its stretch, and into every frame behind it.
  4  Of two turns of a node with one stamp only the turns know which stands: they are asked (`_ASK`).
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

import msgspec

from fleet.past import CODE_BITS, CODES, SUBJECTS, Packs, Row, Track, codes_of
from store.database import transaction

VERSION = 1
TOGETHER = 40_000  # turns that may be pending while more of them come in
WAY_NODES = 1  # turns between two frames, as many times as there are nodes
_WAY_MIN = 4_000
_TOO_LONG = 20 * WAY_NODES  # then the turns themselves are sooner asked
_STRETCH_BITS = 38  # of a stamp: 2^22 ms, 70 minutes
_ROW_TURNS = 500  # a row that holds fewer takes in the next ones
_NUMBER_BITS = 20  # of a row in its stretch
_ASK = 15
_STAMP_END = 1 << (63 - CODE_BITS)  # the year 2248: no moment that can be asked for reaches a later one
_PIECE = 1_000  # nodes whose turns are read at once
_GAP = 64  # seats; what lies closer together in a frame is read and written together
_ROOM_MIN = 1_024  # seats of a frame: it is not written anew for each node that comes

_TABLES = ("seat", "stretch", "change", "frame")
_SCHEMA = """
CREATE TABLE seat (seat INTEGER PRIMARY KEY, subject INTEGER NOT NULL UNIQUE);
CREATE TABLE stretch (stretch INTEGER PRIMARY KEY, turns INTEGER NOT NULL);
CREATE TABLE change (place INTEGER PRIMARY KEY, least INTEGER NOT NULL, seats BLOB NOT NULL, said BLOB NOT NULL);
CREATE TABLE frame (stretch INTEGER PRIMARY KEY, state BLOB NOT NULL);
"""
_MADE = "SELECT 1 FROM meta WHERE key='moments' AND value=?||' '||(SELECT value FROM meta WHERE key='position')"
_STAND = "INSERT INTO meta VALUES ('moments', ?) ON CONFLICT DO UPDATE SET value=excluded.value"
_ADDED = "INSERT INTO stretch VALUES (?,?) ON CONFLICT DO UPDATE SET turns=turns+excluded.turns"
_LAST_ROW = """
SELECT place, length(seats) / 4, least, seats, said FROM change WHERE place>=? AND place<? ORDER BY place DESC LIMIT 1
"""
_SEATED = (
    "SELECT json_group_array(json_array(subject, seat)) FROM seat WHERE subject IN (SELECT value FROM json_each(?))"
)
_PAIRS = msgspec.json.Decoder(list[tuple[int, int]])
_TURNS = """
SELECT json_group_array(seat), json_group_array(hlc), json_group_array(said)
FROM seat CROSS JOIN turn ON track=1 AND turn.subject=seat.subject WHERE seat>=? AND seat<?
"""
_COLUMN = msgspec.json.Decoder(list[int])


def made(db: sqlite3.Connection) -> bool:
    """Whether it is there, as far as the turns go: a program that did not know of it may have gone on with them."""
    return db.execute(_MADE, (VERSION,)).fetchone() is not None


def _stand(db: sqlite3.Connection, position: int) -> None:
    db.execute(_STAND, (f"{VERSION} {position}",))


# -- writing, in the transaction of the turns ----------------------------------------------------------------------------


def make(db: sqlite3.Connection, rest: Callable[[], None] = lambda: None) -> None:
    """All of it, of the turns that are there, a piece to a transaction; nobody writes turns meanwhile. `rest` is called
    between two and may raise: what is there then is begun anew the next time."""
    with transaction(db):
        db.execute("DELETE FROM meta WHERE key='moments'")
        for table in _TABLES:
            db.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _SCHEMA.strip().split(";")[:-1]:
            db.execute(statement)
        db.execute("INSERT INTO seat SELECT row_number() OVER (ORDER BY subject) - 1, subject FROM born")
    (seats,) = db.execute("SELECT count(*) FROM seat").fetchone()
    words = db.execute("SELECT id, text FROM name WHERE text IN (SELECT value FROM json_each(?))", (_WORDS,))
    codes = {number: CODES[text] for number, text in words}
    for first in range(0, seats, _PIECE):
        columns = [*map(_COLUMN.decode, db.execute(_TURNS, (first, first + _PIECE)).fetchone())]
        said = zip(*columns, strict=True)
        with transaction(db):
            _add(
                db,
                ((seat, at << CODE_BITS | codes[word]) for seat, at, word in said if at < _STAMP_END and word in codes),
            )
        rest()
    with transaction(db):
        _stand(db, db.execute("SELECT value FROM meta WHERE key='position'").fetchone()[0])


_WORDS = msgspec.json.encode(list(CODES)).decode()


class Pending:
    """Turns that are written and not kept by time yet. What comes late is of every stretch there is, so many turns together
    cost little more than a few."""

    def __init__(self) -> None:
        self.subjects: set[int] = set()
        self.said: list[tuple[int, int]] = []  # subject, and stamp and mode

    def add(self, turns: Sequence[Row], tied: Set[Row], codes: Mapping[int, int]) -> None:
        """Those of `turns` that met another one of the same node and stamp are `tied`. `codes`: those of the modes, by the
        number of the word."""
        self.subjects.update(row[1] for row in turns if row[0] in SUBJECTS)
        self.said += [
            (row[1], row[2] << CODE_BITS | (_ASK if row in tied else codes[row[6]]))
            for row in turns
            if row[0] == Track.CONNECTIVITY and row[2] < _STAMP_END
        ]


def follow(db: sqlite3.Connection, pending: Pending, position: int) -> None:
    """All that was written up to a journal position."""
    seats = _seats(db, pending.subjects)
    if pending.said:
        _late(db, _add(db, ((seats[subject], pack) for subject, pack in pending.said)))
    _stand(db, position)


def _seats(db: sqlite3.Connection, subjects: Set[int]) -> dict[int, int]:
    """Of each its seat; who has none is given the next."""
    found = dict(_PAIRS.decode(db.execute(_SEATED, (msgspec.json.encode([*subjects]).decode(),)).fetchone()[0]))
    if len(found) < len(subjects):
        (last,) = db.execute("SELECT coalesce(max(seat), -1) FROM seat").fetchone()
        new = {subject: last + place for place, subject in enumerate(sorted(subjects - found.keys()), 1)}
        db.executemany("INSERT INTO seat VALUES (?,?)", [(seat, subject) for subject, seat in new.items()])
        found |= new
    return found


_Said = tuple[int, int]  # seat, and stamp and mode


def _add(db: sqlite3.Connection, said: Iterable[_Said]) -> dict[int, list[_Said]]:
    """Into the stretch of each; they are given back by stretch."""
    by_stretch: dict[int, list[_Said]] = {}
    for one in said:
        by_stretch.setdefault(one[1] >> _STRETCH_BITS + CODE_BITS, []).append(one)
    for stretch, some in by_stretch.items():
        seats, packs = array("I", [seat for seat, _ in some]), array("Q", [pack for _, pack in some])
        last = db.execute(_LAST_ROW, (stretch << _NUMBER_BITS, stretch + 1 << _NUMBER_BITS)).fetchone()
        place, least = stretch << _NUMBER_BITS, min(packs)
        if last is not None and last[1] >= _ROW_TURNS:
            place = last[0] + 1
        elif last is not None:
            place, least = last[0], min(least, last[2])
            seats, packs = array("I", last[3]) + seats, array("Q", last[4]) + packs
        db.execute("INSERT OR REPLACE INTO change VALUES (?,?,?,?)", (place, least, seats.tobytes(), packs.tobytes()))
        db.execute(_ADDED, (stretch, len(some)))
    return by_stretch


def _late(db: sqlite3.Connection, added: Mapping[int, Sequence[_Said]]) -> None:
    """Into the frames that stand behind these turns, of each node the last before it."""
    frames = db.execute("SELECT stretch FROM frame WHERE stretch>? ORDER BY stretch", (min(added),)).fetchall()
    waiting, latest = sorted(added, reverse=True), dict[int, int]()
    for (frame,) in frames:
        while waiting and waiting[-1] < frame:
            for seat, pack in added[waiting.pop()]:
                if pack > latest.get(seat, 0):
                    latest[seat] = pack
        _put(db, frame, latest)


def _put(db: sqlite3.Connection, frame: int, latest: Mapping[int, int]) -> None:
    (room,) = db.execute("SELECT length(state) / 8 FROM frame WHERE stretch=?", (frame,)).fetchone()
    if max(latest) >= room:
        (state,) = db.execute("SELECT state FROM frame WHERE stretch=?", (frame,)).fetchone()
        more = bytes((_room(max(latest) + 1) - room) * 8)
        db.execute("UPDATE frame SET state=? WHERE stretch=?", (state + more, frame))
    with db.blobopen("frame", "state", frame) as blob:
        for run in _runs(sorted(latest)):
            blob.seek(run[0] * 8)
            held = array("Q", blob.read((run[-1] + 1 - run[0]) * 8))
            for seat in run:
                held[seat - run[0]] = max(held[seat - run[0]], latest[seat])
            blob.seek(run[0] * 8)
            blob.write(held.tobytes())


def _runs(seats: Sequence[int]) -> Iterator[Sequence[int]]:
    """Seats in order, cut where two lie far apart."""
    ends = [place for place in range(1, len(seats)) if seats[place] - seats[place - 1] > _GAP]
    for first, end in zip([0, *ends], [*ends, len(seats)], strict=True):
        yield seats[first:end]


def _room(seats: int) -> int:
    return max(_ROOM_MIN, 1 << (seats - 1).bit_length())


def tend(db: sqlite3.Connection) -> bool:
    """Make a frame where the way has become long; False when there is no such place."""
    (seats,) = db.execute("SELECT count(*) FROM seat").fetchone()
    frames = [stretch for (stretch,) in db.execute("SELECT stretch FROM frame ORDER BY stretch")]
    most, way, former = max(WAY_NODES * seats, _WAY_MIN), 0, 0
    for stretch, turns in db.execute("SELECT stretch, turns FROM stretch ORDER BY stretch"):
        behind = bisect_right(frames, stretch)
        way, former = (way if behind == former else 0), behind
        if way >= most:
            state = _folded(db, stretch - 1, (stretch << _STRETCH_BITS) - 1)
            state.extend([0] * (_room(seats) - len(state)))
            db.execute("INSERT INTO frame VALUES (?,?)", (stretch, state.tobytes()))
            return True
        way += turns
    return False


# -- reading -------------------------------------------------------------------------------------------------------------


def at(db: sqlite3.Connection, stamp: int) -> Packs | None:
    """What stood at a stamp, of all seats; None where the turns have to be asked."""
    if not made(db):
        return None
    stamp = min(stamp, _STAMP_END - 1)
    stretch = stamp >> _STRETCH_BITS
    (seats,) = db.execute("SELECT coalesce(max(seat), -1) + 1 FROM seat").fetchone()
    (way,) = db.execute(_WAY, (stretch,)).fetchone()
    if way > _TOO_LONG * max(seats, _WAY_MIN):
        return None
    state = _folded(db, stretch, stamp)
    state.extend([0] * (seats - len(state)))
    del state[seats:]
    codes = codes_of(state)
    seat = codes.find(_ASK)
    while seat >= 0:
        state[seat] += CODES[_asked(db, seat, state[seat] >> CODE_BITS)] - _ASK
        seat = codes.find(_ASK, seat + 1)
    return state


_WAY = """
SELECT coalesce(sum(turns), 0) FROM stretch
WHERE stretch<=?1 AND stretch>=coalesce((SELECT max(stretch) FROM frame WHERE stretch<=?1), 0)
"""


def _asked(db: sqlite3.Connection, seat: int, stamp: int) -> str:
    (said,) = db.execute(
        "SELECT text FROM name JOIN turn ON id=said"
        " WHERE track=1 AND subject=(SELECT subject FROM seat WHERE seat=?) AND hlc=?",
        (seat, stamp),
    ).fetchone()
    return str(said)


def _folded(db: sqlite3.Connection, stretch: int, stamp: int) -> Packs:
    """From the last frame at or before a stretch, all turns of it and of those in between, up to a stamp."""
    frame = db.execute(
        "SELECT stretch, state FROM frame WHERE stretch<=? ORDER BY stretch DESC LIMIT 1", (stretch,)
    ).fetchone()
    state = array("Q", frame[1] if frame else b"")
    first = (frame[0] if frame else 0) << _NUMBER_BITS
    top = stamp << CODE_BITS | _ASK
    rows = db.execute(
        "SELECT seats, said FROM change WHERE place>=? AND place<? AND least<=?",
        (first, stretch + 1 << _NUMBER_BITS, top),
    )
    for seats, said in rows:
        one, other = array("I", seats), array("Q", said)
        short = max(one) + 1 - len(state)
        if short > 0:
            state.extend([0] * short)
        for seat, pack in zip(one, other, strict=True):
            if state[seat] < pack <= top:
                state[seat] = pack
    return state
