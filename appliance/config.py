"""The one configuration: a TOML file, over it the environment (SKERRY_SECTION_KEY), over it the flags.

The table of keys is the Structs below; docs/config.md lists them, and a test holds the two together.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

from appliance.intake.bridge_topics import wrong_with as topics_wrong
from appliance.intake.lines import NODE_TAGS
from fleet import limits
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
    tls_listen: str = ""
    public_url: str = ""  # when a proxy serves these pages under another address


class Syslog(_Section, frozen=True):
    udp: str = "127.0.0.1:5514"  # empty: off
    tcp: str = "127.0.0.1:5514"
    tls: str = ""  # RFC 5425; its port is 6514
    tls_clients: str = "required"  # or optional


class Intake(_Section, frozen=True):
    """Who may come in, how much of it, and how it is taken. A rate of 0 is no bound."""

    mode: str = "dev"  # or prod
    auth_ttl_s: float = 60.0
    token_days: float = 0.0  # 0: for ever
    grace_s: float = 86_400.0
    device_rate: int = 50_000
    device_byte_rate: int = 0
    tenant_rate: int = 0
    tenant_byte_rate: int = 0
    burst_s: float = 2.0
    queue_records: int = limits.gate_records_max
    queue_mib: int = limits.gate_bytes_max // MIB
    batch_records: int = limits.batch_records_max
    linger_s: float = 0.2
    workers: int = 2


class Tls(_Section, frozen=True):
    """The certificate of the site's ways in. `hosts` are the names and addresses by which devices reach it, with commas."""

    hosts: str = ""  # empty: localhost and the name of this machine
    certificate: str = ""  # PEM files of your own; empty: one that the site signs itself
    key: str = ""
    ca: str = ""  # PEM: whose certificates of devices are believed beside the site's own
    certificate_days: float = 365.0  # how long one that the site signs for a device lasts


class Mqtt(_Section, frozen=True):
    listen: str = "127.0.0.1:1883"  # empty: off
    tls_listen: str = ""
    connections_max: int = 10_000
    packet_kib_max: int = 256
    session_hours_max: float = 24.0


class Lines(_Section, frozen=True):
    enabled: bool = True
    node_tags: str = ",".join(NODE_TAGS)  # an earlier one outweighs a later one

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(tag.strip() for tag in self.node_tags.split(",") if tag.strip())


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


class Sensor(_Section, frozen=True):
    mdns: bool = False
    mdns_ca: str = ""  # a file: the authority that devices pin
    mdns_interface: str = ""  # empty: all
    mdns_name: str = ""  # what the certificate says
    mdns_port: int = 0  # 0: that of http.listen


class Bridge(_Section, frozen=True):
    """A broker of others that is subscribed to (`appliance.intake.bridge`)."""

    name: str
    url: str
    topics: tuple[str, ...]
    node_key: str = ""
    version: str = "3.1.1"
    client_id: str = ""
    user: str = ""
    password_file: str = ""
    password_env: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    keep_alive_s: int = 60


BRIDGES_MAX = 16
BRIDGE_TOPICS_MAX = 64


class Config(_Section, frozen=True):
    site: Site = Site()
    http: Http = Http()
    syslog: Syslog = Syslog()
    intake: Intake = Intake()
    tls: Tls = Tls()
    mqtt: Mqtt = Mqtt()
    lines: Lines = Lines()
    ping: Ping = Ping()
    evaluator: Evaluator = Evaluator()
    budget: Budget = Budget()
    sensor: Sensor = Sensor()
    bridge: tuple[Bridge, ...] = ()


_ADDRESSES = (
    "http.listen",
    "http.tls_listen",
    "syslog.udp",
    "syslog.tcp",
    "syslog.tls",
    "mqtt.listen",
    "mqtt.tls_listen",
)


