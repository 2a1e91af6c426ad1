"""Events: facts in the past tense, each with a kind and a version, encoded once and never again.

An event's canonical bytes are a MessagePack array `[seq, hlc, wall_ns, clock, kind, version, subject, body]`, the
body itself an array in the order of its fields. So fields are only ever added at the end, with a default; a reader
that is older skips what it does not know, and passes the bytes on as they came. A kind nobody here knows is `Unknown`.

`subject` is the id of the node, source, account or store that the fact is about.
History of a version stands at its class; there is only version 1 so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec

from fleet import limits


class Clock(IntEnum):
    """How far the wall clock was to be believed when the event was written."""

    NOT_TRUSTED = 0  # behind its own floor, or before this program was made
    FREE_RUNNING = 1  # plausible, disciplined by nobody
    SYNCED = 2  # the kernel says that NTP or a receiver disciplines it


class Body(msgspec.Struct, frozen=True, array_like=True):
    KIND: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1


class Unknown(NamedTuple):
    """A kind from a newer version: kept, shown as bytes, passed on."""

    raw: bytes


KINDS: dict[str, type[Body]] = {}
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {}
_B = TypeVar("_B", bound=Body)


def _fact(kind: str, version: int = 1) -> Callable[[type[_B]], type[_B]]:
    def register(cls: type[_B]) -> type[_B]:
        assert kind not in KINDS
        cls.KIND, cls.VERSION = kind, version
        KINDS[kind] = cls
        _DECODERS[kind] = msgspec.msgpack.Decoder(cls)
        return cls

    return register


# -- the log itself ----------------------------------------------------------------------------------------


@_fact("log.started")
class LogStarted(Body, frozen=True):
    """The first event of every epoch. `reason` is first, restored or rekeyed; the rest names the log it follows."""

    reason: str
    public_key: bytes
    previous_writer: str = ""
    previous_epoch: int = 0
    previous_seq: int = 0
    previous_hash: bytes = b""


@_fact("appliance.started")
class ApplianceStarted(Body, frozen=True):
    version: str
    clean: bool  # the last stop was orderly


@_fact("appliance.stopped")
class ApplianceStopped(Body, frozen=True):
    reason: str


@_fact("clock.stepped")
class ClockStepped(Body, frozen=True):
    """The wall clock jumped by `step_ns` against the monotonic clock."""

    step_ns: int
    confidence: int


@_fact("storage.failed")
class StorageFailed(Body, frozen=True):
    store: str
    reason: str
    detail: str


@_fact("storage.recovered")
class StorageRecovered(Body, frozen=True):
    store: str
    down_ns: int


@_fact("backup.made")
class BackupMade(Body, frozen=True):
    name: str
    bytes_written: int


# -- nodes: who is there ------------------------------------------------------------------------------------


@_fact("node.adopted")
class NodeAdopted(Body, frozen=True):
    """A person took a source on as a node."""

    name: str
    node_kind: str
    source: str
    actor: str
    tags: tuple[str, ...] = ()


@_fact("node.changed")
class NodeChanged(Body, frozen=True):
    """What a person changed: field, former value, new value."""

    field: str
    former: str
    value: str
    actor: str


@_fact("source.claimed")
class SourceClaimed(Body, frozen=True):
    source: str
    node: str
    actor: str


@_fact("source.released")
class SourceReleased(Body, frozen=True):
    source: str
    node: str
    actor: str


@_fact("lifecycle.moved")
class LifecycleMoved(Body, frozen=True):
    """A step along one edge of the lifecycle table (`fleet.lifecycle`); places are written PHASE or PHASE/STATE."""

    origin: str
    target: str
    reason: str
    actor: str = ""


# -- nodes: turns of state, each with its evidence ---------------------------------------------------------


@_fact("node.heard")
class NodeHeard(Body, frozen=True):
    """Heard for the first time, or again after a silence of `silent_ns`. `record` is the record that says so."""

    mode: str
    former: str
    via: str
    record: int = 0
    silent_ns: int = 0


@_fact("node.quiet")
class NodeQuiet(Body, frozen=True):
    """Nothing heard for longer than `silence_ns_max`, neither a record nor an echo."""

    mode: str
    former: str
    heard_ns: int
    silence_ns_max: int


@_fact("node.degraded")
class NodeDegraded(Body, frozen=True):
    mode: str
    former: str
    reason: str
    rtt_ms: float | None = None
    loss_pct: float | None = None


@_fact("node.recovered")
class NodeRecovered(Body, frozen=True):
    mode: str
    former: str
    reason: str
    rtt_ms: float | None = None
    loss_pct: float | None = None


@_fact("node.heartbeat_missed")
class HeartbeatMissed(Body, frozen=True):
    """NO_HEARTBEAT: the node is heard, its autopilot or agent is not."""

    heartbeat_ns: int
    interval_ns: int


@_fact("node.heartbeat_resumed")
class HeartbeatResumed(Body, frozen=True):
    missing_ns: int
    record: int = 0


@_fact("node.health_changed")
class HealthChanged(Body, frozen=True):
    former: str
    health: str
    reason: str
    record: int = 0


@_fact("node.version_changed")
class VersionChanged(Body, frozen=True):
    former: str
    version: str
    record: int = 0


# -- devices: what they were asked, and who took them on ------------------------------------------------------


@_fact("device.called")
class DeviceCalled(Body, frozen=True):
    """A person called a method of a device; written before it is sent. `params` as JSON, cut after 500 characters."""

    method: str
    params: str
    actor: str
    one_way: bool = False


@_fact("device.call_ended")
class DeviceCallEnded(Body, frozen=True):
    """`outcome` is answered, sent (nothing was awaited), or why not."""

    method: str
    outcome: str
    took_ns: int
    actor: str


@_fact("device.claimed")
class DeviceClaimed(Body, frozen=True):
    """Somebody entered the secret that the device had said: it is the one before them."""

    actor: str


# -- telemetry: what was kept, what was let go --------------------------------------------------------------


@_fact("segment.sealed")
class SegmentSealed(Body, frozen=True):
    """Records `first_id`..`last_id` now stand in one immutable file, named by the SHA-256 of its bytes. `content` is raw,
    or series: the charts of that time, in a file that holds no records (its ids and `records` are 0)."""

    sha256: bytes
    first_id: int
    last_id: int
    records: int
    from_ns: int
    to_ns: int
    bytes_stored: int
    content: str = "raw"


@_fact("telemetry.dropped")
class TelemetryDropped(Body, frozen=True):
    """An intentional, bounded loss: the range that was let go, and why. `data_class` is raw, files
    (of devices), series, damaged or quarantine."""

    data_class: str
    reason: str
    first_id: int
    last_id: int
    records: int
    bytes_freed: int
    from_ns: int
    to_ns: int
    sha256: bytes = b""


@_fact("telemetry.damaged")
class TelemetryDamaged(Body, frozen=True):
    """Records that a disk gave back wrong. The file is kept beside the others under `kept_as`."""

    file: str
    reason: str
    first_id: int
    last_id: int
    kept_as: str


@_fact("intake.refused")
class IntakeRefused(Body, frozen=True):
    """Messages that never became records, counted: refused at the gate or dropped by the kernel."""

    intake: str
    reason: str
    messages: int
    from_ns: int
    to_ns: int


# -- people -----------------------------------------------------------------------------------------------


@_fact("account.created")
class AccountCreated(Body, frozen=True):
    name: str
    role: str
    actor: str
    sites: tuple[str, ...] = ()  # at a hub: those that it is for; "*": every one
    tenant: str = ""


@_fact("account.changed")
class AccountChanged(Body, frozen=True):
    name: str
    field: str  # role, password, sites or disabled
    value: str  # never a secret: empty for a password
    actor: str


@_fact("account.signed_in")
class AccountSignedIn(Body, frozen=True):
    name: str
    address: str


@_fact("account.refused")
class AccountRefused(Body, frozen=True):
    """A sign-in that failed, or a lock-out. The name is what was typed, cut to a safe length."""

    name: str
    address: str
    reason: str


@_fact("account.signed_out")
class AccountSignedOut(Body, frozen=True):
    name: str
    address: str


@_fact("token.created")
class TokenCreated(Body, frozen=True):
    name: str
    role: str
    actor: str


@_fact("token.revoked")
class TokenRevoked(Body, frozen=True):
    name: str
    actor: str


@_fact("roster.taken")
class RosterTaken(Body, frozen=True):
    """The hub's accounts came to this site, whole. `said` is what became of whom, and by whom at the hub: never a
    secret."""

    hub: str
    version: int
    said: tuple[tuple[str, str, str], ...]
    clashes: tuple[str, ...] = ()  # names that an account of this site keeps


@_fact("roster.refused")
class RosterRefused(Body, frozen=True):
    """What the hub, or somebody in its name, said of its accounts was not taken. One event a minute tells of it."""

    version: int  # the one that stays here
    reason: str


@_fact("glass.sealed")
class GlassSealed(Body, frozen=True):
    """A sealed account lies at this site, for whoever breaks the glass. One before it is worth nothing."""

    actor: str


@_fact("glass.broken")
class GlassBroken(Body, frozen=True):
    """The sealed account was used: once, and with a session until `until_ns`."""

    address: str
    until_ns: int


@_fact("tenant.added")
class TenantAdded(Body, frozen=True):
    """At a hub, in the tenant's own log: it is kept here from now on. `admin` is its first account."""

    name: str
    admin: str
    actor: str


