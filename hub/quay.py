"""Where the sites of all tenants meet the hub: its NATS server, or its account at another's, the certificate, the addresses.

Tenants share it safely because a site's credential names its tenant and its link, and the broker lets it use nothing but
its own subjects (`sync.jetstream.rights_of`); each tenant has streams of its own, each with a bound of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fleet.limits import tenants_max
from fleet.people import Refused
from hub.broker import Broker, BrokerProblem, Tls
from hub.config import Limits
from hub.config import Link as LinkConfig
from hub.external import External
from store import certificates
from store.link_file import URLS_MAX, wrong_with
from store.settings import address
from sync.jetstream import REPAIR_S_MIN, HubEnd

MIB = 1024 * 1024
_ANY = ("0.0.0.0", "::")
_HERE = "127.0.0.1"


class Quay:
    def __init__(self, folder: Path, config: LinkConfig, limits: Limits, name: str, now_ns: int) -> None:
        self._config, self._limits = config, limits
        self._hosts = [one.strip(" []") for one in config.hosts.split(",") if one.strip()]
        self._ca, self.ca_text = Path(config.ca) if config.ca else None, ""
        self._signed: tuple[str, ...] = ()  # hosts in the certificate that the hub made
        self._repairing, self._repaired_s = asyncio.Lock(), -REPAIR_S_MIN
        self.entries: dict[str, Callable[[], dict[str, str]]] = {}  # by tenant: what to enter for its sites elsewhere
        self.broker = External(config, name, limits.stream_mib_max) if config.url else self._own(folder, name, now_ns)

    def _own(self, folder: Path, name: str, now_ns: int) -> Broker:
        config = self._config
        host, port = address(config.listen, "link.listen")
        web_host, web_port = host, None
        if config.websocket_listen:
            web_host, web_port = address(config.websocket_listen, "link.websocket_listen")
        tls = None
        if config.tls and config.certificate:
            tls = Tls(Path(config.certificate), Path(config.key))
        elif config.tls:
            self._signed = tuple(dict.fromkeys((*self._hosts, host, web_host, _HERE)))
            held = certificates.ensure_server_certificate(folder / "tls", self._signed, now_ns)
            self._ca, tls = held.ca, Tls(held.certificate, held.key)
        return Broker(
            folder / "broker",
            host=host,
            port=port,
            websocket_host=web_host,
            websocket_port=web_port,
            tls=tls,
            name=name,
            store_bytes_max=self._limits.stream_mib_max * MIB * tenants_max,
        )

    async def start(self) -> None:
        """BrokerProblem when the broker does not come up, or a file that says whom to trust cannot be read."""
        if self._ca:
            try:
                self.ca_text = self._ca.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise BrokerProblem(f"link.ca: {self._ca} cannot be read ({error})") from error
        await self.broker.start()

    async def stop(self) -> None:
        await self.broker.stop()

    def end_of(self, tenant: str) -> HubEnd:
        """The hub's end of one tenant's lines."""
        return HubEnd(
            [self.broker.url],
            tenant,
            self.broker.user,
            self.broker.password,
            ca=self._ca,
            stream_bytes_max=self._limits.stream_mib_max * MIB // 2,
            repair=self._repair if isinstance(self.broker, Broker) else None,
            hostname=self._hosts[0] if self._config.certificate and self._hosts else "",
        )

    async def _repair(self) -> None:
        """A broker whose streams are broken is started again: once, however many tenants ask."""
        assert isinstance(self.broker, Broker)
        async with self._repairing:
            if time.monotonic() - self._repaired_s >= REPAIR_S_MIN:
                await self.broker.restart()
                self._repaired_s = time.monotonic()

    def to_enter(self, tenants: Sequence[str]) -> str:
        """The configuration that whoever runs the NATS server enters for these; empty when it is the hub's own."""
        if isinstance(self.broker, Broker):
            return ""
        return self.broker.configuration({tenant: self.entries[tenant]() for tenant in tenants})

    def checked(self, urls: Sequence[str]) -> tuple[str, ...]:
        """Addresses for a link file: those that were asked for, or the hub's own. Refused (422) when no site can reach this
        hub by them."""
        if not urls:
            urls = self.broker.urls(self._hosts[0] if self._hosts else "")
            if urlsplit(urls[0]).hostname in _ANY:
                raise Refused("this hub listens on every address and knows none of its names; say link.hosts", 422)
        if len(urls) > URLS_MAX:
            raise Refused(f"a link file names {URLS_MAX} addresses at most", 422)
        for url in urls:
            if wrong := wrong_with(url):
                raise Refused(wrong, 422)
            host = urlsplit(url).hostname or ""
            if self._signed and url.startswith(("tls:", "wss:")) and host not in map(str.lower, self._signed):
                raise Refused(
                    f"no site would believe {host}: the hub's certificate is for {', '.join(self._signed)}; "
                    "add it to link.hosts and start the hub again",
                    422,
                )
        return tuple(urls)
