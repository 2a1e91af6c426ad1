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


# -- joining what two sides know --------------------------------------------------------------------------------------


def joined(*windows: Window) -> Window:
    made = Window(START)
    for one in windows:
        made.join(one)
    return made


@given(st.lists(samples, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_tellings_of_the_same_minutes_join_in_any_order_and_as_often_as_they_come(
    told: list[list[tuple[int, str, float]]], dice: random.Random
) -> None:
    windows = [window(added) for added in told]
    shuffled = [*windows, dice.choice(windows)]
    dice.shuffle(shuffled)
    assert joined(*windows).steps == joined(*shuffled).steps


def test_the_fuller_telling_of_a_step_stays_and_steps_of_one_side_alone_stay_too() -> None:
    early, whole = window([(0, "cpu", 9.0)]), window([(0, "cpu", 1.0), (5, "cpu", 3.0), (20, "cpu", 4.0)])
    early.join(window([(40, "rtt_ms", 12.0)]))
    assert joined(early, whole).points("cpu") == whole.points("cpu")
    assert joined(whole, early).points("cpu") == whole.points("cpu")
    assert joined(whole, early).points("rtt_ms") == early.points("rtt_ms")


def test_a_window_joined_with_many_names_keeps_its_bound() -> None:
    one, other = Window(START), Window(START)
    for number in range(series.METRICS_MAX):
        one.add(START, {f"m{number}": 1.0})
        other.add(START, {f"n{number}": 1.0})
    one.join(other)
    assert len(one.steps) == series.METRICS_MAX


@given(samples)
def test_a_coarser_window_holds_the_same_numbers(added: list[tuple[int, str, float]]) -> None:
    fine = window(added)
    minutes = series.coarser(fine, 60)
    for metric in ("cpu", "rtt_ms"):
        step_s, thinned = series.thin(fine.points(metric), START, START + WINDOW_S, 1_000, 60)
        assert step_s == 60
        pairs = zip(thinned, minutes.points(metric), strict=True)
        assert all(close(one, other) for one, other in pairs)
    assert fine.steps == window(added).steps
