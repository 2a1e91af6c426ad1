"""A plan is a function of the words that stand: which rule settles what, what is proposed, what is refused."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleet import document, plan
from fleet.document import Stamped, Value
from fleet.events import Clock
from fleet.plan import LEAVE, Dispute, Parked, Place, Rule, Sort, Step

ALICE = Stamped("north", "Alice", "01ALDER", 1, 5, 1_000, Clock.SYNCED)
BOB = Stamped("south", "Bob", "01HARBOR", 1, 9, 2_000, Clock.SYNCED)


def of(pointer: str, *values: Value, base: Value = None, based: bool = True, deciders: tuple[str, ...] = ()) -> Dispute:
    """What Bob wrote last and holds, what Alice wrote, and what Mallory wrote by a clock that nobody trusts."""
    authors = (BOB, ALICE, Stamped(None, "Mallory", "01CEDAR", 1, 99, 9_000, Clock.NOT_TRUSTED))
    said = tuple(msgspec.structs.replace(one, value=value) for one, value in zip(authors, values, strict=False))
    return Dispute(Place("node", "01DRONE", pointer), said, base, based, deciders)


def step(dispute: Dispute) -> Step:
    return plan.plan([dispute]).steps[0]


def settled(dispute: Dispute) -> tuple[Rule, Value]:
    one = step(dispute)
    assert one.sort is Sort.AUTOMATIC
    assert one.choice is not None
    return one.rule, one.words[one.choice].value


def test_both_wrote_the_same_only_spelled_differently() -> None:
    assert settled(of("notes", "wet", " wet ")) == (Rule.SAME, "wet")
    assert settled(of("constraints/temp_c", "10..80", "10 .. 80")) == (Rule.SAME, "10..80")


def test_who_ended_where_it_began_changed_nothing() -> None:
    assert settled(of("name", "drone", "north", base="drone")) == (Rule.ONE_CHANGED, "north")
    assert "Only Alice changed it" in step(of("name", "drone", "north", base="drone")).why


def test_a_mark_that_somebody_put_stays_where_nobody_knows_what_was_before() -> None:
    assert settled(of("tags/scout", None, True, based=False)) == (Rule.ADDED, True)
    assert settled(of("tags/scout", True, None, based=False)) == (Rule.ADDED, True)
    assert settled(of("tags/scout", None, True, base=True)) == (Rule.ONE_CHANGED, None)


def test_what_only_one_may_write_there_holds() -> None:
    assert settled(of("min_battery_pct", 400, 40)) == (Rule.ALLOWED, 40)
    assert "0 to 100" in step(of("min_battery_pct", 400, 40)).why


def test_where_two_meant_it_differently_a_person_decides_and_the_later_is_proposed() -> None:
    one = step(of("name", "south", "north", base="drone"))
    assert (one.sort, one.rule, one.choice, one.base) == (Sort.PERSON, Rule.LATER, 0, "drone")
    assert one.why == "Bob wrote it later."


def test_an_unknown_base_settles_nothing() -> None:
    assert step(of("name", "south", "north", based=False)).sort is Sort.PERSON


def test_who_has_authority_is_proposed_before_the_later() -> None:
    one = step(of("target_version", "1.5", "1.4", deciders=("01ALDER",)))
    assert (one.rule, one.choice) == (Rule.AUTHORITY, 1)
    assert step(of("target_version", "1.5", "1.4", deciders=("01ALDER", "01HARBOR"))).rule is Rule.LATER


def test_a_clock_that_is_not_to_be_trusted_is_told() -> None:
    one = step(of("name", "south", "north", "mine"))
    assert (one.rule, one.choice) == (Rule.CLOCK, 0)


def test_what_nobody_may_write_and_what_nobody_knows_is_refused_and_cannot_be_taken() -> None:
    for dispute, rule in ((of("min_battery_pct", 400, -4), Rule.SCHEMA), (of("wings", 1, 2), Rule.NO_FIELD)):
        made = plan.plan([dispute])
        assert (made.steps[0].sort, made.steps[0].rule, made.steps[0].choice) == (Sort.REFUSED, rule, None)
        assert "cannot be settled here" in str(plan.chosen(made, {made.steps[0].id: 0}))


def test_a_word_without_authority_is_refused_with_its_reason() -> None:
    place = Place("node", "01DRONE", "target_version")
    made = plan.plan([], [Parked(place, ALICE, "The epoch was another's.", BOB), Parked(place, BOB, "So was this.")])
    assert {one.why for one in made.of(Sort.REFUSED)} == {"The epoch was another's.", "So was this."}
    assert len({one.id for one in made.steps}) == 2


def test_a_decision_for_what_is_not_there_is_named() -> None:
    made = plan.plan([of("name", "south", "north")])
    (one,) = made.steps
    assert "no step" in str(plan.chosen(made, {"0123": 0}))
    assert "no such choice" in str(plan.chosen(made, {one.id: 2}))
    assert "nothing was chosen" in str(plan.chosen(made, {one.id: LEAVE}))
    assert [each.taken.value for each in plan.chosen(made, {one.id: 1})] == ["north"]  # type: ignore[union-attr]


def test_a_word_that_may_not_stand_there_cannot_be_taken() -> None:
    made = plan.plan([of("min_battery_pct", 400, 40)])
    assert "0 to 100" in str(plan.chosen(made, {made.steps[0].id: 0}))


pointers = st.sampled_from(["name", "notes", "tags/scout", "min_battery_pct", "constraints/temp_c", "wings"])
said = st.one_of(st.none(), st.sampled_from(["a", " a", "1..2", "1 .. 2", True, 4, 400, 4.0]))
disputes = st.builds(
    lambda pointer, values, base, based: of(pointer, *values, base=base, based=based),
    pointers,
    st.lists(said, min_size=2, max_size=3, unique_by=lambda one: (type(one), one)),
    said,
    st.booleans(),
)


@given(st.lists(disputes, max_size=6, unique_by=lambda one: one.place), st.randoms(use_true_random=False))
def test_the_same_disputes_make_the_same_plan_in_any_order(all_of: list[Dispute], chance: random.Random) -> None:
    other = list(all_of)
    chance.shuffle(other)
    assert plan.plan(all_of) == plan.plan(other)


@given(disputes)
def test_what_a_rule_takes_may_stand_there(dispute: Dispute) -> None:
    one = step(dispute)
    assert (one.choice is None) == (one.sort is Sort.REFUSED)
    if one.choice is not None:
        assert document.wrong("node", dispute.place.pointer, one.words[one.choice].value) is None
        assert plan.proposals([one]) == {one.id: one.choice}


@given(disputes, said)
def test_a_different_word_is_a_different_plan(dispute: Dispute, value: Value) -> None:
    other = dispute._replace(words=(msgspec.structs.replace(dispute.words[0], value=value), *dispute.words[1:]))
    same = msgspec.json.encode(other) == msgspec.json.encode(dispute)
    assert (plan.plan([dispute]).hash == plan.plan([other]).hash) == same


def test_the_state_is_over_values_alone() -> None:
    place = Place("node", "01DRONE", "name")
    assert plan.state_hash([(place, "a")]) != plan.state_hash([(place, "b")])
    assert plan.plan([of("name", "a", "b")]).state == plan.state_hash([(place, "a")])
