"""How much of a log stream may be under way, and what is sent again? One end sends (`Outflow`), one takes (`Inflow`).

Pure: bytes and times in, decisions out. The sender keeps what is not acknowledged and no more; the window follows the
delay it causes, so that what is urgent never waits long behind what is not.

Rules of the file
  1  At most `window` bytes are unacknowledged: the smaller of what the other side grants and what the line carries in
     the time of a round trip and two fifths of `QUEUE_NS` (a longer queue on a slow line would hold up the present). The
     round trip without our queue shows only when there is none, so every `_SPELL_NS` the queue is let run dry.
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
_SCRAP_BYTES = 1024  # the end of a window that is worth a part
_RTT_MAX_NS = 120 * SECOND
_SPELL_NS = 10 * SECOND
_AT_ONCE = 3
_DOUBLINGS_MAX = 6
_SHOWS_NS = 20 * MS  # a delay above the shortest one that is our own queue


class Part(NamedTuple):
    offset: int
    data: bytes
    sent_ns: int
    again: bool = False  # sent more than once: its answer tells no round trip (Karn)

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Rate:
    """The round trip without our own queue, and what the line carries, both as seen lately; and from them how many
    bytes may be under way."""

    def __init__(self) -> None:
        self.rtt_ns: int | None = None
        self.base_ns: int | None = None
        self.bytes_per_s = 0.0
        self.window = WINDOW_BYTES_MIN
        self._full = False  # the line was once
        self._since_ns = 0
        self._bytes = 0
        self._spell_ns = 0  # when this spell began
        self._least_ns = self._former_ns = 0  # the shortest round trip of this spell, and of the one before it
        self._most = 0.0  # what the line carries in a second when nothing holds us up; as seen lately
        self._dry = False

    def took(self, sent_ns: int, size: int, now_ns: int) -> None:
        if not 0 <= now_ns - sent_ns <= _RTT_MAX_NS:
            self.idle()
            return  # no line is that slow: a clock was set
        rtt = max(now_ns - sent_ns, MS // 10)
        self.rtt_ns = rtt if self.rtt_ns is None else (3 * self.rtt_ns + rtt) // 4
        self.base_ns = base_ns = self._shortest(rtt, now_ns)
        if not self._since_ns:
            self._since_ns = sent_ns
        self._bytes += size
        lasted = now_ns - self._since_ns
        if lasted >= max(SECOND // 4, base_ns):
            per_s = self._bytes * SECOND / lasted
            self.bytes_per_s = per_s if not self.bytes_per_s else 0.5 * self.bytes_per_s + 0.5 * per_s
            keeps = 0.5 if self.rtt_ns - base_ns > QUEUE_NS else 0.875  # a line that got slower shows in the delay
            self._most = max(per_s, keeps * self._most + (1 - keeps) * per_s)
            self._since_ns, self._bytes = now_ns, 0

    def _shortest(self, rtt: int, now_ns: int) -> int:
        """The shortest round trip of this spell and of the one before it."""
        lasts_ns = max(_SPELL_NS, 8 * (self.base_ns or 0))
        if self.base_ns is None or not 0 <= now_ns - self._spell_ns <= lasts_ns:
            self._spell_ns, self._former_ns, self._least_ns = now_ns, self._least_ns or rtt, rtt
        self._least_ns = min(self._least_ns, rtt)
        base_ns = min(self._former_ns, self._least_ns)
        self._dry = now_ns - self._spell_ns <= base_ns
        return base_ns

    def resize(self, size: int, *, full: bool) -> None:
        """`size` bytes were answered; `full`: the window was what held more back. It doubles in a round trip until the
        delay shows; from then on it is what the line carries in a round trip and two fifths of the queue allowed."""
        if self.rtt_ns is None or self.base_ns is None:
            return
        grown = self.window + size if full else self.window
        self._full = self._full or self.rtt_ns - self.base_ns > max(_SHOWS_NS, self.base_ns // 32)
        if self._full:
            line_ns = self.base_ns * 3 // 4 if self._dry else self.base_ns + QUEUE_NS * 2 // 5
            grown = min(grown, int(self._most * line_ns / SECOND))
        self.window = max(min(grown, WINDOW_BYTES_MAX), WINDOW_BYTES_MIN)

    def idle(self) -> None:
        """Nothing is under way: what comes next begins a new measurement."""
        self._since_ns, self._bytes = 0, 0

    @property
    def part_bytes(self) -> int:
        """A part is what the line carries in about a sixth of a second: whatever is urgent waits no longer."""
        return int(min(max(self.bytes_per_s / 6, PART_BYTES_MIN), PART_BYTES_MAX))


class Outflow:
    """The sending end of one stream after another. The driver asks `wants`, hands in bytes with `add`, sends what
    `due` gives, and tells `acked`."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.stream = 0
        self.granted_bytes = WINDOW_BYTES_MIN
        self._begin()

    def _begin(self) -> None:
        self.offset = 0  # where the next bytes go
        self.acked_offset = 0
        self._parts: deque[Part] = deque()  # sent, not acknowledged
        self._queued: deque[bytes] = deque()  # not sent yet
        self._again: deque[Part] = deque()  # to be sent once more, in order
        self._progress_ns = 0
        self._vain = 0  # times that it was sent again and nothing came of it
        self._resent_ns: int | None = None

    def begin(self, stream: int, granted_bytes: int) -> None:
        self.stream, self.granted_bytes = stream, granted_bytes
        self._begin()

    @property
    def window(self) -> int:
        return max(min(self.rate.window, self.granted_bytes), WINDOW_BYTES_MIN)

    @property
    def under_way(self) -> int:
        return self.offset - self.acked_offset

    @property
    def wants(self) -> bool:
        """More bytes would be sent at once if there were any."""
        return not self._queued and not self._again and self.under_way < self.window

    @property
    def group_bytes(self) -> int:
        """How much of the log, uncompressed, to pack next: a few parts' worth."""
        return min(max(self.rate.part_bytes * 6, 16 * 1024), 2 * 1024 * 1024)

    def add(self, data: bytes) -> None:
        self._queued.append(data)

    @property
    def sent(self) -> bool:
        """Everything that was added is on the line."""
        return not self._queued and not self._again

    @property
    def idle(self) -> bool:
        """Everything that was added is acknowledged."""
        return not self._queued and not self.under_way

    def due(self, now_ns: int) -> Part | None:
        """The next part to put on the line, or None."""
        if self._again:
            part = self._again.popleft()._replace(sent_ns=now_ns, again=True)
            self._parts.append(part)
            return part
        room = self.window - self.under_way
        if not self._queued or (room < _SCRAP_BYTES and self.under_way):
            return None
        data = self._take(min(self.rate.part_bytes, room))
        part = Part(self.offset, data, now_ns)
        if not self._parts:
            if now_ns - self._progress_ns > SECOND:  # a pause; parts that are answered one by one are none
                self.rate.idle()
            self._progress_ns = now_ns
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
        return b"".join(taken)

    def acked(self, stream: int, offset: int, granted_bytes: int, now_ns: int) -> None:
        if stream != self.stream or not self.acked_offset <= offset <= self.offset:
            return
        self.granted_bytes = granted_bytes
        if offset == self.acked_offset:
            return
        size, last = offset - self.acked_offset, None
        full = bool(self._queued) or self.under_way * 2 >= self.window
        while self._parts and self._parts[0].end <= offset:
            last = self._parts.popleft()
        self._again = deque(part for part in self._again if part.end > offset)
        self.acked_offset = offset
        self._progress_ns, self._vain = now_ns, 0
        if last is not None and not last.again:
            self.rate.took(last.sent_ns, size, now_ns)
            self.rate.resize(size, full=full)

    def late_ns(self) -> int:
        rtt = self.rate.rtt_ns or _RTT_FIRST_NS
        return max(4 * rtt, _RESEND_NS_MIN) << min(self._vain, 4)

    def tick(self, now_ns: int) -> None:
        if self._parts and not self._again and now_ns - self._progress_ns > self.late_ns():
            self._vain += 1
            self._resend(now_ns)

    def asked_again(self, now_ns: int) -> None:
        """The other side found a hole. It says so for every part behind it: once in a round trip is enough."""
        wait_ns = self.rate.rtt_ns or _RTT_FIRST_NS
        if self._resent_ns is None or now_ns - self._resent_ns > wait_ns:
            self._resend(now_ns)

    def _resend(self, now_ns: int) -> None:
        """Everything unacknowledged goes out again, in order."""
        self._again.extendleft(reversed(self._parts))
        self._parts.clear()
        self._progress_ns = self._resent_ns = now_ns


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


class Patience:
    """When to ask for a new beginning: at once a few times, then ever later, as long as nothing is taken in between."""

    def __init__(self) -> None:
        self.times = 0
        self._due_ns: int | None = None

    def failed(self, now_ns: int) -> None:
        self.times += 1
        late = min(self.times - _AT_ONCE, _DOUBLINGS_MAX)
        self._due_ns = now_ns + (SECOND << late if late > 0 else 0)

    def helped(self) -> None:
        self.times = 0

    def due(self, now_ns: int) -> bool:
        """Whether to ask now. What was asked may be lost, so it is asked again after a second."""
        if self._due_ns is None or now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + SECOND
        return True
