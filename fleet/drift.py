"""How does a node differ from what is wanted of it, since when, and who wanted it?

Wanted is the policy bundle's document overlaid by the node's own, pointer by pointer; found is the node's present. Both
are stored, and what follows from them never is: it is worked out at each look.

Rules of the file
  1  What is not known is neither in line nor out of it: nothing was found, the site is not heard, the bundle is not here
     yet, or a silent node's last reading. It has a count of its own.
  2  A want that cannot be read is a difference with a sentence, never a want that is met.
  3  The score of a node is the weight of what it does not meet out of what is known of it, 0 to 100: 0 is as wanted, 100
     is nothing as wanted. A version weighs 3, being online 2, every other want 1. What is unknown has no score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fleet.connectivity import REACH, Reach
from fleet.document import Range, Stamped, span
from fleet.metrics import BY_NAME
from fleet.present import Present

THIS_NODE = "this node"
VERSION, ONLINE, BATTERY, CONSTRAINTS = "target_version", "requires_online", "min_battery_pct", "constraints/"
_WEIGHTS = {VERSION: 3, ONLINE: 2}


class Standing(StrEnum):
    IN_LINE = "in line"
    OUT = "out of spec"
    UNKNOWN = "unknown"
    FREE = "nothing wanted"


class Want(NamedTuple):
    """One thing wanted of a node. `value` is None where the text cannot be read; `problem` says why."""

    field: str  # in the document
    pointer: str  # where it is found
    text: str
    value: str | Range | bool | None
    source: str  # the bundle's name, or "this node"
    since_ns: int  # when it was written
    problem: str = ""

    @property
    def metric(self) -> str:
        return self.pointer.removeprefix("/values/")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wanted and what was found: where (a JSON pointer), how the two stand, which document wants it, since when
    they have stood so as far as is known, when it was found. `words` say what the two values do not."""

    pointer: str
    wanted: str | None
    found: str | None
    standing: Standing = Standing.OUT
    source: str = ""
    since_ns: int | None = None
    found_at_ns: int | None = None
    wanted_ns: int | None = None
    words: str = ""


class Verdict(NamedTuple):
    """Of one node. `lines` are all that is wanted of it, what differs first. `score` is None where nothing is known."""

    standing: Standing
    score: int | None
    lines: tuple[Difference, ...]

    @property
    def out(self) -> tuple[Difference, ...]:
        return tuple(line for line in self.lines if line.standing is Standing.OUT)


FREE = Verdict(Standing.FREE, None, ())


# -- what is wanted ----------------------------------------------------------------------------------------------


def is_want(field: str) -> bool:
    return field in (VERSION, ONLINE, BATTERY) or field.startswith(CONSTRAINTS)


def said(values: Mapping[str, Stamped]) -> dict[str, Stamped]:
    """Of a document's values, those that want something of a node."""
    return {field: one for field, one in values.items() if is_want(field) and one.value is not None and one.value != ""}


def wants(bundle: Mapping[str, Stamped], name: str, own: Mapping[str, Stamped]) -> tuple[Want, ...]:
    """What `said` of the bundle called `name` and of the node's own document want together."""
    over = [(field, one, name) for field, one in bundle.items() if field not in own]
    over += [(field, one, THIS_NODE) for field, one in own.items()]
    found = (_want(field, one, source) for field, one, source in over)
    return tuple(sorted((one for one in found if one is not None), key=_order))


def _order(one: Want) -> tuple[int, str]:
    return (-_WEIGHTS.get(one.field, 1), one.pointer)


def _want(field: str, one: Stamped, source: str) -> Want | None:
    text, value = _text(one.value), one.value
    if field == VERSION:
        return Want(field, "/actual/reported_version", text, text, source, one.wall_ns)
    if field == ONLINE:
        if value is False:
            return None
        asked = True if value is True else None
        return Want(field, "/connectivity/mode", "online", asked, source, one.wall_ns, _not(value is True))
    if field == BATTERY:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = Range(float(value), None) if number and isinstance(value, int | float) else None
        return Want(field, "/values/battery_pct", f"{text}..", least, source, one.wall_ns, _not(number))
    within, pointer = span(text), f"/values/{field.removeprefix(CONSTRAINTS)}"
    if isinstance(within, str):
        return Want(field, pointer, text, None, source, one.wall_ns, within)
    return Want(field, pointer, text, within, source, one.wall_ns)


def _not(good: bool) -> str:
    return "" if good else "what is wanted here cannot be read; write it again"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


# -- what is found -----------------------------------------------------------------------------------------------


def weigh(wanted: Sequence[Want], found: Present, *, heard: bool, missing: bool = False) -> tuple[Standing, ...]:
    """How each want stands, in their order; with a missing bundle, one more that is unknown. Quick: it is asked for every
    node that is told anew."""
    if not heard:
        return (Standing.UNKNOWN,) * (len(wanted) + missing)
    reach = REACH[found.mode]
    return (*[_stands(want, found, reach) for want in wanted], *((Standing.UNKNOWN,) if missing else ()))


