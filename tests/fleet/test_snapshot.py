"""The snapshot of a node: the latest of everything, once per record, rebuilt from any point."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet import snapshot
from fleet.reading import Health, Position, Reading
from fleet.snapshot import Snapshot, fold

SOURCE = "syslog/10.0.0.7/drone-01"
readings = st.builds(
    Reading,
    metrics=st.dictionaries(st.sampled_from(["cpu", "rtt_ms"]), st.floats(0, 100), max_size=2),
    health=st.sampled_from([None, *Health]),
    version=st.sampled_from([None, "1.0", "2.0"]),
    heartbeat=st.booleans(),
    text=st.sampled_from(["", "hello"]),
)


def folded(said: list[Reading], into: Snapshot | None = None) -> Snapshot:
    held = into or Snapshot()
    for record, reading in enumerate(said, 1):
        fold(held, record, record * 10, SOURCE, reading)
    return held


@given(st.lists(readings, max_size=12), st.integers(0, 12))
def test_folding_again_from_any_earlier_point_changes_nothing(said: list[Reading], upto: int) -> None:
    once = folded(said)
    assert folded(said, folded(said)) == once
    assert folded(said, folded(said[:upto])) == once


def test_the_latest_value_stands_with_when_and_from_which_record() -> None:
    held = folded([Reading(metrics={"cpu": 1.0, "rtt_ms": 5.0}), Reading(metrics={"cpu": 2.0})])
    assert (held.values["cpu"].value, held.values["cpu"].record, held.values["cpu"].at_ns) == (2.0, 2, 20)
    assert (held.values["rtt_ms"].record, held.values["rtt_ms"].source) == (1, SOURCE)
    assert (held.seen_ns, held.records) == (20, 2)


def test_what_a_record_does_not_say_stays_as_it_was() -> None:
    where = Position(60.1, 24.9)
    held = folded([Reading(position=where, health=Health.OK, version="1.0", heartbeat=True, armed=True), Reading()])
    assert (held.position, held.health, held.version, held.armed) == (where, Health.OK, "1.0", True)
    assert (held.position_ns, held.health_ns, held.heartbeat_ns, held.seen_ns) == (10, 10, 10, 20)


def test_a_node_that_said_nothing_is_unknown() -> None:
    assert Snapshot().health is Health.UNKNOWN
    assert Snapshot().seen_ns is None


def test_a_long_text_is_cut() -> None:
    assert len(folded([Reading(text="x" * 10_000)]).text or "") == snapshot.TEXT_CHARS_MAX


def test_a_devices_clock_is_compared_with_ours() -> None:
    assert folded([Reading(claimed_ns=4)]).clock_skew_ns == -6
