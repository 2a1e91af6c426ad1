"""Quarantine: bad input, kept with its reason until a person says what becomes of it.

Items of one intake, source and reason that follow each other count up instead of piling up. Bounded by
`limits.quarantine_items_max` and `quarantine_bytes_max`: the oldest settled items go first, then the oldest.
"""

from __future__ import annotations

import re
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from fleet import events, limits
from fleet.people import Refused
from store.database import Reader, Writer
from store.faults import StoreFault
from store.journal import Journal

_WAITING_MAX = 1_000
_RAW_BYTES_MAX = 65_536
_MARK = re.compile(r"retry after (\d+) as (.+)", re.DOTALL)


class Item(NamedTuple):
    id: int
    at_ns: int
    intake: str
    source: str
    reason: str
    raw: bytes
    times: int
    settled_ns: int | None
    decision: str | None


_NEVER = 1 << 62
_THEN = (
    "SELECT id, coalesce(first_ns, at_ns), intake, source, reason, raw, times, settled_ns, decision FROM quarantine"
    " WHERE tenant=? AND id<? AND coalesce(first_ns, at_ns)<=? AND coalesce(settled_ns, ?) {settled} ?"
    " ORDER BY id DESC LIMIT ?"
)
_COLUMNS = "id, at_ns, intake, source, reason, raw, times, settled_ns, decision"


