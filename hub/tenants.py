"""The tenants of a hub beside its first: opened at the start, added while it runs, looked at together by who may.

Rules of the file
  1  A tenant is a folder of its own under tenants/, named as the tenant. What stands inside says whose it is; a folder
     that was renamed or copied is not opened, for two of one name would share their sites' subjects.
  2  One that cannot be opened leaves the others alone; it stands on the page with its reason, and for everybody else it is
     as if it were not there.
  3  Who looks at sums of all is told in the log of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from fleet.connectivity import Reach
from fleet.events import AccountChanged, AccountCreated, Body, Recorded, TenantAdded
from fleet.limits import tenants_max
from fleet.people import Identity, Refused, Role
from hub.config import Config
from hub.debts import HEARD
from hub.quay import Quay
from hub.realm import Realm
from store import keys, roster
from store.accounts import Accounts, Guesses, check_name
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import TENANTS, FolderProblem
from store.keys import KeyProblem
from web import asked, auth, ports
from web.app import absent, application
from web.console import ROUTES as CONSOLE
from web.doors import NAME, Doors, prefix_of
from web.pages import tenants as page
from web.policy import Entry
from web.routes import TABLE

log = logging.getLogger(__name__)

_NAME = re.compile(NAME)
_NOWHERE_MAX = 256  # names of tenants that are not here and were asked for; when full, all are forgotten


class _Nobody(Accounts):
    """The people of a tenant that is not here: none. Wrong passwords are counted all the same. No tenant's log has a place
    for it: whoever reads the first one's would learn from it who is here and who is not."""

    async def seen(self, who: Identity, route: str, agent: str) -> None:
        """There was nothing to see."""

    async def _record(self, subject: str, body: Body) -> None:
        log.warning("refused at a tenant that is not here: %s", body)
        await self._writer.write(lambda db: None)  # takes as long as where there is one


