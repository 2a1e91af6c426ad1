"""Hybrid logical clock: one 64-bit number, 48 bits of Unix milliseconds and 16 of a counter.

It never runs backwards, whatever the wall clock does, so it orders what one box did. Between boxes it is a
courtesy: order that matters comes from (epoch, seq). Source: Kulkarni et al., "Logical Physical Clocks", 2014.
"""

from __future__ import annotations

COUNTER_BITS = 16


def tick(previous: int, wall_ms: int) -> int:
    """The next stamp after `previous`, at the wall clock's `wall_ms` or later."""
    return max(previous + 1, max(wall_ms, 0) << COUNTER_BITS)


def wall_ms(stamp: int) -> int:
    return stamp >> COUNTER_BITS
