"""Connectivity: in which mode is each node, since when, and on what evidence.

Later stamps win. What stood at another moment is asked of `store.history`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fleet.connectivity import Mode
from fleet.events import (
    Body,
    HeartbeatMissed,
    HeartbeatResumed,
    NodeDegraded,
    NodeHeard,
    NodeQuiet,
    NodeRecovered,
    Recorded,
    Stamp,
    Unknown,
)
from fleet.past import Track
from fleet.projections import later

NAME = "connectivity"
VERSION = 1
TRACKS = frozenset((Track.CONNECTIVITY, Track.HEARTBEAT))
KINDS: frozenset[str] = frozenset()


class Standing(NamedTuple):
    """A node's mode since `since_ns` (wall clock of the event), by the event of kind `kind`."""

    stamp: Stamp
    mode: Mode
    former: str
    since_ns: int
    kind: str
    reason: str


class Heartbeat(NamedTuple):
    stamp: Stamp
    missing: bool
    since_ns: int


class State(NamedTuple):
    standing: Mapping[str, Standing]
    heartbeat: Mapping[str, Heartbeat]


EMPTY = State({}, {})
_MODES = {mode.value: mode for mode in Mode}
_WHY: Mapping[type[Body | Unknown], Callable[[Any], str]] = {
    NodeHeard: lambda body: body.via,
    NodeQuiet: lambda body: "silence",
    NodeDegraded: lambda body: body.reason,
    NodeRecovered: lambda body: body.reason,
}


def advance(state: State, events: Iterable[Recorded]) -> State:
    """Fold a batch into a new state; the old state stays as it was."""
    standing, heartbeat = dict(state.standing), dict(state.heartbeat)
    event: Any
    for event in events:
        _, writer, epoch, seq, hlc, wall_ns, _, kind, _, subject, body = event
        why = _WHY.get(type(body))
        if why is not None:
            mode, held = _MODES.get(body.mode), standing.get(subject)
            stamp = (hlc, writer, epoch, seq)
            if mode is None or (held is not None and stamp < held[0]):
                continue  # a mode of a newer version: the last one we understand stays; or it is older
            turn = Standing(stamp, mode, body.former, wall_ns, kind, why(body))
            standing[subject] = turn if held is None else max(turn, held)
        elif isinstance(body, HeartbeatMissed | HeartbeatResumed):
            beat = Heartbeat(event.stamp, isinstance(body, HeartbeatMissed), wall_ns)
            heartbeat[subject] = max(beat, heartbeat.get(subject, beat))
    return State(standing, heartbeat)


def join(one: State, other: State) -> State:
    """The state of what both were folded from."""
    return State(later(one.standing, other.standing), later(one.heartbeat, other.heartbeat))
