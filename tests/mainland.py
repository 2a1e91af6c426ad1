"""A hub and its sites as real processes that a trial can kill, freeze and start again on the same ports and folders."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.island import free_port
from store.control import NotRunning, Refusal, call
from tests.cast import FRONT

WAIT_S = 40.0
Clocks = dict[str, dict[str, str]]  # by the name of a box, what sets its clock
Fronts = dict[str, Path]  # by the name of a box, the command line of its version


class Box:
    """`start` returns when it answers; `kill` is -9, and ends what it started too, unless told otherwise. `front` is the
    command line of the program that it runs: another one is another version."""

    def __init__(
        self, data: Path, what: str, name: str, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        self.data, self.name, self.front = data, name, FRONT
        self.log = data.parent / f"{name}.log"
        self._flags = [what, "run", "--data", str(data), "--name", name, *flags]
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.udp = 0

    def start(self, *, wait: bool = True) -> float:
        """Seconds until it answered."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            command = [sys.executable, str(self.front), *self._flags]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        while wait:
            try:
                self.call("GET", "/readyz")
                break
            except (NotRunning, Refusal):
                assert self.process.poll() is None, self.said()[-3000:]
                assert time.monotonic() - began < WAIT_S, self.said()[-3000:]
                time.sleep(0.02)
        return time.monotonic() - began

    @property
    def http(self) -> str:
        """host:port of its pages."""
        return next(flag for flag in self._flags if flag.startswith("--http=")).removeprefix("--http=")

    def serves(self) -> bool:
        """AssertionError when it ended by itself."""
        assert self.process is not None
        assert self.process.poll() is None, self.said()[-3000:]
        try:
            self.call("GET", "/readyz")
        except (NotRunning, Refusal):
            return False
        return True

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return call(self.data / "control.sock", method, path, body)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def writer(self) -> str:
        with contextlib.closing(self.database()) as db:
            return str(db.execute("SELECT value FROM meta WHERE key='writer'").fetchone()[0])

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.data / 'site.db'}?mode=ro", uri=True)

    def log_of(self, writer: str) -> list[tuple[int, int, bytes]]:
        """(epoch, seq, bytes) of every event of a writer that is committed here."""
        with contextlib.closing(self.database()) as db:
            return db.execute(
                "SELECT log.epoch, event.seq, event.raw FROM event JOIN log ON log.id=event.log_id WHERE log.writer=?"
                " ORDER BY log.epoch, event.seq",
                (writer,),
            ).fetchall()

    def broker(self) -> psutil.Process:
        """The nats-server that this hub started."""
        assert self.process is not None
        return next(one for one in psutil.Process(self.process.pid).children() if "nats" in one.name())

    def link(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/console/link")
        return found

    def site(self, name: str) -> dict[str, Any]:
        sites: list[dict[str, Any]] = self.call("GET", "/console/links")["sites"]
        return next((one for one in sites if one["name"] == name), {})


def join(hub: Box, site: Box, *urls: str) -> None:
    site.call("POST", "/console/join", hub.call("POST", "/console/invite", {"name": site.name, "urls": urls}))


def _site(root: Path, name: str, environment: dict[str, str]) -> Box:
    http, udp, tcp, mqtt = (free_port() for _ in range(4))
    ways = (("http", http), ("syslog-udp", udp), ("syslog-tcp", tcp))
    ports = [f"--{what}=127.0.0.1:{port}" for what, port in ways]
    made = {"SKERRY_MQTT_LISTEN": f"127.0.0.1:{mqtt}", **environment}  # older programs have no flag for it
    box = Box(root / name, "appliance", name, *ports, environment=made)
    box.udp = udp
    return box


@contextlib.contextmanager
def mainland(
    root: Path, *sites: str, clocks: Clocks | None = None, fronts: Fronts | None = None
) -> Iterator[tuple[Box, ...]]:
    """A hub and sites, started and joined; all gone afterwards."""
    clocks, fronts = clocks or {}, fronts or {}
    hub = Box(
        root / "harbor",
        "hub",
        "harbor",
        *(f"--http=127.0.0.1:{free_port()}", "--link", f"127.0.0.1:{free_port()}"),
        environment=clocks.get("harbor"),
    )
    boxes = [_site(root, name, {"SKERRY_PING_ENABLED": "false", **clocks.get(name, {})}) for name in sites]
    for box in (hub, *boxes):
        box.front = fronts.get(box.name, FRONT)
    try:
        hub.start()
        for box in boxes:
            box.start()
            join(hub, box)
        yield (hub, *boxes)
    finally:
        with contextlib.suppress(StopIteration, psutil.Error):
            broker = hub.broker()
            hub.stop()
            broker.kill()
        for box in (hub, *boxes):
            box.stop()
