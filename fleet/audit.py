"""Who did what? The events of people among all that happens, and whose deed each of them is."""

from __future__ import annotations

import msgspec

from fleet import events
from fleet.events import Body, Recorded, Unknown
from fleet.people import BREAK_GLASS

_OF_PEOPLE = frozenset({"account", "token", "roster", "glass", "access", "site"})

AUDITED: tuple[str, ...] = tuple(
    kind
    for kind, body in events.KINDS.items()
    if "actor" in body.__struct_fields__
    or kind.partition(".")[0] in _OF_PEOPLE
    or body in (events.DocumentChanged, events.LinkChanged)
)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, newest first, below the journal's position `before` (0: from its end). Times are by the clock of
    whoever wrote the event; `to_ns` itself is outside."""

    before: int = 0
    limit: int = 50
    person: str = ""  # in the name of who did it, or whose account it is about
    kind: str = ""  # a whole kind, or its first word: account
    subject: str = ""
    from_ns: int | None = None
    to_ns: int | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `next`: below which position to go on; 0 when there is nothing older. `looked_ns`: how far back the
    search has come, when it stopped for its time."""

    events: tuple[Recorded, ...]
    next: int = 0
    looked_ns: int | None = None


def kinds_of(query: Query) -> tuple[str, ...]:
    """Those that the query takes; none when it names no such kind."""
    wanted = query.kind
    return tuple(kind for kind in AUDITED if not wanted or kind == wanted or kind.partition(".")[0] == wanted)


def person_of(event: Recorded) -> str:
    """Who did it; empty when the event does not say."""
    body = event.body
    actor = getattr(body, "actor", None)
    if actor is not None:
        return str(actor)
    match body:
        case events.GlassBroken():
            return BREAK_GLASS
        case events.RosterTaken(hub=hub):
            return f"hub {hub}"
        case events.AccountSignedIn() | events.AccountSignedOut() | events.AccountRefused() | events.AccessSeen():
            return body.name
    return ""


def place_of(event: Recorded) -> str:
    """The address that it was done from; empty when the event does not say."""
    return str(getattr(event.body, "address", ""))


def concerns(event: Recorded, person: str) -> bool:
    """Whether somebody of that name did it, or it is about their account; for no name, whether anybody did it: a node
    that is heard for the first time moves by itself."""
    if not person:
        return getattr(event.body, "actor", None) != ""
    wanted = person.casefold()
    return wanted in person_of(event).casefold() or any(wanted in name.casefold() for name in _named(event.body))


def _named(body: Body | Unknown) -> tuple[str, ...]:
    if isinstance(body, events.RosterTaken):
        return tuple(name for said in body.said for name in (said[0], said[2]))
    return (body.name,) if isinstance(body, events.AccountCreated | events.AccountChanged) else ()
