"""Sticks of a running hub: files from sites, files for them. The content is `hub.stick`'s, the form `sync.bundle`'s."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from fleet import envelope
from fleet.envelope import PublicKey
from fleet.limits import DAY
from fleet.people import Refused
from hub import stick
from hub.shelf import HubShelf
from hub.state import FleetHere
from store import peers, sealing
from store.clock import WallClock
from store.database import Writer
from store.folder import Folder
from sync import bundle
from sync import stick as files
from sync.bundle import BundleProblem, Export, Header, Receiver, Recipient, Sender
from sync.hub import Me
from sync.link import Parcel
from sync.messages import LogHead

EXPIRES_DAYS = 90


class Bundles:
    def __init__(
        self,
        folder: Folder,
        site: Writer,
        me: Me,
        shelf: Callable[[], HubShelf],
        key: envelope.PrivateKey,
        fleet: FleetHere,
        clock: WallClock,
        stale: Callable[[str], None],
    ) -> None:
        self._folder, self._site, self._me, self._shelf = folder, site, me, shelf
        self._key, self._fleet, self._clock, self._stale = key, fleet, clock, stale
        self._sealing = sealing.load_or_create(folder.sealing_key)
        self._busy = asyncio.Lock()

    @property
    def public_key(self) -> bytes:
        return sealing.public_bytes(self._sealing)

    async def write(
        self, writer: str, to: Path, *, part_bytes_max: int = bundle.PART_BYTES_MAX, days: int = EXPIRES_DAYS
    ) -> Export:
        """What a site lacks, into a folder: receipts, what was written towards it, heads of documents."""
        shelf, now_ns = self._shelf(), self._clock.now_ns()

        def job(db: sqlite3.Connection) -> tuple[peers.Peer, list[Parcel]]:
            peer = peers.get(db, writer)
            if peer is None or not peer.sealing_key:
                raise Refused("that site has not shown a key to seal files with yet; it comes with its first contact")
            heard = (LogHead(peer.log_writer, peer.log_epoch, 0, bytes(32)),)
            return peer, stick.take_back(db, self._me, shelf, writer, heard, now_ns)

        async with self._busy:
            peer, parcels = await self._site.write(job)
            return await asyncio.to_thread(
                bundle.export,
                lambda: parcels,
                to,
                Sender(self._key, self._me.tenant, self._me.writer),
                Recipient(writer, peer.sealing_key),
                now_ns=now_ns,
                clock=self._clock.confidence(),
                expires_ns=now_ns + days * DAY if days else 0,
                part_bytes_max=part_bytes_max,
            )

    async def read(self, path: Path, progress: Callable[[int], None] = lambda size: None) -> str:
        """Take in a file from a site. Refused with its sentence when it is none for this hub."""
        receiver = Receiver(self._sealing, self._me.tenant, self._me.writer, hub=True)

        def key_of(tenant: str, writer: str) -> PublicKey | None:
            site = self._fleet.sites.get(writer)
            return envelope.public_key(site.public_key) if site is not None and tenant == self._me.tenant else None

        def stranger(header: Header, key: PublicKey) -> bool:
            """A site that shows an invitation inside: its hello decides, and it must name this very key."""
            return header.sender not in self._fleet.sites

        try:
            async with self._busy:
                reader = await asyncio.to_thread(
                    bundle.Reader.open,
                    path,
                    receiver,
                    key_of=key_of,
                    now_ns=self._clock.now_ns(),
                    clock=self._clock.confidence(),
                    first_contact=stranger,
                    progress=progress,
                )
                with reader:
                    return await self._bring(reader)
        except BundleProblem as problem:
            raise Refused(str(problem), 422) from problem

    async def _bring(self, reader: bundle.Reader) -> str:
        shelf, writer = self._shelf(), reader.header.sender
        here = self._fleet.sites.get(writer)
        bringing = stick.Bringing(self._me, shelf, writer, (here.present_ns or 0) if here else 0)

        async def run(job: Callable[[sqlite3.Connection], None]) -> None:
            await self._site.write(job)
            done, shelf.done = shelf.done, []
            for change in done:
                change()

        async for batch in files.batches(reader):
            now_ns = self._clock.now_ns()
            await run(lambda db, batch=batch, now_ns=now_ns: bringing.feed(db, batch, now_ns))  # type: ignore[misc]
            if bringing.problem:
                break
        await run(lambda db: bringing.end(db, self._clock.now_ns()))
        site = self._fleet.sites.get(writer)
        if site is not None:
            site.via, site.heard_ns = "stick", self._clock.now_ns()
        self._stale("links")
        self._stale("site")
        if bringing.problem:
            raise Refused(bringing.words)
        return f"{site.name if site else writer}: {bringing.words}"

    # -- for pages --------------------------------------------------------------------------------------------

    def download(self, writer: str) -> AsyncIterator[bytes]:
        async def write(to: Path) -> Sequence[Path]:
            export = await self.write(writer, to)
            if export.problem:
                raise Refused(f"{export.problem} ({export.detail})")
            if len(export.paths) > 1:
                raise Refused("that is more than one file may hold; write it with: skerry bundle export")
            return export.paths

        return files.sent(self._folder.sticks, write)

    async def upload(self, chunks: AsyncIterator[bytes]) -> str:
        async with files.received(self._folder.sticks, chunks) as path:
            return await self.read(path)
