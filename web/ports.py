"""What the pages may ask of the box behind them: shapes and promises. Appliance and hub both answer.

Promises, for every method
  - Reads answer from what is committed, within two seconds, or raise Unavailable with a sentence for the person.
  - Commands return after the commit of the event that records them. What cannot be done raises Refused with a
    sentence that says what to do instead; nothing is half done.
  - Times are Unix ns; the page turns them into ages against `now_ns` of the same answer.
  - A value nobody has told us is None.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

from fleet.audit import Page, Query
from fleet.connectivity import Mode, Reach
from fleet.devices import CodeView, CodeWish, DevicesView, EnrolWish, Issued
from fleet.document import Kind as DocumentKind
from fleet.drift import Difference
from fleet.events import Clock, Recorded
from fleet.node import Kind, Node
from fleet.past import WHOLE, Known, Stretch, Was
from fleet.people import AccountView as AccountView
from fleet.people import Glass as Glass
from fleet.people import Identity as Identity
from fleet.people import Refused as Refused
from fleet.people import Role as Role
from fleet.people import RosterView as RosterView
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
    site: str = ""  # a hub's: the name of its site
    told_ns: int | None = None  # a hub's: when the site told this, by the site's clock
    lost_ns: int | None = None  # a hub's: since when its site is not heard; the rest is as of then


class Latest(_View, frozen=True):
    """A node as it is now: its row without the sparkline, its last words, and every value with when and whence."""

    row: NodeRow
    values: tuple[Value, ...] = ()
    text: str | None = None
    text_ns: int | None = None


class LatestQuery(NamedTuple):
    """Of each kind that is given, any; empty is any. By ascending id, behind `after`. `sites` are names."""

    ids: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    after: str = ""
    limit: int = 200


class AsOf(_View, frozen=True):
    """A view is of a past moment, as far as the history is put together: up to the journal's event `position`; `behind`
    events more stand in the journal."""

    at_ns: int
    position: int
    behind: int = 0


class Severity(StrEnum):
    ACT = "act"
    LOOK = "look"


class Attention(_View, frozen=True):
    """One line of what needs a person: who, one sentence, since when, and who has taken it up. `key` is its cause and its
    subject; `takes`: whether a person can take it up, or it goes only with its cause."""

    severity: Severity
    words: str
    since_ns: int
    node_id: str | None = None
    name: str = ""
    link: str = ""  # its page
    cause: str = ""
    key: str = ""
    score: float = 0  # 0 to 100, the higher the sooner
    site: str = ""  # a hub's: its name
    domain: str = ""  # its name
    takes: bool = False
    seen_by: str = ""
    seen_ns: int | None = None
    later_by: str = ""
    later_until_ns: int | None = None
    assigned: str = ""
    assigned_by: str = ""
    remark: str = ""


class AttentionQuery(_View, frozen=True):
    """Empty is any. `domain` is an id, `site` a name."""

    cause: str = ""
    domain: str = ""
    site: str = ""


class AttentionView(_View, frozen=True):
    """What stands in the queue, the most urgent first, and what is seen or sleeps; both cut at their bound, the numbers are
    over all. The sums are over the whole queue, to filter by."""

    now_ns: int
    items: tuple[Attention, ...]
    matching: int
    total: int
    quiet: tuple[Attention, ...] = ()
    quiet_matching: int = 0
    causes: tuple[tuple[str, int], ...] = ()
    domains: tuple[tuple[str, str, int], ...] = ()  # id, name
    sites: tuple[tuple[str, int], ...] = ()
    as_of: AsOf | None = None  # of a past view: what the log knows; what people had said is of the first of them only


class AttentionWish(_View, frozen=True):
    """What a person says of an item: seen, later (`until_ns`), mine (`to`: whose, if not the person's own), or back (as if
    nobody had said anything)."""

    key: str
    action: str
    remark: str = ""
    until_ns: int = 0
    to: str = ""


class NodeQuery(_View, frozen=True):
    text: str = ""  # in name, tag, address or id
    reach: Reach | None = None
    kind: Kind | None = None
    tag: str | None = None
    site: str | None = None
    domain: str | None = None  # the id; "" is of none
    bundle: str | None = None  # the id
    order: str = "attention"  # attention, name, battery, seen, rtt
    offset: int = 0
    limit: int = 100


ALL_NODES = NodeQuery()


class SiteLine(_View, frozen=True):
    """A site on a hub's first screen. Cut off is its normal state; `quarantined` is what needs a person."""

    peer: str  # its writer
    name: str
    mode: Mode | None
    since_ns: int
    heard_ns: int | None = None
    present_ns: int | None = None  # when its newest present was true
    backlog: int = 0  # events that are missing here, as far as it has told
    nodes: int = 0
    quarantined: bool = False


