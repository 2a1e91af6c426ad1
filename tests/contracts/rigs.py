"""Links to run the contract suite on. A rig is a line between hub harbor and its sites that a test can cut.

A new adapter brings a rig of its own: a class with these methods, and one row in `RIGS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse

from hub.broker import Admission, Broker
from store.keys import new_secret
from sync.jetstream import HubEnd, SiteEnd
from sync.link import Link
from sync.memory import Exchange
from tests.trials.proxy import Proxy

ALDER, BIRCH, MALLORY = "01ALDER0000000000000000000", "01BRCH00000000000000000000", "01MALLORY00000000000000000"
TENANT = "fleet"
SILENCE_S_MAX = 1.0


class Rig(Protocol):
    async def start(self, folder: Path) -> None: ...

    async def stop(self) -> None: ...

    async def hub(self) -> Link:
        """The hub's end, opened and up. The same one every time."""
        ...

    async def site(self, writer: str) -> Link:
        """A site's end, opened and up. The same one every time."""
        ...

    async def cut(self, writer: str) -> None:
        """Nothing passes any more, and the site's end knows it."""
        ...

    async def restore(self, writer: str) -> None: ...


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


class Memory:
    async def start(self, folder: Path) -> None:
        self.exchange = Exchange(seed=1)

    async def stop(self) -> None:
        for end in (self.exchange.hub, self.exchange.site(ALDER), self.exchange.site(BIRCH)):
            await end.close()

    async def hub(self) -> Link:
        await self.exchange.hub.open()
        return self.exchange.hub

    async def site(self, writer: str) -> Link:
        await self.exchange.site(writer).open()
        return self.exchange.site(writer)

    async def cut(self, writer: str) -> None:
        self.exchange.cut(writer)

    async def restore(self, writer: str) -> None:
        self.exchange.restore(writer)


class JetStream:
    """A real nats-server; each site reaches it through a proxy of its own."""

    def __init__(self, stream_bytes_max: int = 64 * 1024 * 1024, scheme: str = "nats") -> None:
        self.stream_bytes_max, self.scheme = stream_bytes_max, scheme
        self.ends: dict[str, HubEnd | SiteEnd] = {}
        self.proxies: dict[str, Proxy] = {}
        self.passwords: dict[str, str] = {}

    async def start(self, folder: Path) -> None:
        self.folder = folder / "broker"
        self.broker = Broker(self.folder, websocket_port=0)
        await self.broker.start()
        url = next(url for url in self.broker.urls() if url.startswith(f"{self.scheme}:"))
        self.address = ("127.0.0.1", urlparse(url).port or 0)

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.broker.signal(signal.SIGCONT)
        for end in self.ends.values():
            await end.close()
        for proxy in self.proxies.values():
            proxy.__exit__()
        await self.broker.stop()

    async def hub(self) -> HubEnd:
        if "" not in self.ends:
            broker = self.broker
            end = HubEnd(
                [broker.url],
                TENANT,
                broker.user,
                broker.password,
                silence_s_max=SILENCE_S_MAX,
                stream_bytes_max=self.stream_bytes_max,
                probe_s=1.0,
                repair=broker.restart,
            )
            self.ends[""] = end
            await end.open()
            await until(lambda: end.up)
        found = self.ends[""]
        assert isinstance(found, HubEnd)
        return found

    async def site(self, writer: str) -> SiteEnd:
        if writer not in self.ends:
            self.ends[writer] = end = await self.end_of(writer)
            await end.open()
            await until(lambda: end.up)
        found = self.ends[writer]
        assert isinstance(found, SiteEnd)
        return found

    async def end_of(self, writer: str, password: str = "") -> SiteEnd:
        """Admitted and not opened; with a password of the test's choice, or the right one."""
        if writer not in self.passwords:
            self.passwords[writer] = new_secret("sks")
            await self.broker.admit(Admission(TENANT, writer, self.passwords[writer]))
            self.proxies[writer] = Proxy(self.address)
            self.proxies[writer].__enter__()
        url = f"{self.scheme}://127.0.0.1:{self.proxies[writer].port}"
        return SiteEnd([url], TENANT, writer, password or self.passwords[writer], silence_s_max=SILENCE_S_MAX)

    async def cut(self, writer: str) -> None:
        self.proxies[writer].cut()
        await until(lambda: not self.ends[writer].up)

    async def restore(self, writer: str) -> None:
        self.proxies[writer].restore()
        await until(lambda: self.ends[writer].up)

    def kill(self, by: signal.Signals) -> None:
        self.broker.signal(by)

    async def came_back(self, restarts: int = 1) -> None:
        """The broker, so many times. That an end was down meanwhile may pass between two looks at it."""
        await until(lambda: self.broker.restarts == restarts and self.broker.alive)

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "jetstream")


RIGS: dict[str, Callable[[], Rig]] = {
    "memory": Memory,
    "jetstream": JetStream,
    "websocket": lambda: JetStream(scheme="ws"),
}


@contextlib.asynccontextmanager
async def running(rig: Rig, folder: Path) -> AsyncIterator[Rig]:
    await rig.start(folder)
    try:
        yield rig
    finally:
        await rig.stop()
