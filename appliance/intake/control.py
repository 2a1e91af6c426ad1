"""Which device is asked for data next, and how often does each speak? The decider of the control line: no I/O, no clock.

Rules of the file
  1  A device says what waits in its queue; the site asks for what follows the last number that it holds.
  2  At most `asks_max` requests are open at once. A device that a person looks at comes first and is asked often; the
     others in the order in which they have waited.
  3  A request ends when its records are stored, when nothing waits, or when it is late; one that is late is asked again
     after a pause that doubles. The steps are `TABLE`.
  4  The line only helps: a device without it, or one that does not answer, sends by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fleet import limits
from fleet.limits import MS, SECOND


class State(StrEnum):
    SILENT = "silent"  # connected, and said nothing yet
    IDLE = "idle"
    ASKED = "asked"


class Step(StrEnum):
    HELLO = "it says hello"
    ASK = "it is asked"
    STORED = "its records are stored"
    EMPTY = "nothing waits there"
    LATE = "no answer came"


TABLE: Mapping[tuple[State, Step], State] = {
    (State.SILENT, Step.HELLO): State.IDLE,
    (State.IDLE, Step.HELLO): State.IDLE,
    (State.ASKED, Step.HELLO): State.IDLE,
    (State.IDLE, Step.ASK): State.ASKED,
    (State.ASKED, Step.STORED): State.IDLE,
    (State.ASKED, Step.EMPTY): State.IDLE,
    (State.ASKED, Step.LATE): State.IDLE,
}

WATCHED_NS = 30 * SECOND  # a page was looked at: so long it counts as looked at
_LATE_NS = 30 * SECOND
_PAUSE_NS_MAX = 60 * SECOND
_BAD_MAX = 20  # messages that nobody can read, and the line is closed
_PANEL_S, _NORMAL_S = 0.25, 2.0
_PANEL_BYTES, _NORMAL_BYTES = 1024 * 1024, 256 * 1024


# -- messages -----------------------------------------------------------------------------------------------------


class _Message(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class Hello(_Message, frozen=True, tag="hello"):
    """The first thing that a device says: its stream, the lowest number that may still come, the highest there is, and
    how much waits."""

    stream: str
    floor: int = 0
    last: int = 0
    records: int = 0
    bytes: int = 0
    in_doubt: int = 0


class Backlog(_Message, frozen=True, tag="backlog"):
    """The same, later."""

    stream: str
    floor: int = 0
    last: int = 0
    records: int = 0
    bytes: int = 0
    in_doubt: int = 0


class CommandResponse(_Message, frozen=True, tag="command.response"):
    """What became of a command that the site gave."""

    id: str
    status: str
    detail: str = ""


class Welcome(_Message, frozen=True, tag="welcome"):
    site: str
    after: int  # the last number that this site holds of the stream


class ChunkRequest(_Message, frozen=True, tag="chunk.request"):
    """Send up to `size` bytes of records that follow `after`, as an upload that names this `window_id`."""

    stream: str
    after: int
    offset: int
    size: int
    window_id: int
    hints: dict[str, object]


class ChunkAck(_Message, frozen=True, tag="chunk.ack"):
    """What became of an upload: so many bytes are on the disk; done, its records are stored."""

    stream: str
    upload: str
    window_id: int  # of the request that it answers; 0: of none
    first: int
    last: int
    bytes_durable: int
    state: str


class Pace(_Message, frozen=True, tag="pace"):
    """Send what waits so often, until told otherwise."""

    every_s: float
    priority: str


class Problem(_Message, frozen=True, tag="error"):
    error: str


Said = Hello | Backlog | CommandResponse
Answer = Welcome | ChunkRequest | ChunkAck | Pace | Problem
_DECODER: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Hello | Backlog | CommandResponse)
encode = msgspec.json.encode


def heard(raw: bytes | str) -> Said | Problem:
    """A message of a device. Never raises."""
    try:
        said = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return Problem(f"this is no message of a device: {str(error)[:200]}")
    if isinstance(said, Hello | Backlog) and (min(said.floor, said.last, said.records, said.bytes) < 0):
        return Problem("numbers of a backlog are not below zero")
    if isinstance(said, Hello | Backlog) and not 0 < len(said.stream) <= 64:
        return Problem("a stream is named by 1 to 64 characters")
    return said


# -- deciding -----------------------------------------------------------------------------------------------------


class Out(NamedTuple):
    """What goes to a line; None closes it."""

    line: int
    message: Answer | None


class Line(msgspec.Struct):
    """One connected device as the decider knows it."""

    device: str
    opened_ns: int
    node_id: str = ""
    state: State = State.SILENT
    stream: str = ""
    after: int = 0
    waiting: int = 0  # bytes
    records: int = 0
    window_id: int = 0  # of the request that is open, or was the last
    asked_ns: int = 0
    free_ns: int = 0  # not to be asked before
    misses: int = 0
    bad: int = 0
    watched: bool = False


class Control:
    def __init__(self, site: str, asks_max: int = limits.control_asks_max) -> None:
        self.lines: dict[int, Line] = {}
        self.asked_total = self.late_total = 0
        self._site, self._asks_max = site, asks_max
        self._window = 0
        self._looked: dict[str, int] = {}  # node id → when

    # -- what happens -----------------------------------------------------------------------------------------

    def opened(self, line: int, device: str, now_ns: int) -> None:
        self.lines[line] = Line(device, now_ns)

    def closed(self, line: int) -> None:
        self.lines.pop(line, None)

    def bad(self, line: int, problem: Problem) -> list[Out]:
        """Somebody sent what cannot be read: told so, and cut off when it goes on."""
        held = self.lines.get(line)
        if held is None:
            return []
        held.bad += 1
        return [Out(line, problem), *([Out(line, None)] if held.bad >= _BAD_MAX else [])]

    def backlog(self, line: int, said: Hello | Backlog, node_id: str, after: int, now_ns: int) -> list[Out]:
        """A device says what waits; `node_id` is whose it is by now, `after` the last number that this site holds of its
        stream."""
        held = self.lines.get(line)
        if held is None:
            return []
        held.node_id = node_id
        out: list[Out] = []
        if isinstance(said, Hello) or held.state is State.SILENT:
            held.state = TABLE[held.state, Step.HELLO]
            out.append(Out(line, Welcome(self._site, after)))
        held.stream, held.after, held.waiting, held.records = said.stream, after, said.bytes, said.records
        if not said.records and held.state is State.ASKED:
            held.state = TABLE[held.state, Step.EMPTY]
        return [*out, *self.decide(now_ns)]

    def uploaded(self, device: str, ack: ChunkAck, now_ns: int) -> list[Out]:
        """A window of an upload is on the disk, or its records are stored."""
        out = []
        for line, held in self.lines.items():
            if held.device != device:
                continue
            out.append(Out(line, ack))
            if ack.state == "done" and ack.stream == held.stream:
                held.after = max(held.after, ack.last)
                held.records = max(held.records - (ack.last - ack.first + 1), 0)
                held.waiting = max(held.waiting - ack.bytes_durable, 0) if held.records else 0
                if held.state is State.ASKED:
                    held.state, held.misses = TABLE[held.state, Step.STORED], 0
        return [*out, *self.decide(now_ns)] if out else []

    def looked(self, node_id: str, now_ns: int) -> None:
        """A person looks at this node now."""
        self._looked[node_id] = now_ns

    def is_watched(self, node_id: str, now_ns: int) -> bool:
        return bool(node_id) and now_ns - self._looked.get(node_id, -WATCHED_NS) < WATCHED_NS

    @property
    def asks_open(self) -> int:
        return sum(held.state is State.ASKED for held in self.lines.values())

    # -- what follows -----------------------------------------------------------------------------------------

    def decide(self, now_ns: int) -> list[Out]:
        """Everything that is due now."""
        for node_id in [one for one, at_ns in self._looked.items() if now_ns - at_ns >= WATCHED_NS]:
            del self._looked[node_id]
        self._let_late_go(now_ns)
        return [*self._paces(now_ns), *self._asks(now_ns)]

    def _let_late_go(self, now_ns: int) -> None:
        for held in self.lines.values():
            if held.state is State.ASKED and now_ns - held.asked_ns >= _LATE_NS:
                held.state, held.misses = TABLE[held.state, Step.LATE], held.misses + 1
                held.free_ns = now_ns + min(SECOND << held.misses, _PAUSE_NS_MAX)
                self.late_total += 1

    def _paces(self, now_ns: int) -> Iterator[Out]:
        for line, held in self.lines.items():
            watched = self.is_watched(held.node_id, now_ns)
            if held.state is not State.SILENT and watched != held.watched:
                held.watched = watched
                yield Out(line, Pace(_PANEL_S, "panel") if watched else Pace(_NORMAL_S, "normal"))

    def _asks(self, now_ns: int) -> Iterator[Out]:
        room = self._asks_max - self.asks_open
        ready = [
            (not held.watched, held.asked_ns, line)
            for line, held in self.lines.items()
            if held.state is State.IDLE and held.records and now_ns >= held.free_ns
        ]
        for _, _, line in sorted(ready)[: max(room, 0)]:
            held = self.lines[line]
            self._window += 1
            self.asked_total += 1
            every_s, size = (_PANEL_S, _PANEL_BYTES) if held.watched else (_NORMAL_S, _NORMAL_BYTES)
            held.state = TABLE[held.state, Step.ASK]
            held.window_id, held.asked_ns = self._window, now_ns
            held.free_ns = now_ns + int(every_s * 1000) * MS
            hints: dict[str, object] = {"priority": "panel" if held.watched else "normal", "every_s": every_s}
            yield Out(
                line,
                ChunkRequest(held.stream, held.after, 0, min(size, max(held.waiting, 1)), held.window_id, hints),
            )
