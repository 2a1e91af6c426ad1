"""Where sites land: one decider for each, one transaction for each batch of what they say, answers after the commit.

Rules of the file
  1  `work` runs inside the transaction and returns what to send; nothing of it is sent when the transaction falls.
     Then every session is over (`fell`): what was decided may not be there, and the sites say hello again.
  2  A parcel's site is who the link says it is.
  3  Bad bytes are counted and kept apart, and cost nobody else anything.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable

from fleet.connectivity import Mode
from fleet.limits import MS
from hub.shelf import HubShelf
from hub.state import FleetHere, SiteHere
from sync import messages
from sync.hub import Me, Phase, Session
from sync.link import Parcel
from sync.messages import NONCE_BYTES, TOKEN_BYTES

_ROOM_BYTES = 2 * 1024 * 1024  # sent to one site in one turn
_SESSIONS_MAX = 5_000
_UNFORESEEN = (ValueError, OverflowError, TypeError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
_MODES = {
    Phase.CHALLENGED: Mode.RETURNING,
    Phase.REPLAYING: Mode.REPLAYING,
    Phase.LIVE: Mode.LIVE,
    Phase.QUARANTINED: Mode.DELAYED,
}


class Harbor:
    def __init__(
        self, me: Me, shelf: HubShelf, fleet: FleetHere, random_bytes: Callable[[int], bytes], tick_ns: int = 500 * MS
    ) -> None:
        self.me = me
        self.shelf = shelf
        self.sessions: dict[str, Session] = {}
        self.refused: Counter[str] = Counter()
        self._fleet, self._random = fleet, random_bytes
        self._tick_ns, self._ticked_ns = tick_ns, 0
        self._people_version = 0
        self._touched: dict[str, Session] = {}  # whom pages may have to show anew after the commit

    def work(self, db: sqlite3.Connection, parcels: Iterable[Parcel], now_ns: int) -> list[Parcel]:
        """One batch; inside its transaction."""
        self.shelf.begin(db)
        touched: dict[str, Session] = {}
        for parcel in parcels:
            try:
                message = messages.decode(parcel.data)
            except ValueError as error:
                self.refused["not a message"] += 1
                self.shelf.apart(parcel.peer, str(error), parcel.data[:4096], now_ns)
                continue
            session = self._session(parcel.peer)
            if session is not None:
                self._heard(session, message, parcel, now_ns)
                touched[parcel.peer] = session
        if self.shelf.people_version != self._people_version:
            self._people_version = self.shelf.people_version
            for writer, session in self.sessions.items():
                session.people_changed(now_ns, self.shelf)
                touched[writer] = session
        if now_ns - self._ticked_ns >= self._tick_ns or now_ns < self._ticked_ns:
            self._ticked_ns = now_ns
            for session in self.sessions.values():
                session.tick(now_ns, self.shelf)
            touched = self.sessions
        self._touched.update(touched)
        return [
            Parcel(writer, said.LANE, messages.encode(said))
            for writer, session in tuple(touched.items())
            for said in session.pump(now_ns, self.shelf, _ROOM_BYTES)
        ]

    def _heard(
        self, session: Session, message: messages.Message | messages.Unknown, parcel: Parcel, now_ns: int
    ) -> None:
        """What no check foresaw ends this one session, and not the transaction that all share."""
        mark = self.shelf.before()
        try:
            session.heard(message, now_ns, self._random(NONCE_BYTES), self._random(TOKEN_BYTES), self.shelf)
        except _UNFORESEEN as error:
            self.shelf.after(mark, good=False)
            self.refused["cannot be worked on"] += 1
            self.shelf.apart(parcel.peer, f"this cannot be worked on: {error}", parcel.data[:4096], now_ns)
            session.stop("what the site says cannot be worked on; see the quarantine", now_ns, self.shelf)
        else:
            self.shelf.after(mark, good=True)

    def _session(self, writer: str) -> Session | None:
        session = self.sessions.get(writer)
        if session is None:
            if len(self.sessions) >= _SESSIONS_MAX:
                idle = next((name for name, one in self.sessions.items() if one.phase is Phase.NONE), None)
                if idle is None:
                    self.refused["too many sites"] += 1
                    return None
                del self.sessions[idle]
            session = self.sessions[writer] = Session(self.me, writer)
        return session

    def committed(self, now_ns: int) -> None:
        """After the transaction: what pages see."""
        for change in self.shelf.done:
            change()
        self.shelf.done = []
        touched, self._touched = self._touched, {}
        for writer, session in tuple(touched.items()):
            site = self._fleet.sites.get(writer)
            if site is not None:
                _show(site, session)

    def fell(self, now_ns: int) -> None:
        self.shelf.fell()
        for session in self.sessions.values():
            session.line_down(now_ns)

    def release(self, writer: str, now_ns: int) -> None:
        """Inside a transaction of its own: a person lets a site go on."""
        session = self._session(writer)
        if session is not None:
            session.release(now_ns, self.shelf)
            self._touched[writer] = session


def _show(site: SiteHere, session: Session) -> None:
    mode = _MODES.get(session.phase, Mode.DISCONNECTED)
    if site.mode is not mode:
        site.mode, site.since_ns = mode, session.since_ns or site.since_ns
    if session.heard_ns:
        site.heard_ns = session.heard_ns
    site.fence = session.fence
    newest = max({*session.logs, *session.acked}, default=0)
    site.epoch = max(site.epoch, newest)
    site.acked_seq = session.acked.get(newest, site.acked_seq)
    said = session.logs.get(newest)
    site.head_seq = max(said.seq if said else 0, site.acked_seq)
    rtt_ns = session.out.rate.rtt_ns
    site.rtt_ms = rtt_ns / MS if rtt_ns is not None else site.rtt_ms
    if session.hello is not None:
        site.program = session.hello.program
        site.oldest_missing_ns = session.hello.alone_since_ns or None if site.backlog else None
