"""How a page says it: ages, amounts, states and events in plain words.

Values in, words out; no markup, no clock. `age` here and `age()` in static/skerry.js say the same.
An event's sentence leaves its subject out: the page names (and links) the subject beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from fleet import drift, metrics
from fleet.connectivity import Mode, Reach
from fleet.drift import Difference, Standing
from fleet.events import UNREADABLE, Clock, Recorded, fields
from fleet.limits import SECOND
from fleet.past import MISSING, Track, Was
from fleet.people import ALL, Role
from fleet.reading import Flight, Health
from web.ports import DriftGroup, LinkState, NodeRow, ReceiptView

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

BATCH: dict[str, str] = {
    "target_version": "Version wanted",
    "policy_bundle_id": "Policy bundle",
    "maintenance_window": "Maintenance window",
    "domain_id": "Domain",
    "add_tag": "Tag added",
    "remove_tag": "Tag removed",
}

PATH: dict[Reach, str] = {
    Reach.ONLINE: "live",
    Reach.DEGRADED: "degraded",
    Reach.OFFLINE: "silent",
    Reach.UNKNOWN: "unknown",
}

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

LINK_STATE: dict[LinkState, tuple[str, str]] = {
    LinkState.HELD: ("offline", "In quarantine"),
    LinkState.COMING: ("degraded", "Coming back"),
    LinkState.AWAY: ("unknown", CUT_OFF),
    LinkState.LIVE: ("online", "Live"),
}

LANE: dict[str, str] = {
    "control": "greetings, acknowledgements, receipts",
    "snapshots": "how every node is now",
    "log": "what happened, in order",
    "segments": "raw records and charts, in sealed files",
}

FIELD: dict[str, str] = {
    "domain_id": "domain",
    "upstream": "reached over",
    "target_version": "version wanted",
    "policy_bundle_id": "policy bundle",
    "min_battery_pct": "least battery",
    "requires_online": "must be online",
}

MASTER: dict[str, str] = {
    "GLOBAL": "the hub decides",
    "REGION": "the region decides",
    "LOCAL": "the site decides",
}

EXPIRY: dict[str, str] = {
    "carry on": "everything may be edited there",
    "safe subset": "only what makes things safer: least battery, must be online, maintenance window",
    "freeze": "nothing that is wanted may be edited",
    "read only": "nothing at all may be edited",
}

HOMECOMING: dict[str, str] = {
    "hand back": "it hands back by itself",
    "keep": "it keeps deciding until a person says otherwise",
}

CAUSE: dict[str, str] = {
    "accepted": "granted",
    "taken": "the lease ran out, the site took over",
    "returned": "handed back",
}

NEEDS: dict[str, str] = {  # what needs a person, by its cause
    "storage": "Disk",
    "quarantine": "Quarantine",
    "in_air": "Silent in the air",
    "fork": "Forked log",
    "contest": "Contested authority",
    "intake": "Intake",
    "failed": "Failed",
    "heartbeat": "No heartbeat",
    "battery": "Battery",
    "silent": "Silent",
    "parked": "Parked words",
    "conflict": "Conflicts",
    "gap": "Gaps",
    "break_glass": "Break glass",
    "drift": "Drift",
    "debt": "Behind",
    "input": "Input",
    "degraded": "Degraded",
    "delayed": "Delayed",
}

TAKEN_UP: dict[str, str] = {"acknowledged": "seen", "snoozed": "can wait until {0}", "assigned": "{0} has it"}

STANDING: dict[Standing, tuple[str, str]] = {
    Standing.IN_LINE: ("ok", "As wanted"),
    Standing.OUT: ("degraded", "Out of spec"),
    Standing.UNKNOWN: ("unknown", "Unknown"),
    Standing.FREE: ("none", "Nothing wanted"),
}
DRIFTS_PCT, DRIFTS_FAR_PCT = 15.0, 40.0


def drift_of(group: DriftGroup) -> tuple[str, str]:
    """How a domain or a bundle looks: a tone and a word. What is not known is never green."""
    if not group.nodes:
        return "free", "No nodes"
    if group.score is None:
        return ("blind", "Unknown") if group.unknown else ("free", "Nothing wanted")
    if not group.out:
        return ("part", "As wanted, as far as known") if group.unknown else ("good", "As wanted")
    if group.score < DRIFTS_PCT:
        return "little", "Drifts a little"
    return ("much", "Drifts") if group.score < DRIFTS_FAR_PCT else ("far", "Drifts far")


def pointer(text: str) -> str:
    return drift.label(text)


def wanted(line: Difference) -> str:
    return drift.wanted(line)


def found(line: Difference) -> str:
    unit_ = drift.unit(line.pointer)
    return f"{line.found} {unit_}" if unit_ and line.found else line.found or "nothing told"


def why(line: Difference) -> str:
    """One difference in a row of a list."""
    return (
        drift.reason(line)
        if line.words or not line.pointer.startswith("/values/")
        else (f"{drift.label(line.pointer)} {found(line)}, wanted {wanted(line)}")
    )


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

ROLE: dict[Role, str] = {
    Role.VIEWER: "looks",
    Role.OPERATOR: "looks and acts, across all tenants",
    Role.ADMIN: "acts, and decides who else may",
    Role.OPERATOR_ADMIN: "decides, across all tenants",
}

CLOCK: dict[Clock, str] = {
    Clock.SYNCED: "Synchronised: the kernel says that NTP or a receiver keeps it.",
    Clock.FREE_RUNNING: "Free-running: plausible, kept by nobody. Times may drift by seconds a day.",
    Clock.NOT_TRUSTED: "Not trusted: it is behind its own floor. Order still holds, hours and dates may be wrong.",
}

DONE: dict[str, str] = {
    "adopted": "Adopted. Its past records came with it.",
    "changed": "Changed.",
    "created": "Made. Now say what is wanted; it goes to every site.",
    "moved": "Moved.",
    "claimed": "The source now belongs to this node.",
    "device-claimed": "The device is claimed: it is the one that showed this secret.",
    "released": "The source is unclaimed again. It stands on the Intake page.",
    "retry": "Tried again. What could be read this time is with its node.",
    "drop": "Dropped. The journal says by whom.",
    "account": "The account exists. Hand over its password by word of mouth.",
    "disabled": "The account is closed and its sessions are ended.",
    "password": "The password is changed.",
    "revoked": "The token no longer opens anything.",
    "code-withdrawn": "Withdrawn. Nobody can trade that code any more.",
    "credential-revoked": "Revoked. It counts no more from now on, and whoever was connected with it is cut off.",
    "signed-out": "You are signed out.",
    "taken": "Taken. It holds from now on, here and at the other end.",
    "applied": "Carried out, as a whole. Each decision is in the journal with your name and why.",
    "undone": "Undone. What held before holds again.",
    "cut": "The link is cut. Nothing is lost; everything waits here until you restore it.",
    "restore": "The link is restored. The present goes first, then what happened meanwhile.",
    "pause": "The lane stands still. What is in it waits.",
    "resume": "The lane goes on.",
    "per_s": "The cap holds from now on.",
    "per_hour": "The cap holds from now on.",
    "release": "Released. The site goes on where it stood.",
    "granted": "Granted. It holds at each site from the moment at which the site hears of it.",
    "handed-back": "Handed back. The journal says by whom, and why.",
    "parked-take": "Taken. It holds from now on, here and at the other end.",
    "parked-drop": "Let go. What holds stays as it is; the journal keeps what was written, and why it was let go.",
    "seen": "Seen. It stays out of the queue until it begins anew, here and at the other end.",
    "later": "It comes back by itself.",
    "mine": "Taken up. Everybody sees by whom, here and at the other end.",
    "back": "It stands as if nobody had said anything.",
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


def offset(ns: int) -> str:
    """Of a clock against ours: 640 ms ahead, 3 min behind."""
    size = abs(ns)
    written = f"{size // 1_000_000} ms" if size < 2_000_000_000 else age(size / 1e9)
    return f"{written} {'behind' if ns < 0 else 'ahead'}"


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


def said(value: object) -> str:
    """A value of a document as people write it; empty where it was taken away."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


