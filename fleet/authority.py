"""Who may say now what is wanted of a node, and which of the words that were written take effect?

A *subject* is a domain, or one node of it that is decided on by itself. At each site (its *place*) a subject has a line
of epochs. The hub *grants*: it says on which terms things shall go on. The site *begins* an epoch: because it accepts a
grant, because its lease ran out and it decides alone, or because it hands back. Without any of it the epoch is 0, and
the site and the hub both decide, as if there were no authority.

Rules of the file
  1  A place begins its own epochs and nobody else does: they are numbered in one log, so no epoch has two holders. What
     the hub grants holds from the moment at which the site accepts it, and the hub knows that too.
  2  An epoch says what its place had seen when it began: the last stamp of each writer. A word takes effect when its
     author held the epoch that it was written under, and each later epoch had seen it, or is its author's too.
  3  A word that does not take effect is parked: it stands in the document, is shown, and waits for a person.
  4  Whatever order the events and the words come in, who holds the same comes to the same judgement.
  5  Merging is not authority: nothing here changes a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from fleet.document import Author, Conflict, Stamped, View, standing, view
from fleet.limits import MINUTE, SECOND
from fleet.node import Master

HUB = "hub"  # the controller that is no site
lease_ns_min = 30 * SECOND  # a live line says something every twenty seconds
lease_ns_max = 366 * 24 * 60 * MINUTE
controllers_max = 16
why_chars_max = 300
subject_chars_max = 64

# What is wanted of a node. Its name, tags and notes are nobody's to command: they merge.
DESIRED = frozenset(
    ("target_version", "policy_bundle_id", "maintenance_window", "min_battery_pct", "requires_online", "constraints/")
)
MEMBERSHIP = "domain_id"  # checked when it is written; what moves the node cannot be judged by where it moved to
SAFE = frozenset(("maintenance_window", "min_battery_pct", "requires_online"))


class Expiry(StrEnum):
    """What may be edited at a site that decides alone because its lease ran out."""

    CARRY_ON = "carry on"
    SAFE_SUBSET = "safe subset"
    FREEZE = "freeze"
    READ_ONLY = "read only"


class Homecoming(StrEnum):
    """What becomes of it when the site is back in session."""

    HAND_BACK = "hand back"
    KEEP = "keep"


class Cause(StrEnum):
    """Why a place began an epoch."""

    ACCEPTED = "accepted"
    TAKEN = "taken"
    RETURNED = "returned"


_ALONE: Mapping[Expiry, frozenset[str]] = {
    Expiry.CARRY_ON: DESIRED | {MEMBERSHIP},
    Expiry.SAFE_SUBSET: SAFE,
    Expiry.FREEZE: frozenset(),
    Expiry.READ_ONLY: frozenset(),
}


class Terms(NamedTuple):
    """`controllers` are writers of sites, or `HUB`; empty is whoever the master is at the place. A lease of 0 never runs
    out."""

    master: Master = Master.GLOBAL
    controllers: tuple[str, ...] = ()
    lease_ns: int = 0
    on_expiry: Expiry = Expiry.CARRY_ON
    on_return: Homecoming = Homecoming.HAND_BACK


class Seen(NamedTuple):
    """How far a log was known: its writer, its epoch and the last stamp in it."""

    writer: str
    epoch: int
    hlc: int


class Grant(NamedTuple):
    """The hub's newest word on a subject at a place. It holds when the place accepts it."""

    hlc: int
    writer: str
    epoch: int
    terms: Terms
    since_ns: int
    actor: str
    why: str


class Claim(NamedTuple):
    """An epoch as its place began it, `hlc` the stamp of that. `grant` is the stamp of the grant that it rests on."""

    log_epoch: int
    seq: int
    epoch: int
    cause: Cause
    terms: Terms
    seen: tuple[Seen, ...]
    grant: int
    since_ns: int
    actor: str
    why: str
    hlc: int = 0


