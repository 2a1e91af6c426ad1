"""Series: steps are joins, windows survive their bytes, and thinning keeps what was lowest and highest."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import series
from fleet.series import STEP_S, WINDOW_S, Point, Window

START = 600_000
samples = st.lists(
    st.tuples(st.integers(0, WINDOW_S - 1), st.sampled_from(["cpu", "rtt_ms"]), st.floats(-1e6, 1e6, width=32)),
    min_size=1,
    max_size=60,
)


def window(added: list[tuple[int, str, float]]) -> Window:
    made = Window(START)
    for at, metric, value in added:
        made.add(START + at, {metric: value})
    return made


def close(one: Point, other: Point) -> bool:
    same = (one.at_s, one.samples, one.low, one.high) == (other.at_s, other.samples, other.low, other.high)
    return same and math.isclose(one.mean, other.mean, rel_tol=1e-5, abs_tol=1e-2)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(added: list[tuple[int, str, float]], dice: random.Random) -> None:
    shuffled = list(added)
    dice.shuffle(shuffled)
    for metric in ("cpu", "rtt_ms"):
        pairs = zip(window(added).points(metric), window(shuffled).points(metric), strict=True)
        assert all(close(one, other) for one, other in pairs)


@given(samples)
def test_a_window_survives_its_bytes(added: list[tuple[int, str, float]]) -> None:
    made = window(added)
    again = series.decode(START, made.encode())
    for metric in ("cpu", "rtt_ms"):
        pairs = zip(made.points(metric), again.points(metric), strict=True)
        assert all(close(one, other) for one, other in pairs)


def test_a_step_says_how_many_the_lowest_the_mean_and_the_highest() -> None:
    made = window([(0, "cpu", 1.0), (9, "cpu", 3.0), (10, "cpu", 7.0)])
    assert made.points("cpu") == [Point(START, 2, 1.0, 2.0, 3.0), Point(START + STEP_S, 1, 7.0, 7.0, 7.0)]


def test_what_falls_outside_the_window_stands_at_its_edge() -> None:
    made = window([(-50, "cpu", 1.0), (WINDOW_S + 50, "cpu", 2.0)])
    assert [point.at_s for point in made.points("cpu")] == [START, START + WINDOW_S - STEP_S]


def test_a_node_that_invents_names_fills_no_memory() -> None:
    made = Window(START)
    for number in range(series.METRICS_MAX + 40):
        made.add(START, {f"m{number}": 1.0})
    assert len(made.steps) == series.METRICS_MAX
    made.add(START, {"m0": 2.0})
    assert made.points("m0")[0].samples == 2


def test_a_number_too_large_for_its_column_is_held_at_the_edge() -> None:
    (point,) = series.decode(START, window([(0, "cpu", 1e300), (0, "cpu", -1e300)]).encode()).points("cpu")
    assert math.isfinite(point.low)
    assert math.isfinite(point.high)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x81\xa3cpu\x95\xc4\x01\x00\xc4\x00\xc4\x00\xc4\x00\xc4\x00", b"\x90"])
def test_what_is_no_window_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a series window"):
        series.decode(START, raw)


@given(samples, st.integers(1, 40))
def test_thinning_keeps_counts_lows_and_highs_within_its_bound(added: list[tuple[int, str, float]], most: int) -> None:
    points = window([(at, "cpu", value) for at, _, value in added]).points("cpu")
    step_s, thin = series.thin(points, START, START + WINDOW_S - 1, most)
    assert len(thin) <= most + 1  # one more when a step straddles the start
    assert step_s % STEP_S == 0
    assert sum(point.samples for point in thin) == sum(point.samples for point in points)
    assert min(point.low for point in thin) == min(point.low for point in points)
    assert max(point.high for point in thin) == max(point.high for point in points)


def test_windows_begin_every_ten_minutes() -> None:
    assert series.start_of(START + WINDOW_S - 0.1) == START
    assert series.start_of(START + WINDOW_S) == START + WINDOW_S
