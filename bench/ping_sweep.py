"""How long does one sweep of 10,000 endpoints take, beside fping, and do both measure the same round trip?

Loopback addresses, all of which answer, so neither side waits for the silent. Same addresses, same 16 bytes of data,
same pace (`fping -i 0.01` is 100,000 a second), one echo each and no retries. Runs are interleaved, ours, peer, ours,
peer, after a warm-up of both; the figures are medians. Ours is timed from opening the socket to closing it, since an
open one would be handed a copy of fping's replies; fping from the start of its process to its end.

Round trips are compared twice. Flat out, a loopback round trip is a few µs of one core's time, and shows whose code
was still in its cache as much as anything. At a calm 1,000 a second each packet travels alone: those must agree.

Needs a raw socket and fping, which needs root or its setuid bit.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.intake.ping import COOKIE_BYTES, Sweeper

ENDPOINTS = 10_000
FLAT_OUT_PER_S = 100_000
CALM_ENDPOINTS = 500
CALM_PER_S = 1_000
PAIRS = 7

_RTT = re.compile(r"\(([\d.]+) ms\)")
_FPING_STEP_MS = 0.001  # fping prints whole microseconds


class Run(NamedTuple):
    seconds: float
    answered: int
    rtt_ms: float


class Side(NamedTuple):
    """All runs as one: medians, except where the name says otherwise."""

    seconds: float
    best_s: float
    runs_s: list[float]
    answered_min: int
    rtt_ms: float


def run() -> dict[str, object]:
    addresses = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(ENDPOINTS)]
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder, "answers")
        first = _ours(addresses, FLAT_OUT_PER_S)
        _fping(addresses, FLAT_OUT_PER_S, answers)
        ours, peer = _pairs(addresses, FLAT_OUT_PER_S, answers)
        ours_calm, peer_calm = _pairs(addresses[:CALM_ENDPOINTS], CALM_PER_S, answers)
    return {
        "bench": "ping_sweep",
        "ours": ours.seconds,
        "peer": peer.seconds,
        "ratio": round(ours.seconds / peer.seconds, 3),
        "unit": "s",
        "detail": {
            "endpoints": ENDPOINTS,
            "pairs": PAIRS,
            "ours_runs_s": ours.runs_s,
            "peer_runs_s": peer.runs_s,
            "ratio_of_best": round(ours.best_s / peer.best_s, 3),
            "ours_first_s": first.seconds,  # addresses read for the first time
            "ours_answered_min": ours.answered_min,
            "peer_answered_min": peer.answered_min,
            "ours_rtt_ms": ours_calm.rtt_ms,
            "peer_rtt_ms": peer_calm.rtt_ms,
            "rtt_ratio": round(ours_calm.rtt_ms / peer_calm.rtt_ms, 3),
            "ours_rtt_flat_out_ms": ours.rtt_ms,
            "peer_rtt_flat_out_ms": peer.rtt_ms,
            "rtt_ratio_flat_out": round(ours.rtt_ms / peer.rtt_ms, 3),
        },
    }


def _pairs(addresses: Sequence[str], packets_per_s: int, answers: Path) -> tuple[Side, Side]:
    pairs = [(_ours(addresses, packets_per_s), _fping(addresses, packets_per_s, answers)) for _ in range(PAIRS)]
    return _side([ours for ours, _ in pairs]), _side([peer for _, peer in pairs])


def _side(runs: Sequence[Run]) -> Side:
    return Side(
        seconds=statistics.median(each.seconds for each in runs),
        best_s=min(each.seconds for each in runs),
        runs_s=[each.seconds for each in runs],
        answered_min=min(each.answered for each in runs),
        rtt_ms=round(statistics.median(each.rtt_ms for each in runs), 5),
    )


def _ours(addresses: Sequence[str], packets_per_s: int) -> Run:
    began = time.perf_counter()
    sweeper = Sweeper(packets_per_s)
    echoes = sweeper.sweep(addresses)
    sweeper.close()
    seconds = time.perf_counter() - began
    rtts = [echo.rtt_ms for echo in echoes if echo.rtt_ms is not None]
    return Run(round(seconds, 4), len(rtts), statistics.median(rtts))


def _fping(addresses: Sequence[str], packets_per_s: int, answers: Path) -> Run:
    targets = answers.with_name("targets")
    targets.write_text("\n".join(addresses))
    pace = ["-i", str(1000 / packets_per_s)]
    with answers.open("w") as output:
        began = time.perf_counter()
        subprocess.run(
            ["fping", *pace, "-r", "0", "-e", "-b", str(COOKIE_BYTES), "-f", str(targets)], stdout=output, check=True
        )
        seconds = time.perf_counter() - began
    rtts = [float(rtt) for rtt in _RTT.findall(answers.read_text())]
    # Most loopback round trips share a handful of whole microseconds: the median must be sought within one.
    return Run(round(seconds, 4), len(rtts), statistics.median_grouped(rtts, interval=_FPING_STEP_MS))
