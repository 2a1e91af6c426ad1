"""Debian's InfluxDB 1.6 on a folder of its own: what it takes, and what it makes of it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from bench.island import free_port

PROGRAM = shutil.which("influxd")

_CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  wal-fsync-delay = "0s"
  cache-max-memory-size = "4g"
  max-values-per-tag = 0
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  write-tracing = false
  max-row-limit = 0
[monitor]
  store-enabled = false
[logging]
  level = "error"
"""


@contextlib.contextmanager
def influx(folder: Path) -> Iterator[int]:
    """The port of a running server with a database `site`; an acknowledged write is synced, as ours are."""
    assert PROGRAM is not None
    folder.mkdir(parents=True, exist_ok=True)
    port, config = free_port(), folder / "influxdb.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port, rpc=free_port()))
    log = (folder / "influxd.log").open("wb")
    process = subprocess.Popen([PROGRAM, "run", "-config", str(config)], stdout=log, stderr=log)
    try:
        _wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx2.TransportError):
            answer = httpx2.post(
                f"http://127.0.0.1:{port}/query", data={"q": "CREATE DATABASE site"}, trust_env=False, timeout=30
            )
            if answer.status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("influxd did not start")
        time.sleep(0.05)
