"""What happened within a stretch of time? Events of all logs together, in the order in which they stand in the journal.

Rules of the file
  1  The axis of time is an event's stamp (`fleet.past`): within one log it only rises, and so does the position. So a log's
     part of a stretch is found by halving, however long the log is, and the parts are merged.
  2  What is no event has no time: it is in no stretch, and stands in nobody's way.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from heapq import heapify, heappop, heapreplace
from itertools import islice
from math import isqrt
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from fleet import events
from fleet.events import Recorded
from fleet.past import Stretch
from fleet.people import Refused
from store.database import connect_reader
from store.shared import told

SEARCH_S = 1.0  # for events of one kind among all
_BEFORE = "SELECT seq, position, raw FROM event WHERE log_id=? AND seq<=? ORDER BY seq DESC LIMIT 1"
_BEHIND = "SELECT seq, position, raw FROM event WHERE log_id=? AND seq>=? ORDER BY seq LIMIT 1"
_ENDS = """
SELECT json_group_array(json_array(id, writer, epoch, first, last)) FROM (
    SELECT id, writer, epoch, (SELECT min(seq) FROM event WHERE log_id=log.id) AS first,
           (SELECT max(seq) FROM event WHERE log_id=log.id) AS last FROM log)
WHERE first IS NOT NULL
"""
# Of many logs at once, as one value that SQLite makes in one step: whoever asks a thousand times gives the interpreter away
# and takes it back a thousand times.
_LOOKED = """
SELECT json_group_array(json_array(log_id, seq, position, CASE WHEN length(raw)<=?2 THEN hex(raw) END))
FROM json_each(?1) AS asked CROSS JOIN event ON log_id=asked.value >> 40 AND seq=(
    SELECT seq FROM event WHERE log_id=asked.value >> 40 AND seq<=asked.value & (1 << 40) - 1 ORDER BY seq DESC LIMIT 1)
