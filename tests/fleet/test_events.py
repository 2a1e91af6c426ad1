"""Events: encoded once, read by older and newer versions alike, and bounded."""

from __future__ import annotations

import contextlib
import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import events, limits
from fleet.events import KINDS, Clock, Recorded, Unknown

WRITER = "01ALDER0000000000000000000"
_EXAMPLES = {
    str: "text",
    int: 7,
    bytes: b"\x01\xff",
    bool: True,
    float | None: 1.5,
    tuple[str, ...]: ("a", "b"),
    str | int | float | bool | None: 20.5,
    tuple[tuple[str, str], ...]: (("a", "b"), ("c", "d")),
    tuple[tuple[str, int, int], ...]: (("a", 1, 2), ("b", 3, 4)),
    tuple[tuple[str, str, str], ...]: (("a", "b", "c"),),
}


def example(kind: str) -> events.Body:
    hints = typing.get_type_hints(KINDS[kind])
    return KINDS[kind](**{name: _EXAMPLES[hints[name]] for name in KINDS[kind].__struct_fields__})


def encoded(body: events.Body, seq: int = 1, subject: str = "drone") -> bytes:
    return events.encode_all(seq, seq << 16, 5, Clock.SYNCED, [(subject, body, events.encode_body(body))])[0]


def read(raw: bytes) -> Recorded:
    return events.decode(raw, writer=WRITER, epoch=1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_read_as_it_was_written(kind: str) -> None:
    body = example(kind)
    event = read(encoded(body, 9))
    assert event == Recorded(0, WRITER, 1, 9, 9 << 16, 5, Clock.SYNCED, kind, 1, "drone", body)
    assert event.stamp == (9 << 16, WRITER, 1, 9)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fields_that_a_newer_version_added_are_skipped(kind: str) -> None:
    wire = msgspec.msgpack.decode(encoded(example(kind)))
    wire[5], wire[7] = 2, [*wire[7], "new", {"more": [1, 2]}]
    event = read(msgspec.msgpack.encode([*wire, "a new field of the event itself"]))
    assert (event.body, event.version) == (example(kind), 2)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fields_that_an_older_version_did_not_know_have_a_default(kind: str) -> None:
    cls = KINDS[kind]
    required = len(cls.__struct_fields__) - len(cls.__struct_defaults__)
    wire = msgspec.msgpack.decode(encoded(example(kind)))
    wire[7] = wire[7][:required]
    assert read(msgspec.msgpack.encode(wire)).kind == kind
    if required:
        wire[7] = wire[7][: required - 1]
        with pytest.raises(ValueError, match="not an event"):
            read(msgspec.msgpack.encode(wire))


def test_an_unknown_kind_is_kept_byte_for_byte() -> None:
    body = [{"any": ["thing", 1.5, None]}, b"\x00"]
    event = read(msgspec.msgpack.encode([1, 2, 3, 1, "node.teleported", 4, "drone", body]))
    assert event.body == Unknown(msgspec.msgpack.encode(body))
    assert events.fields(event.body) == {"raw": msgspec.msgpack.encode(body).hex()}


def test_the_bytes_are_an_array_in_the_order_that_the_docstring_gives() -> None:
    body = events.TokenRevoked("ci", "Alice")
    plain = [1, 1 << 16, 5, 2, "token.revoked", 1, "ci", ["ci", "Alice"]]
    assert encoded(body, subject="ci") == msgspec.msgpack.encode(plain)


def test_events_encoded_together_are_the_same_as_one_by_one() -> None:
    staged = [("drone", example(kind), events.encode_body(example(kind))) for kind in sorted(KINDS)]
    together = events.encode_all(5, 100, 9, Clock.FREE_RUNNING, staged)
    alone = [events.encode_all(5 + n, 100 + n, 9, Clock.FREE_RUNNING, [one])[0] for n, one in enumerate(staged)]
    assert together == alone


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_page_can_show_every_field(kind: str) -> None:
    plain = events.fields(example(kind))
    assert list(plain) == list(KINDS[kind].__struct_fields__)
    msgspec.json.encode(plain)
    assert not any(isinstance(value, bytes) for value in plain.values())


def test_a_body_too_large_to_be_an_event_is_refused_when_it_is_said() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        events.encode_body(events.StorageFailed("site.db", "full", "x" * limits.event_bytes_max))
    largest = events.StorageFailed("site.db", "full", "x" * (limits.event_bytes_max - 4_200))
    assert len(encoded(largest, subject="\U0001f6a9" * limits.subject_chars_max)) <= limits.event_bytes_max


def test_bytes_beyond_the_limit_are_not_even_parsed() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        read(bytes(limits.event_bytes_max + 1))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_what_is_no_event_is_a_value_error(raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        read(raw)


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\x91" * 50_000, b"\x98\x01\x02\x03\x02\xa4kind\x01\xa0" + b"\x91" * 50_000 + b"\x00"]
)
def test_depth_does_no_harm(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        read(raw)


def test_every_kind_is_a_noun_and_a_past_participle_and_every_fact_is_frozen() -> None:
    for kind, cls in KINDS.items():
        noun, _, verb = kind.partition(".")
        assert noun.isalpha()
        assert verb.replace("_", "").isalpha()
        assert cls.__struct_config__.frozen
