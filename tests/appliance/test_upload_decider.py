"""What an upload asks for, what may come in, and that its steps are the table's."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.intake.upload import (
    TABLE,
    Announcement,
    Bad,
    State,
    Step,
    Upload,
    announced,
    digest_of,
    number_of,
    upload_id,
)
from fleet import limits, spans
from fleet.limits import HOUR, MINUTE

SHA = "ab" * 32
GRID = limits.upload_chunk_bytes_min


def said(**more: Any) -> Announcement:
    found = announced(json.dumps({"bytes": GRID * 3 + 1, "sha256": SHA, "chunk_bytes": GRID, **more}).encode())
    assert isinstance(found, Announcement), found
    return found


def upload(**more: Any) -> Upload:
    return Upload("@drone-3", said(**more), 0)


def send(one: Upload, index: int) -> None:
    place = one.place(index * GRID, one.size_of(index), index // one.per_window + 1)
    assert place == index
    one.took(index, 1)


def test_chunks_in_any_order_make_a_whole() -> None:
    one = upload()
    for index in (2, 0, 3):
        send(one, index)
    ask = one.ask()
    assert ask is not None
    assert (one.state, ask.hints["missing"]) == (State.OPEN, [GRID])
    send(one, 1)
    assert (one.state, one.ask(), one.acknowledged()) == (State.WHOLE, None, 1)


def test_a_chunk_that_is_there_counts_once() -> None:
    one = upload()
    send(one, 0)
    send(one, 0)
    assert one.bytes_durable == GRID


def test_the_next_window_is_asked_for_once_the_one_before_is_durable() -> None:
    one = upload(bytes=limits.upload_window_bytes_max * 2, chunk_bytes=limits.upload_chunk_bytes_max)
    size = limits.upload_chunk_bytes_max
    assert one.per_window == 4
    ahead = one.place(4 * size, size, 2)
    assert isinstance(ahead, Bad)
    assert ahead.status == 409
    for index in range(4):
        assert one.place(index * size, size, 1) == index
        one.took(index, 1)
    ask = one.ask()
    assert ask is not None
    assert (ask.window_id, ask.offset, ask.size) == (2, limits.upload_window_bytes_max, limits.upload_window_bytes_max)
    assert one.place(4 * size, size, 2) == 4
    assert one.place(0, size, 1) == 0, "an old one may be repeated"


@pytest.mark.parametrize(
    ("offset", "size", "window"),
    [
        (1, GRID, 1),
        (None, GRID, 1),
        (GRID * 4, GRID, 1),
        (0, GRID - 1, 1),
        (GRID * 3, GRID, 1),
        (0, GRID, 2),
        (0, GRID, None),
    ],
)
def test_a_chunk_off_the_grid_has_no_place(offset: int | None, size: int, window: int | None) -> None:
    found = upload().place(offset, size, window)
    assert isinstance(found, Bad)
    assert found.status == 400


def test_the_same_announcement_is_the_same_upload_and_no_other_is() -> None:
    same = upload_id("@drone-3", said(window_id=4, doubt=["birch"], name="x"))
    assert same == upload_id("@drone-3", said())
    others = [
        upload_id("@drone-4", said()),
        upload_id("@drone-3", said(first=2)),
        upload_id("@drone-3", said(sha256="cd" * 32)),
        upload_id("@drone-3", said(stream="q")),
        upload_id("@drone-3", said(form="file")),
    ]
    assert len({same, *others}) == 6


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"bytes": 0}, 413),
        ({"bytes": limits.upload_bytes_max + 1}, 413),
        ({"bytes": "many"}, 400),
        ({"sha256": "AB" * 32}, 422),
        ({"stream": "a/b"}, 422),
        ({"stream": "x" * 65}, 422),
        ({"doubt": ["../x"]}, 422),
        ({"doubt": ["a"] * 5}, 422),
        ({"first": 0}, 422),
        ({"first": 5, "last": 4}, 422),
        ({"first": 1, "last": limits.upload_records_max + 1}, 413),
        ({"floor": 2}, 422),
        ({"form": "file", "last": 2}, 422),
        ({"form": "music"}, 400),
        ({"chunk_bytes": 1}, 422),
        ({"chunk_bytes": limits.upload_chunk_bytes_max + 1}, 422),
        ({"name": "a\nb"}, 422),
    ],
)
def test_what_is_no_announcement_is_refused_with_a_sentence(more: dict[str, Any], status: int) -> None:
    found = announced(json.dumps({"bytes": 10, "sha256": SHA, **more}).encode())
    assert isinstance(found, Bad)
    assert found.status == status
    assert found.words


def test_without_a_stream_a_file_is_a_stream_of_its_own() -> None:
    assert said().stream == SHA


def test_what_was_only_announced_is_forgotten_soon_and_what_came_is_kept_for_a_day() -> None:
    one = upload()
    assert one.expires_ns() == 10 * MINUTE
    send(one, 0)
    assert one.expires_ns() == 24 * HOUR + 1


def test_an_end_is_an_end_and_every_state_but_those_leads_on() -> None:
    leading = {state for state, _ in TABLE}
    assert set(State) - leading == {State.DONE, State.GONE}
    assert {step for _, step in TABLE} == set(Step)
    assert {*TABLE.values(), State.OPEN} == set(State)


@pytest.mark.parametrize(
    ("header", "found"), [("0", 0), ("17", 17), ("", None), ("-1", None), ("1e3", None), ("٣", None)]
)
def test_numbers_of_headers(header: str, found: int | None) -> None:
    assert number_of(header) == found


def test_a_digest_is_read_in_the_form_of_the_rfc() -> None:
    digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
    assert digest_of(digest) == digest_of(f"unixsum=:AA==:, {digest}") is not None
    for other in ("", "sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=", "sha-512=:AA==:", "sha-256=::"):
        assert digest_of(other) is None


# -- ranges -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8))), st.integers(1, 40), st.integers(0, 10))
def test_ranges_hold_what_was_added_and_nothing_else(added: list[tuple[int, int]], first: int, more: int) -> None:
    held: spans.Spans = ()
    wanted: set[int] = set()
    for start, length in added:
        held = spans.add(held, start, start + length)
        wanted |= set(range(start, start + length + 1))
    assert {n for a, b in held for n in range(a, b + 1)} == wanted
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(held)), "neighbours are one"
    asked = set(range(first, first + more + 1))
    assert {n for a, b in spans.missing(held, first, first + more) for n in range(a, b + 1)} == asked - wanted
    assert spans.holds(held, first, first + more) == (asked <= wanted)
    assert {n for a, b in spans.above(held, first) for n in range(a, b + 1)} == {n for n in wanted if n >= first}
