"""The hub's configuration: a TOML file, over it the environment (SKERRY_SECTION_KEY), over it the flags.

The table of keys is the Structs below; docs/config-hub.md lists them, and a test holds the two together.
"""

from __future__ import annotations

import msgspec

from store.settings import ConfigProblem as ConfigProblem
from store.settings import Settings, address, within

MIB = 1024 * 1024


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Hub(_Section, frozen=True):
    name: str = "harbor"
    tenant: str = "default"


class Http(_Section, frozen=True):
    listen: str = "127.0.0.1:8081"
    public_url: str = ""  # when a proxy serves these pages under another address


class Link(_Section, frozen=True):
    """Where sites come in. `hosts` are the names and addresses by which sites reach the hub, with commas between them;
    they stand in its certificate and, the first of them, in every link file. Empty: the address it listens on."""

    listen: str = "127.0.0.1:4222"
    websocket_listen: str = ""  # empty: off; for sites that may only speak HTTPS to the outside
    hosts: str = ""
    tls: bool = True
    certificate: str = ""  # PEM files of your own; empty: one that the hub signs itself
    key: str = ""


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
        ("link.listen", config.link.listen, True),
        ("link.websocket_listen", config.link.websocket_listen, False),
    ):
        if text or needed:
            address(text, name)
    within("limits.sites_max", config.limits.sites_max, 1, 5_000)
    within("limits.stream_mib_max", config.limits.stream_mib_max, 16, 1 << 20)
    if bool(config.link.certificate) != bool(config.link.key):
        raise ConfigProblem("link.certificate and link.key belong together; name both files, or none")
    if not config.hub.name or len(config.hub.name) > 64:
        raise ConfigProblem("hub.name must have 1 to 64 characters")


_SETTINGS = Settings(Config, _check)
load = _SETTINGS.load
keys = _SETTINGS.keys
