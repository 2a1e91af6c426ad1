"""What every projection promises: the same facts in any order, in any batches, with repeats, give the same state; the
old state stays as it was; a checkpoint is the state; a kind nobody knows changes nothing. The states of two sets of facts
join into the state of both, and what a projection does not name cannot change it.

A new projection is entered in PROJECTIONS; one that is not is found.
"""

from __future__ import annotations

import copy
import pkgutil
import random
from types import ModuleType

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet import events, past, projections
from fleet.authority import Cause, Expiry, Homecoming
from fleet.connectivity import Mode
from fleet.events import Clock, Recorded, Unknown
from fleet.lifecycle import EDGES
from fleet.node import Master
from fleet.projections import authority, connectivity, lifecycle

PROJECTIONS: tuple[ModuleType, ...] = (authority, connectivity, lifecycle)

every_projection = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda module: module.NAME)

modes = st.sampled_from([*Mode, "SOMETHING_NEWER"]).map(str)
moves = st.sampled_from(sorted((str(origin), str(target)) for origin, target in EDGES))
wishes = moves | st.tuples(st.sampled_from(["RETIRED", "ACTIVE", "NOWHERE"]), st.sampled_from(["ACTIVE", "", "X/Y"]))
bodies = st.one_of(
    st.builds(events.NodeHeard, modes, modes, st.just("syslog")),
    st.builds(events.NodeQuiet, modes, modes, st.integers(0, 9), st.just(30)),
    st.builds(events.NodeDegraded, modes, modes, st.just("loss")),
    st.builds(events.NodeRecovered, modes, modes, st.just("loss gone")),
    st.builds(events.HeartbeatMissed, st.integers(0, 9), st.just(5)),
    st.builds(events.HeartbeatResumed, st.integers(0, 9)),
    st.builds(
        lambda move, actor: events.LifecycleMoved(*move, "why", actor), wishes, st.sampled_from(["Alice", "Bob"])
    ),
    st.builds(events.NodeAdopted, st.just("drone-01"), st.just("DRONE"), st.just("s"), st.just("Alice")),
    st.builds(
        events.AuthorityGranted,
        st.sampled_from(["A", "B"]),
        st.integers(1, 3),
        st.sampled_from([*Master, "SOMETHING_NEWER"]).map(str),
        st.just(()),
        st.sampled_from([0, 60]),
        st.sampled_from([*Expiry]).map(str),
        st.sampled_from([*Homecoming]).map(str),
        st.just("Alice"),
        st.just("why"),
    ),
    st.builds(
        events.AuthorityBegan,
        st.integers(1, 3),
        st.sampled_from([*Cause, "something newer"]).map(str),
        st.sampled_from([*Master]).map(str),
        st.just(()),
        st.just(60),
        st.sampled_from([*Expiry]).map(str),
        st.sampled_from([*Homecoming]).map(str),
        st.just((("B", 1, 3),)),
        st.integers(0, 9),
    ),
    st.just(Unknown(b"\x90")),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Recorded]:
    """Facts about few nodes from several writers and epochs, each log numbered without a hole, stamps close together."""
    facts: list[Recorded] = []
    for writer, epoch in draw(st.lists(st.sampled_from([("A", 1), ("A", 2), ("B", 1)]), unique=True, min_size=1)):
        hlc = 0
        for seq, body in enumerate(draw(st.lists(bodies, max_size=12)), 1):
            hlc += draw(st.integers(1, 3))
            kind = "node.teleported" if isinstance(body, Unknown) else body.KIND
            subject = draw(st.sampled_from(["drone-1", "drone-2"]))
            facts.append(Recorded(0, writer, epoch, seq, hlc, hlc * 10, Clock.SYNCED, kind, 1, subject, body))
    return facts


def batches(facts: list[Recorded], dice: random.Random) -> list[list[Recorded]]:
    made, left = [], list(facts)
    while left:
        size = dice.randint(1, len(left))
        made.append(left[:size])
        left = left[size:]
    return made


