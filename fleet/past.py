"""What did an event change, for whoever asks later what was so at some moment?

Rules of the file
  1  An event is at most one *turn*: on one track of one subject it says what stands from then on.
  2  A track answers as its projection does: the turn with the latest stamp up to a moment is what stood at it. What a
     projection passes over (a mode of a newer version, a move that no edge allows) is no turn.
  3  The axis of time is the hybrid stamp of an event, never its bare wall clock: a box that woke up in 1970 goes on
     after what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

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


STAMP_MAX = 1 << 63  # no stamp reaches it
MISSING, RESUMED = "missing", "resumed"
SUBJECTS = frozenset(Track) - {Track.LINK}  # tracks whose subject is a node

_MODES = frozenset(map(str, Mode))


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


Line = tuple[int, str, int, str, int, int, str, int, int]
"""A turn as a row: track, subject, stamp, writer, epoch, seq, what is said, clock, position."""


def lines(rows: Iterable[tuple[int, int, int, bytes]], logs: Mapping[int, tuple[str, int]]) -> list[Line]:
    """Events as stored (position, log, seq, canonical bytes) as lines; `logs` says whose each log is. What is no turn is
    a line on track 0, of its writer. A history of ten million events comes this way, so the loop is plain."""
    found: list[Line] = []
    add, plain, answers = found.append, _plain, _ANSWERS
    for position, log, seq, raw in rows:
        writer, epoch = logs[log]
        try:
            got, stamp, wall_ns, clock, kind, _, subject, body = plain(raw)
            if got == seq and 0 <= stamp < STAMP_MAX and 0 <= clock <= 2 and len(subject) <= _SUBJECT_CHARS_MAX:
                answer = answers.get(kind)
                if answer is None:
                    add((0, "", stamp, writer, epoch, seq, "", clock, position))
                    continue
                track, decode, says = answer
                said = says(decode(body))
                if said is not None and -STAMP_MAX < wall_ns < STAMP_MAX:
                    add((track, subject, stamp, writer, epoch, seq, said, clock, position))
                    continue
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # the long way tells a newer field from what is no event
        event = events.decode_any(raw, writer=writer, epoch=epoch, seq=seq)
        on, said = turn(event) or (0, "")
        add((int(on), event.subject if on else "", event.hlc, writer, epoch, seq, said, int(event.clock), position))
    return found


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
