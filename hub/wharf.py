"""The hub's lines in operation: the broker, the hub's end of it, the harbor behind, and the invitations.

A site is invited before anybody knows its writer: its credential names a *link*. The first hello over that link says
which writer it is; from then on the two belong together, and no other link may speak for that writer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from fleet import events
from fleet.document import Id, Value
from fleet.document import Kind as DocumentKind
from fleet.people import Refused
from hub.harbor import Harbor
from hub.state import FleetHere
from store import batch, document, peers, upstream
from store.database import Writer
from store.faults import StoreFault
from store.journal import Journal
from store.keys import new_ulid
from store.link_file import LinkFile
from store.peers import Invitation
from store.shared import Shared
from sync import messages
from sync.carrier import Carrier
from sync.link import Link, Parcel
from sync.messages import Hello

log = logging.getLogger(__name__)

_RATES_S = 1.0


class Berths:
    """Which writer speaks over which link."""

    def __init__(self) -> None:
        self.writer_of: dict[str, str] = {}  # link → writer
        self.link_of: dict[str, str] = {}
        self.bound: set[str] = set()  # writers whose link the database knows

    def load(self, invitations: Sequence[Invitation]) -> None:
        for one in invitations:
            if one.writer and one.link:
                self._bind(one.link, one.writer)
                self.bound.add(one.writer)

    def _bind(self, link: str, writer: str) -> None:
        former = self.writer_of.get(link)
        if former is not None and former != writer:
            self.link_of.pop(former, None)
        self.writer_of[link] = writer
        self.link_of[writer] = link

    def named(self, parcel: Parcel) -> Parcel | None:
        """The parcel with its site's writer; None when nobody knows whose it is, or the link may not speak for it."""
        writer = self.writer_of.get(parcel.peer)
        if writer is None or writer not in self.bound:
            said = _hello(parcel.data)
            if said is not None:
                if said.writer in self.bound and self.link_of.get(said.writer) != parcel.peer:
                    return None  # another link's site
                self._bind(parcel.peer, said.writer)
                writer = said.writer
        return None if writer is None else parcel._replace(peer=writer)

    def addressed(self, parcel: Parcel) -> Parcel | None:
        link = self.link_of.get(parcel.peer)
        return None if link is None else parcel._replace(peer=link)


def _hello(raw: bytes) -> Hello | None:
    try:
        said = messages.decode(raw)
    except ValueError:
        return None
    return said if isinstance(said, Hello) else None