class DriftGroup(_View, frozen=True):
    """A domain or a policy bundle: how its nodes stand. `id` is empty for the nodes that are of no domain. `score` is the
    mean of those that are known: 0 is as wanted, 100 nothing as wanted."""

    id: str
    name: str
    nodes: int
    in_line: int
    out: int
    unknown: int
    free: int  # nothing is wanted of them
    score: float | None
    reasons: tuple[tuple[str, int], ...] = ()  # the most frequent first
    versions: tuple[tuple[str, int], ...] = ()  # as found, the most frequent first; "" is not known
    target_version: str = ""
    written_ns: int | None = None  # the newest word in its document
    written_by: str = ""
    conflicts: int = 0
    since_ns: int | None = None  # since when any node is out of spec
    described: bool = True  # false: nodes speak of it, and its document is not here


class DriftView(_View, frozen=True):
    """All domains, those that drift most first, and all bundles by name. `pending`: documents that are still to be read
    after a start, so that the counts are not whole yet."""

    domains: tuple[DriftGroup, ...] = ()
    policies: tuple[DriftGroup, ...] = ()
    pending: int = 0


class SiteView(_View, frozen=True):
    site: str
    now_ns: int
    reach: dict[Reach, int]  # over all nodes
    attention: tuple[Attention, ...]  # the first of them
    rows: tuple[NodeRow, ...]  # the page of the list
    matching: int  # nodes that match the query, over all pages
    places: tuple[NodeRow, ...]  # every matching node with a position, for the map (at most 1,000)
    tags: tuple[str, ...]
    messages_per_s: float
    unclaimed: int
    uptime_s: float
    sites: tuple[SiteLine, ...] = ()  # a hub's, those that need somebody first
    drift: DriftView = DriftView()
    as_of: AsOf | None = None
    needing: int = 0  # all that stand in the queue
    unread: int = 0  # documents not looked at yet: a list by domain or bundle is without what they say


class Choice(_View, frozen=True):
    """A word that somebody wrote into a field: who, where, when, and how far that clock was to be believed."""

    value: str
    by: str
    where: str  # site or hub
    at_ns: int
    clock: Clock


class FieldConflict(_View, frozen=True):
    """A field that was written in two places at once. The first choice is the one that holds now."""

    field: str
    choices: tuple[Choice, ...]


class ParkedValue(_View, frozen=True):
    """A word that does not take effect and waits for a person: `choice` is its place among those of its field."""

    field: str
    choice: int
    said: Choice
    why: str


class AuthorityLine(_View, frozen=True):
    """Who decides what is wanted of a domain or a node, at one site. Epoch 0: the site and the hub both, as ever."""

    subject: str
    place: str  # the site's writer
    site: str
    epoch: int
    master: str = ""  # GLOBAL, REGION or LOCAL; empty at epoch 0
    holders: tuple[str, ...] = ()
    cause: str = ""  # accepted, taken or returned
    since_ns: int | None = None
    actor: str = ""
    why: str = ""
    lease_ns: int = 0
    on_expiry: str = ""
    on_return: str = ""
    heard_ns: int | None = None  # when the other end was heard
    until_ns: int | None = None  # when the lease runs out, if nothing more is heard
    pending: str = ""  # what was granted and the site has not begun
    pending_ns: int | None = None
    contests: tuple[str, ...] = ()  # sentences
    here: bool = True  # this box may write what is wanted


class AuthorityView(_View, frozen=True):
    now_ns: int
    subject: str
    name: str
    lines: tuple[AuthorityLine, ...]  # a line for each site
    actions: tuple[str, ...] = ()  # of grant and return, what can be done here and now
    as_of: AsOf | None = None  # of a past view: `heard_ns` is what the turns of the link say


class AuthorityTerms(_View, frozen=True):
    """What an operator grants. `lease_ns` 0 never runs out; `controllers` are writers of sites, empty for the master's."""

    master: str
    lease_ns: int = 0
    on_expiry: str = "carry on"
    on_return: str = "hand back"
    controllers: tuple[str, ...] = ()


EDITABLE = (
    "name",
    "tags",
    "kind",
    "address",
    "domain_id",
    "upstream",
    "notes",
    "target_version",
    "policy_bundle_id",
    "maintenance_window",
    "min_battery_pct",
    "requires_online",
)


class SaidView(_View, frozen=True):
    """What a device says of itself, as JSON text."""

    name: str
    text: str
    at_ns: int


class DeviceState(_View, frozen=True):
    """The device of a node: whether it is connected and can be called, whether it has said a secret to be claimed with, and
    its client attributes."""

    connected: bool
    offers: bool
    said: tuple[SaidView, ...] = ()


