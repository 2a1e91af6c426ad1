"""What has happened at a site of a synthetic fleet in the past weeks, and what is there now?

A story is a function of its seed: the same site has the same nodes, history and present whenever it is told again.

Rules of the file
  1  Pure: no clock, no chance but the seed, no I/O.
  2  Facts are such as the evaluator and people at a site make, in the order of their time, and agree with the present.
  3  Rates are of a day of one node; a site of a hundred nodes has about seventeen facts for each of them in three weeks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fleet import ids
from fleet.connectivity import Mode
from fleet.events import (
    Body,
    HealthChanged,
    LifecycleMoved,
    LinkTurned,
    NodeAdopted,
    NodeDegraded,
    NodeHeard,
    NodeQuiet,
    NodeRecovered,
    SourceClaimed,
    VersionChanged,
)
from fleet.limits import DAY, HOUR, MINUTE, MS, SECOND
from fleet.node import Kind
from fleet.present import Present, Told
from fleet.reading import Flight, Health, Position

SITES_MAX = 2_000
HISTORY_DAYS_MAX = 365


class Fate(StrEnum):
    """What becomes of a site once its past is told."""

    LIVE = "live"  # connected, and speaks on
    AWAY = "cut off"  # its last words are hours or days old
    SLOW = "replaying"  # on a line so slow that it replays for hours
    CONFLICT = "conflict"  # was edited at both ends while it was away
    CLONED = "cloned"  # its card was copied, and the copy spoke too


class Plan(NamedTuple):
    """A site before anything happened there. `behind_ns` is how old its last word is."""

    number: int
    name: str
    lat_deg: float
    lon_deg: float
    fate: Fate
    behind_ns: int
    nodes: int
    seed: int


class Fact(NamedTuple):
    wall_ns: int
    subject: str
    body: Body


class Story(NamedTuple):
    """`facts` up to now; `edits` are what people wrote in documents at `edited_ns`: node id, pointer to value."""

    facts: Sequence[Fact]
    nodes: Mapping[str, Present]
    edited_ns: int
    edits: Mapping[str, Mapping[str, str]]


# name, latitude, longitude of the middle, both in degrees
_COASTS = (
    ("lofoten", 68.2, 13.9),
    ("senja", 69.3, 17.3),
    ("varanger", 70.1, 29.8),
    ("nordkyn", 70.9, 27.2),
    ("helgeland", 66.0, 12.5),
    ("vega", 65.6, 11.9),
    ("froan", 64.0, 9.1),
    ("hitra", 63.6, 8.7),
    ("runde", 62.4, 5.6),
    ("stad", 62.1, 5.1),
    ("fedje", 60.8, 4.7),
    ("bomlo", 59.7, 5.2),
    ("karmoy", 59.2, 5.2),
    ("lista", 58.1, 6.6),
    ("koster", 58.9, 11.0),
    ("orust", 58.2, 11.4),
    ("gotland", 57.5, 18.6),
    ("oland", 56.7, 16.8),
    ("aland", 60.2, 20.0),
    ("kvarken", 63.3, 21.1),
    ("shetland", 60.3, -1.3),
    ("orkney", 59.0, -3.0),
    ("faroe", 62.0, -6.8),
    ("lewis", 58.2, -6.7),
    ("skagen", 57.7, 10.6),
)
# fmt: off
_PLACES = (
    "alder", "birch", "rowan", "juniper", "heather", "sedge", "kelp", "mussel", "limpet", "gannet",
    "puffin", "tern", "eider", "fulmar", "heron", "otter", "seal", "orca", "harbour", "jetty",
    "beacon", "mole", "quay", "sound", "narrows", "bay", "cove", "reef", "holm", "ness",
    "point", "ridge", "saddle", "ledge", "cairn", "moor", "dune", "marsh", "spit", "bluff",
)
# fmt: on
_DEGREES = 0.45  # sites stand so far from the middle of their coast

# what, of which kind, share of a site, tags, versions from the oldest to the one that is wanted, by which way in
_CREW = (
    ("gateway", Kind.GATEWAY, 0.01, ("backbone",), ("9.4.1", "9.5.0"), "syslog"),
    ("relay", Kind.RELAY, 0.04, ("backbone", "mesh"), ("3.0.7", "3.1.0"), "syslog"),
    ("server", Kind.DC, 0.02, ("fts",), ("2026.8", "2026.10"), "http"),
    ("laptop", Kind.EDGE, 0.08, ("crew",), ("22.04.3", "22.04.5"), "http"),
    ("sensor", Kind.EDGE, 0.25, ("weather", "fixed"), ("1.2.0", "1.3.2", "1.4.0"), "influx"),
    ("drone", Kind.EDGE, 0.60, ("drone", "survey"), ("4.3.8", "4.4.0", "4.5.1"), "mqtt"),
)
# share of the nodes, troubles a day
_QUALITIES = ((0.70, 0.03), (0.92, 0.15), (1.00, 0.6))
_IN_TROUBLE = 0.03  # of the nodes, now
_UPDATED = 0.86  # of the nodes that an update was meant for
_FAILED = 0.03
_EDITS = 8  # documents at each site, about
_BY = ("alice", "bob", "crew")


# -- who there is ------------------------------------------------------------------------------------------------------


def plans(sites: int, nodes: int, seed: int) -> tuple[Plan, ...]:
    dice = random.Random(f"fleet {seed}")
    spots = [(coast, place) for place in _PLACES for coast in _COASTS]
    dice.shuffle(spots)
    found: list[Plan] = []
    for number in range(sites):
        (coast, lat_deg, lon_deg), place = spots[number % len(spots)]
        again = number // len(spots)
        fate = _FIRST[number] if number < len(_FIRST) else _fate(dice)
        away = fate in (Fate.AWAY, Fate.CLONED)
        found.append(
            Plan(
                number,
                f"{coast}-{place}" + (f"-{again + 1}" if again else ""),
                lat_deg + dice.gauss(0, _DEGREES / 2),
                lon_deg + dice.gauss(0, _DEGREES),
                fate,
                int(min(dice.expovariate(1 / 30.0), 240.0) * HOUR) if away else 0,
                nodes,
                dice.getrandbits(48),
            )
        )
    return tuple(found)


# A small fleet has one of each; in a large one a third is live.
_FIRST = (Fate.LIVE, Fate.AWAY, Fate.CONFLICT, Fate.CLONED, Fate.SLOW)
_FATES = ((0.28, Fate.LIVE), (0.30, Fate.CONFLICT), (0.32, Fate.SLOW), (0.325, Fate.CLONED), (1.0, Fate.AWAY))


def _fate(dice: random.Random) -> Fate:
    drawn = dice.random()
    return next(fate for share, fate in _FATES if drawn < share)


# -- what happened -----------------------------------------------------------------------------------------------------


def told(plan: Plan, writer: str, days: int, now_ns: int) -> Story:
    """The site's story up to `now_ns` of its own clock. `writer` is who writes its log."""
    dice = random.Random(plan.seed)
    from_ns = now_ns - days * DAY
    outages = _outages(dice, days, from_ns, now_ns)
    facts: list[Fact] = []
    nodes: dict[str, Present] = {}
    behind: list[str] = []
    wanted: dict[str, str] = {}
    for what, number in _crew(plan.nodes):
        name = f"{what[0]}-{number:02}"
        node_id = ids.ulid(from_ns // MS, dice.getrandbits(80).to_bytes(10, "big"))
        present = _Life(dice, plan, node_id, name, what, from_ns, now_ns).tell(outages, facts)
        nodes[node_id] = present
        wanted[node_id] = what[4][-1]
        if present.version != what[4][-1]:
            behind.append(node_id)
    for at_ns, lasted_ns in outages:
        facts += _line_turns(writer, at_ns, lasted_ns)
    facts.sort(key=_when)
    edited_ns = now_ns - min(days * DAY // 3, 2 * DAY)
    chosen = [*behind[: _EDITS // 2], *dice.sample(sorted(nodes), min(_EDITS // 2, len(nodes)))]
    domain = plan.name.partition("-")[0]
    edits = {node_id: _wish(dice, nodes[node_id], wanted[node_id], domain) for node_id in dict.fromkeys(chosen)}
    return Story(facts, nodes, edited_ns, edits)


def _when(fact: Fact) -> int:
    return fact.wall_ns


_What = tuple[str, Kind, float, tuple[str, ...], tuple[str, ...], str]


def _crew(nodes: int) -> Iterator[tuple[_What, int]]:
    """Each kind by its share, drones for the rest."""
    left = nodes
    for what in _CREW:
        count = left if what is _CREW[-1] else min(max(round(what[2] * nodes), 1), left)
        left -= count
        yield from ((what, number) for number in range(1, count + 1))


def _outages(dice: random.Random, days: int, from_ns: int, now_ns: int) -> list[tuple[int, int]]:
    """When the site had no line to its hub, and how long; in order, apart from one another."""
    found: list[tuple[int, int]] = []
    at_ns = from_ns + DAY // 2
    while (at_ns := at_ns + int(dice.expovariate(1 / 6.0) * DAY)) < now_ns - DAY:
        lasted_ns = int(min(dice.lognormvariate(1.0, 1.2), 70.0) * HOUR)
        found.append((at_ns, min(lasted_ns, now_ns - HOUR - at_ns)))
        at_ns += lasted_ns + HOUR
    return found


def _line_turns(writer: str, at_ns: int, lasted_ns: int) -> list[Fact]:
    turns = (
        (0, LinkTurned("harbor", "LIVE", "AUTONOMOUS", "line down", "")),
        (lasted_ns, LinkTurned("harbor", "RETURNING", "REPLAYING", "welcome", "")),
        (lasted_ns + MINUTE, LinkTurned("harbor", "REPLAYING", "LIVE", "covered", "")),
    )
    return [Fact(at_ns + later_ns, writer, turn) for later_ns, turn in turns]


def _wish(dice: random.Random, present: Present, version: str, domain: str) -> dict[str, str]:
    note = dice.choice(("battery swapped", "antenna bent, watch the loss", "moved to the north mast", "ok after rain"))
    bundle = f"{present.name.partition('-')[0]}s-2026-11"
    said = {"name": present.name, "target_version": version, "policy_bundle_id": bundle, "domain_id": domain}
    return {**said, "notes": note}


class _Life:
    """One node from its first day to now."""

    def __init__(
        self, dice: random.Random, plan: Plan, node_id: str, name: str, what: _What, from_ns: int, now_ns: int
    ) -> None:
        self.dice, self.plan, self.id, self.name, self.what = dice, plan, node_id, name, what
        self.from_ns, self.now_ns = from_ns, now_ns
        self.version = what[4][0]
        self.health, self.phase = Health.OK, "ACTIVE"
        self.mode, self.since_ns = Mode.LIVE, from_ns

    def tell(self, outages: Sequence[tuple[int, int]], facts: list[Fact]) -> Present:
        """Add what happened to `facts`; what is now."""
        self._begin(facts)
        self._updates(facts)
        self._troubles(outages, facts)
        return self._present()

    def _begin(self, facts: list[Fact]) -> None:
        at_ns = self.from_ns + self.dice.randrange(HOUR, 5 * HOUR)
        by, (_, kind, _, tags, versions, via) = self.dice.choice(_BY), self.what
        source = f"{via}/10.{self.plan.number >> 8}.{self.plan.number & 255}.{self.dice.randrange(250)}/{self.name}"
        first = (
            NodeAdopted(self.name, kind.value, source, by, tags),
            SourceClaimed(source, self.id, by),
            LifecycleMoved("PROVISIONING", "ENROLLED", "adopted", by),
            LifecycleMoved("ENROLLED", "ACTIVE", "first heartbeat"),
            NodeHeard("LIVE", "", via),
            VersionChanged("", versions[0]),
        )
        facts += [Fact(at_ns + number * SECOND, self.id, body) for number, body in enumerate(first)]
        self.since_ns = at_ns + 4 * SECOND

    def _updates(self, facts: list[Fact]) -> None:
        """Waves: to each version in turn, at a time of the site's own; some nodes are missed, some fail."""
        versions, span = self.what[4], self.now_ns - self.from_ns
        for wave, version in enumerate(versions[1:], 1):
            at_ns = (
                self.from_ns + span * wave // len(versions) + self.plan.seed % (span // 8) + self.dice.randrange(HOUR)
            )
            if self.phase != "ACTIVE" or self.dice.random() > _UPDATED or at_ns > self.now_ns - HOUR:
                continue
            facts.append(
                Fact(at_ns, self.id, LifecycleMoved("ACTIVE", "UPDATING", f"wave {wave} to {version}", "alice"))
            )
            done_ns = at_ns + self.dice.randrange(MINUTE, 12 * MINUTE)
            if self.dice.random() < _FAILED:
                facts.append(Fact(done_ns, self.id, LifecycleMoved("UPDATING", "DEGRADED", "the update did not start")))
                facts.append(Fact(done_ns, self.id, HealthChanged("OK", "DEGRADED", "boots from its old slot")))
                self.phase, self.health = "DEGRADED", Health.DEGRADED
            else:
                facts.append(Fact(done_ns, self.id, VersionChanged(self.version, version)))
                facts.append(Fact(done_ns, self.id, LifecycleMoved("UPDATING", "ACTIVE", "the update holds")))
                self.version = version

    def _troubles(self, outages: Sequence[tuple[int, int]], facts: list[Fact]) -> None:
        drawn, via = self.dice.random(), self.what[5]
        per_day = next(rate for share, rate in _QUALITIES if drawn < share)
        troubles = [(at_ns, min(lasted_ns, 2 * HOUR)) for at_ns, lasted_ns in outages if self.dice.random() < 0.3]
        at_ns = self.from_ns + 6 * HOUR
        while (at_ns := at_ns + int(self.dice.expovariate(per_day) * DAY)) < self.now_ns:
            troubles.append((at_ns, int(min(self.dice.lognormvariate(3.2, 1.1), 1_500.0) * MINUTE)))
        if self.dice.random() < _IN_TROUBLE:
            troubles.append((self.now_ns - self.dice.randrange(MINUTE, 5 * HOUR), DAY))
        over_ns = 0
        for at_ns, lasted_ns in sorted(troubles):
            if at_ns < over_ns:
                continue
            over_ns = at_ns + lasted_ns + SECOND
            if self.dice.random() < 0.6:
                self._slow(at_ns, lasted_ns, facts)
            else:
                self._silent(at_ns, lasted_ns, via, facts)

    def _slow(self, at_ns: int, lasted_ns: int, facts: list[Fact]) -> None:
        rtt, loss = round(self.dice.uniform(300, 900), 1), round(self.dice.uniform(4, 60), 1)
        facts.append(Fact(at_ns, self.id, NodeDegraded("DELAYED", "LIVE", "round trip over the bound", rtt, loss)))
        self.mode, self.since_ns = Mode.DELAYED, at_ns
        if at_ns + lasted_ns < self.now_ns:
            self._well(at_ns + lasted_ns, "DELAYED", facts)

    def _silent(self, at_ns: int, lasted_ns: int, via: str, facts: list[Fact]) -> None:
        facts.append(Fact(at_ns, self.id, NodeQuiet("DISCONNECTED", "LIVE", at_ns - 15 * SECOND, 15 * SECOND)))
        self.mode, self.since_ns = Mode.DISCONNECTED, at_ns
        if at_ns + lasted_ns + SECOND < self.now_ns:
            back_ns = at_ns + lasted_ns
            facts.append(Fact(back_ns, self.id, NodeHeard("RETURNING", "DISCONNECTED", via, 0, lasted_ns)))
            self._well(back_ns + SECOND, "RETURNING", facts)

    def _well(self, at_ns: int, former: str, facts: list[Fact]) -> None:
        rtt = round(self.dice.uniform(1, 90), 1)
        facts.append(Fact(at_ns, self.id, NodeRecovered("LIVE", former, "round trip back inside it", rtt, 0.0)))
        self.mode, self.since_ns = Mode.LIVE, at_ns

    def _present(self) -> Present:
        dice, (what, kind, _, tags, _, via) = self.dice, self.what
        lost = self.mode is Mode.DISCONNECTED
        seen_ns = (self.since_ns - 15 * SECOND if lost else self.now_ns - dice.randrange(12 * SECOND)) // MS * MS
        rtt, loss = (
            (dice.uniform(300, 900), dice.uniform(4, 60)) if self.mode is Mode.DELAYED else (dice.uniform(1, 90), 0)
        )
        values = {"rtt_ms": Told(round(rtt, 1), seen_ns, via), "loss_pct": Told(round(loss, 1), seen_ns, via)}
        if what in ("drone", "sensor", "laptop"):
            values["battery_pct"] = Told(round(dice.uniform(12, 100), 1), seen_ns, via)
        if what == "sensor":
            values["temp_c"] = Told(round(dice.uniform(-8, 14), 1), seen_ns, via)
        airborne = what == "drone" and self.mode is Mode.LIVE and dice.random() < 0.12
        far = 0.05 if what == "drone" else 0.01
        return Present(
            self.id,
            self.name,
            kind,
            tags,
            self.mode,
            self.since_ns // MS * MS,
            seen_ns,
            via,
            self.health,
            None,
            self.phase,
            self.version,
            Position(
                round(self.plan.lat_deg + dice.gauss(0, far), 6),
                round(self.plan.lon_deg + dice.gauss(0, 2 * far), 6),
                round(dice.uniform(40, 120), 1) if airborne else round(dice.uniform(2, 30), 1),
            ),
            seen_ns,
            (Flight.AIR if airborne else Flight.GROUND) if what == "drone" else None,
            airborne if what == "drone" else None,
            f"10.{self.plan.number >> 8}.{self.plan.number & 255}.{dice.randrange(1, 250)}",
            uptime_s=float(dice.randrange(3_600, 900_000)),
            values=values,
        )


# -- and then ----------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a node did just now, and the fact of it if its state turned."""

    present: Present
    body: Body | None


def step(present: Present, now_ns: int, dice: random.Random) -> Step:
    """A node's next word: it moves, its battery goes down, sometimes its state turns."""
    at_ns, via = now_ns // MS * MS, present.seen_via
    turn, mode = _turn(present, dice), present.mode
    if turn is not None:
        mode = Mode(turn.mode)
    if mode is Mode.DISCONNECTED:
        return Step(_with(present, mode, at_ns if turn is not None else None), turn)
    late = mode is Mode.DELAYED
    values = dict(present.values)
    values["rtt_ms"] = Told(round(dice.uniform(300, 900) if late else dice.uniform(1, 90), 1), at_ns, via)
    values["loss_pct"] = Told(round(dice.uniform(4, 60), 1) if late else 0.0, at_ns, via)
    battery = values.get("battery_pct")
    if battery is not None:
        airborne = present.flight is Flight.AIR
        left = battery.value - dice.uniform(0.1, 0.4) if airborne else min(battery.value + 0.2, 100.0)
        values["battery_pct"] = Told(round(left if left > 8 else 100.0, 1), at_ns, via)
    moved = msgspec.structs.replace(
        _with(present, mode, at_ns if turn is not None else None),
        seen_ns=at_ns,
        position=_flown(present, at_ns),
        position_ns=at_ns,
        values=values,
    )
    return Step(moved, turn)


def _with(present: Present, mode: Mode | None, since_ns: int | None) -> Present:
    return msgspec.structs.replace(present, mode=mode, since_ns=since_ns or present.since_ns)


_TURNS = 0.004  # a word in so many


def _turn(present: Present, dice: random.Random) -> NodeDegraded | NodeRecovered | NodeQuiet | NodeHeard | None:
    drawn = dice.random()
    match present.mode:
        case Mode.LIVE if drawn < _TURNS / 2:
            return NodeDegraded("DELAYED", "LIVE", "round trip over the bound", round(dice.uniform(300, 900), 1), 12.0)
        case Mode.LIVE if drawn < _TURNS * 0.7:
            return NodeQuiet("DISCONNECTED", "LIVE", present.seen_ns or 0, 15 * SECOND)
        case Mode.DELAYED | Mode.RETURNING if drawn < 20 * _TURNS:
            return NodeRecovered(
                "LIVE", str(present.mode), "round trip back inside it", round(dice.uniform(1, 90), 1), 0.0
            )
        case Mode.DISCONNECTED if drawn < 10 * _TURNS:
            return NodeHeard("RETURNING", "DISCONNECTED", present.seen_via)
        case _:
            return None


def _flown(present: Present, at_ns: int) -> Position | None:
    """What is in the air flies a circle of some hundred metres, in three minutes."""
    position = present.position
    if position is None or present.flight is not Flight.AIR:
        return position
    angle = at_ns % (180 * SECOND) / (180 * SECOND) * 2 * math.pi
    return position._replace(
        lat_deg=round(position.lat_deg + 0.0004 * math.cos(angle), 6),
        lon_deg=round(position.lon_deg + 0.0008 * math.sin(angle), 6),
        heading_deg=round(math.degrees(-angle) % 360, 1),
        speed_mps=12.0,
    )