_ULID = re.compile(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b")


def named(said: str, names: Mapping[str, str]) -> str:
    """A sentence in which ids are the names they go by, where those are known."""
    return _ULID.sub(lambda match: names.get(match[0], match[0]), said)


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
    if name in TAKEN_UP:
        first, _, remark = value.partition("\n")
        what = NEEDS.get(entry, entry).lower()
        return f"{what}: {TAKEN_UP[name].format(first or 'nobody')}{f' (“{_shortened(remark)}”)' if remark else ''}"
    if entry:
        said = "" if value == "True" else f": {value}"
        return f"{name.removesuffix('s')} {entry}{said}"
    return f"{field(name)} {_quoted(_shortened(value))}"


def _shortened(value: str) -> str:
    return value if len(value) <= _VALUE_CHARS_MAX else value[: _VALUE_CHARS_MAX - 1] + "…"


def _by(f: Mapping[str, Any]) -> str:
    return f" by {f['actor']}" if f.get("actor") else ""


def _from(f: Mapping[str, Any]) -> str:
    """By whom, and from where."""
    return _by(f) + (f" from {f['address']}" if f["address"] else "")


def _for(ns: int) -> str:
    return age(ns / SECOND)


def _role(name: str) -> str:
    return name.lower().replace("_", "-")


def _sites(sites: Sequence[str]) -> str:
    return "every site" if ALL in sites else ", ".join(sites) or "the hub alone"


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


def _value(value: object) -> str:
    return _quoted(_shortened(said(value)))


def _left(left: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{_quoted(_shortened(value))} of {who}" for who, value in left)


def _for_site(f: Mapping[str, Any]) -> str:
    return f"for {f['site']} " if f["site"] else ""


def _records(count: int) -> str:
    return f"{amount(count)} record{'' if count == 1 else 's'}"


_BEGAN = {
    "accepted": "the site accepted the grant",
    "taken": "the lease ran out, the site decides alone",
    "returned": "the site handed it back",
}


def _terms(f: Mapping[str, Any]) -> str:
    lease = (
        f"lease {_for(f['lease_ns'])}, then {f['on_expiry']}, then {f['on_return']}" if f["lease_ns"] else "no lease"
    )
    return f"{MASTER.get(f['master'], f['master'])} ({lease})"


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
    "device.called": lambda f: (
        f"the device was asked to {f['method']} {f['params']}{_by(f)}"
        + (" (no answer awaited)" if f["one_way"] else "")
    ),
    "device.call_ended": lambda f: f"{f['method']}: {f['outcome']} after {_for(f['took_ns'])}",
    "device.claimed": lambda f: f"the device was claimed with its secret{_by(f)}",
    "segment.sealed": lambda f: (
        f"{_records(f['records']) if f['content'] == 'raw' else 'charts'} sealed in a segment of {size(f['bytes_stored'])}"
    ),
    "telemetry.dropped": lambda f: (
        f"a file of charts for the hub let go ({size(f['bytes_freed'])}): {f['reason']}"
        if f["data_class"] == "series" and f["sha256"]
        else f"{_records(f['records'])} of {f['data_class']} let go to make room ({size(f['bytes_freed'])}): {f['reason']}"
    ),
    "telemetry.damaged": lambda f: f"the disk gave back {f['file']} wrong: {f['reason']}; kept as {f['kept_as']}",
    "intake.refused": lambda f: (
        f"{amount(f['messages'])} messages on {f['intake']} never became records: {f['reason']}"
    ),
    "account.created": lambda f: (
        f"account {f['name']} created as {_role(f['role'])}{_by(f)}"
        + (f", for {_sites(f['sites'])}" if f["sites"] else "")
    ),
    "account.changed": lambda f: (
        f"account {f['name']} closed{_by(f)}"
        if f["field"] == "disabled"
        else f"account {f['name']}: {f['field']} changed" + (f" to {f['value']}" if f["value"] else "") + _by(f)
    ),
    "account.signed_in": lambda f: f"{f['name']} signed in from {f['address']}",
    "account.refused": lambda f: f"sign-in as {f['name']} from {f['address']} refused: {f['reason']}",
    "account.signed_out": lambda f: f"{f['name']} signed out",
    "token.created": lambda f: f"token {f['name']} created as {_role(f['role'])}{_by(f)}",
    "token.revoked": lambda f: f"token {f['name']} revoked{_by(f)}",
    "roster.taken": lambda f: (
        f"people of {f['hub']} came: "
        + ("; ".join(f"{name} {what}" + (f" by {by}" if by else "") for name, what, by in f["said"]) or "nothing new")
        + (f"; {', '.join(f['clashes'])}: the one made here holds" if f["clashes"] else "")
    ),
    "roster.refused": lambda f: f"people from the hub were refused ({f['reason']}); version {f['version']} stays",
    "glass.sealed": lambda f: f"a break-glass account was sealed{_by(f)}",
    "glass.broken": lambda f: f"the break-glass account was used from {f['address']}; good until {when(f['until_ns'])}",
    "tenant.added": lambda f: f"tenant {f['name']} added, {f['admin']} its first admin{_by(f)}",
    "access.seen": lambda f: (
        f"{f['name']} ({_role(f['role'])}) asked for {f['route']} from {f['address'] or 'here'}"
        + (f" with {f['agent']}" if f["agent"] else "")
    ),
    "device.enrolled": lambda f: f"enrolled {f['name']}{' as a gateway' if f['gateway'] else ''}{_from(f)}",
    "credential.issued": lambda f: (
        f"{f['credential_kind']} {f['label']} issued{_from(f)}: {f['why']}"
        + (f"; good until {when(f['expires_ns'])}" if f["expires_ns"] else "")
    ),
    "credential.rotated": lambda f: (
        f"credential {f['former'][-8:]} replaced by {f['credential'][-8:]}{_from(f)}: {f['why']};"
        f" both count until {when(f['grace_until_ns'])}"
    ),
    "credential.revoked": lambda f: f"{f['credential_kind']} {f['label']} revoked{_from(f)}: {f['why']}",
    "code.made": lambda f: (
        f"activation code {f['code'][-8:]} made for {f['name'] or counted(f['uses'], 'device')}"
        f"{', as gateway' if f['gateway'] else ''}{_from(f)}; good until {when(f['expires_ns'])}"
    ),
    "code.withdrawn": lambda f: f"activation code {f['code'][-8:]} withdrawn{_from(f)}: {f['why']}",
    "quarantine.settled": lambda f: (
        f"quarantined input {f['item']}: {f['decision']}{_by(f)}"
        + (f" ({f['reason']})" if f["reason"] else "")
        + (f", now a record of {f['source']}" if f["source"] else "")
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
    "segment.received": lambda f: (
        f"a segment of {_records(f['records']) if f['records'] else 'charts'} came together here, bit for bit"
    ),
    "document.changed": lambda f: (
        ("; ".join(_put(name, value) for name, value in f.get("said", ())) or "a document changed")
        + _by(f)
        + (" (sent again)" if f["repeated"] else "")
    ),
    "authority.granted": lambda f: (
        f"authority granted as epoch {f['epoch']}: {_terms(f)}{_by(f)}" + (f" ({f['why']})" if f["why"] else "")
    ),
    "authority.began": lambda f: (
        f"epoch {f['epoch']} of authority began: {_BEGAN.get(f['cause'], f['cause'])}"
        + (f" after {_for(f['silent_ns'])} without a word" if f["silent_ns"] else "")
        + f"; {_terms(f)}{_by(f)}"
        + (f" ({f['why']})" if f["why"] else "")
    ),
    "authority.settled": lambda f: (
        f"what {f['who']} wrote into {field(f['field'])}, {_quoted(f['value'])}, was"
        f" {'taken' if f['decision'] == 'take' else 'let go'}{_by(f)}" + (f" ({f['why']})" if f["why"] else "")
    ),
    "conflict.decided": lambda f: (
        f"{field(f['pointer'])}: {_value(f['taken'])} was taken"
        + (f" over {_left(f['left'])}" if f["left"] else "")
        + f"{_by(f)}: {f['why']}"
    ),
    "plan.applied": lambda f: (
        f"{counted(f['decisions'], 'decision')} of the plan {_for_site(f)}carried out{_by(f)}: {f['why']}"
    ),
    "plan.undone": lambda f: (
        f"{counted(f['decisions'], 'decision')} of the plan {_for_site(f)}undone{_by(f)}: {f['why']}"
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
    "roster.refused": "degraded",
    "glass.broken": "offline",
    "intake.refused": "degraded",
    "telemetry.dropped": "degraded",
    "clock.stepped": "degraded",
    "node.heard": "online",
    "node.recovered": "online",
    "node.heartbeat_resumed": "online",
    "storage.recovered": "online",
    "site.released": "online",
}


def turn(was: Was) -> str:
    """What began to stand, in a few words."""
    match was.track:
        case Track.CONNECTIVITY:
            return MODE[Mode(was.said)]
        case Track.HEARTBEAT:
            return "no heartbeat" if was.said == MISSING else "heartbeat again"
        case Track.HEALTH:
            return f"health {HEALTH[Health(was.said)]}" if was.said in Health.__members__ else "health turned"
        case Track.VERSION:
            return f"version {was.said}"
        case Track.LIFECYCLE:
            return was.said.replace("/", " · ")
        case _:
            return "adopted" if was.track is Track.ADOPTED else was.said


def event(recorded: Recorded) -> str:
    """An event in a sentence. A kind from a newer version says so; it is kept and passed on all the same."""
    says = EVENTS.get(recorded.kind)
    plain = fields(recorded.body)
    if recorded.kind == UNREADABLE:
        return "an event that cannot be read; it is kept as it came"
    if says is None or "raw" in plain:
        return f"{recorded.kind}: a kind that this version does not know, kept as it came"
    return says(plain)