class WayIn(_View, frozen=True):
    """How a node's messages come, since the start of the process. `skew_ns`: how far its clock is ahead of the box's, None where
    nothing lately tells; `skewed` when that is beyond what is tolerated. `missed_beats`: how many of its own intervals ago the
    last heartbeat came."""

    per_s: float
    repeated: int
    repeated_in_a_row: int
    skew_ns: int | None = None
    skewed: bool = False
    beat_interval_s: float | None = None
    missed_beats: float | None = None


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
    notes: str = ""
    conflicts: tuple[FieldConflict, ...] = ()
    editable: tuple[str, ...] = EDITABLE  # the fields that `change` takes here
    authority: AuthorityLine | None = None
    parked: tuple[ParkedValue, ...] = ()
    score: int | None = None  # of its drift
    requires_online: str = ""  # as its own document says: yes, no, or nothing
    domains: tuple[tuple[str, str], ...] = ()  # id and name of each, to choose from
    policies: tuple[tuple[str, str], ...] = ()
    upstream: str = ""  # the id of the node that it is reached over; empty: from the site itself
    relays: tuple[tuple[str, str], ...] = ()  # id and name of each other relay and gateway of its site
    device: DeviceState | None = None  # None where none has said anything of itself, and none is connected
    as_of: AsOf | None = None
    clock: Clock | None = None  # of a past view: of the clock that wrote its newest turn
    way_in: WayIn | None = None  # None where its messages do not come in here, or it is of the past


class Drifter(_View, frozen=True):
    """A node that is out of spec, and why."""

    id: str
    name: str
    site: str
    score: int
    lines: tuple[Difference, ...]


class Word(_View, frozen=True):
    """A field of a bundle or a domain as it stands, and who wrote it so."""

    field: str
    value: str
    by: str
    where: str
    at_ns: int
    clock: Clock


class Preview(_View, frozen=True):
    """What a change of a bundle would touch. `turned`: nodes that would fall out of spec and are not so now."""

    nodes: int
    domains: tuple[tuple[str, int], ...]
    out: int
    out_then: int
    in_line: int
    in_line_then: int
    unknown_then: int
    turned: int


class GroupView(_View, frozen=True):
    """A bundle or a domain, and a page of its nodes that are out of spec, the worst first. `beside` are the domains of a
    bundle's nodes, or the bundles of a domain's: id, name, nodes."""

    now_ns: int
    group: DriftGroup
    words: tuple[Word, ...]
    conflicts: tuple[FieldConflict, ...]
    beside: tuple[tuple[str, str, int], ...]
    sites: tuple[tuple[str, int], ...]  # name, nodes
    reach: tuple[tuple[Reach, int], ...]
    health: tuple[tuple[Health, int], ...]  # of those that are heard
    out: tuple[Drifter, ...]
    offset: int = 0
    limit: int = 50
    pending: int = 0


class GroupSums(_View, frozen=True):
    """How the nodes of a bundle or a domain stood at a moment, over `counted` of its `nodes`. What hangs on a measured
    value is unknown here. `unread`: documents that were not looked at yet, so that nodes may be missing."""

    nodes: int
    counted: int
    unread: int
    in_line: int
    out: int
    unknown: int
    free: int
    score: float | None
    reasons: tuple[tuple[str, int], ...] = ()
    versions: tuple[tuple[str, int], ...] = ()  # as found; "" is not known
    reach: tuple[tuple[Reach, int], ...] = ()
    worst: tuple[Drifter, ...] = ()


class GroupThen(_View, frozen=True):
    """A bundle or a domain as of a moment: what was written in it, and how its nodes stood (None in a list of many, which
    says how many there were). Where it is not `described`, nodes spoke of it and nothing was written in it. The id of what
    is no domain is empty."""

    now_ns: int
    kind: DocumentKind
    id: str
    name: str
    words: tuple[Word, ...]
    as_of: AsOf
    nodes: int = 0
    sums: GroupSums | None = None
    described: bool = True


class GroupsThen(_View, frozen=True):
    """The bundles or the domains that there were at a moment, by name."""

    now_ns: int
    kind: DocumentKind
    groups: tuple[GroupThen, ...]
    as_of: AsOf
    unread: int = 0  # documents that were not looked at yet, so that nodes may be missing


class DebtLine(_View, frozen=True):
    """How far the hub is behind a site, now and over the last day: `trail` is seconds, oldest first, the worst of each ten
    minutes; None where the hub did not look."""

    site: SiteLine
    debt_s: float | None
    trail: tuple[float | None, ...] = ()


BATCH_NODES_MAX = 1_000
BATCH_FIELDS = ("policy_bundle_id", "target_version", "maintenance_window", "domain_id", "add_tag", "remove_tag")


class BatchRefusal(_View, frozen=True):
    """A node that refuses a change, and why."""

    id: str
    name: str
    site: str
    why: str


