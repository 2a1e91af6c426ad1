"""docs/config.md and the configuration are the same list."""

from __future__ import annotations

import json
import re

from appliance.config import Bridge, Config, keys, tables
from bench.island import ROOT
from skerry import parser
from tests.acceptance.test_command_line import commands

TEXT = (ROOT / "docs" / "config.md").read_text()
ROWS = re.findall(r"^\| `(\w+)\.(\w+)` \| `(.*?)` \| (.+?) \| `(\w+)` \| (.+?) \|$", TEXT, re.MULTILINE)


def test_every_key_stands_in_the_page_once_and_no_other() -> None:
    assert [(section, key) for section, key, *_ in ROWS] == [(section, key) for section, key, _ in keys()]


def test_the_defaults_in_the_page_are_the_defaults() -> None:
    config = Config()
    said = {(section, key): default for section, key, default, *_ in ROWS}
    assert said == {(name, key): json.dumps(getattr(getattr(config, name), key)) for name, key, _ in keys()}


def test_the_environment_names_in_the_page_are_the_names() -> None:
    for section, key, _, _, variable, _ in ROWS:
        assert variable == f"SKERRY_{section}_{key}".upper()


def test_numbers_have_a_unit() -> None:
    units = {"s": "seconds", "mib": "MiB", "days": "days"}
    for _, key, _, unit, *_ in ROWS:
        suffix = key.rpartition("_")[2]
        assert unit.startswith(units.get(suffix, "")), key


def test_every_flag_in_the_page_is_a_flag() -> None:
    flags = set(re.findall(r"Flag: `(--[\w-]+)`", TEXT))
    helped = dict(commands(parser()))[("appliance", "run")]
    assert flags == {flag for flag in re.findall(r"(--[\w-]+)", helped) if flag in flags}
    assert flags == {"--name", "--http", "--syslog-udp", "--syslog-tcp", "--mqtt"}


LISTED = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|required) \| .+? \|$", TEXT, re.MULTILINE)


def test_every_key_of_a_bridge_stands_in_the_page_with_its_default() -> None:
    assert [key for key, _ in LISTED] == [key for _, key, _ in tables()]
    plain = Bridge(name="plant", url="mqtt://h", topics=())
    for key, default in LISTED:
        assert not default or json.loads(default) == getattr(plain, key)
