"""What an installation starts from: the unit holds up before systemd itself, the example is a configuration, and the
image copies what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config import load
from bench.island import ROOT
from hub import config as of_a_hub

IMAGES = ROOT / "images"
UNIT = IMAGES / "skerry-appliance.service"
UNITS = (UNIT, IMAGES / "skerry-hub.service")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed here")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A unit, with a program that exists on this machine."""
    made: Path = tmp_path / request.param.name
    made.write_text(request.param.read_text().replace("/opt/skerry/bin/skerry", sys.executable))
    return made


def test_systemd_finds_nothing_to_complain_about(unit: Path) -> None:
    verified = analyze("verify", "--man=no", str(unit))
    ours = [line for line in verified.stderr.splitlines() if unit.name in line]
    assert ours == []


def test_systemd_calls_the_service_well_confined(unit: Path) -> None:
    judged = analyze("security", "--offline=true", "--json=short", str(unit))
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit offline")
    rows = json.loads(judged.stdout)
    exposed = {row["name"] for row in rows if row["set"] is False and float(row.get("exposure") or 0) >= 0.3}
    # It serves a network on purpose; these are what is left of that.
    assert exposed <= {"PrivateNetwork=", "RestrictAddressFamilies=~AF_(INET|INET6)"}
    overall = analyze("security", "--offline=true", "--threshold=25", str(unit))
    assert overall.returncode == 0, overall.stdout[-200:]


def test_the_unit_can_still_ask_whether_the_clock_is_disciplined(unit: Path) -> None:
    """ProtectClock would forbid adjtimex(2), and every event would say that its time is nobody's."""
    text = unit.read_text()
    assert "SystemCallFilter=adjtimex" in text
    assert "ProtectClock" not in re.sub(r"#.*", "", text)


@pytest.mark.parametrize(("path", "state", "toml"), [(UNITS[0], "skerry", "skerry"), (UNITS[1], "skerry-hub", "hub")])
def test_the_unit_starts_what_the_command_line_offers(path: Path, state: str, toml: str) -> None:
    from skerry import parser

    text = path.read_text()
    command = re.search(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)
    assert command
    args = parser().parse_args(command[1].split())
    assert args.data == Path("/var/lib") / state
    assert args.config == Path(f"/etc/skerry/{toml}.toml")
    assert f"StateDirectory={state}\n" in text
    assert (IMAGES / args.config.name).exists()


def test_the_example_is_a_configuration() -> None:
    config = load(IMAGES / "skerry.toml", {}, {})
    assert config.site.name == "alder"
    assert config.syslog.udp == "0.0.0.0:514"


def test_the_example_of_a_hub_is_a_configuration() -> None:
    config = of_a_hub.load(IMAGES / "hub.toml", {}, {})
    assert (config.hub.name, config.link.websocket_listen) == ("harbor", "0.0.0.0:443")


def test_the_image_copies_what_is_there_and_all_that_is_needed() -> None:
    text = (IMAGES / "Containerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    packages = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert packages
    needed = {
        name.split(".")[0].replace("firmware_hooks", "firmware-hooks") for name in re.findall(r'"(.+?)"', packages[1])
    }
    assert needed <= copied
    assert re.search(r"^USER 10001$", text, re.MULTILINE), "not root"


def test_the_image_listens_where_it_says() -> None:
    text = (IMAGES / "Containerfile").read_text()
    environment = dict(re.findall(r"(SKERRY_\w+)=(\S+)", text))
    config = load(None, environment, {})
    addresses = (config.http.listen, config.syslog.udp, config.syslog.tcp, config.mqtt.listen)
    ports = {address.rpartition(":")[2] for address in addresses}
    exposed = re.search(r"^EXPOSE (.*)$", text, re.MULTILINE)
    assert exposed
    assert ports == {one.split("/")[0] for one in exposed[1].split()}