class Wharf:
    def __init__(
        self,
        tenant: str,
        journal: Journal,
        site: Writer,
        shared: Shared,
        harbor: Harbor,
        fleet: FleetHere,
        now_ns: Callable[[], int],
        stale: Callable[[str], None],
    ) -> None:
        self.berths = Berths()
        self.harbor = harbor
        self.link: Link | None = None
        self._tenant, self._journal, self._site, self._shared = tenant, journal, site, shared
        self._fleet, self._now_ns, self._stale = fleet, now_ns, stale
        self._carrier: Carrier | None = None
        self._rates: dict[str, tuple[float, int]] = {}
        self._settled_s = 0.0
        journal.listen(lambda batch: self._carrier.wake() if self._carrier else None)

    def load(self, db: sqlite3.Connection) -> None:
        self.berths.load(peers.invitations(db, self._tenant))

    async def run(self, link: Link) -> None:
        """Supervised, for ever."""
        self.link = link
        self._carrier = Carrier(link, self._turn)
        try:
            await self._carrier.run()
        finally:
            self._carrier = None
            await link.close()

    async def _turn(self, parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        named = [one for one in map(self.berths.named, parcels) if one is not None]
        if len(named) < len(parcels):
            self.harbor.refused["a link that may not speak for that site"] += len(parcels) - len(named)
        now_ns = self._now_ns()
        try:
            said = await self._site.write(lambda db: self.harbor.work(db, named, now_ns))
        except StoreFault as fault:
            log.warning("sites wait: %s", fault)
            self.harbor.fell(now_ns)
            await asyncio.sleep(1.0)
            return ()
        self.harbor.committed(now_ns)
        self._settle()
        if named or said:
            self._stale("links")
            self._stale("site")
        return [one for one in map(self.berths.addressed, said) if one is not None]

    def _settle(self) -> None:
        """What the database knows now: sites that were admitted; how fast each is."""
        self.berths.bound.update(self._fleet.sites)
        now = time.monotonic()
        if now - self._settled_s < _RATES_S:
            return
        self._settled_s = now
        for writer, site in self._fleet.sites.items():
            then, events_then = self._rates.get(writer, (0.0, site.events))
            if then:
                site.events_per_s = (site.events - events_then) / (now - then)
            self._rates[writer] = (now, site.events)
            if self.link is not None:
                tally = self.link.tally(self.berths.link_of.get(writer, ""))
                site.bytes_received, site.bytes_sent = tally.received_bytes, tally.sent_bytes
                site.parcels_received = tally.received
            session = self.harbor.sessions.get(writer)
            if session is not None and session.in_session:
                site.via = "wire"

    @property
    def refused(self) -> Mapping[str, int]:
        """What came over links and was not taken, by reason, since the start."""
        return self.harbor.refused

    # -- what people do ---------------------------------------------------------------------------------------

    async def invite(self, actor: str, name: str) -> tuple[Invitation, str]:
        """A new invitation and its secret, which is shown once. An open one of that name is void."""
        if not name.isprintable() or not 0 < len(name.strip()) <= 64:
            raise Refused("a site's name has 1 to 64 printable characters", 422)
        now_ns = self._now_ns()
        secret = secrets.token_bytes(32)
        digest = hashlib.sha256(secret).digest()
        made = Invitation(name, self._tenant, digest, "", now_ns, new_ulid(now_ns), secrets.token_urlsafe(32))

        def job(db: sqlite3.Connection) -> None:
            held = next((one for one in peers.invitations(db, self._tenant) if one.name == name), None)
            if held is not None and held.writer:
                raise Refused(f"there is a site {name} already; give this one another name")
            peers.invite(db, made)
            self._journal.stage(name, events.LinkChanged("", "invited", name, actor))

        await self._site.write(job)
        return made, digest.hex()

    async def release(self, actor: str, writer: str, reason: str) -> None:
        site = self._fleet.sites.get(writer)
        if site is None or not site.quarantine:
            raise Refused("that site is not held in quarantine", 404)
        now_ns = self._now_ns()

        def job(db: sqlite3.Connection) -> None:
            self.harbor.shelf.begin(db)
            self.harbor.release(writer, now_ns)
            self._journal.stage(writer, events.SiteReleased(site.name, actor, reason[:500]))

        await self._site.write(job)
        self.harbor.committed(now_ns)
        if self._carrier is not None:
            self._carrier.wake()
        self._stale("links")

    async def edit(self, actor: str, node_id: str, values: Mapping[str, Value]) -> None:
        """Write in a node's document; it travels to the node's site."""

        def job(db: sqlite3.Connection) -> None:
            peer = peers.get(db, self._site_of(node_id))
            if peer is None or peer.log is None:
                raise Refused("there is no such node", 404)
            over = values.get(upstream.FIELD)
            if isinstance(over, str):
                reason = upstream.refusal(db, self._tenant, node_id, over, self._shared.look, self._called)
                if reason:
                    raise Refused(reason)
            made = self._shared.edit(db, Id(self._tenant, DocumentKind.NODE, node_id), values, actor, peer.log)
            if isinstance(made, document.Refused):
                raise Refused(made.reason, 422)

        await self._site.write(job)
        self._stale(f"node:{node_id}")

    async def edit_many(
        self, actor: str, node_ids: Sequence[str], values: Mapping[str, Value], *, dry_run: bool
    ) -> list[batch.Outcome]:
        """One change to many nodes, in one transaction, each in the log towards its site; what became of each."""

        def job(db: sqlite3.Connection) -> list[batch.Outcome]:
            found: list[batch.Outcome] = []
            for node_id in node_ids:
                held = self._fleet.nodes.get(node_id)
                peer = peers.get(db, held.site) if held is not None else None
                if peer is None or peer.log is None:
                    found.append(batch.Outcome(node_id, refused="there is no such node any more"))
                    continue
                place = Id(self._tenant, DocumentKind.NODE, node_id)
                outcome = batch.look(db, self._shared, place, values, {})
                if outcome.changes and not dry_run:
                    made = self._shared.edit(db, place, values, actor, peer.log)
                    if isinstance(made, document.Refused):
                        outcome = batch.Outcome(node_id, refused=made.reason)
                found.append(outcome)
            return found

        done = await self._site.write(job)
        for one in done:
            if one.changes and not dry_run:
                self._stale(f"node:{one.node_id}")
        return done

    async def take(self, actor: str, node_id: str, pointer: str, choice: int) -> None:
        """Of words written at once, take one."""

        def job(db: sqlite3.Connection) -> None:
            peer = peers.get(db, self._site_of(node_id))
            view = self._shared.judged(db, Id(self._tenant, DocumentKind.NODE, node_id)).view
            conflict = next((one for one in view.conflicts if one.pointer == pointer), None)
            if peer is None or peer.log is None or conflict is None:
                raise Refused("there is nothing to choose there any more; somebody has")
            choices = (conflict.effective, *conflict.others)
            if not 0 <= choice < len(choices):
                raise Refused("there is no such choice; look again", 422)
            value = {pointer: choices[choice].value}
            made = self._shared.edit(db, Id(self._tenant, DocumentKind.NODE, node_id), value, actor, peer.log)
            if isinstance(made, document.Refused):
                raise Refused(made.reason, 422)

        await self._site.write(job)
        self._stale(f"node:{node_id}")

    async def settle(self, actor: str, node_id: str, pointer: str, choice: int, decision: str, why: str) -> None:
        """A person's word on a value that is parked: take it, or drop it."""

        def job(db: sqlite3.Connection) -> None:
            peer = peers.get(db, self._site_of(node_id))
            if peer is None or peer.log is None:
                raise Refused("there is no such node", 404)
            place = Id(self._tenant, DocumentKind.NODE, node_id)
            made = self._shared.settle(db, place, pointer, choice, decision, actor, why, peer.log)
            if isinstance(made, document.Refused):
                raise Refused(made.reason)

        await self._site.write(job)
        self._stale(f"node:{node_id}")

    def _called(self, node_id: str) -> str:
        held = self._fleet.nodes.get(node_id)
        return held.present.name if held is not None else node_id

    def _site_of(self, node_id: str) -> str:
        held = self._fleet.nodes.get(node_id)
        if held is None:
            raise Refused("there is no such node", 404)
        return held.site


def link_file_of(
    made: Invitation, secret: str, hub: str, writer: str, key: bytes, sealing: bytes, urls: tuple[str, ...], ca: str
) -> LinkFile:
    return LinkFile(
        tenant=made.tenant,
        site=made.name,
        hub=hub,
        hub_writer=writer,
        hub_key=key.hex(),
        sealing_key=sealing.hex(),
        url=urls,
        link=made.link,
        password=made.password,
        secret=secret,
        ca=ca,
    )
