"""Connectivity is a spectrum, and a table: (mode, trigger) → mode. What the table does not hold cannot happen.

The diagram in docs/domain.md is drawn from `TABLE`. `None` is a node that was never heard: unknown, never green.
"""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    LIVE = "LIVE"
    DELAYED = "DELAYED"
    EDGE_CACHED = "EDGE_CACHED"
    AUTONOMOUS = "AUTONOMOUS"
    DISCONNECTED = "DISCONNECTED"
    RETURNING = "RETURNING"
    REPLAYING = "REPLAYING"


class Trigger(StrEnum):
    HEARD = "heard"  # a record or an echo arrived
    LATE = "late"  # round trip or loss beyond the bound
    RECOVERED = "recovered"  # round trip and loss back inside it
    CACHED = "cached"  # the node keeps data back until the link is better
    CUT_OFF = "cut off"  # the node decides alone
    SILENT = "silent"  # nothing for longer than the silence limit
    REPLAYED = "replay started"
    CAUGHT_UP = "caught up"  # nothing is missing any more


class Reach(StrEnum):
    """What a person asks first."""

    ONLINE = "online"
    DEGRADED = "degraded"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


TABLE: dict[tuple[Mode | None, Trigger], Mode] = {
    (None, Trigger.HEARD): Mode.LIVE,
    (Mode.LIVE, Trigger.LATE): Mode.DELAYED,
    (Mode.LIVE, Trigger.SILENT): Mode.DISCONNECTED,
    (Mode.DELAYED, Trigger.RECOVERED): Mode.LIVE,
    (Mode.DELAYED, Trigger.CACHED): Mode.EDGE_CACHED,
    (Mode.DELAYED, Trigger.SILENT): Mode.DISCONNECTED,
    (Mode.EDGE_CACHED, Trigger.CUT_OFF): Mode.AUTONOMOUS,
    (Mode.EDGE_CACHED, Trigger.HEARD): Mode.RETURNING,
    (Mode.EDGE_CACHED, Trigger.SILENT): Mode.DISCONNECTED,
    (Mode.AUTONOMOUS, Trigger.HEARD): Mode.RETURNING,
    (Mode.AUTONOMOUS, Trigger.SILENT): Mode.DISCONNECTED,
    (Mode.DISCONNECTED, Trigger.HEARD): Mode.RETURNING,
    (Mode.RETURNING, Trigger.REPLAYED): Mode.REPLAYING,
    (Mode.RETURNING, Trigger.CAUGHT_UP): Mode.LIVE,
    (Mode.RETURNING, Trigger.SILENT): Mode.DISCONNECTED,
    (Mode.REPLAYING, Trigger.CAUGHT_UP): Mode.LIVE,
    (Mode.REPLAYING, Trigger.SILENT): Mode.DISCONNECTED,
}

REACH: dict[Mode | None, Reach] = {
    None: Reach.UNKNOWN,
    Mode.LIVE: Reach.ONLINE,
    Mode.DELAYED: Reach.DEGRADED,
    Mode.EDGE_CACHED: Reach.DEGRADED,
    Mode.RETURNING: Reach.DEGRADED,
    Mode.REPLAYING: Reach.DEGRADED,
    Mode.AUTONOMOUS: Reach.OFFLINE,
    Mode.DISCONNECTED: Reach.OFFLINE,
}


def step(mode: Mode | None, trigger: Trigger) -> Mode | None:
    """The next mode, or None when the table knows no such step (the trigger changes nothing here)."""
    return TABLE.get((mode, trigger))
