"""How much of a log stream may be under way, and what is sent again? One end sends (`Outflow`), one takes (`Inflow`).

Pure: bytes and times in, decisions out. The sender keeps what is not acknowledged and no more; the window follows the
delay it causes, so that what is urgent never waits long behind what is not.

Rules of the file
  1  At most `window` bytes are unacknowledged: the smaller of what the other side grants and what the line carries in
     the time of a round trip and `QUEUE_NS` (a queue on a slow line would hold up the present).
  2  An acknowledgement says what is committed at the other end, never what has arrived.
  3  What makes no progress for four round trips is sent again from the last acknowledged byte.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fleet.limits import MS, SECOND

WINDOW_BYTES_MIN = 8 * 1024
WINDOW_BYTES_MAX = 8 * 1024 * 1024
PART_BYTES_MAX = 512 * 1024
PART_BYTES_MIN = 4 * 1024
QUEUE_NS = SECOND // 2
_RESEND_NS_MIN = 3 * SECOND
_RTT_FIRST_NS = SECOND


class Part(NamedTuple):
    offset: int
    data: bytes
    sent_ns: int


class Rate:
    """The round trip without our own queue, and what the line carries, both as seen lately."""

    def __init__(self) -> None:
        self.rtt_ns: int | None = None
        self.base_ns: int | None = None
        self.bytes_per_s = 0.0
        self._since_ns = 0
        self._bytes = 0

    def took(self, sent_ns: int, size: int, now_ns: int) -> None:
        rtt = max(now_ns - sent_ns, MS // 10)
        self.rtt_ns = rtt if self.rtt_ns is None else (3 * self.rtt_ns + rtt) // 4
        self.base_ns = rtt if self.base_ns is None else min(self.base_ns + self.base_ns // 512, rtt)
        if not self._since_ns:
            self._since_ns = sent_ns
        self._bytes += size
        lasted = now_ns - self._since_ns
        if lasted >= max(SECOND // 4, self.base_ns):
            per_s = self._bytes * SECOND / lasted
            self.bytes_per_s = per_s if not self.bytes_per_s else 0.5 * self.bytes_per_s + 0.5 * per_s
            self._since_ns, self._bytes = now_ns, 0

    def idle(self) -> None:
        """Nothing is under way: what comes next begins a new measurement."""
        self._since_ns, self._bytes = 0, 0


class Outflow:
    """The sending end of one stream after another. The driver asks `room`, hands in bytes with `add`, sends what
    `due` gives, and tells `acked`."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.stream = 0
        self.granted_bytes = WINDOW_BYTES_MIN
        self._window = 32 * 1024
        self._begin()

    def _begin(self) -> None:
        self.offset = 0  # where the next bytes go
        self.acked_offset = 0
        self._parts: deque[Part] = deque()  # sent, not acknowledged
        self._queued: deque[bytes] = deque()  # not sent yet
        self._queued_bytes = 0
        self._again: deque[Part] = deque()
        self._progress_ns = 0

    def begin(self, stream: int, granted_bytes: int) -> None:
        self.stream, self.granted_bytes = stream, granted_bytes
        self._begin()

    @property
    def window(self) -> int:
        return max(min(self._window, self.granted_bytes, WINDOW_BYTES_MAX), WINDOW_BYTES_MIN)

    @property
    def under_way(self) -> int:
        return self.offset - self.acked_offset

    @property
    def part_bytes(self) -> int:
        """A part is what the line carries in about a sixth of a second: whatever is urgent waits no longer."""
        return int(min(max(self.rate.bytes_per_s / 6, PART_BYTES_MIN), PART_BYTES_MAX))

    @property
    def wants(self) -> bool:
        """More bytes would be sent at once if there were any."""
        return not self._queued and not self._again and self.under_way < self.window

    @property
    def group_bytes(self) -> int:
        """How much of the log, uncompressed, to pack next: a few parts' worth."""
        return min(max(self.part_bytes * 6, 16 * 1024), 2 * 1024 * 1024)

    def add(self, data: bytes) -> None:
        self._queued.append(data)
        self._queued_bytes += len(data)

    @property
    def idle(self) -> bool:
        """Everything that was added is acknowledged."""
        return not self._queued and not self.under_way

    def due(self, now_ns: int) -> Part | None:
        """The next part to put on the line, or None."""
        if self._again:
            part = self._again.popleft()._replace(sent_ns=now_ns)
            self._parts.append(part)
            return part
        if not self._queued or self.under_way >= self.window:
            return None
        size = min(self.part_bytes, max(self.window - self.under_way, PART_BYTES_MIN))
        data = self._take(size)
        part = Part(self.offset, data, now_ns)
        if not self._parts:
            self._progress_ns = now_ns
            self.rate.idle()
        self._parts.append(part)
        self.offset += len(data)
        return part

    def _take(self, size: int) -> bytes:
        taken: list[bytes] = []
        while self._queued and size > 0:
            head = self._queued[0]
            if len(head) <= size:
                taken.append(self._queued.popleft())
                size -= len(head)
            else:
                taken.append(head[:size])
                self._queued[0] = head[size:]
                size = 0
        data = b"".join(taken)
        self._queued_bytes -= len(data)
        return data

    def acked(self, stream: int, offset: int, granted_bytes: int, now_ns: int) -> None:
        if stream != self.stream or not self.acked_offset <= offset <= self.offset:
            return
        self.granted_bytes = granted_bytes
        if offset == self.acked_offset:
            return
        size, last = offset - self.acked_offset, None
        while self._parts and self._parts[0].offset + len(self._parts[0].data) <= offset:
            last = self._parts.popleft()
        self._again = deque(part for part in self._again if part.offset + len(part.data) > offset)
        self.acked_offset = offset
        self._progress_ns = now_ns
        if last is not None:
            self.rate.took(last.sent_ns, size, now_ns)
            self._resize()

    def _resize(self) -> None:
        """As much as the line carries in a round trip and the queue we allow; it grows until the delay shows."""
        rate = self.rate
        assert rate.rtt_ns is not None
        assert rate.base_ns is not None
        queueing = rate.rtt_ns - rate.base_ns
        if queueing < QUEUE_NS // 2:
            grown = self._window * 2 if self.under_way * 2 >= self._window or self._queued else self._window
            self._window = min(grown, WINDOW_BYTES_MAX)
        elif queueing > QUEUE_NS and rate.bytes_per_s:
            carried = rate.bytes_per_s * (rate.base_ns + QUEUE_NS) / SECOND
            self._window = int(max(min(carried, self._window), WINDOW_BYTES_MIN))

    def late_ns(self) -> int:
        rtt = self.rate.rtt_ns or _RTT_FIRST_NS
        return max(4 * rtt, _RESEND_NS_MIN)

    def tick(self, now_ns: int) -> None:
        if self._parts and not self._again and now_ns - self._progress_ns > self.late_ns():
            self.resend(now_ns)

    def resend(self, now_ns: int) -> None:
        """Everything unacknowledged goes out again, in order."""
        self._again.extend(self._parts)
        self._parts.clear()
        self._progress_ns = now_ns


class Taken(NamedTuple):
    """What became of a part: bytes to unpack (empty when none are new), and whether it left a hole before it."""

    data: bytes
    hole: bool


class Inflow:
    """The receiving end: bytes in order, without holes and repeats."""

    def __init__(self) -> None:
        self.stream = 0
        self.offset = 0

    def begin(self, stream: int) -> None:
        self.stream, self.offset = stream, 0

    def take(self, stream: int, offset: int, data: bytes) -> Taken:
        if stream != self.stream:
            return Taken(b"", hole=False)
        if offset > self.offset:
            return Taken(b"", hole=True)
        fresh = data[self.offset - offset :]
        self.offset += len(fresh)
        return Taken(fresh, hole=False)
