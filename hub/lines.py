"""The hub's lines: its NATS server, or its account at another's; its end of it, the certificate, and the wharf behind.
Started, stopped, and asked for invitations; what travels over them is none of its business."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fleet.people import Refused
from hub.broker import Admission, Broker, BrokerProblem, Tls
from hub.config import Limits
from hub.config import Link as LinkConfig
from hub.external import External
from hub.wharf import Wharf, link_file_of
from store import certificates
from store.link_file import URLS_MAX, LinkFile, wrong_with
from store.peers import Invitation
from store.settings import address
from sync.jetstream import HubEnd

MIB = 1024 * 1024
_ANY = ("0.0.0.0", "::")
_HERE = "127.0.0.1"


class Lines:
    def __init__(
        self, folder: Path, config: LinkConfig, limits: Limits, tenant: str, name: str, wharf: Wharf, now_ns: int
    ) -> None:
        self.wharf = wharf
        self._tenant, self._config, self._limits = tenant, config, limits
        self._hosts = [one.strip(" []") for one in config.hosts.split(",") if one.strip()]
        self._ca, self._ca_text = Path(config.ca) if config.ca else None, ""
        self._signed: tuple[str, ...] = ()  # hosts in the certificate that the hub made
        self._invited: dict[str, Invitation] = {}
        self.broker = (
            External(config, tenant, name, limits.stream_mib_max) if config.url else self._own(folder, name, now_ns)
        )

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
            store_bytes_max=self._limits.stream_mib_max * MIB,
        )

    async def start(self, invitations: list[Invitation]) -> None:
        """BrokerProblem when the broker does not come up, or a file that says whom to trust cannot be read."""
        if self._ca:
            try:
                self._ca_text = self._ca.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise BrokerProblem(f"link.ca: {self._ca} cannot be read ({error})") from error
        await self.broker.start()
        self._invited = {one.name: one for one in invitations if one.link}
        await self.broker.admit(*map(_admission, self._invited.values()))

    async def run(self) -> None:
        """Supervised, for ever."""
        link = HubEnd(
            [self.broker.url],
            self._tenant,
            self.broker.user,
            self.broker.password,
            ca=self._ca,
            stream_bytes_max=self._limits.stream_mib_max * MIB // 2,
            repair=self.broker.restart if isinstance(self.broker, Broker) else None,
            hostname=self._hosts[0] if self._config.certificate and self._hosts else "",
        )
        await self.wharf.run(link)

    async def stop(self) -> None:
        await self.broker.stop()

    async def invite(self, actor: str, name: str, urls: Sequence[str], me: tuple[str, str, bytes, bytes]) -> LinkFile:
        """A link file for a new site; `me` is the hub's name, writer, key and sealing key. Refused (422) with `urls` under
        which no site can reach this hub."""
        asked = self._checked(urls)
        made, secret = await self.wharf.invite(actor, name)
        former = self._invited.get(name)
        if former is not None:
            await self.broker.expel(former.tenant, former.link)
        self._invited[name] = made
        await self.broker.admit(_admission(made))
        return link_file_of(made, secret, *me, asked, self._ca_text)

    def _checked(self, urls: Sequence[str]) -> tuple[str, ...]:
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

    @property
    def problem(self) -> str:
        """Why no site can come in now, in a sentence; empty when they can."""
        return self.wharf.link.problem if self.wharf.link is not None else ""

    def shown(self) -> dict[str, object]:
        link = self.wharf.link
        return {"url": self.broker.url, "up": link is not None and link.up, "problem": self.problem}

    def to_enter(self) -> tuple[str, dict[str, str]]:
        """For who runs the NATS server, if that is not us: its configuration whole, and what of it is each site's."""
        if isinstance(self.broker, Broker):
            return "", {}
        sites = {name: self.broker.site_entry(_admission(one)) for name, one in self._invited.items()}
        return self.broker.configuration(sites), sites


def _admission(one: Invitation) -> Admission:
    return Admission(one.tenant, one.link, one.password)
