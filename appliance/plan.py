"""The plan at a site: what stands against each other in its own documents. What is decided here reaches the hub with the
log, line or no line.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from fleet.document import Kind
from fleet.node import Node
from fleet.people import Identity, Refused, Unavailable
from store.commands import follow
from store.database import Writer, connect_reader
from store.disputes import Disputes, Done, Looked, Wish, chosen_of
from store.faults import StoreFault
from store.journal import Journal
from store.shared import Shared
from web import plans, ports

T = TypeVar("T")


class Plans:
    """`changed`: nodes whose rows follow their documents."""

    def __init__(
        self,
        site_db: Path,
        tenant: str,
        name: str,
        journal: Journal,
        writer: Writer,
        shared: Shared,
        where: Callable[[str], str],
        now_ns: Callable[[], int],
        stale: Callable[[str], None],
        changed: Callable[[Sequence[Node]], None],
    ) -> None:
        self._site_db, self._tenant, self._name, self._writer = site_db, tenant, name, writer
        self._shared, self._where, self._now_ns = shared, where, now_ns
        self._stale, self._changed = stale, changed
        self._disputes = Disputes(tenant, journal, shared, lambda db, one: (None, ()))

    async def look(self, who: Identity, query: ports.PlanQuery) -> ports.PlanView:
        if query.peer:
            raise Refused("This is a site; it has one plan, of its own documents.", 404)
        looked, done = await self._read(lambda db: (self._disputes.look(db), self._disputes.recent(db)))
        return plans.view(
            looked.plan,
            self._names(looked),
            query,
            now_ns=self._now_ns(),
            site=self._name,
            done=[plans.done(*one) for one in done],
        )

    async def preview(self, who: Identity, wish: ports.PlanWish) -> Sequence[ports.PlanChange]:
        looked = await self._read(self._disputes.look)
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
        return plans.Names(looked.about, self._where, lambda node_id: self._name)

    async def apply(self, who: Identity, wish: ports.PlanWish) -> int:
        said = Wish(**plans.wished(who, wish))
        return await self._write(lambda db: self._disputes.apply(db, said, None, self._name, None))

    async def undo(self, who: Identity, plan: str, why: str) -> int:
        return await self._write(lambda db: self._disputes.undo(db, plan, who.name, why, lambda site: None))

    async def _write(self, work: Callable[[sqlite3.Connection], Done]) -> int:
        def job(db: sqlite3.Connection) -> tuple[Done, list[Node]]:
            done = work(db)
            named = [name for kind, name in done.documents if kind == Kind.NODE]
            return done, follow(db, self._tenant, named, self._shared)

        done, nodes = await self._writer.write(job)
        self._changed(nodes)
        for topic in ("plan", "policies", *(f"node:{name}" for kind, name in done.documents if kind == Kind.NODE)):
            self._stale(topic)
        return done.decisions
