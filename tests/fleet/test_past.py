"""What is a turn: at most one track of one subject, and the same from an event's bytes as from the event."""

from __future__ import annotations

import pytest

from fleet import events, past
from fleet.connectivity import Mode
from fleet.events import Body, Clock, Recorded, Unknown
from fleet.limits import MS, SECOND
from fleet.past import Track

NOW_NS = 1_795_253_400 * SECOND
KESTREL = "01KESTREL00000000000000001"


def fact(body: Body | Unknown, kind: str = "") -> Recorded:
    found = kind or (body.KIND if isinstance(body, Body) else "")
    return Recorded(1, "A", 1, 1, past.stamp_at(NOW_NS), NOW_NS, Clock.SYNCED, found, 1, KESTREL, body)


TURNS: list[tuple[Body, tuple[Track, str] | None]] = [
    (events.NodeHeard(Mode.LIVE, "", "syslog"), (Track.CONNECTIVITY, "LIVE")),
    (events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15), (Track.CONNECTIVITY, "DISCONNECTED")),
    (events.NodeDegraded("SOMETHING_NEWER", "", "loss"), None),
    (events.HeartbeatMissed(1, 5), (Track.HEARTBEAT, past.MISSING)),
    (events.HeartbeatResumed(9), (Track.HEARTBEAT, past.RESUMED)),
    (events.LifecycleMoved("PROVISIONING", "ENROLLED", "why"), (Track.LIFECYCLE, "ENROLLED")),
    (events.LifecycleMoved("RETIRED", "ACTIVE", "no edge allows it"), None),
    (events.LifecycleMoved("NOWHERE", "ACTIVE", "no place"), None),
    (events.HealthChanged("OK", "FAILED", "it says so"), (Track.HEALTH, "FAILED")),
    (events.VersionChanged("1.4.1", "1.4.2"), (Track.VERSION, "1.4.2")),
    (events.NodeAdopted("kestrel-1", "EDGE", "s", "Alice"), (Track.ADOPTED, "kestrel-1")),
    (events.LinkTurned("harbor", "RETURNING", "REPLAYING", "welcome"), (Track.LINK, "REPLAYING")),
    (events.ClockStepped(5, 0), None),
]


@pytest.mark.parametrize(("body", "turn"), TURNS)
def test_an_event_turns_at_most_one_track(body: Body, turn: tuple[Track, str] | None) -> None:
    assert past.turn(fact(body)) == turn


@pytest.mark.parametrize(("body", "turn"), TURNS)
def test_bytes_say_the_same_as_the_event(body: Body, turn: tuple[Track, str] | None) -> None:
    stamp = past.stamp_at(NOW_NS)
    (raw,) = events.encode_all(1, stamp, NOW_NS, Clock.FREE_RUNNING, [(KESTREL, body, events.encode_body(body))])
    line = (0, "", stamp, "A", 1, 1, "", 1, 7) if turn is None else (turn[0], KESTREL, stamp, "A", 1, 1, turn[1], 1, 7)
    assert past.lines([(7, 3, 1, raw)], {3: ("A", 1)}) == [line]
    ((track, *_),) = past.lines([(7, 3, 2, raw)], {3: ("A", 1)})
    assert track == 0, "it is not the event of that number"


def test_what_is_no_event_or_of_an_unknown_kind_is_no_turn() -> None:
    assert past.turn(fact(Unknown(b"\x90"), "node.heard")) is None
    assert past.turn(fact(Unknown(b"\x90"), "node.teleported")) is None
    for raw in (b"", b"\xc1", b"\x90", b"\x98" + b"\x00" * 8):
        assert past.lines([(7, 3, 1, raw)], {3: ("A", 1)}) == [(0, "", 0, "A", 1, 1, "", 0, 7)]


def test_a_moment_holds_everything_up_to_the_end_of_its_millisecond() -> None:
    stamp = past.stamp_at(NOW_NS)
    assert past.moment_of(stamp) == NOW_NS
    assert past.moment_of(stamp + 1) == NOW_NS + MS
    assert past.stamp_at(NOW_NS + MS - 1) == stamp
