"""A small island in memory: a box with 25 believable nodes and three people, for tests of the pages that need no disk.

Alice is admin, Bob viewer, Olga operator; each has the password PASSWORD and a bearer token `token-<name>`. The box
keeps the promises of `web.ports` and does what it is told, so that a test sees the change come back.
"""

from __future__ import annotations

import asyncio
import math
import random
from array import array
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fleet import audit, past
from fleet import events as facts
from fleet.audit import Page, Query
from fleet.authority import Names
from fleet.board import text as text_of
from fleet.connectivity import REACH, Mode, Reach
from fleet.events import Body, Clock, Recorded
from fleet.ids import ulid
from fleet.lifecycle import Phase, Place, State, place, refusal, targets
from fleet.limits import DAY, HOUR, MINUTE, SECOND
from fleet.node import (
    Actual,
    Connectivity,
    Desired,
    Endpoint,
    Inventory,
    Kind,
    Lifecycle,
    LinkQuality,
    Node,
)
from fleet.projections import authority
from fleet.reading import Flight, Health, Position
from store.rights import Rights
from tests.web.agenda import Agenda
from tests.web.board import Slate
from tests.web.desk import Desk
from web.past import Then
from web.ports import (
    ALL_NODES,
    AccountView,
    Attention,
    AttentionQuery,
    AttentionView,
    AttentionWish,
    AuthorityLine,
    AuthorityTerms,
    AuthorityView,
    BatchView,
    BudgetClass,
    BudgetView,
    BundleView,
    Choice,
    DebtLine,
    Devices,
    DeviceState,
    FieldConflict,
    Fitness,
    Gauge,
    Glass,
    Identity,
    IntakeLine,
    IntakeView,
    LaneView,
    Latest,
    LatestQuery,
    LinkQuery,
    LinksView,
    LinkView,
    NodeQuery,
    NodeRow,
    NodeView,
    ParkedValue,
    QuarantineItem,
    ReceiptView,
    RecordPage,
    RecordView,
    Refused,
    Role,
    RosterView,
    SaidView,
    Series,
    Severity,
    SiteView,
    SourceView,
    TokenView,
    Unavailable,
    Value,
    VerifyStep,
    WayIn,
)
from web.rows import batch, everyone, groups, ids, matching, relays

NOW_NS = 1_795_253_400 * SECOND
PASSWORD = "correct horse battery"
SETUP_SECRET = "first-light"
NAMES = [
    "kestrel-1",
    "kestrel-2",
    "kestrel-3",
    "kestrel-4",
    "kestrel-5",
    "kestrel-6",
    "kestrel-7",
    "kestrel-8",
    "merlin-1",
    "merlin-2",
    "merlin-3",
    "merlin-4",
    "osprey-1",
    "osprey-2",
    "osprey-3",
    "pilot-anna",
    "pilot-birk",
    "pilot-cora",
    "pilot-dag",
    "fts-north",
    "fts-south",
    "fts-east",
    "mast-1",
    "mast-2",
    "gate-alder",
]


def entropy(number: int) -> bytes:
    return number.to_bytes(10, "big")


class People:
    """Accounts, sessions and tokens in three dictionaries."""

    def __init__(self, *, empty: bool = False) -> None:
        made = NOW_NS - 30 * DAY
        roles = {} if empty else {"alice": Role.ADMIN, "olga": Role.OPERATOR, "bob": Role.VIEWER}
        self.held = {
            name: AccountView(name=name, role=role, created_ns=made, disabled=False) for name, role in roles.items()
        }
        self.secrets = dict.fromkeys(roles, PASSWORD)
        self.sessions: dict[str, Identity] = {}
        self.keys = {
            f"token-{name}": TokenView(name=f"scripts of {name}", role=role, created_ns=made, revoked_ns=None)
            for name, role in roles.items()
        }
        self.failures = 0
        self.glass = Glass()
        self.list: RosterView | None = None
        self.looked: list[tuple[str, str, str]] = []

    async def change_account(
        self, who: Identity, name: str, role: Role | None = None, sites: Sequence[str] | None = None
    ) -> None:
        if name not in self.held:
            raise Refused("There is no such account.", 404)
        account = self.held[name]
        self.held[name] = msgspec.structs.replace(
            account, role=role or account.role, sites=tuple(account.sites if sites is None else sites)
        )

    async def roster(self) -> RosterView | None:
        return self.list

    async def seal_glass(self, who: Identity) -> str:
        self.glass = Glass(sealed_ns=NOW_NS)
        return "7KQ2M-4XD9A-HHT3V-0Z8YB-PWC5N-6EGRS"

    async def seen(self, who: Identity, route: str, agent: str) -> None:
        self.looked.append((who.name, route, agent))

    async def needs_setup(self) -> bool:
        return not self.held

    async def set_up(self, link_secret: str, name: str, password: str, address: str) -> str:
        if link_secret != SETUP_SECRET or self.held:
            raise Refused("This set-up link does not work. Start the appliance again for a new one.", 404)
        self._make(name, password, Role.ADMIN)
        return await self.sign_in(name, password, address)

    def _make(self, name: str, password: str, role: Role) -> None:
        self.held[name] = AccountView(name=name, role=role, created_ns=NOW_NS, disabled=False)
        self.secrets[name] = password

    async def sign_in(self, name: str, password: str, address: str) -> str:
        if self.failures >= 10:
            raise Refused("Too many tries. Wait 15 minutes, or ask an admin at the console.", 429)
        account = self.held.get(name)
        if account is None or account.disabled or self.secrets[name] != password:
            self.failures += 1
            raise Refused("Name or password is not right. After ten tries this place is locked for 15 minutes.", 401)
        secret = f"session-{len(self.sessions)}-{name}"
        self.sessions[secret] = Identity(name=name, role=account.role, address=address, csrf=f"csrf-{name}")
        return secret

    async def sign_out(self, session_secret: str, address: str) -> None:
        self.sessions.pop(session_secret, None)

    async def session(self, session_secret: str, address: str) -> Identity | None:
        return self.sessions.get(session_secret)

    async def bearer(self, token_secret: str, address: str) -> Identity | None:
        token = self.keys.get(token_secret)
        if token is None or token.revoked_ns is not None:
            return None
        return Identity(name=token.name, role=token.role, via="token", address=address)

    async def accounts(self) -> Sequence[AccountView]:
        return tuple(self.held.values())

    async def create_account(
        self, who: Identity, name: str, password: str, role: Role, sites: Sequence[str] = ()
    ) -> None:
        if name in self.held:
            raise Refused(f"There is an account {name} already. Choose another name.")
        self._make(name, password, role)
        self.held[name] = msgspec.structs.replace(self.held[name], sites=tuple(sites))

    async def disable_account(self, who: Identity, name: str) -> None:
        if name == who.name:
            raise Refused("Nobody closes the door behind themselves: ask another admin.")
        if name not in self.held:
            raise Refused("There is no such account.", 404)
        self.held[name] = msgspec.structs.replace(self.held[name], disabled=True)

    async def change_password(self, who: Identity, name: str, password: str) -> None:
        self.secrets[name] = password

    async def tokens(self) -> Sequence[TokenView]:
        return tuple(self.keys.values())

    async def create_token(self, who: Identity, name: str, role: Role) -> str:
        secret = f"skt_{len(self.keys)}_{name}"
        self.keys[secret] = TokenView(name=name, role=role, created_ns=NOW_NS, revoked_ns=None)
        return secret

    async def revoke_token(self, who: Identity, name: str) -> None:
        for secret, token in self.keys.items():
            if token.name == name:
                self.keys[secret] = msgspec.structs.replace(token, revoked_ns=NOW_NS)
                return
        raise Refused("There is no such token.", 404)


