"""The hub, wired: what knows whom stands here and nowhere else. `Hub` is the whole box; tests run it too."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
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
from hub.config import Config
from hub.debts import Debts
from hub.landing import Landing
from hub.plan import Plans
from hub.state import FleetHere
from store import ports
from store.accounts import Accounts
from store.attention import Marks
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import Folder
from store.ground import HUB, Ground, readable
from store.history import HistoryIndex
from store.quarantine import Quarantine
from store.rights import Rights
from store.settings import address
from store.supervisor import Supervisor
from store.views import CHECKPOINT_S, Projection, View
from web import console
from web.app import application
from web.attention import attend
from web.policy import Entry
from web.serving import Serving
from web.stale import Stale

VERSION = "0.1.0"
_QUARANTINE_S = 1.0
_SWITCH_S = 0.0005
_OF_AUTHORITY = frozenset((AuthorityBegan.KIND, AuthorityGranted.KIND, AuthoritySettled.KIND))

LIFECYCLE = Projection(lifecycle_view.NAME, lifecycle_view.VERSION, lifecycle_view.EMPTY, lifecycle_view.advance)
AUTHORITY = Projection(authority_view.NAME, authority_view.VERSION, authority_view.EMPTY, authority_view.advance)


class Hub:
    """The mainland. `start`, then `stop`; what it listens on stands in `addresses`, the set-up link in `setup_path`.

    Sites come in over `landing`: it fills `fleet`, and its commands are `parts.lines`.
    """

    def __init__(self, root: Path, config: Config) -> None:
        self.config = config
        self.folder = Folder(root)
        self.fleet = FleetHere()
        self.addresses: dict[str, str] = {}
        self.setup_path: str | None = None
        self.routes: list[Entry] = [*console.ROUTES]
        self.fault: StoreFault | None = None
        self._serving: Serving | None = None

    # -- starting ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything up and serving. FolderProblem, StoreFault, KeyProblem or ListenProblem, each with its sentence, when
        it cannot be; what was opened until then is closed again."""
        # Whoever speaks to the database lets go of the interpreter lock at each statement, and waits this long for it
        # again while another thread computes: with Python's 5 ms a thousand sites' words would take seconds for that.
        sys.setswitchinterval(_SWITCH_S)
        gc.set_threshold(
            50_000, 20, 100
        )  # what is made for a word is gone by itself; a fleet's nodes are looked through seldom
        self.folder.prepare()
        self.folder.hold()
        try:
            self._open()
            await self.landing.start()
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    def _open(self) -> None:
        hub = self.config.hub
        self.ground = Ground(self.folder, hub.tenant, hub.name, self._fault_turned, HUB)
        ground = self.ground
        wall_ns, mono_ns = ground.clock.now_ns(), time.monotonic_ns()
        self.steady_ns: Callable[[], int] = lambda: wall_ns + time.monotonic_ns() - mono_ns
        self.stale = Stale()
        self.supervisor = Supervisor()
        self.lifecycle: View[lifecycle_view.State] = View(LIFECYCLE, lifecycle_view.State)
        self.authority: View[authority_view.State] = View(AUTHORITY, authority_view.State)
        ground.begin(VERSION)
        tenant, now_ns = ground.identity.log.tenant, ground.clock.now_ns
        with readable(self.folder.site_db.name), contextlib.closing(connect_reader(self.folder.site_db)) as db:
            self.lifecycle.load(db)
            self.authority.load(db)
            shelf.load(db, tenant, self.fleet)
        self.charts = Charts(self.folder, self.fleet, now_ns)
        self.debts = Debts(self.fleet, now_ns)
        ground.journal.listen(self._fold)
        self.turns = HistoryIndex(self.folder.history_db, self.folder.site_db, lambda: ground.journal.position)
        ground.journal.listen(self.turns.noticed)
        self.quarantine = Quarantine(ground.journal, ground.writer, ground.reader, tenant=tenant, now_ns=now_ns)
        self.accounts = Accounts(ground.journal, ground.writer, ground.reader, tenant=tenant, now_ns=now_ns, hub=True)
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
        self.landing = Landing(ground, self.config, self.fleet, self.quarantine.put, self.stale.mark, self.charts)
        self.parts.lines, self.parts.sticks = self.landing.wharf, self.landing.bundles
        rights = Rights(lambda: self.authority.state, HUB_DECIDES, self._place_of, self._names, self._is_hub)
        self.landing.shared.rights = rights
        self.granting = Granting(ground.journal, ground.writer, rights, self.fleet, self.stale.mark)
        self.parts.granting, self.parts.shared = self.granting, self.landing.shared
        self.parts.policies = self.landing.policies
        self.routes += self.landing.routes
        self.addresses |= zip(("link", "websocket"), self.landing.lines.broker.urls(), strict=False)
        self.box = HubBox(self.parts)
        self.box.plans = Plans(
            self.folder.site_db,
            tenant,
            hub.name,
            ground.journal,
            ground.writer,
            self.landing.shared,
            self.fleet,
            now_ns,
            self.stale.mark,
        )
        self.box.marks = Marks(ground.writer, self.landing.shared, tenant, route(tenant, self._place_of))
        ground.journal.listen(self.box.drifting.heard)
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            self.box.drifting.load(db)

    async def _listen(self) -> None:
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
        if await self.accounts.needs_setup():
            self.setup_path = f"/setup/{await self.accounts.setup_secret()}"
        http = self.config.http
        listener = ports.tcp_listener("http", *address(http.listen, "http.listen"))
        self.addresses["http"] = ports.shown(*listener.getsockname()[:2])
        app = application(
            self.box,
            self.accounts,
            extra_routes=self.routes,
            secure_cookies=http.public_url.startswith("https:"),
            clock=self.ground.clock.now_ns,
        )
        self._serving = Serving(app, [listener, ports.control_listener(self.folder.control)])
        await self._serving.start()

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
        self.stale.mark("journal")

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

    async def stop(self) -> None:
        """Let nobody in any more, say so in the log, close."""
        if hasattr(self, "stale"):
            self.stale.closing = True
        if self._serving is not None:
            self._serving.ask_to_stop()
        if hasattr(self, "supervisor"):
            await self.supervisor.stop()
        if self._serving is not None:
            await self._serving.stopped()
        if hasattr(self, "landing"):
            await self.landing.stop()
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
        self.folder.control.unlink(missing_ok=True)
        self.folder.release()
