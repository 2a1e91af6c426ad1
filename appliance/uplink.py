"""The site's end of its link: one decider, one transaction for each turn, what it says sent after the commit.

Rules of the file
  1  `work` runs inside a transaction of site.db and returns what to send; when the transaction falls nothing is sent
     and the session is over (`fell`).
  2  The line comes and goes by itself, for ever; the decider hears of it here.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable

from appliance.shelf import SiteShelf
from sync import messages
from sync.link import Parcel
from sync.messages import NONCE_BYTES
from sync.site import Site

_ROOM_BYTES = 4 * 1024 * 1024


class Uplink:
    def __init__(self, site: Site, shelf: SiteShelf, random_bytes: Callable[[int], bytes]) -> None:
        self.site, self.shelf = site, shelf
        self.refused: Counter[str] = Counter()
        self._random = random_bytes
        self._was_up = False

    def work(self, db: sqlite3.Connection, parcels: Iterable[Parcel], up: bool, now_ns: int) -> list[Parcel]:
        site, shelf = self.site, self.shelf
        shelf.begin(db)
        if self._was_up and not up:
            site.line_down(now_ns, shelf)
        self._was_up = up
        for parcel in parcels:
            try:
                message = messages.decode(parcel.data)
            except ValueError as error:
                self.refused["not a message"] += 1
                shelf.apart("hub", str(error), messages.withheld(parcel.data)[:4096])
                continue
            site.heard(message, now_ns, shelf)
        site.tick(now_ns, shelf)
        if up and site.session_is_over and now_ns >= site.again_ns:
            site.line_up(now_ns, self._random(NONCE_BYTES), shelf)
        if not up:
            return []
        writer = site.me.log.writer
        return [Parcel(writer, said.LANE, messages.encode(said)) for said in site.pump(now_ns, shelf, _ROOM_BYTES)]

    def committed(self) -> None:
        done, self.shelf.done = self.shelf.done, []
        for change in done:
            change()

    def fell(self, now_ns: int) -> None:
        """The transaction is undone: what the decider believes may not stand. It begins again."""
        self.shelf.fell()
        self.site = Site(self.site.me, self.site.caps)
        self._was_up = False
