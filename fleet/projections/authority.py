"""Authority: which epochs began where, on which terms, and what was granted that is not begun yet?

Each epoch of a place is one event of that place's own log, kept by its place in it; every grant is kept too, and the
newest holds. Who holds what follows from that (`fleet.authority.chain_of`), in whatever order it was heard; and who held
it at a moment follows from what had been said by then, since nothing is thrown away: they are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fleet.authority import Cause, Chain, Claim, Expiry, Grant, Homecoming, Seen, Terms, chain_of
from fleet.events import AuthorityBegan, AuthorityGranted, Recorded
from fleet.node import Master
from fleet.past import STAMP_MAX, Track

NAME = "authority"
VERSION = 2  # 2: every grant, and when an epoch began, for the past
TRACKS: frozenset[Track] = frozenset()
KINDS = frozenset((AuthorityBegan.KIND, AuthorityGranted.KIND))  # few among a million turns of state


class State(NamedTuple):
    claims: Mapping[tuple[str, str], Mapping[tuple[int, int], Claim]]  # (subject, place), (log epoch, seq)
    grants: Mapping[tuple[str, str], frozenset[Grant]]  # (subject, place)


EMPTY = State({}, {})
_NONE: frozenset[Grant] = frozenset()


def advance(state: State, events: Iterable[Recorded]) -> State:
    """Fold a batch into a new state; the old state stays as it was."""
    events = [event for event in events if event.kind in KINDS]
    if not events:
        return state
    claims: dict[tuple[str, str], dict[tuple[int, int], Claim]] = {}
    grants: dict[tuple[str, str], set[Grant]] = {}
    for event in events:
        if isinstance(event.body, AuthorityBegan):
            began = _claim(event, event.body)
            if began is not None:
                at = (event.subject, event.writer)
                claims.setdefault(at, dict(state.claims.get(at, {})))[event.epoch, event.seq] = began
        elif isinstance(event.body, AuthorityGranted):
            given = _grant(event, event.body)
            if given is not None:
                at = (event.subject, event.body.site)
                grants.setdefault(at, set(state.grants.get(at, ()))).add(given)
    if not claims and not grants:
        return state
    return State({**state.claims, **claims}, {**state.grants, **{at: frozenset(held) for at, held in grants.items()}})


def join(one: State, other: State) -> State:
    """The state of what both were folded from."""
    claims = {at: {**one.claims.get(at, {}), **other.claims.get(at, {})} for at in {*one.claims, *other.claims}}
    grants = {at: one.grants.get(at, _NONE) | other.grants.get(at, _NONE) for at in {*one.grants, *other.grants}}
    return State(claims, grants)


def _terms(body: AuthorityBegan | AuthorityGranted) -> Terms | None:
    """None for terms of a newer version: what is not understood is not obeyed."""
    try:
        return Terms(
            Master(body.master),
            body.controllers,
            body.lease_ns,
            Expiry(body.on_expiry),
            Homecoming(body.on_return),
        )
    except ValueError:
        return None


def _claim(event: Recorded, body: AuthorityBegan) -> Claim | None:
    terms = _terms(body)
    if terms is None or body.cause not in list(Cause):
        return None
    seen = tuple(Seen(*one) for one in body.seen)
    return Claim(
        event.epoch,
        event.seq,
        body.epoch,
        Cause(body.cause),
        terms,
        seen,
        body.grant,
        event.wall_ns,
        body.actor,
        body.why,
        event.hlc,
    )


def _grant(event: Recorded, body: AuthorityGranted) -> Grant | None:
    terms = _terms(body)
    if terms is None or event.writer == body.site:  # nobody grants anything to themselves
        return None
    return Grant(event.hlc, event.writer, body.epoch, terms, event.wall_ns, body.actor, body.why)


def chain(
    state: State,
    subject: str,
    place: str,
    granted_by: Callable[[str], bool] = lambda writer: True,
    upto: int = STAMP_MAX,
) -> Chain:
    """The epochs of a subject at a place; `granted_by` says of a writer whether it is the hub's. `upto`: as of that stamp,
    of what had been said by then."""
    at = (subject, place)
    given = [one for one in state.grants.get(at, ()) if one.hlc <= upto and granted_by(one.writer)]
    begun = [one for one in state.claims.get(at, {}).values() if one.hlc <= upto]
    return chain_of(subject, place, begun, max(given, default=None))


def places(state: State, subject: str) -> list[str]:
    """Where anything was granted or begun."""
    return sorted({place for one, place in (*state.claims, *state.grants) if one == subject})


def subjects(state: State, place: str) -> list[str]:
    """Of what anything was granted or begun at a place."""
    return sorted({one for one, where in (*state.claims, *state.grants) if where == place})
