from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import document
from fleet.document import Conflict, Kind, Stamped
from fleet.events import Clock

ALICE = Stamped("north", "Alice", "01ALDER", 1, 5, 1_000, Clock.SYNCED)
BOB = Stamped("south", "Bob", "01BIRCH", 1, 9, 2_000, Clock.SYNCED)
MALLORY = Stamped("mine", "Mallory", "01CEDAR", 1, 99, 9_000, Clock.NOT_TRUSTED)

stamps = st.builds(
    Stamped,
    st.sampled_from([None, "a", "b", 1, 1.5, True, False]),
    st.sampled_from(["Alice", "Bob"]),
    st.sampled_from(["A", "B", "C"]),
    st.integers(1, 2),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from(list(Clock)),
)


def test_the_later_word_holds() -> None:
    assert document.effective([ALICE, BOB]) == BOB


def test_a_clock_that_is_not_to_be_believed_never_wins_over_one_that_is() -> None:
    assert document.effective([ALICE, MALLORY]) == ALICE
    assert document.effective([MALLORY, msgspec.structs.replace(MALLORY, hlc=3, who="Bob")]) == MALLORY


def test_the_greater_writer_holds_when_the_stamps_are_equal() -> None:
    assert document.effective([msgspec.structs.replace(BOB, hlc=5), ALICE]).who == "Bob"


@given(st.lists(stamps, min_size=1, max_size=5))
def test_the_rule_does_not_ask_for_the_order_of_hearing(values: list[Stamped]) -> None:
    views = {repr(document.view(Kind.NODE, {"name": order})) for order in itertools.permutations(values)}
    assert len(views) == 1
    assert document.effective(values) in values


@given(st.lists(stamps, min_size=1, max_size=6))
def test_every_value_that_an_author_last_wrote_is_shown(values: list[Stamped]) -> None:
    shown = document.view(Kind.NODE, {"name": values})
    (conflict,) = shown.conflicts or (Conflict("name", shown.values["name"], ()),)
    seen = [(type(one.value) is bool, one.value) for one in (conflict.effective, *conflict.others)]
    last = document.standing(values)
    assert len(set(seen)) == len(seen)
    assert set(seen) == {(type(one.value) is bool, one.value) for one in last}
    assert conflict.effective == document.effective(last)


def test_both_sides_of_a_conflict_are_shown_with_who_where_and_when() -> None:
    shown = document.view(Kind.NODE, {"name": [ALICE, BOB]})
    assert shown.values == {"name": BOB}
    assert shown.conflicts == (Conflict("name", BOB, (ALICE,)),)


def test_two_who_write_the_same_are_of_one_mind() -> None:
    assert document.view(Kind.NODE, {"name": [ALICE, msgspec.structs.replace(BOB, value="north")]}).conflicts == ()


def test_true_and_one_are_not_the_same() -> None:
    one = [msgspec.structs.replace(ALICE, value=True), msgspec.structs.replace(BOB, value=1)]
    assert len(document.view(Kind.NODE, {"name": one}).conflicts) == 1


def test_an_author_does_not_contradict_itself() -> None:
    later = msgspec.structs.replace(ALICE, value="east", hlc=6)
    assert document.standing([later, ALICE]) == [later]


def test_a_field_of_a_newer_version_is_not_shown() -> None:
    assert document.view(Kind.NODE, {"mood": [ALICE]}).values == {}


def test_the_entries_of_a_map_are_those_that_were_not_taken_away() -> None:
    mark = msgspec.structs.replace(ALICE, value=True)
    shown = document.view(
        Kind.NODE, {"tags/drone": [mark], "tags/relay": [msgspec.structs.replace(mark, value=None)], "name": [ALICE]}
    )
    assert document.entries(shown, "tags/") == ["drone"]


@pytest.mark.parametrize(
    ("kind", "pointer", "value"),
    [
        (Kind.NODE, "name", "drone-01"),
        (Kind.NODE, "name", None),
        (Kind.NODE, "tags/drone", True),
        (Kind.NODE, "tags/a/b", True),
        (Kind.NODE, "min_battery_pct", 20),
        (Kind.NODE, "min_battery_pct", 99.5),
        (Kind.NODE, "requires_online", False),
        (Kind.NODE, "acknowledged/battery low", "Bob is on his way"),
        (Kind.BUNDLE, "constraints/temp_c", "-10..60"),
        (Kind.BUNDLE, "constraints/temp_c", "..60"),
        (Kind.NODE, "constraints/rtt_ms", " 5 .. "),
        (Kind.BUNDLE, "requires_online", True),
        (Kind.DOMAIN, "notes", "é" * 8_192),
        (Kind.NODE, "a field of a newer version", 7),
    ],
)
def test_what_the_schema_takes(kind: str, pointer: str, value: document.Value) -> None:
    assert document.wrong(kind, pointer, value) is None


@pytest.mark.parametrize(
    ("kind", "pointer", "value"),
    [
        (Kind.NODE, "name", 7),
        (Kind.NODE, "name", True),
        (Kind.NODE, "name", "x" * 513),
        (Kind.NODE, "tags/drone", "yes"),
        (Kind.NODE, "tags/drone", False),
        (Kind.NODE, "tags/drone", 1),
        (Kind.NODE, "min_battery_pct", 101),
        (Kind.NODE, "min_battery_pct", -0.5),
        (Kind.NODE, "min_battery_pct", float("nan")),
        (Kind.NODE, "min_battery_pct", True),
        (Kind.NODE, "min_battery_pct", "20"),
        (Kind.NODE, "requires_online", 1),
        (Kind.BUNDLE, "constraints/temp_c", "cool"),
        (Kind.BUNDLE, "constraints/temp_c", ".."),
        (Kind.BUNDLE, "constraints/temp_c", "60..10"),
        (Kind.BUNDLE, "constraints/temp_c", 60),
        (Kind.BUNDLE, "constraints/temp_c", "1" * 200 + ".."),
        (Kind.DOMAIN, "notes", "é" * 8_193),
        (Kind.NODE, "unheard of", "x" * 16_385),
        (Kind.NODE, "", "x"),
        (Kind.NODE, "a\nb", "x"),
        (Kind.NODE, "x" * 161, None),
    ],
)
def test_what_the_schema_refuses_in_a_sentence(kind: str, pointer: str, value: document.Value) -> None:
    reason = document.wrong(kind, pointer, value)
    assert reason is not None
    assert "\n" not in reason


def test_a_map_is_not_a_field_and_a_field_is_not_a_map() -> None:
    assert document.field(Kind.NODE, "tags") is None
    assert document.field(Kind.NODE, "tags/") is None
    assert document.field(Kind.NODE, "name/first") is None
    assert document.field("starship", "name") is None


def test_a_stamp_that_nobody_can_have_written_is_refused() -> None:
    assert document.wrong_stamp(ALICE) is None
    for wrong in ({"who": ""}, {"who": "x" * 129}, {"who": "a\x1b[2J"}, {"hlc": -1}, {"hlc": 1 << 63}, {"epoch": -1}):
        assert document.wrong_stamp(msgspec.structs.replace(ALICE, **wrong)) is not None


@pytest.mark.parametrize("text", ["", "[]", "{}", '["a"]', "[[1],1]", '[1,"a","b",1,1,1,7]', "[" * 5_000])
def test_text_that_is_no_stamped_value_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        document.decode(text)


@given(stamps)
def test_what_is_written_is_read(stamp: Stamped) -> None:
    assert document.decode(document.encode(stamp).decode()) == stamp