def _stands(want: Want, found: Present, reach: Reach) -> Standing:
    value = want.value
    if value is None:
        return Standing.OUT
    if isinstance(value, str):
        if found.version is None:
            return Standing.UNKNOWN
        return Standing.IN_LINE if value == found.version else Standing.OUT
    if isinstance(value, bool):
        if reach is Reach.UNKNOWN:
            return Standing.UNKNOWN
        return Standing.OUT if reach is Reach.OFFLINE else Standing.IN_LINE
    told = found.values.get(want.metric)
    if told is None or reach is Reach.UNKNOWN or reach is Reach.OFFLINE:
        return Standing.UNKNOWN
    return Standing.IN_LINE if value.holds(told.value) else Standing.OUT


def judge(
    wanted: Sequence[Want],
    found: Present,
    *,
    heard: bool,
    missing: str = "",
    version_ns: int | None = None,
    former: Iterable[Difference] = (),
) -> Verdict:
    """How a node stands. `heard`: its site is; `missing`: the bundle that it refers to and that nobody here knows;
    `version_ns`: since when it runs what it runs, where that is known; `former`: the lines of the look before, so that
    what was out of spec then is so since then."""
    if not wanted and not missing:
        return FREE
    stands = weigh(wanted, found, heard=heard, missing=bool(missing))
    before = {(one.pointer, one.wanted): one for one in former if one.standing is Standing.OUT}
    lines = [
        _line(want, standing, found, heard, version_ns, before) for want, standing in zip(wanted, stands, strict=False)
    ]
    if missing:
        words = "this bundle is not here yet, so nobody here knows what it wants"
        lines.append(
            Difference(
                pointer="/desired/policy_bundle_id", wanted=missing, found=None, standing=Standing.UNKNOWN, words=words
            )
        )
    lines.sort(key=lambda line: _FIRST[line.standing])
    weights = [(_WEIGHTS.get(want.field, 1), standing) for want, standing in zip(wanted, stands, strict=False)]
    known = sum(weight for weight, standing in weights if standing is not Standing.UNKNOWN)
    out = sum(weight for weight, standing in weights if standing is Standing.OUT)
    return Verdict(lines[0].standing, round(100 * out / known) if known else None, tuple(lines))


_FIRST = {Standing.OUT: 0, Standing.UNKNOWN: 1, Standing.IN_LINE: 2}


def _line(
    want: Want,
    standing: Standing,
    found: Present,
    heard: bool,
    version_ns: int | None,
    before: Mapping[tuple[str, str | None], Difference],
) -> Difference:
    text, at_ns, came_ns = _found(want, found, version_ns)
    words = want.problem
    if standing is Standing.UNKNOWN:
        words = (
            "its site is not heard" if not heard else "the node is silent" if text is not None else "it has not told"
        )
    since_ns = max(want.since_ns, came_ns) if came_ns is not None else None
    last = before.get((want.pointer, want.text))
    if last is not None and last.since_ns is not None:
        since_ns = max(last.since_ns, want.since_ns)
    return Difference(
        pointer=want.pointer,
        wanted=want.text,
        found=text,
        standing=standing,
        source=want.source,
        since_ns=since_ns if standing is Standing.OUT else None,
        found_at_ns=at_ns,
        wanted_ns=want.since_ns,
        words=words,
    )


def _found(want: Want, found: Present, version_ns: int | None) -> tuple[str | None, int | None, int | None]:
    """As text, when it was found, and when it came to be so."""
    if want.field == VERSION:
        return found.version, found.seen_ns, version_ns
    if want.field == ONLINE:
        return (found.mode.value.lower() if found.mode is not None else None), found.seen_ns, found.since_ns
    told = found.values.get(want.metric)
    return (None, None, None) if told is None else (f"{told.value:g}", told.at_ns, told.at_ns)


# -- in words ----------------------------------------------------------------------------------------------------


def label(pointer: str) -> str:
    """What a pointer is called: Version, Online, Battery …"""
    name = pointer.rpartition("/")[2]
    if pointer.startswith("/values/"):
        known = BY_NAME.get(name)
        return known.label if known else name
    return _LABELS.get(name, name.replace("_", " ").capitalize())


_LABELS = {"reported_version": "Version", "mode": "Online", "policy_bundle_id": "Policy bundle"}


def unit(pointer: str) -> str:
    known = BY_NAME.get(pointer.removeprefix("/values/")) if pointer.startswith("/values/") else None
    return known.unit if known else ""


def reason(line: Difference) -> str:
    """Why a node is out of spec, alike for all nodes that are so in the same way: what a count of reasons counts."""
    what = label(line.pointer)
    if line.words:
        return f"{what}: {line.words}"
    if line.pointer == "/actual/reported_version":
        return f"runs {line.found}, wanted {line.wanted}"
    if line.pointer == "/connectivity/mode":
        return "not online, wanted online"
    within, of = span(line.wanted or ""), unit(line.pointer)
    if isinstance(within, str) or None not in within:
        return f"{what} outside {wanted(line)}"
    side, end = ("over", within.high) if within.low is None else ("under", within.low)
    return f"{what} {side} {_text(end)} {of}".rstrip()


def wanted(line: Difference) -> str:
    """What is wanted, as people say it: at least 20 %, 10 to 80 ms, 1.4.2."""
    text, of = line.wanted or "nothing", unit(line.pointer)
    within = span(text) if line.pointer.startswith("/values/") else text
    if isinstance(within, str):
        return text
    low, high = (_text(end) if end is not None else "" for end in within)
    said = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return f"{said} {of}".rstrip()
