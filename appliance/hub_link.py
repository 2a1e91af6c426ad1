"""The way to the hub: opened when there is a link file, closed when an operator cuts it, kept up for ever otherwise.

What an operator says (cut, caps, paused lanes) is kept in the database, so that a restart does not forget it, and is an
event. The deciders are in `sync.site`; here they get threads, a clock and a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from appliance.shelf import SiteShelf
from appliance.uplink import Uplink
from fleet import events
from fleet.people import Refused
from store import link_file
from store.database import Writer
from store.faults import StoreFault
from store.folder import Folder
from store.journal import Journal
from store.link_file import LinkFile, LinkProblem
from sync import messages
from sync.carrier import Carrier
from sync.link import Link, LinkDown, Parcel, Tally
from sync.messages import Lane
from sync.protocol import Caps
from sync.site import Me, Site

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_BYE_S = 1.0
_SET_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"


class Orders(msgspec.Struct, frozen=True):
    """An operator's word on the line. 0 is no cap."""

    cut: bool = False
    per_s: int = 0
    per_hour: int = 0
    paused: tuple[int, ...] = ()

    @property
    def caps(self) -> Caps:
        return Caps(self.per_s, self.per_hour, frozenset(map(Lane, self.paused)))


def ordered(orders: Orders, action: str, value: str) -> Orders:
    """Orders with one thing changed. Refused (422) when it cannot be."""
    replace = msgspec.structs.replace
    match action:
        case "cut" | "restore":
            return replace(orders, cut=action == "cut")
        case "per_s" | "per_hour":
            if not value.isdigit():
                raise Refused(f"{value!r} is not a number of bytes; 0 is no cap", 422)
            return replace(orders, **{action: int(value)})
        case "pause" | "resume":
            lanes = {lane.name.lower(): lane for lane in Lane if lane is not Lane.CONTROL}
            lane = lanes.get(value)
            if lane is None:
                raise Refused(f"{value!r} is no lane that can be paused; it is one of {', '.join(lanes)}", 422)
            paused = {*orders.paused, int(lane)} if action == "pause" else {*orders.paused} - {int(lane)}
            return replace(orders, paused=tuple(sorted(paused)))
        case _:
            raise Refused(f"{action!r} is nothing that can be done to a link", 422)


