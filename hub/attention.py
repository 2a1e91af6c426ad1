"""What of a site needs a person at the hub, and in which log does the hub say what people said of it?

That a site is cut off is normal, and no item.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from fleet.attention import Cause, Item
from fleet.document import Id, Kind
from fleet.limits import HOUR
from fleet.people import Refused
from hub.state import NodeHere, SiteHere
from store import peers
from store.disputes import Route
from web.ports import AuthorityLine
from web.words import counted

DEBT_NS = HOUR  # a site that has been connected and behind for so long is not just catching up


def of_site(site: SiteHere, now_ns: int, *, heard: bool) -> list[Item]:
    """Those with `since_ns` 0 have no time of their own."""
    found: list[tuple[Cause, str, int]] = []
    if site.quarantine:
        found.append((Cause.QUARANTINE, f"is held in quarantine: {'; '.join(site.quarantine)}", site.since_ns))
    if site.glass_ns:
        where = f" from {site.glass_address}" if site.glass_address else ""
        words = f"its break-glass account was used{where}; ask who it was, and have another one sealed there"
        found.append((Cause.BREAK_GLASS, words, site.glass_ns))
    if site.forks:
        words = f"wrote its log on in {counted(len(site.forks) + 1, 'way')}; both are kept. {site.forks[-1]}"
        found.append((Cause.FORK, words, 0))
    if heard and site.certificate is not None and site.certificate.gaps:
        words = f"{counted(site.certificate.gaps, 'gap')} in what it has ever sent, as its newest receipt says"
        found.append((Cause.GAP, words, 0))
    if heard and site.backlog and site.oldest_missing_ns is not None:
        behind_ns = max(site.oldest_missing_ns, site.since_ns)  # what it was alone with is no debt
        if now_ns - behind_ns > DEBT_NS:
            found.append((Cause.DEBT, f"is connected, and {counted(site.backlog, 'event')} behind", behind_ns))
    return [Item(cause, Kind.SITE, site.writer, site.name, words, at_ns, site.name) for cause, words, at_ns in found]


def contested(line: AuthorityLine, node: NodeHere | None) -> Item:
    kind, name = (Kind.NODE, node.present.name) if node is not None else (Kind.DOMAIN, line.subject)
    words = f"two believe that they decide there. {line.contests[0]}"
    domain = "" if node is not None else line.subject
    return Item(Cause.CONTEST, kind, line.subject, name, words, line.since_ns or 0, line.site, domain)


def route(tenant: str, place_of: Callable[[str], str]) -> Callable[[sqlite3.Connection, Id], Route]:
    """In the log towards the site that it is about; what is common goes to every site."""

    def towards(db: sqlite3.Connection, one: Id) -> Route:
        if one.kind not in (Kind.NODE, Kind.SITE):
            return None, peers.logs_towards(db, tenant)
        peer = peers.get(db, place_of(one.id) if one.kind == Kind.NODE else one.id)
        if peer is None or peer.log is None:
            raise Refused("it belongs to no site any more", 404)
        return peer.log, ()

    return towards
