"""How far the hub was behind its sites over the last day, and that it draws nothing for the time in which it did not look."""

from __future__ import annotations

from fleet.limits import DAY, HOUR, MINUTE, SECOND
from hub.debts import MINUTES, POINT_MINUTES, Debts
from hub.state import FleetHere
from tests.hub.sites import ALDER, BIRCH, CEDAR, filled

NOW_NS = 1_795_253_400 * SECOND
POINTS = MINUTES // POINT_MINUTES


class Harbor:
    def __init__(self) -> None:
        self.now_ns = NOW_NS
        self.fleet = filled(FleetHere(), NOW_NS)
        self.debts = Debts(self.fleet, lambda: self.now_ns)

    def looks(self, minutes: int) -> None:
        for _ in range(minutes):
            self.now_ns += MINUTE
            self.debts.look()


def test_a_site_in_step_a_site_that_returns_and_a_site_that_is_cut_off() -> None:
    harbor = Harbor()
    harbor.looks(30)
    assert [one for one in harbor.debts.trail(ALDER) if one is not None] == [0.0, 0.0, 0.0]
    (*_, returning) = harbor.debts.trail(BIRCH)
    assert returning == (9 * DAY + 30 * MINUTE) / SECOND
    cut = [one for one in harbor.debts.trail(CEDAR) if one is not None]
    assert cut == sorted(cut)
    assert cut[-1] == (21 * DAY + 30 * MINUTE) / SECOND


def test_the_time_in_which_nobody_looked_is_a_gap() -> None:
    harbor = Harbor()
    harbor.looks(60)
    harbor.now_ns += 2 * HOUR
    harbor.looks(60)
    trail = harbor.debts.trail(ALDER)
    assert len(trail) == POINTS
    there = "".join(" " if one is None else "x" for one in trail).strip()
    first, _, last = there.partition(" ")
    assert set(first) == set(last.strip()) == {"x"}
    assert 10 <= last.count(" ") + 1 <= 13


def test_a_whole_day_goes_round_and_what_is_older_is_forgotten() -> None:
    harbor = Harbor()
    harbor.fleet.sites[ALDER].head_seq += 10
    harbor.fleet.sites[ALDER].oldest_missing_ns = NOW_NS - 5 * MINUTE
    harbor.looks(20)
    harbor.fleet.sites[ALDER].head_seq -= 10
    harbor.looks(MINUTES)
    assert set(harbor.debts.trail(ALDER)) == {0.0}


def test_after_a_day_without_a_look_or_a_clock_that_was_set_back_it_begins_anew() -> None:
    for jump in (2 * DAY, -HOUR):
        harbor = Harbor()
        harbor.looks(30)
        harbor.now_ns += jump
        harbor.looks(1)
        assert sum(one is not None for one in harbor.debts.trail(ALDER)) == 1


def test_a_site_that_nobody_knows_has_no_trail() -> None:
    harbor = Harbor()
    harbor.looks(1)
    assert harbor.debts.trail("nobody") == ()
    del harbor.fleet.sites[CEDAR]
    harbor.looks(1)
    assert harbor.debts.trail(CEDAR) == ()
