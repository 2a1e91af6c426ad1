"""What pages show of authority, from the lines of epochs that both ends hold. Values in, values out; no box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from fleet import authority
from fleet.authority import Chain, Expiry, Homecoming, Names, Parked, Terms
from fleet.node import Authority, Master, Node
from web import words
from web.ports import AuthorityLine, AuthorityTerms, Choice, ParkedValue, Refused


def line(chain: Chain, here: str, names: Names, heard_ns: int | None) -> AuthorityLine:
    """One site's line. `here` is this box's controller; `heard_ns` is when the other end was heard."""
    now, pending = chain.current, chain.pending
    contests = tuple(
        f"Epoch {one.epoch}: {names.of(one.holder, chain.place)} holds, and"
        f" {names.of(one.other, chain.place)} believed it was theirs. {one.words}"
        for one in chain.contests
    )
    if now is None:
        return AuthorityLine(
            subject=chain.subject,
            place=chain.place,
            site=names.site,
            epoch=0,
            heard_ns=heard_ns,
            pending=_pending(pending.terms if pending else None),
            pending_ns=pending.since_ns if pending else None,
        )
    return AuthorityLine(
        subject=chain.subject,
        place=chain.place,
        site=names.site,
        epoch=now.epoch,
        master=now.terms.master,
        holders=tuple(sorted(names.of(one, chain.place) for one in authority.holders(now.terms, chain.place))),
        cause=now.cause,
        since_ns=now.since_ns,
        actor=now.actor,
        why=now.why,
        lease_ns=now.terms.lease_ns,
        on_expiry=now.terms.on_expiry,
        on_return=now.terms.on_return,
        heard_ns=heard_ns,
        until_ns=authority.until(chain, heard_ns),
        pending=_pending(pending.terms if pending else None),
        pending_ns=pending.since_ns if pending else None,
        contests=contests,
        here=authority.refusal(chain, here, ("target_version",), names) is None,
    )


def stated(node: Node, chain: Chain) -> Node:
    """The node with the authority that it stands under."""
    now = chain.current
    if now is None:
        return node
    controllers = tuple(sorted(authority.holders(now.terms, chain.place)))
    held = Authority(
        master_of_record=now.terms.master, controller_ids=controllers, last_authoritative_update_ns=now.since_ns
    )
    return msgspec.structs.replace(node, authority=held)


def _pending(terms: Terms | None) -> str:
    return "" if terms is None else words.MASTER[terms.master]


def parked(found: Iterable[Parked], where: Callable[[str], str]) -> tuple[ParkedValue, ...]:
    """What is parked in a node's document; `where` names the place of a log's writer."""
    places: Counter[str] = Counter()
    shown: list[ParkedValue] = []
    for one in found:
        said = one.stamped
        shown.append(
            ParkedValue(
                field=one.pointer,
                choice=places[one.pointer],
                said=Choice(
                    value="" if said.value is None else str(said.value),
                    by=said.who,
                    where=where(said.writer),
                    at_ns=said.wall_ns,
                    clock=said.clock,
                ),
                why=one.why,
            )
        )
        places[one.pointer] += 1
    return tuple(shown)


def terms_of(wish: AuthorityTerms) -> Terms:
    """What an operator asked for. Refused (422) when it is no such thing."""
    try:
        return Terms(
            Master(wish.master),
            wish.controllers,
            wish.lease_ns,
            Expiry(wish.on_expiry),
            Homecoming(wish.on_return),
        )
    except ValueError as error:
        raise Refused(f"These terms cannot be granted: {error}", 422) from error
