"""What did an event change, for whoever asks later what was so at some moment?

Rules of the file
  1  An event is at most one *turn*: on one track of one subject it says what stands from then on.
  2  A track answers as its projection does: the turn with the latest stamp up to a moment is what stood at it. What a
     projection passes over (a mode of a newer version, a move that no edge allows) is no turn.
  3  The axis of time is the hybrid stamp of an event, never its bare wall clock: a box that woke up in 1970 goes on
     after what it said before.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import msgspec

from fleet import events, hlc, lifecycle, limits
from fleet.connectivity import Mode
from fleet.events import Clock, Recorded, Unknown
from fleet.limits import MS


class Track(IntEnum):
    """One question about a subject. Numbers are stored; a new track is added at the end."""

    CONNECTIVITY = 1  # a node's mode
    HEARTBEAT = 2  # missing or resumed
    LIFECYCLE = 3  # a place, PHASE or PHASE/STATE
    HEALTH = 4
    VERSION = 5
    ADOPTED = 6  # the name under which a person took a node on
    LINK = 7  # a site's session with its hub; the subject is the site's writer


class Was(NamedTuple):
    """What stood on a track, since when (Unix ns, of the stamp), how far the clock that says so was to be believed, and
    at which place in the journal the event is."""

    track: Track
    said: str
    since_ns: int
    clock: Clock
    position: int


class Known(NamedTuple):
    """How far the past is put together: the first moment that can be asked for (None: nothing has happened yet), the
    journal position up to which events are in it, and how many stand in the journal behind that."""

    first_ns: int | None
    position: int
    behind: int


class Stretch(NamedTuple):
    """From one moment to another (Unix ns); both belong to it, to the millisecond. None: it is open at that end."""

    from_ns: int | None = None
    until_ns: int | None = None

    @property
    def low(self) -> int:
        """The least stamp of it."""
        return stamp_at(self.from_ns - MS) + 1 if self.from_ns is not None else 0

    @property
    def high(self) -> int:
        """The greatest stamp of it."""
        return stamp_at(self.until_ns) if self.until_ns is not None else STAMP_MAX


WHOLE = Stretch()
STAMP_MAX = 1 << 63  # no stamp reaches it
MISSING, RESUMED = "missing", "resumed"
SUBJECTS = frozenset(Track) - {Track.LINK}  # tracks whose subject is a node

_MODES = frozenset(map(str, Mode))

# -- where everybody stood ----------------------------------------------------------------------------------------------

ABSENT, UNHEARD = 0, 1  # nothing had happened to it yet; something had, but nobody had heard it
CODES: Mapping[str, int] = {str(mode): code for code, mode in enumerate(Mode, 2)}  # stored; a new mode comes at the end
WORDS: Mapping[int, str] = {UNHEARD: ""} | {code: mode for mode, code in CODES.items()}
CODE_BITS = 4
BELOW_MS = CODE_BITS + hlc.COUNTER_BITS  # of a pack, bits below its milliseconds
Packs: TypeAlias = (
    "array[int]"  # of "Q", by seat: the stamp of a turn and, in the lowest bits, the code of its mode; 0: there is none
)


class Crowd(NamedTuple):
    """Where all nodes of a box stood at a moment on the track of connectivity, in columns, by seat: the number that a node
    has for good. There may be more `ids` than were seated when this was made."""

    ids: Sequence[str]
    codes: bytes
    packs: Packs

    def modes(self) -> dict[str, str]:
        """Every node that was there and its mode, empty when it had not been heard."""
        there = ((node_id, WORDS[code]) for node_id, code in zip(self.ids, self.codes, strict=False) if code)
        return dict(there)


def codes_of(packs: Packs) -> bytes:
    return packs.tobytes()[_LOWEST::8].translate(_CODE_OF)


def since_of(pack: int) -> int:
    """Unix ns, to the millisecond."""
    return moment_of(pack >> CODE_BITS)


_LOWEST = 0 if sys.byteorder == "little" else 7
_CODE_OF = bytes(byte & (1 << CODE_BITS) - 1 for byte in range(256))


def _mode(body: Any) -> str | None:
    return body.mode if body.mode in _MODES else None


def _place(body: Any) -> str | None:
    try:
        target = lifecycle.place(body.target)
        return None if lifecycle.refusal(lifecycle.place(body.origin), target) else str(target)
    except ValueError:
        return None


_SAYS: Mapping[str, tuple[Track, Callable[[Any], str | None]]] = {
    "node.heard": (Track.CONNECTIVITY, _mode),
    "node.quiet": (Track.CONNECTIVITY, _mode),
    "node.degraded": (Track.CONNECTIVITY, _mode),
    "node.recovered": (Track.CONNECTIVITY, _mode),
    "node.heartbeat_missed": (Track.HEARTBEAT, lambda body: MISSING),
    "node.heartbeat_resumed": (Track.HEARTBEAT, lambda body: RESUMED),
    "lifecycle.moved": (Track.LIFECYCLE, _place),
    "node.health_changed": (Track.HEALTH, lambda body: body.health),
    "node.version_changed": (Track.VERSION, lambda body: body.version),
    "node.adopted": (Track.ADOPTED, lambda body: body.name),
    "link.turned": (Track.LINK, lambda body: body.state),
}


def turn(event: Recorded) -> tuple[Track, str] | None:
    """The track that `event` is a turn on, and what stands from then on; None when it is none."""
    found = _SAYS.get(event.kind)
    if found is None or isinstance(event.body, Unknown):
        return None
    track, says = found
    said = says(event.body)
    return (track, said) if said is not None else None


Row = tuple[int, int, int, int, int, int, int, int, int]
"""A turn as stored: track, subject, stamp, writer, epoch, seq, what is said, clock, position; text by its number."""

Stored = tuple[int, int, int, bytes]
"""An event as stored: position, log, seq, canonical bytes."""


class Sifted:
    """What a pass over a log leaves besides its turns, over any stretches of it: the newest stamp of each writer, the
    first moment that anything turned, and the events of some kinds."""

    def __init__(self, kinds: Iterable[str] = ()) -> None:
        self.told: dict[str, int] = {}
        self.first = [STAMP_MAX] * len(Clock)  # stamps, by how far the clock was to be believed
        self.kept: list[Recorded] = []
        self._kinds = frozenset(kinds)

    def turns(
        self, stored: Iterable[Stored], logs: Mapping[int, tuple[str, int]], numbers: Mapping[str, int]
    ) -> list[Row]:
        """The turns among stored events. `logs` says whose each log is, `numbers` the number of any text. A history of
        ten million events comes this way, so the loop is plain."""
        found: list[Row] = []
        add, plain, answers, kinds, told = found.append, _plain, _ANSWERS, self._kinds, self.told
        at, writer, epoch, writer_number, top = -1, "", 0, 0, -1
        for position, log, seq, raw in stored:
            if log != at:
                if top > told.get(writer, -1):
                    told[writer] = top
                at, (writer, epoch), top = log, logs[log], -1
                writer_number = numbers[writer]
            try:
                got, stamp, wall_ns, clock, kind, _, subject, body = plain(raw)
                good = got == seq and 0 <= stamp < STAMP_MAX and 0 <= clock <= 2 and len(subject) <= _SUBJECT_CHARS_MAX
                answer, said = answers.get(kind), None
                if answer is None:
                    track = 0
                else:
                    track, decode, says = answer
                    said = says(decode(body))
                    good = good and said is not None and -STAMP_MAX < wall_ns < STAMP_MAX
            except (msgspec.MsgspecError, ValueError, RecursionError):
                good = False
            if not good or kind in kinds:  # the long way tells a newer field from what is no event
                event = events.decode_any(raw, writer=writer, epoch=epoch, seq=seq, position=position)
                track, said = turn(event) or (0, None)
                stamp, clock, subject = event.hlc, int(event.clock), event.subject
                if event.kind in kinds:
                    self.kept.append(event)
            if stamp > top:
                top = stamp
            if said is not None:
                add((track, numbers[subject], stamp, writer_number, epoch, seq, numbers[said], clock, position))
        if top > told.get(writer, -1):
            told[writer] = top
        self._begin(found)
        return found

    def _begin(self, found: Sequence[Row]) -> None:
        clocks = set(map(_CLOCK, found))
        for clock in clocks:
            some = found if len(clocks) == 1 else (row for row in found if row[7] == clock)
            self.first[clock] = min(self.first[clock], min(map(_STAMP, some)))


_STAMP, _CLOCK = itemgetter(2), itemgetter(7)
_SUBJECT_CHARS_MAX = limits.subject_chars_max
_plain = msgspec.msgpack.Decoder(tuple[int, int, int, int, str, int, str, msgspec.Raw]).decode
_ANSWERS = {
    kind: (int(track), msgspec.msgpack.Decoder(events.KINDS[kind]).decode, says)
    for kind, (track, says) in _SAYS.items()
}


def stamp_at(moment_ns: int) -> int:
    """The greatest stamp at a moment (Unix ns): everything up to the end of its millisecond."""
    return hlc.tick(0, moment_ns // MS + 1) - 1


def moment_of(stamp: int) -> int:
    """Unix ns of a stamp, to the millisecond."""
    return hlc.wall_ms(stamp) * MS
