"""What happened within a stretch of time? Events of all logs together, in the order in which they stand in the journal.

Rules of the file
  1  The axis of time is an event's stamp (`fleet.past`): within one log it only rises, and so does the position. So a log's
     part of a stretch is found by halving, however long the log is, and the parts are merged.
  2  What is no event has no time: it is in no stretch, and stands in nobody's way.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from heapq import heapify, heappop, heapreplace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from fleet import events
from fleet.events import Recorded
from fleet.past import Stretch
from fleet.people import Refused
from store.database import connect_reader
from store.shared import told

SEARCH_S = 1.0  # for events of one kind among all
_BEFORE = "SELECT seq, position, raw FROM event WHERE log_id=? AND seq<=? ORDER BY seq DESC LIMIT 1"
_BEHIND = "SELECT seq, position, raw FROM event WHERE log_id=? AND seq>=? ORDER BY seq LIMIT 1"
_ENDS = (
    "SELECT id, writer, epoch, (SELECT min(seq) FROM event WHERE log_id=log.id),"
    " (SELECT max(seq) FROM event WHERE log_id=log.id) FROM log"
)
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
    logs = _logs(db)
    heads = _heads(db, logs, lambda one: one.position < before and one.hlc <= stretch.high, stretch.high)
    return _merged(db, [(log, head + 1) for log, head in zip(logs, heads, strict=True)], stretch, -1)


def oldest(db: sqlite3.Connection, stretch: Stretch, after: int) -> Iterator[Recorded]:
    logs = _logs(db)
    heads = _heads(db, logs, lambda one: one.position <= after or one.hlc < stretch.low, stretch.low)
    return _merged(db, list(zip(logs, heads, strict=True)), stretch, 1)


def _merged(db: sqlite3.Connection, ends: list[tuple[_Log, int]], stretch: Stretch, way: int) -> Iterator[Recorded]:
    """From beside a number in each log on, up (1) or down (-1), as long as the stretch lasts."""

    def step(log: _Log, seq: int) -> tuple[int, Recorded, _Log] | None:
        found = _at(db, log, seq + way, way)
        if found is None or not stretch.low <= found.hlc <= stretch.high:
            return None
        one = events.decode_any(found.raw, writer=log.writer, epoch=log.epoch, seq=found.seq, position=found.position)
        return way * one.position, one, log

    heap = [one for one in (step(log, seq) for log, seq in ends) if one is not None]
    heapify(heap)
    while heap:
        _, one, log = heap[0]
        yield one
        following = step(log, one.seq)
        if following is not None:
            heapreplace(heap, following)
        else:
            heappop(heap)


def _logs(db: sqlite3.Connection) -> list[_Log]:
    return [_Log(*row) for row in db.execute(_ENDS) if row[3] is not None]


def _heads(db: sqlite3.Connection, logs: list[_Log], fits: Callable[[_Probe], bool], hlc: int) -> list[int]:
    """Of each log the last event that fits. A page of the past is looked at again and again, so where they were found the
    last time is looked first; whether it still is so is looked at too."""
    hints = _hints.pop(hlc, {})
    found = [_head(db, log, fits, hlc, hints.get((log.writer, log.epoch))) for log in logs]
    while len(_hints) >= _HINTS_MAX:
        _hints.pop(next(iter(_hints), 0), None)
    _hints[hlc] = {(log.writer, log.epoch): seq for log, seq in zip(logs, found, strict=True)}
    return found


_HINTS_MAX = 8
_hints: dict[int, dict[tuple[str, int], int]] = {}  # by stamp, of the last moments that were asked for; by log


def _head(db: sqlite3.Connection, log: _Log, fits: Callable[[_Probe], bool], hlc: int, hint: int | None) -> int:
    """The number of the last event that fits, where all before it do; one below the first when none does. Where stamps
    come evenly it is near the place that `hlc` has between the two ends, so every other look is there."""
    low, high = log.first - 1, log.last
    below = above = None  # the nearest that fit, and that did not
    first = [high] if hint is None else [hint + 1, hint]  # most stretches end with the log
    probe, guess = high, True
    while low < high:
        if first:
            probe = min(max(first.pop(), low + 1), high)
        one = _at(db, log, probe, -1)
        if one is None or one.seq <= low:
            low = probe
        elif fits(one):
            low, below = probe, one
        else:
            high, above = one.seq - 1, one
        probe, guess = (low + high + 1) // 2, not guess
        if guess and below is not None and above is not None and below.hlc < hlc < above.hlc:
            near = low + (high - low) * (hlc - below.hlc) // (above.hlc - below.hlc)
            probe = min(max(near, low + 1), high)
    return low


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
