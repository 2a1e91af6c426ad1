"""What did a node say, word for word? Raw records at the hub, read from the sealed segments that its site handed over.

Rules of the file
  1  A segment is opened when somebody looks, not when it arrives: most are never looked at.
  2  A search ends after its time and says how far it came. What is not here is a gap with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from store import frames, peers
from store.database import connect_reader
from store.faults import Fault, StoreFault
from store.folder import Folder
from store.frames import Record
from store.peers import GONE, HERE, Segment
from store.telemetry import Gap, Page, segment_path

_AWAITED = "still at the site"


class Records:
    """Blocking; call it off the event loop. Safe across threads: each call opens what it reads."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def known(self, site: str) -> list[Segment]:
        """Every segment of records that the site's log names, in the order of its records."""
        with closing(connect_reader(self._folder.site_db)) as db:
            return [one for one in peers.segments(db, site) if not one.is_series]

    def before(
        self, site: str, before: int, limit: int, sources: frozenset[str], needle: bytes = b"", seconds: float = 0.25
    ) -> Page:
        """Up to `limit` records of these sources below an id, newest first; `scanned` is the `before` of the next call,
        0 at the end. StoreFault when a segment cannot be read."""
        found: list[Record] = []
        scanned, deadline = before, time.monotonic() + seconds
        for segment in reversed(self.known(site)):
            if segment.first_id >= before or segment.state != HERE:
                continue
            for first_id, _, data in reversed(list(self._frames(segment))):
                if first_id >= before:
                    continue
                for record in reversed(frames.decode(data, sources)):
                    if record.id < before and needle in record.content:
                        found.append(record)
                        if len(found) == limit:
                            return Page(found, record.id, [])
                scanned = min(scanned, first_id)
                if time.monotonic() > deadline:
                    return Page(found, scanned, [])
        return Page(found, 0, [])

    def after(self, site: str, after: int, limit: int, sources: frozenset[str], seconds: float = 1.0) -> Page:
        """As `before`, upwards; `scanned` is the `after` of the next call, `gaps` are ids that are not here."""
        found: list[Record] = []
        scanned, deadline, known = after, time.monotonic() + seconds, self.known(site)
        for segment in known:
            if segment.last_id <= after:
                continue
            if segment.state not in (HERE, GONE):
                break  # it will come; what follows it is read behind it
            for _, last_id, data in self._frames(segment) if segment.state == HERE else ():
                if last_id <= after:
                    continue
                for record in frames.decode(data, sources):
                    if record.id > scanned:
                        if len(found) == limit:
                            return Page(found, scanned, _gaps(known, after, scanned))
                        found.append(record)
                        scanned = record.id
                scanned = max(scanned, last_id)
                if time.monotonic() > deadline:
                    return Page(found, scanned, _gaps(known, after, scanned))
            scanned = max(scanned, segment.last_id)
        return Page(found, scanned, _gaps(known, after, scanned))

    def _frames(self, segment: Segment) -> Iterator[tuple[int, int, bytes]]:
        """First id, last id and bytes of each frame of a segment, ascending."""
        path = segment_path(self._folder.segments, segment.sha256)
        try:
            pieces = [(frames.first_id(data), data) for data in frames.split(path)]
        except (OSError, ValueError) as error:
            raise StoreFault(Fault.DAMAGED, path.name, str(error)) from error
        ends = [first_id - 1 for first_id, _ in pieces[1:]] + [segment.last_id]
        return ((first_id, last_id, data) for (first_id, data), last_id in zip(pieces, ends, strict=True))


def _gaps(known: Sequence[Segment], after: int, upto: int) -> list[Gap]:
    return [
        Gap(one.first_id, one.last_id, one.reason or _AWAITED)
        for one in known
        if one.state != HERE and one.last_id > after and one.first_id <= upto
    ]