class BatchView(_View, frozen=True):
    """What one change to many nodes would do, or did if it is `done`. `same`: those that are so already."""

    done: bool
    changed: int
    same: int
    sites: tuple[tuple[str, int], ...]  # name, nodes that change
    refused: tuple[BatchRefusal, ...] = ()


class MemberQuery(_View, frozen=True):
    """Which nodes of a domain; what is empty asks for nothing."""

    out: bool = False
    site: str = ""
    bundle: str = ""
    version: str = ""


class Member(_View, frozen=True):
    """A node of a domain, in a list to choose from. `out`: None while it cannot be judged, or nothing is wanted."""

    id: str
    name: str
    site: str
    bundle: str
    version: str
    out: bool | None


class MembersView(_View, frozen=True):
    """The nodes of a domain that match, by site and name, and what there is to ask for: sites, bundles (id, name),
    versions."""

    name: str
    nodes: tuple[Member, ...]
    sites: tuple[str, ...]
    bundles: tuple[tuple[str, str], ...]
    versions: tuple[str, ...]


class PathNode(_View, frozen=True):
    """A node as the end of its path from the site, and what is reached over it. `path` is as good as the worst hop;
    `folded` are the nodes without anything behind them that are only counted, by their path. `inside`: of this domain."""

    id: str
    name: str
    reach: Reach
    path: Reach
    rtt_ms: float | None = None
    loss_pct: float | None = None
    inside: bool = True
    over: tuple[PathNode, ...] = ()
    folded: tuple[tuple[Reach, int], ...] = ()


class SitePaths(_View, frozen=True):
    """Over which relays a site reaches nodes. What goes in a circle is no path: it stands apart, by id and name."""

    site: str
    nodes: int
    heard: bool
    roots: tuple[PathNode, ...] = ()
    folded: tuple[tuple[Reach, int], ...] = ()
    circles: tuple[tuple[tuple[str, str], ...], ...] = ()
    behind: tuple[tuple[str, str], ...] = ()  # reached only over a circle
    missing: tuple[tuple[str, str], ...] = ()  # over a node that is not at that site; drawn from the site


class PathsView(_View, frozen=True):
    """The sites of a domain, those with relays first; `more` sites are not among them."""

    sites: tuple[SitePaths, ...] = ()
    more: int = 0


class Series(_View, frozen=True):
    """A metric over time: columns of equal length. Where nothing was heard there is no point. `words`: where it is from,
    if not from this box."""

    metric: str
    unit: str
    step_s: int
    at_s: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]
    words: str = ""


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
    words: str = ""  # why there are none here, where that is so


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
    points: int = 0  # what the records hold, where one holds many; messages/s are of these then
    waiting: int = 0  # at the gate
    durable_s_p50: float | None = None  # from receipt to the disk, over the last five minutes
    durable_s_p99: float | None = None
    state: str = ""  # of a way in that calls out itself: to whom, and how that stands


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
    repeated: dict[str, int] = {}  # messages that had come before, by the way of their source


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
    outside: bool = False  # it never became a record, and could


class LaneView(_View, frozen=True):
    """One of control, snapshots, log, segments. What waits is None where nobody has counted it."""

    name: str
    paused: bool = False
    waiting: int | None = None  # events, segments
    waiting_bytes: int | None = None
    per_s: float | None = None  # of what waits


class ReceiptView(_View, frozen=True):
    """The newest completeness receipt, in numbers. `seq` is the last event it covers, 0 when that is `events`."""

    number: int
    at_ns: int
    events: int
    segments: int
    drops: int
    gaps: int
    root: str  # hexadecimal
    countersigned: bool
    seq: int = 0


class LinkView(_View, frozen=True):
    """A link as this end sees it: at a site the one to its hub, at a hub one to each site. `missing` is what the hub
    lacks of the site, at either end."""

    peer: str  # writer; empty while it is not known
    name: str
    mode: Mode | None
    since_ns: int | None = None  # of the mode
    heard_ns: int | None = None
    problem: str = ""  # why there is no line, in a sentence
    debt_s: float | None = None  # how far the hub is behind the site
    missing_events: int | None = None
    missing_segments: int | None = None
    missing_bytes: int | None = None  # of segments
    drained_s: float | None = None  # until nothing is missing, at the rate of now
    rtt_ms: float | None = None
    events_per_s: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    parcels_in: int = 0
    parcels_out: int | None = None
    receipt: ReceiptView | None = None
    quarantine: tuple[str, ...] = ()  # reasons; empty when it is not in quarantine
    forks: tuple[str, ...] = ()  # sentences
    via: str = ""  # wire or stick
    address: str = ""
    lanes: tuple[LaneView, ...] = ()
    per_s_max: int = 0  # bytes; 0: no cap
    per_hour_max: int = 0
    cut: bool = False  # by an operator
    actions: tuple[str, ...] = ()  # what `link_change` takes here and now


