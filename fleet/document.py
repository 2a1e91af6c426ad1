"""What may people write down together, and which of two words about one thing holds?

A document is flat: pointers ("name", "tags/drone") to stamped values. A stamp says who wrote the value, in which log,
when, and how far the clock was to be believed. None as a value means that somebody took the value away.

Rules of the file
  1  `effective` is the only rule of precedence, and a function of the values alone: both ends come to the same answer
     in whatever order they heard of them. It decides what is shown first, never who had the right to write it.
  2  A value that does not hold is still there, with its stamp, until somebody writes over it having seen it.
  3  The schema refuses what it knows to be wrong. A field it does not know is kept and passed on, and not shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fleet.events import Clock

pointer_chars_max = 160
who_chars_max = 128
under_chars_max = 64
unknown_bytes_max = 16_384  # the text of a field that only a newer version knows
_NUMBER_MAX = (1 << 63) - 1  # what a database holds

Value = str | int | float | bool | None


class Kind(StrEnum):
    NODE = "node"
    BUNDLE = "bundle"
    DOMAIN = "domain"
    SITE = "site"


LOCAL = frozenset({Kind.NODE, Kind.SITE})  # of one site and the hub; every other document is common to all sites


class Id(NamedTuple):
    """Which document: at most one for each node, bundle, domain and site (by the site's writer)."""

    tenant: str
    kind: str
    id: str


class Author(NamedTuple):
    """The log that a change is written in."""

    writer: str
    epoch: int


class Text(NamedTuple):
    bytes_max: int


class Number(NamedTuple):
    low: float
    high: float


class Flag(NamedTuple):
    """True or false."""


class Mark(NamedTuple):
    """There, or not there: true or None. Two people who add two marks at once both get theirs."""


class Span(NamedTuple):
    """A range as text, "low..high": see `span`."""


class Range(NamedTuple):
    """From `low` to `high`, both ends included; None is no bound."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


Field = Text | Number | Flag | Mark | Span

# What people say of what needs them (`fleet.attention`), by its cause: the last word holds, and nobody is asked to choose.
TAKEN_UP: Mapping[str, Field] = {"acknowledged/": Text(1_024), "snoozed/": Text(1_024), "assigned/": Text(1_024)}

# A name that ends in "/" is a map: any pointer that begins so is one of its entries.
SCHEMA: Mapping[str, Mapping[str, Field]] = {
    Kind.NODE: {
        "name": Text(512),
        "kind": Text(32),
        "tags/": Mark(),
        "notes": Text(16_384),
        "domain_id": Text(64),
        "upstream": Text(64),
        "policy_bundle_id": Text(64),
        "target_version": Text(128),
        "maintenance_window": Text(256),
        "min_battery_pct": Number(0, 100),
        "requires_online": Flag(),
        "constraints/": Span(),
        **TAKEN_UP,
    },
    Kind.BUNDLE: {
        "name": Text(512),
        "target_version": Text(128),
        "min_battery_pct": Number(0, 100),
        "requires_online": Flag(),
        "constraints/": Span(),
        "notes": Text(16_384),
    },
    Kind.DOMAIN: {
        "name": Text(512),
        "notes": Text(16_384),
        "maintenance_window": Text(256),
        **TAKEN_UP,
    },
    Kind.SITE: {
        "name": Text(512),
        "notes": Text(16_384),
        **TAKEN_UP,
    },
}


class Stamped(msgspec.Struct, frozen=True, array_like=True):
    """A value and where it comes from. `wall_ns` is the writer's wall clock, believed as far as `clock` says. `authority`
    is the epoch of authority over the subject `under` in which it was written; 0 where there was none."""

    value: Value
    who: str
    writer: str
    epoch: int
    hlc: int
    wall_ns: int
    clock: Clock
    authority: int = 0
    under: str = ""

    @property
    def author(self) -> Author:
        return Author(self.writer, self.epoch)


class Conflict(NamedTuple):
    """Words written at once, neither having seen the other: the one that holds, and the others, latest first."""

    pointer: str
    effective: Stamped
    others: tuple[Stamped, ...]


class View(NamedTuple):
    """A document as people see it: each value that holds, and what else was said."""

    values: Mapping[str, Stamped]
    conflicts: tuple[Conflict, ...]


def effective(values: Sequence[Stamped]) -> Stamped:
    """The value that holds, of at least one: a clock that was to be believed before one that was not, then the later
    stamp, then the greater writer. The rest is there so that no two different values are ever equal."""
    return max(values, key=_rank)


def _rank(one: Stamped) -> tuple[bool, int, str, int, bytes]:
    return (one.clock is not Clock.NOT_TRUSTED, one.hlc, one.writer, one.epoch, encode(one))


def standing(values: Iterable[Stamped]) -> list[Stamped]:
    """The last word of each author: an author has always seen what it wrote before."""
    last: dict[Author, Stamped] = {}
    for one in values:
        held = last.get(one.author)
        last[one.author] = one if held is None else max(held, one, key=lambda each: (each.hlc, encode(each)))
    return list(last.values())


def view(kind: str, values: Mapping[str, Iterable[Stamped]]) -> View:
    """All that stands in a document of `kind`, by pointer. Two who wrote the same are of one mind."""
    shown: dict[str, Stamped] = {}
    conflicts: list[Conflict] = []
    for pointer in sorted(values):
        if field(kind, pointer) is None:
            continue
        shown[pointer], *others = apart(values[pointer])
        if others:
            conflicts.append(Conflict(pointer, shown[pointer], tuple(others)))
    return View(shown, tuple(conflicts))


def taken_up(pointer: str) -> bool:
    """Whether a field says who has taken something up."""
    return pointer.startswith(tuple(TAKEN_UP))


def apart(values: Iterable[Stamped]) -> list[Stamped]:
    """What stands against each other in one field: the word that holds, then the others. Two who wrote the same are of
    one mind, and count once."""
    words: list[Stamped] = []
    for one in sorted(standing(values), key=_rank, reverse=True):
        if not any(_same(one, other) for other in words):
            words.append(one)
    return words


def _same(one: Stamped, other: Stamped) -> bool:
    return one.value == other.value and isinstance(one.value, bool) == isinstance(other.value, bool)


def entries(shown: View, name: str) -> list[str]:
    """What is in a map of marks or texts: `entries(view, "tags/")` are the tags."""
    return [
        pointer.removeprefix(name)
        for pointer, one in shown.values.items()
        if pointer.startswith(name) and one.value is not None
    ]


def field(kind: str, pointer: str) -> Field | None:
    """What the schema says of a pointer; None when it does not know it."""
    name, slash, entry = pointer.partition("/")
    return SCHEMA.get(kind, {}).get(name + slash) if bool(slash) == bool(entry) else None


def wrong(kind: str, pointer: str, value: Value) -> str | None:
    """Why `value` may not stand at `pointer`, as a sentence; None when it may."""
    if not pointer or len(pointer) > pointer_chars_max or not pointer.isprintable():
        return f"a field's name is 1 to {pointer_chars_max} printable characters"
    if value is None:
        return None
    match field(kind, pointer):
        case Text(most):
            if not isinstance(value, str) or not _fits(value, most):
                return f"{pointer} is text of at most {most:,} bytes"
        case Number(low, high):
            if isinstance(value, bool | str) or not math.isfinite(value) or not low <= value <= high:
                return f"{pointer} is a number from {low:g} to {high:g}"
        case Flag():
            if not isinstance(value, bool):
                return f"{pointer} is true or false"
        case Mark():
            if value is not True:
                return f"{pointer} is there or not: true or nothing"
        case Span():
            within = span(value) if isinstance(value, str) else "it is text, such as 10..80"
            if isinstance(within, str):
                return f"{pointer}: {within}"
        case None:
            if isinstance(value, str) and not _fits(value, unknown_bytes_max):
                return f"{pointer} is over {unknown_bytes_max:,} bytes"
    return None


_RANGE = re.compile(r"\s*(-?\d{1,12}(?:\.\d{1,12})?)?\s*\.\.\s*(-?\d{1,12}(?:\.\d{1,12})?)?\s*", re.ASCII)
_span_chars_max = 64


def span(text: str) -> Range | str:
    """What "low..high" means, either end may be empty; else why it means nothing, as a sentence."""
    match = _RANGE.fullmatch(text) if len(text) <= _span_chars_max else None
    low, high = match.groups() if match else (None, None)
    if low is None and high is None:
        return f"{text[:40]!r} is no range; write 10..80, or ..80 for no lower end, or 10.. for no upper end"
    found = Range(float(low) if low else None, float(high) if high else None)
    if found.low is not None and found.high is not None and found.low > found.high:
        return f"{text[:40]!r} has its ends the wrong way round"
    return found


def wrong_stamp(stamp: Stamped) -> str | None:
    """Why nobody can have written so; None when somebody can."""
    if not 0 < len(stamp.who) <= who_chars_max or not stamp.who.isprintable():
        return f"who wrote it is a name of at most {who_chars_max} printable characters"
    if len(stamp.under) > under_chars_max or not 0 <= stamp.authority <= _NUMBER_MAX:
        return "the authority under which it was written is out of bounds"
    if not (0 <= stamp.epoch <= _NUMBER_MAX and 0 <= stamp.hlc <= _NUMBER_MAX and abs(stamp.wall_ns) <= _NUMBER_MAX):
        return "a number of the stamp is out of bounds"
    return None


def _fits(text: str, bytes_max: int) -> bool:
    return len(text) <= bytes_max and len(text.encode(errors="surrogatepass")) <= bytes_max


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Stamped).decode


def decode(text: str) -> Stamped:
    """ValueError when the text is no stamped value."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a stamped value: {error}") from error
