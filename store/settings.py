"""How is a box configured? A TOML file, over it the environment (SKERRY_SECTION_KEY), over it the flags.

The table of keys is a tree of two levels of msgspec Structs: sections, and their keys with defaults. Each box has its
own; what is read and how a mistake is told is the same. A section may be a list of tables ([[section]]), which only the file can
give.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec

C = TypeVar("C", bound=msgspec.Struct)


class ConfigProblem(Exception):
    """The configuration cannot be used; str() names the place, what is wrong and what would be right."""


class Settings(Generic[C]):
    """`check` raises ConfigProblem for a value that is of the right type and wrong."""

    def __init__(self, shape: type[C], check: Callable[[C], None]) -> None:
        self._shape, self._check = shape, check

    def keys(self) -> list[tuple[str, str, type]]:
        """Every (section, key, type), without the lists of tables."""
        sections = get_type_hints(self._shape)
        return [
            (name, key, kind)
            for name, section in sections.items()
            if get_origin(section) is not tuple
            for key, kind in get_type_hints(section).items()
        ]

    def tables(self) -> list[tuple[str, str, type]]:
        """Every (section, key, type) of the lists of tables."""
        sections = get_type_hints(self._shape)
        return [
            (name, key, kind)
            for name, section in sections.items()
            if get_origin(section) is tuple
            for key, kind in get_type_hints(get_args(section)[0]).items()
        ]

    def load(self, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> C:
        """`flags` are `section.key` → value, None meaning not given. ConfigProblem for the first thing that is wrong."""
        tree: dict[str, Any] = _read(file) if file else {}
        self._check_names(tree, file)
        for section, key, kind in self.keys():
            name = f"SKERRY_{section}_{key}".upper()
            given = environment.get(name)
            if given is not None:
                tree.setdefault(section, {})[key] = _convert(given, kind, name)
            flag = flags.get(f"{section}.{key}")
            if flag is not None:
                tree.setdefault(section, {})[key] = flag
        try:
            config = msgspec.convert(tree, self._shape)
        except msgspec.ValidationError as error:
            raise ConfigProblem(f"{file or 'configuration'}: {error}") from error
        self._check(config)
        return config

    def _check_names(self, tree: Mapping[str, Any], file: Path | None) -> None:
        known: dict[str, list[str]] = {}
        lists = {section for section, _, _ in self.tables()}
        for section, key, _ in (*self.keys(), *self.tables()):
            known.setdefault(section, []).append(key)
        for section, values in tree.items():
            if section not in known:
                raise ConfigProblem(f"{file}: there is no section [{section}]; {_instead(section, list(known))}")
            many = section in lists
            head = f"[[{section}]]" if many else f"[{section}]"
            if not isinstance(values, list if many else dict) or (many and not all(map(_is_table, values))):
                raise ConfigProblem(f"{file}: {section} is a section; write {head} and its keys below it")
            for key in (key for table in (values if many else [values]) for key in table):
                if key not in known[section]:
                    raise ConfigProblem(f"{file}: {head} has no key {key!r}; {_instead(key, known[section])}")


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        raise ConfigProblem(f"{file}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigProblem(f"{file}: it cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigProblem(f"{file}: it is not TOML: {error}") from error


def _instead(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(known)}"


def _convert(text: str, kind: type, name: str) -> Any:
    try:
        return text if kind is str else msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigProblem(f"{name}={text!r}: {error}") from error


def within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigProblem(f"{name} is {value}; it must be between {low} and {high}")


def address(text: str, name: str) -> tuple[str, int]:
    """HOST:PORT, with [brackets] around an IPv6 host. ConfigProblem otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigProblem(f"{name} is {text!r}; write HOST:PORT, such as 0.0.0.0:5514 or [::]:5514")
    return host.removeprefix("[").removesuffix("]"), int(port)
