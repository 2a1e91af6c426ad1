"""How a page says it: ages, amounts, states and events in plain words.

Values in, words out; no markup, no clock. `age` here and `age()` in static/skerry.js say the same.
An event's sentence leaves its subject out: the page names (and links) the subject beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from fleet import metrics
from fleet.connectivity import Mode, Reach
from fleet.events import UNREADABLE, Clock, Recorded, fields
from fleet.limits import SECOND
from fleet.reading import Flight, Health
from web.ports import NodeRow, ReceiptView

UNKNOWN = "not known"

REACH: dict[Reach, str] = {
    Reach.ONLINE: "Live",
    Reach.DEGRADED: "Degraded",
    Reach.OFFLINE: "Silent",
    Reach.UNKNOWN: "Never heard",
}

MODE: dict[Mode | None, str] = {
    None: "never heard",
    Mode.LIVE: "live",
    Mode.DELAYED: "delayed",
    Mode.EDGE_CACHED: "keeps data back",
    Mode.AUTONOMOUS: "decides alone",
    Mode.DISCONNECTED: "disconnected",
    Mode.RETURNING: "returning",
    Mode.REPLAYING: "replaying",
}

CUT_OFF = "Cut off"

# A link as it looks: a shape, and a word for the mode. Cut off is the normal state of a site, never an alarm in itself.
LINK: dict[Mode | None, tuple[str, str]] = {
    None: ("unknown", "Never heard"),
    Mode.LIVE: ("online", "Live"),
    Mode.DELAYED: ("degraded", "Delayed"),
    Mode.EDGE_CACHED: ("degraded", "Keeps data back"),
    Mode.AUTONOMOUS: ("unknown", CUT_OFF),
    Mode.DISCONNECTED: ("unknown", CUT_OFF),
    Mode.RETURNING: ("degraded", "Returning"),
    Mode.REPLAYING: ("degraded", "Catching up"),
}

LANE: dict[str, str] = {
    "control": "greetings, acknowledgements, receipts",
    "snapshots": "how every node is now",
    "log": "what happened, in order",
    "segments": "raw records, in sealed files",
}

FIELD: dict[str, str] = {
    "domain_id": "domain",
    "target_version": "version wanted",
    "policy_bundle_id": "policy bundle",
    "min_battery_pct": "least battery",
    "requires_online": "must be online",
}

HEALTH: dict[Health, str] = {
    Health.OK: "OK",
    Health.DEGRADED: "Degraded",
    Health.FAILED: "Failed",
    Health.UNKNOWN: "Not reported",
}

FLIGHT: dict[Flight, str] = {
    Flight.GROUND: "on the ground",
    Flight.TAKEOFF: "taking off",
    Flight.AIR: "in the air",
    Flight.LANDING: "landing",
}

CLOCK: dict[Clock, str] = {
    Clock.SYNCED: "Synchronised: the kernel says that NTP or a receiver keeps it.",
    Clock.FREE_RUNNING: "Free-running: plausible, kept by nobody. Times may drift by seconds a day.",
    Clock.NOT_TRUSTED: "Not trusted: it is behind its own floor. Order still holds, hours and dates may be wrong.",
}

DONE: dict[str, str] = {
    "adopted": "Adopted. Its past records came with it.",
    "changed": "Changed.",
    "moved": "Moved.",
    "claimed": "The source now belongs to this node.",
    "released": "The source is unclaimed again. It stands on the Intake page.",
    "retry": "Tried again. What could be read this time is with its node.",
    "drop": "Dropped. The journal says by whom.",
    "account": "The account exists. Hand over its password by word of mouth.",
    "disabled": "The account is closed and its sessions are ended.",
    "password": "The password is changed.",
    "revoked": "The token no longer opens anything.",
    "signed-out": "You are signed out.",
    "taken": "Taken. It holds from now on, here and at the other end.",
    "cut": "The link is cut. Nothing is lost; everything waits here until you restore it.",
    "restore": "The link is restored. The present goes first, then what happened meanwhile.",
    "pause": "The lane stands still. What is in it waits.",
    "resume": "The lane goes on.",
    "per_s": "The cap holds from now on.",
    "per_hour": "The cap holds from now on.",
    "release": "Released. The site goes on where it stood.",
    "joined": "This site belongs to a hub now. It goes on by itself, with or without a line.",
}


def age(seconds: float) -> str:
    """A duration in one or two units: 12 s, 3 min, 2 h 05 min, 4 d."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d"


