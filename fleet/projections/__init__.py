"""Projections: folds over events, one question each.

The contract, run against every one of them (tests/contracts/test_projections.py): folding the same events in any
order, in any batches, with repeats, gives the same state. So a projection keeps latest-wins stamps or joins, never
"remove from a set".

From which follows what a rebuild over several processes rests on: `join` of the states of two sets of events is the
state of both; and a projection names what it can depend on, so that the rest need not be folded: of the tracks in
`TRACKS` (`fleet.past`) the newest turn of each subject, and every event of the kinds in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V", bound=tuple[Any, ...])


def later(one: Mapping[K, V], other: Mapping[K, V]) -> dict[K, V]:
    """Of two mappings of stamped values, the later one under each key."""
    less, more = (one, other) if len(one) < len(other) else (other, one)
    return {**more, **{key: max(held, more.get(key, held)) for key, held in less.items()}}
