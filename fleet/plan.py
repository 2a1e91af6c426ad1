"""A site is back, and some fields were written on both sides: what settles by itself, what needs a person, what may not be?

A *dispute* is a field in which words stand that were written without knowledge of each other. A plan makes one step of
each: automatic, by a rule that says which word; for a person, with a proposal and the rule behind it; or refused.

Rules of the file
  1  A plan is a function of what stands and of nothing else: the same words make the same plan, and the same hash, on
     both sides and in whatever order they came.
  2  A rule settles a field only where nobody loses anything by it. Whatever two people meant differently is a person's.
  3  Nothing here writes. What is refused cannot be taken from here at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fleet import document
from fleet.document import Mark, Span, Stamped, Text, Value
from fleet.events import Clock

decisions_max = 1_000  # in one application
why_chars_max = 300
LEAVE = -1  # a decision: it stays open


class Sort(StrEnum):
    AUTOMATIC = "automatic"
    PERSON = "person"
    REFUSED = "refused"


class Rule(StrEnum):
    SAME = "same"
    ONE_CHANGED = "one changed"
    ADDED = "added"
    ALLOWED = "allowed"
    AUTHORITY = "authority"
    CLOCK = "clock"
    LATER = "later"
    NO_FIELD = "no field"
    SCHEMA = "schema"
    PARKED = "parked"


SORT: Mapping[Rule, Sort] = {
    Rule.SAME: Sort.AUTOMATIC,
    Rule.ONE_CHANGED: Sort.AUTOMATIC,
    Rule.ADDED: Sort.AUTOMATIC,
    Rule.ALLOWED: Sort.AUTOMATIC,
    Rule.AUTHORITY: Sort.PERSON,
    Rule.CLOCK: Sort.PERSON,
    Rule.LATER: Sort.PERSON,
    Rule.NO_FIELD: Sort.REFUSED,
    Rule.SCHEMA: Sort.REFUSED,
    Rule.PARKED: Sort.REFUSED,
}

_WHY: Mapping[Rule, str] = {
    Rule.SAME: "Both wrote the same, only spelled differently.",
    Rule.ONE_CHANGED: "Only {who} changed it; the other ended where it began.",
    Rule.ADDED: "A mark that somebody put stays: taking it away later is one click, missing it is not seen.",
    Rule.ALLOWED: "Only this one may stand there: {wrong}.",
    Rule.AUTHORITY: "{who} wrote it, and decides on it now.",
    Rule.CLOCK: "{who} wrote it by a clock that was to be trusted, the other was not.",
    Rule.LATER: "{who} wrote it later.",
    Rule.NO_FIELD: "This version knows no field of this name. Bring this box to a newer version, then look again.",
    Rule.SCHEMA: "None of them may stand there: {wrong}. Write a new value on its own page.",
}


class Place(NamedTuple):
    """A field of a document."""

    kind: str
    document: str
    pointer: str


class Dispute(NamedTuple):
    """Words that stand against each other, the one that holds first. `base` is what they all had seen: None also where
    there was nothing; where nobody can tell, `based` is false. `deciders`: the writers who have authority there now."""

    place: Place
    words: tuple[Stamped, ...]
    base: Value = None
    based: bool = False
    deciders: tuple[str, ...] = ()


class Parked(NamedTuple):
    """A word without authority behind it (`fleet.authority`), beside the one that holds, if any. `why` is a sentence."""

    place: Place
    word: Stamped
    why: str
    holds: Stamped | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """`words`: the first holds now (of a parked word alone nothing does). `choice` is the one that the rule takes or
    proposes; None where nothing is to be taken."""

    id: str  # 16 hex digits, the same for the same field
    place: Place
    sort: Sort
    rule: Rule
    words: tuple[Stamped, ...]
    choice: int | None = None
    base: Value = None
    based: bool = False
    why: str = ""

    @property
    def holds(self) -> Stamped | None:
        """What holds there now. None where only a parked word stands."""
        return None if self.rule is Rule.PARKED and len(self.words) == 1 else self.words[0]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Steps in canonical order: for a person, automatic, refused; and in each by field. `hash` is over all of it, `state`
    over what holds now in each field (`state_hash`); both hexadecimal."""

    steps: tuple[Step, ...]
    hash: str
    state: str

    def of(self, sort: Sort) -> tuple[Step, ...]:
        return tuple(one for one in self.steps if one.sort is sort)


def plan(disputes: Iterable[Dispute], parked: Iterable[Parked] = ()) -> Plan:
    steps = [*map(_step, disputes), *map(_parked, parked)]
    steps.sort(key=lambda one: (_ORDER[one.sort], one.place, one.id))
    held = {one.place: None if one.holds is None else one.holds.value for one in steps}
    return Plan(
        steps=tuple(steps), hash=_digest("skerry plan 1", map(_canonical, steps)), state=state_hash(held.items())
    )


_ORDER = {Sort.PERSON: 0, Sort.AUTOMATIC: 1, Sort.REFUSED: 2}


def state_hash(held: Iterable[tuple[Place, Value]]) -> str:
    """SHA-256 over what holds in these fields: values alone, by field, no stamps."""
    return _digest("skerry state 1", ((*place, value) for place, value in sorted(held, key=lambda one: one[0])))


