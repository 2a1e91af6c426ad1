"""What is a turn: at most one track of one subject, and the same from an event's bytes as from the event."""

from __future__ import annotations

import pytest

from fleet import events, past
from fleet.connectivity import Mode
from fleet.events import Body, Clock, Recorded, Unknown
from fleet.limits import MS, SECOND
from fleet.past import Sifted, Track

NOW_NS = 1_795_253_400 * SECOND
KESTREL = "01KESTREL00000000000000001"


class Numbers(dict[str, int]):
    def __missing__(self, text: str) -> int:
        self[text] = len(self) + 1
        return self[text]


NUMBERS = Numbers()


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
    sifted = Sifted()
    row = [] if turn is None else [(int(turn[0]), NUMBERS[KESTREL], stamp, NUMBERS["A"], 1, 1, NUMBERS[turn[1]], 1, 7)]
    assert sifted.turns([(7, 3, 1, raw)], {3: ("A", 1)}, NUMBERS) == row
    assert sifted.told == {"A": stamp}
    assert sifted.first == [past.STAMP_MAX, stamp if row else past.STAMP_MAX, past.STAMP_MAX]
    assert sifted.turns([(7, 3, 2, raw)], {3: ("A", 1)}, NUMBERS) == [], "it is not the event of that number"


def test_what_is_no_event_or_of_an_unknown_kind_is_no_turn() -> None:
    assert past.turn(fact(Unknown(b"\x90"), "node.heard")) is None
    assert past.turn(fact(Unknown(b"\x90"), "node.teleported")) is None
    for raw in (b"", b"\xc1", b"\x90", b"\x98" + b"\x00" * 8):
        sifted = Sifted()
        assert sifted.turns([(7, 3, 1, raw)], {3: ("A", 1)}, NUMBERS) == []
        assert sifted.told == {"A": 0}


def test_events_of_the_kinds_that_are_asked_for_are_kept_whatever_they_turn() -> None:
    bodies = [body for body, _ in TURNS]
    staged = [(KESTREL, body, events.encode_body(body)) for body in bodies]
    raws = events.encode_all(1, 5, NOW_NS, Clock.SYNCED, staged)
    rows = [(10 + seq, 3, seq, raw) for seq, raw in enumerate(raws, 1)]
    sifted, plain = Sifted({"lifecycle.moved"}), Sifted()
    assert sifted.turns(rows, {3: ("A", 1)}, NUMBERS) == plain.turns(rows, {3: ("A", 1)}, NUMBERS)
    assert [one.body for one in sifted.kept] == [body for body in bodies if isinstance(body, events.LifecycleMoved)]
    assert all(one.position == 10 + one.seq for one in sifted.kept)
    assert not plain.kept


def test_a_moment_holds_everything_up_to_the_end_of_its_millisecond() -> None:
    stamp = past.stamp_at(NOW_NS)
    assert past.moment_of(stamp) == NOW_NS
    assert past.moment_of(stamp + 1) == NOW_NS + MS
    assert past.stamp_at(NOW_NS + MS - 1) == stamp