def harbor_link() -> LinkView:
    """Cut off from harbor for three days, with a receipt of before."""
    return LinkView(
        peer=ulid(NOW_NS // 1_000_000, entropy(2)),
        name="harbor",
        mode=Mode.AUTONOMOUS,
        since_ns=NOW_NS - 3 * DAY,
        heard_ns=NOW_NS - 3 * DAY,
        problem="nobody answers at harbor.example:4222",
        debt_s=3 * 86_400.0,
        missing_events=4_223,
        missing_segments=3,
        missing_bytes=12_400_000,
        rtt_ms=612.0,
        bytes_in=48_000,
        bytes_out=9_120_000,
        parcels_in=311,
        parcels_out=9_001,
        receipt=ReceiptView(
            number=7,
            at_ns=NOW_NS - 3 * DAY - 3 * MINUTE,
            events=12_345,
            segments=14,
            drops=2,
            gaps=0,
            root="5c" * 32,
            countersigned=True,
            seq=12_345,
        ),
        via="wire",
        address="nats://harbor.example:4222",
        lanes=(
            LaneView(name="control"),
            LaneView(name="snapshots"),
            LaneView(name="log", waiting=4_223),
            LaneView(name="segments", waiting=3, waiting_bytes=12_400_000),
        ),
        actions=("cut", "pause", "resume", "per_s", "per_hour"),
    )


def hlc(wall_ns: int, count: int) -> int:
    return (wall_ns // 1_000_000 << 16) + count


class Remembered:
    """The island's past, folded from its log at each question (`web.past.History`)."""

    def __init__(self, log: list[Recorded]) -> None:
        self.log = log

    def _turns(self, upto: int = past.STAMP_MAX) -> list[tuple[str, int, past.Was]]:
        found = [(one, past.turn(one)) for one in sorted(self.log, key=lambda one: one.stamp) if one.hlc <= upto]
        return [
            (one.subject, one.hlc, past.Was(*turn, past.moment_of(one.hlc), one.clock, one.position))
            for one, turn in found
            if turn is not None
        ]

    def known(self) -> past.Known:
        turns = self._turns()
        return past.Known(turns[0][2].since_ns if turns else None, len(self.log), 0)

    def first_of(self, subject: str) -> int | None:
        return next((was.since_ns for about, _, was in self._turns() if about == subject), None)

    def fleet(self, moment_ns: int) -> dict[str, str]:
        found: dict[str, str] = {}
        for subject, _, was in self._turns(past.stamp_at(moment_ns)):
            said = was.said if was.track is past.Track.CONNECTIVITY else found.get(subject, "")
            if was.track is not past.Track.LINK:
                found[subject] = said
        return found

    def crowd(self, moment_ns: int) -> past.Crowd:
        there, upto = self.fleet(moment_ns), past.stamp_at(moment_ns)
        since = {subject: stamp for subject, stamp, was in self._turns(upto) if was.track is past.Track.CONNECTIVITY}
        codes = bytes(past.CODES.get(mode, past.UNHEARD) for mode in there.values())
        packs = [since.get(one, 0) << past.CODE_BITS | code for one, code in zip(there, codes, strict=True)]
        return past.Crowd([*there], codes, array("Q", packs))

    def of(
        self, subjects: Iterable[str], moment_ns: int, tracks: Iterable[past.Track] = past.Track
    ) -> dict[str, dict[past.Track, past.Was]]:
        found: dict[str, dict[past.Track, past.Was]] = {}
        wanted = set(subjects)
        for subject, _, was in self._turns(past.stamp_at(moment_ns)):
            if subject in wanted and was.track in tracks:
                found.setdefault(subject, {})[was.track] = was
        return found

    def standing(self, moment_ns: int, track: past.Track, said: frozenset[str]) -> dict[str, dict[str, int]]:
        subjects = {about for about, _, was in self._turns() if was.track is track}
        stood = {one: held[track] for one, held in self.of(subjects, moment_ns, (track,)).items()}
        words = said & {was.said for was in stood.values()}
        return {word: {one: was.since_ns for one, was in stood.items() if was.said == word} for word in words}

    def turns(self, subject: str, limit: int) -> list[past.Was]:
        return [was for about, _, was in self._turns() if about == subject][-limit:]


class Island:
    """The box. `moving` makes it live: positions, ages and batteries change with the clock it is given."""

    version = "0.1.0"
    hub = False

    def __init__(self, name: str = "alder", *, nodes: int = 25, clock: object = None, seed: int = 7) -> None:
        self.name = name
        self._clock = clock
        self._random = random.Random(seed)
        self.rows: dict[str, NodeRow] = {}
        self.nodes_held: dict[str, Node] = {}
        self.log: list[Recorded] = []
        self.records: list[RecordView] = []
        self.items: dict[int, QuarantineItem] = {}
        self.unclaimed: dict[str, SourceView] = {}
        self.claimed: dict[str, SourceView] = {}
        self.settled: list[tuple[int, str]] = []
        self.texts: dict[str, str] = {}
        self.stale: set[asyncio.Queue[frozenset[str]]] = set()
        self.link: LinkView | None = harbor_link()
        self.brought = b""
        self.notes: dict[str, str] = {}
        self.ways_in: dict[str, WayIn] = {}
        self.conflicts: dict[str, FieldConflict] = {}
        self.plans = Agenda(self)
        self.taken_up: dict[str, dict[str, Any]] = {}
        self.parked: dict[str, tuple[ParkedValue, ...]] = {}
        self.lines_of_authority: list[AuthorityLine] = []
        self.granted: list[tuple[str, str, AuthorityTerms | None, str]] = []
        self.down = ""
        self.broken: Exception | None = None
        self.decided_elsewhere: set[str] = set()
        self.behind: list[DebtLine] = []
        self.slate = Slate(self.rows, self.nodes_held, self.now)
        self.policies = self.slate.policies
        self.past: Then | None = Then(
            Remembered(self.log),
            self,
            lambda: everyone(self.rows.values()),
            lambda query, among: ids(self.rows.values(), query, among),
            tuple,
            self.slate,
            self._rights(),
            self._receipts,
        )
        self._fact("", facts.LogStarted(reason="first", public_key=b"\x17" * 32), 6 * HOUR)
        self._fact("", facts.ApplianceStarted(version=self.version, clean=True), 6 * HOUR)
        for number in range(nodes):
            self._settle_in(number)
        self.devices: Devices | None = Desk(self.now, [(row.id, row.name) for row in self.rows.values()])
        self._happen()
        self._speak()

    def now(self) -> int:
        return self._clock() if callable(self._clock) else NOW_NS

    def _receipts(self, peers: Iterable[str], moment_ns: int) -> dict[str, ReceiptView]:
        made = self.link.receipt if self.link else None
        return dict.fromkeys(peers, made) if made is not None and made.at_ns <= moment_ns else {}

    @property
    def writer(self) -> str:
        return ulid(NOW_NS // 1_000_000, entropy(1))

    def _rights(self) -> Rights:
        """Folded from the log at each question; what harbor grants stands in a log of its own."""
        return Rights(
            lambda: authority.advance(authority.EMPTY, self.log),
            self.writer,
            lambda node_id: self.writer,
            lambda place: Names("harbor", self.name),
            lambda writer: writer != self.writer,
        )

    # -- how it comes to be ------------------------------------------------------------------------------------

    def _settle_in(self, number: int) -> None:
        rand = self._random
        name = NAMES[number] if number < len(NAMES) else f"buoy-{number}"
        drone = name.startswith(("kestrel", "merlin", "osprey", "buoy"))
        kind = (
            Kind.EDGE
            if drone
            else Kind.GATEWAY
            if name.startswith("gate")
            else Kind.RELAY
            if "mast" in name
            else Kind.EDGE
        )
        mode: Mode | None = {5: Mode.DELAYED, 10: Mode.DISCONNECTED, 13: Mode.RETURNING, 21: None}.get(
            number, Mode.LIVE
        )
        node_id = ulid((NOW_NS - 20 * DAY) // 1_000_000 + number, entropy(number))
        now = NOW_NS
        seen = (
            None if mode is None else now - (47 * MINUTE if mode is Mode.DISCONNECTED else rand.randint(0, 9) * SECOND)
        )
        address = f"127.0.1.{number + 1}"
        pct = 14.0 if number == 3 else rand.uniform(38, 99)
        source = f"syslog-udp · {address} · {name}"
        flight = (Flight.AIR if number % 3 else Flight.GROUND) if drone else None
        battery = (
            Value(metric="battery_pct", value=round(pct, 1), at_ns=seen or now, source=source)
            if drone and seen
            else None
        )
        rtt = {5: 412.0, 13: 96.0}.get(number, rand.uniform(0.6, 18))
        quiet = mode in (None, Mode.DISCONNECTED)
        position = None
        if seen is not None:
            around = rand.uniform(0, math.tau)
            far = rand.uniform(0.004, 0.045) if drone else rand.uniform(0, 0.012)
            position = Position(
                58.35 + far * math.cos(around),
                11.25 + far * 1.7 * math.sin(around),
                rand.uniform(20, 110) if flight is Flight.AIR else 4.0,
                rand.uniform(0, 359) if flight is Flight.AIR else None,
                rand.uniform(4, 16) if flight is Flight.AIR else 0.0,
            )
        health = (
            {5: Health.OK, 7: Health.DEGRADED, 14: Health.FAILED}.get(number, Health.OK)
            if drone and seen
            else Health.UNKNOWN
        )
        tags = ("drone", "survey" if number % 2 else "search") if drone else ("fts",) if "fts" in name else ("crew",)
        spark = tuple(
            None if number == 10 and step > 14 else min(pct + (30 - step) * 0.7 + rand.uniform(-0.4, 0.4), 100)
            for step in range(30)
        )
        row = NodeRow(
            id=node_id,
            name=name,
            kind=kind,
            tags=tags,
            mode=mode,
            reach=REACH[mode],
            since_ns=None if mode is None else now - (47 * MINUTE if quiet else rand.randint(2, 300) * MINUTE),
            seen_ns=seen,
            seen_via="syslog-udp" if number % 4 else "ping",
            health=health,
            heartbeat_missing_ns=now - 90 * SECOND if number == 7 else None,
            phase="ACTIVE" if seen else "PROVISIONING",
            version="1.4.2" if number % 5 else "1.4.1" if drone else None,
            battery=battery,
            rtt=None if quiet else Value(metric="rtt_ms", value=rtt, at_ns=now - 2 * SECOND, source="ping"),
            loss=None
            if quiet
            else Value(metric="loss_pct", value=12.0 if number == 5 else 0.0, at_ns=now, source="ping"),
            position=position,
            position_ns=seen,
            flight=flight if seen else None,
            armed=flight is Flight.AIR if drone and seen else None,
            address=address,
            spark=spark if drone and seen else (),
        )
        self.rows[node_id] = row
        self.nodes_held[node_id] = Node(
            id=node_id,
            name=name,
            kind=kind,
            tags=tags,
            domain_id="survey-west",
            connectivity=Connectivity(mode=mode, last_seen_ns=seen, link=LinkQuality(rtt_ms=None if quiet else rtt)),
            desired=Desired(target_version="1.4.2" if drone else None),
            actual=Actual(
                reported_version=row.version,
                health=health,
                last_heartbeat_ns=seen,
                uptime_s=8_040,
                inventory=Inventory(cpu="6 × Cortex-A78AE", ram_gb=8, storage_gb=128, gpus=1),
            ),
            lifecycle=Lifecycle(
                phase=Phase.ACTIVE if seen else Phase.PROVISIONING,
                state=State.LIVE_OK if mode is Mode.LIVE else None,
                last_transition_ns=now - 20 * DAY,
                reason="adopted",
            ),
            endpoints=(Endpoint(address=address),),
        )
        self.claimed[source] = SourceView(
            key=source,
            intake="syslog-udp",
            address=address,
            name=name,
            node_id=node_id,
            first_ns=now - 20 * DAY,
            last_ns=seen or now,
            records=18_233 + number,
            sample=f"{name} hb",
        )
        self._fact(
            node_id,
            facts.NodeAdopted(name=name, node_kind=str(kind), source=source, actor="alice", tags=tags),
            5 * HOUR,
        )

    def _happen(self) -> None:
        for number, name in enumerate(("kestrel-9", "nmea-gps", ""), 1):
            key = f"syslog-udp · 192.168.4.8{number}{' · ' + name if name else ''}"
            self.unclaimed[key] = SourceView(
                key=key,
                intake="syslog-udp",
                address=f"192.168.4.8{number}",
                name=name,
                node_id=None,
                first_ns=NOW_NS - number * HOUR,
                last_ns=NOW_NS - number * 4 * SECOND,
                records=number * 811,
                sample=f"<14>1 - {name or '-'} agent - - - battery=87 rssi=-61",
            )
        ids = list(self.rows)
        if len(ids) < 15:
            return
        self._fact(
            ids[5],
            facts.NodeDegraded(
                mode="DELAYED", former="LIVE", reason="round trip over 300 ms", rtt_ms=412.0, loss_pct=12.0
            ),
            12 * MINUTE,
        )
        self._fact(
            ids[10],
            facts.NodeQuiet(
                mode="DISCONNECTED", former="LIVE", heard_ns=NOW_NS - 47 * MINUTE, silence_ns_max=30 * SECOND
            ),
            46 * MINUTE,
        )
        self._fact(
            ids[13],
            facts.NodeQuiet(
                mode="DISCONNECTED", former="LIVE", heard_ns=NOW_NS - 40 * MINUTE, silence_ns_max=30 * SECOND
            ),
            39 * MINUTE,
        )
        self._fact(
            ids[13],
            facts.NodeHeard(mode="RETURNING", former="DISCONNECTED", via="ping", silent_ns=38 * MINUTE),
            80 * SECOND,
        )
        self._fact(ids[7], facts.HeartbeatMissed(heartbeat_ns=NOW_NS - 90 * SECOND, interval_ns=SECOND), 85 * SECOND)
        self._fact(ids[7], facts.HealthChanged(former="OK", health="DEGRADED", reason="gps glitch"), 2 * MINUTE)
        self._fact(ids[14], facts.HealthChanged(former="OK", health="FAILED", reason="motor 3"), 8 * MINUTE)
        self._fact(ids[1], facts.VersionChanged(former="1.4.1", version="1.4.2"), 3 * HOUR)
        self._fact("bob", facts.AccountSignedIn(name="bob", address="192.168.4.20"), 31 * MINUTE)
        self._fact(
            "mallory",
            facts.AccountRefused(name="mallory", address="192.168.4.66", reason="name or password"),
            29 * MINUTE,
        )
        self._fact(
            "",
            facts.SegmentSealed(
                sha256=b"\xab" * 32,
                first_id=1,
                last_id=182_113,
                records=182_113,
                from_ns=NOW_NS - 2 * HOUR,
                to_ns=NOW_NS - HOUR,
                bytes_stored=4_210_334,
            ),
            59 * MINUTE,
        )
        self._fact(
            "",
            facts.IntakeRefused(
                intake="syslog-udp",
                reason="gate full",
                messages=412,
                from_ns=NOW_NS - HOUR,
                to_ns=NOW_NS - HOUR + 9 * SECOND,
            ),
            HOUR,
        )
        self.log.sort(key=lambda one: one.wall_ns)
        self.log[:] = [one._replace(position=index + 1, seq=index + 1) for index, one in enumerate(self.log)]
        bad = (
            (
                "syslog-tcp",
                "a frame announced 9999999 bytes",
                "9999999 <34>1 2026-11-21T09:31:18Z mast-3 su - - - \\xff\\xfe\\x00",
            ),
            ("http", "JSON nested deeper than 32", '{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":'),
            ("syslog-udp", "MAVLink 2 checksum wrong", "fd1c00001e0101210000\\x00\\x01\\x02"),
            ("journal", "no edge leads from RETIRED to ACTIVE", "lifecycle.moved RETIRED → ACTIVE"),
        )
        for number, (intake, reason, text) in enumerate(bad, 1):
            self.items[number] = QuarantineItem(
                id=number,
                at_ns=NOW_NS - number * 7 * MINUTE,
                intake=intake,
                source=f"{intake} · 192.168.4.{number}",
                reason=reason,
                text=text,
                size=len(text),
                times=number * number,
            )

    def _speak(self) -> None:
        ids = list(self.rows)
        for number in range(600 if ids else 0):
            node_id = ids[number % len(ids)]
            row = self.rows[node_id]
            figures = f"battery={80 - number % 40} rssi=-{50 + number % 30} temp={30 + number % 9}.{number % 10}"
            text = f"<14>1 2026-11-21T09:{number % 60:02}:07Z {row.name} agent 311 hb - {figures}"
            self.records.append(
                RecordView(
                    id=number + 1,
                    at_ns=NOW_NS - (600 - number) * SECOND,
                    source=f"syslog-udp · {row.address} · {row.name}",
                    text=text,
                    marks=("clock-implausible",) if number % 97 == 0 else (),
                    node_id=node_id,
                    content=text.encode(),
                )
            )

    def _fact(self, subject: str, body: Body, before_ns: int = 0, writer: str = "") -> None:
        position = len(self.log) + 1
        writer = writer or self.writer
        wall = (NOW_NS if before_ns else self.now()) - before_ns
        self.log.append(
            Recorded(
                position,
                writer,
                1,
                position,
                hlc(wall, position),
                wall,
                Clock.SYNCED,
                body.KIND,
                1,
                subject or writer,
                body,
            )
        )

    def touch(self, *topics: str) -> None:
        for queue in self.stale:
            queue.put_nowait(frozenset(topics))

    def _check(self) -> None:
        if self.down:
            raise Unavailable(self.down)
        if self.broken:
            raise self.broken

    # -- what a page may ask -----------------------------------------------------------------------------------

    async def site(self, who: Identity, query: NodeQuery) -> SiteView:
        self._check()
        now, rows = self.now(), list(self.rows.values())
        attention = [
            (Severity.ACT, "went quiet", row.since_ns)
            if row.mode is Mode.DISCONNECTED
            else (Severity.ACT, "health failed: motor 3", NOW_NS - 8 * MINUTE)
            if row.health is Health.FAILED
            else (Severity.LOOK, "no heartbeat, though it is heard", row.heartbeat_missing_ns)
            if row.heartbeat_missing_ns
            else (Severity.LOOK, f"battery at {row.battery.value:.0f} %", row.battery.at_ns)
            if row.battery and row.battery.value < 20
            else (Severity.LOOK, "link degraded: round trip 412 ms, loss 12 %", row.since_ns)
            if row.mode is Mode.DELAYED
            else None
            for row in rows
        ]
        lines = [
            Attention(severity=found[0], words=found[1], since_ns=found[2] or now, node_id=row.id, name=row.name)
            for row, found in zip(rows, attention, strict=True)
            if found
        ]
        lines.sort(key=lambda line: line.severity is Severity.LOOK)
        self.needing = lines
        wanted, among = query.text.lower(), await self._among(query)
        found_rows = [
            row
            for row in rows
            if (not wanted or wanted in " ".join((row.name, row.address or "", row.id, *row.tags)).lower())
            and query.reach in (None, row.reach)
            and query.kind in (None, row.kind)
            and (not query.tag or query.tag in row.tags)
            and (among is None or row.id in among)
        ]
        urgent = {line.node_id: index for index, line in enumerate(lines)}
        order = {
            "attention": lambda row: (urgent.get(row.id, 999), row.name),
            "name": lambda row: row.name,
            "battery": lambda row: row.battery.value if row.battery else 999.0,
            "seen": lambda row: -(row.seen_ns or 0),
            "rtt": lambda row: -(row.rtt.value if row.rtt else 0.0),
        }[query.order]
        found_rows.sort(key=order)  # type: ignore[arg-type]
        return SiteView(
            site=self.name,
            now_ns=now,
            reach={reach: sum(row.reach is reach for row in rows) for reach in Reach},
            attention=tuple(lines),
            needing=len(lines),
            rows=tuple(found_rows[query.offset : query.offset + query.limit]),
            matching=len(found_rows),
            places=tuple(row for row in found_rows if row.position),
            tags=tuple(sorted({tag for row in rows for tag in row.tags})),
            messages_per_s=52.4,
            unclaimed=len(self.unclaimed),
            uptime_s=21_600 + (now - NOW_NS) / SECOND,
            drift=await self.policies.drift(who),
        )

    async def attention(self, who: Identity, query: AttentionQuery) -> AttentionView:
        await self.site(who, NodeQuery())
        every = [
            msgspec.structs.replace(
                line,
                cause="silent" if line.severity is Severity.ACT else "delayed",
                key=f"silent:node:{line.node_id}",
                link=f"/nodes/{line.node_id}",
                takes=True,
                **self.taken_up.get(f"silent:node:{line.node_id}", {}),
            )
            for line in self.needing
        ]
        items = [line for line in every if line.seen_ns is None and query.cause in ("", line.cause)]
        quiet = [line for line in every if line.seen_ns is not None]
        return AttentionView(
            now_ns=self.now(),
            items=tuple(items),
            matching=len(items),
            total=len(every) - len(quiet),
            quiet=tuple(quiet),
            quiet_matching=len(quiet),
            causes=(("silent", 1), ("delayed", 1)),
            domains=(("north", "North", 1),),
        )

    async def handle(self, who: Identity, wish: AttentionWish) -> None:
        self._check()
        if not wish.key.startswith("silent:node:"):
            raise Refused("that does not need anybody any more; look again", 404)
        held = self.taken_up.setdefault(wish.key, {})
        held |= {"remark": wish.remark} if wish.remark else {}
        if wish.action == "seen":
            held |= {"seen_by": who.name, "seen_ns": self.now()}
        elif wish.action == "mine":
            held |= {"assigned": wish.to or who.name, "assigned_by": who.name}
        elif wish.action == "back":
            held.clear()

    async def node(self, who: Identity, node_id: str) -> NodeView | None:
        self._check()
        row = self.rows.get(node_id)
        if row is None:
            return None
        node, now = self.nodes_held[node_id], self.now()
        at, source = row.seen_ns or now, row.seen_via
        figures = {
            "battery_pct": row.battery.value if row.battery else 71.0,
            "temp_c": 41.2,
            "rssi_dbm": -63.0,
            "snr_db": 21.0,
            "vibration_mps2": 3.41,
            "cpu_pct": 38.0,
            "alt_m": 62.3,
            "satellites": 17.0,
            "custom_thing": 4.0,
        }
        values = (
            tuple(Value(metric=name, value=value, at_ns=at, source=source) for name, value in figures.items())
            if row.seen_ns
            else ()
        )
        lines = await self.policies.differences(who, (node_id,))
        domains, bundles = await self.policies.names()
        moves = tuple(str(one) for one in targets(Place(node.lifecycle.phase, node.lifecycle.state)))
        return NodeView(
            now_ns=now,
            row=row,
            node=node,
            values=values,
            drift=lines.get(node_id, ()),
            domains=domains,
            policies=bundles,
            upstream=text_of(self.slate.board_view(node_id), "upstream"),
            relays=relays((one.id, one.name, one.kind) for one in self.rows.values() if one.id != node_id),
            sources=tuple(source for source in self.claimed.values() if source.node_id == node_id),
            moves=moves,
            text=self.texts.get(node_id, "EKF3 IMU0 is using GPS") if row.seen_ns else None,
            text_ns=at if row.seen_ns else None,
            metrics=(*figures, "rtt_ms", "loss_pct") if row.seen_ns else (),
            notes=self.notes.get(node_id, ""),
            conflicts=(self.conflicts[node_id],) if node_id in self.conflicts else (),
            parked=self.parked.get(node_id, ()),
            authority=next((one for one in self.lines_of_authority if one.subject == node_id), None),
            device=DeviceState(
                connected=row.reach is Reach.ONLINE,
                offers=row.reach is Reach.ONLINE,
                said=(
                    SaidView(name="model", text='"K-2"', at_ns=at),
                    SaidView(name="modules", text='["camera","lamp"]', at_ns=at),
                    SaidView(name="serial", text='"K2-0117"', at_ns=at),
                ),
            )
            if row.seen_ns
            else None,
            way_in=self.ways_in.get(node_id, WayIn(per_s=1.2, repeated=0, repeated_in_a_row=0, skew_ns=-12_000_000)),
        )

    async def nodes(self, who: Identity, after: str, limit: int, query: NodeQuery = ALL_NODES) -> Sequence[Node]:
        self._check()
        ids = {row.id for row in matching(self.rows.values(), query, await self._among(query))}
        return [self.nodes_held[one] for one in sorted(self.nodes_held) if one > after and one in ids][:limit]

    async def _among(self, query: NodeQuery) -> frozenset[str] | None:
        if not groups(query):
            return None
        return await self.slate.ask(lambda board: board.members(query.domain, query.bundle))

    async def latest(self, who: Identity, query: LatestQuery) -> Sequence[Latest]:
        self._check()
        found = [
            Latest(row=row, values=(row.battery,) if row.battery else (), text=self.texts.get(row.id))
            for row in sorted(self.rows.values(), key=lambda row: row.id)
            if row.id > query.after
            and (not query.ids or row.id in query.ids)
            and (not query.tags or query.tags & set(row.tags))
            and (not query.sites or row.site in query.sites)
        ]
        return found[: query.limit]

    async def called(self, who: Identity, ids: Collection[str]) -> Mapping[str, str]:
        return {one: self.nodes_held[one].name for one in ids if one in self.nodes_held}

    async def series(self, who: Identity, node_id: str, metric: str, from_ns: int, to_ns: int) -> Series:
        self._check()
        step = max((to_ns - from_ns) // SECOND // 180, 10)
        at = [float(second) for second in range(from_ns // SECOND, to_ns // SECOND, step)]
        mean = [60 + 20 * math.sin(second / 700) + 3 * math.sin(second / 47) for second in at]
        unit = "%" if metric.endswith("pct") else "ms" if metric.endswith("_ms") else ""
        return Series(
            metric=metric,
            unit=unit,
            step_s=int(step),
            at_s=tuple(at),
            low=tuple(value - 2 for value in mean),
            mean=tuple(mean),
            high=tuple(value + 2.5 for value in mean),
        )

    async def events(
        self, who: Identity, after: int, limit: int, stretch: past.Stretch = past.WHOLE
    ) -> Sequence[Recorded]:
        self._check()
        return [one for one in self.log if one.position > after and stretch.low <= one.hlc <= stretch.high][:limit]

    async def timeline(
        self,
        who: Identity,
        before: int,
        limit: int,
        subject: str | None = None,
        kind: str | None = None,
        stretch: past.Stretch = past.WHOLE,
    ) -> Sequence[Recorded]:
        self._check()
        return [
            one
            for one in reversed(self.log)
            if (not before or one.position < before)
            and subject in (None, one.subject)
            and kind in (None, one.kind)
            and stretch.low <= one.hlc <= stretch.high
        ][:limit]

    async def records_after(self, who: Identity, after: int, limit: int, node_id: str | None) -> RecordPage:
        self._check()
        found = [one for one in self.records if one.id > after and node_id in (None, one.node_id)][:limit]
        return RecordPage(
            records=tuple(found),
            next=found[-1].id if found else after,
            gaps=((11, 19, "budget"),) if after < 11 else (),
        )

    async def records_before(
        self, who: Identity, before: int, limit: int, node_id: str | None, text: str
    ) -> RecordPage:
        self._check()
        found = [
            one
            for one in reversed(self.records)
            if (not before or one.id < before) and node_id in (None, one.node_id) and text.lower() in one.text.lower()
        ][:limit]
        return RecordPage(records=tuple(found), next=found[-1].id if found else 0)

    async def intake(self, who: Identity) -> IntakeView:
        self._check()
        spark = tuple(40 + 14 * math.sin(step / 6) for step in range(60))
        return IntakeView(
            now_ns=self.now(),
            lines=(
                IntakeLine(
                    intake="syslog-udp",
                    address="0.0.0.0:5514",
                    records=1_182_113,
                    per_s=41.2,
                    bytes_in=181_220_113,
                    refused={"gate full": 412},
                    spark=spark,
                    waiting=312,
                    durable_s_p50=0.0041,
                    durable_s_p99=0.212,
                ),
                IntakeLine(
                    intake="syslog-tcp",
                    address="0.0.0.0:5514",
                    records=80_412,
                    per_s=8.1,
                    bytes_in=9_113_220,
                    refused={"frame too long": 3},
                    spark=spark[::-1],
                ),
                IntakeLine(
                    intake="http",
                    address="0.0.0.0:8080",
                    records=41_209,
                    per_s=3.1,
                    bytes_in=7_113_220,
                    refused={},
                    spark=spark,
                ),
                IntakeLine(
                    intake="bridge-plant",
                    address="mqtts://broker.plant.example",
                    records=7_112,
                    per_s=0.0,
                    bytes_in=902_113,
                    refused={"names no node": 2},
                    state="connected; gate full, so the broker keeps what comes",
                ),
                IntakeLine(
                    intake="ping",
                    address="25 addresses",
                    records=0,
                    per_s=0.0,
                    bytes_in=0,
                    refused={},
                    problem="This user may not send pings. Widen net.ipv4.ping_group_range, or give the interpreter "
                    "cap_net_raw.",
                ),
            ),
            gate_records=312,
            gate_records_max=200_000,
            gate_bytes=61_000,
            gate_bytes_max=64 << 20,
            gate_high_records=8_122,
            waiting_to_read=17,
            commit_ms_p95=6.4,
            budget=BudgetView(
                budget_bytes=8_000_000_000,
                used_bytes=3_412_000_000,
                disk_free_bytes=41_000_000_000,
                reserve_bytes=512_000_000,
                classes=(
                    BudgetClass(name="raw", bytes_used=2_412_000_000, sheds="the oldest first, with a gap event"),
                    BudgetClass(name="series", bytes_used=700_000_000, sheds="after the raw records"),
                    BudgetClass(name="journal", bytes_used=290_000_000, sheds="never"),
                    BudgetClass(name="quarantine", bytes_used=10_000_000, sheds="the oldest beyond 10,000"),
                ),
                growth_bytes_per_day=402_000_000.0,
                full_in_s=986_000.0,
                oldest_record_ns=NOW_NS - 9 * DAY,
                shed_records=0,
            ),
            clock=Clock.FREE_RUNNING,
            clock_step_ns=0,
            unclaimed=tuple(self.unclaimed.values()),
            storage_problem=None,
            repeated={"http": 17},
        )

    async def quarantine(
        self, who: Identity, before: int, limit: int, settled: bool, moment_ns: int | None = None
    ) -> Sequence[QuarantineItem]:
        self._check()
        then = self.now() if moment_ns is None else moment_ns
        return [
            one
            for number, one in sorted(self.items.items(), reverse=True)
            if (not before or number < before) and one.at_ns <= then
            if (one.settled_ns is not None and one.settled_ns <= then) == settled
        ][:limit]

    async def settle(self, who: Identity, item: int, decision: str, node: str = "", *, alike: bool = False) -> None:
        if item not in self.items:
            raise Refused("There is no such item in quarantine; someone else may have settled it.", 404)
        self.items[item] = msgspec.structs.replace(self.items[item], settled_ns=self.now(), decision=decision)
        self.settled.append((item, decision))

    async def adopt(self, who: Identity, source: str, name: str, kind: Kind, tags: tuple[str, ...]) -> str:
        found = self.unclaimed.pop(source, None)
        if found is None:
            raise Refused("This source belongs to a node already, or was never heard. Reload the page.", 409)
        self.touch("site", "intake", "journal")
        node_id = ulid(self.now() // 1_000_000, entropy(len(self.rows)))
        self.rows[node_id] = NodeRow(
            id=node_id,
            name=name,
            kind=kind,
            tags=tags,
            mode=Mode.LIVE,
            reach=Reach.ONLINE,
            since_ns=self.now(),
            seen_ns=found.last_ns,
            seen_via=found.intake,
            phase="ACTIVE",
            address=found.address,
        )
        self.nodes_held[node_id] = Node(id=node_id, name=name, kind=kind, tags=tags)
        self.claimed[source] = msgspec.structs.replace(found, node_id=node_id)
        self._fact(node_id, facts.NodeAdopted(name=name, node_kind=str(kind), source=source, actor=who.name, tags=tags))
        return node_id

    async def claim(self, who: Identity, source: str, node_id: str) -> None:
        self.claimed[source] = msgspec.structs.replace(self.unclaimed.pop(source), node_id=node_id)

    async def release(self, who: Identity, source: str) -> None:
        if source not in self.claimed:
            raise Refused("This node does not hold that source.", 409)
        self.unclaimed[source] = msgspec.structs.replace(self.claimed.pop(source), node_id=None)

    async def change(self, who: Identity, node_id: str, field: str, value: str) -> None:
        former = self.rows[node_id]
        plain = (
            {"name": value}
            if field == "name"
            else {"tags": tuple(filter(None, value.split(",")))}
            if field == "tags"
            else {}
        )
        self.rows[node_id] = msgspec.structs.replace(former, **plain)
        self.nodes_held[node_id] = msgspec.structs.replace(self.nodes_held[node_id], **plain)
        self._fact(node_id, facts.NodeChanged(field=field, former=former.name, value=value, actor=who.name))
        self.touch("site", f"node:{node_id}", "journal")

    async def debts(self, who: Identity, domain: str) -> Sequence[DebtLine]:
        return self.behind

    async def change_many(
        self, who: Identity, node_ids: Sequence[str], field: str, value: str, *, dry_run: bool
    ) -> BatchView:
        """As the boxes do; what another decides on is refused."""
        outcomes = []
        for node_id in node_ids:
            held = self.slate.wanted.setdefault(node_id, {})
            why = "harbor decides what is wanted here (epoch 3)." if node_id in self.decided_elsewhere else ""
            changes = not why and (field not in held or held[field].value != value)
            if changes and not dry_run:
                held[field] = self.slate.stamped(value, who=who.name)
            outcomes.append((node_id, changes, why, self.rows[node_id].name, self.name))
        return batch(outcomes, done=not dry_run)

    def disagree(self, node_id: str) -> None:
        """Alice here and Bob at harbor wrote a version at the same time."""
        here = Choice(value="1.5.0", by="alice", where=self.name, at_ns=NOW_NS - HOUR, clock=Clock.FREE_RUNNING)
        there = Choice(value="1.4.9", by="bob", where="harbor", at_ns=NOW_NS - 2 * HOUR, clock=Clock.SYNCED)
        self.conflicts[node_id] = FieldConflict(field="target_version", choices=(here, there))

    async def authority(self, who: Identity, subject: str) -> AuthorityView:
        name = self.rows[subject].name if subject in self.rows else subject
        lines = tuple(one for one in self.lines_of_authority if one.subject == subject)
        return AuthorityView(now_ns=self.now(), subject=subject, name=name, lines=lines, actions=("grant", "return"))

    async def grant(self, who: Identity, subject: str, terms: AuthorityTerms, why: str) -> None:
        self.granted.append((who.name, subject, terms, why))

    async def hand_back(self, who: Identity, subject: str, why: str) -> None:
        self.granted.append((who.name, subject, None, why))

    async def settle_parked(
        self, who: Identity, node_id: str, field: str, choice: int, decision: str, why: str
    ) -> None:
        self.parked = {one: held for one, held in self.parked.items() if one != node_id}
        self._fact(node_id, facts.AuthoritySettled(field, "", who.name, decision, who.name, why))

    async def take(self, who: Identity, node_id: str, field: str, choice: int) -> None:
        chosen = self.conflicts.pop(node_id).choices[choice]
        node = self.nodes_held[node_id]
        wanted = msgspec.structs.replace(node.desired, target_version=chosen.value)
        self.nodes_held[node_id] = msgspec.structs.replace(node, desired=wanted)
        self._fact(node_id, facts.NodeChanged(field=field, former="", value=chosen.value, actor=who.name))

    async def call_device(
        self, who: Identity, node_id: str, method: str, params: object, timeout_s: float, *, one_way: bool
    ) -> object:
        self._fact(node_id, facts.DeviceCalled(method, str(params), who.name, one_way))
        return None if one_way else {"heard": params}

    async def claim_device(self, who: Identity, node_id: str, secret: str) -> None:
        if secret != "first-light":
            raise Refused("this is not the secret that the device said", 403)
        self._fact(node_id, facts.DeviceClaimed(who.name))

    # -- the link ----------------------------------------------------------------------------------------------

    async def links(self, who: Identity, query: LinkQuery | None = None) -> LinksView:
        self._check()
        return LinksView(now_ns=self.now(), links=(self.link,) if self.link else ())

    async def link_change(self, who: Identity, peer: str, action: str, value: str) -> None:
        assert self.link is not None
        assert self.link.peer == peer
        lanes = tuple(
            msgspec.structs.replace(lane, paused=action == "pause") if lane.name == value else lane
            for lane in self.link.lanes
        )
        caps = {f"{action}_max": int(value)} if action in ("per_s", "per_hour") else {}
        cut = action == "cut" or (self.link.cut and action != "restore")
        actions = ("restore" if cut else "cut", *self.link.actions[1:])
        self.link = msgspec.structs.replace(self.link, lanes=lanes, cut=cut, actions=actions, **caps)
        self._fact("", facts.LinkChanged(peer=peer, action=action, value=value, actor=who.name))
        self.touch("links", "journal")

    async def link_join(self, who: Identity, raw: bytes) -> str:
        if b"skerry link" not in raw:
            raise Refused("This is no link file; make a new one at the hub: skerry hub invite", 422)
        self.link = harbor_link()
        return "This site belongs to the hub harbor from now on."

    async def receipt(self, who: Identity, peer: str, number: int) -> bytes:
        if number != 7:
            raise Refused("There is no such receipt here yet.", 404)
        return b'{"kind": "skerry receipt"}\n'

    async def bundle_export(self, who: Identity, peer: str) -> AsyncIterator[bytes]:
        yield b"a bundle of "
        yield b"alder"

    async def bundle_import(self, who: Identity, chunks: AsyncIterator[bytes]) -> str:
        self.brought = b"".join([chunk async for chunk in chunks])
        if not self.brought:
            raise Refused("The file is empty.", 422)
        return f"Read {len(self.brought)} bytes from harbor: 12 events, nothing missing."

    async def bundle_state(self, who: Identity, peer: str) -> BundleView:
        return BundleView(words=("On the stick since yesterday: 4,012 events.", "Missing on it: 211 events, 1 file."))

    async def move(self, who: Identity, node_id: str, target: str, reason: str) -> None:
        node = self.nodes_held[node_id]
        origin = Place(node.lifecycle.phase, node.lifecycle.state)
        try:
            wanted = place(target)
        except ValueError as error:
            raise Refused(f"{target} is no place of the lifecycle.", 422) from error
        if words := refusal(origin, wanted):
            raise Refused(words)
        moved = Lifecycle(phase=wanted.phase, state=wanted.state, last_transition_ns=self.now(), reason=reason)
        self.nodes_held[node_id] = msgspec.structs.replace(node, lifecycle=moved)
        self._fact(node_id, facts.LifecycleMoved(origin=str(origin), target=target, reason=reason, actor=who.name))

    async def audit(self, who: Identity, query: Query) -> Page:
        found = [
            one
            for one in reversed(self.log)
            if one.kind in audit.kinds_of(query)
            and (not query.person or audit.concerns(one, query.person))
            and (not query.before or one.position < query.before)
            and (query.from_ns is None or one.wall_ns >= query.from_ns)
            and (query.to_ns is None or one.wall_ns < query.to_ns)
        ][: query.limit]
        return Page(events=tuple(found), next=found[-1].position if len(found) == query.limit else 0)

    async def audit_export(self, who: Identity, query: Query) -> AsyncIterator[bytes]:
        yield b'{"kind":"skerry audit"}\n'

    async def verify(self, who: Identity) -> AsyncIterator[VerifyStep]:
        for checked in range(0, 1200, 300):
            yield VerifyStep(checked=checked, total=1200)
            await asyncio.sleep(0.02)
        yield VerifyStep(
            checked=1200,
            total=1200,
            done=True,
            good=True,
            words="All 1,200 events stand as they were written, signed by this appliance.",
        )

    async def export(self, who: Identity) -> AsyncIterator[bytes]:
        yield b"\x28\xb5\x2f\xfd"
        yield b"block" * 100

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        queue: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        self.stale.add(queue)
        try:
            while True:
                try:
                    yield await asyncio.wait_for(queue.get(), 5)
                except TimeoutError:
                    yield frozenset()
        finally:
            self.stale.discard(queue)

    async def gauges(self) -> Sequence[Gauge]:
        return (
            Gauge(
                name="skerry_records_total",
                help="Raw records kept.",
                kind="counter",
                value=1_182_113.0,
                labels=(("intake", "syslog-udp"),),
            ),
            Gauge(
                name="skerry_records_total",
                help="Raw records kept.",
                kind="counter",
                value=41_209.0,
                labels=(("intake", "http"),),
            ),
            Gauge(name="skerry_gate_records", help="Records waiting in the gate.", kind="gauge", value=312.0),
        )

    async def health(self) -> Fitness:
        problems = (self.down,) if self.down else ()
        return Fitness(
            ready=not problems, problems=problems, loops={"recorder": "running", "ping": "restarting in 4 s"}
        )

    def move_on(self, at_ns: int) -> None:
        """A second of life: everyone alive is heard, drones fly on."""
        for node_id, row in self.rows.items():
            if row.reach in (Reach.OFFLINE, Reach.UNKNOWN) or row.seen_ns is None:
                continue
            where = row.position
            if where and where.heading_deg is not None:
                turn = math.radians(where.heading_deg)
                where = where._replace(
                    lat_deg=where.lat_deg + 0.00012 * math.cos(turn),
                    lon_deg=where.lon_deg + 0.0002 * math.sin(turn),
                    heading_deg=(where.heading_deg + 4) % 360,
                )
            battery = row.battery and msgspec.structs.replace(
                row.battery, at_ns=at_ns, value=max(row.battery.value - 0.01, 1)
            )
            self.rows[node_id] = msgspec.structs.replace(row, seen_ns=at_ns, position=where, battery=battery)
        self.touch("site", *(f"node:{one}" for one in self.rows), "intake")
