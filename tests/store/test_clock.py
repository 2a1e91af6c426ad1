"""The clock: it says what the machine says, and how far to believe it."""

from __future__ import annotations

import time

import pytest

from fleet.events import Clock
from fleet.limits import DAY, SECOND
from store import clock
from store.clock import BUILT_NS, WallClock


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


class Machine:
    """The clocks of a machine that a test may set. The one thing here that cannot be had for real: a test may not set
    the clock of the machine it runs on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns, self.mono_ns, self.synced = BUILT_NS + DAY, 5 * SECOND, False
        monkeypatch.setattr(time, "time_ns", lambda: self.wall_ns)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.mono_ns)
        monkeypatch.setattr(clock, "_kernel_synced", lambda: self.synced)

    def wait(self, seconds: float) -> None:
        self.wall_ns += int(seconds * SECOND)
        self.mono_ns += int(seconds * SECOND)


def test_a_clock_before_this_program_was_made_is_not_trusted(machine: Machine) -> None:
    machine.wall_ns = 0
    assert WallClock().confidence() is Clock.NOT_TRUSTED
    machine.synced = True
    assert WallClock().confidence() is Clock.NOT_TRUSTED


def test_a_clock_behind_what_the_box_once_vouched_for_is_not_trusted(machine: Machine) -> None:
    later = WallClock(machine.wall_ns + DAY)
    assert later.confidence() is Clock.NOT_TRUSTED
    machine.wait(2 * 86_400)
    assert later.confidence() is Clock.FREE_RUNNING


def test_a_plausible_clock_that_nobody_disciplines_runs_free_and_vouches_for_nothing(machine: Machine) -> None:
    made = WallClock()
    assert made.confidence() is Clock.FREE_RUNNING
    assert made.floor_ns == BUILT_NS


def test_only_a_disciplined_clock_raises_the_floor(machine: Machine) -> None:
    made = WallClock()
    machine.synced = True
    assert made.confidence() is Clock.SYNCED
    vouched_ns = machine.wall_ns
    machine.synced, machine.wall_ns = False, vouched_ns - SECOND
    assert made.confidence() is Clock.NOT_TRUSTED
    assert made.floor_ns == vouched_ns


def test_a_step_is_told_once_with_its_size(machine: Machine) -> None:
    made = WallClock()
    machine.wait(100)
    assert made.step_ns() == 0
    machine.wall_ns -= 3_600 * SECOND
    assert made.step_ns() == -3_600 * SECOND
    assert made.step_ns() == 0


def test_a_slew_is_no_step(machine: Machine) -> None:
    made = WallClock()
    for _ in range(10):
        machine.wait(1)
        machine.wall_ns += SECOND
        assert made.step_ns() == 0


def test_the_floor_is_never_before_this_program_was_made() -> None:
    assert WallClock(0).floor_ns == BUILT_NS


def test_the_kernel_s_own_word_is_understood() -> None:
    assert clock._kernel_synced() in (True, False)
    assert abs(WallClock().now_ns() - time.time_ns()) < SECOND
    assert WallClock().monotonic_ns() <= time.monotonic_ns()


def test_jumps_since_the_start_add_up(machine: Machine) -> None:
    told = WallClock()
    machine.wall_ns += 3_600 * SECOND
    told.step_ns()
    machine.wall_ns -= 600 * SECOND
    told.step_ns()
    told.step_ns()
    assert told.stepped_ns == 3_000 * SECOND
