"""Lifecycle: where each node is in its life, since when and why; and the moves that no edge allows.

A move says from where and to where, so whether an edge allows it can be told from the event alone, in any order.
Later stamps win; refused moves are kept by their place in the log and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fleet import lifecycle
from fleet.events import LifecycleMoved, Recorded, Stamp
from fleet.past import Track
from fleet.projections import later

NAME = "lifecycle"
VERSION = 1
TRACKS: frozenset[Track] = frozenset()
KINDS = frozenset((LifecycleMoved.KIND,))  # those that no edge allows are kept too


class Standing(NamedTuple):
    stamp: Stamp
    place: lifecycle.Place
    former: lifecycle.Place
    since_ns: int
    reason: str
    actor: str


class Refused(NamedTuple):
    stamp: Stamp
    subject: str
    reason: str


class State(NamedTuple):
    standing: Mapping[str, Standing]
    refused: Mapping[tuple[str, int, int], Refused]


EMPTY = State({}, {})


def advance(state: State, events: Iterable[Recorded]) -> State:
    """Fold a batch into a new state; the old state stays as it was. Moves are rare, and a copy of a large state is not
    made for nothing."""
    moves = [
        (event, event.body)
        for event in events
        if event.kind == LifecycleMoved.KIND and isinstance(event.body, LifecycleMoved)
    ]
    if not moves:
        return state
    standing, refused = dict(state.standing), dict(state.refused)
    for event, move in moves:
        try:
            origin, target = lifecycle.place(move.origin), lifecycle.place(move.target)
            reason = lifecycle.refusal(origin, target)
        except ValueError as error:
            reason = str(error)
        if reason:
            refused[event.writer, event.epoch, event.seq] = Refused(event.stamp, event.subject, reason)
            continue
        turn = Standing(event.stamp, target, origin, event.wall_ns, move.reason, move.actor)
        standing[event.subject] = max(turn, standing.get(event.subject, turn))
    return State(standing, refused)


def join(one: State, other: State) -> State:
    """The state of what both were folded from."""
    return State(later(one.standing, other.standing), {**one.refused, **other.refused})