def _check(config: Config) -> None:
    for name in _ADDRESSES:
        section, key = name.split(".")
        text = getattr(getattr(config, section), key)
        if text or name == "http.listen":
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
    if config.syslog.tls_clients not in ("required", "optional"):
        raise ConfigProblem(f"syslog.tls_clients is {config.syslog.tls_clients!r}; it is required or optional")
    if bool(config.tls.certificate) != bool(config.tls.key):
        raise ConfigProblem("tls.certificate and tls.key belong together; name both files, or none")
    within("tls.certificate_days", config.tls.certificate_days, 0.01, 7_300.0)
    _check_intake(config.intake)
    within("sensor.mdns_port", config.sensor.mdns_port, 0, 65_535)
    if config.sensor.mdns and not config.sensor.mdns_ca:
        raise ConfigProblem("sensor.mdns needs sensor.mdns_ca: devices believe what they find only by its authority")
    if not config.site.name or len(config.site.name) > 64:
        raise ConfigProblem("site.name must have 1 to 64 characters")
    within("the number of [[bridge]]", len(config.bridge), 0, BRIDGES_MAX)
    names = [one.name for one in config.bridge]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigProblem(f"two bridges are named {twice!r}")
    for one in config.bridge:
        if wrong := _wrong_with(one):
            raise ConfigProblem(f"[[bridge]] {one.name!r}: {wrong}")


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)


def _wrong_with(bridge: Bridge) -> str:
    if not _NAME.fullmatch(bridge.name):
        return "a name has up to 32 lower-case letters, digits, - and _"
    try:
        url = urlsplit(bridge.url)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in ("mqtt", "mqtts") or not url.hostname or port == 0 or url.path.strip("/") or url.query:
        return "url is mqtt://HOST:PORT, or mqtts:// with TLS"
    if url.username is not None or url.password is not None:
        return "whoever sees the url would see the password in it; say user, and password_file or password_env"
    if bridge.password_file and bridge.password_env:
        return "password_file and password_env are two places for one password; say one"
    if (bridge.password_file or bridge.password_env) and not bridge.user:
        return "a password needs its user"
    if bridge.key_file and not bridge.certificate_file:
        return "key_file is that of a certificate_file; name that too"
    if url.scheme == "mqtt" and (bridge.ca_file or bridge.certificate_file):
        return "ca_file and certificate_file are for mqtts://"
    if bridge.version not in ("3.1.1", "5"):
        return f"version is 3.1.1 or 5, not {bridge.version!r}"
    if not 5 <= bridge.keep_alive_s <= 3_600:
        return f"keep_alive_s is {bridge.keep_alive_s}; it must be between 5 and 3600"
    if len(bridge.topics) > BRIDGE_TOPICS_MAX:
        return f"it has more than {BRIDGE_TOPICS_MAX} topics"
    return topics_wrong(bridge.topics, bridge.node_key)


def _check_intake(intake: Intake) -> None:
    if intake.mode not in ("dev", "prod"):
        raise ConfigProblem(f"intake.mode is {intake.mode!r}; it is dev or prod")
    within("intake.auth_ttl_s", intake.auth_ttl_s, 0.0, 86_400.0)
    within("intake.token_days", intake.token_days, 0.0, 36_500.0)
    within("intake.grace_s", intake.grace_s, 0.0, 31_536_000.0)
    within("intake.device_rate", intake.device_rate, 0, 10_000_000)
    within("intake.device_byte_rate", intake.device_byte_rate, 0, 1 << 40)
    within("intake.tenant_rate", intake.tenant_rate, 0, 10_000_000)
    within("intake.tenant_byte_rate", intake.tenant_byte_rate, 0, 1 << 40)
    within("intake.burst_s", intake.burst_s, 0.01, 3_600.0)
    # What one drain of a socket or one body holds must fit, and a batch must fit into a frame.
    within("intake.queue_records", intake.queue_records, limits.http_records_max, 10_000_000)
    within("intake.queue_mib", intake.queue_mib, limits.http_inflated_bytes_max // MIB, 65_536)
    within("intake.batch_records", intake.batch_records, 1, 100_000)
    within("intake.linger_s", intake.linger_s, 0.0, 5.0)
    within("intake.workers", intake.workers, 1, 64)


_SETTINGS = Settings(Config, _check)
load = _SETTINGS.load
keys = _SETTINGS.keys
tables = _SETTINGS.tables
