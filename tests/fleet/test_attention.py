"""What needs a person: a table and the time; what people said of it; and what stands in the queue."""

from __future__ import annotations

import msgspec
import pytest

from fleet import attention
from fleet.attention import LATER, MINE, NOBODY, SEEN, WEIGHT, Cause, Handled, Item
from fleet.document import Stamped
from fleet.events import Clock
from fleet.limits import HOUR, MINUTE, SECOND

NOW = 1_795_000_000 * SECOND


def item(cause: Cause, subject: str = "01DRONE", since_ns: int = NOW - MINUTE, **more: object) -> Item:
    made = Item(cause, "node", subject, "kestrel-1", "is silent", since_ns)
    return made._replace(**more)


def said(value: str | None, wall_ns: int = NOW, who: str = "Alice") -> Stamped:
    return Stamped(value, who, "01ALDER", 1, 7, wall_ns, Clock.SYNCED)


def test_every_cause_has_a_weight_and_no_wait_makes_it_more_than_a_hundred() -> None:
    assert set(WEIGHT) == set(Cause)
    assert max(attention.score(cause, NOW - 10_000 * HOUR, NOW) for cause in Cause) <= 100


def test_what_waits_longer_comes_before_its_like_and_not_before_what_is_worse() -> None:
    old, new = item(Cause.DRIFT, "a", NOW - 100 * HOUR), item(Cause.DRIFT, "b")
    worse = item(Cause.QUARANTINE, "c")
    assert attention.queue([new, old, worse], NOW) == [worse, old, new]


def test_a_clock_that_runs_ahead_is_no_bonus() -> None:
    assert attention.score(Cause.DRIFT, NOW + HOUR, NOW) == WEIGHT[Cause.DRIFT]


def test_what_somebody_has_seen_rests_until_it_begins_anew() -> None:
    seen = NOBODY._replace(seen_by="Alice", seen_ns=NOW - HOUR)
    rests = item(Cause.SILENT, since_ns=NOW - 2 * HOUR, handled=seen)
    anew = item(Cause.SILENT, since_ns=NOW - MINUTE, handled=seen)
    assert attention.queue([rests], NOW) == []
    assert attention.queue([anew], NOW) == [anew]


def test_a_snooze_ends_by_itself_and_hides_one_cause_only() -> None:
    later = NOBODY._replace(later_by="Bob", later_until_ns=NOW + HOUR)
    drift, battery = item(Cause.DRIFT, handled=later), item(Cause.BATTERY)
    assert attention.queue([drift, battery], NOW) == [battery]
    assert attention.queue([drift, battery], NOW + HOUR) == [battery, drift]


def test_what_people_said_is_read_from_the_document() -> None:
    values = {
        SEEN + "silent": said("its radio is off"),
        LATER + "drift": said("2026-11-22T06:00:00+00:00", who="Bob"),
        MINE + "drift": said("Mallory", who="Bob"),
        SEEN + "a cause of a newer version": said("seen"),
        SEEN + "battery": said(None),
        LATER + "debt": said("tomorrow"),
        "name": said("kestrel-1"),
    }
    found = attention.handled(values)
    assert found[Cause.SILENT] == Handled(seen_by="Alice", seen_ns=NOW, remark="its radio is off")
    assert found[Cause.DRIFT].later_until_ns == 1_795_327_200 * SECOND
    assert (found[Cause.DRIFT].assigned, found[Cause.DRIFT].assigned_by) == ("Mallory", "Bob")
    assert found[Cause.DEBT].later_until_ns is None
    assert set(found) == {Cause.SILENT, Cause.DRIFT, Cause.DEBT}


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-11-22", "2026-11-22T06:00:00", "2026-13-01T00:00:00Z", "\x00"])
def test_a_time_without_its_offset_is_no_moment(text: str) -> None:
    assert attention.moment(text) is None


def test_a_low_battery_that_was_seen_is_not_told_again_with_each_reading() -> None:
    seen = NOBODY._replace(seen_by="Alice", seen_ns=NOW)
    low = item(Cause.BATTERY, since_ns=NOW + MINUTE, handled=seen)
    assert attention.queue([low], NOW + MINUTE) == []
    assert attention.queue([low], NOW + HOUR) == [low]


def test_an_item_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(item(Cause.FORK)), type=Item) == item(Cause.FORK)
