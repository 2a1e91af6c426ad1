"""What does this site hold of the numbers that a device gives its records? So that each counts once, whatever is repeated.

Rules of the file
  1  A stream is a device's own; its numbers ascend, and what they name never changes.
  2  Held are ranges above a floor; all below the floor is settled: the device said that it never sends it again.
  3  Records and `held` cannot change in one transaction: records stand in a file of their own. So `begin` notes before
     the first record is offered behind which id they will stand; each record carries its number as a mark; `settle`
     enters the range and ends the note in one transaction. After a crash between the two, the marks behind that id
     say what was stored (`stored`), and only the rest is.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

import msgspec

from fleet import limits, spans
from fleet.spans import Spans
from store.frames import Record
from store.telemetry import History

_MARK = "seq="
_DOUBT = "doubt="
_PAGE_RECORDS = 4_096
_PAGE_SECONDS = 5.0

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...]).decode


class Held(NamedTuple):
    floor: int = 0
    ranges: Spans = ()

    def holds(self, first: int, last: int) -> bool:
        return last < self.floor or spans.holds(self.ranges, max(first, self.floor), last)

    @property
    def all(self) -> Spans:
        """With what is settled below the floor."""
        return spans.add(self.ranges, 1, self.floor - 1) if self.floor > 1 else self.ranges


class Delivery(NamedTuple):
    """A note that records of an upload stand behind `after_id`; `again` when it was made before."""

    upload: str
    after_id: int
    again: bool = True


SELECT = "SELECT floor, held FROM stream WHERE tenant=? AND device=? AND stream=?"


def held(db: sqlite3.Connection, tenant: str, device: str, stream: str) -> Held:
    return read(db.execute(SELECT, (tenant, device, stream)).fetchone())


def read(row: tuple[int, bytes] | None) -> Held:
    return Held(row[0], _decode(row[1])) if row is not None else Held()


def begin(db: sqlite3.Connection, tenant: str, upload: str, after_id: int, now_ns: int) -> Delivery:
    """Note that the records of an upload are about to be stored; the first note counts, for as long as it is not settled."""
    noted = db.execute("SELECT after_id FROM delivery WHERE upload=?", (upload,)).fetchone()
    if noted is not None:
        return Delivery(upload, int(noted[0]))
    db.execute("INSERT INTO delivery VALUES (?,?,?,?)", (upload, tenant, after_id, now_ns))
    return Delivery(upload, after_id, again=False)


def begun(db: sqlite3.Connection, tenant: str) -> list[Delivery]:
    rows = db.execute("SELECT upload, after_id FROM delivery WHERE tenant=? ORDER BY began_ns", (tenant,))
    return [Delivery(*row) for row in rows]


def settle(
    db: sqlite3.Connection,
    tenant: str,
    device: str,
    stream: str,
    upload: str,
    first: int,
    last: int,
    floor: int,
    now_ns: int,
) -> None:
    """`first` to `last` are held, and the note is done."""
    now = held(db, tenant, device, stream)
    floor = max(now.floor, floor, 1)
    left = spans.above(spans.add(now.ranges, first, last), floor)
    while left and left[0][0] <= floor:  # what follows the floor without a hole moves it
        floor, left = max(floor, left[0][1] + 1), left[1:]
    row = (tenant, device, stream, floor, _encode(left), now_ns)
    db.execute(
        "INSERT INTO stream VALUES (?,?,?,?,?,?)"
        " ON CONFLICT DO UPDATE SET floor=excluded.floor, held=excluded.held, told_ns=excluded.told_ns",
        row,
    )
    db.execute("DELETE FROM delivery WHERE upload=?", (upload,))
    if now == Held():
        db.execute(_FORGET, (tenant, device, tenant, device, limits.streams_per_device_max))


_FORGET = (
    "DELETE FROM stream WHERE tenant=? AND device=? AND stream NOT IN"
    " (SELECT stream FROM stream WHERE tenant=? AND device=? ORDER BY told_ns DESC LIMIT ?)"
)


def forget(db: sqlite3.Connection, before_ns: int) -> None:
    """Notes of uploads that nobody came back with for so long."""
    db.execute("DELETE FROM delivery WHERE began_ns < ?", (before_ns,))


# -- marks of records ---------------------------------------------------------------------------------------------


def marks(stream: str, number: int, doubt: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What a record carries for whoever reads it: its number in its device's stream, and at which other sites it may
    stand too."""
    return (f"{_MARK}{stream}:{number}", *(f"{_DOUBT}{site}" for site in doubt))


def number_of(record: Record, stream: str) -> int | None:
    prefix = f"{_MARK}{stream}:"
    return next((int(mark[len(prefix) :]) for mark in record.marks if mark.startswith(prefix)), None)


def stored(history: History, source: str, stream: str, after_id: int) -> Spans:
    """Numbers of a stream that stand in records behind `after_id`. Blocking; StoreFault."""
    found: Spans = ()
    while True:
        page = history.after(after_id, _PAGE_RECORDS, frozenset({source}), _PAGE_SECONDS)
        for record in page.records:
            number = number_of(record, stream)
            if number is not None:
                found = spans.add(found, number, number)
        if page.scanned <= after_id:
            return found
        after_id = page.scanned