class LinkState(StrEnum):
    """In which of four ways a link is, as a list of many counts them."""

    HELD = "held"  # in quarantine: a person has to look
    COMING = "coming"  # returning, catching up
    AWAY = "away"
    LIVE = "live"


class LinkQuery(_View, frozen=True):
    """Which links of a hub; those that need somebody stand first. `peer` asks for one alone."""

    text: str = ""  # in the name
    state: LinkState | None = None
    peer: str = ""
    offset: int = 0
    limit: int = 50


class LinkSums(_View, frozen=True):
    """Over all links of a hub, whatever is asked for."""

    states: dict[LinkState, int]
    missing_events: int = 0
    missing_segments: int = 0
    missing_bytes: int = 0  # of segments


class LinksView(_View, frozen=True):
    """`matching` is how many links match, on all pages of the list."""

    now_ns: int
    links: tuple[LinkView, ...]
    problem: str = ""  # a link file that cannot be used, say
    as_of: AsOf | None = None  # of a past view: modes, since when, and receipts; the rest is not known
    matching: int = 0
    sums: LinkSums | None = None  # of a hub


class BundleView(_View, frozen=True):
    """A stick for or from the other end, in sentences."""

    words: tuple[str, ...] = ()  # what it holds, what is missing


class Gauge(_View, frozen=True):
    """A number for /metrics. `kind` is counter or gauge."""

    name: str
    help: str
    kind: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class Durations(_View, frozen=True):
    """A histogram for /metrics: how many took at most so long (seconds, the last one infinite), and all of them together."""

    name: str
    help: str
    buckets: tuple[tuple[float, int], ...]
    sum_s: float
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

    async def create_account(
        self, who: Identity, name: str, password: str, role: Role, sites: Sequence[str] = ()
    ) -> None:
        """At a hub `sites` are the names of those where it holds as well, `people.ALL` for every one."""
        ...

    async def change_account(
        self, who: Identity, name: str, role: Role | None = None, sites: Sequence[str] | None = None
    ) -> None:
        """Another role, or at a hub other sites; what is None stays."""
        ...

    async def roster(self) -> RosterView | None:
        """The hub's accounts as far as they have come; None while none has a way to a site."""
        ...

    @property
    def glass(self) -> Glass:
        """The site's sealed account."""
        ...

    async def seal_glass(self, who: Identity) -> str:
        """The secret of a new sealed account; the one before it is void."""
        ...

    async def seen(self, who: Identity, route: str, agent: str) -> None:
        """Tell in the log that `who`, who may look across tenants, looked."""
        ...

    async def disable_account(self, who: Identity, name: str) -> None: ...

    async def change_password(self, who: Identity, name: str, password: str) -> None: ...

    async def tokens(self) -> Sequence[TokenView]: ...

    async def create_token(self, who: Identity, name: str, role: Role) -> str: ...

    async def revoke_token(self, who: Identity, name: str) -> None: ...


class TenantLine(_View, frozen=True):
    """A tenant on a hub's page of all of them. `prefix` is where its pages are; `problem` says why it has none now."""

    name: str
    prefix: str
    sites: int = 0
    sites_live: int = 0
    nodes: int = 0
    nodes_live: int = 0
    needing: int = 0
    problem: str = ""


class Tenants(Protocol):
    """All tenants of a hub, for those who look across them. That they looked is told in the log of each that they saw."""

    async def lines(self, who: Identity, route: str, agent: str) -> Sequence[TenantLine]:
        """The hub's first tenant first, then by name."""
        ...

    async def add(self, who: Identity, name: str, admin: str) -> str:
        """Another tenant, and its first admin; the secret of a sign-in link for him (NAME/enter/SECRET), good for an
        hour. Refused (409, 422) when that cannot be."""
        ...

    async def gauges(self, who: Identity, agent: str) -> Sequence[Gauge | Durations]:
        """Those of all, each with the label of its tenant where there are several."""
        ...

    async def health(self) -> Fitness:
        """Of all; who else is not ready stands there as a number."""
        ...


