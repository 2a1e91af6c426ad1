"""Whose turn is it to send its log, when many sites return at once? A few at a time are as fast as all, and leave the rest
of the hub, the broker and the line to what sites say of their present.

Rules of the file
  1  Only a site that returns waits. One that is live, or held in quarantine, may always send.
  2  As long as the hub keeps up, one site after the other joins in: slow lines stop nobody. When it does not, only
     `_SENDING_MIN` may begin, and who has sent for `_TURN_NS` goes to the end of the queue: nobody waits for ever.
  3  A word may be lost: a window of which nothing comes is said again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fleet.limits import MS, SECOND
from sync.hub import WINDOW_BYTES, Phase, Session

_SENDING_MIN = 8
_TURN_NS = 3 * SECOND
_JOIN_NS = 20 * MS  # between one site and the next
_AGAIN_NS = 5 * SECOND


class _Turn(NamedTuple):
    began_ns: int
    offset: int  # of its stream, when it was last looked at
    said_ns: int


class Turns:
    def __init__(self) -> None:
        self.busy = False  # more has come than the last transaction could hold
        self._waiting: dict[str, None] = {}  # who came first is first
        self._sending: dict[str, _Turn] = {}
        self._joined_ns = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def forget(self, writer: str) -> None:
        self._waiting.pop(writer, None)
        self._sending.pop(writer, None)

    def turn(self, touched: Mapping[str, Session], every: Mapping[str, Session], now_ns: int) -> list[str]:
        """After a batch that `touched` these sessions: who has a word to send for it."""
        for writer, session in touched.items():
            self._sort(writer, session)
        said = self._rest(every, now_ns)
        for writer in self._next(now_ns):
            session = every[writer]
            session.grant(WINDOW_BYTES)
            self._sending[writer] = _Turn(now_ns, session.offset, now_ns)
            said.append(writer)
        return said

    def _sort(self, writer: str, session: Session) -> None:
        if session.phase is not Phase.REPLAYING:
            self.forget(writer)
            if session.in_session and not session.window_bytes:
                session.grant(WINDOW_BYTES)
        elif not session.window_bytes:  # it may be a new session of one that was sending
            self._sending.pop(writer, None)
            self._waiting.setdefault(writer)

    def _rest(self, every: Mapping[str, Session], now_ns: int) -> list[str]:
        """Whoever has had its turn, when others wait; and whoever may not have heard that it is on."""
        said: list[str] = []
        for writer, turn in tuple(self._sending.items()):
            session = every[writer]
            if self.busy and self._waiting and not 0 <= now_ns - turn.began_ns < _TURN_NS:
                del self._sending[writer]
                self._waiting[writer] = None
                session.grant(0)
                said.append(writer)
            elif session.offset != turn.offset:
                self._sending[writer] = turn._replace(offset=session.offset, said_ns=now_ns)
            elif not 0 <= now_ns - turn.said_ns < _AGAIN_NS:
                self._sending[writer] = turn._replace(said_ns=now_ns)
                session.grant(WINDOW_BYTES)
                said.append(writer)
        return said

    def _next(self, now_ns: int) -> list[str]:
        chosen: list[str] = []
        if now_ns < self._joined_ns:  # the clock was set back
            self._joined_ns = now_ns
        while self._waiting:
            few = len(self._sending) + len(chosen) < _SENDING_MIN
            if not few and (self.busy or now_ns - self._joined_ns < _JOIN_NS):
                break
            self._joined_ns = now_ns if few else max(self._joined_ns + _JOIN_NS, now_ns - SECOND // 4)
            writer = next(iter(self._waiting))
            del self._waiting[writer]
            chosen.append(writer)
        return chosen
