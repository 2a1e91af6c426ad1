"""In which states is a session, and what leads from one to the next? The tables that `sync.site` and `sync.hub` run
by, and from which the diagrams of docs/protocol.md are drawn.

    site                                     hub
     │ hello (who, ends of my logs, nonce)    │
     ├───────────────────────────────────────►│ who is that? which end of its log is here?
     │◄───────────────────────────────────────┤ challenge (its own proof, a nonce)
     │ proof (signature, ratchet)             │
     ├───────────────────────────────────────►│ takes the fence: every session before is over
     │◄───────────────────────────────────────┤ welcome (fence, token, acknowledged ends, window)
     │ present, whole ───────────────────────►│ shown at once
     │ stream, in windows ───────────────────►│ verify, order, dedupe, store
     │◄────────────────────────────────────── ┤ ack, after the commit
     │ level (nothing is left) ──────────────►│
     │◄───────────────────────────────────────┤ receipt, signed
     │ receipt, countersigned ───────────────►│
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from fleet.limits import SECOND
from sync.messages import Lane


class State(StrEnum):
    """Of a site towards its hub."""

    AUTONOMOUS = "AUTONOMOUS"  # no session
    RETURNING = "RETURNING"  # hello said, no welcome yet
    REPLAYING = "REPLAYING"  # a session, and history to catch up
    LIVE = "LIVE"  # a receipt covers what was there
    QUARANTINED = "QUARANTINED"  # a session with limited operations: data flows up, nothing takes effect here


class Cause(StrEnum):
    LINE_UP = "the line came up"
    WELCOME = "the hub welcomed the site"
    REFUSED = "the hub refused"
    COVERED = "a receipt covers the log"
    BEHIND = "much has gathered since"
    QUARANTINE = "the hub holds the site in quarantine"
    RELEASED = "a person at the hub released it"
    LINE_DOWN = "the line went down"
    SILENCE = "the hub says nothing"


TABLE: dict[tuple[State, Cause], State] = {
    (State.AUTONOMOUS, Cause.LINE_UP): State.RETURNING,
    (State.RETURNING, Cause.WELCOME): State.REPLAYING,
    (State.RETURNING, Cause.REFUSED): State.AUTONOMOUS,
    (State.RETURNING, Cause.LINE_DOWN): State.AUTONOMOUS,
    (State.RETURNING, Cause.SILENCE): State.AUTONOMOUS,
    (State.REPLAYING, Cause.COVERED): State.LIVE,
    (State.REPLAYING, Cause.QUARANTINE): State.QUARANTINED,
    (State.REPLAYING, Cause.LINE_DOWN): State.AUTONOMOUS,
    (State.REPLAYING, Cause.SILENCE): State.AUTONOMOUS,
    (State.LIVE, Cause.BEHIND): State.REPLAYING,
    (State.LIVE, Cause.QUARANTINE): State.QUARANTINED,
    (State.LIVE, Cause.LINE_DOWN): State.AUTONOMOUS,
    (State.LIVE, Cause.SILENCE): State.AUTONOMOUS,
    (State.QUARANTINED, Cause.RELEASED): State.REPLAYING,
    (State.QUARANTINED, Cause.LINE_DOWN): State.AUTONOMOUS,
    (State.QUARANTINED, Cause.SILENCE): State.AUTONOMOUS,
}

SILENCE_NS = 60 * SECOND  # without a word from the other side the session is over
PING_NS = 20 * SECOND
HELLO_NS = 10 * SECOND  # without an answer the hello is said again, on a new line
RECEIPT_NS = 60 * SECOND  # a live site gets a new receipt that often, if anything came


def token_of(hello_nonce: bytes, chance: bytes) -> bytes:
    """The token of the session that a hello asked for: half says which hello, half is secret. A copy of the site hears
    the welcome too, and a late welcome may be of an earlier hello; neither is for whoever said this one."""
    return hashlib.sha256(b"skerry session\x00" + hello_nonce).digest()[:16] + chance[16:]


class Caps:
    """What an operator allows on a line: bytes a second and an hour, and lanes that stand still. 0 is no bound.

    The budget of a second may be saved up for two, so that one part fits.
    """

    def __init__(self, per_s: int = 0, per_hour: int = 0, paused: frozenset[Lane] = frozenset()) -> None:
        self.per_s, self.per_hour, self.paused = per_s, per_hour, paused
        self._second = float(per_s)
        self._hour_ns = self._at_ns = 0
        self._hour_bytes = 0

    def allows(self, lane: Lane, now_ns: int) -> bool:
        if lane in self.paused:
            return False
        if lane is Lane.CONTROL:
            return True
        self._turn(now_ns)
        if self.per_s and self._second <= 0:
            return False
        return not self.per_hour or self._hour_bytes < self.per_hour

    def spent(self, size: int, now_ns: int) -> None:
        self._turn(now_ns)
        self._second -= size
        self._hour_bytes += size

    def _turn(self, now_ns: int) -> None:
        if self.per_s:
            gained = max(now_ns - self._at_ns, 0) * self.per_s / SECOND
            self._second = min(self._second + gained, 2.0 * self.per_s)
        self._at_ns = now_ns
        if now_ns - self._hour_ns >= 3600 * SECOND or now_ns < self._hour_ns:
            self._hour_ns, self._hour_bytes = now_ns, 0
