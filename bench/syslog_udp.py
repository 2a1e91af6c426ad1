"""The highest rate of UDP syslog at which nothing is lost, socket to queryable row, beside rsyslog (imudp → omfile).

The same compiled sender raises the rate in steps; a step counts when every message of it is there afterwards, in each
of its runs. Both have the same receive buffer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.island import blast, free_port, island, sender, settle

_SECONDS = 3.0
_STEP = 25_000
_FIRST = 75_000
_LAST = 500_000
_RUNS = 2
_BUFFER_BYTES = 128 * 1024 * 1024

_RSYSLOG = """
module(load="imudp")
main_queue(queue.size="2000000" queue.dequeueBatchSize="4096" queue.workerThreads="1")
input(type="imudp" address="127.0.0.1" port="{port}" rcvbufSize="{buffer}")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{file}" template="raw" asyncWriting="off" ioBufferSize="256k" flushOnTXEnd="on")
"""


def run() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", "."))).resolve()
    try:
        program = sender(folder)
        ours, our_steps = _ours(program)
        peer, peer_steps = _peer(program, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "bench": "syslog_udp",
        "ours": ours,
        "peer": peer,
        "ratio": round(ours / peer, 3) if peer else None,
        "unit": "messages/s without loss",
        "detail": {
            "ours_steps": our_steps,
            "peer_steps": peer_steps,
            "peer": "rsyslogd imudp → omfile",
            "seconds_a_step": _SECONDS,
            "runs_a_step": _RUNS,
        },
    }


def _ours(program: Path) -> tuple[int, list[dict[str, int]]]:
    with island() as made:
        return _rising(lambda per_s: _lost(program, made.syslog, per_s, made.stored))


def _peer(program: Path, folder: Path) -> tuple[int, list[dict[str, int]]]:
    if shutil.which("rsyslogd") is None:
        return 0, []
    with _rsyslog(folder) as (port, file):
        return _rising(lambda per_s: _lost(program, port, per_s, lambda: _lines(file)))


def _rising(attempt: Callable[[int], tuple[int, int]]) -> tuple[int, list[dict[str, int]]]:
    best, steps, bad = 0, [], 0
    for per_s in range(_FIRST, _LAST + 1, _STEP):
        lost = reached = 0
        for _ in range(_RUNS):
            missing, reached = attempt(per_s)
            lost += missing
        steps.append({"asked": per_s, "reached": reached, "lost": lost})
        if reached < per_s * 0.95:
            break  # the sender is the limit now
        if lost:
            bad += 1
            if bad == 2:
                break
        elif not bad:
            best = per_s
    return best, steps


def _lost(program: Path, port: int, per_s: int, count: Callable[[], int]) -> tuple[int, int]:
    before = count()
    sent, reached = blast(program, port, per_s, _SECONDS)
    return sent - (settle(count, before + sent) - before), int(reached)


@contextlib.contextmanager
def _rsyslog(folder: Path) -> Iterator[tuple[int, Path]]:
    port, file, config = free_port(), folder / "peer.log", folder / "rsyslog.conf"
    config.write_text(_RSYSLOG.format(port=port, buffer=_BUFFER_BYTES, file=file))
    process = subprocess.Popen(
        ["rsyslogd", "-n", "-f", str(config), "-i", str(folder / "rsyslog.pid")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1.0)
        yield port, file
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


_counted: dict[Path, tuple[int, int]] = {}


def _lines(file: Path) -> int:
    """Lines so far; only what is new is read."""
    offset, lines = _counted.get(file, (0, 0))
    if not file.exists():
        return 0
    with file.open("rb") as opened:
        opened.seek(offset)
        while piece := opened.read(1 << 20):
            lines += piece.count(b"\n")
            offset += len(piece)
    _counted[file] = (offset, lines)
    return lines
