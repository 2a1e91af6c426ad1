"""Debian's InfluxDB 1.6 on a folder of its own: what it takes, and what it makes of it."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

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


def ask(port: int, query: str) -> str:
    """The answer to a query, as JSON. OSError when there is none."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = urllib.parse.urlencode({"db": "site", "q": query})
        line.request("POST", "/query", body, {"content-type": "application/x-www-form-urlencoded"})
        return line.getresponse().read().decode()
    finally:
        line.close()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            ask(port, "CREATE DATABASE site")
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("influxd did not start")
        time.sleep(0.05)
