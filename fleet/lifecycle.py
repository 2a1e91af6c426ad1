"""Lifecycle: the phases of a node, and within ACTIVE the states, as one table of edges.

A *place* is written `PHASE` or, within a phase, `PHASE/STATE`. An edge that leaves ACTIVE leaves it from any of its
states. A move that no edge allows is refused; the event that asked for it is quarantined with the reason.
The diagram in docs/domain.md is drawn from `EDGES`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Phase(StrEnum):
    PROVISIONING = "PROVISIONING"
    ENROLLED = "ENROLLED"
    ACTIVE = "ACTIVE"
    UPDATING = "UPDATING"
    DEGRADED = "DEGRADED"
    QUARANTINED = "QUARANTINED"
    DECOMMISSIONING = "DECOMMISSIONING"
    RETIRED = "RETIRED"


class State(StrEnum):
    LIVE_OK = "LIVE_OK"
    DELAYED = "DELAYED"
    EDGE_CACHED = "EDGE_CACHED"
    AUTONOMOUS = "AUTONOMOUS"
    RETURNING = "RETURNING"
    REPLAYING = "REPLAYING"


class Place(NamedTuple):
    phase: Phase
    state: State | None = None

    def __str__(self) -> str:
        return f"{self.phase}/{self.state}" if self.state else str(self.phase)


def place(text: str) -> Place:
    """Read `PHASE` or `PHASE/STATE`. ValueError when it is neither."""
    phase, _, state = text.partition("/")
    found = Place(Phase(phase), State(state) if state else None)
    if found.state and found.phase is not Phase.ACTIVE:
        raise ValueError(f"{found.phase} has no states")
    return found


START = Place(Phase.PROVISIONING)


def _active(state: State) -> Place:
    return Place(Phase.ACTIVE, state)


EDGES: frozenset[tuple[Place, Place]] = frozenset(
    {
        (START, Place(Phase.ENROLLED)),
        (Place(Phase.ENROLLED), Place(Phase.ACTIVE)),
        (Place(Phase.ACTIVE), _active(State.LIVE_OK)),
        (Place(Phase.ACTIVE), _active(State.DELAYED)),
        (Place(Phase.ACTIVE), _active(State.EDGE_CACHED)),
        (Place(Phase.ACTIVE), _active(State.AUTONOMOUS)),
        (_active(State.LIVE_OK), _active(State.DELAYED)),
        (_active(State.DELAYED), _active(State.EDGE_CACHED)),
        (_active(State.EDGE_CACHED), _active(State.AUTONOMOUS)),
        (_active(State.AUTONOMOUS), _active(State.RETURNING)),
        (_active(State.RETURNING), _active(State.REPLAYING)),
        (_active(State.REPLAYING), _active(State.LIVE_OK)),
        (_active(State.REPLAYING), Place(Phase.QUARANTINED)),
        (Place(Phase.ACTIVE), Place(Phase.UPDATING)),
        (Place(Phase.UPDATING), Place(Phase.ACTIVE)),
        (Place(Phase.UPDATING), Place(Phase.DEGRADED)),
        (Place(Phase.ACTIVE), Place(Phase.DEGRADED)),
        (Place(Phase.DEGRADED), Place(Phase.ACTIVE)),
        (Place(Phase.DEGRADED), Place(Phase.QUARANTINED)),
        (Place(Phase.QUARANTINED), Place(Phase.ACTIVE)),
        (Place(Phase.QUARANTINED), Place(Phase.DECOMMISSIONING)),
        (Place(Phase.ACTIVE), Place(Phase.DECOMMISSIONING)),
        (Place(Phase.DECOMMISSIONING), Place(Phase.RETIRED)),
    }
)


def allowed(origin: Place, target: Place) -> bool:
    if (origin, target) in EDGES:
        return True
    # An edge from ACTIVE to another phase holds in each of its states; one into a state of ACTIVE does not.
    return origin.state is not None and target.phase is not Phase.ACTIVE and (Place(origin.phase), target) in EDGES


def targets(origin: Place) -> tuple[Place, ...]:
    """Where a node may go from here, in reading order."""
    places = {target for _, target in EDGES if allowed(origin, target)}
    return tuple(sorted(places, key=str))


def refusal(origin: Place, target: Place) -> str | None:
    """The sentence a person reads when a move is not possible; None when it is."""
    if allowed(origin, target):
        return None
    ways = ", ".join(str(way) for way in targets(origin)) or "nowhere: it is the end"
    return f"a node cannot go from {origin} to {target}; from {origin} it can go to {ways}"
