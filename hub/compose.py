"""The hub, wired: what knows whom stands here and nowhere else. `Hub` is the whole box; tests run it too."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fleet.events import Recorded
from fleet.projections import lifecycle as lifecycle_view
from hub import shelf
from hub.box import HubBox, Parts
from hub.config import Config
from hub.landing import Landing
from hub.state import FleetHere
from store import ports
from store.accounts import Accounts
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import Folder
from store.ground import HUB, Ground, readable
from store.quarantine import Quarantine
from store.settings import address
from store.supervisor import Supervisor
from store.views import CHECKPOINT_S, Projection, View
from web import console
from web.app import application
from web.policy import Entry
from web.serving import Serving
from web.stale import Stale

VERSION = "0.1.0"
_QUARANTINE_S = 1.0

LIFECYCLE = Projection(lifecycle_view.NAME, lifecycle_view.VERSION, lifecycle_view.EMPTY, lifecycle_view.advance)


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
        ground.begin(VERSION)
        tenant, now_ns = ground.identity.log.tenant, ground.clock.now_ns
        with readable(self.folder.site_db.name), contextlib.closing(connect_reader(self.folder.site_db)) as db:
            self.lifecycle.load(db)
            shelf.load(db, tenant, self.fleet)
        ground.journal.listen(self._fold)
        self.quarantine = Quarantine(ground.journal, ground.writer, ground.reader, tenant=tenant, now_ns=now_ns)
        self.accounts = Accounts(ground.journal, ground.writer, ground.reader, tenant=tenant, now_ns=now_ns)
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
        )
        self.landing = Landing(ground, self.config, self.fleet, self.quarantine.put, self.stale.mark)
        self.parts.lines, self.parts.sticks = self.landing.wharf, self.landing.bundles
        self.routes += self.landing.routes
        self.addresses |= zip(("link", "websocket"), self.landing.lines.broker.urls(), strict=False)
        self.box = HubBox(self.parts)

    async def _listen(self) -> None:
        self.supervisor.run("links", self.landing.run)
        self.supervisor.run("quarantine", self._quarantine_loop)
        self.supervisor.run("views", self._views_loop)
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

    def _fold(self, batch: Sequence[Recorded]) -> None:
        self.lifecycle.fold(batch)
        self.stale.mark("journal")

    def _fault_turned(self, fault: StoreFault | None) -> None:
        self.fault = fault
        if hasattr(self, "stale"):
            self.stale.mark("site")

    async def _views_loop(self) -> None:
        """A start after a crash folds what came since the last checkpoint, so there is one now and then."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            if self.lifecycle.is_far():
                with contextlib.suppress(StoreFault):
                    await self.ground.writer.write(self.lifecycle.checkpoint)

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
        if hasattr(self, "ground"):
            if hasattr(self, "quarantine"):
                with contextlib.suppress(StoreFault):
                    await self.quarantine.flush()
                    await asyncio.to_thread(self.ground.end, "asked to", self.lifecycle.checkpoint)
            await self.ground.close()
        if hasattr(self, "landing"):
            self.landing.close()
        self.folder.control.unlink(missing_ok=True)
        self.folder.release()
