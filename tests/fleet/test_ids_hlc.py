"""Identifiers sort by time; the hybrid clock never goes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import hlc, ids

times = st.integers(0, (1 << 48) - 1)
entropies = st.binary(min_size=10, max_size=10)


def test_a_ulid_is_the_one_of_the_specification() -> None:
    """The time part of 01ARZ3NDEKTSV4RRFFQ69G5FAV is 1469922850259 (github.com/ulid/spec)."""
    assert ids.ulid_ms("01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1_469_922_850_259
    assert ids.ulid((1 << 48) - 1, b"\xff" * 10) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert ids.ulid(0, bytes(10)) == "0" * 26


@given(times, entropies)
def test_a_ulid_keeps_its_time(at_ms: int, entropy: bytes) -> None:
    text = ids.ulid(at_ms, entropy)
    assert ids.is_ulid(text)
    assert ids.ulid_ms(text) == at_ms


@given(st.tuples(times, entropies), st.tuples(times, entropies))
def test_ulids_sort_as_their_times_and_entropies_do(one: tuple[int, bytes], other: tuple[int, bytes]) -> None:
    assert (ids.ulid(*one) < ids.ulid(*other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    ["", "01ARZ3NDEKTSV4RRFFQ69G5FA", "01ARZ3NDEKTSV4RRFFQ69G5FAVX", "81ARZ3NDEKTSV4RRFFQ69G5FAV",
     "01ARZ3NDEKTSV4RRFFQ69G5FAI", "01arz3ndektsv4rrffq69g5fav", "01ARZ3NDEKTSV4RRFFQ69G5FA\u0660"],
)  # fmt: skip
def test_what_is_no_ulid_is_refused(text: str) -> None:
    assert not ids.is_ulid(text)
    with pytest.raises(ValueError, match="not a ULID"):
        ids.ulid_ms(text)


@given(st.lists(st.integers(-(1 << 40), (1 << 45)), min_size=2, max_size=50))
def test_stamps_only_ever_grow_whatever_the_wall_clock_does(walls: list[int]) -> None:
    stamp, seen = 0, [0]
    for wall in walls:
        stamp = hlc.tick(stamp, wall)
        assert hlc.wall_ms(stamp) >= wall
        seen.append(stamp)
    assert seen == sorted(set(seen))


def test_while_the_wall_clock_stands_a_tick_adds_one() -> None:
    """The journal relies on it: it numbers the stamps of a block from the first."""
    first = hlc.tick(0, 1_000)
    assert hlc.tick(first, 1_000) == first + 1
    assert hlc.tick(first + 1, 999) == first + 2


def test_a_clock_that_jumps_ahead_takes_the_stamps_with_it() -> None:
    ahead = hlc.tick(0, 10**12)
    assert hlc.wall_ms(hlc.tick(ahead, 5)) == 10**12
