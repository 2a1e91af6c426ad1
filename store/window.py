"""What happened within a stretch of time? Events of all logs together, in the order in which they stand in the journal.

Rules of the file
  1  The axis of time is an event's stamp (`fleet.past`): within one log it only rises, and so does the position. So a log's
     part of a stretch is found by halving, however long the log is, and the parts are merged.
  2  What is no event has no time: it is in no stretch, and stands in nobody's way.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from heapq import heapify, heappop, heapreplace
from itertools import islice
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
    """Where an event stands, and its stamp."""

    seq: int
    position: int
    hlc: int
    raw: bytes


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
        for one in newest(db, stretch, before or _END):
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
        return list(islice(oldest(db, stretch, after), limit))


def newest(db: sqlite3.Connection, stretch: Stretch, before: int) -> Iterator[Recorded]:
    found = _searched(db, lambda one: one.position < before and one.hlc <= stretch.high, stretch.high)
    return _merged(db, [(one.log, one.below) for one in found], stretch, -1)


def oldest(db: sqlite3.Connection, stretch: Stretch, after: int) -> Iterator[Recorded]:
    found = _searched(db, lambda one: one.position <= after or one.hlc < stretch.low, stretch.low)
    return _merged(db, [(one.log, one.above) for one in found], stretch, 1)


def _merged(
    db: sqlite3.Connection, starts: list[tuple[_Log, _Probe | None]], stretch: Stretch, way: int
) -> Iterator[Recorded]:
    """From an event of each log on, up (1) or down (-1), as long as the stretch lasts."""

    def entry(log: _Log, found: _Probe | None) -> tuple[int, Recorded, _Log] | None:
        if found is None or not stretch.low <= found.hlc <= stretch.high:
            return None
        one = events.decode_any(found.raw, writer=log.writer, epoch=log.epoch, seq=found.seq, position=found.position)
        return way * one.position, one, log

    heap = [one for one in (entry(log, found) for log, found in starts) if one is not None]
    heapify(heap)
    while heap:
        _, one, log = heap[0]
        yield one
        following = entry(log, _at(db, log, one.seq + way, way))
        if following is not None:
            heapreplace(heap, following)
        else:
            heappop(heap)


class _Search:
    """For the last event of a log that fits, where all before it do: `below`, and `above` the one behind it. Where stamps come
    evenly it is near the place that `hlc` has between the two ends, so every other look is there."""

    def __init__(self, log: _Log, hint: int | None) -> None:
        self.log, self.low, self._high = log, log.first - 1, log.last
        self.below: _Probe | None = None
        self.above: _Probe | None = None
        self._first = [log.last] if hint is None else [hint + 1, hint]  # most stretches end with the log
        self._guess = True
        self._aim(log.last)

    @property
    def over(self) -> bool:
        return self.low >= self._high

    def _aim(self, seq: int) -> None:
        if self._first:
            seq = min(max(self._first.pop(), self.low + 1), self._high)
        self._probe = self.at = seq  # `at`: the event of that number or the nearest below it is looked at next

    def take(self, seq: int, position: int, raw: bytes, fits: Callable[[_Probe], bool], hlc: int) -> None:
        """The event that was looked for; `seq` is 0 when there is none."""
        if seq <= self.low:
            self.low = self._probe
        else:
            stamp = events.stamp_of(raw, seq=seq)
            if stamp is None:
                self.at = seq - 1
                return
            one = _Probe(seq, position, stamp, raw)
            if fits(one):
                self.low, self.below = self._probe, one
            else:
                self._high, self.above = seq - 1, one
        self._guess = not self._guess
        below, above, probe = self.below, self.above, (self.low + self._high + 1) // 2
        if self._guess and below is not None and above is not None and below.hlc < hlc < above.hlc:
            near = self.low + (self._high - self.low) * (hlc - below.hlc) // (above.hlc - below.hlc)
            probe = min(max(near, self.low + 1), self._high)
        self._aim(probe)


def _searched(db: sqlite3.Connection, fits: Callable[[_Probe], bool], hlc: int) -> list[_Search]:
    """In all logs. A page of the past is looked at again and again, so where they were found the last time is looked first;
    whether it still is so is looked at too."""
    (ends,) = db.execute(_ENDS).fetchone()
    hints = _hints.pop(hlc, {})
    searches = [_Search(log, hints.get((log.writer, log.epoch))) for log in _LOGS.decode(ends)]
    going = [one for one in searches if not one.over]
    while going:
        for first in range(0, len(going), _TOGETHER):
            some = going[first : first + _TOGETHER]
            looked = _looked(db, some)
            for one in some:
                one.take(*looked.get(one.log.number, _NONE), fits, hlc)
        going = [one for one in going if not one.over]
    while len(_hints) >= _HINTS_MAX:
        _hints.pop(next(iter(_hints), 0), None)
    _hints[hlc] = {(one.log.writer, one.log.epoch): one.low for one in searches}
    return searches


_HINTS_MAX = 8
_hints: dict[int, dict[tuple[str, int], int]] = {}  # by stamp, of the last moments that were asked for; by log
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