@_fact("access.seen")
class AccessSeen(Body, frozen=True):
    """Somebody who may look across tenants looked. One event for each person, route and minute."""

    name: str
    role: str
    via: str
    route: str
    address: str
    agent: str


@_fact("device.enrolled")
class DeviceEnrolled(Body, frozen=True):
    """A node may prove at the ways in who it is, from now on."""

    name: str
    gateway: bool  # may speak for others
    code: str  # the id of the activation code that it came with; empty: a person entered it
    actor: str
    address: str


@_fact("credential.issued")
class CredentialIssued(Body, frozen=True):
    """A device was given something to show. Never what it is."""

    credential: str
    credential_kind: str  # token, password or certificate
    label: str
    expires_ns: int  # 0: never
    why: str
    actor: str
    address: str


@_fact("credential.rotated")
class CredentialRotated(Body, frozen=True):
    """A new one took the place of an old one, which counts until the grace is over."""

    credential: str
    former: str
    grace_until_ns: int
    why: str
    actor: str
    address: str


@_fact("credential.revoked")
class CredentialRevoked(Body, frozen=True):
    credential: str
    credential_kind: str
    label: str
    why: str
    actor: str
    address: str


@_fact("code.made")
class CodeMade(Body, frozen=True):
    """An activation code was made. Never the code."""

    code: str
    name: str  # of the node that it is for; empty: whichever the device names
    gateway: bool
    uses: int
    expires_ns: int
    actor: str
    address: str


