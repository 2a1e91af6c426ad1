"""`sync.present`: what a site shows is what the hub shows."""

from __future__ import annotations

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from fleet.connectivity import Mode
from fleet.limits import MS, SECOND
from fleet.present import Present, Told
from fleet.reading import Position
from sync import present

NOW_NS = 1_800_000_000 * SECOND
times = st.integers(0, 10**9).map(lambda ms: NOW_NS - ms * MS)
told = st.builds(Told, st.integers(-(10**9), 10**9).map(lambda n: n / 1000), times, st.sampled_from(["mqtt", "http"]))
nodes = st.builds(
    Present,
    st.just("n1"),
    st.text(max_size=20),
    mode=st.none() | st.sampled_from(list(Mode)),
    since_ns=st.none() | times,
    seen_ns=st.none() | times,
    seen_via=st.sampled_from(["", "mqtt"]),
    tags=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    position=st.none() | st.integers(-(9 * 10**8), 9 * 10**8).map(lambda degrees: Position(degrees / 1e7, 5.25)),
    position_ns=st.none() | times,
    armed=st.none() | st.booleans(),
    text=st.none() | st.text(max_size=30),
    text_ns=st.none() | times,
    values=st.dictionaries(st.sampled_from(["battery_pct", "rtt_ms", "x"]), told, max_size=3),
)
fleets = st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), nodes, max_size=3).map(
    lambda held: {
        name: Present(name, *(getattr(one, f) for f in Present.__struct_fields__[1:])) for name, one in held.items()
    }
)


def show(there: dict[str, Present], raw: bytes) -> dict[str, Present]:
    after = dict(there)
    for change in present.unpack(raw, NOW_NS):
        new = present.apply(change, after.get(change.node_id))
        if new is None:
            after.pop(change.node_id, None)
        else:
            after[change.node_id] = new
    return after


@given(fleets)
def test_what_is_packed_and_unpacked_shows_the_same_to_the_millisecond(now: dict[str, Present]) -> None:
    assert show({}, present.pack(present.rows_of(now, {}, NOW_NS))) == now


@given(fleets, fleets, st.booleans())
def test_a_delta_that_was_lost_or_not_is_made_good_by_the_next(
    first: dict[str, Present], last: dict[str, Present], arrives: bool
) -> None:
    """The first is confirmed; the second may have arrived; the third goes back to the first, or anywhere else."""
    for third in (first, last):
        second = last
        there = show({}, present.pack(present.rows_of(first, {}, NOW_NS)))
        if arrives:
            there = show(there, present.pack(present.rows_of(second, first, NOW_NS)))
        there = show(there, present.pack(present.rows_of(third, first, NOW_NS, [second])))
        # A metric that a node no longer tells stays as it was last told: it has its age.
        assert {name: one.name for name, one in there.items()} == {name: one.name for name, one in third.items()}
        for name, one in third.items():
            assert there[name].values.items() >= one.values.items()
            assert (there[name].mode, there[name].text, there[name].position) == (one.mode, one.text, one.position)


def test_nothing_is_said_of_what_has_not_changed() -> None:
    one = {"n1": Present("n1", "alder-1", seen_ns=NOW_NS)}
    assert present.rows_of(one, one, NOW_NS) == []


@given(st.binary(max_size=200), st.integers(0, 1 << 62))
def test_bytes_that_are_no_rows_are_a_value_error(raw: bytes, at_ns: int) -> None:
    for data in (raw, zstd.compress(raw)):
        try:
            present.unpack(data, at_ns)
        except ValueError as error:
            assert str(error)  # noqa: PT017


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    with pytest.raises(ValueError, match="larger"):
        present.unpack(zstd.compress(bytes(present.ROWS_BYTES_MAX + 10)), NOW_NS)
