"""`sync.messages`, `sync.protocol` and docs/protocol.md: shapes, what a newer version adds, and what is signed."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.limits import SECOND
from sync import diagrams, messages
from sync.hub import Phase
from sync.messages import KINDS, Hello, Lane, LogHead, Message, Ping, Unknown
from sync.protocol import TABLE, Caps, State, token_of

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
HELLO = Hello(1, 1, "fjord", "01ALDER", "alder", b"k" * 32, (LogHead("01ALDER", 1, 5, b"h" * 32),), (), 7, 0, b"n" * 16)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_back_as_it_was_said(kind: str) -> None:
    said = msgspec.convert(_example(KINDS[kind]), type=KINDS[kind])
    assert messages.decode(messages.encode(said)) == said


def _example(cls: type[Message]) -> list[object]:
    values: dict[object, object] = {int: 3, str: "x", bytes: b"b", bool: True, LogHead | None: None}
    return [values.get(one.type, ()) for one in msgspec.structs.fields(cls)]


@given(st.lists(st.one_of(st.integers(), st.text(), st.binary()).filter(lambda one: one is not None), max_size=3))
def test_fields_of_a_newer_version_are_skipped(more: list[object]) -> None:
    small = [one for one in more if not isinstance(one, int) or abs(one) < 1 << 62]
    assert messages.decode(msgspec.msgpack.encode(("ping", [4, 5, *small]))) == Ping(4, 5)


def test_a_kind_that_nobody_knows_is_passed_by() -> None:
    assert messages.decode(msgspec.msgpack.encode(("later", [1, {"a": 2}]))) == Unknown("later")


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_message_or_a_value_error(raw: bytes) -> None:
    try:
        assert isinstance(messages.decode(raw), Message | Unknown)
    except ValueError as error:
        assert str(error)  # noqa: PT017


def test_a_proof_binds_every_field_of_the_hello() -> None:
    content = messages.proof_content(HELLO, "01HARBOR", b"m" * 16)
    for field in msgspec.structs.fields(Hello):
        other = getattr(HELLO, field.name)
        changed = {int: 99, str: "other", bytes: b"other", tuple: (LogHead("w", 9, 9, b"z"),)}[type(other)]
        assert (
            messages.proof_content(msgspec.structs.replace(HELLO, **{field.name: changed}), "01HARBOR", b"m" * 16)
            != content
        )


def test_a_token_is_of_one_hello_and_half_of_it_is_secret() -> None:
    first, second = token_of(b"a" * 16, b"s" * 32), token_of(b"a" * 16, b"t" * 32)
    assert first != second
    assert token_of(b"a" * 16, first) == first
    assert token_of(b"b" * 16, first) != first


def test_a_cap_holds_back_all_but_control_and_saves_up_two_seconds() -> None:
    caps = Caps(per_s=1_000, per_hour=5_000, paused=frozenset({Lane.SEGMENTS}))
    assert caps.allows(Lane.LOG, 0)
    caps.spent(1_500, 0)
    assert not caps.allows(Lane.LOG, 0)
    assert caps.allows(Lane.CONTROL, 0)
    assert not caps.allows(Lane.SEGMENTS, 100 * SECOND)
    caps.spent(4_000, 100 * SECOND)
    assert not caps.allows(Lane.LOG, 200 * SECOND)  # the hour's budget
    assert caps.allows(Lane.LOG, 3_700 * SECOND)


def test_every_state_is_reached_and_left() -> None:
    assert {before for before, _ in TABLE} == set(State) == {*TABLE.values()}
    assert set(Phase) == {*Phase}


def test_the_diagrams_of_the_page_are_drawn_from_the_code() -> None:
    drawn = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    assert drawn == [diagrams.return_diagram(), diagrams.states_diagram()]


def test_every_message_has_its_line_in_the_page_with_its_lane_and_fields() -> None:
    rows = re.findall(r"^\| `([a-z.]+)` \| (\d) \w+ \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [(kind, str(int(cls.LANE)), ", ".join(cls.__struct_fields__)) for kind, cls in KINDS.items()]


def test_a_signature_covers_every_field_of_today_and_no_field_of_tomorrow() -> None:
    """T23: a site whose hello had one field more was told that its proof does not match its key."""
    for kind, count in messages.SIGNED_FIELDS.items():
        cls = KINDS[kind]
        assert len(cls.__struct_fields__) == count, "a field was added: rule 4 of sync.messages"
        newer = msgspec.defstruct(cls.__name__, [("later", str, "on")], bases=(cls,), frozen=True, array_like=True)
        values = _example(cls)
        assert messages._covered(cls(*values)) == messages._covered(newer(*values)) == messages.encode(cls(*values))