"""  # a log's number and, in 40 bits, one of its events'
_RAW = "SELECT raw FROM event WHERE log_id=? AND seq=?"
_TOGETHER = 500  # logs in one such question
_RAW_BYTES_MAX = 4_096  # of an event in its answer; a larger one is read by itself
_TOO_MANY = "There is too much in this stretch of time to look through for one kind of event; choose a shorter one."
_END = 1 << 62


class _Probe(NamedTuple):
    """Where an event stands, and its stamp; `raw` is empty where it was not read this time."""

    seq: int
    position: int
    hlc: int
    raw: bytes = b""


class _Log(NamedTuple):
    number: int
    writer: str
    epoch: int
    first: int
    last: int


_LOGS = msgspec.json.Decoder(list[_Log])
_ROWS = msgspec.json.Decoder(list[tuple[int, int, int, str | None]])


def timeline(site_db: Path, before: int, limit: int, kind: str | None, stretch: Stretch) -> list[Recorded]:
    """The newest events of a stretch below a position, newest first. Refused when a search for a kind takes too long."""
    deadline = time.monotonic() + SEARCH_S
    found: list[Recorded] = []
    with closing(connect_reader(site_db)) as db:
        for one in newest(db, stretch, before or _END, _known(site_db)):
            if kind is None or one.kind == kind:
                found.append(one)
                if len(found) == limit:
                    break
            elif time.monotonic() > deadline:
                raise Refused(_TOO_MANY, 400)
    return told(found)


def following(site_db: Path, after: int, limit: int, stretch: Stretch) -> list[Recorded]:
    """Those of a stretch behind a position, by ascending position."""
    with closing(connect_reader(site_db)) as db:
        return list(islice(oldest(db, stretch, after, _known(site_db)), limit))


def newest(db: sqlite3.Connection, stretch: Stretch, before: int, known: Known) -> Iterator[Recorded]:
    high = stretch.high
    found = _searched(db, lambda one: one.hlc <= high and one.position < before, high, known)
    return _merged(db, [(one.log, one.below) for one in found], stretch, -1)


def oldest(db: sqlite3.Connection, stretch: Stretch, after: int, known: Known) -> Iterator[Recorded]:
    low = stretch.low
    found = _searched(db, lambda one: one.hlc < low or one.position <= after, low, known)
    return _merged(db, [(one.log, one.above) for one in found], stretch, 1)


def _merged(
    db: sqlite3.Connection, starts: list[tuple[_Log, _Probe | None]], stretch: Stretch, way: int
) -> Iterator[Recorded]:
    """From an event of each log on, up (1) or down (-1), as long as the stretch lasts."""

    def entry(log: _Log, found: _Probe | None) -> tuple[int, _Probe, _Log] | None:
        if found is None or not stretch.low <= found.hlc <= stretch.high:
            return None
        return way * found.position, found, log

    heap = [one for one in (entry(log, found) for log, found in starts) if one is not None]
    heapify(heap)
    while heap:
        _, found, log = heap[0]
        raw = found.raw or db.execute(_RAW, (log.number, found.seq)).fetchone()[0]
        yield events.decode_any(raw, writer=log.writer, epoch=log.epoch, seq=found.seq, position=found.position)
        following = entry(log, _at(db, log, found.seq + way, way))
        if following is not None:
            heapreplace(heap, following)
        else:
            heappop(heap)


class Known:
    """Where some events of a file stand, by log, in order: whoever searches again begins between two of them. It never
    changes: an event of a log has one stamp and one position."""

    def __init__(self) -> None:
        self._by_log: dict[tuple[str, int], list[_Probe]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def of(self, log: _Log) -> list[_Probe]:
        held = self._by_log.get((log.writer, log.epoch), [])
        return held if held and log.first <= held[0].seq and held[-1].seq <= log.last else []  # of another file

    def learn(self, log: _Log, found: Iterable[_Probe]) -> None:
        with self._lock:
            if self._count > _KNOWN_MAX:
                self._by_log, self._count = {}, 0
            held = self.of(log).copy()
            for one in found:
                place = bisect_left(held, one.seq, key=_SEQ)
                if place == len(held) or held[place].seq != one.seq:
                    held.insert(place, _Probe(one.seq, one.position, one.hlc))
                    self._count += 1
            self._by_log[(log.writer, log.epoch)] = held


_SEQ = itemgetter(0)
_KNOWN_MAX = 50_000  # of a file; some ten megabytes
_files: dict[Path, Known] = {}
_FILES_MAX = 10  # each tenant of a hub has one


def _known(site_db: Path) -> Known:
    while site_db not in _files and len(_files) >= _FILES_MAX:
        _files.pop(next(iter(_files), site_db), None)
    return _files.setdefault(site_db, Known())


class _Search:
    """For the last event of a log that fits, where all before it do: `below`, and `above` the one behind it. Stamps come
    more or less evenly: a look goes where `hlc` would be between the two ends, and the next ones to the other side of it,
    by the root of the way that it may have missed by; twice, and of ten thousand a hundred and then ten are left."""

    def __init__(self, log: _Log, known: Sequence[_Probe], fits: Callable[[_Probe], bool], hlc: int) -> None:
        self.log, self.low, self._high, self._hlc, self._fits = log, log.first - 1, log.last, hlc, fits
        self.below: _Probe | None = None
        self.above: _Probe | None = None
        self.looked: list[_Probe] = []
        place = bisect_left(known, True, key=lambda one: not fits(one))
        if place:
            self.below = known[place - 1]
            self.low = max(self.low, self.below.seq)
        if place < len(known):
            self.above = known[place]
            self._high = min(self._high, self.above.seq - 1)
        self._step = 0  # how far to the other side the next look goes; 0: between the two ends
        self._side = False  # whether it fitted where the last look between the two ends went
        self._probe = self.at = self._next()  # the event of that number or the nearest below it is looked at

    @property
    def over(self) -> bool:
        return self.low >= self._high

    def take(self, seq: int, position: int, raw: bytes) -> None:
        """The event that was looked for; `seq` is 0 when there is none."""
        way, fits = self._high - self.low, True
        if seq > self.low:
            stamp = events.stamp_of(raw, seq=seq)
            if stamp is None:
                self.at = seq - 1
                return
            one = _Probe(seq, position, stamp, raw)
            self.looked.append(one)
            fits = self._fits(one)
            if fits:
                self.below = one
            else:
                self._high, self.above = seq - 1, one
        if fits:
            self.low = self._probe
        if not self._step:
            self._step, self._side = isqrt(way) // 2 + 1, fits
        elif fits is self._side:
            self._step *= 2
        else:
            self._step = 0
        self._probe = self.at = self._next()

    def _next(self) -> int:
        low, high = self.low, self._high
        if self.above is None:
            return high  # most stretches end with the log
        if self.below is None and low < self.log.first:
            return low + 1
        if 0 < self._step <= (high - low) // 2:
            return low + self._step if self._side else high - self._step + 1
        if not self._step and self.below is not None and self.below.hlc < self._hlc < self.above.hlc:
            near = low + (high - low) * (self._hlc - self.below.hlc) // (self.above.hlc - self.below.hlc)
            return min(max(near, low + 1), high)
        return (low + high + 1) // 2


def _searched(db: sqlite3.Connection, fits: Callable[[_Probe], bool], hlc: int, known: Known) -> list[_Search]:
    """In all logs."""
    (ends,) = db.execute(_ENDS).fetchone()
    searches = [_Search(log, known.of(log), fits, hlc) for log in _LOGS.decode(ends)]
    going = [one for one in searches if not one.over]
    while going:
        for first in range(0, len(going), _TOGETHER):
            some = going[first : first + _TOGETHER]
            looked = _looked(db, some)
            for one in some:
                one.take(*looked.get(one.log.number, _NONE))
        going = [one for one in going if not one.over]
    for one in searches:
        if one.looked:
            known.learn(one.log, one.looked)
    return searches


_NONE = (0, 0, b"")


def _looked(db: sqlite3.Connection, some: Sequence[_Search]) -> dict[int, tuple[int, int, bytes]]:
    """By log: number, position and bytes of the event where each search looks."""
    asked = msgspec.json.encode([one.log.number << 40 | one.at for one in some]).decode()
    (rows,) = db.execute(_LOOKED, (asked, _RAW_BYTES_MAX)).fetchone()
    found = {}
    for log, seq, position, raw in _ROWS.decode(rows):
        (held,) = (bytes.fromhex(raw),) if raw is not None else db.execute(_RAW, (log, seq)).fetchone()
        found[log] = (seq, position, held)
    return found


def _at(db: sqlite3.Connection, log: _Log, seq: int, way: int) -> _Probe | None:
    """The event of that number, or the next one that way."""
    while True:
        row = db.execute(_BEFORE if way < 0 else _BEHIND, (log.number, seq)).fetchone()
        if row is None:
            return None
        hlc = events.stamp_of(row[2], seq=row[0])
        if hlc is not None:
            return _Probe(row[0], row[1], hlc, row[2])
        seq = row[0] + way