def _digest(what: str, rows: Iterable[Sequence[object]]) -> str:
    whole = hashlib.sha256(what.encode())
    for row in rows:
        raw = _encode(row)
        whole.update(len(raw).to_bytes(4) + raw)
    return whole.hexdigest()


_encode = msgspec.json.Encoder().encode


def _canonical(one: Step) -> Sequence[object]:
    return (*one.place, one.sort, one.rule, one.choice, one.based, one.base, [_said(word) for word in one.words])


def _said(word: Stamped) -> Sequence[object]:
    """Named one by one: a newer version's stamp may hold more, and makes the same plan."""
    return word.value, word.who, word.writer, word.epoch, word.hlc, word.wall_ns, int(word.clock)


def _id(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# -- one step --------------------------------------------------------------------------------------------------


def _step(dispute: Dispute) -> Step:
    place, words = dispute.place, dispute.words
    wrong = [document.wrong(place.kind, place.pointer, word.value) for word in words]
    rule, choice = _decided(dispute, wrong)
    why = _WHY[rule].format(
        who=words[choice].who if choice is not None else "", wrong=next(filter(None, wrong), "nobody knows why")
    )
    return Step(
        id=_id(*place),
        place=place,
        sort=SORT[rule],
        rule=rule,
        words=words,
        choice=choice,
        base=dispute.base,
        based=dispute.based,
        why=why,
    )


def _parked(parked: Parked) -> Step:
    word = parked.word
    return Step(
        id=_id(*parked.place, word.writer, str(word.epoch), str(word.hlc)),
        place=parked.place,
        sort=Sort.REFUSED,
        rule=Rule.PARKED,
        words=(word,) if parked.holds is None else (parked.holds, word),
        why=parked.why,
    )


def _decided(dispute: Dispute, wrong: Sequence[str | None]) -> tuple[Rule, int | None]:
    """The first rule that fits, and the word that it takes."""
    place, words = dispute.place, dispute.words
    said = document.field(place.kind, place.pointer)
    if said is None:
        return Rule.NO_FIELD, None
    allowed = [index for index, reason in enumerate(wrong) if reason is None]
    if len(allowed) < 2:
        return (Rule.ALLOWED, allowed[0]) if allowed else (Rule.SCHEMA, None)
    meant = {index: _meaning(said, words[index].value) for index in allowed}
    if len(set(meant.values())) == 1:
        return Rule.SAME, allowed[0]
    if dispute.based:
        changed = [index for index in allowed if meant[index] != _meaning(said, dispute.base)]
        if len({meant[index] for index in changed}) == 1:
            return Rule.ONE_CHANGED, changed[0]
    if isinstance(said, Mark):
        return Rule.ADDED, next(index for index in allowed if words[index].value is not None)
    return _proposed(dispute, allowed)


def _proposed(dispute: Dispute, allowed: Sequence[int]) -> tuple[Rule, int]:
    """Who has authority; else a clock that was to be trusted; else the later. The words stand in the order of the last
    two already (`document.effective`)."""
    words = dispute.words
    theirs = [index for index in allowed if words[index].writer in dispute.deciders]
    if theirs and len(theirs) < len(allowed):
        return Rule.AUTHORITY, theirs[0]
    best = document.effective([words[index] for index in allowed])
    first = next(index for index in allowed if words[index] == best)
    trusted = [words[index].clock is not Clock.NOT_TRUSTED for index in allowed]
    return (Rule.LATER if all(trusted) or not any(trusted) else Rule.CLOCK), first


def _meaning(said: document.Field, value: Value) -> object:
    """What a value comes to, however it is spelled; never equal to another's meaning."""
    if value is None:
        return None
    if isinstance(value, str) and isinstance(said, Text):
        return value.strip() or None
    if isinstance(value, str) and isinstance(said, Span):
        return document.span(value)
    return isinstance(value, bool), value


# -- what a person chose ------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    step: Step
    choice: int

    @property
    def taken(self) -> Stamped:
        return self.step.words[self.choice]


def chosen(made: Plan, decisions: Mapping[str, int]) -> tuple[Chosen, ...] | str:
    """The decisions that are to be carried out, in the order of the plan; else why they cannot be, as a sentence."""
    steps = {one.id: one for one in made.steps}
    strange = decisions.keys() - steps.keys()
    if strange:
        return f"the plan has no step {min(strange)[:32]!r}; look at it again"
    found = [Chosen(one, decisions[one.id]) for one in made.steps if decisions.get(one.id, LEAVE) != LEAVE]
    for step, choice in found:
        if step.sort is Sort.REFUSED:
            return f"{step.place.pointer} cannot be settled here: {step.why}"
        if not 0 <= choice < len(step.words):
            return f"there is no such choice for {step.place.pointer}; look again"
        if reason := document.wrong(step.place.kind, step.place.pointer, step.words[choice].value):
            return f"that may not stand there: {reason}"
    if not found:
        return "nothing was chosen; every decision says to leave it as it is"
    if len(found) > decisions_max:
        return f"at most {decisions_max:,} decisions at a time; choose fewer"
    return tuple(found)


def proposals(steps: Collection[Step]) -> dict[str, int]:
    """What the rules take or propose, for the steps that have it."""
    return {one.id: one.choice for one in steps if one.choice is not None}
