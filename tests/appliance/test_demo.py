"""The demo: it starts over on its own data, finds its ports, and ends everything it began."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.control import call
from tests.cast import FRONT, eventually, island, skerry

LAST = "Stop with Ctrl-C.\n"
PROCESSES = 5  # a hub, two sites, the devices of each


@contextmanager
def demo(data: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo once it said something, and its first line; ended with Ctrl-C."""
    command = [sys.executable, str(FRONT), "demo", "--data", str(data), "--devices", "3", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def children(process: subprocess.Popen[str]) -> set[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid) for pid in found}


def names(site: dict[str, Any]) -> list[str]:
    nodes = call(Path(site["data"]) / "control.sock", "GET", "/api/v1/nodes")["nodes"]
    return sorted(node["node"]["name"] for node in nodes)


def test_a_second_demo_on_the_same_data_finds_the_nodes_as_they_were_left(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--json") as (_, line):
        site, _ = json.loads(line)["sites"]
        control = Path(site["data"]) / "control.sock"
        node_id = call(control, "GET", "/api/v1/nodes")["nodes"][0]["node"]["id"]
        call(control, "PATCH", f"/api/v1/nodes/{node_id}", {"field": "name", "value": "my-own-name"})
        first = names(site)
    with demo(tmp_path / "demo", "--json") as (_, line):
        site, _ = json.loads(line)["sites"]
        assert names(site) == first
        assert "my-own-name" in first


def test_a_demo_that_ends_takes_its_processes_with_it(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--json") as (process, line):
        assert line
        begun = eventually(lambda: children(process), lambda pids: len(pids) == PROCESSES)
    assert process.returncode == 0
    assert [pid for pid in begun if Path(f"/proc/{pid}").exists()] == []


def test_a_demo_whose_appliance_dies_ends_and_takes_the_devices_with_it(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--json") as (process, _):
        begun = eventually(lambda: children(process), lambda pids: len(pids) == PROCESSES)
        os.kill(min(begun), signal.SIGKILL)
        assert process.wait(60) != 0
    assert [pid for pid in begun if Path(f"/proc/{pid}").exists()] == []


def test_for_a_person_it_prints_an_address_that_lets_them_in(tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as (process, first):
        assert first == "Hub harbor: every site, as it is now\n", process.communicate()[1]
        assert process.stdout is not None
        words = "".join(iter(process.stdout.readline, LAST))
        assert "Site alder with 3 simulated devices:" in words
        ways = re.findall(r"^  (syslog|MQTT|HTTP|lines|CA|devices) ", words, re.MULTILINE)
        assert ways == ["syslog", "MQTT", "HTTP", "lines", "CA", "devices"] * 2
        assert len(set(re.findall(r"127\.0\.0\.1:\d+", words))) == 13, "six for each site, one for the hub"
        link = re.search(r"open +http://(127\.0\.0\.1):(\d+)(/enter/\S+)", words)
        assert link
        with socket.create_connection((link[1], int(link[2])), 10) as line:
            line.sendall(f"GET {link[3]} HTTP/1.1\r\nhost: {link[1]}\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: line.recv(65_536), b"")).decode()
        assert answer.startswith("HTTP/1.1 303")
        assert "skerry_session=" in answer


def test_a_demo_on_a_folder_in_use_says_who_has_it(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with island(tmp_path / "demo" / "alder") as site:
        ended = skerry("demo", "--data", str(tmp_path / "demo"), "--port", "0")
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        assert f"an appliance already runs on {site.data}" in ended.stderr
        assert site.process.poll() is None, "it ends only what it began"
