"""What the MQTT benchmarks share: the compiled publisher, and Mosquitto beside us."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.island import free_port

CLIENTS = 8


def pump(folder: Path) -> Path:
    """The compiled publisher."""
    made = folder / "pump"
    subprocess.run(["cc", "-O2", "-o", str(made), str(Path(__file__).parent / "pump.c")], check=True)
    return made


def publish(
    program: Path, port: int, qos: int, window: int, messages: int, tokens: Sequence[str] = ()
) -> tuple[int, float]:
    """(messages that arrived, or were acknowledged, seconds)."""
    command = [str(program), "127.0.0.1", str(port), str(CLIENTS), str(qos), str(window), str(messages), *tokens]
    said = subprocess.run(command, capture_output=True, check=True, text=True)
    sent, acked, took = said.stdout.split()
    return int(acked if qos else sent), float(took)


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """Its port; 0 where it is not installed. It keeps nothing on the disk."""
    if shutil.which("mosquitto") is None:
        yield 0
        return
    port, config = free_port(), folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\n")
    process = subprocess.Popen(["mosquitto", "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline, "mosquitto did not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)