@_fact("code.withdrawn")
class CodeWithdrawn(Body, frozen=True):
    code: str
    why: str
    actor: str
    address: str


@_fact("quarantine.settled")
class QuarantineSettled(Body, frozen=True):
    """A person's word on quarantined input: retried, or dropped."""

    item: int
    decision: str
    reason: str
    actor: str
    source: str = ""  # of which its bytes became a record


# -- links: sites and their hub -----------------------------------------------------------------------------


@_fact("link.turned")
class LinkTurned(Body, frozen=True):
    """A site's session with its hub went from one state to the next (`sync.protocol`)."""

    peer: str
    former: str
    state: str
    cause: str
    reason: str = ""


@_fact("link.changed")
class LinkChanged(Body, frozen=True):
    """An operator's word on a link: cut, restored, a lane paused or resumed, a cap in bytes."""

    peer: str
    action: str
    value: str
    actor: str


@_fact("site.admitted")
class SiteAdmitted(Body, frozen=True):
    """A site came for the first time, with an invitation."""

    name: str
    public_key: bytes


@_fact("site.quarantined")
class SiteQuarantined(Body, frozen=True):
    name: str
    reasons: tuple[str, ...]


@_fact("site.released")
class SiteReleased(Body, frozen=True):
    name: str
    actor: str
    reason: str


@_fact("log.forked")
class LogForked(Body, frozen=True):
    """A log was continued in two ways: after event `seq`, `here` stands in the journal, `there` is kept beside it."""

    writer: str
    epoch: int
    seq: int
    here: bytes
    there: bytes


@_fact("receipt.signed")
class ReceiptSigned(Body, frozen=True):
    """A completeness receipt was signed by both. `sha256` is of its content."""

    site: str
    number: int
    sha256: bytes
    events: int
    segments: int


@_fact("segment.received")
class SegmentReceived(Body, frozen=True):
    """A site's segment came together here, bit for bit."""

    site: str
    sha256: bytes
    records: int
    bytes_stored: int


