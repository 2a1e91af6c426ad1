"""The evaluator: each story is a node's day in a few lines; then, for any day at all, what never happens."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import evaluator
from appliance.evaluator import MUTE, SLOW, Bounds, Standing
from fleet.connectivity import TABLE, Mode
from fleet.events import (
    Body,
    HealthChanged,
    HeartbeatMissed,
    HeartbeatResumed,
    NodeDegraded,
    NodeHeard,
    NodeQuiet,
    NodeRecovered,
    VersionChanged,
)
from fleet.limits import SECOND
from fleet.reading import Health, Reading

BOUNDS = Bounds(silence_ns_max=15 * SECOND, heartbeat_ns_max=10 * SECOND, returning_ns=2 * SECOND)
START = 1_795_219_200 * SECOND


class Word(NamedTuple):
    """The node says something, at `s` seconds."""

    s: float
    reading: Reading = Reading()
    record: int = 0  # 0: the next one


class Echo(NamedTuple):
    s: float
    slow: bool = False


class NoEcho(NamedTuple):
    s: float
    slow: bool = False


class Tick(NamedTuple):
    s: float


Step = Word | Echo | NoEcho | Tick


def tell(*steps: Step, standing: Standing | None = None) -> list[Body]:
    standing = Standing() if standing is None else standing
    turns: list[Body] = []
    for step in steps:
        turns += apply(standing, step)
    return turns


def apply(standing: Standing, step: Step) -> list[Body]:
    at_ns = START + int(step.s * SECOND)
    match step:
        case Word(_, reading, record):
            return evaluator.spoke(standing, at_ns, record or standing.record + 1, "syslog", reading, BOUNDS)
        case Echo(_, slow):
            return evaluator.echoed(standing, at_ns, slow, 3.0, 0.0, BOUNDS)
        case NoEcho(_, slow):
            return evaluator.unanswered(standing, at_ns, slow, None, 100.0)
        case Tick():
            return evaluator.tick(standing, at_ns, BOUNDS)


BEAT = Reading(heartbeat=True)
QUIET = (Word(0), Tick(16))
FAILED, OK = Reading(health=Health.FAILED, text="ESC 3 lost"), Reading(health=Health.OK)

STORIES: dict[str, tuple[tuple[Step, ...], list[str]]] = {
    "a first word makes a node live": ((Word(0),), ["node.heard LIVE"]),
    "an echo alone makes a node live too": ((Echo(0),), ["node.heard LIVE"]),
    "a node that was never heard does not go quiet": ((Tick(0), Tick(100), NoEcho(200)), []),
    "silence of both makes it quiet, once": ((*QUIET, Tick(17), Tick(100)), ["node.heard LIVE", "node.quiet"]),
    "silence exactly at the bound is no silence yet": ((Word(0), Tick(15)), ["node.heard LIVE"]),
    "one way in is enough: it answers ping": (
        (Echo(0), *(Echo(s) for s in range(2, 40, 2)), Tick(40)),
        ["node.heard LIVE"],
    ),
    "one way in is enough: it sends records, ping is blocked": (
        (Word(0), NoEcho(1), Word(10), NoEcho(11), Word(20), Tick(21)),
        ["node.heard LIVE"],
    ),
    "it answers ping and sends nothing: mute": (
        (Word(0), Echo(10), Tick(10), Echo(16), Tick(16), Echo(20), Tick(20)),
        ["node.heard LIVE", f"node.degraded DELAYED {MUTE}"],
    ),
    "a mute node that speaks is live at once": (
        (Word(0), Echo(16), Tick(16), Word(17)),
        ["node.heard LIVE", f"node.degraded DELAYED {MUTE}", "node.recovered LIVE"],
    ),
    "a mute node that stops answering goes quiet": (
        (Word(0), Echo(16), Tick(16), Tick(32)),
        ["node.heard LIVE", f"node.degraded DELAYED {MUTE}", "node.quiet"],
    ),
    "a slow link degrades and recovers": (
        (Echo(0), Echo(2, slow=True), Echo(4, slow=True), Echo(6)),
        ["node.heard LIVE", f"node.degraded DELAYED {SLOW}", "node.recovered LIVE"],
    ),
    "a slow link that goes dark does not recover on the way": (
        (Word(0), Echo(2, slow=True), NoEcho(4, slow=True), NoEcho(6), NoEcho(8), Tick(18)),
        ["node.heard LIVE", f"node.degraded DELAYED {SLOW}", "node.quiet"],
    ),
    "lost echoes on a lossy link keep it degraded": (
        (Word(0), NoEcho(1, slow=True), Word(2), NoEcho(3, slow=True), Tick(4)),
        ["node.heard LIVE", f"node.degraded DELAYED {SLOW}"],
    ),
    "one word does not make a return": ((*QUIET, Word(20)), ["node.heard LIVE", "node.quiet", "node.heard RETURNING"]),
    "heard steadily it has returned": (
        (*QUIET, Word(20), Word(21), Word(22)),
        ["node.heard LIVE", "node.quiet", "node.heard RETURNING", "node.recovered LIVE"],
    ),
    "a return that breaks off is a silence again": (
        (*QUIET, Word(20), Tick(36)),
        ["node.heard LIVE", "node.quiet", "node.heard RETURNING", "node.quiet"],
    ),
    "one that used to speak has not returned by ping alone": (
        (*QUIET, Echo(20), Echo(22), Echo(24)),
        ["node.heard LIVE", "node.quiet", "node.heard RETURNING"],
    ),
    "one that never spoke returns by ping": (
        (Echo(0), Tick(16), Echo(20), Echo(22)),
        ["node.heard LIVE", "node.quiet", "node.heard RETURNING", "node.recovered LIVE"],
    ),
    "back on a slow link it is live, and late": (
        (*QUIET, Echo(20, slow=True), Word(21), Word(22)),
        [
            "node.heard LIVE",
            "node.quiet",
            "node.heard RETURNING",
            "node.recovered LIVE",
            f"node.degraded DELAYED {SLOW}",
        ],
    ),
    "a heartbeat that stops is missed once": (
        (Word(0, BEAT), Word(6), Tick(11), Word(12), Tick(13)),
        ["node.heard LIVE", "node.heartbeat_missed"],
    ),
    "and resumes": (
        (Word(0, BEAT), Word(6), Tick(11), Word(12, BEAT), Tick(13)),
        ["node.heard LIVE", "node.heartbeat_missed", "node.heartbeat_resumed"],
    ),
    "without a first heartbeat none can be missed": ((Word(0), Word(11), Tick(12)), ["node.heard LIVE"]),
    "of a silent node only the silence is told": ((Word(0, BEAT), Tick(16)), ["node.heard LIVE", "node.quiet"]),
    "health turns, not readings": (
        (Word(0, OK), Word(1, OK), Word(2, FAILED), Word(3, FAILED), Word(4, OK), Word(5)),
        [
            "node.heard LIVE",
            "node.health_changed UNKNOWN>OK",
            "node.health_changed OK>FAILED",
            "node.health_changed FAILED>OK",
        ],
    ),
    "version turns, not readings": (
        (Word(0, Reading(version="1.4")), Word(1, Reading(version="1.4")), Word(2, Reading(version="1.5")), Word(3)),
        ["node.heard LIVE", "node.version_changed >1.4", "node.version_changed 1.4>1.5"],
    ),
}


def in_short(turn: Body) -> str:
    match turn:
        case NodeHeard(mode=mode):
            return f"{turn.KIND} {mode}"
        case NodeDegraded(mode=mode, reason=reason):
            return f"{turn.KIND} {mode} {reason}"
        case NodeRecovered(mode=mode):
            return f"{turn.KIND} {mode}"
        case HealthChanged(former=former, health=now) | VersionChanged(former=former, version=now):
            return f"{turn.KIND} {former}>{now}"
        case _:
            return turn.KIND


@pytest.mark.parametrize("story", STORIES)
def test_each_turn_is_told_once(story: str) -> None:
    steps, told = STORIES[story]
    assert [in_short(turn) for turn in tell(*steps)] == told


def test_a_turn_carries_its_evidence() -> None:
    assert tell(Word(0), Tick(16)) == [
        NodeHeard(Mode.LIVE, "", "syslog", 1, 0),
        NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, START, BOUNDS.silence_ns_max),
    ]
    assert tell(*QUIET, Word(20))[-1] == NodeHeard(Mode.RETURNING, Mode.DISCONNECTED, "syslog", 2, 20 * SECOND)
    assert tell(Echo(0), Echo(2, slow=True))[-1] == NodeDegraded(Mode.DELAYED, Mode.LIVE, SLOW, 3.0, 0.0)
    beats = tell(Word(0, BEAT), Word(6), Tick(11), Word(12, BEAT))
    assert beats[1:] == [HeartbeatMissed(START, BOUNDS.heartbeat_ns_max), HeartbeatResumed(12 * SECOND, 3)]
    assert tell(Word(0, FAILED))[1] == HealthChanged("UNKNOWN", "FAILED", "ESC 3 lost", 1)


def test_a_recovery_says_what_came_back() -> None:
    mute = tell(Word(0), Echo(16), Tick(16), Word(17))[-1]
    slow = tell(Echo(0), Echo(2, slow=True), Echo(4))[-1]
    assert isinstance(mute, NodeRecovered)
    assert isinstance(slow, NodeRecovered)
    assert mute.reason == "it speaks again"
    assert slow.reason == "link is well again"


def test_ten_thousand_readings_that_change_nothing_make_no_event() -> None:
    standing = Standing()
    same = Reading(health=Health.OK, version="1.4", heartbeat=True, metrics={"battery_pct": 80.0})
    first = tell(Word(0, same), standing=standing)
    assert len(first) == 3
    steps: list[Step] = []
    for number in range(1, 10_001):
        steps += [Word(number / 10, same), Echo(number / 10), Tick(number / 10)]
    assert tell(*steps, standing=standing) == []


def test_a_record_is_judged_once() -> None:
    standing = Standing()
    story = [Word(number / 2, FAILED if number % 3 else OK, record=number + 1) for number in range(20)]
    assert tell(*story, standing=standing)
    assert tell(*story, standing=standing) == []


def test_an_older_time_does_not_make_a_node_less_alive() -> None:
    standing = Standing()
    tell(Word(20, BEAT), Word(2, BEAT), standing=standing)  # read back from the disk, behind what came meanwhile
    assert tell(Tick(21), standing=standing) == []


# -- for any day at all -------------------------------------------------------------------------------------------

READINGS = st.builds(
    Reading,
    heartbeat=st.booleans(),
    health=st.none() | st.sampled_from(Health),
    version=st.none() | st.sampled_from(["1.4", "1.5", ""]),
)
SECONDS = st.floats(0, 40, allow_nan=False)
RECORDS = st.integers(0, 30)
STEPS = st.lists(
    st.one_of(
        st.builds(Word, SECONDS, READINGS, RECORDS),
        st.builds(Echo, SECONDS, st.booleans()),
        st.builds(NoEcho, SECONDS, st.booleans()),
        st.builds(Tick, SECONDS),
    ),
    max_size=40,
)
_MOVES = {(former, mode) for (former, _), mode in TABLE.items()}


@given(STEPS, st.booleans())
@settings(max_examples=300)
def test_modes_move_along_the_table_only(steps: list[Step], in_order: bool) -> None:
    standing = Standing()
    mode: Mode | None = None
    for step in sorted(steps, key=lambda one: one.s) if in_order else steps:
        for turn in apply(standing, step):
            moved = getattr(turn, "mode", None)
            if moved is None:
                continue
            assert turn.former == (mode or ""), "a turn begins where the last one ended"  # type: ignore[attr-defined]
            assert (mode, Mode(moved)) in _MOVES
            mode = Mode(moved)
        assert standing.mode is mode, "no mode changes without an event"


@given(STEPS)
@settings(max_examples=200)
def test_replaying_what_was_judged_gives_nothing(steps: list[Step]) -> None:
    standing = Standing()
    for step in steps:
        apply(standing, step)
    words = [step._replace(record=min(step.record, standing.record) or 1) for step in steps if isinstance(step, Word)]
    if standing.record:
        assert tell(*words, standing=standing) == []


@given(STEPS)
@settings(max_examples=200)
def test_no_turn_repeats_the_one_before_it(steps: list[Step]) -> None:
    """Health, version and heartbeat turn to something else, never to what they are; durations are never negative."""
    standing = Standing()
    for step in sorted(steps, key=lambda one: one.s):
        missing = standing.heartbeat_missing
        for turn in apply(standing, step):
            match turn:
                case HealthChanged(former=former, health=now) | VersionChanged(former=former, version=now):
                    assert former != now
                case HeartbeatMissed():
                    assert not missing
                case HeartbeatResumed(missing_ns=missing_ns):
                    assert missing
                    assert missing_ns >= 0
                case NodeHeard(silent_ns=silent_ns):
                    assert silent_ns >= 0
