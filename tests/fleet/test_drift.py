from __future__ import annotations

from typing import Any

import pytest

from fleet import drift
from fleet.connectivity import Mode
from fleet.document import Range, Stamped, span
from fleet.drift import Difference, Standing, Verdict
from fleet.events import Clock
from fleet.present import Present, Told

MORNING, NOON, EVENING = 1_000, 2_000, 3_000


def said(value: Any, at_ns: int = MORNING) -> Stamped:
    return Stamped(value, "Alice", "01HARBOR", 1, at_ns, at_ns, Clock.SYNCED)


def kestrel(version: str | None = "1.4.1", mode: Mode | None = Mode.LIVE, **values: float) -> Present:
    told = {metric: Told(value, EVENING, "syslog") for metric, value in values.items()}
    return Present("01KESTREL", "kestrel", mode=mode, since_ns=NOON, seen_ns=EVENING, version=version, values=told)


def judged(bundle: dict[str, Any], own: dict[str, Any], found: Present, *, heard: bool = True, **more: Any) -> Verdict:
    wanted = drift.wants(
        drift.said({name: said(value) for name, value in bundle.items()}),
        "scouts",
        drift.said({name: said(value, NOON) for name, value in own.items()}),
    )
    return drift.judge(wanted, found, heard=heard, **more)


def line(verdict: Verdict, pointer: str) -> Difference:
    return next(one for one in verdict.lines if one.pointer == pointer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10..80", Range(10, 80)),
        ("..80", Range(None, 80)),
        ("-5.5 ..", Range(-5.5, None)),
        (" 0..0 ", Range(0, 0)),
    ],
)
def test_a_limit_is_read(text: str, found: Range) -> None:
    assert span(text) == found


@pytest.mark.parametrize(
    "text", ["", "..", "80", "80..10", "a..b", "1e3..2e3", "nan..", "1...2", "٣..٤", "9" * 99 + ".."]
)
def test_a_limit_that_cannot_be_read_says_so_in_a_sentence(text: str) -> None:
    assert isinstance(span(text), str)


def test_a_difference_says_what_is_wanted_found_since_when_and_who_wants_it() -> None:
    one = line(judged({"target_version": "1.4.2"}, {}, kestrel(), version_ns=NOON), "/actual/reported_version")
    assert (one.wanted, one.found, one.source, one.standing) == ("1.4.2", "1.4.1", "scouts", Standing.OUT)
    assert (one.wanted_ns, one.since_ns, one.found_at_ns) == (MORNING, NOON, EVENING)


def test_it_differs_since_the_later_of_the_wish_and_the_value() -> None:
    early = judged({}, {"target_version": "1.4.2"}, kestrel(), version_ns=MORNING)
    assert early.lines[0].since_ns == NOON
    unknown = judged({}, {"target_version": "1.4.2"}, kestrel())
    assert unknown.lines[0].since_ns is None


def test_the_nodes_own_word_goes_before_the_bundles() -> None:
    verdict = judged(
        {"target_version": "1.4.2", "constraints/temp_c": "..60"}, {"target_version": "1.4.1"}, kestrel(temp_c=41)
    )
    assert {one.pointer: one.source for one in verdict.lines} == {
        "/actual/reported_version": drift.THIS_NODE,
        "/values/temp_c": "scouts",
    }
    assert (verdict.standing, verdict.score) == (Standing.IN_LINE, 0)


def test_a_node_may_be_excused_from_being_online() -> None:
    silent = kestrel(mode=Mode.DISCONNECTED)
    assert judged({"requires_online": True}, {}, silent).standing is Standing.OUT
    assert judged({"requires_online": True}, {"requires_online": False}, silent) == drift.FREE


def test_every_kind_of_want_is_judged() -> None:
    wanted = {"target_version": "1.4.1", "requires_online": True, "min_battery_pct": 20, "constraints/rtt_ms": "..200"}
    verdict = judged(wanted, {}, kestrel(battery_pct=14.0, rtt_ms=200.0))
    assert {one.pointer: one.standing for one in verdict.lines} == {
        "/values/battery_pct": Standing.OUT,
        "/actual/reported_version": Standing.IN_LINE,
        "/connectivity/mode": Standing.IN_LINE,
        "/values/rtt_ms": Standing.IN_LINE,
    }
    assert verdict.score == round(100 * 1 / 7)
    assert drift.reason(verdict.out[0]) == "Battery under 20 %"