class Quarantine:
    """`put` may be called from any thread and never blocks; `flush` makes what waits durable."""

    def __init__(
        self, journal: Journal, writer: Writer, reader: Reader, *, tenant: str, now_ns: Callable[[], int]
    ) -> None:
        self.put_count = 0
        self.overflowed = 0  # not even kept here: more came than can be written
        self._journal, self._writer, self._reader, self._tenant, self._now_ns = journal, writer, reader, tenant, now_ns
        self._waiting: deque[tuple[int, str, str, str, bytes]] = deque()

    def put(self, intake: str, source: str, reason: str, raw: bytes) -> None:
        self.put_count += 1
        if len(self._waiting) >= _WAITING_MAX:
            self.overflowed += 1
            return
        self._waiting.append((self._now_ns(), intake, source[:256], reason[:500], raw[:_RAW_BYTES_MAX]))

    async def flush(self) -> bool:
        """Write what waits; whether there was anything. On a fault it stays and is tried again."""
        if not self._waiting:
            return False
        # Taken out before the write: pages flush too, and of two at once each has its own.
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]

        def job(db: sqlite3.Connection) -> None:
            for at_ns, intake, source, reason, raw in batch:
                same = db.execute(
                    "UPDATE quarantine SET times=times+1, at_ns=? WHERE id=(SELECT id FROM quarantine WHERE tenant=? AND"
                    " intake=? AND source=? AND reason=? AND raw=? AND settled_ns IS NULL ORDER BY id DESC LIMIT 1)",
                    (at_ns, self._tenant, intake, source, reason, raw),
                ).rowcount
                if not same:
                    db.execute(
                        "INSERT INTO quarantine (tenant, at_ns, first_ns, intake, source, reason, raw, times)"
                        " VALUES (?,?,?,?,?,?,?,1)",
                        (self._tenant, at_ns, at_ns, intake, source, reason, raw),
                    )
            self._trim(db)

        try:
            await self._writer.write(job)
        except StoreFault:
            self._waiting.extendleft(reversed(batch))
            return False
        return True

    def _trim(self, db: sqlite3.Connection) -> None:
        count, size = db.execute("SELECT count(*), coalesce(sum(length(raw)), 0) FROM quarantine").fetchone()
        if count <= limits.quarantine_items_max and size <= limits.quarantine_bytes_max:
            return
        doomed = []
        for row in db.execute(
            "SELECT id, at_ns, length(raw) FROM quarantine ORDER BY settled_ns IS NULL, id"
        ).fetchall():
            if count <= limits.quarantine_items_max * 9 // 10 and size <= limits.quarantine_bytes_max * 9 // 10:
                break  # room for a while, so that not every newcomer drops one
            doomed.append(row)
            count, size = count - 1, size - row[2]
        db.executemany("DELETE FROM quarantine WHERE id=?", [(row[0],) for row in doomed])
        ids, times, sizes = zip(*doomed, strict=True)
        self._journal.stage(
            "quarantine",
            events.TelemetryDropped(
                "quarantine", "quarantine is full", min(ids), max(ids), len(ids), sum(sizes), min(times), max(times)
            ),
        )

    async def items(self, before: int, limit: int, *, settled: bool, moment_ns: int | None = None) -> list[Item]:
        """As of a moment, of those that are still kept: when each had come first, and what nobody had said yet is not said.
        How often it had come by then is not known; it stands as once."""
        if moment_ns is not None:
            rows = await self._reader.fetch(
                _THEN.format(settled="<=" if settled else ">"),
                (self._tenant, before or 1 << 62, moment_ns, _NEVER, moment_ns, limit),
            )
            found = [Item(*row)._replace(times=1) for row in rows]
            return found if settled else [one._replace(settled_ns=None, decision=None) for one in found]
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM quarantine WHERE tenant=? AND id < ? AND (settled_ns IS NOT NULL) = ?"
            " ORDER BY id DESC LIMIT ?",
            (self._tenant, before or 1 << 62, settled, limit),
        )
        return [Item(*row) for row in rows]

    async def item(self, number: int) -> Item:
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM quarantine WHERE tenant=? AND id=?", (self._tenant, number)
        )
        if not rows:
            raise Refused("there is no such item in quarantine", 404)
        item = Item(*rows[0])
        if item.settled_ns is not None:
            raise Refused(f"this item was already settled: {item.decision}")
        return item

    async def alike(self, item: Item, limit: int) -> list[Item]:
        """What waits of the same source, for the same reason, oldest first."""
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM quarantine WHERE tenant=? AND source=? AND reason=? AND settled_ns IS NULL"
            " ORDER BY id LIMIT ?",
            (self._tenant, item.source, item.reason, limit),
        )
        return [Item(*row) for row in rows]

    async def begin(self, number: int, after: int, source: str) -> tuple[tuple[int, str], bool]:
        """Mark an item that is about to become a record of `source` with an id above `after`; the mark that stands, and
        whether it was made just now: an earlier attempt may have come further than it could say."""

        def job(db: sqlite3.Connection) -> tuple[tuple[int, str], bool]:
            row = db.execute(
                "SELECT decision FROM quarantine WHERE id=? AND tenant=? AND settled_ns IS NULL", (number, self._tenant)
            ).fetchone()
            if row is None:
                raise Refused("somebody settled this item meanwhile")
            found = _MARK.fullmatch(row[0] or "")
            if found is not None:
                return (int(found[1]), found[2]), False
            db.execute("UPDATE quarantine SET decision=? WHERE id=?", (f"retry after {after} as {source}", number))
            return (after, source), True

        return await self._writer.write(job)

    async def settle(self, number: int, decision: str, reason: str, actor: str, source: str = "") -> None:
        """`source`: of which it became a record."""

        def job(db: sqlite3.Connection) -> None:
            changed = db.execute(
                "UPDATE quarantine SET settled_ns=?, decision=? WHERE id=? AND tenant=? AND settled_ns IS NULL",
                (self._now_ns(), decision, number, self._tenant),
            ).rowcount
            if not changed:
                raise Refused("somebody settled this item meanwhile")
            self._journal.stage("quarantine", events.QuarantineSettled(number, decision, reason, actor, source))

        await self._writer.write(job)

    async def count(self) -> int:
        ((number,),) = await self._reader.fetch(
            "SELECT count(*) FROM quarantine WHERE tenant=? AND settled_ns IS NULL", (self._tenant,)
        )
        return int(number)
