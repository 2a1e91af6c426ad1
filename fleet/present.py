"""The present of a node as its site tells it: what a list and a map show, and every value with its age and source.

A site packs these for the snapshot lane (`sync.present`); a hub keeps the latest of each node. It is a copy for people
to look at. What is provable stands in the log.
"""

from __future__ import annotations

from sys import intern
from typing import NamedTuple

import msgspec

from fleet.connectivity import Mode
from fleet.node import Kind
from fleet.reading import Flight, Health, Position


class Told(NamedTuple):
    """A number, when it was received, Unix ns, and by which way in."""

    value: float
    at_ns: int
    via: str = ""


class Present(msgspec.Struct, frozen=True, array_like=True):
    """`values` are all metrics by name, battery_pct, rtt_ms and loss_pct among them. Times are the site's, Unix ns."""

    node_id: str
    name: str
    kind: Kind = Kind.EDGE
    tags: tuple[str, ...] = ()
    mode: Mode | None = None
    since_ns: int | None = None
    seen_ns: int | None = None
    seen_via: str = ""
    health: Health = Health.UNKNOWN
    heartbeat_missing_ns: int | None = None
    phase: str = "PROVISIONING"
    version: str | None = None
    position: Position | None = None
    position_ns: int | None = None
    flight: Flight | None = None
    armed: bool | None = None
    address: str | None = None
    text: str | None = None
    text_ns: int | None = None
    uptime_s: float | None = None
    values: dict[str, Told] = {}


def lean(present: Present) -> Present:
    """The same, with the words that nodes share held once: a hub keeps a hundred thousand of these in memory."""
    return msgspec.structs.replace(
        present,
        tags=tuple(map(intern, present.tags)),
        seen_via=intern(present.seen_via),
        phase=intern(present.phase),
        version=intern(present.version) if present.version is not None else None,
        values={intern(name): Told(told.value, told.at_ns, intern(told.via)) for name, told in present.values.items()},
    )
