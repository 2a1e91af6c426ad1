"""What do a node's messages tell of the way they come: how many, how many of them twice, by which clock, beating how often?

For a look at the way in, since the start of the process; nothing here is a fact, and nothing of it is stored.

Rules of the file
  1  Time is when a record was received, Unix ns; minutes are those of that clock.
  2  A clock is judged by the messages that came quickest: delay makes a claim look old, never young. Claims that are old and
     far apart (a device that sends what it kept) are no judgement at all.
"""

from __future__ import annotations

import msgspec

from fleet.limits import MINUTE, MS, SECOND
from fleet.reading import Reading

SKEW_NS_MAX = 500 * MS  # beyond it, either way, a clock is wrong
_SPREAD_NS_MAX = 2 * SECOND  # of claims that are all late by the same
_JUDGE_NS = 50 * MS  # a clock is looked at no more often
_BEAT_NS_MIN = 100 * MS  # closer together they came in one message, or in a burst
_BEATS_ODD = 4  # a pause of so many intervals is no interval


class _Minute(msgspec.Struct):
    number: int = 0
    records: int = 0
    high_ns: int | None = None  # of claimed minus received
    low_ns: int = 0


class Signs(msgspec.Struct):
    repeated: int = 0  # messages that had come before
    repeated_in_a_row: int = 0
    beat_ns: int | None = None
    judged_ns: int = 0  # when the clock was last looked at
    interval_ns: float | None = None  # between two heartbeats, as a rule
    now: _Minute = msgspec.field(default_factory=_Minute)
    former: _Minute = msgspec.field(default_factory=_Minute)


def add(signs: Signs, at_ns: int, reading: Reading) -> None:
    """A record came that had not come before."""
    minute = _minute(signs, at_ns // MINUTE)
    minute.records += 1
    signs.repeated_in_a_row = 0
    claimed_ns = reading.claimed_ns
    if claimed_ns is not None and at_ns - signs.judged_ns >= _JUDGE_NS:
        signs.judged_ns = at_ns
        late_ns, high_ns = claimed_ns - at_ns, minute.high_ns
        if late_ns < 0 and not claimed_ns % SECOND:
            late_ns = min(late_ns + SECOND, 0)  # a clock that tells whole seconds is up to one ahead of what it says
        if high_ns is None:
            minute.high_ns = minute.low_ns = late_ns
        elif late_ns > high_ns:
            minute.high_ns = late_ns
        elif late_ns < minute.low_ns:
            minute.low_ns = late_ns
    if reading.heartbeat and at_ns - (signs.beat_ns or 0) >= _BEAT_NS_MIN:
        _beat(signs, at_ns)


def add_repeated(signs: Signs, at_ns: int) -> None:
    """A record came whose message had come before."""
    _minute(signs, at_ns // MINUTE).records += 1
    signs.repeated += 1
    signs.repeated_in_a_row += 1


def _minute(signs: Signs, number: int) -> _Minute:
    minute = signs.now
    if number != minute.number:
        signs.former = minute if number == minute.number + 1 else _Minute(number - 1)
        signs.now = minute = _Minute(number)
    return minute


def _beat(signs: Signs, at_ns: int) -> None:
    former_ns = signs.beat_ns
    signs.beat_ns = at_ns
    since_ns = at_ns - former_ns if former_ns is not None else 0
    if not since_ns:
        return
    if signs.interval_ns is None:
        signs.interval_ns = float(since_ns)
    elif since_ns < _BEATS_ODD * signs.interval_ns:
        signs.interval_ns += (since_ns - signs.interval_ns) / 8


def skew_ns(signs: Signs, now_ns: int) -> int | None:
    """How far the device's clock is ahead of ours; None where nothing of the last two minutes says so."""
    minutes = [one for one in _lately(signs, now_ns) if one.high_ns is not None]
    if not minutes:
        return None
    high_ns = max(one.high_ns for one in minutes if one.high_ns is not None)
    low_ns = min(one.low_ns for one in minutes)
    return high_ns if high_ns >= -SKEW_NS_MAX or high_ns - low_ns <= _SPREAD_NS_MAX else None


def per_s(signs: Signs, now_ns: int) -> float:
    """Records a second over the last minute, the running one and a part of the one before."""
    past_ns = now_ns % MINUTE
    running = sum(one.records for one in _lately(signs, now_ns) if one.number == now_ns // MINUTE)
    before = sum(one.records for one in _lately(signs, now_ns) if one.number == now_ns // MINUTE - 1)
    return (running + before * (MINUTE - past_ns) / MINUTE) * SECOND / MINUTE


def missed_beats(signs: Signs, now_ns: int) -> float | None:
    """How many intervals ago the last heartbeat came; None for one that has no rhythm yet."""
    if signs.beat_ns is None or not signs.interval_ns:
        return None
    return max(now_ns - signs.beat_ns, 0) / signs.interval_ns


def _lately(signs: Signs, now_ns: int) -> list[_Minute]:
    return [one for one in (signs.former, signs.now) if one.number >= now_ns // MINUTE - 1]


class Repeats:
    """Which messages came before, of all nodes together: a bounded memory of the ids that devices give their messages
    (`mid`), of the latest `most` at most and half of them at least."""

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._now: set[int] = set()
        self._former: set[int] = set()

    def seen(self, node_id: str, mid: str) -> bool:
        """Whether this one came before; it has now."""
        key = hash((node_id, mid))
        if key in self._now or key in self._former:
            return True
        self._now.add(key)
        if len(self._now) >= self._half:
            self._now, self._former = set(), self._now
        return False
