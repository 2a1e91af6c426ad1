"""A stick as a link, for the contract suite: what an end sends waits there, a person who never tires carries it as bundles,
and the other end finds it. Real bundles in a real folder; nothing else passes between the two.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet.envelope import PrivateKey, PublicKey
from fleet.events import Clock
from store import sealing
from sync import bundle
from sync.bundle import Reader, Receiver, Recipient, Sender
from sync.inbox import Inbox
from sync.link import LinkDown, Parcel, Tally
from sync.messages import PARCEL_BYTES_MAX
from tests.contracts.rigs import ALDER, BIRCH, TENANT

HARBOR = "01HARBR0000000000000000000"
NOW_NS = 1_795_219_200_000_000_000
WAITING_BYTES_MAX = 4 * 1024 * 1024  # of one site and way, besides what lies on the stick; when full, `send` waits
TURN_S = 0.002


class Box(NamedTuple):
    writer: str
    key: PrivateKey
    sealing_key: sealing.PrivateKey


class End:
    """A `sync.link.Link`. `peers` are the sites behind it; at a site, itself alone."""

    def __init__(self, writer: str, peers: Iterable[str]) -> None:
        self.box = Box(writer, Ed25519PrivateKey.generate(), sealing.new())
        self.inbox = Inbox()
        self.waiting: dict[str, list[Parcel]] = {peer: [] for peer in peers}
        self.problem = "nobody opened it"
        self._closed = False
        self._room = asyncio.Event()
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)

    @property
    def up(self) -> bool:
        return not self.problem

    @property
    def hub(self) -> bool:
        return self.box.writer == HARBOR

    def tally(self, peer: str = "") -> Tally:
        tallies = [self._tallies[peer]] if peer else self._tallies.values()
        return Tally(*map(sum, zip(Tally(), *tallies, strict=True)))

    async def open(self) -> None:
        if not self._closed:
            self.plug("")

    def plug(self, problem: str) -> None:
        """Pulled out with a reason, or in again."""
        self.problem = "the link was closed" if self._closed else problem
        self.stir()

    def stir(self) -> None:
        """Whoever waits for room looks again."""
        self._room.set()
        self._room = asyncio.Event()

    async def send(self, parcel: Parcel) -> None:
        size = len(parcel.data)
        if size > PARCEL_BYTES_MAX:
            raise ValueError(f"{size:,} bytes in a parcel; {PARCEL_BYTES_MAX:,} are the most")
        peer = parcel.peer if self.hub else self.box.writer
        while True:
            if not self.up:
                raise LinkDown(self.problem)
            waiting = self.waiting.get(peer)
            if waiting is None:
                raise LinkDown(f"no stick goes to {peer}")
            if not waiting or sum(len(one.data) for one in waiting) + size <= WAITING_BYTES_MAX:
                break
            await self._room.wait()
        waiting.append(parcel._replace(peer=peer))
        self._count(peer, Tally(1, size))

    async def receive(self) -> Parcel | None:
        taken = await self.inbox.take()
        return taken[0] if taken else None

    async def close(self) -> None:
        self._closed = True
        self.inbox.close()
        self.plug("")

    def put(self, parcel: Parcel) -> bool:
        took = self.inbox.put(parcel)
        if took:
            self._count(parcel.peer, Tally(0, 0, 1, len(parcel.data)))
        return took

    def _count(self, peer: str, more: Tally) -> None:
        self._tallies[peer] = Tally(*map(sum, zip(self._tallies[peer], more, strict=True)))


class Stick:
    """One way between two ends, for one site. The next bundle is written when the one before it was taken."""

    def __init__(self, folder: Path, here: End, there: End, peer: str) -> None:
        self.folder, self.here, self.there, self.peer = folder, here, there, peer
        self.lying: list[Path] = []
        self.taken = 0  # parcels of the first that lies there: what found no room comes in the next turn
        folder.mkdir(parents=True)

    def carry(self) -> None:
        if not self.lying:
            self._put_down()
        while self.lying and self.there.up:
            path = self.lying[0]
            box = self.there.box
            me = Receiver(box.sealing_key, TENANT, box.writer, self.there.hub)
            with Reader.open(path, me, key_of=self._key_of, now_ns=NOW_NS, clock=Clock.SYNCED) as reader:
                for parcel in islice(reader.parcels(), self.taken, None):
                    if not self.there.put(parcel):
                        return
                    self.taken += 1
            path.unlink()
            self.taken = 0
            del self.lying[0]

    def _put_down(self) -> None:
        waiting = sorted(self.here.waiting[self.peer], key=lambda parcel: parcel.lane)
        if not (self.here.up and waiting):
            return
        box, to = self.here.box, self.there.box
        made = bundle.export(
            lambda: waiting,
            self.folder,
            Sender(box.key, TENANT, box.writer),
            Recipient(to.writer, sealing.public_bytes(to.sealing_key)),
            now_ns=NOW_NS,
            clock=Clock.SYNCED,
            expires_ns=0,
            part_bytes_max=2 * 1024 * 1024,
        )
        assert made.problem is None, made
        self.lying = list(made.paths)
        self.here.waiting[self.peer].clear()
        self.here.stir()

    def _key_of(self, tenant: str, writer: str) -> PublicKey | None:
        box = self.here.box
        return box.key.public_key() if (tenant, writer) == (TENANT, box.writer) else None


class Sticks:
    """The rig."""

    async def start(self, folder: Path) -> None:
        self.harbor = End(HARBOR, (ALDER, BIRCH))
        self.sites = {writer: End(writer, (writer,)) for writer in (ALDER, BIRCH)}
        self.sticks = [Stick(folder / "up" / writer, end, self.harbor, writer) for writer, end in self.sites.items()]
        self.sticks += [Stick(folder / "down" / writer, self.harbor, end, writer) for writer, end in self.sites.items()]
        self.carrying = asyncio.create_task(self._carry())

    async def _carry(self) -> None:
        while True:
            for stick in self.sticks:
                stick.carry()
                await asyncio.sleep(0)
            await asyncio.sleep(TURN_S)

    async def stop(self) -> None:
        self.carrying.cancel()
        for end in (self.harbor, *self.sites.values()):
            await end.close()
        (died,) = await asyncio.gather(self.carrying, return_exceptions=True)
        assert isinstance(died, asyncio.CancelledError), died

    async def hub(self) -> End:
        await self.harbor.open()
        return self.harbor

    async def site(self, writer: str) -> End:
        await self.sites[writer].open()
        return self.sites[writer]

    async def cut(self, writer: str) -> None:
        self.sites[writer].plug("the stick is not plugged in")

    async def restore(self, writer: str) -> None:
        self.sites[writer].plug("")
