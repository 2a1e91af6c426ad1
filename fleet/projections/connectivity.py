"""Connectivity: in which mode is each node, since when, and on what evidence.

Later stamps win. `history` is not kept here: a time window is answered by folding the log up to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fleet.connectivity import Mode
from fleet.events import (
    HeartbeatMissed,
    HeartbeatResumed,
    NodeDegraded,
    NodeHeard,
    NodeQuiet,
    NodeRecovered,
    Recorded,
    Stamp,
)

NAME = "connectivity"
VERSION = 1


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


def advance(state: State, events: Iterable[Recorded]) -> State:
    """Fold a batch into a new state; the old state stays as it was."""
    standing, heartbeat = dict(state.standing), dict(state.heartbeat)
    for event in events:
        match event.body:
            case NodeHeard(mode=mode, former=former, via=reason):
                pass
            case NodeQuiet(mode=mode, former=former):
                reason = "silence"
            case NodeDegraded(mode=mode, former=former, reason=reason):
                pass
            case NodeRecovered(mode=mode, former=former, reason=reason):
                pass
            case HeartbeatMissed() | HeartbeatResumed():
                beat = Heartbeat(event.stamp, isinstance(event.body, HeartbeatMissed), event.wall_ns)
                heartbeat[event.subject] = max(beat, heartbeat.get(event.subject, beat))
                continue
            case _:
                continue
        known = _MODES.get(mode)
        if known is None:  # a mode of a newer version: the last one we understand stays
            continue
        turn = Standing(event.stamp, known, former, event.wall_ns, event.kind, reason)
        standing[event.subject] = max(turn, standing.get(event.subject, turn))
    return State(standing, heartbeat)
