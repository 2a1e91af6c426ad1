"""A plan (`fleet.plan`) as pages and programs see it: values as text, names for ids, a page of what needs a person.

Values in, values out; the box says what its documents, sites and writers are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fleet.document import Stamped, Value
from fleet.plan import Chosen, Plan, Sort, Step
from web.ports import Choice, Identity, PlanChange, PlanDone, PlanQuery, PlanStep, PlanView, PlanWish
from web.words import said

LISTED_MAX = 200  # of what settles by rule, and of what is refused
DONE_MAX = 10


class Names(NamedTuple):
    """`about`: name and domain of a document, by kind and id. `where`: the place of a log's writer. `site_of`: the site
    of a node, by id."""

    about: Mapping[tuple[str, str], tuple[str, str]]
    where: Callable[[str], str]
    site_of: Callable[[str], str]


def view(
    made: Plan,
    names: Names,
    query: PlanQuery,
    *,
    now_ns: int,
    site: str,
    done: Sequence[PlanDone],
    sites: tuple[tuple[str, str], ...] = (),
) -> PlanView:
    matching = list(_matching(made, names, query))
    persons, automatic, refused = (
        [one for one in matching if one.sort is sort] for sort in (Sort.PERSON, Sort.AUTOMATIC, Sort.REFUSED)
    )
    return PlanView(
        now_ns=now_ns,
        peer=query.peer,
        site=site,
        plan=made.hash,
        state=made.state,
        counts={str(sort): len(made.of(sort)) for sort in Sort},
        fields=tuple(sorted({_field(one) for one in made.steps})),
        matching=len(persons),
        steps=_shown(persons[query.offset : query.offset + query.limit], names),
        automatic=_shown(automatic[:LISTED_MAX], names),
        refused=_shown(refused[:LISTED_MAX], names),
        done=tuple(done[:DONE_MAX]),
        sites=sites,
    )


def _field(one: Step) -> str:
    return one.place.pointer.partition("/")[0]


def _matching(made: Plan, names: Names, query: PlanQuery) -> Iterable[Step]:
    wanted = query.text.lower()
    for one in made.steps:
        if query.sort in ("", one.sort) and query.field in ("", _field(one)):
            about = names.about.get(one.place[:2], ("", ""))
            if not wanted or wanted in "\n".join((*about, _site(one, names), *map(_text, one.words))).lower():
                yield one


def _text(word: Stamped) -> str:
    return said(word.value)


def _site(one: Step, names: Names) -> str:
    return names.site_of(one.place.document) if one.place.kind == "node" else ""


def _shown(steps: Iterable[Step], names: Names) -> tuple[PlanStep, ...]:
    return tuple(
        PlanStep(
            id=one.id,
            sort=one.sort,
            rule=one.rule,
            kind=one.place.kind,
            document=one.place.document,
            name=_name(one, names),
            domain=names.about.get(one.place[:2], ("", ""))[1],
            site=_site(one, names),
            field=one.place.pointer,
            choices=tuple(choice(word, names.where) for word in one.words),
            choice=one.choice,
            base=said(one.base) if one.based else None,
            why=one.why,
        )
        for one in steps
    )


def _name(one: Step, names: Names) -> str:
    return names.about.get(one.place[:2], ("", ""))[0] or one.place.document


def choice(word: Stamped, where: Callable[[str], str]) -> Choice:
    value: Value = word.value
    return Choice(value=said(value), by=word.who, where=where(word.writer), at_ns=word.wall_ns, clock=word.clock)


def done(plan: str, site: str, at_ns: int, decisions: int, actor: str, why: str, undone_ns: int | None) -> PlanDone:
    return PlanDone(plan=plan, site=site, at_ns=at_ns, decisions=decisions, by=actor, why=why, undone_ns=undone_ns)


def wished(who: Identity, wish: PlanWish) -> dict[str, Any]:
    """The fields of `store.disputes.Wish`."""
    return {
        "plan": wish.plan,
        "state": wish.state,
        "decisions": wish.decisions,
        "actor": who.name,
        "why": wish.why,
        "automatic": wish.automatic,
    }


def changes(chosen: Sequence[Chosen], names: Names) -> tuple[PlanChange, ...]:
    """What decisions would change."""
    return tuple(
        PlanChange(
            name=_name(one.step, names),
            site=_site(one.step, names),
            domain=names.about.get(one.step.place[:2], ("", ""))[1],
            field=one.step.place.pointer,
            former=said(one.step.words[0].value),
            value=said(one.taken.value),
            by=one.taken.who,
        )
        for one in chosen
    )
