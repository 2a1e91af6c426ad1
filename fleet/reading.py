"""Readings: what one raw record says, in the fleet's own words and units.

Parsers (`appliance.intake`) make readings; the evaluator and the snapshots read them. A reading never
replaces its record: the record is kept byte for byte whether or not anything could be read from it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Health(StrEnum):
    OK = "OK"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


class Flight(StrEnum):
    """MAV_LANDED_STATE (MAVLink common.xml), in words."""

    GROUND = "GROUND"
    TAKEOFF = "TAKEOFF"
    AIR = "AIR"
    LANDING = "LANDING"


class Position(NamedTuple):
    """WGS 84 degrees; altitude in metres above mean sea level; heading in degrees from north, speed in m/s."""

    lat_deg: float
    lon_deg: float
    alt_m: float | None = None
    heading_deg: float | None = None
    speed_mps: float | None = None


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record's content. A field the record did not speak of is None (or empty), never a default value.

    `claimed_ns`  the time the device wrote, Unix ns; None when it wrote none or an impossible one
    `metrics`     number by metric name (`fleet.metrics` lists the known names and their units)
    `samples`     where one record tells a metric more than once: all values, oldest first; `metrics` has the last ones
    `mid`         the id that the device gave this message; one that comes again was sent again
    `heartbeat`   the record is a sign of life of the autopilot or agent itself, not of a relay
    `attributes`  what the device says of itself, as JSON text by name; "null" takes one back
    `marks`       what a reader should know about the record: "oversize", "bad-utf8", "clock-implausible", ...
    """

    claimed_ns: int | None = None
    name: str | None = None
    severity: int | None = None
    text: str | None = None
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    samples: tuple[dict[str, float], ...] = ()
    position: Position | None = None
    health: Health | None = None
    version: str | None = None
    heartbeat: bool = False
    armed: bool | None = None
    flight: Flight | None = None
    uptime_s: float | None = None
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    marks: tuple[str, ...] = ()
    mid: str | None = None