class Past(Protocol):
    """The same reads as of a moment (Unix ns). What a moment is, and whether it may be asked for, is checked by
    `web.asked.moment`."""

    async def known(self, who: Identity) -> Known: ...

    async def site(self, who: Identity, query: NodeQuery, moment_ns: int) -> SiteView: ...

    async def node(self, who: Identity, node_id: str, moment_ns: int) -> NodeView | None:
        """Refused (400) when the node was not there yet."""
        ...

    async def nodes(
        self, who: Identity, after: str, limit: int, moment_ns: int, query: NodeQuery = ALL_NODES
    ) -> Sequence[tuple[Node, tuple[Difference, ...]]]:
        """Each with what was wanted of it, and how it stood to that as far as no measured value is asked for."""
        ...

    async def timeline(
        self, who: Identity, before: int, limit: int, subject: str | None, moment_ns: int
    ) -> Sequence[Recorded]: ...

    async def links(self, who: Identity, moment_ns: int) -> LinksView: ...

    async def authority(self, who: Identity, subject: str, moment_ns: int) -> AuthorityView: ...

    async def attention(self, who: Identity, query: AttentionQuery, moment_ns: int) -> AttentionView: ...

    async def groups(self, who: Identity, kind: DocumentKind, moment_ns: int) -> GroupsThen: ...

    async def group(self, who: Identity, kind: DocumentKind, name: str, moment_ns: int) -> GroupThen | None:
        """None when there is none; Refused (400) when it had not been written yet."""
        ...

    async def turns(self, who: Identity, node_id: str) -> Sequence[Was]:
        """The newest turns of a node, oldest first."""
        ...


class Policies(Protocol):
    """Policy bundles, domains and what drifts from them. `kind` is BUNDLE or DOMAIN."""

    async def names(self) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        """Id and name of each domain, and of each bundle, by name."""
        ...

    async def drift(self, who: Identity) -> DriftView: ...

    async def differences(self, who: Identity, node_ids: Sequence[str]) -> Mapping[str, tuple[Difference, ...]]:
        """All that is wanted of nodes and how it stands, of those that are known."""
        ...

    async def group(self, who: Identity, kind: DocumentKind, name: str, offset: int, limit: int) -> GroupView | None:
        """By its id; None when there is none here."""
        ...

    async def members(self, who: Identity, name: str, query: MemberQuery) -> MembersView | None:
        """The nodes of a domain, to choose from; None when there is no such domain here."""
        ...

    async def paths(self, who: Identity, name: str) -> PathsView:
        """Over which relays the nodes of a domain are reached."""
        ...

    async def history(self, who: Identity, name: str, limit: int) -> Sequence[Recorded]:
        """What was said of a bundle or a domain, newest first, each word once."""
        ...

    async def preview(self, who: Identity, name: str, fields: Mapping[str, str]) -> Preview:
        """What `write` of these fields into a bundle would touch. Refused as that would be."""
        ...

    async def create(self, who: Identity, kind: DocumentKind, name: str) -> str:
        """A new one of that name; returns its id."""
        ...

    async def write(self, who: Identity, kind: DocumentKind, name: str, fields: Mapping[str, str]) -> None:
        """Change fields; an empty text takes one away. A bundle's constraints are fields too: constraints/temp_c =
        ..60. What is written goes to every site."""
        ...

    async def take(self, who: Identity, kind: DocumentKind, name: str, field: str, choice: int) -> None:
        """Settle a conflict: the `choice` of those shown holds from now on, everywhere."""
        ...


class PlanQuery(_View, frozen=True):
    """`peer`: the writer of one site; empty for all. `sort` and `field` empty: any. `text` in a name or a value."""

    peer: str = ""
    sort: str = ""
    text: str = ""
    field: str = ""
    offset: int = 0
    limit: int = 50


class PlanStep(_View, frozen=True):
    """A field in which words stand against each other (`fleet.plan.Step`). The first choice holds now, unless there is
    only one; `choice` is the one that a rule takes or proposes, `why` says so in a sentence. `base` is what all had seen,
    None where nobody can tell."""

    id: str
    sort: str  # person, automatic or refused
    rule: str
    kind: str
    document: str
    name: str  # of the node, bundle or domain
    domain: str
    site: str
    field: str
    choices: tuple[Choice, ...]
    choice: int | None
    base: str | None
    why: str


class PlanDone(_View, frozen=True):
    """A plan, or part of one, that was applied. `undone_ns` is None while it stands."""

    plan: str
    site: str
    at_ns: int
    decisions: int
    by: str
    why: str
    undone_ns: int | None = None


class PlanView(_View, frozen=True):
    """What is to be decided. `plan` and `state` go back with the decisions; `counts` and `fields` are over all of it,
    `matching` is how many need a person and match the query, `steps` the page of them. The other two lists are cut at
    their bound."""

    now_ns: int
    peer: str
    site: str  # its name; empty for all
    plan: str
    state: str
    counts: dict[str, int]
    fields: tuple[str, ...]
    matching: int
    steps: tuple[PlanStep, ...]
    automatic: tuple[PlanStep, ...] = ()
    refused: tuple[PlanStep, ...] = ()
    done: tuple[PlanDone, ...] = ()
    sites: tuple[tuple[str, str], ...] = ()  # a hub's: writer and name


