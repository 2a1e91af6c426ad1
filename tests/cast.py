"""Who plays in the tests of a whole box: site alder as a real process (`island`), alder inside the test (`alder` in
conftest), and the people and devices around it.

Rules of the file
  1  Every port is chosen by the kernel: the process prints what it got, and tests may run side by side.
  2  Nothing sleeps for a fixed time. `eventually` waits for a fact; a test fails with what stood there instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import paho.mqtt.client as paho

from bench.island import ROOT, Island

T = TypeVar("T")
FRONT = Path(os.environ.get("SKERRY_PY", str(ROOT / "skerry.py")))
WAIT_S = 30.0
PASSWORD = "correct horse battery"
BOB, MALLORY = "127.0.0.66", "127.0.0.99"  # addresses of devices; the loopback answers for all of 127.0.0.0/8


class Site(Island):
    """A running appliance. `http`, `udp`, `tcp` and `mqtt` are its ports on 127.0.0.1."""

    def __init__(self, data: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(data, 0, 0, process)
        self.udp = self.tcp = self.mqtt = 0
        self.log = log
        self.setup_path = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def client(self, token: str | None = None) -> httpx2.Client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def token(self, name: str = "collector", role: str = "viewer") -> str:
        return str(self.call("POST", "/api/v1/tokens", {"name": name, "role": role})["secret"])

    def records(self, after: int = 0) -> list[dict[str, Any]]:
        """Every raw record, oldest first, by the API."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"/api/v1/telemetry?after={after}&limit=1000")
            found += page["records"]
            if page["next"] == after or not page["records"]:
                return found
            after = page["next"]

    def nodes(self) -> list[dict[str, Any]]:
        return [item["node"] for item in self.call("GET", "/api/v1/nodes?limit=500")["nodes"]]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = self.call("GET", "/api/v1/events?after=0&limit=10000")["events"]
        return [event for event in found if kind is None or event["kind"] == kind]

    def adopt(self, source: str, name: str, kind: str = "EDGE") -> str:
        body = {"source": source, "name": name, "kind": kind, "tags": []}
        return str(self.call("POST", "/api/v1/adopt", body)["id"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """The power goes."""
        self.stop(signal.SIGKILL)


@contextlib.contextmanager
def island(data: Path, *flags: str, environment: dict[str, str] | None = None) -> Iterator[Site]:
    """`skerry appliance run` on `data`, ready; stopped at the end unless the test did so itself."""
    log = data.parent / f"{data.name}.log"
    command = [sys.executable, str(FRONT), "appliance", "run", "--data", str(data), "--name", "alder"]
    command += ["--http", "127.0.0.1:0", "--syslog-udp", "127.0.0.1:0", "--syslog-tcp", "127.0.0.1:0"]
    command += ["--mqtt", "127.0.0.1:0"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *flags], stdout=out, stderr=out, env={**os.environ, **(environment or {})}
        )
    site = Site(data, process, log)
    try:
        _wait_until_up(site)
        yield site
    finally:
        site.stop()


def _wait_until_up(site: Site) -> None:
    """The process prints its addresses once everything serves."""
    deadline = time.monotonic() + WAIT_S
    while " is up at http://" not in site.said() or "  http " not in site.said():
        if site.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"alder did not start:\n{site.said()}")
        time.sleep(0.02)
    lines = [line.split() for line in site.said().splitlines()]
    ports = {line[0]: int(line[1].rpartition(":")[2]) for line in lines if len(line) == 2 and ":" in line[1]}
    site.http, site.udp, site.tcp = ports["http"], ports.get("syslog-udp", 0), ports.get("syslog-tcp", 0)
    site.mqtt, site.syslog = ports.get("mqtt", 0), site.udp


def skerry(*args: str, timeout_s: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """One run of the command line."""
    command = [sys.executable, str(FRONT), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)


def eventually(look: Callable[[], T], good: Callable[[T], bool] = bool, seconds: float = WAIT_S) -> T:
    """What `look` returns, as soon as it is `good`."""
    deadline = time.monotonic() + seconds
    while not good(found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it never came to be; at the end there was {str(found)[:2000]}")
        time.sleep(0.05)
    return found


async def eventually_async(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool] = bool, seconds: float = WAIT_S
) -> T:
    deadline = time.monotonic() + seconds
    while not good(found := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it never came to be; at the end there was {str(found)[:2000]}")
        await asyncio.sleep(0.02)
    return found


def send_udp(port: int, *messages: bytes, address: str = BOB) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind((address, 0))
        for message in messages:
            line.sendto(message, ("127.0.0.1", port))


def send_tcp(port: int, data: bytes, address: str = BOB) -> None:
    """Everything on one connection, then an orderly end."""
    with socket.create_connection(("127.0.0.1", port), 10, (address, 0)) as line:
        line.sendall(data)


def paho_ends(client: paho.Client) -> None:
    """An orderly end. paho leaves its pair of sockets to the collector, which complains in whichever test it runs."""
    client.disconnect()
    client.loop_stop()
    client._reset_sockets()


def json_gzip(value: Any) -> bytes:
    return gzip.compress(json.dumps(value).encode(), 6)
