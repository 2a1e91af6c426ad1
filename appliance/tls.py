"""TLS of a site's ways in: one certificate for its server, and who may come in with one of theirs.

Rules of the file
  1  The server's certificate is signed by the site's own authority and made anew by itself; or it is the files that [tls]
     names. A context that is in use takes the new one for its next connections.
  2  A device's certificate must come from the site's authority or from those in `tls.ca`. When it ends is not TLS's to say:
     a clock may stand in 1970. The doorkeeper judges it, by the registry, and so it judges what was revoked.
"""

from __future__ import annotations

import logging
import socket
import ssl
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.config import Tls
from store.certificates import CertificateProblem, ensure_server_certificate
from store.device_certificates import Authority
from store.settings import ConfigProblem

log = logging.getLogger(__name__)

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name
RENEWAL_S = 86_400.0


class SiteTls:
    def __init__(self, folder: Path, config: Tls, site: str, now_ns: Callable[[], int]) -> None:
        self.authority = Authority(folder, f"site {site}")
        self._folder, self._config, self._now_ns = folder, config, now_ns
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()

    def server(self, *, clients: str = "none") -> ssl.SSLContext:
        """A context for a listener. `clients` is none, optional or required: whether the other end shows a certificate.
        ConfigProblem when the files that [tls] names, CertificateProblem when the site's own cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A sender of syslog reads nothing, so a ticket would lie unread at its end, and the kernel resets a connection that
        # is closed over unread bytes: what it sent last would be gone.
        context.num_tickets = 0
        self._load(context)
        if clients != "none":
            context.verify_mode = ssl.CERT_REQUIRED if clients == "required" else ssl.CERT_OPTIONAL
            context.verify_flags |= _NO_CHECK_TIME
            context.load_verify_locations(cadata=self.authority.ca_pem(self._now_ns()))
            if self._config.ca:
                _of_config(lambda: context.load_verify_locations(self._config.ca))
        self._contexts.add(context)
        return context

    def renew(self) -> None:
        """Look whether the server's certificate is due, or its files are others, and let the contexts in use have it."""
        for context in tuple(self._contexts):
            try:
                self._load(context)
            except (CertificateProblem, ConfigProblem) as problem:
                log.error("TLS goes on with the certificate that it has: %s", problem)

    def _load(self, context: ssl.SSLContext) -> None:
        config = self._config
        if config.certificate:
            _of_config(lambda: context.load_cert_chain(config.certificate, config.key))
            return
        made = ensure_server_certificate(self._folder, self._hosts(), self._now_ns(), self.authority.whose)
        context.load_cert_chain(made.certificate, made.key)

    def _hosts(self) -> Iterable[str]:
        named = [host.strip() for host in self._config.hosts.split(",") if host.strip()]
        return named or {"localhost", "127.0.0.1", "::1", socket.gethostname()}


def _of_config(load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigProblem(
            f"tls.certificate, tls.key or tls.ca cannot be used ({error}); they are files in PEM, the key without a password"
        ) from error
