"""How do the tables of connectivity and lifecycle look? As Mermaid state diagrams, drawn from the tables themselves.

Text in, text out: docs/domain.md holds what these functions return, and a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable

from fleet import connectivity, lifecycle
from fleet.lifecycle import Phase, Place

_START_AND_END = "[*]"


def connectivity_diagram() -> str:
    """Each step of `connectivity.TABLE`, named by its trigger. The start is a node that was never heard."""
    steps = (
        (str(origin) if origin else _START_AND_END, str(target), str(trigger))
        for (origin, trigger), target in connectivity.TABLE.items()
    )
    return _diagram(f"{origin} --> {target}: {trigger}" for origin, target, trigger in steps)


def lifecycle_diagram() -> str:
    """Each edge of `lifecycle.EDGES`; the states of ACTIVE stand inside it."""
    inside: list[str] = []
    outside = [f"{_START_AND_END} --> {lifecycle.START}"]
    for origin, target in sorted(lifecycle.EDGES, key=lambda edge: (_order(edge[0]), _order(edge[1]))):
        within = target.state is not None
        start = _START_AND_END if within and origin.state is None else _name(origin)
        (inside if within else outside).append(f"{start} --> {_name(target)}")
    outside += [f"{phase} --> {_START_AND_END}" for phase in Phase if not lifecycle.targets(Place(phase))]
    return _diagram([f"state {Phase.ACTIVE} {{", *(f"    {edge}" for edge in inside), "}", *outside])


def _name(place: Place) -> str:
    return str(place.state or place.phase)


def _order(place: Place) -> tuple[int, int]:
    states = list(lifecycle.State)
    return list(Phase).index(place.phase), states.index(place.state) + 1 if place.state else 0


def _diagram(lines: Iterable[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"stateDiagram-v2\n{body}\n"
