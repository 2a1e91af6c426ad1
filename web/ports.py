"""What the pages may ask of the box behind them: shapes and promises. Appliance and hub both answer.

Promises, for every method
  - Reads answer from what is committed, within two seconds, or raise Unavailable with a sentence for the person.
  - Commands return after the commit of the event that records them. What cannot be done raises Refused with a
    sentence that says what to do instead; nothing is half done.
  - Times are Unix ns; the page turns them into ages against `now_ns` of the same answer.
  - A value nobody has told us is None.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from fleet.connectivity import Mode, Reach
from fleet.events import Clock, Recorded
from fleet.node import Difference, Kind, Node
from fleet.people import AccountView as AccountView
from fleet.people import Identity as Identity
from fleet.people import Refused as Refused
from fleet.people import Role as Role
from fleet.people import TokenView as TokenView
from fleet.people import Unavailable as Unavailable
from fleet.reading import Flight, Health, Position


class _View(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Value(_View, frozen=True):
    """A number with where and when it comes from."""

    metric: str
    value: float
    at_ns: int
    source: str


class NodeRow(_View, frozen=True):
    """A node in a list or on the map."""

    id: str
    name: str
    kind: Kind
    tags: tuple[str, ...] = ()
    mode: Mode | None = None
    reach: Reach = Reach.UNKNOWN
    since_ns: int | None = None  # of the mode
    seen_ns: int | None = None
    seen_via: str = ""
    health: Health = Health.UNKNOWN
    heartbeat_missing_ns: int | None = None  # since when NO_HEARTBEAT stands
    phase: str = "PROVISIONING"
    version: str | None = None
    battery: Value | None = None
    rtt: Value | None = None
    loss: Value | None = None
    position: Position | None = None
    position_ns: int | None = None
    flight: Flight | None = None
    armed: bool | None = None
    address: str | None = None
    spark: tuple[float | None, ...] = ()  # battery over the last hour, oldest first, None where nothing was heard


class Severity(StrEnum):
    ACT = "act"
    LOOK = "look"


class Attention(_View, frozen=True):
    """One line of what needs a person: who, one sentence, since when."""

    severity: Severity
    words: str
    since_ns: int
    node_id: str | None = None
    name: str = ""
    link: str = ""  # a page path for what is not about a node


class NodeQuery(_View, frozen=True):
    text: str = ""  # in name, tag, address or id
    reach: Reach | None = None
    kind: Kind | None = None
    tag: str | None = None
    order: str = "attention"  # attention, name, battery, seen, rtt
    offset: int = 0
    limit: int = 100


class SiteView(_View, frozen=True):
    site: str
    now_ns: int
    reach: dict[Reach, int]  # over all nodes
    attention: tuple[Attention, ...]
    rows: tuple[NodeRow, ...]  # the page of the list
    matching: int  # nodes that match the query, over all pages
    places: tuple[NodeRow, ...]  # every matching node with a position, for the map (at most 1,000)
    tags: tuple[str, ...]
    messages_per_s: float
    unclaimed: int
    uptime_s: float


class NodeView(_View, frozen=True):
    now_ns: int
    row: NodeRow
    node: Node  # the canonical object, filled with all that is known
    values: tuple[Value, ...]
    drift: tuple[Difference, ...]
    sources: tuple[SourceView, ...]
    moves: tuple[str, ...]  # places of the lifecycle this node can go to
    text: str | None = None  # the last words of the node
    text_ns: int | None = None
    metrics: tuple[str, ...] = ()  # what can be charted


class Series(_View, frozen=True):
    """A metric over time: columns of equal length. Where nothing was heard there is no point."""

    metric: str
    unit: str
    step_s: int
    at_s: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]


class RecordView(_View, frozen=True):
    id: int
    at_ns: int
    source: str
    text: str  # control characters made visible, invalid UTF-8 as \xNN
    marks: tuple[str, ...] = ()
    node_id: str | None = None
    content: bytes = b""  # as received, byte for byte


class RecordPage(_View, frozen=True):
    records: tuple[RecordView, ...]
    next: int  # `after` or `before` of the next call
    gaps: tuple[tuple[int, int, str], ...] = ()  # ids dropped on purpose, and why


class SourceView(_View, frozen=True):
    key: str
    intake: str
    address: str
    name: str
    node_id: str | None
    first_ns: int
    last_ns: int
    records: int
    sample: str


class IntakeLine(_View, frozen=True):
    """One way in, since the start of the process; rates over the last ten seconds."""

    intake: str
    address: str
    records: int
    per_s: float
    bytes_in: int
    refused: dict[str, int]
    problem: str | None = None  # why it does not listen, in a sentence
    spark: tuple[float, ...] = ()  # messages/s over the last five minutes


class BudgetClass(_View, frozen=True):
    name: str
    bytes_used: int
    sheds: str  # what happens when the budget is full, in words


class BudgetView(_View, frozen=True):
    budget_bytes: int
    used_bytes: int
    disk_free_bytes: int
    reserve_bytes: int
    classes: tuple[BudgetClass, ...]
    growth_bytes_per_day: float | None
    full_in_s: float | None  # at that growth, until the budget sheds; None when it never will
    oldest_record_ns: int | None
    shed_records: int


class IntakeView(_View, frozen=True):
    now_ns: int
    lines: tuple[IntakeLine, ...]
    gate_records: int
    gate_records_max: int
    gate_bytes: int
    gate_bytes_max: int
    gate_high_records: int
    waiting_to_read: int  # stored records that are not interpreted yet
    commit_ms_p95: float | None
    budget: BudgetView
    clock: Clock
    clock_step_ns: int
    unclaimed: tuple[SourceView, ...]
    storage_problem: str | None = None


class QuarantineItem(_View, frozen=True):
    id: int
    at_ns: int
    intake: str
    source: str
    reason: str
    text: str  # raw bytes shown safely
    size: int
    times: int
    settled_ns: int | None = None
    decision: str | None = None


class Gauge(_View, frozen=True):
    """A number for /metrics. `kind` is counter or gauge."""

    name: str
    help: str
    kind: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class Fitness(_View, frozen=True):
    """`ready` false: do not send here now. `problems` are sentences."""

    ready: bool
    problems: tuple[str, ...]
    loops: dict[str, str]  # name of each supervised loop, and how it is


class VerifyStep(_View, frozen=True):
    checked: int
    total: int
    done: bool = False
    good: bool = False
    words: str = ""


class People(Protocol):
    """Accounts, sessions, tokens. Secrets go out once and are never stored as they are."""

    async def needs_setup(self) -> bool: ...

    async def set_up(self, link_secret: str, name: str, password: str, address: str) -> str:
        """Make the first admin with the one-time link; returns the secret of a new session."""
        ...

    async def sign_in(self, name: str, password: str, address: str) -> str:
        """The secret of a new session. Refused (401, or 429 while locked out) otherwise, without telling which part
        was wrong."""
        ...

    async def create_entry(self, who: Identity, name: str) -> str:
        """The secret of a sign-in link (/enter/SECRET) for an account, good for an hour."""
        ...

    async def enter(self, link_secret: str, address: str) -> str:
        """The secret of a new session, by a sign-in link. Refused (403) when it is no longer good."""
        ...

    async def sign_out(self, session_secret: str, address: str) -> None: ...

    async def session(self, session_secret: str, address: str) -> Identity | None: ...

    async def bearer(self, token_secret: str, address: str) -> Identity | None: ...

    async def accounts(self) -> Sequence[AccountView]: ...

    async def create_account(self, who: Identity, name: str, password: str, role: Role) -> None: ...

    async def disable_account(self, who: Identity, name: str) -> None: ...

    async def change_password(self, who: Identity, name: str, password: str) -> None: ...

    async def tokens(self) -> Sequence[TokenView]: ...

    async def create_token(self, who: Identity, name: str, role: Role) -> str: ...

    async def revoke_token(self, who: Identity, name: str) -> None: ...


class Box(Protocol):
    """The site behind the pages."""

    name: str
    version: str

    async def site(self, who: Identity, query: NodeQuery) -> SiteView: ...

    async def node(self, who: Identity, node_id: str) -> NodeView | None: ...

    async def nodes(self, who: Identity, after: str, limit: int) -> Sequence[Node]:
        """Canonical objects by ascending id, for the API."""
        ...

    async def series(self, who: Identity, node_id: str, metric: str, from_ns: int, to_ns: int) -> Series: ...

    async def events(self, who: Identity, after: int, limit: int) -> Sequence[Recorded]: ...

    async def timeline(
        self, who: Identity, before: int, limit: int, subject: str | None = None, kind: str | None = None
    ) -> Sequence[Recorded]:
        """Newest first; `before` is a journal position (0: from the end)."""
        ...

    async def records_after(self, who: Identity, after: int, limit: int, node_id: str | None) -> RecordPage: ...

    async def records_before(
        self, who: Identity, before: int, limit: int, node_id: str | None, text: str
    ) -> RecordPage:
        """Newest first, `before` 0 means from the end, only those that contain `text`."""
        ...

    async def intake(self, who: Identity) -> IntakeView: ...

    async def quarantine(self, who: Identity, before: int, limit: int, settled: bool) -> Sequence[QuarantineItem]: ...

    async def settle(self, who: Identity, item: int, decision: str) -> None:
        """`decision` is retry or drop."""
        ...

    async def adopt(self, who: Identity, source: str, name: str, kind: Kind, tags: tuple[str, ...]) -> str:
        """Make a node of an unclaimed source (its past records come with it); returns the node's id."""
        ...

    async def claim(self, who: Identity, source: str, node_id: str) -> None: ...

    async def release(self, who: Identity, source: str) -> None: ...

    async def change(self, who: Identity, node_id: str, field: str, value: str) -> None:
        """`field` is name, tags, kind, domain_id, target_version or address."""
        ...

    async def move(self, who: Identity, node_id: str, target: str, reason: str) -> None:
        """One step in the lifecycle."""
        ...

    def verify(self, who: Identity) -> AsyncIterator[VerifyStep]: ...

    def export(self, who: Identity) -> AsyncIterator[bytes]:
        """The journal as a file: length-prefixed blocks under zstd (docs/formats.md)."""
        ...

    def watch(self) -> AsyncIterator[frozenset[str]]:
        """The topics that have gone stale since the last item, at most twice a second: `site`, `node:<id>`, `intake`,
        `quarantine`, `journal`. An empty set every five seconds says that the box is alive."""
        ...

    async def gauges(self) -> Sequence[Gauge]: ...

    async def health(self) -> Fitness: ...
