"""One tenant's hub, wired: a folder, a journal, people, a fleet and the pages' view of them, all of its own.

A hub process hosts several of these (`hub.compose`). They share its listener, its broker and the count of wrong passwords,
and nothing else: what one holds is in no file and in no object of another, so no query can reach across.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fleet.authority import HUB as HUB_DECIDES
from fleet.authority import Names
from fleet.events import AuthorityBegan, AuthorityGranted, AuthoritySettled, Recorded
from fleet.projections import authority as authority_view
from fleet.projections import lifecycle as lifecycle_view
from hub import shelf
from hub.attention import route
from hub.authority import Granting
from hub.box import HubBox, Parts
from hub.charts import Charts
from hub.debts import Debts
from hub.landing import Landing
from hub.plan import Plans
from hub.quay import Quay
from hub.state import FleetHere
from store.accounts import Accounts, Guesses
from store.attention import Marks
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import Folder, FolderProblem
from store.ground import HUB, Ground, readable
from store.history import HistoryIndex
from store.quarantine import Quarantine
from store.rights import Rights
from store.supervisor import Supervisor
from store.views import CHECKPOINT_S, Projection, View
from web.attention import attend
from web.stale import Stale

VERSION = "0.1.0"
_QUARANTINE_S = 1.0
_OF_AUTHORITY = frozenset((AuthorityBegan.KIND, AuthorityGranted.KIND, AuthoritySettled.KIND))

LIFECYCLE = Projection(lifecycle_view.NAME, lifecycle_view.VERSION, lifecycle_view.EMPTY, lifecycle_view.advance)
AUTHORITY = Projection(authority_view.NAME, authority_view.VERSION, authority_view.EMPTY, authority_view.advance)


class Realm:
    """`open`, `begin`, then `end`. Sites come in over `landing`: it fills `fleet`, and its commands are `parts.lines`.

    `house`: the hub's first tenant, where those who look across all of them have their accounts.
    """

    def __init__(self, root: Path, tenant: str, name: str, *, house: bool, guesses: Guesses) -> None:
        """`tenant` and `name` (of the hub) hold at the first start; afterwards what stands in the folder does."""
        self.folder = Folder(root)
        self.fleet = FleetHere()
        self.fault: StoreFault | None = None
        self._first = tenant, name
        self._house, self._guesses = house, guesses

    # -- starting ---------------------------------------------------------------------------------------------

    def open(self, quay: Callable[[int], Quay]) -> None:
        """On a folder that is held. FolderProblem, StoreFault or KeyProblem when it cannot be; then `close`. `quay` is
        asked for by the time that it is, for a certificate."""
        tenant, name = self._first
        self.ground = Ground(self.folder, tenant, name, self._fault_turned, HUB)
        ground = self.ground
        if not self._house and ground.identity.log.tenant != tenant:
            raise FolderProblem(f"{self.folder.root} is the folder of tenant {ground.identity.log.tenant}; name it so")
        wall_ns, mono_ns = ground.clock.now_ns(), time.monotonic_ns()
        self.steady_ns: Callable[[], int] = lambda: wall_ns + time.monotonic_ns() - mono_ns
        self.stale = Stale()
        self.fleet.told = lambda node_id: self.stale.mark(f"node:{node_id}")
        self.supervisor = Supervisor()
        self.lifecycle: View[lifecycle_view.State] = View(LIFECYCLE, lifecycle_view.State)
        self.authority: View[authority_view.State] = View(AUTHORITY, authority_view.State)
        ground.begin(VERSION)
        self.tenant, now_ns = ground.identity.log.tenant, ground.clock.now_ns
        with readable(self.folder.site_db.name), contextlib.closing(connect_reader(self.folder.site_db)) as db:
            self.lifecycle.load(db)
            self.authority.load(db)
            shelf.load(db, self.tenant, self.fleet)
        self.charts = Charts(self.folder, self.fleet, now_ns)
        self.debts = Debts(self.fleet, now_ns)
        ground.journal.listen(self._fold)
        self.turns = HistoryIndex(self.folder.history_db, self.folder.site_db, lambda: ground.journal.position)
        ground.journal.listen(self.turns.noticed)
        self.quarantine = Quarantine(ground.journal, ground.writer, ground.reader, tenant=self.tenant, now_ns=now_ns)
        self.accounts = Accounts(
            ground.journal,
            ground.writer,
            ground.reader,
            tenant=self.tenant,
            now_ns=now_ns,
            hub=True,
            house=self._house,
            guesses=self._guesses,
        )
        self._put_together(quay(now_ns()))

    def _put_together(self, quay: Quay) -> None:
        ground, now_ns = self.ground, self.ground.clock.now_ns
        self.parts = Parts(
            folder=self.folder,
            clock=ground.clock,
            identity=ground.identity,
            journal=ground.journal,
            reader=ground.reader,
            quarantine=self.quarantine,
            supervisor=self.supervisor,
            stale=self.stale,
            fleet=self.fleet,
            lifecycle=self.lifecycle,
            fault=lambda: self.fault,
            steady_ns=self.steady_ns,
            version=VERSION,
            started_ns=self.steady_ns(),
            turns=self.turns,
            charts=self.charts,
            debts=self.debts,
        )
        self.landing = Landing(ground, quay, self.fleet, self.quarantine.put, self.stale.mark, self.charts)
        self.parts.lines, self.parts.sticks = self.landing.wharf, self.landing.bundles
        rights = Rights(lambda: self.authority.state, HUB_DECIDES, self._place_of, self._names, self._is_hub)
        self.landing.shared.rights = rights
        self.granting = Granting(ground.journal, ground.writer, rights, self.fleet, self.stale.mark)
        self.parts.granting, self.parts.shared = self.granting, self.landing.shared
        self.parts.policies = self.landing.policies
        self.box = HubBox(self.parts)
        self.box.plans = Plans(
            self.folder.site_db,
            self.tenant,
            self._first[1],
            ground.journal,
            ground.writer,
            self.landing.shared,
            self.fleet,
            now_ns,
            self.stale.mark,
        )
        self.box.marks = Marks(ground.writer, self.landing.shared, self.tenant, route(self.tenant, self._place_of))
        ground.journal.listen(self.box.drifting.heard)
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            self.box.drifting.load(db)

    async def admit(self) -> None:
        """Those who were invited may come in. Before the broker runs it costs nothing; while it does, a reload."""
        await self.landing.start()

    def begin(self) -> None:
        """Everything runs."""
        self.turns.start()
        self.charts.start()
        self.supervisor.run("links", self.landing.run)
        self.supervisor.run("quarantine", self._quarantine_loop)
        self.supervisor.run("views", self._views_loop)
        self.supervisor.run("authority", self.granting.run)
        self.supervisor.run("debts", self.debts.run)
        self.supervisor.run("drift", lambda: self.box.drifting.run(self.stale.mark))
        self.supervisor.run("attention", lambda: attend(self.box.look))
        self.supervisor.run("clock", self.ground.watch_clock)

    def _place_of(self, node_id: str) -> str:
        held = self.fleet.nodes.get(node_id)
        return held.site if held is not None else ""

    def _names(self, place: str) -> Names:
        site = self.fleet.sites.get(place)
        return Names(self.ground.identity.site, site.name if site is not None else "the site")

    def _is_hub(self, writer: str) -> bool:
        return writer not in self.fleet.sites

    def _fold(self, batch: Sequence[Recorded]) -> None:
        self.lifecycle.fold(batch)
        self.authority.fold(batch)
        for subject in {one.subject for one in batch if one.kind in _OF_AUTHORITY}:
            self.stale.mark(f"authority:{subject}")
        if self.stale.watchers:  # or thousands of topics a second are made for nobody
            self.stale.mark("journal", *{f"node:{one.subject}" for one in batch})

    def _fault_turned(self, fault: StoreFault | None) -> None:
        self.fault = fault
        if hasattr(self, "stale"):
            self.stale.mark("site")

    async def _views_loop(self) -> None:
        """A start after a crash folds what came since the last checkpoint, so there is one now and then."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            for view in (self.lifecycle, self.authority):
                if view.is_far():
                    with contextlib.suppress(StoreFault):
                        await self.ground.writer.write(view.checkpoint)

    async def _quarantine_loop(self) -> None:
        while True:
            await asyncio.sleep(_QUARANTINE_S)
            if await self.quarantine.flush():
                self.stale.mark("quarantine")

    # -- stopping ---------------------------------------------------------------------------------------------

    def hush(self) -> None:
        """Streams of pages end."""
        if hasattr(self, "stale"):
            self.stale.closing = True

    async def halt(self) -> None:
        """Nothing runs any more."""
        if hasattr(self, "supervisor"):
            await self.supervisor.stop()

    async def close(self) -> None:
        """Say so in the log, and let go of the folder."""
        if hasattr(self, "charts"):
            await asyncio.to_thread(self.charts.stop)
            await self.charts.close()
        if hasattr(self, "turns"):
            await asyncio.to_thread(self.turns.stop)
        if hasattr(self, "ground"):
            if hasattr(self, "quarantine"):
                with contextlib.suppress(StoreFault):
                    await self.quarantine.flush()
                    await asyncio.to_thread(
                        self.ground.end, "asked to", self.lifecycle.checkpoint, self.authority.checkpoint
                    )
            await self.ground.close()
        if hasattr(self, "landing"):
            self.landing.close()
        self.folder.release()
