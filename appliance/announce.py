"""How does a device find this site on its network? By multicast DNS: `_skerry._tcp`, with the name, the port and the CA.

What is announced is a hint that anybody could forge: a device believes the certificate that its pinned CA vouches for,
never the announcement. So a site announces itself only where it is told to, with the CA that its certificate is from.

TXT: `site` (its name), `id` (its writer), `name` (what its certificate says), `ca` (SHA-256 of the CA's certificate, DER,
hexadecimal). A value has at most 255 bytes.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

SERVICE = "_skerry._tcp.local."
_LABEL = re.compile(r"[^A-Za-z0-9-]+")


class Announcer:
    """`start`, then `stop`. OSError when the network does not let it."""

    def __init__(
        self, site: str, writer: str, port: int, ca_fingerprint: str, *, name: str = "", interface: str = ""
    ) -> None:
        self._said = {"site": site[:200], "id": writer, "ca": ca_fingerprint, "name": name[:200]}
        self._label = f"{_LABEL.sub('-', site)[:40] or 'skerry'}-{writer[-6:].lower()}"
        self._port, self._interface = port, interface

    async def start(self) -> None:
        from zeroconf import InterfaceChoice, IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        interfaces = [self._interface] if self._interface else InterfaceChoice.All
        self._zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
        await self._zeroconf.async_register_service(self._info(), cooperating_responders=True)

    async def stop(self) -> None:
        """Says good-bye, so that devices look elsewhere at once."""
        await self._zeroconf.async_unregister_all_services()
        await self._zeroconf.async_close()

    def _info(self) -> ServiceInfo:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE,
            f"{self._label}.{SERVICE}",
            port=self._port,
            properties=self._said,
            server=f"{self._label}.local.",
            parsed_addresses=[self._interface or _address()],
        )


def fingerprint_of(ca: Path) -> str:
    """The SHA-256 of a certificate in PEM, of its DER bytes, hexadecimal. OSError, ValueError."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca.read_text(encoding="ascii"))).hexdigest()


def _address() -> str:
    """The address of this machine from which multicast goes out. OSError when there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect(("224.0.0.251", 5353))  # nothing is sent
        return str(line.getsockname()[0])
