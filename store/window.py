"""What happened within a stretch of time? Events of all logs together, in the order in which they stand in the journal.

Rules of the file
  1  The axis of time is an event's stamp (`fleet.past`). history.db keeps that of every event, to the second or so and by
     position: whoever looks for a stretch reads the events that lie in it and hardly any other, whatever came in between.
  2  It is kept in rows of whole thousands of positions, without a hole, behind the journal. What lies behind the last row
     is looked at itself; so are all events where the file cannot be read.
  3  What is no event has no time: it is in no stretch, and stands in nobody's way.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain, islice

import msgspec

from fleet import events, hlc
from fleet.events import Recorded
from fleet.past import Stretch
from fleet.people import Refused, Unavailable
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import Folder
from store.shared import told

log = logging.getLogger(__name__)

SEARCH_S = 1.0  # for events of one kind among all, or among those that are in no row yet
_ROW = 1_024  # positions
_ROWS_TOGETHER = 8  # made in one transaction
_GRAIN_BITS = hlc.COUNTER_BITS + 10  # of a stamp: 1,024 ms. Its 32 bits last until 2109
_NEVER = (1 << 32) - 1
_END = 1 << 62
_PIECE = 128  # events read together
_RAW_BYTES_MAX = 4_096  # of an event that is; a larger one is read by itself

SCHEMA = """
CREATE TABLE IF NOT EXISTS happened (
    row INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, moments BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS happened_between ON happened (row, first, last);
"""
_MADE = "SELECT coalesce(max(row) + 1, 0) FROM happened"
_ROWS = """
SELECT json_group_array(row) FROM (
    SELECT row FROM happened INDEXED BY happened_between WHERE row BETWEEN ? AND ? AND first<=? AND last>=? ORDER BY row)
"""
_MOMENTS = "SELECT moments FROM happened WHERE row=?"
_HEAD = "SELECT coalesce(max(position), 0) FROM event"
_READ = "SELECT position, seq, raw FROM event WHERE position BETWEEN ? AND ?"
# As one value that SQLite makes in one step: whoever asks a thousand times gives the interpreter away and takes it back a
# thousand times.
_EVENTS = """
SELECT json_group_array(json_array(position, writer, epoch, seq, CASE WHEN length(raw)<=?2 THEN hex(raw) END))
FROM json_each(?1) AS asked CROSS JOIN event ON position=asked.value CROSS JOIN log ON log.id=log_id
"""
_RAW = "SELECT raw FROM event WHERE position=?"
_NUMBERS = msgspec.json.Decoder(list[int])
_FOUND = msgspec.json.Decoder(list[tuple[int, str, int, int, str | None]])
_TOO_MANY = "There is too much in this stretch of time to look through for one kind of event; choose a shorter one."
_NOT_YET = "Much has just come in, and is being put in the order of time; look again in a minute. Nothing is lost."


# -- made, by the thread of history.db ------------------------------------------------------------------------------------


def make(past: sqlite3.Connection, site: sqlite3.Connection, upto: int) -> bool:
    """Some of the rows that are missing up to a journal position, in the caller's transaction; True while there are more."""
    (made,) = past.execute(_MADE).fetchone()
    whole = (upto + 1) // _ROW
    for row in range(made, min(whole, made + _ROWS_TOGETHER)):
        start, column = row * _ROW, array("I", [_NEVER]) * _ROW
        for position, seq, raw in site.execute(_READ, (start, start + _ROW - 1)):
            stamp = events.stamp_of(raw, seq=seq)
            if stamp is not None:
                column[position - start] = min(stamp >> _GRAIN_BITS, _NEVER - 1)
        happened = [moment for moment in column if moment != _NEVER]
        ends = (min(happened), max(happened)) if happened else (_NEVER, 0)
        past.execute("INSERT INTO happened VALUES (?,?,?,?)", (row, *ends, column.tobytes()))
    return bool(made + _ROWS_TOGETHER < whole)


# -- read, from any thread ------------------------------------------------------------------------------------------------


def timeline(folder: Folder, before: int, limit: int, kind: str | None, stretch: Stretch) -> list[Recorded]:
    """The newest events of a stretch below a position, newest first. Refused when a search for a kind takes too long."""
    deadline = time.monotonic() + SEARCH_S
    found: list[Recorded] = []
    with closing(_within(folder, stretch, 0, before - 1 if before else _END, -1)) as newest:
        for one in newest:
            if kind is None or one.kind == kind:
                found.append(one)
                if len(found) == limit:
                    break
            elif time.monotonic() > deadline:
                raise Refused(_TOO_MANY, 400)
    return told(found)


def following(folder: Folder, after: int, limit: int, stretch: Stretch) -> list[Recorded]:
    """Those of a stretch behind a position, by ascending position."""
    with closing(_within(folder, stretch, after + 1, _END, 1)) as oldest:
        return list(islice(oldest, limit))


def _within(folder: Folder, stretch: Stretch, first: int, last: int, way: int) -> Generator[Recorded, None, None]:
    """The events of a stretch from one position to another, up (1) or down (-1). Unavailable when so many of them are in no
    row yet that looking at each takes too long."""
    with closing(connect_reader(folder.site_db)) as site, closing(_past(folder)) as past:
        (head,) = site.execute(_HEAD).fetchone()
        behind = past.execute(_MADE).fetchone()[0] * _ROW
        in_rows = _in_rows(past, stretch, first, min(last, behind - 1), way)
        others = _others(max(first, behind), min(last, head), way)
        for piece in chain(in_rows, others) if way > 0 else chain(others, in_rows):
            yield from _read(site, piece, stretch, way)


def _past(folder: Folder) -> sqlite3.Connection:
    """history.db, or one without rows: it may be made anew just now."""
    with suppress(StoreFault):
        past = connect_reader(folder.history_db)
        with suppress(sqlite3.DatabaseError):
            past.execute(_MADE)
            return past
        past.close()
    log.info("no event is in the order of time yet")
    past = sqlite3.connect(":memory:")
    past.executescript(SCHEMA)
    return past


def _in_rows(past: sqlite3.Connection, stretch: Stretch, first: int, last: int, way: int) -> Iterator[Sequence[int]]:
    """Positions where an event of the stretch may stand."""
    if first > last:
        return
    low, high = (min(stamp >> _GRAIN_BITS, _NEVER - 1) for stamp in (stretch.low, stretch.high))
    try:
        (rows,) = past.execute(_ROWS, (first // _ROW, last // _ROW, high, low)).fetchone()
        for row in _NUMBERS.decode(rows)[::way]:
            column = array("I", past.execute(_MOMENTS, (row,)).fetchone()[0])
            places = [place for place, moment in enumerate(column, row * _ROW) if low <= moment <= high]
            yield from _pieces([place for place in places if first <= place <= last][::way])
    except sqlite3.DatabaseError as error:  # whoever writes the file finds it too, and makes it anew
        log.warning("history: %s", error)
        raise Unavailable(_NOT_YET) from error


def _others(first: int, last: int, way: int) -> Iterator[Sequence[int]]:
    """Positions that are in no row yet."""
    deadline = time.monotonic() + SEARCH_S
    for piece in _pieces(range(first, last + 1)[::way]):
        if time.monotonic() > deadline:
            raise Unavailable(_NOT_YET)
        yield piece


def _pieces(places: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), _PIECE):
        yield places[start : start + _PIECE]


def _read(site: sqlite3.Connection, places: Sequence[int], stretch: Stretch, way: int) -> Iterator[Recorded]:
    low, high = stretch.low, stretch.high
    (found,) = site.execute(_EVENTS, (msgspec.json.encode([*places]).decode(), _RAW_BYTES_MAX)).fetchone()
    for position, writer, epoch, seq, held in sorted(_FOUND.decode(found), reverse=way < 0):
        raw = bytes.fromhex(held) if held is not None else site.execute(_RAW, (position,)).fetchone()[0]
        stamp = events.stamp_of(raw, seq=seq)
        if stamp is not None and low <= stamp <= high:
            yield events.decode_any(raw, writer=writer, epoch=epoch, seq=seq, position=position)
