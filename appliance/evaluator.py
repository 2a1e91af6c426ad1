"""The evaluator: from readings, echoes and silence to turns of state. Values in, values out.

Rules of the file
  1  A turn is returned exactly when something changed; ten thousand readings that change nothing return nothing.
  2  Connectivity moves only along `fleet.connectivity.TABLE`.
  3  A record is judged once: `Standing.record` is the guard, stored in the same transaction as the turns.
  4  Time is the site's steady time (Unix ns that never jump), handed in.

A node is LIVE while it speaks and its link is well. It is DELAYED while its link is slow or lossy, or while it answers
ping and says nothing. It is DISCONNECTED after a silence of both, and RETURNING until it was heard steadily again.
"""

from __future__ import annotations

import msgspec

from fleet.connectivity import Mode, Trigger, step
from fleet.events import (
    Body,
    HealthChanged,
    HeartbeatMissed,
    HeartbeatResumed,
    NodeDegraded,
    NodeHeard,
    NodeQuiet,
    NodeRecovered,
    VersionChanged,
)
from fleet.limits import SECOND
from fleet.reading import Health, Reading


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    silence_ns_max: int = 15 * SECOND  # neither a record nor an echo
    heartbeat_ns_max: int = 10 * SECOND  # heard, but without a heartbeat
    returning_ns: int = 2 * SECOND  # heard for so long before a return counts


MUTE = "answers ping, sends nothing"
SLOW = "slow or lossy link"


class Standing(msgspec.Struct, kw_only=True):
    """What the evaluator holds of one node between two turns."""

    record: int = 0
    mode: Mode | None = None
    mode_ns: int = 0
    heard_ns: int = 0
    spoke_ns: int = 0  # last record; 0: never sent one
    heartbeat_ns: int = 0
    heartbeat_missing: bool = False
    health: Health = Health.UNKNOWN
    version: str = ""
    mute: bool = False
    slow: bool = False


def spoke(standing: Standing, at_ns: int, record: int, via: str, reading: Reading, bounds: Bounds) -> list[Body]:
    """A record of the node was read."""
    if record <= standing.record:
        return []
    standing.record = record
    standing.spoke_ns = max(standing.spoke_ns, at_ns)  # what is read back from the disk may be older
    standing.mute = False
    turns = _heard(standing, at_ns, via, record, bounds)
    turns += _settle(standing, at_ns, "it speaks again")
    if reading.heartbeat:
        if standing.heartbeat_missing:
            turns.append(HeartbeatResumed(max(at_ns - standing.heartbeat_ns, 0), record))
        standing.heartbeat_ns, standing.heartbeat_missing = max(standing.heartbeat_ns, at_ns), False
    if reading.health is not None and reading.health is not standing.health:
        reason = _words(reading.text)
        turns.append(HealthChanged(standing.health.value, reading.health.value, reason, record))
        standing.health = reading.health
    if reading.version is not None and reading.version != standing.version:
        turns.append(VersionChanged(standing.version, reading.version[:200], record))
        standing.version = reading.version[:200]
    return turns


def echoed(
    standing: Standing, at_ns: int, slow: bool, rtt_ms: float | None, loss_pct: float | None, bounds: Bounds
) -> list[Body]:
    """The node answered ping; `slow` is the judgement of the ping intake, hysteresis included."""
    turns = _heard(standing, at_ns, "ping", 0, bounds)
    standing.slow = slow
    return turns + _settle(standing, at_ns, "link is well again", rtt_ms, loss_pct)


def unanswered(standing: Standing, at_ns: int, slow: bool, rtt_ms: float | None, loss_pct: float | None) -> list[Body]:
    """The node did not answer ping this time."""
    standing.slow = standing.slow or slow  # a link that falls silent has not become well: only an echo says so
    return _settle(standing, at_ns, "", rtt_ms, loss_pct)


def tick(standing: Standing, now_ns: int, bounds: Bounds) -> list[Body]:
    """Time passed."""
    if standing.mode is None:
        return []
    if now_ns - standing.heard_ns > bounds.silence_ns_max:
        return _quiet(standing, now_ns, bounds)
    standing.mute = standing.spoke_ns > 0 and now_ns - standing.spoke_ns > bounds.silence_ns_max
    turns = _settle(standing, now_ns, "")
    beating = standing.heartbeat_ns > 0 and not standing.heartbeat_missing
    if beating and now_ns - standing.heartbeat_ns > bounds.heartbeat_ns_max:
        standing.heartbeat_missing = True
        turns.append(HeartbeatMissed(standing.heartbeat_ns, bounds.heartbeat_ns_max))
    return turns


def _words(text: str | None) -> str:
    """What a device said in words. Data (JSON, key=value) is no reason: its record has it, and the event names that."""
    if not text or text[0] in "{[" or "=" in text.split(maxsplit=1)[0]:
        return ""
    return text[:200]


def _heard(standing: Standing, at_ns: int, via: str, record: int, bounds: Bounds) -> list[Body]:
    silent_ns = at_ns - standing.heard_ns if standing.heard_ns else 0
    standing.heard_ns = max(standing.heard_ns, at_ns)
    mode = step(standing.mode, Trigger.HEARD)
    if mode is not None:
        former = standing.mode
        standing.mode, standing.mode_ns = mode, at_ns
        return [NodeHeard(mode, former or "", via, record, max(silent_ns, 0))]
    steady = at_ns - standing.mode_ns >= bounds.returning_ns
    speaks = record > 0 or not standing.spoke_ns  # one that used to speak has not returned until it speaks
    if standing.mode is Mode.RETURNING and steady and speaks:
        return [_turn(standing, Trigger.CAUGHT_UP, at_ns, "heard steadily")]
    return []


def _settle(
    standing: Standing, at_ns: int, relief: str, rtt_ms: float | None = None, loss_pct: float | None = None
) -> list[Body]:
    """LIVE while neither mute nor slow, DELAYED otherwise. `relief` says why, if it is well again."""
    trouble = MUTE if standing.mute else SLOW if standing.slow else ""
    if trouble and standing.mode is Mode.LIVE:
        return [_turn(standing, Trigger.LATE, at_ns, trouble, rtt_ms, loss_pct)]
    if not trouble and standing.mode is Mode.DELAYED:
        return [_turn(standing, Trigger.RECOVERED, at_ns, relief, rtt_ms, loss_pct)]
    return []


def _turn(
    standing: Standing,
    trigger: Trigger,
    at_ns: int,
    reason: str,
    rtt_ms: float | None = None,
    loss_pct: float | None = None,
) -> Body:
    former, mode = standing.mode, step(standing.mode, trigger)
    assert mode is not None, trigger
    assert former is not None
    standing.mode, standing.mode_ns = mode, at_ns
    body = NodeDegraded if trigger is Trigger.LATE else NodeRecovered
    return body(mode, former, reason, rtt_ms, loss_pct)


def _quiet(standing: Standing, now_ns: int, bounds: Bounds) -> list[Body]:
    mode = step(standing.mode, Trigger.SILENT)
    if mode is None:
        return []
    former = standing.mode
    standing.mode, standing.mode_ns, standing.mute, standing.slow = mode, now_ns, False, False
    return [NodeQuiet(mode, former or "", standing.heard_ns, bounds.silence_ns_max)]
