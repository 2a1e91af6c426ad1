"""The JSON of the API where it is not simply a Struct of the contract. Fields are only ever added."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.devices import CodeView, DeviceView
from fleet.drift import Difference
from fleet.events import Recorded, fields
from fleet.node import Kind, Node
from web.ports import AuthorityTerms, DriftGroup, QuarantineItem, RecordPage, RecordView, Role, SourceView, TokenView
from web.words import event as in_words


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """A node, and what is computed from it at this look."""

    node: Node
    drift: tuple[Difference, ...]


class DriftOf(msgspec.Struct, frozen=True):
    """All that is wanted of a node, what differs first: which pointer, wanted, found, since when, by which document."""

    node_id: str
    score: int | None
    drift: tuple[Difference, ...]


class GroupList(msgspec.Struct, frozen=True):
    """Policy bundles or domains, and how their nodes stand. While documents are `pending`, the counts are not whole."""

    groups: tuple[DriftGroup, ...]
    pending: int


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change to many nodes of a domain: to `nodes`, or to all that match `out` (of spec), `site`, `bundle` and
    `version`. With `dry_run` nothing is written."""

    field: str
    value: str
    nodes: tuple[str, ...] = ()
    out: bool = False
    site: str = ""
    bundle: str = ""
    version: str = ""
    dry_run: bool = False


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fields by name; an empty text takes one away. A bundle's constraints are fields too: "constraints/temp_c": "..60"."""

    fields: dict[str, str]


class NodeList(msgspec.Struct, frozen=True):
    """Ascending ids. `next` is the `after` of the next call, or null at the end."""

    nodes: tuple[NodeState, ...]
    next: str | None


class EventOut(msgspec.Struct, frozen=True, kw_only=True):
    """A fact: where it stands, and what it says, as fields and in words. Integers beyond 2^53 occur (hlc, *_ns)."""

    position: int
    writer: str
    epoch: int
    seq: int
    hlc: int
    wall_ns: int
    clock: str
    kind: str
    version: int
    subject: str
    body: dict[str, Any]
    words: str


class EventList(msgspec.Struct, frozen=True):
    """Ascending positions. `next` is the `after` of the next call, also when nothing new came."""

    events: tuple[EventOut, ...]
    next: int


class RecordOut(msgspec.Struct, frozen=True, kw_only=True):
    """One raw message, byte for byte: `raw` when it is UTF-8, `raw_b64` (base 64) when it is not; the other is null."""

    id: int
    at_ns: int
    source: str
    raw: str | None
    raw_b64: bytes | None
    marks: tuple[str, ...]
    node_id: str | None


class GapOut(msgspec.Struct, frozen=True):
    """Ids that are gone on purpose, both ends included, and why."""

    first: int
    last: int
    reason: str


class RecordList(msgspec.Struct, frozen=True):
    """Ascending ids. `next` is the `after` of the next call, also when nothing new came."""

    records: tuple[RecordOut, ...]
    next: int
    gaps: tuple[GapOut, ...]


class SourceList(msgspec.Struct, frozen=True):
    """The sources that no node claims."""

    sources: tuple[SourceView, ...]


class QuarantineList(msgspec.Struct, frozen=True):
    """Newest first. `before` is the `before` of the next call, or null at the end."""

    items: tuple[QuarantineItem, ...]
    before: int | None


class Adopt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    name: str
    kind: Kind = Kind.EDGE
    tags: tuple[str, ...] = ()


class Adopted(msgspec.Struct, frozen=True):
    id: str


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`field` is one of the node's `editable`."""

    field: str
    value: str


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a method of a device. With `one_way` nobody waits for an answer."""

    method: str
    params: Any = None
    timeout_ms: int = 10_000
    one_way: bool = False


class Called(msgspec.Struct, frozen=True):
    """`answer` is what the device said, null for a call one way."""

    answer: Any


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secret: str


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`target` is a place of the lifecycle: PHASE or PHASE/STATE."""

    target: str
    reason: str


