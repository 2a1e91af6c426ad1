"""A real Mosquitto on a port of the kernel's choice, which a test can kill and start again on the same port and store."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from bench.island import free_port

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto") is None, reason="mosquitto is not installed here (Debian package mosquitto)"
)


class Mosquitto:
    """`lines` go into its configuration."""

    def __init__(self, folder: Path, *lines: str, anonymous: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        settings = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(anonymous).lower()}",
            "user root",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_interval 0",
            "max_queued_messages 100000",
            *lines,
        ]
        self._file.write_text("\n".join(settings) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", str(self._file), "-v"], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.02)

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def save(self) -> None:
        """It acknowledges before its store is written, so what a test wants to be there after a kill is saved first."""
        assert self._process is not None
        store = self._file.with_name("mosquitto.db")
        before = store.stat().st_mtime_ns if store.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 20
        while not store.exists() or store.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, self.said()[-2000:]
            time.sleep(0.01)

    def kill(self) -> None:
        """The power goes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)
