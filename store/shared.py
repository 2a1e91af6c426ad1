"""How do documents travel? As changes in the logs: an edit is stored and said in one transaction, and what others said is
merged in the transaction that stores it.

Rules of the file
  1  An edit and its events are one transaction; so are a block and the changes in it.
  2  What cannot be merged is handed back with its sentence, for quarantine; the line moves on.
  3  What the other side lacks after a comparison of heads is said again in the log, so that it is as durable and as
     provable as the first time.
  4  The documents of a node and of a site are that site's and the hub's. Every other document is common: all sites of a
     tenant hold it, so the hub says its changes again to each (`edit` and `pass_on`), and a comparison covers it whatever
     nodes it is about.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from fleet import authority
from fleet.authority import MEMBERSHIP, Chain, Judged
from fleet.document import LOCAL, Author, Id, Kind, Stamped, Value, View
from fleet.document import view as view_of
from fleet.envelope import Log
from fleet.events import AuthoritySettled, DocumentChanged, DocumentTold, Recorded
from fleet.limits import SECOND
from store import document
from store.clock import WallClock
from store.document import Fate, Incoming, Made, Outcome, Place, Refused
from store.document_check import Checker
from store.journal import Journal
from store.rights import Rights

_CHANGES_MAX = 5_000  # said again in one transaction; the next comparison finds the rest
_DIGITS_MAX = 6
_AGAIN_NS = 3600 * SECOND  # what did not help is said again once an hour
LISTED_MAX = 2_000  # documents in one message
Listed = tuple[str, str, bytes]  # kind, id with its generation, heads
_NO_ROOM = "a second copy of its author wrote this, and the hub has a word of its own in that field; write it again if it counts"
_EDGE: Listed = ("", "", b"")  # where all documents begin, and where they end


def told(events: Iterable[Recorded]) -> list[Recorded]:
    """Events for pages: a change of a document says what it changed."""
    return [one._replace(body=_told(one.body)) if isinstance(one.body, DocumentChanged) else one for one in events]


def _told(body: DocumentChanged) -> DocumentTold:
    said, who = document.told(body.change)
    return DocumentTold(body.document_kind, tuple(said), who, body.repeated)


class _Fence(NamedTuple):
    """Under which authority an edit is made, what it says again because the node moves, and the parked words that it
    leaves where they are."""

    epoch: int = 0
    subject: str = ""
    again: Mapping[str, Value] = {}
    beside: tuple[Stamped, ...] = ()


class Folded(NamedTuple):
    changed: tuple[Id, ...]
    refused: tuple[tuple[bytes, str], ...]  # raw bytes and the sentence


class Shared:
    """The documents of one box. `owner`: whether this box says when a full document begins anew (the hub does)."""

    def __init__(self, journal: Journal, clock: WallClock, *, owner: bool) -> None:
        self._journal, self._clock, self._owner = journal, clock, owner
        self.rights: Rights | None = None  # without them there is no authority, and everybody may write
        self._check = Checker()
        self._repeated: dict[tuple[Log | None, Place], tuple[bytes, bytes, int]] = {}  # theirs, mine, when

    def close(self) -> None:
        self._check.close()

    def _author(self, log: Log | None) -> Author:
        log = log or self._journal.log
        return Author(log.writer, log.epoch)

    def edit(
        self,
        db: sqlite3.Connection,
        place: Id,
        values: Mapping[str, Value],
        who: str,
        log: Log | None = None,
        also: Sequence[Log] = (),
    ) -> Made | Refused | None:
        """Write values and say so in `log` (this box's own if not given), and again in each of `also`. None when nothing
        would change."""
        fence = self._fence(db, place, values)
        if isinstance(fence, Refused):
            return fence
        author = self._author(log)
        if document.current(db, place).full and self._owner:
            self._say(document.rotate(db, place, author), log, also)
        stamp, values = self._stamp(who, author, fence), {**fence.again, **values}
        made = document.edit(db, place, values, stamp, beside=fence.beside, again=fence.again)
        self._say(made, log, also)
        return made

    def _stamp(self, who: str, author: Author, fence: _Fence) -> Stamped:
        now_ns, clock = self._clock.now_ns(), self._clock.confidence()
        return Stamped(None, who, *author, self._journal.stamp(), now_ns, clock, fence.epoch, fence.subject)

    # -- authority ------------------------------------------------------------------------------------------------

    def judged(self, db: sqlite3.Connection, place: Id) -> Judged:
        """A document with the words that take effect, and those of a node's that are parked."""
        return self.judgement(db, place)[0]

    def look(self, db: sqlite3.Connection, place: Id) -> View:
        """The words of a document that take effect."""
        return self.judgement(db, place)[0].view

    def judgement(self, db: sqlite3.Connection, place: Id) -> tuple[Judged, Chain]:
        """The same, and the line of epochs that it was judged by."""
        values = document.values(db, place)
        plain = view_of(place.kind, values)
        chain = self.rights.of_node(place.id, plain) if self.rights and place.kind == Kind.NODE else authority.NOBODY
        return (authority.judge(place.kind, values, chain) if chain.claims else Judged(plain)), chain

    def _fence(self, db: sqlite3.Connection, place: Id, values: Mapping[str, Value]) -> _Fence | Refused:
        """Whether this box may write these values now, and under which authority."""
        rights = self.rights
        if rights is None or not rights.state.claims:
            return _Fence()
        if place.kind != Kind.NODE:
            chain = rights.chain(place.id, rights.here)
            reason = authority.refusal(chain, rights.here, values, rights.names(chain.place))
            return Refused(reason) if reason else _Fence(chain.epoch, chain.subject)
        judged, chain = self.judgement(db, place)
        chains, again = [chain], dict[str, Value]()
        if MEMBERSHIP in values and chain.subject != place.id:
            chain = rights.of_domain(values[MEMBERSHIP], chain.place)
            chains.append(chain)
            if chain.claims:  # what is wanted moves with the node, and is written anew under its new authority
                standing = judged.view.values
                again = {each: one.value for each, one in standing.items() if authority.fenced(each)}
        for one in chains:
            reason = authority.refusal(one, rights.here, values, rights.names(one.place))
            if reason:
                return Refused(reason)
        return _Fence(chain.epoch, chain.subject, again, tuple(one.stamped for one in judged.parked))

    def refusal(self, db: sqlite3.Connection, place: Id, values: Mapping[str, Value]) -> str | None:
        """Why this box may not write these values now; None when it may. Nothing is written."""
        fence = self._fence(db, place, values)
        return fence.reason if isinstance(fence, Refused) else None

    def settle(
        self,
        db: sqlite3.Connection,
        place: Id,
        pointer: str,
        choice: int,
        decision: str,
        who: str,
        why: str,
        log: Log | None = None,
    ) -> Made | Refused | None:
        """A person's word on a parked value, the `choice` of those at `pointer`: take it, or drop it. What holds is then
        said again over it."""
        judged = self.judged(db, place)
        parked = [one for one in judged.parked if one.pointer == pointer]
        if not 0 <= choice < len(parked):
            return Refused("nothing is parked there any more; somebody has decided")
        fence = self._fence(db, place, {pointer: None})
        if isinstance(fence, Refused):
            return fence
        chosen, holds = parked[choice].stamped, judged.view.values.get(pointer)
        value = chosen.value if decision == "take" else holds.value if holds is not None else None
        stamp, beside = self._stamp(who, self._author(log), fence), [one for one in fence.beside if one != chosen]
        made = document.edit(db, place, {pointer: value}, stamp, beside=beside, again=(pointer,))
        self._say(made, log)
        if isinstance(made, Made):
            said = "" if chosen.value is None else str(chosen.value)[:1_000]
            self._journal.stage(place.id, AuthoritySettled(pointer, said, chosen.who, decision, who, why), log)
        return made

    def _say_lost_again(self, db: sqlite3.Connection, place: Id, before: View) -> None:
        """What held here, and was written over by somebody who had lost the right to."""
        judged, chain = self.judgement(db, place)
        author = self._author(None)
        for pointer, lost in authority.overwritten(before, judged.view).items():
            hlc, epoch = authority.again_at(chain, author, self._journal.stamp())
            fence = _Fence(epoch, chain.subject)
            stamp = msgspec.structs.replace(self._stamp(lost.who, author, fence), hlc=hlc)
            beside = [one.stamped for one in judged.parked]
            self._say(document.edit(db, place, {pointer: lost.value}, stamp, beside=beside, again=(pointer,)), None)

    def _say(self, made: Made | Refused | None, log: Log | None, also: Sequence[Log] = ()) -> None:
        if isinstance(made, Made):
            for change in made.changes:
                body = DocumentChanged(made.document.kind, made.document.id, made.generation, change)
                self._journal.stage(made.document.id, body, log)
                for other in also:
                    self._journal.stage(made.document.id, msgspec.structs.replace(body, repeated=True), other)

    def common(self, db: sqlite3.Connection, tenant: str, facts: Iterable[Recorded]) -> dict[Place, bytes]:
        """The heads of the common documents that `facts` speak of, as they are now: for `pass_on`."""
        spoken = {
            Id(tenant, fact.body.document_kind, fact.body.document)
            for fact in facts
            if isinstance(fact.body, DocumentChanged) and fact.body.document_kind not in LOCAL
        }
        held = {Place(one, 0): b"" for one in sorted(spoken)}
        return held | {Place(one, row.generation): row.heads for one in spoken for row in document.generations(db, one)}

    def pass_on(self, db: sqlite3.Connection, before: Mapping[Place, bytes], logs: Sequence[Log]) -> None:
        """Say in each of `logs` what was merged into common documents since their heads were `before`."""
        for document_ in dict.fromkeys(place.document for place in before):
            for row in document.generations(db, document_):
                place = Place(document_, row.generation)
                if row.heads != before.get(place, b""):
                    for log in logs:
                        self._say_again(db, place, before.get(place, b""), log)

    def fold(
        self, db: sqlite3.Connection, tenant: str, facts: Iterable[Recorded], now_ns: int, log: Log | None
    ) -> Folded:
        """Merge what a block of somebody else says of documents. `log` is where a late value is carried over."""
        incoming = [
            Incoming(
                Id(tenant, fact.body.document_kind, fact.body.document),
                fact.body.generation,
                fact.body.change,
                None if fact.body.repeated else Author(fact.writer, fact.epoch),
            )
            for fact in facts
            if isinstance(fact.body, DocumentChanged)
        ]
        if not incoming:
            return Folded((), ())
        before = dict[Id, View]()
        if self.rights is not None and not self.rights.at_hub and self.rights.state.claims:
            spoken = dict.fromkeys(one.document for one in incoming if one.document.kind == Kind.NODE)
            before = {
                one: judged.view for one in spoken for judged, chain in (self.judgement(db, one),) if chain.claims
            }
        changed: dict[Id, None] = {}
        refused: list[tuple[bytes, str]] = []
        doubled: dict[Id, list[Outcome]] = {}
        owners = (lambda: self._mine(db, tenant)) if self._owner else None
        for outcome in document.receive(db, incoming, self._check, now_ns, owners):
            if outcome.fate is Fate.APPLIED:
                changed[outcome.document] = None
            elif outcome.fate is Fate.REFUSED:
                refused.append((outcome.raw, outcome.reason))
            elif outcome.fate is Fate.DOUBLED:
                doubled.setdefault(outcome.document, []).append(outcome)
        if self._owner:
            for document_, outcomes in doubled.items():
                changed[document_] = None
                refused += self._second(db, document_, outcomes, log)
        else:
            for document_ in {**changed, **doubled}:
                document.give_way(db, document_)
        for one in changed:
            if document.current(db, one).generation > 0:
                self._say(document.carry(db, one, self._author(log), owner=self._owner), log)
            if one in before:
                self._say_lost_again(db, one, before[one])
        return Folded(tuple(changed), tuple(refused))

    def _second(
        self, db: sqlite3.Connection, place: Id, outcomes: Sequence[Outcome], log: Log | None
    ) -> Iterator[tuple[bytes, str]]:
        """Two copies of a box wrote with one name: what the second one said goes on beside what stands, in a generation in
        which both ends can meet again. What finds no room is handed back."""
        author, problem = self._author(log), ""
        if any(outcome.generation == document.current(db, place).generation for outcome in outcomes):
            begun = document.rotate(db, place, author)
            problem = begun.reason if isinstance(begun, Refused) else ""
            self._say(begun, log)
        for outcome in outcomes:
            made, whole = (None, False) if problem else document.beside(db, place, outcome.raw, author)
            self._say(made, log)
            if isinstance(made, Refused) or not whole:
                yield outcome.raw, made.reason if isinstance(made, Refused) else problem or _NO_ROOM

    def _mine(self, db: sqlite3.Connection, tenant: str) -> list[Author]:
        """All logs that this box ever wrote, towards whomever."""
        rows = db.execute(
            "SELECT writer, epoch FROM log WHERE tenant=? AND public_key=(SELECT public_key FROM log WHERE writer=?"
            " AND epoch=?)",
            (tenant, self._journal.log.writer, self._journal.log.epoch),
        )
        return [Author(*row) for row in rows]

    # -- comparison of heads ------------------------------------------------------------------------------------

    def heads(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> document.Heads:
        return document.heads(db, tenant, nodes=scope)

    def root(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> bytes:
        return document.digest(self.heads(db, tenant, scope)).root

    def listed(self, db: sqlite3.Connection, tenant: str, scope: Collection[str] | None = None) -> Sequence[Listed]:
        held = self.heads(db, tenant, scope)
        return sorted((*_name(place), each) for place, each in held.items())

    def complete(
        self,
        db: sqlite3.Connection,
        tenant: str,
        theirs: Sequence[Listed],
        log: Log | None,
        scope: Collection[str] | None,
    ) -> Sequence[Listed]:
        """Say again, in `log`, what the other side lacks of the documents it listed; with `scope`, `theirs` is a run
        (`runs`), and what is in the scope and missing between its ends is lacking too. Returns the heads of what
        differs, as they are here, for it to do the same."""
        there = dict[Place, bytes]()
        for kind, name, heads in theirs:
            identity, _, generation = name.rpartition("#")
            if identity and generation.isascii() and generation.isdigit() and len(generation) < _DIGITS_MAX:
                there[Place(Id(tenant, kind, identity), int(generation))] = heads
        if scope is not None:
            # Also what the other side lists: it knows best what it has written of.
            scope = {*scope, *(place.document.id for place in there)}
        mine = document.heads(db, tenant, nodes=scope or {place.document.id for place in there})
        if scope is not None and theirs:
            first, last = theirs[0][:2], theirs[-1][:2]
            there |= {
                place: b""
                for place in mine
                if _within(place, scope)
                and place not in there
                and first < _name(place)
                and (last == _EDGE[:2] or _name(place) < last)
            }
        differ = [place for place, heads in there.items() if mine.get(place, b"") != heads]
        said = 0
        for place in differ:
            if said >= _CHANGES_MAX:
                break
            if place in mine and self._may_help(log, place, there[place], mine[place]):
                said += self._say_again(db, place, there[place], log)
        return [(*_name(place), mine.get(place, b"")) for place in differ]

    def _may_help(self, log: Log | None, place: Place, theirs: bytes, mine: bytes) -> bool:
        """What a side refuses, it refuses again: the same is not said over and over."""
        now_ns = self._clock.now_ns()
        before = self._repeated.get((log, place))
        if before is not None and before[:2] == (theirs, mine) and abs(now_ns - before[2]) < _AGAIN_NS:
            return False
        self._repeated[log, place] = (theirs, mine, now_ns)
        return True

    def forget(self) -> None:
        """What was said may be undone."""
        self._repeated.clear()

    def _say_again(self, db: sqlite3.Connection, place: Place, theirs: bytes, log: Log | None) -> int:
        changes = document.changes_since(db, place, theirs)
        for one in changes:
            body = DocumentChanged(one.document.kind, one.document.id, one.generation, one.raw, repeated=True)
            self._journal.stage(one.document.id, body, log)
        return len(changes)


def _within(place: Place, scope: Collection[str] | None) -> bool:
    """`scope`: the nodes of one site, and its writer; None is everything."""
    return scope is None or place.document.kind not in LOCAL or place.document.id in scope


def _name(place: Place) -> tuple[str, str]:
    return place.document.kind, f"{place.document.id}#{place.generation}"


def runs(listed: Sequence[Listed]) -> Iterator[Sequence[Listed]]:
    """A sorted list in runs for one message each. A run begins with the last entry of the one before it, so each says
    by itself what there is between its ends, and none need arrive for the others to count."""
    whole = [_EDGE, *listed, _EDGE]
    for first in range(0, len(whole) - 1, LISTED_MAX - 1):
        yield whole[first : first + LISTED_MAX]


def look(db: sqlite3.Connection, tenant: str, kind: str, name: str) -> View:
    return document.look(db, Id(tenant, kind, name))