def test_the_score_is_the_weight_of_what_is_not_met_of_what_is_known() -> None:
    wanted = {"target_version": "1.4.2", "constraints/temp_c": "..60", "constraints/rtt_ms": "..200"}
    assert judged(wanted, {}, kestrel(temp_c=41)).score == 75  # 3 of 4; the round trip is not known
    assert judged(wanted, {}, kestrel("1.4.2", temp_c=41, rtt_ms=5)).score == 0
    assert judged(wanted, {}, kestrel(temp_c=99, rtt_ms=999)).score == 100


def test_what_was_never_told_is_unknown_and_neither_in_line_nor_out() -> None:
    verdict = judged({"target_version": "1.4.2", "min_battery_pct": 20}, {}, kestrel(None))
    assert (verdict.standing, verdict.score, verdict.out) == (Standing.UNKNOWN, None, ())


def test_nothing_is_known_of_a_node_whose_site_is_not_heard() -> None:
    verdict = judged({"target_version": "1.4.1"}, {}, kestrel(), heard=False)
    assert (verdict.standing, verdict.score) == (Standing.UNKNOWN, None)
    assert (verdict.lines[0].found, verdict.lines[0].words) == ("1.4.1", "its site is not heard")


def test_a_silent_nodes_last_reading_is_not_its_battery_now() -> None:
    assert (
        judged({"min_battery_pct": 20}, {}, kestrel(mode=Mode.DISCONNECTED, battery_pct=90)).standing
        is Standing.UNKNOWN
    )


def test_a_bundle_that_is_not_here_yet_is_unknown() -> None:
    verdict = drift.judge((), kestrel(), heard=True, missing="01BUNDLE")
    assert (verdict.standing, verdict.lines[0].wanted) == (Standing.UNKNOWN, "01BUNDLE")


def test_an_old_limit_that_cannot_be_read_is_a_difference_with_a_sentence() -> None:
    verdict = judged({"constraints/temp_c": "cool"}, {}, kestrel(temp_c=41))
    assert verdict.standing is Standing.OUT
    assert "is no range; write 10..80" in verdict.lines[0].words
    assert "Temperature: 'cool' is no range" in drift.reason(verdict.lines[0])


def test_what_was_out_of_spec_at_the_look_before_is_so_since_then() -> None:
    first = judged({"min_battery_pct": 20}, {}, kestrel(battery_pct=14))
    told = kestrel()
    later = Present("01KESTREL", "kestrel", mode=told.mode, seen_ns=9_000, values={"battery_pct": Told(12.0, 9_000)})
    again = judged({"min_battery_pct": 20}, {}, later, former=first.lines)
    assert (again.lines[0].since_ns, again.lines[0].found_at_ns) == (EVENING, 9_000)
    assert judged({"min_battery_pct": 30}, {}, later, former=first.lines).lines[0].since_ns == 9_000


def test_a_node_of_which_nothing_is_wanted_stands_in_no_count() -> None:
    assert judged({"name": "scouts", "notes": "x"}, {"tags/drone": True}, kestrel()) == drift.FREE


@pytest.mark.parametrize(
    ("limit", "wanted", "reason"),
    [
        ("20..", "at least 20 °C", "Temperature under 20 °C"),
        ("..0", "at most 0 °C", "Temperature over 0 °C"),
        ("0..5.5", "0 to 5.5 °C", "Temperature outside 0 to 5.5 °C"),
    ],
)
def test_a_limit_is_told_as_people_say_it(limit: str, wanted: str, reason: str) -> None:
    temp_c = 10.0 if limit.startswith("20") else 99.0
    (one,) = judged({"constraints/temp_c": limit}, {}, kestrel(temp_c=temp_c)).out
    assert (drift.wanted(one), drift.reason(one)) == (wanted, reason)
