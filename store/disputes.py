"""What stands against each other in the documents of this box, as a plan; and what people decide of it, carried out as a
whole and undone as a whole. Hub and site do the same.

Rules of the file
  1  A plan is made from what stands, each time anew; what is kept between two looks is found again by the heads of its
     document, so it cannot be old.
  2  Decisions name the plan and the state that they were made on. On any other they are refused, whole.
  3  All edits of one application, and the events that say who decided what and why, are one transaction.
  4  An undo writes what held before, and only where nobody has written since.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from fleet import authority
from fleet import document as words
from fleet import plan as plans
from fleet.authority import HUB, NOBODY, Chain
from fleet.document import Id, Kind, Value, View
from fleet.envelope import Log
from fleet.events import ConflictDecided, PlanApplied, PlanUndone, Recorded
from fleet.people import Refused
from fleet.plan import Chosen, Dispute, Parked, Place, Plan
from store import document, journal
from store.document import Open
from store.journal import Journal
from store.shared import Shared

SUBJECT = "plan"
kept_max = 20_000  # documents whose open fields are remembered between two looks
made_max = 64  # plans, for so many sites
recent_max = 200  # applications that can be undone
_LEFT_CHARS_MAX = 1_000
_SHOWN_MAX = 3

Route = tuple[Log | None, Sequence[Log]]  # the log that an edit is said in (None: this box's own), and where again


class About(NamedTuple):
    """What a document is called, and the domain that a node is in, by name."""

    name: str
    domain: str = ""


class _Found(NamedTuple):
    """All that a plan says of one document follows from this."""

    document: Id
    heads: bytes
    chain: Chain
    open: Open


class Looked(NamedTuple):
    plan: Plan
    about: Mapping[tuple[str, str], About]  # by kind and id


class Wish(NamedTuple):
    """What a person decided of the plan with this hash, made on this state; `decisions` is choices by step. `automatic`:
    what settles by rule too, as far as one application may hold."""

    plan: str
    state: str
    decisions: Mapping[str, int]
    actor: str
    why: str
    automatic: bool = False


class Application(NamedTuple):
    """A plan that was carried out, or part of one. `undone_ns` is None while it stands."""

    plan: str
    site: str
    at_ns: int
    decisions: int
    actor: str
    why: str
    undone_ns: int | None = None


class Done(NamedTuple):
    plan: str
    before: str
    after: str
    decisions: int
    documents: tuple[tuple[str, str], ...]


OLDER = (
    "This plan was made on an older state: something was written or came in since. Nothing was carried out; what you see"
    " now is the plan as it is."
)


class Disputes:
    """`route` says in which logs an edit of a document is said; it may refuse."""

    def __init__(
        self, tenant: str, journal_: Journal, shared: Shared, route: Callable[[sqlite3.Connection, Id], Route]
    ) -> None:
        self._tenant, self._journal, self._shared, self._route = tenant, journal_, shared, route
        self._held: dict[tuple[str, str], tuple[bytes, Open]] = {}
        self._made: dict[frozenset[str] | None, tuple[list[_Found], Plan]] = {}

    # -- looking ------------------------------------------------------------------------------------------------

    def look(self, db: sqlite3.Connection, nodes: frozenset[str] | None = None) -> Looked:
        """The plan for these nodes and all that is common; None is for all. Any thread may ask."""
        found = list[_Found]()
        for (kind, name), heads in self._disputed(db).items():
            if nodes is None or kind != Kind.NODE or name in nodes:
                one = Id(self._tenant, kind, name)
                open_ = self._open(db, one, heads)
                found.append(_Found(one, heads, self._chain(one, open_), open_))
        made = self._made.get(nodes)
        if made is None or made[0] != found:
            parked = list[Parked]()
            disputes = [each for one in found for each in _judged(one, parked)]
            if len(self._made) >= made_max:
                self._made.clear()
            made = self._made[nodes] = found, plans.plan(disputes, parked)
        return Looked(made[1], self._about(db, {one.document[1:]: one.open for one in found}))

    def _chain(self, one: Id, open_: Open) -> Chain:
        rights = self._shared.rights
        return (
            rights.of_node(one.id, open_.view) if rights and rights.state.claims and one.kind == Kind.NODE else NOBODY
        )

    def _disputed(self, db: sqlite3.Connection) -> dict[tuple[str, str], bytes]:
        """The documents that are open in any of their generations, and all their heads."""
        found: dict[tuple[str, str], bytes] = {}
        for kind, name, heads in db.execute(_DISPUTED, (self._tenant,)):
            found[kind, name] = found.get((kind, name), b"") + b"/" + heads
        return found

    def _open(self, db: sqlite3.Connection, one: Id, heads: bytes) -> Open:
        at = one[1:]
        held = self._held.get(at)
        if held is None or held[0] != heads:
            if len(self._held) >= kept_max:
                self._held.clear()
            held = self._held[at] = heads, document.opened(one, document.current(db, one))
        return held[1]

    def _about(self, db: sqlite3.Connection, open_: Mapping[tuple[str, str], Open]) -> dict[tuple[str, str], About]:
        said = {at: (_text(found.view, "name"), _text(found.view, "domain_id")) for at, found in open_.items()}
        domains = {name for _, name in said.values() if name}
        views = {name: document.look(db, Id(self._tenant, Kind.DOMAIN, name)) for name in domains}
        called = {name: _text(view, "name") or name for name, view in views.items()}
        return {at: About(name, called.get(domain, "")) for at, (name, domain) in said.items()}

    def recent(self, db: sqlite3.Connection, site: str | None = None) -> list[Application]:
        """What was carried out, newest first; of one site, if given."""
        undone, found = dict[str, int](), list[Application]()
        for one in journal.rows_to_events(db.execute(*journal.newest(1 << 62, recent_max, SUBJECT, None)).fetchall()):
            body = one.body
            if isinstance(body, PlanUndone):
                undone[body.plan] = one.wall_ns
            elif isinstance(body, PlanApplied) and site in (None, body.site):
                made = Application(body.plan, body.site, one.wall_ns, body.decisions, body.actor, body.why)
                found.append(made._replace(undone_ns=undone.get(body.plan)))
        return found

    # -- deciding -----------------------------------------------------------------------------------------------

    def apply(
        self, db: sqlite3.Connection, wish: Wish, nodes: frozenset[str] | None, site: str, log: Log | None
    ) -> Done:
        """Carry out decisions, in the caller's transaction. `site` and `log`: whose plan it is, and where the event about
        the whole is said. Refused (409, 422) when it is not the plan any more, or cannot be done; nothing is done then."""
        chosen = chosen_of(self.look(db, nodes).plan, wish)
        before = plans.state_hash((one.step.place, one.step.words[0].value) for one in chosen)
        values = {one.step.place: one.taken.value for one in chosen}
        routes = self._write(db, values, wish.actor)
        for one in chosen:
            self._journal.stage(one.step.place.document, _decided(one, wish), routes[one.step.place[:2]][0])
        done = Done(wish.plan, before, self._state(db, values), len(chosen), tuple(routes))
        said = PlanApplied(site, done.plan, before, done.after, done.decisions, done.documents, wish.actor, wish.why)
        self._journal.stage(SUBJECT, said, log)
        return done

    def undo(
        self, db: sqlite3.Connection, plan: str, actor: str, why: str, log_of: Callable[[str], Log | None]
    ) -> Done:
        """Write what held before the plan with this hash was applied; `log_of` as `log` in `apply`, by site. Refused (404,
        409) when there is none, or somebody has written there since."""
        recorded = journal.rows_to_events(db.execute(*journal.newest(1 << 62, recent_max, SUBJECT, None)).fetchall())
        if any(isinstance(one.body, PlanUndone) and one.body.plan == plan for one in recorded):
            raise Refused("That was undone already.")
        found = next((one for one in recorded if isinstance(one.body, PlanApplied) and one.body.plan == plan), None)
        if found is None or not isinstance(found.body, PlanApplied):
            raise Refused(f"There is no such plan among the last {recent_max} that were applied here.", 404)
        applied = found.body
        decided = self._decided(db, applied)
        since = self._since(db, decided)
        if since:
            more = f"; and {len(since) - _SHOWN_MAX} more" if len(since) > _SHOWN_MAX else ""
            raise Refused(
                f"It cannot be undone as a whole, for somebody has written there since: {'; '.join(since[:_SHOWN_MAX])}"
                f"{more}. Change what you want changed on its own page."
            )
        former = {place: body.former for place, (_, body) in decided.items()}
        routes = self._write(db, former, actor)
        done = Done(plan, applied.state_after, self._state(db, former), len(former), tuple(routes))
        if done.after != applied.state_before:
            raise Refused("It cannot be undone: what held before would not hold again. Somebody is writing there now.")
        said = PlanUndone(applied.site, plan, done.before, done.after, done.decisions, actor, why)
        self._journal.stage(SUBJECT, said, log_of(applied.site))
        return done

    def _write(self, db: sqlite3.Connection, values: Mapping[Place, Value], actor: str) -> dict[tuple[str, str], Route]:
        """One edit for each document. Where each was said."""
        by: dict[tuple[str, str], dict[str, Value]] = {}
        for place, value in values.items():
            by.setdefault(place[:2], {})[place.pointer] = value
        routes: dict[tuple[str, str], Route] = {}
        for at, said in by.items():
            one = Id(self._tenant, *at)
            log, also = routes[at] = self._route(db, one)
            made = self._shared.edit(db, one, said, actor, log, also)
            if isinstance(made, document.Refused):
                name = _text(self._view(db, one), "name") or one.id
                raise Refused(f"Nothing was carried out, because of {name}: {made.reason}", 422)
        return routes

    def _state(self, db: sqlite3.Connection, values: Mapping[Place, Value]) -> str:
        views = {at: self._view(db, Id(self._tenant, *at)) for at in {place[:2] for place in values}}
        return plans.state_hash((place, _value(views[place[:2]], place.pointer)) for place in values)

    def _view(self, db: sqlite3.Connection, one: Id) -> View:
        return self._shared.judged(db, one).view

    def _decided(self, db: sqlite3.Connection, applied: PlanApplied) -> _Decisions:
        found: _Decisions = {}
        for kind, name in applied.documents:
            query = journal.newest(1 << 62, recent_max * 10, name, ConflictDecided.KIND)
            for one in journal.rows_to_events(db.execute(*query).fetchall()):
                body = one.body
                if isinstance(body, ConflictDecided) and (body.plan, body.document_kind) == (applied.plan, kind):
                    found[Place(kind, name, body.pointer)] = one, body
        if len(found) != applied.decisions:
            raise Refused("Not all of its decisions are known here. Undo it where it was applied.")
        return found

    def _since(self, db: sqlite3.Connection, decided: _Decisions) -> list[str]:
        """What was written after these decisions, in words: where not the word stands that came with each."""
        views = {at: self._view(db, Id(self._tenant, *at)) for at in {place[:2] for place in decided}}
        said: list[str] = []
        for place in sorted(decided):
            (recorded, body), view = decided[place], views[place[:2]]
            stands = view.values.get(place.pointer)
            against = [each.others for each in view.conflicts if each.pointer == place.pointer]
            newest = against[0][0] if against else stands
            by_it = stands is not None and stands.author == (recorded.writer, recorded.epoch)
            if against or stands is None or not by_it or stands.value != body.taken or stands.hlc > recorded.hlc:
                by = f" by {newest.who}" if newest is not None else ""
                said.append(f"{place.pointer} of {_text(view, 'name') or place.document}{by}")
        return said


_Decisions = dict[Place, tuple[Recorded, ConflictDecided]]

_DISPUTED = (
    "SELECT here.kind, here.id, here.heads FROM"
    " (SELECT DISTINCT tenant, kind, id FROM document WHERE tenant=? AND disputed) AS open"
    " CROSS JOIN document AS here ON (here.tenant, here.kind, here.id)=(open.tenant, open.kind, open.id)"
    " ORDER BY here.kind, here.id, here.generation"
)


def chosen_of(made: Plan, wish: Wish) -> tuple[Chosen, ...]:
    """What is to be carried out. Refused (409) when the wish is of another plan, (422) when it cannot be."""
    if (made.hash, made.state) != (wish.plan, wish.state):
        raise Refused(OLDER)
    decisions = dict(wish.decisions)
    if wish.automatic:
        room = max(plans.decisions_max - len(decisions), 0)
        decisions = plans.proposals(made.of(plans.Sort.AUTOMATIC)[:room]) | decisions
    chosen = plans.chosen(made, decisions)
    if isinstance(chosen, str):
        raise Refused(chosen[:1].upper() + chosen[1:].rstrip(".") + ".", 422)
    return chosen


def _decided(one: Chosen, wish: Wish) -> ConflictDecided:
    place, step = one.step.place, one.step
    left = tuple(
        (word.who, "" if word.value is None else str(word.value)[:_LEFT_CHARS_MAX])
        for index, word in enumerate(step.words)
        if index != one.choice
    )
    former, why = step.words[0].value, wish.why or step.why
    return ConflictDecided(
        place.kind, place.document, place.pointer, one.taken.value, former, left, step.rule, wish.plan, wish.actor, why
    )


def _judged(found: _Found, parked: list[Parked]) -> list[Dispute]:
    """The disputes of a document, among the words that take effect; the others go to `parked`."""
    (_, kind, name), stands = found.document, found.open.stands
    values = {stand.pointer: stand.words for stand in stands}
    judged = authority.judge(kind, values, found.chain)
    parked += [
        Parked(Place(kind, name, each.pointer), each.stamped, each.why, judged.view.values.get(each.pointer))
        for each in judged.parked
    ]
    against = {each.pointer: (each.effective, *each.others) for each in judged.view.conflicts}
    strange = {pointer: held for pointer, held in values.items() if words.field(kind, pointer) is None}
    against |= {pointer: tuple(words.apart(held)) for pointer, held in strange.items()}
    return [
        Dispute(
            Place(kind, name, stand.pointer),
            against[stand.pointer],
            stand.base,
            stand.based,
            _deciders(found.chain, stand.pointer, against[stand.pointer]),
        )
        for stand in stands
        if stand.pointer in against and not words.taken_up(stand.pointer)
    ]


def _deciders(chain: Chain, pointer: str, held: Iterable[words.Stamped]) -> tuple[str, ...]:
    """The writers among these who have authority there now."""
    if chain.current is None or not authority.fenced(pointer):
        return ()
    holds = authority.holders(chain.current.terms, chain.place)
    return tuple(one.writer for one in held if (one.writer if one.writer == chain.place else HUB) in holds)


def _text(view: View, pointer: str) -> str:
    value = _value(view, pointer)
    return value if isinstance(value, str) else ""


def _value(view: View, pointer: str) -> Value:
    held = view.values.get(pointer)
    return held.value if held is not None else None