class PlanWish(_View, frozen=True):
    """Decisions on the plan of that hash and state: the choice for each step, -1 to leave it. `automatic`: what settles
    by rule too, as far as one application may hold."""

    plan: str
    state: str
    decisions: dict[str, int]
    why: str
    peer: str = ""
    automatic: bool = False


class PlanChange(_View, frozen=True):
    """What a decision would change. The values are the same where what holds already was taken."""

    name: str
    site: str
    domain: str
    field: str
    former: str
    value: str
    by: str


class Plans(Protocol):
    """What was written in two places at once, decided together. Hub and site answer alike."""

    async def look(self, who: Identity, query: PlanQuery) -> PlanView:
        """Refused (404) for a site that is not there."""
        ...

    async def preview(self, who: Identity, wish: PlanWish) -> Sequence[PlanChange]:
        """What `apply` would do. Refused (409) when the plan is not that any more, (422) for a decision that cannot be."""
        ...

    async def apply(self, who: Identity, wish: PlanWish) -> int:
        """Carry them all out, or none; how many there were."""
        ...

    async def undo(self, who: Identity, plan: str, why: str) -> int:
        """What held before the plan was applied holds again. Refused (409) when somebody wrote there since."""
        ...


class Devices(Protocol):
    """Who proves at the ways in who they are. What is wrong is Refused, with its sentence."""

    async def look(self, who: Identity, text: str, after: str, limit: int) -> DevicesView:
        """Those with `text` in their name that follow the name `after`."""
        ...

    async def make_code(self, who: Identity, wish: CodeWish) -> tuple[CodeView, str]:
        """The activation code itself, this once."""
        ...

    async def withdraw_code(self, who: Identity, code: str, why: str) -> None: ...

    async def enrol(self, who: Identity, wish: EnrolWish, why: str) -> Issued:
        """A node, there already or new, gets something to show: told this once."""
        ...

    async def rotate(self, who: Identity, credential: str, why: str, pem: str, password: str) -> Issued:
        """A new one in its place; both count until the grace is over."""
        ...

    async def revoke(self, who: Identity, credential: str, why: str) -> None:
        """One credential, or, by the id of a node, all that it has. At once."""
        ...


