"""Durations are counted in fixed bounds; shares of them are found between the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fleet.histogram import BOUNDS_S, Histogram, quantile


def test_nothing_has_no_quantile() -> None:
    assert quantile(Histogram().counts, 0.5) is None


def test_a_bound_includes_its_own_end_and_what_is_beyond_the_last_counts_as_infinite() -> None:
    found = Histogram()
    for seconds in (-1.0, BOUNDS_S[0], BOUNDS_S[0] + 1e-9, BOUNDS_S[-1] + 1):
        found.add(seconds)
    assert found.counts[0] == 2
    assert found.counts[1] == 1
    assert found.counts[-1] == 1
    assert found.cumulative()[-1] == (float("inf"), 4)
    assert found.sum_s == pytest.approx(BOUNDS_S[0] * 2 + BOUNDS_S[-1] + 1)
    assert quantile(found.counts, 1.0) == BOUNDS_S[-1]


@given(some.lists(some.floats(0, 20), min_size=1))
def test_a_larger_share_never_took_less_and_all_of_them_took_as_long_as_the_longest(took: list[float]) -> None:
    found = Histogram()
    for seconds in took:
        found.add(seconds)
    said = [quantile(found.counts, share / 10) or 0.0 for share in range(1, 11)]
    assert said == sorted(said)
    assert said[-1] == next((bound for bound in BOUNDS_S if bound >= max(took)), BOUNDS_S[-1])