@every_projection
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), st.randoms(use_true_random=False))
def test_order_batches_and_repeats_do_not_matter(
    projection: ModuleType, facts: list[Recorded], dice: random.Random
) -> None:
    at_once = projection.advance(projection.EMPTY, facts)
    again = facts * 2 + dice.sample(facts, len(facts) // 2)
    dice.shuffle(again)
    state = projection.EMPTY
    for batch in batches(again, dice):
        before, kept = state, copy.deepcopy(state)
        state = projection.advance(state, batch)
        assert before == kept
    assert state == at_once
    assert not any(projection.EMPTY)


@every_projection
@settings(max_examples=80)
@given(logs(), st.randoms(use_true_random=False))
def test_writers_logs_may_interleave_in_any_way(
    projection: ModuleType, facts: list[Recorded], dice: random.Random
) -> None:
    """Each log in its own order, as boxes really receive them: whole logs one after the other, or mixed."""
    queues = {(one.writer, one.epoch): [f for f in facts if f[1:3] == one[1:3]] for one in facts}
    mixed: list[Recorded] = []
    while any(queues.values()):
        mixed.append(queues[dice.choice([log for log, queue in queues.items() if queue])].pop(0))
    assert projection.advance(projection.EMPTY, mixed) == projection.advance(projection.EMPTY, facts)


@every_projection
@settings(max_examples=80)
@given(logs(), st.integers(0, 36))
def test_a_state_survives_its_checkpoint(projection: ModuleType, facts: list[Recorded], upto: int) -> None:
    state = projection.advance(projection.EMPTY, facts[:upto])
    loaded = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=projection.State)
    assert projection.advance(loaded, facts) == projection.advance(projection.EMPTY, facts)


@every_projection
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), st.randoms(use_true_random=False))
def test_states_of_parts_join_into_the_state_of_all(
    projection: ModuleType, facts: list[Recorded], dice: random.Random
) -> None:
    """Parts that overlap, in any order of joining; as a rebuild over several processes does it."""
    parts = [projection.advance(projection.EMPTY, [one for one in facts if dice.random() < 0.6]) for _ in range(2)]
    at_once = projection.advance(projection.EMPTY, facts)
    mixed = dice.sample(facts, len(facts))
    some = projection.advance(projection.EMPTY, mixed[::2])
    rest = projection.advance(projection.EMPTY, mixed[1::2])
    kept = copy.deepcopy((some, rest))
    assert projection.join(some, rest) == projection.join(rest, some) == at_once
    assert (some, rest) == kept
    for part in parts:
        assert projection.join(at_once, part) == projection.join(part, at_once) == at_once
    assert projection.join(at_once, projection.EMPTY) == projection.join(projection.EMPTY, at_once) == at_once


@every_projection
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(logs())
def test_it_depends_on_nothing_but_what_it_names(projection: ModuleType, facts: list[Recorded]) -> None:
    """The newest turn of each subject on its tracks, and every fact of its kinds."""
    newest: dict[tuple[past.Track, str], Recorded] = {}
    for fact in facts:
        turn = past.turn(fact)
        if turn is not None and turn[0] in projection.TRACKS:
            at = (turn[0], fact.subject)
            newest[at] = max(fact, newest.get(at, fact), key=lambda one: one.stamp)
    named = [fact for fact in facts if fact.kind in projection.KINDS]
    assert projection.advance(projection.EMPTY, [*newest.values(), *named]) == projection.advance(
        projection.EMPTY, facts
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), st.integers(0, 36))
def test_who_decided_as_of_a_stamp_is_the_fold_up_to_it(facts: list[Recorded], stamp: int) -> None:
    whole = authority.advance(authority.EMPTY, facts)
    then = authority.advance(authority.EMPTY, [one for one in facts if one.hlc <= stamp])
    for subject in ("drone-1", "drone-2"):
        for place in ("A", "B"):
            assert authority.chain(whole, subject, place, upto=stamp) == authority.chain(then, subject, place)


@every_projection
def test_an_unknown_kind_changes_nothing(projection: ModuleType) -> None:
    fact = Recorded(1, "A", 1, 1, 1, 1, Clock.SYNCED, "node.teleported", 3, "drone-1", Unknown(b"\x90"))
    assert projection.advance(projection.EMPTY, [fact]) == projection.EMPTY


def test_every_projection_is_held_to_this_contract() -> None:
    found = {module.name for module in pkgutil.iter_modules(projections.__path__)}
    assert found == {module.__name__.rpartition(".")[2] for module in PROJECTIONS}
    assert len({module.NAME for module in PROJECTIONS}) == len(PROJECTIONS)