class Box(Protocol):
    """The site behind the pages, or the hub behind its own."""

    name: str
    version: str
    hub: bool
    plans: Plans

    @property
    def past(self) -> Past | None: ...

    @property
    def policies(self) -> Policies: ...

    @property
    def devices(self) -> Devices | None:
        """None at a hub: devices belong to sites."""
        ...

    async def site(self, who: Identity, query: NodeQuery) -> SiteView: ...

    async def attention(self, who: Identity, query: AttentionQuery) -> AttentionView: ...

    async def handle(self, who: Identity, wish: AttentionWish) -> None:
        """Take an item up, or let it go. It stands in its subject's document, here and at the other end."""
        ...

    async def node(self, who: Identity, node_id: str) -> NodeView | None: ...

    async def nodes(self, who: Identity, after: str, limit: int, query: NodeQuery = ALL_NODES) -> Sequence[Node]:
        """Canonical objects by ascending id, of those that match; its order and offset are not looked at."""
        ...

    async def latest(self, who: Identity, query: LatestQuery) -> Sequence[Latest]:
        """How nodes are now. Quick: from memory."""
        ...

    async def called(self, who: Identity, ids: Collection[str]) -> Mapping[str, str]:
        """The names of those that are nodes here."""
        ...

    async def series(self, who: Identity, node_id: str, metric: str, from_ns: int, to_ns: int) -> Series: ...

    async def events(self, who: Identity, after: int, limit: int, stretch: Stretch = WHOLE) -> Sequence[Recorded]:
        """By ascending position, behind `after`."""
        ...

    async def timeline(
        self,
        who: Identity,
        before: int,
        limit: int,
        subject: str | None = None,
        kind: str | None = None,
        stretch: Stretch = WHOLE,
    ) -> Sequence[Recorded]:
        """Newest first; `before` is a journal position (0: from the end). Refused (400) when a kind is looked for in too
        long a stretch."""
        ...

    async def records_after(self, who: Identity, after: int, limit: int, node_id: str | None) -> RecordPage: ...

    async def records_before(
        self, who: Identity, before: int, limit: int, node_id: str | None, text: str
    ) -> RecordPage:
        """Newest first, `before` 0 means from the end, only those that contain `text`."""
        ...

    async def intake(self, who: Identity) -> IntakeView: ...

    async def quarantine(
        self, who: Identity, before: int, limit: int, settled: bool, moment_ns: int | None = None
    ) -> Sequence[QuarantineItem]:
        """Newest first. As of a moment: those that are still kept and had come by then, as far as they had been settled."""
        ...

    async def settle(self, who: Identity, item: int, decision: str, node: str = "", *, alike: bool = False) -> None:
        """`decision` is retry or drop. What never became a record becomes one of its source, or of the device `node`; with
        `alike` all that waits of the same source for the same reason."""
        ...

    async def adopt(self, who: Identity, source: str, name: str, kind: Kind, tags: tuple[str, ...]) -> str:
        """Make a node of an unclaimed source (its past records come with it); returns the node's id."""
        ...

    async def claim(self, who: Identity, source: str, node_id: str) -> None: ...

    async def release(self, who: Identity, source: str) -> None: ...

    async def change(self, who: Identity, node_id: str, field: str, value: str) -> None:
        """`field` is one of the node's `editable`."""
        ...

    async def debts(self, who: Identity, domain: str) -> Sequence[DebtLine]:
        """How far the hub is behind each site of a domain, those that need somebody first; at a site there is none."""
        ...

    async def change_many(
        self, who: Identity, node_ids: Sequence[str], field: str, value: str, *, dry_run: bool
    ) -> BatchView:
        """One change (`BATCH_FIELDS`) to at most `BATCH_NODES_MAX` nodes, in one transaction; a node that refuses leaves
        the others alone. `dry_run`: say what would be, write nothing."""
        ...

    async def take(self, who: Identity, node_id: str, field: str, choice: int) -> None:
        """Settle a conflict: the `choice` of those shown holds from now on."""
        ...

    async def authority(self, who: Identity, subject: str) -> AuthorityView:
        """Of a domain or a node. What nobody ever decided on has epoch 0 everywhere."""
        ...

    async def grant(self, who: Identity, subject: str, terms: AuthorityTerms, why: str) -> None:
        """At a hub: say who decides from now on. It holds at each site when the site hears of it."""
        ...

    async def hand_back(self, who: Identity, subject: str, why: str) -> None:
        """At a site: give back what it took when its lease ran out."""
        ...

    async def settle_parked(
        self, who: Identity, node_id: str, field: str, choice: int, decision: str, why: str
    ) -> None:
        """A person's word on a parked value: take or drop."""
        ...

    async def move(self, who: Identity, node_id: str, target: str, reason: str) -> None:
        """One step in the lifecycle."""
        ...

    async def call_device(
        self, who: Identity, node_id: str, method: str, params: object, timeout_s: float, *, one_way: bool
    ) -> object:
        """Call a method of a node's device, which must be connected, and give back what it answers (None when nothing is
        awaited). Recorded before it is sent. Refused: 409 not connected, 429, 502, 504 no answer in time."""
        ...

    async def claim_device(self, who: Identity, node_id: str, secret: str) -> None:
        """The secret that a node's device said stands before us. Refused when it is another, or none."""
        ...

    async def links(self, who: Identity, query: LinkQuery | None = None) -> LinksView:
        """At a hub those that are asked for, all of them without a query; at a site its one."""
        ...

    async def link_change(self, who: Identity, peer: str, action: str, value: str) -> None:
        """`action` is cut, restore, pause or resume (`value`: a lane), per_s or per_hour (`value`: bytes, 0 for no cap),
        release (`value`: why). Recorded as an event."""
        ...

    async def link_join(self, who: Identity, raw: bytes) -> str:
        """Take in the link file that a hub made for this site; a sentence about what happens now."""
        ...

    async def receipt(self, who: Identity, peer: str, number: int) -> bytes:
        """A completeness receipt as a file that anybody can check."""
        ...

    def bundle_export(self, who: Identity, peer: str) -> AsyncIterator[bytes]:
        """What the other end lacks, as a file for a stick."""
        ...

    async def bundle_import(self, who: Identity, chunks: AsyncIterator[bytes]) -> str:
        """Take in a file from a stick; a sentence about what came of it."""
        ...

    async def bundle_state(self, who: Identity, peer: str) -> BundleView: ...

    async def audit(self, who: Identity, query: Query) -> Page:
        """Who did what, newest first; at a hub over all sites."""
        ...

    def audit_export(self, who: Identity, query: Query) -> AsyncIterator[bytes]:
        """All of it as JSON Lines with the proof beside each event (docs/formats.md)."""
        ...

    def verify(self, who: Identity) -> AsyncIterator[VerifyStep]: ...

    def export(self, who: Identity) -> AsyncIterator[bytes]:
        """The journal as a file: length-prefixed blocks under zstd (docs/formats.md)."""
        ...

    def watch(self) -> AsyncIterator[frozenset[str]]:
        """The topics that have gone stale since the last item, at most twice a second: `site`, `node:<id>`, `intake`,
        `quarantine`, `journal`, `links`. An empty set every five seconds says that the box is alive."""
        ...

    async def gauges(self) -> Sequence[Gauge | Durations]: ...

    async def health(self) -> Fitness: ...
