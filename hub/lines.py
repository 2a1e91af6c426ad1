"""The hub's lines: its broker, its end of it, the certificate, and the wharf behind. Started, stopped, and asked for
invitations; what travels over them is none of its business."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hub.broker import Admission, Broker, Tls
from hub.config import Limits
from hub.config import Link as LinkConfig
from hub.wharf import Wharf, link_file_of
from store import certificates
from store.link_file import LinkFile
from store.peers import Invitation
from store.settings import address
from sync.jetstream import HubEnd

MIB = 1024 * 1024


class Lines:
    def __init__(
        self, folder: Path, config: LinkConfig, limits: Limits, tenant: str, name: str, wharf: Wharf, now_ns: int
    ) -> None:
        self.wharf = wharf
        self._tenant, self._config = tenant, config
        host, port = address(config.listen, "link.listen")
        web_port = address(config.websocket_listen, "link.websocket_listen")[1] if config.websocket_listen else None
        self._hosts = [one.strip() for one in config.hosts.split(",") if one.strip()] or [host]
        self._ca: Path | None = None
        tls = None
        if config.tls:
            if config.certificate:
                tls = Tls(Path(config.certificate), Path(config.key))
            else:
                held = certificates.ensure_server_certificate(folder / "tls", [*self._hosts, host, "127.0.0.1"], now_ns)
                self._ca, tls = held.ca, Tls(held.certificate, held.key)
        self.broker = Broker(
            folder / "broker",
            host=host,
            port=port,
            websocket_port=web_port,
            tls=tls,
            name=name,
            store_bytes_max=limits.stream_mib_max * MIB,
        )
        self._limits = limits
        self._running: asyncio.Task[None] | None = None

    async def start(self, invitations: list[Invitation]) -> None:
        """BrokerProblem when the broker does not come up."""
        await self.broker.start()
        await self.broker.admit(*(Admission(one.tenant, one.link, one.password) for one in invitations if one.link))

    async def run(self) -> None:
        """Supervised, for ever."""
        link = HubEnd(
            [self.broker.url],
            self._tenant,
            self.broker.user,
            self.broker.password,
            ca=self._ca,
            stream_bytes_max=self._limits.stream_mib_max * MIB // 2,
            repair=self.broker.restart,
        )
        await self.wharf.run(link)

    async def stop(self) -> None:
        await self.broker.stop()

    async def invite(self, actor: str, name: str, url: str, me: tuple[str, str, bytes, bytes]) -> LinkFile:
        """A link file for a new site; `me` is the hub's name, writer, key and sealing key."""
        made, secret = await self.wharf.invite(actor, name)
        await self.broker.admit(Admission(made.tenant, made.link, made.password))
        ca = self._ca.read_text() if self._ca else ""
        return link_file_of(made, secret, *me, url or self._url(), ca)

    def _url(self) -> str:
        scheme, _, rest = self.broker.url.partition("://")
        return f"{scheme}://{self._hosts[0]}:{rest.rpartition(':')[2]}"
