"""How does the hub say who decides? It grants, to each site in the log towards it; what holds is what the site begins.

Rules of the file
  1  A grant names the epoch that it would be: one more than what is known here of that site. A site where more has
     happened does not accept it, and both ends see the contest.
  2  A domain is granted to every site of the tenant; one that comes later is told by `complete`. A node is granted to its
     own site.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable

from fleet import authority
from fleet.authority import Chain, Grant, Terms
from fleet.events import AuthorityGranted
from fleet.people import Refused
from fleet.projections.authority import places
from hub.state import FleetHere
from store import peers
from store.database import Writer
from store.faults import StoreFault
from store.journal import Journal
from store.rights import Rights
from web import deciding
from web.ports import AuthorityLine

log = logging.getLogger(__name__)

_LOOK_S = 2.0


class Granting:
    def __init__(
        self, journal: Journal, writer: Writer, rights: Rights, fleet: FleetHere, stale: Callable[[str], None]
    ) -> None:
        self.rights = rights
        self._journal, self._writer, self._fleet, self._stale = journal, writer, fleet, stale

    def chains(self, subject: str) -> list[Chain]:
        """The subject at each site that is concerned, in the order of their names."""
        known = {place: self._fleet.sites[place].name for place in self._places(subject) if place in self._fleet.sites}
        return [self.rights.chain(subject, place) for place in sorted(known, key=lambda one: (known[one], one))]

    def line(self, chain: Chain) -> AuthorityLine:
        """For pages."""
        site = self._fleet.sites.get(chain.place)
        return deciding.line(chain, authority.HUB, self.rights.names(chain.place), site.heard_ns if site else None)

    def contested(self) -> list[AuthorityLine]:
        """Where two believe that they decide."""
        return [self.line(chain) for chain in self.rights.contested()]

    def _places(self, subject: str) -> list[str]:
        held = self._fleet.nodes.get(subject)
        return [held.site] if held is not None else places(self.rights.state, subject)

    async def grant(self, actor: str, subject: str, terms: Terms, why: str) -> None:
        """A person's word on who decides. Refused when the terms will not do."""
        problem = authority.wrong_terms(terms, why)
        if problem:
            raise Refused(problem, 422)
        if not subject.isprintable() or not 0 < len(subject) <= authority.subject_chars_max:
            raise Refused("there is no such domain", 404)
        held = self._fleet.nodes.get(subject)
        sites = [held.site] if held is not None else list(self._fleet.sites)
        if not sites:
            raise Refused("there is no site yet to grant anything to; invite one under Links")
        await self._writer.write(lambda db: self._say(db, subject, sites, terms, actor, why))
        self._stale(f"authority:{subject}")

    def _say(
        self, db: sqlite3.Connection, subject: str, sites: Iterable[str], terms: Terms, actor: str, why: str
    ) -> None:
        for site in sites:
            peer = peers.get(db, site)
            if peer is not None and peer.log is not None:
                epoch = self.rights.chain(subject, site).epoch + 1
                said = AuthorityGranted(
                    site,
                    epoch,
                    terms.master,
                    terms.controllers,
                    terms.lease_ns,
                    terms.on_expiry,
                    terms.on_return,
                    actor,
                    why,
                )
                self._journal.stage(subject, said, peer.log)

    async def run(self) -> None:
        """Supervised, for ever."""
        while True:
            try:
                await self.complete()
            except StoreFault as fault:
                log.warning("grants wait: %s", fault)
            await asyncio.sleep(_LOOK_S)

    async def complete(self) -> None:
        """Tell sites that came after a domain was granted."""
        newest: dict[str, Grant] = {}
        told: dict[str, set[str]] = {}
        for subject, place in dict(self.rights.state.grants):
            given = self.rights.chain(subject, place).grant
            if given is not None and subject not in self._fleet.nodes:
                newest[subject] = max(newest.get(subject, given), given)
                told.setdefault(subject, set()).add(place)
        for subject, given in newest.items():
            missing = [site for site in tuple(self._fleet.sites) if site not in told[subject]]
            if missing:
                why = f"{given.why} (told again to a site that came later)"[: authority.why_chars_max]

                def job(
                    db: sqlite3.Connection,
                    subject: str = subject,
                    missing: list[str] = missing,
                    given: Grant = given,
                    why: str = why,
                ) -> None:
                    self._say(db, subject, missing, given.terms, given.actor, why)

                await self._writer.write(job)
