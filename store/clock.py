"""The only real clock. Everything else is handed the time.

The wall clock of a field box cannot be believed: no battery, no NTP, 1970 after a cold night. So it has a *floor*
(the latest instant this box has ever vouched for, kept in the store), a confidence, and a watch on its steps.
Order never comes from here; it comes from (epoch, seq).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

from fleet.events import Clock as Confidence
from fleet.limits import SECOND

# No honest clock stands before this program was made.
BUILT_NS = 1_795_219_200 * SECOND  # 2026-11-21

_STEP_NS = 2 * SECOND
_STA_UNSYNC = 0x0040


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), x86-64 and arm64 Linux; only `status` is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@cache
def _adjtimex() -> Callable[..., int]:
    """Bound once: it is asked at every commit."""
    return ctypes.CDLL(None).adjtimex


def _kernel_synced() -> bool:
    """Whether the kernel says that something disciplines its clock (adjtimex(2), STA_UNSYNC clear)."""
    try:
        timex = _Timex()
        return _adjtimex()(ctypes.byref(timex)) >= 0 and not timex.status & _STA_UNSYNC
    except (OSError, AttributeError):
        return False


class WallClock:
    """Wall and monotonic time of this box. `floor_ns` comes from the store at start and goes back there.

    `now_ns` may go back when the machine's clock does: it is what the machine says. `confidence` says how far to
    believe it; `step_ns` returns a jump since it was last asked.
    """

    def __init__(self, floor_ns: int = BUILT_NS) -> None:
        self.floor_ns = max(floor_ns, BUILT_NS)
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self.stepped_ns = 0  # all jumps since the start, added up

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def confidence(self) -> Confidence:
        now_ns = time.time_ns()
        if now_ns < self.floor_ns:
            return Confidence.NOT_TRUSTED
        if not _kernel_synced():
            return Confidence.FREE_RUNNING
        self.floor_ns = now_ns  # only a disciplined clock may raise the floor: a jump to 2038 must not lock us out
        return Confidence.SYNCED

    def step_ns(self) -> int:
        """How far the wall clock jumped against the monotonic one since the last call; 0 for less than two seconds."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        jump_ns, self._offset_ns = offset_ns - self._offset_ns, offset_ns
        if abs(jump_ns) < _STEP_NS:
            return 0
        self.stepped_ns += jump_ns
        return jump_ns