class Contest(NamedTuple):
    """Two who both believe that an epoch is theirs. `holder` is who holds meanwhile, `other` who believes it too."""

    subject: str
    place: str
    epoch: int
    holder: str
    other: str
    since_ns: int
    words: str


class Chain(NamedTuple):
    """The epochs of a subject at a place, as far as they are known here, oldest first."""

    subject: str = ""
    place: str = ""
    claims: tuple[Claim, ...] = ()
    grant: Grant | None = None
    contests: tuple[Contest, ...] = ()

    @property
    def current(self) -> Claim | None:
        return self.claims[-1] if self.claims else None

    @property
    def epoch(self) -> int:
        return self.claims[-1].epoch if self.claims else 0

    @property
    def pending(self) -> Grant | None:
        """The newest grant, while the place has not made it its own."""
        rests_on = max((claim.grant for claim in self.claims), default=0)
        return self.grant if self.grant is not None and self.grant.hlc > rests_on else None


NOBODY = Chain()


def chain_of(subject: str, place: str, claims: Iterable[Claim], grant: Grant | None) -> Chain:
    """One line of epochs out of all that was heard, in any order.

    A place that was set back begins epochs again in a new log epoch: what came later in its own count holds, and the
    epochs of the lost history are contests until they are behind.
    """
    line: list[Claim] = []
    lost: list[Claim] = []
    for claim in sorted(set(claims), key=lambda one: (one.log_epoch, one.seq)):
        while line and line[-1].epoch >= claim.epoch:
            lost.append(line.pop())
        line.append(claim)
    made = Chain(subject, place, tuple(line), grant)
    contests = [
        Contest(subject, place, one.epoch, place, place, one.since_ns, _LOST) for one in lost if one.epoch >= made.epoch
    ]
    pending, now = made.pending, made.current
    if pending is not None and now is not None and not _acceptable(pending, now, place):
        contests.append(
            Contest(subject, place, pending.epoch, place, _first(holders(pending.terms, place)), now.since_ns, _OVERLAP)
        )
    return made._replace(contests=tuple(sorted(contests)))


_LOST = "The site was set back and began an epoch of this number again. The later history of the site holds."
_OVERLAP = "The site took it while the hub gave it away, neither having heard of the other. The site holds meanwhile."


def holders(terms: Terms, place: str) -> frozenset[str]:
    """Who may write under these terms."""
    if terms.controllers:
        return frozenset(terms.controllers)
    return frozenset((place if terms.master is Master.LOCAL else HUB,))


def _first(names: Iterable[str]) -> str:
    return min(names, default="")


def _acceptable(grant: Grant, now: Claim | None, place: str) -> bool:
    """Whether a place whose epoch is `now` may take up the grant: nothing happened there that the hub cannot have
    known of when it gave it; or both mean the same holder."""
    if now is None or grant.epoch > now.epoch:
        return True
    follows = grant.epoch == now.epoch and now.cause is Cause.ACCEPTED
    return follows or holders(grant.terms, place) == holders(now.terms, place)


# -- what a site does ------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """An epoch that a place is to begin."""

    epoch: int
    cause: Cause
    terms: Terms
    grant: int


def step(chain: Chain, *, silent_ns: int, live: bool) -> Step | None:
    """What the place does now. `silent_ns`: for how long nothing was heard of the hub; `live`: everything that happened
    here is with the hub. None when all goes on as it is."""
    now, pending = chain.current, chain.pending
    if pending is not None and _acceptable(pending, now, chain.place):
        return Step(max(pending.epoch, chain.epoch + 1), Cause.ACCEPTED, pending.terms, pending.hlc)
    if now is None:
        return None
    if chain.place not in holders(now.terms, chain.place) and 0 < now.terms.lease_ns <= silent_ns:
        alone = now.terms._replace(master=Master.LOCAL, controllers=())
        return Step(now.epoch + 1, Cause.TAKEN, alone, now.grant)
    if live and now.cause is Cause.TAKEN and now.terms.on_return is Homecoming.HAND_BACK:
        return handed_back(chain)
    return None