class Take(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`choice` counts from 0, which is the one that holds already."""

    field: str
    choice: int


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who decides from now on, and why it was decided so."""

    terms: AuthorityTerms
    why: str


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    why: str


class SettleParked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`choice` counts from 0 among the parked values of the field; `decision` is take or drop."""

    field: str
    decision: str
    why: str
    choice: int = 0


class LinkChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`action` is one of the link's `actions`; `value` a lane, a number of bytes, or the reason of a release."""

    action: str
    value: str = ""


class Settle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`decision` is retry or drop. What never became a record becomes one by retry: of its source, if a node claims that, or
    of the device `node` (id or name); with `alike` all that waits of the same source for the same reason."""

    decision: str
    node: str = ""
    alike: bool = False


class DeviceList(msgspec.Struct, frozen=True, kw_only=True):
    """Devices by name; `next` is `after` for those that follow. `mode` is whether one that nobody knows comes in. The site's
    authority in PEM, and its SHA-256."""

    devices: tuple[DeviceView, ...]
    next: str | None
    mode: str
    ca_pem: str
    ca_sha256: str


class Enrol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is of a node that is there, or of a new one. `credential` is token, password (`user`, `password`: one is made
    up unless told) or certificate (`pem`: one of its own, or a request for one). `days`: 0 for ever."""

    name: str
    credential: str = "token"
    kind: Kind = Kind.EDGE
    gateway: bool = False
    user: str = ""
    password: str = ""
    pem: str = ""
    days: float = 0.0
    why: str = ""


class Rotate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pem` is a request for a certificate; `password` one that a person chose."""

    why: str = ""
    pem: str = ""
    password: str = ""


class Revoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    why: str


class CodeList(msgspec.Struct, frozen=True):
    """Activation codes that can still be traded, never what they are."""

    codes: tuple[CodeView, ...]


class NewCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For the node `name`, or for whichever a device names; good for `uses` devices and `hours`."""

    name: str = ""
    kind: Kind = Kind.EDGE
    gateway: bool = False
    uses: int = 1
    hours: float = 24.0


class CodeSecret(msgspec.Struct, frozen=True):
    """The activation code: it is in this answer and nowhere else."""

    code: str
    made: CodeView


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`role` is viewer, operator, admin or operator-admin."""

    name: str
    role: str = "viewer"


class TokenSecret(msgspec.Struct, frozen=True):
    """The one time that the secret is shown."""

    name: str
    secret: str


class TokenOut(msgspec.Struct, frozen=True):
    name: str
    role: str
    created_ns: int
    revoked_ns: int | None


class TokenList(msgspec.Struct, frozen=True):
    tokens: tuple[TokenOut, ...]


class NewAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`role` is viewer, operator, admin or operator-admin. At a hub `sites` are the names of those where the account holds
    as well, * for every one."""

    name: str
    password: str
    role: str = "viewer"
    sites: tuple[str, ...] = ()


class Me(msgspec.Struct, frozen=True):
    name: str
    role: str
    tenant: str
    via: str


class Done(msgspec.Struct, frozen=True):
    done: bool = True


class Problem(msgspec.Struct, frozen=True):
    """Every refusal: a sentence that says why, and what would work."""

    error: str


class Alive(msgspec.Struct, frozen=True):
    alive: bool
    version: str


class Ready(msgspec.Struct, frozen=True):
    """`loops`: name of each supervised loop, and how it is."""

    ready: bool
    problems: tuple[str, ...]
    loops: dict[str, str]


def state(node: Node, lines: tuple[Difference, ...]) -> NodeState:
    return NodeState(node=node, drift=lines)


def event(one: Recorded) -> EventOut:
    return EventOut(
        position=one.position,
        writer=one.writer,
        epoch=one.epoch,
        seq=one.seq,
        hlc=one.hlc,
        wall_ns=one.wall_ns,
        clock=one.clock.name,
        kind=one.kind,
        version=one.version,
        subject=one.subject,
        body=dict(fields(one.body)),
        words=in_words(one),
    )


def record(view: RecordView) -> RecordOut:
    try:
        raw, raw_b64 = view.content.decode(), None
    except UnicodeDecodeError:
        raw, raw_b64 = None, view.content
    return RecordOut(
        id=view.id,
        at_ns=view.at_ns,
        source=view.source,
        raw=raw,
        raw_b64=raw_b64,
        marks=view.marks,
        node_id=view.node_id,
    )


def records(page: RecordPage) -> RecordList:
    gaps = tuple(GapOut(first, last, reason) for first, last, reason in page.gaps)
    return RecordList(tuple(record(one) for one in page.records), page.next, gaps)


def token(view: TokenView) -> TokenOut:
    return TokenOut(view.name, Role(view.role).word, view.created_ns, view.revoked_ns)
