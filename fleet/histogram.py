"""How long does something take? Counts by duration, cheap to add to and to subtract.

The bounds are fixed, so that two histograms of one thing can be compared, and told to Prometheus as they are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # each includes its own end


class Histogram:
    """One thread adds; others may read."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """What took less than nothing (a clock was set back) took nothing."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times

    def cumulative(self) -> list[tuple[float, int]]:
        """How many took at most so long; the last bound is infinite, its count is all of them."""
        return list(zip((*BOUNDS_S, float("inf")), accumulate(tuple(self.counts)), strict=True))


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Within which time `share` of them came, in seconds: straight between two bounds, and at most the last one. None when
    there are none."""
    if not sum(counts):
        return None
    wanted = share * sum(counts)
    below = 0
    for (low, high), count in zip(pairwise((0.0, *BOUNDS_S)), counts[:-1], strict=True):
        if count and below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below += count
    return BOUNDS_S[-1]
