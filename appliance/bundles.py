"""Sticks of a running site: files for its hub, files from it. The content is `appliance.stick`'s, the form `sync.bundle`'s."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

from appliance import stick
from appliance.hub_link import HubLink
from appliance.shelf import SiteShelf
from fleet import envelope
from fleet.envelope import Block, Log, PublicKey
from fleet.limits import DAY
from fleet.people import Refused
from store import journal, sealing
from store.clock import WallClock
from store.database import Writer, connect_reader
from store.folder import Folder
from store.link_file import LinkFile
from sync import bundle
from sync import stick as files
from sync.bundle import BundleProblem, Export, Receiver, Recipient, Sender

EXPIRES_DAYS = 90
_PARTS_BYTES = bundle.PART_BYTES_MAX


class Bundles:
    def __init__(
        self,
        folder: Folder,
        site: Writer,
        link: HubLink,
        shelf: Callable[[], SiteShelf],
        key: envelope.PrivateKey,
        clock: WallClock,
        stale: Callable[[str], None],
    ) -> None:
        self._folder, self._site, self._link, self._shelf = folder, site, link, shelf
        self._key, self._clock, self._stale = key, clock, stale
        self._sealing = sealing.load_or_create(folder.sealing_key)
        self._busy = asyncio.Lock()
        self._unwritten: dict[tuple[bool, bool, int], stick.Load] = {}  # begun, and the medium was full or pulled

    @property
    def public_key(self) -> bytes:
        return sealing.public_bytes(self._sealing)

    def _hub(self) -> LinkFile:
        if self._link.file is None:
            raise Refused("this site has no hub yet; take in the link file that the hub makes (skerry link join)")
        if not self._link.file.sealing_key:
            raise Refused("the link file has no key to seal a file with; ask the hub for a new one")
        return self._link.file

    async def write(
        self,
        to: Path,
        *,
        one_way: bool = False,
        whole: bool = False,
        part_bytes_max: int = _PARTS_BYTES,
        days: int = EXPIRES_DAYS,
        only: Sequence[int] = (),
        progress: Callable[[int], None] = lambda size: None,
    ) -> tuple[Export, stick.Load]:
        """What the hub lacks, into a folder. What is missing when a medium is full or pulled stands in the answer; the
        same call goes on with it, on this medium or (`only` those parts) on the next."""
        hub, me, shelf = self._hub(), self._link.uplink.site.me, self._shelf()
        now_ns = self._clock.now_ns()
        async with self._busy:
            wish = (one_way, whole, part_bytes_max)
            load = self._unwritten.get(wish)
            if load is None:
                load = await self._site.write(
                    lambda db: stick.settle(db, me, shelf, now_ns, one_way=one_way, whole=whole)
                )
            expires_ns = now_ns + days * DAY if days else 0
            export = await asyncio.to_thread(
                self._export, load, hub, to, one_way, part_bytes_max, expires_ns, only, progress
            )
            unfinished = export.problem or len(export.paths) < export.parts
            self._unwritten = {wish: load} if unfinished else {}
            if one_way and not export.problem:
                await self._site.write(lambda db: stick.remember_sent(db, load))
        return export, load

    def _export(
        self,
        load: stick.Load,
        hub: LinkFile,
        to: Path,
        one_way: bool,
        part_bytes_max: int,
        expires_ns: int,
        only: Sequence[int],
        progress: Callable[[int], None],
    ) -> Export:
        me, shelf = self._link.uplink.site.me, self._shelf()
        with closing(connect_reader(self._folder.site_db)) as db:

            def blocks(log: Log, after: int, size: int) -> Sequence[Block]:
                return journal.blocks_after(db, log, after, size)

            return bundle.export(
                lambda: stick.parcels(load, me, blocks, shelf.chunk),
                to,
                Sender(self._key, me.log.tenant, me.log.writer),
                Recipient(hub.hub_writer, bytes.fromhex(hub.sealing_key)),
                now_ns=self._clock.now_ns(),
                clock=self._clock.confidence(),
                expires_ns=expires_ns,
                part_bytes_max=part_bytes_max,
                one_way=one_way,
                only=only,
                progress=progress,
            )

    async def read(self, path: Path, progress: Callable[[int], None] = lambda size: None) -> str:
        """Take in a file from the hub. Refused with its sentence when it is none for this site."""
        hub, me = self._hub(), self._link.uplink.site.me
        receiver = Receiver(self._sealing, me.log.tenant, me.log.writer, hub=False)

        def key_of(tenant: str, writer: str) -> PublicKey | None:
            ours = tenant == me.log.tenant and writer == hub.hub_writer
            return envelope.public_key(bytes.fromhex(hub.hub_key)) if ours else None

        try:
            async with self._busy:
                reader = await asyncio.to_thread(
                    bundle.Reader.open,
                    path,
                    receiver,
                    key_of=key_of,
                    now_ns=self._clock.now_ns(),
                    clock=self._clock.confidence(),
                    progress=progress,
                )
                with reader:
                    return await self._bring(reader)
        except BundleProblem as problem:
            raise Refused(str(problem), 422) from problem

    async def _bring(self, reader: bundle.Reader) -> str:
        shelf = self._shelf()
        bringing = stick.Bringing(self._link.uplink.site.me, shelf, reader.header.created_ns)

        async def run(job: Callable[[sqlite3.Connection], None]) -> None:
            await self._site.write(job)
            done, shelf.done = shelf.done, []
            for change in done:
                change()

        async for batch in files.batches(reader):
            now_ns = self._clock.now_ns()
            await run(lambda db, batch=batch, now_ns=now_ns: bringing.feed(db, batch, now_ns))  # type: ignore[misc]
        await run(lambda db: bringing.end(db, self._clock.now_ns()))
        self._stale("links")
        if bringing.problem:
            raise Refused(bringing.words)
        return bringing.words

    # -- for pages --------------------------------------------------------------------------------------------

    def download(self) -> AsyncIterator[bytes]:
        async def write(to: Path) -> Sequence[Path]:
            export, _ = await self.write(to)
            if export.problem:
                raise Refused(f"{export.problem} ({export.detail})")
            if len(export.paths) > 1:
                raise Refused("that is more than one file may hold; write it with: skerry bundle export")
            return export.paths

        return files.sent(self._folder.sticks, write)

    async def upload(self, chunks: AsyncIterator[bytes]) -> str:
        async with files.received(self._folder.sticks, chunks) as path:
            return await self.read(path)
