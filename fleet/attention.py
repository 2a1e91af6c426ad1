"""What needs a person, how much, and who has taken it up?

An item is one cause at one subject: a node that went silent, a site whose log forked, a domain that two believe to be
theirs. It says in one sentence why it is there. What people say of it (seen, later, mine, a remark) stands in the
subject's document and is merged like everything else there, so both ends show the same.

Rules of the file
  1  The score is a table and the time: how bad the cause is, and a little for each doubling of the hours it has waited.
     Nothing learns, so that two people at two ends see the same order.
  2  Who says "seen" has said it of what stood there then: an item that began anew afterwards is new.
  3  A snooze ends by itself. It never hides what has become worse: a cause has its own item, so a battery that runs out
     is not hidden by a drift that can wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from fleet.document import Stamped
from fleet.limits import HOUR, SECOND

waiting_hours_per_point = 0.5  # each doubling of the half hours that an item has waited adds a point
waiting_points_max = 10


class Cause(StrEnum):
    STORAGE = "storage"
    QUARANTINE = "quarantine"
    IN_AIR = "in_air"
    FORK = "fork"
    CONTEST = "contest"
    INTAKE = "intake"
    FAILED = "failed"
    HEARTBEAT = "heartbeat"
    BATTERY = "battery"
    SILENT = "silent"
    PARKED = "parked"
    CONFLICT = "conflict"
    GAP = "gap"
    BREAK_GLASS = "break_glass"
    DRIFT = "drift"
    DEBT = "debt"
    INPUT = "input"
    DEGRADED = "degraded"
    DELAYED = "delayed"


# Out of 100. From ACT_FROM on somebody should act now; below it, look when there is time.
WEIGHT: Mapping[Cause, int] = {
    Cause.STORAGE: 90,
    Cause.QUARANTINE: 88,
    Cause.IN_AIR: 86,
    Cause.FORK: 84,
    Cause.CONTEST: 82,
    Cause.INTAKE: 78,
    Cause.FAILED: 76,
    Cause.HEARTBEAT: 72,
    Cause.BATTERY: 70,
    Cause.SILENT: 68,
    Cause.BREAK_GLASS: 66,
    Cause.PARKED: 58,
    Cause.CONFLICT: 54,
    Cause.GAP: 50,
    Cause.DRIFT: 40,
    Cause.DEBT: 36,
    Cause.INPUT: 34,
    Cause.DEGRADED: 32,
    Cause.DELAYED: 26,
}
ACT_FROM = 60


def score(cause: Cause, since_ns: int, now_ns: int) -> float:
    """0 to 100; higher first. An item from the future has waited no time."""
    hours = max(now_ns - since_ns, 0) / HOUR
    return WEIGHT[cause] + min(math.log2(1 + hours / waiting_hours_per_point), waiting_points_max)


class Handled(NamedTuple):
    """What people said of an item. Times are Unix ns."""

    seen_by: str = ""
    seen_ns: int | None = None
    remark: str = ""  # what was said last with any of it
    later_by: str = ""
    later_until_ns: int | None = None
    assigned: str = ""
    assigned_by: str = ""


NOBODY = Handled()


# A reading says how low a battery is, nobody says when it became so: each would begin anew. So "seen" holds a while.
retold = frozenset({Cause.BATTERY})
retold_ns = HOUR


# -- as it stands in a document ---------------------------------------------------------------------------------------

SEEN, LATER, MINE = "acknowledged/", "snoozed/", "assigned/"


def handled(values: Mapping[str, Stamped]) -> dict[Cause, Handled]:
    """What a document says of its subject's items, by cause. What none of our versions wrote is left out."""
    found: dict[Cause, Handled] = {}
    told = [(*pointer.partition("/"), said) for pointer, said in values.items() if pointer.startswith(_NAMES)]
    for name, slash, entry, said in sorted(told, key=lambda one: (one[3].wall_ns, one[0])):
        if entry not in _CAUSES or not isinstance(said.value, str):
            continue
        cause = Cause(entry)
        held = found.get(cause, NOBODY)
        first, _, remark = said.value.partition("\n")
        if name + slash == SEEN:
            remark = remark if moment(first) is not None else said.value
            held = held._replace(seen_by=said.who, seen_ns=said.wall_ns)
        elif name + slash == LATER:
            held = held._replace(later_by=said.who, later_until_ns=moment(first))
        else:
            held = held._replace(assigned=first, assigned_by=said.who)
        found[cause] = held._replace(remark=remark or held.remark)
    return found


def words(act: str, cause: Cause, said: str, remark: str) -> dict[str, str]:
    """What to write, for `SEEN` (said: the time, so that it is another word each time), `LATER` (until when, RFC 3339)
    or `MINE` (whose). A remark stands on lines of its own below."""
    return {act + cause: f"{said}\n{remark}" if remark else said}


def untaken(cause: Cause) -> dict[str, None]:
    """What to write so that it stands as if nobody had said anything."""
    return dict.fromkeys(act + cause for act in _NAMES)


_NAMES = (SEEN, LATER, MINE)
_CAUSES = frozenset(Cause)


def moment(text: str) -> int | None:
    """Unix ns of an RFC 3339 time with its offset; None when it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(at.timestamp()) * SECOND if at.tzinfo is not None else None


# -- the queue --------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """`subject_kind` is node, site, domain or box; `words` follow the name: "is silent in the air"."""

    cause: Cause
    subject_kind: str
    subject: str
    name: str
    words: str
    since_ns: int
    site: str = ""
    domain: str = ""
    handled: Handled = NOBODY


def is_quiet(one: Item, now_ns: int) -> bool:
    """Whether it need not stand in the queue now: somebody has seen it as it is, or it is to come back later."""
    handled = one.handled
    if handled.later_until_ns is not None and now_ns < handled.later_until_ns:
        return True
    if handled.seen_ns is None:
        return False
    return now_ns - handled.seen_ns < retold_ns if one.cause in retold else handled.seen_ns >= one.since_ns


def queue(items: Iterable[Item], now_ns: int) -> list[Item]:
    """What stands in the queue, most urgent first."""
    return sorted((one for one in items if not is_quiet(one, now_ns)), key=urgency(now_ns))


def urgency(now_ns: int) -> Callable[[Item], tuple[float, int, str]]:
    """What the queue is sorted by."""
    return lambda one: (-score(one.cause, one.since_ns, now_ns), one.since_ns, one.subject)
