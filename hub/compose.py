"""The hub, wired: its first tenant, the others beside it, and what they share: one listener and one broker. `Hub` is the
whole box; tests run it too."""

from __future__ import annotations

import gc
import socket
import ssl
import sys
from pathlib import Path

from hub.config import Config
from hub.quay import Quay
from hub.realm import Realm
from hub.tenants import Tenants
from store import certificates, ports
from store.accounts import Guesses
from store.settings import ConfigProblem, address
from web.serving import Serving

_SWITCH_S = 0.0005


class Hub(Realm):
    """The mainland: the realm of its first tenant, and the door to all. `start`, then `stop`; what it listens on stands in
    `addresses`, the set-up link in `setup_path`."""

    def __init__(self, root: Path, config: Config) -> None:
        super().__init__(root, config.hub.tenant, config.hub.name, house=True, guesses=Guesses())
        self.config = config
        self.addresses: dict[str, str] = {}
        self.setup_path: str | None = None
        self._serving: Serving | None = None

    # -- starting ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything up and serving. FolderProblem, StoreFault, KeyProblem or ListenProblem, each with its sentence, when
        it cannot be; what was opened until then is closed again."""
        # Whoever speaks to the database lets go of the interpreter lock at each statement, and waits this long for it
        # again while another thread computes: with Python's 5 ms a thousand sites' words would take seconds for that.
        sys.setswitchinterval(_SWITCH_S)
        # What is made for a word is gone by itself; a fleet's nodes are looked through seldom.
        gc.set_threshold(50_000, 20, 100)
        self.folder.prepare()
        self.folder.hold()
        try:
            self.open(self._quay)
            self.tenants = Tenants(self, self.quay, self.config, self._guesses)
            await self.tenants.open()
            await self.admit()
            await self.quay.start()
            self.begin()
            self.tenants.begin()
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    def _quay(self, now_ns: int) -> Quay:
        self.quay = Quay(self.folder.root, self.config.link, self.config.limits, self.config.hub.name, now_ns)
        self.addresses |= zip(("link", "websocket"), self.quay.broker.urls(), strict=False)
        return self.quay

    async def _listen(self) -> None:
        if await self.accounts.needs_setup():
            self.setup_path = f"/setup/{await self.accounts.setup_secret()}"
        listener = ports.tcp_listener("http", *address(self.config.http.listen, "http.listen"))
        self.addresses["http"] = ports.shown(*listener.getsockname()[:2])
        control = ports.control_listener(self.folder.control)
        self._serving = Serving(self.tenants.doors, [listener, control], self._https())
        await self._serving.start()

    def _https(self) -> tuple[socket.socket, ssl.SSLContext] | None:
        http = self.config.http
        if not http.tls_listen:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if http.certificate:
            try:
                context.load_cert_chain(http.certificate, http.key)
            except (OSError, ssl.SSLError) as error:
                raise ConfigProblem(
                    f"http.certificate or http.key cannot be used ({error}); they are files in PEM, the key without a password"
                ) from error
        else:
            named = [host.strip() for host in (http.hosts or self.config.link.hosts).split(",") if host.strip()]
            hosts = named if http.hosts else [*named, "localhost", "127.0.0.1", "::1", socket.gethostname()]
            made = certificates.ensure_server_certificate(
                self.folder.root / "tls", hosts, self.ground.clock.now_ns(), name="pages"
            )
            context.load_cert_chain(made.certificate, made.key)
        listener = ports.tcp_listener("https", *address(http.tls_listen, "http.tls_listen"))
        self.addresses["https"] = ports.shown(*listener.getsockname()[:2])
        return listener, context

    # -- stopping ---------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Let nobody in any more, say so in the log, close."""
        others = self.tenants if hasattr(self, "tenants") else None
        self.hush()
        if others is not None:
            others.hush()
        if self._serving is not None:
            self._serving.ask_to_stop()
        await self.halt()
        if others is not None:
            await others.halt()
        if self._serving is not None:
            await self._serving.stopped()
        if hasattr(self, "quay"):
            await self.quay.stop()
        if others is not None:
            await others.close()
        self.folder.control.unlink(missing_ok=True)
        await self.close()