def handed_back(chain: Chain) -> Step | None:
    """The epoch in which a place gives back what it took: on the hub's newest terms. None when it took nothing."""
    now = chain.current
    if now is None or now.cause is not Cause.TAKEN or chain.grant is None:
        return None
    return Step(now.epoch + 1, Cause.RETURNED, chain.grant.terms, chain.grant.hlc)


# -- who may write ---------------------------------------------------------------------------------------------


def fenced(pointer: str) -> bool:
    """Whether a field is something that is wanted of a node."""
    return _field(pointer) in DESIRED


def _field(pointer: str) -> str:
    name, slash, _ = pointer.partition("/")
    return name + slash


class Names(NamedTuple):
    """What the hub and the place are called on this box's pages."""

    hub: str
    site: str

    def of(self, controller: str, place: str) -> str:
        return self.hub if controller == HUB else self.site if controller == place else "another site"


def refusal(chain: Chain, owner: str, pointers: Iterable[str], names: Names) -> str | None:
    """Why `owner` may not write these fields now, and what to do; None when it may."""
    now = chain.current
    if now is None:
        return None
    alone = now.cause is Cause.TAKEN and owner == chain.place
    if alone and now.terms.on_expiry is Expiry.READ_ONLY:
        return (
            f"{names.site} is cut off from {names.hub}, and its terms say that nothing may be edited until it is back."
        )
    wanted = [pointer for pointer in pointers if fenced(pointer) or pointer == MEMBERSHIP]
    holds, pending = holders(now.terms, chain.place), chain.pending
    if not wanted:
        return None
    if owner not in holds:
        whose = names.of(_first(holds), chain.place)
        return f"{whose} decides what is wanted here (epoch {now.epoch}). {_way_out(now, owner, whose, names)}"
    if pending is not None and owner == HUB and HUB not in holders(pending.terms, chain.place):
        return f"{names.hub} has handed this over; {names.site} has not heard of it yet. Take it back under Authority."
    free = _ALONE[now.terms.on_expiry]
    if alone and not free.issuperset(map(_field, wanted)):
        what = "only what makes things safer may be changed" if free else "nothing that is wanted may be changed"
        return f"{names.site} decides alone on the terms “{now.terms.on_expiry}”: {what} until {names.hub} is back."
    return None


def _way_out(now: Claim, owner: str, whose: str, names: Names) -> str:
    if owner == HUB:
        return f"Take it back under Authority, with a reason; it holds once {names.site} has heard of it."
    if now.terms.lease_ns:
        return f"Change it at {whose}, or wait: when the lease has run out, {names.site} decides alone."
    return f"Change it at {whose}, or ask them to hand it over."


# -- which words take effect -------------------------------------------------------------------------------------


class Parked(NamedTuple):
    """A word that waits for a person: it stands in the document and does not take effect, and why."""

    pointer: str
    stamped: Stamped
    why: str


class Judged(NamedTuple):
    view: View
    parked: tuple[Parked, ...] = ()


def judge(kind: str, values: Mapping[str, Iterable[Stamped]], chain: Chain) -> Judged:
    """A document of which some words take effect and some are parked. What says the same as the word that holds is no
    matter for anybody."""
    if not chain.claims:
        return Judged(view(kind, values))
    admitted: dict[str, list[Stamped]] = {}
    held_back: list[Parked] = []
    for pointer, held in values.items():
        words = standing(held)
        if fenced(pointer):
            reasons = [(one, parked_because(one, chain)) for one in words]
            words = [one for one, why in reasons if why is None]
            held_back += [Parked(pointer, one, why) for one, why in reasons if why is not None]
        if words:
            admitted[pointer] = words
    seen = _later_epoch_first(view(kind, admitted), chain)
    parked = [
        one
        for one in held_back
        if one.pointer not in seen.values or seen.values[one.pointer].value != one.stamped.value
    ]
    return Judged(seen, tuple(sorted(parked, key=lambda one: (one.pointer, -one.stamped.hlc, one.stamped.writer))))


