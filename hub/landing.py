"""Sites come in: harbor, wharf, lines and sticks of one hub, put together on its ground."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable

from hub import link_console
from hub.bundles import Bundles
from hub.charts import Charts
from hub.harbor import Harbor
from hub.lines import Lines
from hub.quay import Quay
from hub.segments import Segments
from hub.shelf import HubShelf
from hub.state import FleetHere
from hub.wharf import Wharf
from store import peers
from store.database import connect_reader
from store.ground import Ground
from store.policies import Policies
from store.shared import Shared
from sync.hub import Me
from web.policy import Entry

Aside = Callable[[str, str, str, bytes], None]


class Landing:
    def __init__(
        self,
        ground: Ground,
        quay: Quay,
        fleet: FleetHere,
        aside: Aside,
        stale: Callable[[str], None],
        charts: Charts | None = None,
    ) -> None:
        log = ground.identity.log
        self._ground, self._fleet, self._aside = ground, fleet, aside
        self._name, self._charts = ground.identity.site, charts
        self.shared = Shared(ground.journal, ground.clock, owner=True)
        self.segments = Segments(ground.folder.segments)
        self.policies = Policies(
            ground.writer, self.shared, ground.clock, log.tenant, lambda db: peers.logs_towards(db, log.tenant)
        )
        self.me = Me(log.tenant, log.writer, self._name, ground.public_key, ground.key.sign)
        harbor = Harbor(self.me, self._shelf(), fleet, secrets.token_bytes)
        self.wharf = Wharf(
            log.tenant, ground.journal, ground.writer, self.shared, harbor, fleet, ground.clock.now_ns, stale
        )
        self.lines = Lines(quay, log.tenant, self.wharf)
        self.bundles = Bundles(
            ground.folder, ground.writer, self.me, self._shelf, ground.key, fleet, ground.clock, stale
        )

    def _shelf(self) -> HubShelf:
        """The hub's data for the protocol; each user has one of its own."""
        ground = self._ground
        return HubShelf(
            ground.identity.log.tenant,
            self._name,
            ground.journal,
            ground.key,
            ground.public_key,
            self.shared,
            self._fleet,
            self.segments,
            ground.clock,
            self._aside,
            self._charts,
        )

    @property
    def routes(self) -> tuple[Entry, ...]:
        me = (self._name, self.me.writer, self.me.public_key, self.bundles.public_key)
        return link_console.routes(self.lines, self.bundles, self._fleet, me)

    async def start(self) -> None:
        with contextlib.closing(connect_reader(self._ground.folder.site_db)) as db:
            invitations = peers.invitations(db, self.me.tenant)
            self.wharf.load(db)
        await self.lines.start(invitations)

    async def run(self) -> None:
        """Supervised."""
        await self.lines.run()

    def close(self) -> None:
        self.segments.close()
        self.shared.close()
