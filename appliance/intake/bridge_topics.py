"""Whose message is it, when a broker of others brings it? Templates of topics, and what came before.

A template is a topic filter (MQTT 3.1.1, 4.7) in which one level, or a part of one, may be `{node}`: the name of the node that
the message is of. Where no level says it, a member of the JSON payload does.

Rules of the file
  1  Nothing is raised for any topic or payload; a template that cannot be is told as a sentence.
  2  Two templates of one bridge never match the same topic, so that no broker delivers a message twice for them.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import msgspec

from appliance.intake import payload
from appliance.intake.payload import Mark
from fleet import limits
from fleet.reading import Reading

NODE = "{node}"
RETAINED = "retained"  # the mark of a record that the broker had kept: how old it is nobody knows
_PACKET = "mqtt-"  # and before the packet identifier, of one that the broker repeats until it is acknowledged


class Template(NamedTuple):
    """`filter` is what is subscribed; `pattern` finds the name in a topic, if the topic has one."""

    text: str
    filter: str
    pattern: re.Pattern[str]
    named: bool


def template(text: str) -> Template | str:
    """A template, or why it is none."""
    if not text or len(text.encode()) > limits.subject_chars_max or "\0" in text:
        return f"{text[:40]!r} is no topic"
    if text.count(NODE) > 1:
        return f"{text!r} says {NODE} twice"
    levels = text.split("/")
    if any("#" in level and (level != "#" or place < len(levels) - 1) for place, level in enumerate(levels)):
        return f"{text!r}: # stands alone and last"
    if any("+" in level and level != "+" for level in levels):
        return f"{text!r}: + stands alone in its level"
    pattern, filters = list[str](), list[str]()
    for level in levels:
        before, named, after = level.partition(NODE)
        if named:
            pattern.append(f"{re.escape(before)}(?P<node>[^/]+){re.escape(after)}")
            filters.append("+")
        else:
            pattern.append({"+": "[^/]*", "#": ".*"}.get(level, re.escape(level)))
            filters.append(level)
    written = "/".join(pattern)
    if levels[-1] == "#" and len(levels) > 1:
        written = written.removesuffix("/.*") + "(?:/.*)?"  # a/# is a, too (4.7.1.2)
    return Template(text, "/".join(filters), re.compile(written, re.DOTALL), NODE in text)


def wrong_with(texts: Sequence[str], node_key: str) -> str:
    """Why these cannot be the topics of one bridge; empty when they can."""
    made = [template(text) for text in texts]
    if not made:
        return "it subscribes to no topic"
    for one in made:
        if isinstance(one, str):
            return one
        if not one.named and not node_key:
            return f"{one.text!r} names no node: put {NODE} into it, or say node_key, the member of the JSON that does"
    for one, other in combinations([one for one in made if isinstance(one, Template)], 2):
        if overlap(one.filter, other.filter):
            return f"{one.text!r} and {other.text!r} match the same topics, which some brokers then deliver twice"
    return ""


def overlap(one: str, other: str) -> bool:
    """Whether any topic matches both filters."""
    mine, theirs = one.split("/"), other.split("/")
    for place in range(max(len(mine), len(theirs))):
        here = mine[place] if place < len(mine) else None
        there = theirs[place] if place < len(theirs) else None
        if here == "#" or there == "#":
            return True
        if here is None or there is None:
            return False
        if here != there and "+" not in (here, there):
            return False
    return True


_OBJECT = msgspec.json.Decoder(dict[str, Any])


def node_of(templates: Iterable[Template], node_key: str, topic: str, raw: bytes) -> str:
    """The name of the node that a message is of; empty when nothing says it."""
    for one in templates:
        found = one.pattern.fullmatch(topic)
        if found is not None:
            return payload.own_name(found["node"]) if one.named else _told(node_key, raw)
    return ""


def _told(node_key: str, raw: bytes) -> str:
    if payload.too_deep(raw):
        return ""
    try:
        value: Any = _OBJECT.decode(raw)
    except (msgspec.MsgspecError, UnicodeError):
        return ""
    for key in node_key.split("."):
        if not isinstance(value, dict):
            return ""
        value = value.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # whoever named this key says that it is a name
    return payload.own_name(value)


def parse(raw: bytes, received_ns: int) -> Reading:
    """What a payload says. `received_ns` has no part in it."""
    draft = payload.read(raw)
    if Mark.BAD_JSON in draft.marks or Mark.TOO_DEEP in draft.marks:
        draft.mark(Mark.UNPARSED)
    return payload.reading(draft)


# -- what came before -------------------------------------------------------------------------------------------------


def packet_mark(packet: int) -> str:
    """The mark of a record that came in a packet that the broker repeats until it is acknowledged."""
    return f"{_PACKET}{packet}"


class Came(NamedTuple):
    """A message as far as it must be known again: its packet identifier (0: never repeated by the broker), and a digest of
    whose it is and of its bytes."""

    packet: int
    digest: bytes


def came(packet: int, source: str, raw: bytes) -> Came:
    return Came(packet, hashlib.blake2b(b"%b\0%b" % (source.encode(), raw), digest_size=16).digest())


class Memory:
    """The latest messages of one bridge that are on the disk, `most` of them.

    A repeat is what the broker itself calls one (DUP, with the packet identifier of a message that is here; or retained) and
    what is here already. What only looks the same is kept: two readings may well be equal.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._packets: OrderedDict[Came, None] = OrderedDict()
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def stored(self, one: Came) -> None:
        if one.packet:
            _newest(self._packets, one, self._most)
        _newest(self._digests, one.digest, self._most)

    def repeated(self, one: Came, *, dup: bool, retained: bool) -> bool:
        return (dup and one in self._packets) or (retained and one.digest in self._digests)

    def restore(self, records: Iterable[tuple[str, bytes, Sequence[str]]]) -> None:
        """From the records of the bridge, oldest first: source, bytes, marks."""
        for source, raw, marks in records:
            packet = next((mark for mark in marks if mark.startswith(_PACKET)), _PACKET + "0")
            self.stored(came(int(packet.removeprefix(_PACKET)), source, raw))


_Key = TypeVar("_Key")


def _newest(held: OrderedDict[_Key, None], key: _Key, most: int) -> None:
    held[key] = None
    held.move_to_end(key)
    if len(held) > most:
        held.popitem(last=False)
