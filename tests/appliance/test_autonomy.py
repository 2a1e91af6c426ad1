"""A lease at the site: renewed by a word of the hub, worn down by the steady clock, and not made longer by a restart."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest

from appliance.authority import Lease
from fleet.events import Clock
from fleet.limits import DAY, MINUTE, SECOND

NOON_NS = 1_795_260_000 * SECOND


class Clocks:
    """The wall clock and the steady clock of a box."""

    def __init__(self) -> None:
        self.wall_ns, self.steady_ns, self.trust = NOON_NS, 5 * MINUTE, Clock.FREE_RUNNING

    def now_ns(self) -> int:
        return self.wall_ns

    def confidence(self) -> Clock:
        return self.trust

    def pass_by(self, ns: int) -> None:
        self.wall_ns += ns
        self.steady_ns += ns

    def lease(self) -> Lease:
        return Lease(self, lambda: self.steady_ns)  # type: ignore[arg-type]


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:")) as held:
        held.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        yield held


def again(clocks: Clocks, lease: Lease, db: sqlite3.Connection, off_ns: int) -> Lease:
    """The box is off for so long, and the steady clock begins anew."""
    lease.keep(db)
    clocks.wall_ns += off_ns
    clocks.steady_ns = SECOND
    fresh = clocks.lease()
    fresh.load(db)
    return fresh


def test_a_word_of_the_hub_renews_it(clocks: Clocks) -> None:
    lease = clocks.lease()
    clocks.pass_by(3 * MINUTE)
    assert lease.silent_ns == 3 * MINUTE
    lease.renew()
    assert lease.silent_ns == 0


def test_a_wall_clock_that_jumps_changes_nothing(clocks: Clocks) -> None:
    lease = clocks.lease()
    clocks.wall_ns += 3_650 * DAY
    assert lease.silent_ns == 0


def test_what_was_used_up_is_used_up_after_a_restart(clocks: Clocks, db: sqlite3.Connection) -> None:
    lease = clocks.lease()
    clocks.pass_by(3 * MINUTE)
    assert again(clocks, lease, db, 2 * MINUTE).silent_ns == 5 * MINUTE


@pytest.mark.parametrize("jump_ns", [-365 * DAY, 365 * DAY])
def test_a_clock_that_is_not_to_be_trusted_is_not_asked_how_long_the_box_was_off(
    clocks: Clocks, db: sqlite3.Connection, jump_ns: int
) -> None:
    lease = clocks.lease()
    clocks.pass_by(3 * MINUTE)
    clocks.trust = Clock.NOT_TRUSTED
    assert again(clocks, lease, db, jump_ns).silent_ns == 3 * MINUTE + 10 * SECOND


def test_no_row_of_restarts_makes_a_lease_last_for_ever(clocks: Clocks, db: sqlite3.Connection) -> None:
    lease = clocks.lease()
    clocks.trust = Clock.NOT_TRUSTED
    for _ in range(60):
        lease = again(clocks, lease, db, 0)
        assert lease.is_due()
    assert lease.silent_ns >= 10 * MINUTE


def test_it_is_written_down_now_and_then_only(clocks: Clocks) -> None:
    lease = clocks.lease()
    assert not lease.is_due()
    clocks.pass_by(11 * SECOND)
    assert lease.is_due()
