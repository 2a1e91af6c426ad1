"""How much more memory 5,000 idle MQTT connections take in the appliance's process (RSS), beside Mosquitto."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.island import island
from bench.publishers import mosquitto, pump

_CONNECTIONS = 5_000
_STAY_S = 15


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        program = pump(folder)
        with island() as made:
            time.sleep(3)
            with _idle(program, made.mqtt, 50):  # what the first ones bring with them is not theirs
                pass
            time.sleep(2)
            before = _rss(made.process.pid)
            with _idle(program, made.mqtt) as let_in:
                time.sleep(3)
                more = _rss(made.process.pid) - before
        peer = 0
        with mosquitto(folder) as port:
            if port:
                pid = int(subprocess.run(["pgrep", "-n", "mosquitto"], capture_output=True, text=True).stdout)
                before = _rss(pid)
                with _idle(program, port):
                    peer = _rss(pid) - before
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "bench": "mqtt_idle",
        "ours": round(more / 2**20, 1),
        "peer": round(peer / 2**20, 1),
        "ratio": round(more / peer, 3) if peer else None,
        "unit": "MiB more",
        "detail": {"peer": "mosquitto", "connections": _CONNECTIONS, "let_in": let_in},
    }


@contextlib.contextmanager
def _idle(program: Path, port: int, connections: int = _CONNECTIONS) -> Iterator[int]:
    command = [str(program), "127.0.0.1", str(port), str(connections), "idle", str(_STAY_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline() or 0)
        process.kill()


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0