@_fact("document.changed")
class DocumentChanged(Body, frozen=True):
    """A change of a document (`store.document`), its bytes as they were made. `repeated`: sent again after a comparison
    of heads, by one who need not be its author."""

    document_kind: str
    document: str
    generation: int
    change: bytes
    repeated: bool = False


@_fact("authority.granted")
class AuthorityGranted(Body, frozen=True):
    """The hub's word, to one site, on who decides what is wanted of a domain or a node (`fleet.authority`). It holds when
    the site accepts it: as `epoch`, or a later one."""

    site: str
    epoch: int
    master: str
    controllers: tuple[str, ...]
    lease_ns: int
    on_expiry: str
    on_return: str
    actor: str
    why: str


@_fact("authority.began")
class AuthorityBegan(Body, frozen=True):
    """A site began an epoch: it accepted a grant, took over when its lease ran out after `silent_ns`, or handed back.
    `seen` is how far it knew each log: writer, epoch, last stamp. `grant` is the stamp of the grant it rests on."""

    epoch: int
    cause: str
    master: str
    controllers: tuple[str, ...]
    lease_ns: int
    on_expiry: str
    on_return: str
    seen: tuple[tuple[str, int, int], ...]
    grant: int
    silent_ns: int = 0
    actor: str = ""
    why: str = ""


@_fact("authority.settled")
class AuthoritySettled(Body, frozen=True):
    """A person's word on a value that was parked: taken, or let go."""

    field: str
    value: str
    who: str  # wrote it
    decision: str
    actor: str
    why: str


@_fact("conflict.decided")
class ConflictDecided(Body, frozen=True):
    """Of words written at once into a field, one was taken by a plan. `former` held before; `left` are the words that
    were not taken, each with who wrote it, shortened. `rule` is what the plan said of it."""

    document_kind: str
    document: str
    pointer: str
    taken: str | int | float | bool | None
    former: str | int | float | bool | None
    left: tuple[tuple[str, str], ...]
    rule: str
    plan: str
    actor: str
    why: str


@_fact("plan.applied")
class PlanApplied(Body, frozen=True):
    """A plan, or part of it, was carried out, as a whole. The states are over the fields that were decided."""

    site: str  # its name; empty for a plan over all
    plan: str
    state_before: str
    state_after: str
    decisions: int
    documents: tuple[tuple[str, str], ...]
    actor: str
    why: str


@_fact("plan.undone")
class PlanUndone(Body, frozen=True):
    """What held before a plan was applied holds again."""

    site: str
    plan: str
    state_before: str
    state_after: str
    decisions: int
    actor: str
    why: str


class DocumentTold(Body, frozen=True):
    """`DocumentChanged` as people read it; no fact of its own. `said` are field and value."""

    document_kind: str
    said: tuple[tuple[str, str], ...]
    actor: str
    repeated: bool


# -- the event itself ---------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, array_like=True):
    seq: int
    hlc: int
    wall_ns: int
    clock: Clock
    kind: str
    version: int
    subject: str
    body: msgspec.Raw


class Recorded(NamedTuple):
    """An event as readers see it: where it stands, and what it says."""

    position: int  # in this box's journal; 0 when it is not stored here
    writer: str
    epoch: int
    seq: int
    hlc: int
    wall_ns: int
    clock: Clock
    kind: str
    version: int
    subject: str
    body: Body | Unknown

    @property
    def stamp(self) -> Stamp:
        """Orders facts about one subject from any writers: later stamps win, in every order of arrival."""
        return (self.hlc, self.writer, self.epoch, self.seq)


Stamp = tuple[int, str, int, int]

_NUMBER_MAX = (1 << 63) - 1  # what a database holds
_BODY_BYTES_MAX = limits.event_bytes_max - 4_096  # the rest is room for everything but the body
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Event).decode


def encode_body(body: Body) -> msgspec.Raw:
    """The body's canonical bytes. ValueError when it is larger than an event may be."""
    raw = _encode(body)
    if len(raw) > _BODY_BYTES_MAX:
        raise ValueError(f"a {body.KIND} event of {len(raw)} bytes is over the limit of {limits.event_bytes_max}")
    return msgspec.Raw(raw)


Staged = tuple[str, Body, msgspec.Raw]  # subject, body, `encode_body(body)`


