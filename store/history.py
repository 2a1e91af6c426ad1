"""history.db: what stood when. Every turn of every subject by the time at which it happened, so that a page can be asked
for any moment, and what comes weeks late still falls into its own place.

Rules of the file
  1  It is derived: made from the journal alone, from a cursor, behind the commit and on a thread of its own. Whatever is
     wrong with the file, it is thrown away and made anew; nothing is lost with it.
  2  The order is the event's stamp. Of two turns with one hybrid time the later stamp stands, and the other never did.
  3  The cursor names the event it stands on by its hash: after a restore of site.db it is known to be of another past.
  4  One writing connection, the thread's. Readers open the file, ask one thing, and close it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import closing
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from fleet import hlc, limits, past
from fleet.events import Clock
from fleet.past import Crowd, Known, Packs, Row, Sifted, Track, Was
from fleet.people import Unavailable
from store import moments, window
from store.database import connect, connect_reader, transaction
from store.faults import Fault, StoreFault, fault_of
from store.moments import Pending

log = logging.getLogger(__name__)
T = TypeVar("T")

VERSION = 1
BATCH_EVENTS_MAX = 20_000  # journal positions to a transaction
FOLLOWED_EVENTS_MAX = 4_000  # the same, while the box runs
REST = 6  # times as long as a batch took: a history of weeks comes in first, and is put together behind it
PAUSE_S = 0.25  # between two looks at the journal: what comes meanwhile is one batch
REOPEN_S = 2.0
NAMES_MAX = 500_000  # kept in memory; beyond it they are read again
MOMENTS_MAX = 4  # whole fleets of the past kept for the next page
_ANSWERS_EACH = 4

_SCHEMA = """
CREATE TABLE name (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE turn (
    track INTEGER NOT NULL, subject INTEGER NOT NULL, hlc INTEGER NOT NULL, writer INTEGER NOT NULL,
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL, said INTEGER NOT NULL, clock INTEGER NOT NULL,
    position INTEGER NOT NULL, PRIMARY KEY (track, subject, hlc)
) WITHOUT ROWID;
CREATE TABLE born (subject INTEGER PRIMARY KEY, hlc INTEGER NOT NULL);
CREATE TABLE told (writer INTEGER PRIMARY KEY, hlc INTEGER NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_SPOKEN = (
    "CREATE INDEX IF NOT EXISTS spoken ON turn (track, said, subject) WHERE track>1"  # connectivity is asked of all
)
_STAMP = "((SELECT text FROM name WHERE id={0}.writer), {0}.epoch, {0}.seq)"
LATER = (
    " ON CONFLICT DO UPDATE SET writer=excluded.writer, epoch=excluded.epoch, seq=excluded.seq, said=excluded.said,"
    " clock=excluded.clock, position=excluded.position"
    f" WHERE {_STAMP.format('excluded')} > {_STAMP.format('turn')}"
)
_NEW_TURN = "INSERT INTO turn VALUES (?,?,?,?,?,?,?,?,?)"
_TURN = _NEW_TURN + LATER
_STANDS = "SELECT position FROM turn WHERE track=? AND subject=? AND hlc=?"
_BORN = "INSERT INTO born VALUES (?,?) ON CONFLICT DO UPDATE SET hlc=min(hlc, excluded.hlc)"
_TOLD = "INSERT INTO told VALUES (?,?) ON CONFLICT DO UPDATE SET hlc=max(hlc, excluded.hlc)"
_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
_FIRST = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=min(value, excluded.value)"
_READ = "SELECT position, log_id, seq, raw FROM event WHERE position BETWEEN ? AND ?"
_NOT_NOW = "The past cannot be read now; it is being put together from the journal again. The present is not touched."
_TRUSTED, _ANY = "first trusted", "first"  # stamps: of a clock to be believed, of any


class Names(dict[str, int]):
    """Subjects, writers and words by number. Each is written once, in the transaction of its first row."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __missing__(self, text: str) -> int:
        row = self._db.execute("SELECT id FROM name WHERE text=?", (text,)).fetchone()
        found = row[0] if row else self._db.execute("INSERT INTO name (text) VALUES (?)", (text,)).lastrowid
        assert found is not None
        if len(self) >= NAMES_MAX:
            self.clear()
        self[text] = found
        return int(found)


def logs_of(site: sqlite3.Connection) -> dict[int, tuple[str, int]]:
    """Writer and epoch of each log by its number."""
    return {one: (writer, epoch) for one, writer, epoch in site.execute("SELECT id, writer, epoch FROM log")}


def stored(
    site: sqlite3.Connection, logs: dict[int, tuple[str, int]], after: int, upto: int
) -> list[tuple[int, int, int, bytes]]:
    """The journal's events after one position, up to another, and `logs` with whose they are."""
    rows = site.execute(_READ, (after + 1, upto)).fetchall()
    if {row[1] for row in rows} - logs.keys():
        logs.update(logs_of(site))
    return rows


def mark(site: sqlite3.Connection, position: int) -> bytes:
    """What the event at a position is known by."""
    row = site.execute("SELECT raw FROM event WHERE position=?", (position,)).fetchone()
    return hashlib.sha256(row[0]).digest() if row else b""


def _write(db: sqlite3.Connection, names: Names, turns: Sequence[Row], sifted: Sifted) -> Set[Row]:
    """Those that met another turn of the same subject and stamp are given back."""
    before, tied = db.total_changes, frozenset[Row]()
    db.executemany(_NEW_TURN + " ON CONFLICT DO NOTHING", sorted(turns))
    if db.total_changes - before < len(turns):  # hardly ever
        tied = frozenset(row for row in turns if db.execute(_STANDS, row[:3]).fetchone() != (row[8],))
        db.executemany(_TURN, tied)
    db.executemany(_BORN, [(row[1], row[2]) for row in turns if row[0] != Track.LINK])
    write_sums(db, names, sifted.first, sifted.told)
    return tied


def write_sums(db: sqlite3.Connection, names: Mapping[str, int], first: Sequence[int], told: Mapping[str, int]) -> None:
    """The first moment of all, by how far its clock was to be believed, and how far each writer has told."""
    for clock, stamp in enumerate(first):
        if stamp < past.STAMP_MAX:
            db.execute(_FIRST, (_TRUSTED if clock else _ANY, stamp))
    db.executemany(_TOLD, [(names[writer], stamp) for writer, stamp in told.items()])


_FIRST_TURN = "SELECT id, (SELECT min(hlc) FROM turn WHERE track=? AND subject=id) AS at FROM name WHERE at IS NOT NULL"
_NEWEST = """
SELECT (SELECT position FROM turn WHERE track=? AND subject=id ORDER BY hlc DESC LIMIT 1) AS at FROM name
WHERE at IS NOT NULL ORDER BY at
"""


def bear(db: sqlite3.Connection) -> None:
    """Since when each node is known, of all turns that are there."""
    for track in past.SUBJECTS:
        if db.execute("SELECT 1 FROM turn WHERE track=? LIMIT 1", (track,)).fetchone():
            db.executemany(_BORN, db.execute(_FIRST_TURN, (track,)).fetchall())


def newest(db: sqlite3.Connection, track: Track) -> list[int]:
    """The positions of the newest turns on a track, of every subject, in order."""
    if not db.execute("SELECT 1 FROM turn WHERE track=? LIMIT 1", (track,)).fetchone():
        return []
    return [position for (position,) in db.execute(_NEWEST, (track,))]


def stand(db: sqlite3.Connection, site: sqlite3.Connection, position: int) -> None:
    db.executemany(_META, (("position", position), ("mark", mark(site, position)), ("version", VERSION)))


def _position(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE key='position'").fetchone()
    return int(row[0]) if row else 0


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def open_history(path: Path, site: sqlite3.Connection) -> sqlite3.Connection:
    """The writing connection; a file that is damaged, of another version or of another past is begun anew."""
    for _ in range(2):
        try:
            db = connect(path)
            if _fits(db, site):
                return db
            db.close()
        except (StoreFault, sqlite3.DatabaseError) as error:
            fault = error.fault if isinstance(error, StoreFault) else fault_of(error)
            if fault is not Fault.DAMAGED:
                raise
            log.warning("%s is damaged (%s)", path.name, error)
        log.info("%s is made anew from the journal", path.name)
        remove(path)
    raise StoreFault(Fault.IO, path.name, "it cannot be made")


def define(db: sqlite3.Connection, site: sqlite3.Connection) -> None:
    """The tables of a past that knows nothing yet."""
    db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{_SPOKEN};{window.SCHEMA}")
    db.execute(_META, ("made", os.urandom(8)))  # what tells the numbers of this file from those of another
    stand(db, site, 0)
    db.execute("COMMIT")


def _fits(db: sqlite3.Connection, site: sqlite3.Connection) -> bool:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name='turn'").fetchone():
        define(db, site)
        return True
    db.execute(_SPOKEN)  # one that an earlier program made has none of these
    db.executescript(window.SCHEMA)
    held = dict(db.execute("SELECT key, value FROM meta"))
    return held.get("version") == VERSION and held.get("mark") == mark(site, held.get("position", 0))


def _step(
    db: sqlite3.Connection,
    site: sqlite3.Connection,
    names: Names,
    logs: dict[int, tuple[str, int]],
    after: int,
    upto: int,
    pending: Pending | None = None,
    whole: bool = False,
) -> tuple[list[Row], Sifted]:
    """One stretch of the journal, in a transaction of its own. What is `pending` takes it in (None: nothing is kept by
    time), and with `whole` it is written too."""
    sifted = Sifted()
    try:
        with transaction(db):
            turns = sifted.turns(stored(site, logs, after, upto), logs, names)
            tied = _write(db, names, turns, sifted)
            if pending is not None:
                pending.add(turns, tied, {names[word]: code for word, code in past.CODES.items()})
            stand(db, site, upto)
            if pending is not None and whole:
                moments.follow(db, pending, upto)
    except BaseException:
        names.clear()  # the transaction was undone, and names with it
        raise
    return turns, sifted


# -- the thread --------------------------------------------------------------------------------------------------


def _file(db: sqlite3.Connection) -> bytes | None:
    """What tells a file from the one that stood in its place before."""
    row = db.execute("SELECT value FROM meta WHERE key='made'").fetchone()
    return row[0] if row else None


class _Seated(NamedTuple):
    """Of a file (as in `_Texts`) by seat: a node's id, and the stamp of the first that is known of it."""

    file: bytes | None
    ids: list[str]
    born: Packs


class _Stopping(Exception):
    """Whoever makes something long gives up: the box ends."""


_NOBODY = _Seated(b"", [], array("Q"))
_Texts = tuple[bytes | None, dict[int | None, str]]  # which file (`made` of its meta), and in it by number
_NO_TEXTS: _Texts = (None, {})


class HistoryIndex:
    """Follows the journal of `site_db` into `path`. `noticed` may be called from any thread and costs nothing."""

    def __init__(self, path: Path, site_db: Path, journal_position: Callable[[], int]) -> None:
        self.path, self._site_db, self._journal_position = path, site_db, journal_position
        self.problem = ""
        self.position = 0
        self._told: dict[str, int] = {}
        self._moments: dict[tuple[int, str], Any] = {}  # by stamp and question; None while it is read
        self._texts = _NO_TEXTS
        self._seated = _NOBODY
        self._lock = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def noticed(self, _: object = None) -> None:
        """There is something new in the journal."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def behind(self) -> int:
        """Events of the journal that are not in the past yet."""
        return max(self._journal_position() - self.position, 0)

    @property
    def condition(self) -> str:
        """For /healthz. A past that stands still keeps nobody from sending here."""
        if not self._thread.is_alive():
            return "stopped"
        return f"running; it stands still: {self.problem}" if self.problem else "running"

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with closing(connect_reader(self._site_db)) as site, closing(open_history(self.path, site)) as db:
                    self._follow(db, site)
            except _Stopping:
                return
            except (StoreFault, sqlite3.DatabaseError, OSError) as error:
                if fault_of(error) is Fault.DAMAGED:
                    remove(self.path)  # if it is site.db that is damaged, others say so, and this one waits for it
                self._fell(str(error))
            except Exception as error:  # a bug of ours here must not take the box with it: the past can be made again
                log.exception("history: a fault of ours")
                self._fell(str(error))

    def _fell(self, words: str) -> None:
        if words != self.problem:
            log.error("history: %s; the past stands still at event %d until it can go on", words, self.position)
        self.problem = words
        self._stop.wait(REOPEN_S)

    def _follow(self, db: sqlite3.Connection, site: sqlite3.Connection) -> None:
        self.position = _position(db)
        self._told = dict(db.execute("SELECT (SELECT text FROM name WHERE id=writer), hlc FROM told"))
        names, logs = Names(db), dict[int, tuple[str, int]]()
        kept, pending = self._settle(db), Pending()
        with self._lock:
            self._moments.clear()
            self._texts = _NO_TEXTS  # after a fault a name that was not kept may have given its number to another
        tended, oldest = False, past.STAMP_MAX  # of what was written since all were seated
        while not self._stop.is_set():
            self._wake.clear()
            head = self._journal_position()
            if head <= self.position:
                self.problem = ""
                tended = tended or self._tend(db, site, kept)
                if tended:
                    self._wake.wait(60.0)
                continue
            began = time.monotonic()
            upto = min(head, self.position + FOLLOWED_EVENTS_MAX)
            whole = upto == head or len(pending.said) > moments.TOGETHER
            turns, sifted = _step(db, site, names, logs, self.position, upto, pending if kept else None, whole)
            for writer, stamp in sifted.told.items():
                self._told[writer] = max(stamp, self._told.get(writer, 0))
            oldest = min((oldest, *(row[2] for row in turns)))
            if whole and kept:
                self._seat(db, self._seated, pending.subjects)
            self.position, self.problem = upto, ""
            self._changed(oldest)  # seated: until then answers may lack who has come
            if whole:
                tended, pending, oldest = self._tend(db, site, kept), Pending(), past.STAMP_MAX
            self._stop.wait(max(PAUSE_S if upto == head else 0.0, REST * (time.monotonic() - began)))

    def _settle(self, db: sqlite3.Connection) -> bool:
        """What is kept by time is there, and it is known who sits where. False where there was no room for it: then the
        turns are asked until the next start."""
        began = time.monotonic()

        def rest() -> None:
            nonlocal began
            if self._stop.wait(time.monotonic() - began):
                raise _Stopping
            began = time.monotonic()

        try:
            if not moments.made(db):
                moments.make(db, rest)
        except sqlite3.OperationalError as error:
            log.warning("history: what stood when is not kept by time: %s", error)
            self._seated = _NOBODY
            return False
        seated = _Seated(_file(db), [], array("Q"))
        self._seat(db, seated, None)
        self._seated = seated
        return True

    def _tend(self, db: sqlite3.Connection, site: sqlite3.Connection, kept: bool) -> bool:
        """Some of what is not made yet: rows of a window, then a frame. True when nothing was left."""
        began = time.monotonic()
        with transaction(db):
            more = window.make(db, site, self.position) or (kept and moments.tend(db))
        if more:
            self._stop.wait(time.monotonic() - began)
        return not more

    def _seat(self, db: sqlite3.Connection, seated: _Seated, subjects: Collection[int] | None) -> None:
        """Who sits where, and since when there is anything to tell of them; None: all."""
        these = () if subjects is None else (msgspec.json.encode([*subjects]).decode(),)
        (found,) = db.execute(_THESE_SEATS if these else _SEATS, these).fetchone()
        _, ids, born = seated
        for seat, node_id, stamp in sorted(_SEATED.decode(found)):
            if seat == len(ids):
                born.append(stamp)
                ids.append(node_id)
            else:
                born[seat] = stamp

    def _changed(self, oldest: int) -> None:
        """Moments at or after the oldest new turn are not what they were."""
        with self._lock:
            self._moments = {asked: held for asked, held in self._moments.items() if asked[0] < oldest}

    # -- readers, from any thread; Unavailable when the file cannot be read -------------------------------------

    def known(self) -> Known:
        held = self._ask(lambda db: dict(db.execute("SELECT key, value FROM meta").fetchall()))
        first = held.get(_TRUSTED, held.get(_ANY))
        position = int(held.get("position", 0))
        behind = max(self._journal_position() - position, 0)
        return Known(past.moment_of(first) if first is not None else None, position, behind)

    def first_of(self, subject: str) -> int | None:
        """The first moment of a node (Unix ns); None when nothing is known of it."""
        row = self._ask(
            lambda db: db.execute(
                "SELECT hlc FROM born WHERE subject=(SELECT id FROM name WHERE text=?)", (subject,)
            ).fetchone()
        )
        return past.moment_of(row[0]) if row else None

    def crowd(self, moment_ns: int) -> Crowd:
        """Where every node stood at a moment."""
        stamp = past.stamp_at(moment_ns)
        return self._remembered(stamp, "crowd", lambda: self._crowd(stamp))

    def standing(self, moment_ns: int, track: Track, said: frozenset[str]) -> Mapping[str, Mapping[str, int]]:
        """By each of these words, the nodes on whose track it stood at a moment, and since when (Unix ns). Of another track
        than connectivity, on which something stands of everybody."""
        stamp = past.stamp_at(moment_ns)
        return self._remembered(stamp, f"{track} {sorted(said)}", lambda: self._those(stamp, track, sorted(said)))

    def _remembered(self, stamp: int, asked: str, question: Callable[[], T]) -> T:
        """An answer about a whole fleet: kept until something older comes, or others are asked for."""
        key = (stamp, asked)
        with self._lock:
            held: T | None = self._moments.get(key)
            if held is None:
                while len(self._moments) >= MOMENTS_MAX * _ANSWERS_EACH:
                    del self._moments[next(iter(self._moments))]
                self._moments[key] = None  # gone again when something older comes while it is read
        if held is None:
            held = question()
            with self._lock:
                if key in self._moments:
                    self._moments[key] = held
        return held

    def _crowd(self, stamp: int) -> Crowd:
        file, ids, born = self._seated

        def ask(db: sqlite3.Connection) -> Packs | None:
            db.execute("BEGIN")  # one state of the file for all that is read
            return moments.at(db, stamp) if _file(db) == file else None

        packs = self._ask(ask, limits.fleet_query_seconds_max)
        if packs is None:
            return self._crowd_of_turns(stamp)
        del packs[len(ids) :]  # who has come meanwhile was not there
        codes = bytearray(past.codes_of(packs))
        seat = codes.find(past.ABSENT)
        while seat >= 0:
            if born[seat] <= stamp:
                codes[seat] = past.UNHEARD
            seat = codes.find(past.ABSENT, seat + 1)
        return Crowd(ids, bytes(codes), packs)

    def _crowd_of_turns(self, stamp: int) -> Crowd:
        """A look at the turns of each node: ten times the work."""
        texts, (subjects, said, stamps) = self._columns(_FLEET, (stamp,))
        codes = bytes(past.UNHEARD if one is None else past.CODES[texts[one]] for one in said)
        packs = array(
            "Q", [one << past.CODE_BITS | code if one else 0 for one, code in zip(stamps, codes, strict=True)]
        )
        return Crowd([*map(texts.__getitem__, subjects)], codes, packs)

    def _those(self, stamp: int, track: Track, said: Sequence[str]) -> dict[str, dict[str, int]]:
        texts, (subjects, spoken, since) = self._columns(
            _THOSE, (stamp, int(track), msgspec.json.encode(said).decode())
        )
        nodes, found = [*map(texts.__getitem__, subjects)], dict[str, dict[str, int]]()
        for word in set(spoken):
            which = [this == word for this in spoken]
            found[texts[word]] = dict(zip(compress(nodes, which), compress(since, which), strict=True))
        return found

    def _columns(self, question: str, values: tuple[Any, ...]) -> _Columns:
        """An answer's columns, and the texts of all numbers in the first two. Each comes as one value that SQLite makes in one
        step: whoever reads a hundred thousand rows gives the interpreter away and takes it back for each."""

        def ask(db: sqlite3.Connection) -> _Columns:
            columns = [*map(_COLUMN.decode, db.execute(question, values).fetchone())]
            return self._texts_of(db, columns[:2]), columns

        return self._ask(ask, limits.fleet_query_seconds_max)

    def _texts_of(self, db: sqlite3.Connection, columns: Sequence[Sequence[int | None]]) -> Mapping[int | None, str]:
        """The texts of all these numbers and of others; of none it is empty. A number keeps its text while the file lasts, so
        it is read once."""
        made = _file(db)
        with self._lock:
            if self._texts is _NO_TEXTS or self._texts[0] != made:
                self._texts = (made, {None: ""})
            _, held = self._texts
            unknown = {one for column in columns for one in column if one not in held}
            if unknown:
                (found,) = db.execute(_TEXTS, (msgspec.json.encode(sorted(unknown)).decode(),)).fetchone()
                held.update(_TEXTS_SAID.decode(found))
            return held

    def of(
        self, subjects: Iterable[str], moment_ns: int, tracks: Iterable[Track] = Track
    ) -> Mapping[str, Mapping[Track, Was]]:
        """What stood at a moment on each of these tracks of these subjects, where anything did."""
        asked = (msgspec.json.encode(list(subjects)).decode(), msgspec.json.encode([*map(int, tracks)]).decode())
        return self._ask(lambda db: _standing(db, *asked, past.stamp_at(moment_ns)))

    def turns(self, subject: str, limit: int) -> Sequence[Was]:
        """The newest turns of a subject on all tracks, oldest first."""
        return self._ask(lambda db: _turns(db, subject, limit))

    def told_ns(self, writer: str) -> int | None:
        """The time of the newest event of a writer that is here; asks no file."""
        stamp = self._told.get(writer)
        return past.moment_of(stamp) if stamp is not None else None

    def _ask(self, question: Callable[[sqlite3.Connection], T], seconds: float = limits.query_seconds_max) -> T:
        try:
            with closing(connect_reader(self.path)) as db:
                deadline = time.monotonic() + seconds
                db.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
                return question(db)
        except (StoreFault, sqlite3.DatabaseError) as error:
            log.warning("history: %s", error)
            raise Unavailable(_NOT_NOW) from error


_FLEET = """
SELECT json_group_array(subject), json_group_array(
    (SELECT said FROM turn WHERE track=1 AND turn.subject=born.subject AND hlc<=?1 ORDER BY hlc DESC LIMIT 1)),
    json_group_array((SELECT max(hlc) FROM turn WHERE track=1 AND turn.subject=born.subject AND hlc<=?1))
FROM born WHERE hlc<=?1
"""
_WORDS = "(SELECT id FROM name WHERE text IN (SELECT value FROM json_each(?3)))"
# Of most nodes what is asked for never stood there.
_THOSE = f"""
SELECT json_group_array(one), json_group_array(word), json_group_array(
    ((SELECT max(hlc) FROM turn WHERE track=?2 AND subject=one AND hlc<=?1) >> {hlc.COUNTER_BITS}) * {limits.MS})
FROM (SELECT subject AS one,
             (SELECT said FROM turn WHERE track=?2 AND turn.subject=node.subject AND hlc<=?1 ORDER BY hlc DESC LIMIT 1)
             AS word
      FROM (SELECT DISTINCT subject FROM turn INDEXED BY spoken WHERE track=?2 AND track>1 AND said IN {_WORDS}) AS node
      LIMIT -1)
WHERE word IN {_WORDS}
"""  # without a limit SQLite would look up the word twice
_SEATS = """
SELECT json_group_array(json_array(seat, text, born.hlc)) FROM seat CROSS JOIN name ON name.id=seat.subject
CROSS JOIN born ON born.subject=seat.subject
"""
_THESE_SEATS = _SEATS + "WHERE seat.subject IN (SELECT value FROM json_each(?))"
_SEATED = msgspec.json.Decoder(list[tuple[int, str, int]])
_TEXTS = "SELECT json_group_array(json_array(id, text)) FROM name WHERE id IN (SELECT value FROM json_each(?))"
_COLUMN = msgspec.json.Decoder(list[int | None])
_Columns = tuple[Mapping[Any, str], list[list[Any]]]
_TEXTS_SAID = msgspec.json.Decoder(list[tuple[int, str]])


_TURNS = (
    "SELECT track, (SELECT text FROM name WHERE id=said), hlc, clock, position FROM turn"
    " WHERE track=? AND subject=(SELECT id FROM name WHERE text=?) AND hlc<=? ORDER BY hlc DESC LIMIT ?"
)


def _was(track: int, said: str, stamp: int, clock: int, position: int) -> Was:
    return Was(Track(track), said, past.moment_of(stamp), Clock(clock), position)


_STOOD = """
SELECT json_group_array(json_array(subject.text, turn.track, (SELECT text FROM name WHERE id=said), hlc, clock, position))
FROM json_each(?1) AS asked CROSS JOIN name AS subject ON subject.text=asked.value CROSS JOIN json_each(?2) AS on_track
CROSS JOIN turn ON turn.track=on_track.value AND turn.subject=subject.id AND turn.hlc=(
    SELECT max(hlc) FROM turn WHERE track=on_track.value AND subject=subject.id AND hlc<=?3)
"""
_WERE = msgspec.json.Decoder(list[tuple[str, int, str, int, int, int]])


def _standing(db: sqlite3.Connection, subjects: str, tracks: str, stamp: int) -> dict[str, dict[Track, Was]]:
    """In one step, as all that is asked of many: see `_columns`."""
    (found,) = db.execute(_STOOD, (subjects, tracks, stamp)).fetchone()
    stood: dict[str, dict[Track, Was]] = {}
    for subject, track, said, at, clock, position in _WERE.decode(found):
        stood.setdefault(subject, {})[Track(track)] = _was(track, said, at, clock, position)
    return stood


def _turns(db: sqlite3.Connection, subject: str, limit: int) -> list[Was]:
    newest = 1 << 62
    found = [_was(*row) for track in Track for row in db.execute(_TURNS, (int(track), subject, newest, limit))]
    return sorted(found, key=lambda was: (was.since_ns, was.position))[-limit:]


def catch_up(path: Path, site_db: Path) -> bool:
    """Bring the file of a box that does not run to the end of its journal. False when there is none that can be used."""
    if not path.exists():
        return False
    try:
        with closing(connect_reader(site_db)) as site, closing(connect(path)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='turn'").fetchone() or not _fits(db, site):
                return False
            (head,) = site.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
            names, logs = Names(db), dict[int, tuple[str, int]]()
            for after in range(_position(db), head, BATCH_EVENTS_MAX):
                _step(db, site, names, logs, after, min(after + BATCH_EVENTS_MAX, head))
    except (StoreFault, sqlite3.DatabaseError) as error:
        log.warning("%s cannot be used: %s", path.name, error)
        return False
    return True


# -- compared ------------------------------------------------------------------------------------------------------

_DIGEST = """
SELECT track, (SELECT text FROM name WHERE id=subject),
       group_concat(hlc || ' ' || (SELECT text FROM name WHERE id=writer) || ' ' || epoch || ' ' || seq || ' ' || clock
                    || ' ' || position || ' ' || (SELECT text FROM name WHERE id=said), char(10))
FROM turn GROUP BY track, subject
"""


def digest(path: Path) -> tuple[int, bytes]:
    """The position and the SHA-256 of all turns, whatever numbers their names have in this file."""
    with closing(connect_reader(path)) as db:
        held = sorted(
            (track, subject, hashlib.sha256(said.encode()).digest()) for track, subject, said in db.execute(_DIGEST)
        )
        return _position(db), hashlib.sha256(repr(held).encode()).digest()