def _later_epoch_first(seen: View, chain: Chain) -> View:
    """Of words that may all take effect, the one of the latest epoch does, whatever the clocks say."""
    values, conflicts = dict(seen.values), list[Conflict]()
    for one in seen.conflicts:
        if fenced(one.pointer):
            words = sorted((one.effective, *one.others), key=lambda word: -_epoch(word, chain))
            one = Conflict(one.pointer, words[0], tuple(words[1:]))
            values[one.pointer] = words[0]
        conflicts.append(one)
    return View(values, tuple(conflicts))


def _epoch(word: Stamped, chain: Chain) -> int:
    return word.authority if word.under == chain.subject else 0


def parked_because(word: Stamped, chain: Chain) -> str | None:
    """Why a word does not take effect, in one sentence; None when it does (rule 2)."""
    epoch = _epoch(word, chain)
    owner = chain.place if word.writer == chain.place else HUB
    if epoch:
        under = next((claim for claim in chain.claims if claim.epoch == epoch), None)
        if under is None:
            return f"It was written under epoch {epoch}, of which nothing is known here."
        if owner not in holders(under.terms, chain.place):
            return f"Whoever wrote it did not decide then: epoch {epoch} was another’s."
    for later in chain.claims:
        if later.epoch > epoch and owner not in holders(later.terms, chain.place) and not _had_seen(later, word):
            then = f"under epoch {epoch}" if epoch else "before there was an epoch"
            return f"It was written {then}; the site began epoch {later.epoch} without having seen it."
    return None


def _had_seen(claim: Claim, word: Stamped) -> bool:
    return any(seen.writer == word.writer and (word.epoch, word.hlc) <= (seen.epoch, seen.hlc) for seen in claim.seen)


# -- what a stale word wrote over ----------------------------------------------------------------------------------


def overwritten(before: View, after: View) -> dict[str, Stamped]:
    """The words that held before a merge and are gone after it, though nobody who may has put another in their place:
    a stale author wrote over them. The place says them again (`again_at`)."""
    lost: dict[str, Stamped] = {}
    former = {one.pointer: one.others for one in before.conflicts}
    for pointer, held in before.values.items():
        now = after.values.get(pointer)
        if fenced(pointer) and (now is None or (now != held and now in former.get(pointer, ()))):
            lost[pointer] = held
    return lost


def again_at(chain: Chain, author: Author, stamp: int) -> tuple[int, int]:
    """(stamp, epoch) under which a place says again what stood in its last epoch: it stood when the next one began."""
    own = [claim for claim in chain.claims if chain.place in holders(claim.terms, chain.place)]
    epoch = own[-1].epoch if own else 0
    later = next((claim for claim in chain.claims if claim.epoch > epoch), None)
    if later is None:
        return stamp, epoch
    seen = [one.hlc for one in later.seen if (one.writer, one.epoch) == (author.writer, author.epoch)]
    return min([stamp, *seen]), epoch


# -- in words ------------------------------------------------------------------------------------------------------


def until(chain: Chain, heard_ns: int | None) -> int | None:
    """When the lease of a place runs out that was last heard at `heard_ns`; None when it has none to run out."""
    now = chain.current
    if now is None or not now.terms.lease_ns or heard_ns is None or chain.place in holders(now.terms, chain.place):
        return None
    return heard_ns + now.terms.lease_ns


def wrong_terms(terms: Terms, why: str) -> str | None:
    """Why nobody may grant so, as a sentence; None when one may."""
    if terms.lease_ns and not lease_ns_min <= terms.lease_ns <= lease_ns_max:
        return f"A lease lasts {lease_ns_min // SECOND} seconds at least and a year at most; 0 is none."
    if len(terms.controllers) > controllers_max:
        return f"At most {controllers_max} sites may decide together."
    if not why.strip() or len(why) > why_chars_max:
        return f"Say why, in at most {why_chars_max} characters: the journal keeps it with your name."
    return None