def encode_all(first_seq: int, first_hlc: int, wall_ns: int, clock: Clock, staged: Sequence[Staged]) -> list[bytes]:
    """Canonical bytes of new events, made once. Numbers and stamps go up by one from event to event."""
    confidence = int(clock)
    return [
        _encode((first_seq + index, first_hlc + index, wall_ns, confidence, body.KIND, body.VERSION, subject, raw))
        for index, (subject, body, raw) in enumerate(staged)
    ]


def decode(raw: bytes, *, writer: str, epoch: int, position: int = 0) -> Recorded:
    """Read canonical bytes. ValueError (msgspec's included) when they are no event; an unknown kind is not an error."""
    if len(raw) > limits.event_bytes_max:
        raise ValueError(f"{len(raw)} bytes are over the limit of {limits.event_bytes_max}")
    try:
        event = _decode(raw)
        decoder = _DECODERS.get(event.kind)
        body = decoder.decode(event.body) if decoder else Unknown(bytes(event.body))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not an event: {error}") from error
    return Recorded(
        position,
        writer,
        epoch,
        event.seq,
        event.hlc,
        event.wall_ns,
        event.clock,
        event.kind,
        event.version,
        event.subject,
        body,
    )


UNREADABLE = "unreadable"


def decode_any(raw: bytes, *, writer: str, epoch: int, seq: int = 0, position: int = 0) -> Recorded:
    """`decode`, for what stands in a signed block whatever it is: what is no event, or not the one of `seq`, is of the
    kind `UNREADABLE`, kept and passed on as it came."""
    try:
        event = decode(raw, writer=writer, epoch=epoch, position=position)
        if _fits(event, seq or event.seq):
            return event
    except ValueError:
        pass
    return Recorded(position, writer, epoch, seq, 0, 0, Clock.NOT_TRUSTED, UNREADABLE, 0, "", Unknown(raw))


def stamp_of(raw: bytes, *, seq: int) -> int | None:
    """The stamp alone of what `decode_any` makes of a signed event; None of one that is none. For those who look at many."""
    try:
        got, hlc, wall_ns, _, kind, _, subject, _ = _decode_plain(raw)
        if got == seq and 0 <= hlc <= _NUMBER_MAX and -_NUMBER_MAX <= wall_ns <= _NUMBER_MAX and kind in KINDS:
            return hlc if len(subject) <= limits.subject_chars_max else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # the long way tells a newer kind or field from what is no event
    event = decode_any(raw, writer="", epoch=0, seq=seq)
    return event.hlc if event.kind != UNREADABLE else None


def _fits(event: Recorded, seq: int) -> bool:
    stamped = 0 <= event.hlc <= _NUMBER_MAX and abs(event.wall_ns) <= _NUMBER_MAX
    return event.seq == seq and stamped and len(event.subject) <= limits.subject_chars_max


def decode_block(
    raws: Sequence[bytes], *, writer: str, epoch: int, first_seq: int, first_position: int = 0
) -> list[Recorded]:
    """`decode_any` for the events of one block: a history of a million events comes this way, so the loop is plain."""
    found: list[Recorded] = []
    decoders, subject_chars_max = _DECODERS, limits.subject_chars_max
    for index, raw in enumerate(raws):
        seq = first_seq + index
        try:
            got, hlc, wall_ns, clock, kind, version, subject, body = _decode_plain(raw)
            if (
                got == seq
                and 0 <= hlc <= _NUMBER_MAX
                and -_NUMBER_MAX <= wall_ns <= _NUMBER_MAX
                and len(subject) <= subject_chars_max
            ):
                said = decoders[kind].decode(body)
                place = first_position + index if first_position else 0
                found.append(
                    Recorded(place, writer, epoch, seq, hlc, wall_ns, _CLOCKS[clock], kind, version, subject, said)
                )
                continue
        except (msgspec.MsgspecError, ValueError, RecursionError, LookupError):
            pass  # the long way tells a newer kind or field from what is no event
        place = first_position + index if first_position else 0
        found.append(decode_any(raw, writer=writer, epoch=epoch, seq=seq, position=place))
    return found


_CLOCKS = {int(clock): clock for clock in Clock}
_decode_plain = msgspec.msgpack.Decoder(tuple[int, int, int, int, str, int, str, msgspec.Raw]).decode


def fields(body: Body | Unknown) -> Mapping[str, Any]:
    """A body as names and plain values, for pages and JSON; bytes become hexadecimal."""
    if isinstance(body, Unknown):
        return {"raw": body.raw.hex()}
    plain = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in plain.items()}
