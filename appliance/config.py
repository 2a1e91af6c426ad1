"""The one configuration: a TOML file, over it the environment (SKERRY_SECTION_KEY), over it the flags.

The table of keys is the Structs below; docs/config.md lists them, and a test holds the two together.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

MIB = 1024 * 1024


class ConfigProblem(Exception):
    """The configuration cannot be used; str() names the place, what is wrong and what would be right."""


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
    ping: Ping = Ping()
    evaluator: Evaluator = Evaluator()
    budget: Budget = Budget()


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """`flags` are `section.key` → value, None meaning not given. ConfigProblem for the first thing that is wrong."""
    tree: dict[str, Any] = _read(file) if file else {}
    for section, key, kind in keys():
        given = environment.get(f"SKERRY_{section}_{key}".upper())
        if given is not None:
            tree.setdefault(section, {})[key] = _convert(given, kind, f"SKERRY_{section}_{key}".upper())
        flag = flags.get(f"{section}.{key}")
        if flag is not None:
            tree.setdefault(section, {})[key] = flag
    _check_names(tree, file)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigProblem(f"{file or 'configuration'}: {error}") from error
    _check_values(config)
    return config


def keys() -> list[tuple[str, str, type]]:
    """Every (section, key, type)."""
    sections = get_type_hints(Config)
    return [(name, key, kind) for name, section in sections.items() for key, kind in get_type_hints(section).items()]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        raise ConfigProblem(f"{file}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigProblem(f"{file}: it cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigProblem(f"{file}: it is not TOML: {error}") from error


def _check_names(tree: Mapping[str, Any], file: Path | None) -> None:
    known: dict[str, list[str]] = {}
    for section, key, _ in keys():
        known.setdefault(section, []).append(key)
    for section, values in tree.items():
        if section not in known:
            raise ConfigProblem(f"{file}: there is no section [{section}]; {_instead(section, list(known))}")
        if not isinstance(values, dict):
            raise ConfigProblem(f"{file}: {section} is a section; write [{section}] and its keys below it")
        for key in values:
            if key not in known[section]:
                raise ConfigProblem(f"{file}: [{section}] has no key {key!r}; {_instead(key, known[section])}")


def _instead(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(known)}"


def _convert(text: str, kind: type, name: str) -> Any:
    try:
        return text if kind is str else msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigProblem(f"{name}={text!r}: {error}") from error


def _check_values(config: Config) -> None:
    for name in ("http.listen", "syslog.udp", "syslog.tcp"):
        section, key = name.split(".")
        text = getattr(getattr(config, section), key)
        if text or section == "http":
            address(text, name)
    bounds = (
        ("ping.every_s", config.ping.every_s, 0.2, 3600.0),
        ("ping.timeout_s", config.ping.timeout_s, 0.05, 60.0),
        ("evaluator.silence_s", config.evaluator.silence_s, 1.0, 86_400.0),
        ("evaluator.heartbeat_s", config.evaluator.heartbeat_s, 1.0, 86_400.0),
        ("budget.reserve_mib", config.budget.reserve_mib, 1, 65_536),
        ("budget.retention_days", config.budget.retention_days, 0.01, 36_500.0),
        ("budget.total_mib", config.budget.total_mib, 0, 1 << 40),
    )
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise ConfigProblem(f"{name} is {value}; it must be between {low} and {high}")
    if not config.site.name or len(config.site.name) > 64:
        raise ConfigProblem("site.name must have 1 to 64 characters")


def address(text: str, name: str) -> tuple[str, int]:
    """HOST:PORT, with [brackets] around an IPv6 host. ConfigProblem otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigProblem(f"{name} is {text!r}; write HOST:PORT, such as 0.0.0.0:5514 or [::]:5514")
    return host.removeprefix("[").removesuffix("]"), int(port)
