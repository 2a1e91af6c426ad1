"""The snapshot of a node: the latest that its records said, each value with when, from which record and source.

A fold over (record, reading) in order of record id. It changes the snapshot in place, because it runs for every
record that arrives; folding a record again changes nothing (`record` is the guard), so it can be rebuilt from any
earlier point.
"""

from __future__ import annotations

import msgspec

from fleet import limits
from fleet.reading import Flight, Health, Position, Reading


class Measure(msgspec.Struct, frozen=True, array_like=True):
    value: float
    at_ns: int
    record: int
    source: str


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What a device says of itself, as JSON text."""

    text: str
    at_ns: int


class Snapshot(msgspec.Struct, kw_only=True):
    """`record` is the last record that was folded in; `*_ns` are times of receipt, Unix ns."""

    record: int = 0
    records: int = 0
    seen_ns: int | None = None
    seen_via: str = ""
    values: dict[str, Measure] = msgspec.field(default_factory=dict)
    position: Position | None = None
    position_ns: int | None = None
    health: Health = Health.UNKNOWN
    health_ns: int | None = None
    version: str | None = None
    version_ns: int | None = None
    heartbeat_ns: int | None = None
    armed: bool | None = None
    flight: Flight | None = None
    uptime_s: float | None = None
    text: str | None = None
    text_ns: int | None = None
    attributes: dict[str, Said] = msgspec.field(default_factory=dict)
    clock_skew_ns: int | None = None  # the device's clock against ours, at its last record that carried one


TEXT_CHARS_MAX = 300


def fold(snapshot: Snapshot, record: int, at_ns: int, source: str, reading: Reading) -> None:
    if record <= snapshot.record:
        return
    snapshot.record = record
    snapshot.records += 1
    snapshot.seen_ns, snapshot.seen_via = at_ns, source
    for metric, value in reading.metrics.items():
        if metric in snapshot.values or len(snapshot.values) < limits.metrics_per_node_max:
            snapshot.values[metric] = Measure(value, at_ns, record, source)
    if reading.position is not None:
        snapshot.position, snapshot.position_ns = reading.position, at_ns
    if reading.health is not None:
        snapshot.health, snapshot.health_ns = reading.health, at_ns
    if reading.version is not None:
        snapshot.version, snapshot.version_ns = reading.version, at_ns
    if reading.heartbeat:
        snapshot.heartbeat_ns = at_ns
    if reading.armed is not None:
        snapshot.armed = reading.armed
    if reading.flight is not None:
        snapshot.flight = reading.flight
    if reading.uptime_s is not None:
        snapshot.uptime_s = reading.uptime_s
    if reading.text:
        snapshot.text, snapshot.text_ns = reading.text[:TEXT_CHARS_MAX], at_ns
    for name, said in reading.attributes.items():
        if said == "null":
            snapshot.attributes.pop(name, None)
        elif name in snapshot.attributes or len(snapshot.attributes) < limits.attributes_per_node_max:
            snapshot.attributes[name] = Said(said, at_ns)
    if reading.claimed_ns is not None:
        snapshot.clock_skew_ns = reading.claimed_ns - at_ns