def seconds_of(ns: int) -> float:
    return ns / SECOND


def iso(ns: int) -> str:
    """RFC 3339, UTC, to the second; a day that no calendar holds stays a number."""
    days, seconds = divmod(ns // SECOND, 86_400)
    minutes, seconds = divmod(seconds, 60)
    return f"{_date(days)}T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}Z"


@lru_cache(maxsize=64)
def _date(days: int) -> str:
    """Of a day since 1970; a page has hundreds of times, and they fall on a few days."""
    try:
        return (date(1970, 1, 1) + timedelta(days)).isoformat()
    except OverflowError:
        return f"day {days}"


def clock_time(ns: int) -> str:
    return iso(ns)[-9:-1]


def when(ns: int) -> str:
    return iso(ns).replace("T", " ").replace("Z", " UTC")


def amount(value: float | None, digits: int = 0) -> str:
    """A number with thin spaces between thousands."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def short(value: float) -> str:
    """A measured number with about three figures that count."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    written = f"{value:.{digits}f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written) if size < 1e9 else f"{value:.3g}"


_VALUE_CHARS_MAX = 120
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(count: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    for factor, unit in _BYTES:
        if abs(count) >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def unit(metric: str) -> str:
    known = metrics.BY_NAME.get(metric)
    return known.unit if known else ""


def label(metric: str) -> str:
    known = metrics.BY_NAME.get(metric)
    return known.label if known else metric


def angle(degrees: float, positive: str, negative: str) -> str:
    """Degrees and minutes, as on a chart: 58°21.4′ N."""
    side = positive if degrees >= 0 else negative
    whole, minutes = divmod(round(abs(degrees) * 600), 600)
    return f"{whole}°{minutes / 10:04.1f}′ {side}"


_COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")


def compass(degrees: float) -> str:
    return _COMPASS[round(degrees % 360 / 45) % 8]


def forecast(full_in_s: float | None, growth_bytes_per_day: float | None) -> str:
    """The disk budget's future in one sentence."""
    if growth_bytes_per_day is None:
        return "Too early for a forecast: it needs some minutes of intake."
    if full_in_s is None:
        return "At this rate the budget never fills."
    if full_in_s <= 0:
        return "The budget is full: the oldest raw records make room for new ones, and the journal says which."
    return f"At this rate the budget is full in {_about(full_in_s)}; then the oldest raw records make room."


def _about(seconds: float) -> str:
    if seconds < 7_200:
        return f"about {max(round(seconds / 60), 1)} minutes"
    if seconds < 172_800:
        return f"about {round(seconds / 3600)} hours"
    return f"about {amount(round(seconds / 86_400))} days"


# -- links -----------------------------------------------------------------------------------------------------


def state_of(row: NodeRow) -> str:
    """A node's state in a word. Of a node whose site is not heard nobody knows it, whatever it was."""
    return "Unknown" if row.reach is Reach.UNKNOWN and row.lost_ns is not None else REACH[row.reach]


def link_state(mode: Mode | None, *, quarantined: bool = False, cut: bool = False) -> tuple[str, str]:
    """(shape, word)."""
    if quarantined:
        return "offline", "In quarantine"
    return ("unknown", "Cut by an operator") if cut else LINK[mode]


def counted(number: int, one: str, more: str = "") -> str:
    return f"{amount(number)} {one if number == 1 else more or one + 's'}"


def behind(debt_s: float | None) -> str:
    return UNKNOWN if debt_s is None else "nothing" if debt_s < 1 else age(debt_s)


def drained(drained_s: float | None) -> str:
    return UNKNOWN if drained_s is None else "nothing waits" if drained_s < 1 else _about(drained_s)


def covered(receipt: ReceiptView, hub: str, site: str) -> str:
    """What a completeness receipt says, in a sentence without its age."""
    last = receipt.seq or receipt.events
    drops = counted(receipt.drops, "intentional drop") if receipt.drops else "nothing dropped"
    gaps = f", {counted(receipt.gaps, 'named gap')}" if receipt.gaps else ""
    signed = "signed by both" if receipt.countersigned else f"not yet signed by {site}; signed by {hub}"
    return (
        f"Everything up to event {amount(last)} is at {hub}: {counted(receipt.events, 'event')},"
        f" {counted(receipt.segments, 'file')}, {drops}{gaps}; {signed}"
    )


def field(pointer: str) -> str:
    """A field of a node, as people call it."""
    name, _, entry = pointer.partition("/")
    said = FIELD.get(name, name.replace("_", " "))
    return f"{said}: {entry}" if entry else said


# -- events ----------------------------------------------------------------------------------------------------

_Says = Callable[[Mapping[str, Any]], str]


def _mode(name: object) -> str:
    try:
        return MODE[Mode(str(name))]
    except ValueError:
        return str(name) or MODE[None]


def _quoted(value: str) -> str:
    return f"“{value}”" if value else "nothing"


def _put(pointer: str, value: str) -> str:
    """One field of a document, and what was written there."""
    name, _, entry = pointer.partition("/")
    if entry:
        said = "" if value == "True" else f": {value}"
        return f"{name.removesuffix('s')} {entry}{said}"
    short = value if len(value) <= _VALUE_CHARS_MAX else value[: _VALUE_CHARS_MAX - 1] + "…"
    return f"{field(name)} {_quoted(short)}"


def _by(f: Mapping[str, Any]) -> str:
    return f" by {f['actor']}" if f.get("actor") else ""


def _for(ns: int) -> str:
    return age(ns / SECOND)


def _heard(f: Mapping[str, Any]) -> str:
    via = f" via {f['via']}" if f["via"] else ""
    if not f["former"]:
        return f"heard for the first time{via}"
    return f"heard again{via} after {_for(f['silent_ns'])} of silence; now {_mode(f['mode'])}"


def _link(f: Mapping[str, Any]) -> str:
    figures = []
    if f["rtt_ms"] is not None:
        figures.append(f"round trip {short(f['rtt_ms'])} ms")
    if f["loss_pct"] is not None:
        figures.append(f"loss {short(f['loss_pct'])} %")
    return f" ({', '.join(figures)})" if figures else ""


def _records(count: int) -> str:
    return f"{amount(count)} record{'' if count == 1 else 's'}"


EVENTS: dict[str, _Says] = {
    "log.started": lambda f: (
        f"a new log began ({f['reason']})"
        + (f"; it follows number {f['previous_seq']} of epoch {f['previous_epoch']}" if f["previous_writer"] else "")
    ),
    "appliance.started": lambda f: (
        f"started, version {f['version']}" + ("" if f["clean"] else "; the stop before was not orderly")
    ),
    "appliance.stopped": lambda f: f"stopped: {f['reason']}",
    "clock.stepped": lambda f: (
        f"the clock jumped {'forward' if f['step_ns'] > 0 else 'back'} by " + _for(abs(f["step_ns"]))
    ),
    "storage.failed": lambda f: f"storage failed ({f['store']}): {f['reason']} {f['detail']}".rstrip(),
    "storage.recovered": lambda f: f"storage works again ({f['store']}) after {_for(f['down_ns'])}",
    "backup.made": lambda f: f"backup {f['name']} made, {size(f['bytes_written'])}",
    "node.adopted": lambda f: f"adopted as {f['name']} ({f['node_kind']}) from {f['source']}{_by(f)}",
    "node.changed": lambda f: (
        f"{field(f['field'])} changed from {_quoted(f['former'])} to {_quoted(f['value'])}{_by(f)}"
    ),
    "source.claimed": lambda f: f"source {f['source']} claimed{_by(f)}",
    "source.released": lambda f: f"source {f['source']} released{_by(f)}",
    "lifecycle.moved": lambda f: f"moved from {f['origin']} to {f['target']}{_by(f)}: {f['reason']}",
    "node.heard": _heard,
    "node.quiet": lambda f: f"went quiet: nothing heard for {_for(f['silence_ns_max'])}; now {_mode(f['mode'])}",
    "node.degraded": lambda f: f"link degraded{_link(f)}: {f['reason']}; now {_mode(f['mode'])}",
    "node.recovered": lambda f: f"link recovered{_link(f)}; now {_mode(f['mode'])}",
    "node.heartbeat_missed": lambda f: "no heartbeat: the node is heard, its autopilot or agent is not",
    "node.heartbeat_resumed": lambda f: f"heartbeat is back after {_for(f['missing_ns'])}",
    "node.health_changed": lambda f: (
        f"health changed from {f['former']} to {f['health']}" + (f": {f['reason']}" if f["reason"] else "")
    ),
    "node.version_changed": lambda f: f"version changed from {f['former'] or 'none'} to {f['version']}",
    "segment.sealed": lambda f: f"{_records(f['records'])} sealed in a segment of {size(f['bytes_stored'])}",
    "telemetry.dropped": lambda f: (
        f"{_records(f['records'])} of {f['data_class']} let go to make room ({size(f['bytes_freed'])}): {f['reason']}"
    ),
    "telemetry.damaged": lambda f: f"the disk gave back {f['file']} wrong: {f['reason']}; kept as {f['kept_as']}",
    "intake.refused": lambda f: (
        f"{amount(f['messages'])} messages on {f['intake']} never became records: {f['reason']}"
    ),
    "account.created": lambda f: f"account {f['name']} created as {f['role']}{_by(f)}",
    "account.changed": lambda f: (
        f"account {f['name']}: {f['field']} changed" + (f" to {f['value']}" if f["value"] else "") + _by(f)
    ),
    "account.signed_in": lambda f: f"{f['name']} signed in from {f['address']}",
    "account.refused": lambda f: f"sign-in as {f['name']} from {f['address']} refused: {f['reason']}",
    "account.signed_out": lambda f: f"{f['name']} signed out",
    "token.created": lambda f: f"token {f['name']} created as {f['role']}{_by(f)}",
    "token.revoked": lambda f: f"token {f['name']} revoked{_by(f)}",
    "quarantine.settled": lambda f: (
        f"quarantined input {f['item']}: {f['decision']}{_by(f)}" + (f" ({f['reason']})" if f["reason"] else "")
    ),
    "link.turned": lambda f: (
        f"link: {f['former']} → {f['state']}, {f['cause']}" + (f" ({f['reason']})" if f["reason"] else "")
    ),
    "link.changed": lambda f: f"link: {f['action']}" + (f" {f['value']}" if f["value"] else "") + _by(f),
    "site.admitted": lambda f: f"site {f['name']} came for the first time, with its invitation",
    "site.quarantined": lambda f: f"site {f['name']} is held in quarantine: {'; '.join(f['reasons'])}",
    "site.released": lambda f: (
        f"site {f['name']} released from quarantine{_by(f)}" + (f": {f['reason']}" if f["reason"] else "")
    ),
    "log.forked": lambda f: (
        f"the log was continued in two ways after event {f['seq']} of epoch {f['epoch']}; both are kept"
    ),
    "receipt.signed": lambda f: f"receipt {f['number']} signed by both: {f['events']} events, {f['segments']} segments",
    "segment.received": lambda f: f"a segment of {f['records']} records came together here, bit for bit",
    "document.changed": lambda f: (
        ("; ".join(_put(name, value) for name, value in f.get("said", ())) or "a document changed")
        + _by(f)
        + (" (sent again)" if f["repeated"] else "")
    ),
}

# What a line of the journal looks like at a glance; everything else is quiet.
TONE: dict[str, str] = {
    "node.quiet": "offline",
    "storage.failed": "offline",
    "telemetry.damaged": "offline",
    "site.quarantined": "offline",
    "log.forked": "offline",
    "node.degraded": "degraded",
    "node.heartbeat_missed": "degraded",
    "account.refused": "degraded",
    "intake.refused": "degraded",
    "telemetry.dropped": "degraded",
    "clock.stepped": "degraded",
    "node.heard": "online",
    "node.recovered": "online",
    "node.heartbeat_resumed": "online",
    "storage.recovered": "online",
    "site.released": "online",
}


def event(recorded: Recorded) -> str:
    """An event in a sentence. A kind from a newer version says so; it is kept and passed on all the same."""
    says = EVENTS.get(recorded.kind)
    plain = fields(recorded.body)
    if recorded.kind == UNREADABLE:
        return "an event that cannot be read; it is kept as it came"
    if says is None or "raw" in plain:
        return f"{recorded.kind}: a kind that this version does not know, kept as it came"
    return says(plain)
