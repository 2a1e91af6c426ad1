"""What messages tell of the way they come: rates, clocks, heartbeats, repeats."""

from __future__ import annotations

import pytest

from fleet import signs
from fleet.limits import HOUR, MINUTE, MS, SECOND
from fleet.reading import Reading
from fleet.signs import Repeats, Signs

NOON = 1_795_262_400 * SECOND


def heard(*late_ns: int, every_ns: int = SECOND, from_ns: int = NOON) -> Signs:
    """A node whose messages came every so often, each so much after (or before) what it claims."""
    found = Signs()
    for number, late in enumerate(late_ns):
        at_ns = from_ns + number * every_ns
        signs.add(found, at_ns, Reading(claimed_ns=at_ns - late))
    return found


@pytest.mark.parametrize(
    ("late_ns", "skew_ns"),
    [
        ((), None),
        ((3 * MS, 80 * MS, 7 * MS), -3 * MS),  # the quickest message tells
        ((-700 * MS, -650 * MS), 700 * MS),  # nothing comes before it is sent: its clock is ahead
        ((800 * MS, 815 * MS, 990 * MS), -800 * MS),
        ((5 * MS, HOUR, 4 * MS), -4 * MS),  # one that was kept for an hour, among live ones
    ],
)
def test_a_clock_is_judged_by_the_messages_that_came_quickest(late_ns: tuple[int, ...], skew_ns: int | None) -> None:
    assert signs.skew_ns(heard(*late_ns), NOON + 10 * SECOND) == skew_ns


def test_a_device_that_sends_what_it_kept_has_no_wrong_clock() -> None:
    catching_up = heard(*(HOUR - number * MINUTE for number in range(30)))
    assert signs.skew_ns(catching_up, NOON + 30 * SECOND) is None


def test_a_clock_that_tells_whole_seconds_is_not_called_late_for_it() -> None:
    found = Signs()
    for number in range(20):
        at_ns = NOON + number * SECOND + 900 * MS
        signs.add(found, at_ns, Reading(claimed_ns=NOON + number * SECOND))
    assert signs.skew_ns(found, NOON + 20 * SECOND) == 0


def test_what_was_said_long_ago_tells_nothing_of_a_clock_now() -> None:
    found = heard(-700 * MS, -650 * MS)
    assert signs.skew_ns(found, NOON + MINUTE) == 700 * MS
    assert signs.skew_ns(found, NOON + 2 * MINUTE) is None


def test_a_rate_is_over_the_last_minute() -> None:
    found = heard(*([0] * 120))
    assert signs.per_s(found, NOON + 2 * MINUTE - 1) == pytest.approx(1.0, abs=0.02)
    assert signs.per_s(found, NOON + 2 * MINUTE + 30 * SECOND) == pytest.approx(0.5)
    assert signs.per_s(found, NOON + HOUR) == 0


def test_missed_heartbeats_are_counted_in_intervals_of_the_device_itself() -> None:
    found = Signs()
    assert signs.missed_beats(found, NOON) is None
    for number in range(10):
        signs.add(found, NOON + number * 5 * SECOND, Reading(heartbeat=True))
        signs.add(found, NOON + number * 5 * SECOND + SECOND, Reading())
    assert signs.missed_beats(found, NOON + 45 * SECOND) == pytest.approx(0)
    assert signs.missed_beats(found, NOON + 60 * SECOND) == pytest.approx(3)
    signs.add(found, NOON + 545 * SECOND, Reading(heartbeat=True))  # a pause is no interval
    assert signs.missed_beats(found, NOON + 550 * SECOND) == pytest.approx(1)


def test_repeats_count_in_a_row_until_something_new_comes() -> None:
    found = heard(0)
    for _ in range(6):
        signs.add_repeated(found, NOON)
    assert (found.repeated, found.repeated_in_a_row) == (6, 6)
    signs.add(found, NOON, Reading())
    assert (found.repeated, found.repeated_in_a_row) == (6, 0)


def test_an_id_is_the_nodes_own_and_old_ones_are_forgotten() -> None:
    memory = Repeats(100)
    assert not memory.seen("kestrel", "1")
    assert not memory.seen("merlin", "1")
    assert memory.seen("kestrel", "1")
    for number in range(2, 40):
        memory.seen("kestrel", str(number))
    assert memory.seen("kestrel", "1")
    for number in range(100, 200):
        memory.seen("kestrel", str(number))
    assert not memory.seen("kestrel", "1")
