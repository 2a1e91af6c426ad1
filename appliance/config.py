"""The one configuration: a TOML file, over it the environment (SKERRY_SECTION_KEY), over it the flags.

The table of keys is the Structs below; docs/config.md lists them, and a test holds the two together.
"""

from __future__ import annotations

import msgspec

from store.settings import ConfigProblem as ConfigProblem
from store.settings import Settings, within
from store.settings import address as address

MIB = 1024 * 1024


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Site(_Section, frozen=True):
    name: str = "island"
    tenant: str = "default"


class Http(_Section, frozen=True):
    listen: str = "127.0.0.1:8080"
    public_url: str = ""  # when a proxy serves these pages under another address


class Syslog(_Section, frozen=True):
    udp: str = "127.0.0.1:5514"  # empty: off
    tcp: str = "127.0.0.1:5514"


class Mqtt(_Section, frozen=True):
    listen: str = "127.0.0.1:1883"  # empty: off
    tls_listen: str = ""
    connections_max: int = 10_000
    packet_kib_max: int = 256
    session_hours_max: float = 24.0


class Ping(_Section, frozen=True):
    enabled: bool = True
    every_s: float = 2.0
    timeout_s: float = 1.0


class Evaluator(_Section, frozen=True):
    silence_s: float = 15.0
    heartbeat_s: float = 10.0


class Budget(_Section, frozen=True):
    total_mib: int = 0  # 0: three quarters of what the disk has free at the first start
    reserve_mib: int = 32
    retention_days: float = 30.0


class Config(_Section, frozen=True):
    site: Site = Site()
    http: Http = Http()
    syslog: Syslog = Syslog()
    mqtt: Mqtt = Mqtt()
    ping: Ping = Ping()
    evaluator: Evaluator = Evaluator()
    budget: Budget = Budget()


def _check(config: Config) -> None:
    for name in ("http.listen", "syslog.udp", "syslog.tcp", "mqtt.listen", "mqtt.tls_listen"):
        section, key = name.split(".")
        text = getattr(getattr(config, section), key)
        if text or section == "http":
            address(text, name)
    within("mqtt.connections_max", config.mqtt.connections_max, 1, 1_000_000)
    within("mqtt.packet_kib_max", config.mqtt.packet_kib_max, 1, 16_384)
    within("mqtt.session_hours_max", config.mqtt.session_hours_max, 0.0, 8_760.0)
    within("ping.every_s", config.ping.every_s, 0.2, 3600.0)
    within("ping.timeout_s", config.ping.timeout_s, 0.05, 60.0)
    within("evaluator.silence_s", config.evaluator.silence_s, 1.0, 86_400.0)
    within("evaluator.heartbeat_s", config.evaluator.heartbeat_s, 1.0, 86_400.0)
    within("budget.reserve_mib", config.budget.reserve_mib, 1, 65_536)
    within("budget.retention_days", config.budget.retention_days, 0.01, 36_500.0)
    within("budget.total_mib", config.budget.total_mib, 0, 1 << 40)
    if not config.site.name or len(config.site.name) > 64:
        raise ConfigProblem("site.name must have 1 to 64 characters")


_SETTINGS = Settings(Config, _check)
load = _SETTINGS.load
keys = _SETTINGS.keys
