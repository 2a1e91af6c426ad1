"""Whether the agent's unit holds up before systemd, and its install script writes what the agent reads, once."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.firmware_hooks.agents import PATH, agent

SCRIPT, UNIT = PATH.parent / "install-agent.sh", PATH.parent / "skerry-agent.service"


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed here")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_what_it_writes_is_what_the_agent_reads(tmp_path: Path) -> None:
    token, ca, root = tmp_path / "t", tmp_path / "c", tmp_path / "root"
    token.write_text("secret\n")
    ca.write_text("a certificate\n")
    root.mkdir()
    words = ["--root", root, "--device", "drone-03", "--token", token, "--ca", ca, "--discover", "https://alder:8443"]
    first = install(*words)
    assert first.returncode == 0, first.stderr
    found = agent.read_settings(str(root / "etc/skerry-agent/agent.json"))
    assert (found.device, found.sites, found.discover) == ("drone-03", ("https://alder:8443",), True)
    assert (found.token_file, found.ca_file) == ("/etc/skerry-agent/token", "/etc/skerry-agent/ca.pem")
    assert stat.S_IMODE((root / "etc/skerry-agent/token").stat().st_mode) == 0o640
    assert (root / "opt/skerry-agent/agent.py").read_bytes() == PATH.read_bytes()
    second = install(*words)
    assert "wrote" in first.stdout
    assert "wrote" not in second.stdout
    assert "secret" not in first.stdout + second.stdout


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--device", "d"],
        ["--device", "a b", "https://alder:1"],
        ["--device", 'x","y":"', "https://alder:1"],
        ["--device", "d", "alder:1"],
        ["--device", "d", 'https://a","b'],
        ["--device", "d", "https://$(id)"],
        ["--device", "d", "--discover"],
        ["--device", "d", "--token", "/no/such", "https://alder:1"],
        ["--device"],
        ["--wrong"],
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_written(tmp_path: Path, words: list[str]) -> None:
    answer = install("--root", tmp_path, *words)
    assert answer.returncode == 2
    assert answer.stderr.startswith("install-agent.sh: ")
    assert list(tmp_path.iterdir()) == []


def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    made = tmp_path / UNIT.name
    made.write_text(UNIT.read_text().replace("/usr/bin/python3", sys.executable))
    verified = analyze("verify", "--man=no", str(made))
    assert [
        line for line in verified.stderr.splitlines() if made.name in line and "skerry-agent.service: User" not in line
    ] == []


def test_systemd_calls_it_well_confined() -> None:
    judged = analyze("security", "--offline=true", "--threshold=20", str(UNIT))
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit offline")
    assert judged.returncode == 0, judged.stdout[-300:]


def test_the_unit_starts_what_the_agent_offers() -> None:
    command = re.search(r"^ExecStart=\S+ /opt/skerry-agent/(\S+) (.*)$", UNIT.read_text(), re.MULTILINE)
    assert command
    assert (PATH.parent / command[1]).exists()
    helped = subprocess.run(
        [sys.executable, str(PATH), *command[2].split()[:1], "--help"], capture_output=True, check=True
    )
    assert b"--config" in helped.stdout


def test_the_agent_needs_nothing_but_the_standard_library() -> None:
    names = set(re.findall(r"^(?:import|from) (\w+)", PATH.read_text(), re.MULTILINE)) - {"__future__"}
    assert names <= set(sys.stdlib_module_names)
    isolated = [sys.executable, "-I", "-S", str(PATH), "status", "--help"]
    assert subprocess.run(isolated, capture_output=True, check=False).returncode == 0


def test_every_setting_stands_in_the_contract() -> None:
    page = (PATH.parent / "CONTRACT.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|–) \|", page.partition("## The agent")[2], re.MULTILINE))
    defaults = agent.Settings._field_defaults
    assert set(rows) == set(agent.Settings._fields)
    said = {name: json.loads(text) for name, text in rows.items() if text}
    assert said == {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
