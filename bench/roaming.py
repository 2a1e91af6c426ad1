"""A device that changes site every ten seconds on lines that lose 5 %: how many of its records are lost, how many stand
twice at the two sites together, by a ledger that neither knows.

Beside it the same agent which waits for nobody: what is in doubt at one site goes to the next at once. Its doubles show
that the ledger finds them; each says by a mark that it may stand elsewhere too, and its number tells that it does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.trials.roaming import Found, roam

_LOSS = 0.05


def run() -> dict[str, object]:
    moves = int(os.environ.get("SKERRY_BENCH_MOVES", "12"))
    ours = _roam(moves, 900.0)
    peer = _roam(max(moves // 2, 2), 0.0)
    return {
        "bench": "roaming",
        "ours": ours.lost + ours.doubled,
        "peer": peer.lost + peer.doubled,
        "ratio": None,
        "unit": "records lost or doubled",
        "detail": {
            "ours": _told(ours),
            "peer": {"what": "the same agent, which does not wait for a site that took a finish", **_told(peer)},
            "every_s": 10,
            "loss": _LOSS,
        },
    }


def _roam(moves: int, doubt_s: float) -> Found:
    with tempfile.TemporaryDirectory(prefix="skerry-bench-", dir=os.environ.get("SKERRY_BENCH_DIR", ".")) as folder:
        return roam(
            Path(folder).resolve(), moves=moves, every_s=10.0, per_s=100, loss=_LOSS, doubt_s=doubt_s, kill=True
        )


def _told(found: Found) -> dict[str, object]:
    return {
        "records": found.put,
        "lost": found.lost,
        "doubled": found.doubled,
        "at": found.at,
        "moves": found.moves,
        "batches_in_doubt": found.doubts,
        "records_marked": found.marked,
    }
