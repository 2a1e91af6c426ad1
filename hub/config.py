"""The hub's configuration: a TOML file, over it the environment (SKERRY_SECTION_KEY), over it the flags.

The table of keys is the Structs below; docs/config-hub.md lists them, and a test holds the two together.
"""

from __future__ import annotations

import msgspec

from store.link_file import wrong_with
from store.settings import ConfigProblem as ConfigProblem
from store.settings import Settings, address, within

MIB = 1024 * 1024


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Hub(_Section, frozen=True):
    name: str = "harbor"
    tenant: str = "default"


class Http(_Section, frozen=True):
    """Where pages are served. `hosts` are the names and addresses by which people reach them over TLS, with commas."""

    listen: str = "127.0.0.1:8081"
    tls_listen: str = ""  # empty: off
    hosts: str = ""  # empty: those of `link`, and the name of this machine
    certificate: str = ""  # PEM files of your own; empty: one that the hub signs itself
    key: str = ""
    public_url: str = ""  # when a proxy serves these pages under another address


class Link(_Section, frozen=True):
    """Where sites come in. `hosts` are the names and addresses by which sites reach the hub, with commas between them;
    they stand in its certificate and, the first of them, in every link file. Empty: the address it listens on.

    With a `url` the hub starts no NATS server: it and its sites meet at that one, and what belongs to a server of its
    own must not be said."""

    listen: str = "127.0.0.1:4222"
    websocket_listen: str = ""  # empty: off; for sites that may only speak HTTPS to the outside
    hosts: str = ""
    tls: bool = True
    certificate: str = ""  # PEM files of your own; empty: one that the hub signs itself
    key: str = ""
    ca: str = ""  # PEM of who signed the server's certificate; empty: the hub itself, or, if it is yours, the system's
    url: str = ""  # of a NATS server that somebody else runs; empty: the hub runs its own
    user: str = ""  # the hub's account there
    password: str = ""


class Limits(_Section, frozen=True):
    sites_max: int = 5_000
    stream_mib_max: int = 1_024  # what waits in the broker; beyond it sites wait, and lose nothing


class Config(_Section, frozen=True):
    hub: Hub = Hub()
    http: Http = Http()
    link: Link = Link()
    limits: Limits = Limits()


def _check(config: Config) -> None:
    for name, text, needed in (
        ("http.listen", config.http.listen, True),
        ("http.tls_listen", config.http.tls_listen, False),
        ("link.listen", config.link.listen, True),
        ("link.websocket_listen", config.link.websocket_listen, False),
    ):
        if text or needed:
            address(text, name)
    within("limits.sites_max", config.limits.sites_max, 1, 5_000)
    within("limits.stream_mib_max", config.limits.stream_mib_max, 16, 1 << 20)
    _check_server(config.link)
    for name, section in (("http", config.http), ("link", config.link)):
        if bool(section.certificate) != bool(section.key):
            raise ConfigProblem(f"{name}.certificate and {name}.key belong together; name both files, or none")
    if not config.hub.name or len(config.hub.name) > 64:
        raise ConfigProblem("hub.name must have 1 to 64 characters")


def _check_server(link: Link) -> None:
    if not link.url:
        if link.user or link.password:
            raise ConfigProblem("link.user and link.password are for a NATS server that you name in link.url; name it")
        if link.ca and not link.certificate:
            raise ConfigProblem("link.ca is who signed link.certificate, or that of the server at link.url; name one")
        return
    if wrong := wrong_with(link.url):
        raise ConfigProblem(f"link.url: {wrong}; its name and password are link.user and link.password")
    if not link.user or not link.password:
        raise ConfigProblem("link.url needs the hub's account there: say link.user and link.password")
    plain = Link()
    for key in ("listen", "websocket_listen", "hosts", "tls", "certificate", "key"):
        if getattr(link, key) != getattr(plain, key):
            raise ConfigProblem(f"link.{key} is for a NATS server of the hub's own; with link.url leave it out")


_SETTINGS = Settings(Config, _check)
load = _SETTINGS.load
keys = _SETTINGS.keys
tables = _SETTINGS.tables
