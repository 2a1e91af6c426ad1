"""Who behind a gateway is new here? It becomes a node by itself, behind its gateway, as soon as it is spoken of.

What a gateway says is stored whether or not this has come to pass; only then is it a node's, with all it said meanwhile.

Rules of the file
  1  All of it runs on the event loop. The interpreter tells of sources, the device API of devices that are connected.
  2  A gateway brings at most `limits.gateway_nodes_max` nodes. Whoever comes beyond that is a source that a person adopts.
  3  Whom a person released is not brought again: only a sender that nothing here knows of is new.
  4  When the disk refuses, it is tried again; questions do not wait for that (`coming`). After a restart whoever was not
     brought by then is a source to adopt, as anybody who was there before.

Name: newcomers. Bound: `limits.newcomers_max`. When full: a source that a person adopts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from appliance.intake import topics
from appliance.world import World, source_key
from fleet import limits
from fleet.people import Refused
from store.faults import StoreFault
from store.gateways import Brought, Gateways, Newcomer

log = logging.getLogger(__name__)

_BATCH = 50
_AGAIN_S = 1.0


class Newcomers:
    """`entered` brings new nodes into the world; `forgotten(sender)` says that one will not be a node."""

    def __init__(
        self,
        gateways: Gateways,
        world: World,
        entered: Callable[[Sequence[Brought]], Awaitable[None]],
        forgotten: Callable[[str], None],
    ) -> None:
        self._gateways, self._world, self._entered, self._forgotten = gateways, world, entered, forgotten
        self._waiting: dict[str, Newcomer] = {}  # by sender
        self._late: set[str] = set()  # of these, those that the disk did not take at once
        self._count = Counter(gateway_of(sender) for sender in world.claims if is_behind(sender))
        self._full: set[str] = set()  # gateways of which that was said
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def coming(self, sender: str) -> bool:
        """Whether it will be a node in a moment."""
        return sender in self._waiting and sender not in self._late

    def heard(self, sender: str) -> None:
        """A gateway speaks for it: `@GATEWAY/NAME`."""
        self.told(f"device/{sender}")

    def told(self, source: str) -> None:
        """`heard`, by the source of its first record."""
        key, world = source_key(source), self._world
        sender, gateway = key.sender, key.address[1:]
        if sender in world.claims or sender in self._waiting:
            return
        why = ""
        if sender in world.let_go or not topics.is_name(key.name):
            why = "let go"
        elif self._count[gateway] >= limits.gateway_nodes_max or len(self._waiting) >= limits.newcomers_max:
            why = "full"
        if why:
            self._forgotten(sender)
            if why == "full" and gateway not in self._full:
                self._full.add(gateway)
                log.warning("gateway %s brings more devices than may be; who is new there is to be adopted", gateway)
            return
        self._count[gateway] += 1
        self._waiting[sender] = Newcomer(gateway, key.name, source)
        self._wake.set()

    async def run(self) -> None:
        """Supervised, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._some()

    async def _some(self) -> None:
        some = [one for one, _ in zip(self._waiting.items(), range(_BATCH), strict=False)]
        try:
            brought = await self._bring([newcomer for _, newcomer in some])
        except StoreFault as fault:
            log.warning("devices behind gateways wait to become nodes: %s", fault)
            self._late.update(sender for sender, _ in some)
            await asyncio.sleep(_AGAIN_S)
            return
        await self._entered(brought)
        made = {one.source for one in brought}
        for sender, newcomer in some:
            del self._waiting[sender]
            self._late.discard(sender)
            if newcomer.source not in made and sender not in self._world.claims:
                self._count[newcomer.gateway] -= 1
                self._forgotten(sender)

    async def _bring(self, some: Sequence[Newcomer]) -> list[Brought]:
        """All at once, or, where one of them cannot be had, each by itself."""
        try:
            return await self._gateways.bring(some)
        except Refused as refused:
            if len(some) == 1:
                log.warning("%s does not become a node: %s", some[0].source, refused)
                return []
        return [made for one in some for made in await self._bring((one,))]


def is_behind(sender: str) -> bool:
    """Whether it is a device behind a gateway, of all senders."""
    return sender[:1] == "@" and not sender.endswith("/")


def gateway_of(sender: str) -> str:
    return sender[1:].partition("/")[0]
