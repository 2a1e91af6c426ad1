"""Templates of topics: which topics they match, whose message it is, and what came before."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from paho.mqtt.client import topic_matches_sub

from appliance.intake import bridge_topics as topics
from appliance.intake.bridge_topics import Memory, Template, came, node_of, overlap, template, wrong_with

LEVEL = some.sampled_from(["a", "b", "drone-1", "", "é", "$x"])
TOPIC = some.lists(LEVEL, min_size=1, max_size=4).map("/".join)
FILTER = some.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    some.lists(some.one_of(LEVEL, some.just("+")), min_size=1, max_size=4),
    some.sampled_from([[], ["#"]]),
)


def made(text: str) -> Template:
    found = template(text)
    assert isinstance(found, Template)
    return found


@pytest.mark.parametrize(
    ("text", "filters", "topic", "name"),
    [
        ("sensors/{node}/telemetry", "sensors/+/telemetry", "sensors/alder-7/telemetry", "alder-7"),
        ("{node}/up", "+/up", "kestrel/up", "kestrel"),
        ("plant/dev-{node}/#", "plant/+/#", "plant/dev-17/a/b", "17"),
        ("plant/dev-{node}/#", "plant/+/#", "plant/dev-17", "17"),
        ("plant/dev-{node}/#", "plant/+/#", "plant/rack-17/a", ""),
        ("a/+/{node}", "a/+/+", "a/b/c", "c"),
        ("sensors/{node}/telemetry", "sensors/+/telemetry", "sensors//telemetry", ""),
        ("sensors/{node}/telemetry", "sensors/+/telemetry", "sensors/a\x07b/telemetry", ""),
    ],
)
def test_a_template_says_what_to_subscribe_and_finds_the_name(text: str, filters: str, topic: str, name: str) -> None:
    assert made(text).filter == filters
    assert node_of([made(text)], "", topic, b"{}") == name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"machine":{"serial":"M-7"}}', "M-7"),
        (b'{"machine":{"serial":1234}}', "1234"),
        (b'{"machine":{"serial":true}}', ""),
        (b'{"machine":7}', ""),
        (b"21.5", ""),
        (b"\xff\xfe", ""),
        (b'{"a":' * 200 + b"1" + b"}" * 200, ""),
        (b"", ""),
    ],
)
def test_a_name_may_stand_in_the_payload(raw: bytes, name: str) -> None:
    assert node_of([made("lines/+/state")], "machine.serial", "lines/4/state", raw) == name


@pytest.mark.parametrize(
    ("texts", "key", "words"),
    [
        ((), "", "no topic"),
        (("",), "", "no topic"),
        (("a/{node}/{node}",), "", "twice"),
        (("a/b#",), "k", "# stands alone"),
        (("#/{node}",), "", "# stands alone"),
        (("a/b+/{node}",), "", "+ stands alone"),
        (("a/b",), "", "names no node"),
        (("a/{node}/b", "a/#"), "k", "match the same topics"),
        (("a/{node}", "b/{node}/#"), "", ""),
        (("a/+/b",), "k", ""),
    ],
)
def test_what_cannot_be_subscribed_is_said(texts: tuple[str, ...], key: str, words: str) -> None:
    said = wrong_with(texts, key)
    assert words in said
    assert bool(said) == bool(words)


@given(FILTER, TOPIC)
def test_a_template_matches_as_paho_does(text: str, topic: str) -> None:
    assume(text and not (topic.startswith("$") and text[0] in "+#"))  # a broker sends none of those (4.7.2)
    assert bool(made(text).pattern.fullmatch(topic)) == topic_matches_sub(text, topic)


@given(FILTER, FILTER, TOPIC)
def test_filters_that_match_one_topic_overlap(one: str, other: str, topic: str) -> None:
    if topic_matches_sub(one, topic) and topic_matches_sub(other, topic):
        assert overlap(one, other)
    assert overlap(one, other) == overlap(other, one)


@given(some.text(max_size=40), some.text(max_size=40), some.binary(max_size=60))
def test_nothing_is_raised_whatever_comes(text: str, topic: str, raw: bytes) -> None:
    found = template(text)
    if isinstance(found, Template):
        node_of([found], "a.b", topic, raw)
    wrong_with([text, topic], "")
    topics.parse(raw, 0)


def test_a_repeat_is_what_the_broker_calls_one_and_what_is_here() -> None:
    memory, one, other = Memory(10), came(7, "bridge/plant/k", b"1"), came(8, "bridge/plant/k", b"1")
    assert not memory.repeated(one, dup=True, retained=False)
    memory.stored(one)
    assert memory.repeated(one, dup=True, retained=False)
    assert not memory.repeated(one, dup=False, retained=False)  # two readings may be equal
    assert not memory.repeated(other, dup=True, retained=False)  # another packet
    assert memory.repeated(other, dup=False, retained=True)
    for number in range(10):
        memory.stored(came(100 + number, "bridge/plant/k", b"%d" % number))
    assert not memory.repeated(one, dup=True, retained=False)


def test_the_memory_is_read_back_from_the_records() -> None:
    memory = Memory(10)
    memory.restore([("bridge/plant/k", b"1", (topics.packet_mark(7),)), ("bridge/plant/m", b"2", (topics.RETAINED,))])
    assert memory.repeated(came(7, "bridge/plant/k", b"1"), dup=True, retained=False)
    assert memory.repeated(came(0, "bridge/plant/m", b"2"), dup=False, retained=True)


def test_a_payload_is_read_like_any_other_and_words_are_no_fault() -> None:
    assert topics.parse(b'{"battery":71}', 0).metrics == {"battery_pct": 71.0}
    assert topics.parse(b"battery=71", 0).metrics == {"battery_pct": 71.0}
    assert topics.parse(b"hello", 0).marks == ()
    assert topics.parse(b'{"battery":', 0).marks[-1] == "unparsed"
