"""The plan at the hub: for one site that is back, or over all of them. What a person decides is said to the sites that it
is about.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from fleet.document import Id, Kind
from fleet.envelope import Log
from fleet.people import Identity, Refused, Unavailable
from hub.state import FleetHere, SiteHere
from store import peers
from store.database import Writer, connect_reader
from store.disputes import Disputes, Done, Looked, Route, Wish, chosen_of
from store.faults import StoreFault
from store.journal import Journal
from store.shared import Shared
from web import plans, ports

T = TypeVar("T")


class Plans:
    def __init__(
        self,
        site_db: Path,
        tenant: str,
        name: str,
        journal: Journal,
        writer: Writer,
        shared: Shared,
        fleet: FleetHere,
        now_ns: Callable[[], int],
        stale: Callable[[str], None],
    ) -> None:
        self._site_db, self._tenant, self._name = site_db, tenant, name
        self._writer, self._fleet, self._now_ns, self._stale = writer, fleet, now_ns, stale
        self._disputes = Disputes(tenant, journal, shared, self._route)

    # -- looking ------------------------------------------------------------------------------------------------

    async def look(self, who: Identity, query: ports.PlanQuery) -> ports.PlanView:
        site = self._site(query.peer)

        def read(db: sqlite3.Connection) -> tuple[Looked, list[ports.PlanDone]]:
            done = self._disputes.recent(db, site if query.peer else None)
            return self._disputes.look(db, self._nodes(query.peer)), [plans.done(*one) for one in done]

        looked, done = await self._read(read)
        return plans.view(
            looked.plan,
            self._names(looked),
            query,
            now_ns=self._now_ns(),
            site=site,
            done=done,
            sites=tuple(sorted(((one.writer, one.name) for one in self._sites()), key=lambda one: one[1])),
        )

    async def preview(self, who: Identity, wish: ports.PlanWish) -> Sequence[ports.PlanChange]:
        self._site(wish.peer)
        looked = await self._read(lambda db: self._disputes.look(db, self._nodes(wish.peer)))
        return plans.changes(chosen_of(looked.plan, Wish(**plans.wished(who, wish))), self._names(looked))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def reading() -> T:
            with closing(connect_reader(self._site_db)) as db:
                return work(db)

        try:
            return await asyncio.to_thread(reading)
        except StoreFault as fault:
            raise Unavailable(str(fault)) from fault

    def _names(self, looked: Looked) -> plans.Names:
        return plans.Names(looked.about, self._where, self._site_of)

    def _sites(self) -> list[SiteHere]:
        return list(dict(self._fleet.sites).values())

    def _site(self, peer: str) -> str:
        """The name of the site that a plan is for; empty for all. Refused (404) when there is none."""
        if not peer:
            return ""
        site = self._fleet.sites.get(peer)
        if site is None:
            raise Refused("There is no such site.", 404)
        return site.name

    def _nodes(self, peer: str) -> frozenset[str] | None:
        if not peer:
            return None
        return frozenset(name for name, one in dict(self._fleet.nodes).items() if one.site == peer)

    def _site_of(self, node_id: str) -> str:
        held = self._fleet.nodes.get(node_id)
        return self._where(held.site) if held is not None else ""

    def _where(self, writer: str) -> str:
        site = self._fleet.sites.get(writer)
        return site.name if site else self._name  # towards each site the hub writes a log of its own

    # -- deciding -----------------------------------------------------------------------------------------------

    async def apply(self, who: Identity, wish: ports.PlanWish) -> int:
        site, nodes = self._site(wish.peer), self._nodes(wish.peer)
        return self._told(
            await self._writer.write(
                lambda db: self._disputes.apply(
                    db, Wish(**plans.wished(who, wish)), nodes, site, self._log(db, wish.peer)
                )
            )
        )

    async def undo(self, who: Identity, plan: str, why: str) -> int:
        def job(db: sqlite3.Connection) -> Done:
            peers_of = {one.name: one.writer for one in self._sites()}
            return self._disputes.undo(db, plan, who.name, why, lambda site: self._log(db, peers_of.get(site, "")))

        return self._told(await self._writer.write(job))

    def _told(self, done: Done) -> int:
        for kind, name in done.documents:
            if kind == Kind.NODE:
                self._stale(f"node:{name}")
        for topic in ("plan", "policies", "site"):
            self._stale(topic)
        return done.decisions

    def _log(self, db: sqlite3.Connection, peer: str) -> Log | None:
        """The hub's log towards a site; its own for what is about all."""
        found = peers.get(db, peer) if peer else None
        return found.log if found is not None else None

    def _route(self, db: sqlite3.Connection, one: Id) -> Route:
        if one.kind != Kind.NODE:
            return None, peers.logs_towards(db, self._tenant)
        held = self._fleet.nodes.get(one.id)
        log = self._log(db, held.site) if held is not None else None
        if log is None:
            raise Refused("One of the nodes of this plan belongs to no site any more. Look at it again.", 404)
        return log, ()