class HubLink:
    def __init__(
        self,
        folder: Folder,
        journal: Journal,
        site: Writer,
        shelf: SiteShelf,
        me: Me,
        now_ns: Callable[[], int],
        stale: Callable[[str], None],
        make: Callable[[LinkFile, str], Link],
    ) -> None:
        self.file: LinkFile | None = None
        self.problem = ""
        self.orders = Orders()
        self.uplink = Uplink(Site(me), shelf, secrets.token_bytes)
        self.link: Link | None = None
        self._folder, self._journal, self._site, self._shelf = folder, journal, site, shelf
        self._now_ns, self._stale, self._make = now_ns, stale, make
        self._changed = asyncio.Event()
        self._carrier: Carrier | None = None
        self._carried = Tally()
        journal.listen(lambda batch: self._carrier.wake() if self._carrier else None)

    def load(self, db: sqlite3.Connection) -> None:
        row = db.execute("SELECT value FROM meta WHERE key='link_orders'").fetchone()
        if row is not None:
            self.orders = msgspec.json.decode(row[0], type=Orders)
        self._obey()
        self._read_file()

    def _read_file(self) -> None:
        if self.file is None and self._folder.link_file.exists():
            try:
                self.file, self.problem = link_file.read(self._folder.link_file), ""
            except LinkProblem as problem:
                self.problem = str(problem)
                return
            self._shelf.invitation = bytes.fromhex(self.file.secret)
            self._shelf.pinned = (self.file.hub_writer, bytes.fromhex(self.file.hub_key))

    def _obey(self) -> None:
        self.uplink.site.caps = self.orders.caps

    async def order(self, actor: str, action: str, value: str) -> None:
        """An operator's word: kept, told in the log, obeyed at once. Refused when it makes no sense."""
        orders = ordered(self.orders, action, value)
        peer = self.file.hub_writer if self.file else ""

        def job(db: sqlite3.Connection) -> None:
            db.execute(_SET_META, ("link_orders", msgspec.json.encode(orders).decode()))
            self._journal.stage(peer or self._journal.log.writer, events.LinkChanged(peer, action, value[:100], actor))

        await self._site.write(job)
        self.orders = orders
        self._obey()
        self._changed.set()
        self._stale("links")

    async def join(self, raw: bytes) -> LinkFile:
        """Take in a link file. Refused when it is none, or this site has a hub already."""
        try:
            made = link_file.parse(raw)
        except LinkProblem as problem:
            raise Refused(str(problem), 422) from problem
        if self.file is not None and self.file.hub_writer != made.hub_writer:
            raise Refused(f"this site belongs to the hub {self.file.hub} already")
        if made.tenant != self._journal.log.tenant:
            raise Refused(f"the link file is for tenant {made.tenant!r}; this site is of {self._journal.log.tenant!r}")
        await asyncio.to_thread(link_file.write, self._folder.link_file, made)
        self.file = None
        self._read_file()
        self._changed.set()
        self._stale("links")
        return made

    @property
    def url(self) -> str:
        """Where the hub is, as far as it is tried now; empty without a hub."""
        return (self.link.url if self.link else "") or (self.file.urls[0] if self.file else "")

    def tally(self) -> Tally:
        """Since the start of the process, over every line there was."""
        now = self.link.tally() if self.link is not None else Tally()
        return Tally(*(one + other for one, other in zip(self._carried, now, strict=True)))

    # -- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Supervised, for ever."""
        try:
            while True:
                self._changed.clear()
                if self.file is None or self.orders.cut:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            await self._changed.wait()
                    self._read_file()
                    continue
                await self._hold(self.file)
        finally:
            await self._close()

    async def _hold(self, file: LinkFile) -> None:
        """Keep the line up until an operator says otherwise."""
        self.link = self._make(file, self._journal.log.writer)
        self._carrier = Carrier(self.link, self._turn)
        carrying = asyncio.create_task(self._carrier.run())
        changed = asyncio.create_task(self._changed.wait())
        try:
            while not self.orders.cut and self.file == file:
                await asyncio.wait((carrying, changed), return_when=asyncio.FIRST_COMPLETED)
                if carrying.done():
                    carrying.result()
                if changed.done():
                    self._changed.clear()
                    changed = asyncio.create_task(self._changed.wait())
        finally:
            changed.cancel()
            carrying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await carrying
            await self._close()
            await self._turn(())

    async def _close(self) -> None:
        link, self.link, self._carrier = self.link, None, None
        if link is None:
            return
        bye = self.uplink.site.bye("cut by an operator" if self.orders.cut else "the site stops")
        if bye is not None and link.up:  # so that the hub need not wait for a time-out
            with contextlib.suppress(LinkDown, TimeoutError):
                parcel = Parcel(self._journal.log.writer, bye.LANE, messages.encode(bye))
                async with asyncio.timeout(_BYE_S):
                    await link.send(parcel)
        now = link.tally()
        self._carried = Tally(*(one + other for one, other in zip(self._carried, now, strict=True)))
        await link.close()

    async def _turn(self, parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        now_ns = self._now_ns()
        up = self.link is not None and self.link.up
        former = self.uplink.site.state
        try:
            said = await self._site.write(lambda db: self.uplink.work(db, parcels, up, now_ns))
        except StoreFault as fault:
            log.warning("the link waits: %s", fault)
            self.uplink.fell(now_ns)
            self._obey()
            await asyncio.sleep(1.0)
            return ()
        self.uplink.committed()
        if parcels or said or former is not self.uplink.site.state:
            self._stale("links")
        return said