class Tenants:
    """`ports.Tenants`; and `doors` is the app that all requests come to."""

    def __init__(self, house: Realm, quay: Quay, config: Config, guesses: Guesses) -> None:
        self.realms: dict[str, Realm] = {}
        self._house, self._quay, self._config, self._guesses = house, quay, config, guesses
        self._root = house.folder.root / TENANTS
        self._closed: dict[str, str] = {}  # tenants that are not open, and why
        self._secure = config.http.public_url.startswith("https:")
        self._adding = asyncio.Lock()
        self._changed = asyncio.Event()  # an account of the first tenant, or a tenant came
        self._nowhere: dict[str, ASGIApp] = {}
        self.doors = Doors(
            application(
                house.box,
                house.accounts,
                extra_routes=(*_routes(house), *page.ROUTES),
                secure_cookies=self._secure,
                clock=house.ground.clock.now_ns,
                tenant=house.tenant,
                tenants=self,
            ),
            self._app_of_nobody,
        )

    # -- coming and going -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """All that are there."""
        for folder in self._folders():
            await self._open(folder.name)

    def begin(self) -> None:
        self._house.ground.journal.listen(self._listener())
        self._house.supervisor.run("operators", self._operators_loop)
        for realm in self.realms.values():
            realm.begin()

    def _listener(self) -> Callable[[Sequence[Recorded]], None]:
        loop = asyncio.get_running_loop()

        def heard(batch: Sequence[Recorded]) -> None:
            if any(isinstance(one.body, AccountCreated | AccountChanged) for one in batch):
                loop.call_soon_threadsafe(self._changed.set)

        return heard

    async def _operators_loop(self) -> None:
        """Who looks across all tenants and is for all sites is for those of every tenant. A folder that was another hub's
        tenant and is a hub of its own now lets go of that hub's."""
        await self._tell(self._house, ())
        while True:
            self._changed.clear()
            people = await asyncio.to_thread(self._across)
            for realm in tuple(self.realms.values()):
                await self._tell(realm, people)
            await self._changed.wait()

    async def _tell(self, realm: Realm, people: Sequence[roster.Bounded]) -> None:
        ground = realm.ground
        try:
            await ground.writer.write(partial(roster.take_across, people=people, now_ns=ground.clock.now_ns()))
        except (StoreFault, Refused) as problem:
            log.warning("tenant %s was not told who looks across all tenants: %s", realm.tenant, problem)

    def _across(self) -> tuple[roster.Bounded, ...]:
        with contextlib.closing(connect_reader(self._house.folder.site_db)) as db:
            return roster.across(db)

    @property
    def rows(self) -> tuple[Entry, ...]:
        """Every route that the hub has."""
        return (*TABLE, *_routes(self._house), *page.ROUTES)

    def _folders(self) -> list[Path]:
        try:
            return sorted(one for one in self._root.iterdir() if one.is_dir() and _NAME.fullmatch(one.name))
        except FileNotFoundError:
            return []

    async def _open(self, name: str) -> None:
        """Open it, or note why not."""
        realm = self._made(name)
        try:
            self._hold(realm)
            await self._enter(name, realm)
        except (FolderProblem, StoreFault, KeyProblem) as problem:
            log.warning("tenant %s stays closed: %s", name, problem)
            self._closed[name] = str(problem)
            await _end(realm)

    def _made(self, name: str) -> Realm:
        return Realm(self._root / name, name, self._config.hub.name, house=False, guesses=self._guesses)

    def _hold(self, realm: Realm) -> None:
        if len(self.realms) + 1 >= tenants_max:
            raise FolderProblem(f"a hub keeps {tenants_max} tenants at most")
        if realm.folder.root.name == self._house.tenant:
            raise FolderProblem(
                f"{self._house.tenant} is the first tenant of this hub; another folder of it is not opened"
            )
        realm.folder.prepare()
        realm.folder.hold()

    async def _enter(self, name: str, realm: Realm) -> None:
        realm.open(lambda now_ns: self._quay)
        await realm.admit()
        self.realms[name] = realm
        self.doors.apps[name] = application(
            realm.box,
            realm.accounts,
            extra_routes=_routes(realm),
            secure_cookies=self._secure,
            clock=realm.ground.clock.now_ns,
            tenant=name,
            prefix=prefix_of(name),
            across=self._house.accounts,
            tenants=self,
        )

    def hush(self) -> None:
        for realm in self.realms.values():
            realm.hush()

    async def halt(self) -> None:
        for realm in self.realms.values():
            await realm.halt()

    async def close(self) -> None:
        for realm in self.realms.values():
            await realm.close()

    def _app_of_nobody(self, name: str) -> ASGIApp:
        if len(self._nowhere) >= _NOWHERE_MAX:
            self._nowhere.clear()
        if name not in self._nowhere:
            house, ground = self._house, self._house.ground
            nobody = _Nobody(
                ground.journal,
                ground.writer,
                ground.reader,
                tenant=f"/{name}",  # no tenant's name: what is in the hub's first is not found
                now_ns=ground.clock.now_ns,
                hub=True,
                house=False,
                guesses=self._guesses,
            )
            self._nowhere[name] = absent(
                asked.House(
                    house.box, nobody, ground.clock.now_ns, self._secure, name, prefix_of(name), house.accounts, self
                ),
                _routes(house),
            )
        return self._nowhere[name]

    # -- for those who look across ----------------------------------------------------------------------------

    def _all(self) -> Iterator[tuple[str, Realm]]:
        yield "", self._house
        for name in sorted(self.realms):
            yield prefix_of(name), self.realms[name]

    async def lines(self, who: Identity, route: str, agent: str) -> Sequence[ports.TenantLine]:
        made = [await self._line(prefix, realm, who) for prefix, realm in self._all()]
        await self._seen(who, route, agent)
        closed = (ports.TenantLine(name=name, prefix="", problem=why) for name, why in sorted(self._closed.items()))
        return [*made, *closed]

    async def _line(self, prefix: str, realm: Realm, who: Identity) -> ports.TenantLine:
        view = await realm.box.site(who, ports.NodeQuery(limit=1))
        return ports.TenantLine(
            name=realm.tenant,
            prefix=prefix,
            sites=len(view.sites),
            sites_live=sum(site.mode in HEARD for site in view.sites),
            nodes=sum(view.reach.values()),
            nodes_live=view.reach.get(Reach.ONLINE, 0),
            needing=view.needing,
        )

    async def _seen(self, who: Identity, route: str, agent: str) -> None:
        """In the first tenant's log it stands by itself."""
        if who.watched:
            for realm in tuple(self.realms.values()):
                await realm.accounts.seen(auth.guest(who), route, agent)

    async def add(self, who: Identity, name: str, admin: str) -> str:
        if not _NAME.fullmatch(name):
            raise Refused(
                "a tenant's name has 1 to 32 small letters, digits and -, with none of these at its ends", 422
            )
        check_name(admin)
        async with self._adding:
            if name == self._house.tenant or name in self.realms or (self._root / name).exists():
                raise Refused(f"there is a tenant {name} already")
            realm = self._made(name)
            try:
                self._hold(realm)
                await self._enter(name, realm)
            except (FolderProblem, StoreFault, KeyProblem) as problem:
                await _end(realm)
                raise Refused(f"tenant {name} cannot be opened: {problem}") from problem
            realm.begin()
        self._changed.set()
        ground, added = realm.ground, TenantAdded(name, admin, who.name)
        await ground.writer.write(lambda db: ground.journal.stage(name, added))
        await realm.accounts.create_account(who, admin, keys.new_secret("first"), Role.ADMIN)
        return await realm.accounts.create_entry(who, admin)

    async def gauges(self, who: Identity, agent: str) -> Sequence[ports.Gauge | ports.Durations]:
        await self._seen(who, "GET /metrics", agent)
        if not self.realms:
            return await self._house.box.gauges()
        return [
            msgspec.structs.replace(gauge, labels=(("tenant", realm.tenant), *gauge.labels))
            for _, realm in self._all()
            for gauge in await realm.box.gauges()
        ]

    async def health(self) -> ports.Fitness:
        own = await self._house.box.health()
        others = [await realm.box.health() for realm in tuple(self.realms.values())]
        unfit = sum(not one.ready for one in others) + len(self._closed)
        if not unfit:
            return own
        said = f"{unfit} other tenant{'s are' if unfit > 1 else ' is'} not well; see the page Tenants"
        return msgspec.structs.replace(own, problems=(*own.problems, said))


def _routes(realm: Realm) -> tuple[Entry, ...]:
    return (*CONSOLE, *realm.landing.routes)


async def _end(realm: Realm) -> None:
    realm.hush()
    await realm.halt()
    await realm.close()
