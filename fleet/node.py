"""The canonical objects of the fleet. Shapes only: how they come to be known is the work of journal and projections.

There is no object that does everything: a page or an API answer is put together from what each projection says.
Fields that nobody has told us are None, never a likely value.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from fleet.connectivity import Mode
from fleet.lifecycle import Phase, State
from fleet.reading import Health


class Kind(StrEnum):
    EDGE = "EDGE"
    DC = "DC"
    GATEWAY = "GATEWAY"
    RELAY = "RELAY"
    VIRTUAL = "VIRTUAL"


class Master(StrEnum):
    GLOBAL = "GLOBAL"
    REGION = "REGION"
    LOCAL = "LOCAL"


class _Object(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Authority(_Object, frozen=True):
    master_of_record: Master = Master.LOCAL
    controller_ids: tuple[str, ...] = ()
    last_authoritative_update_ns: int | None = None


class LinkQuality(_Object, frozen=True):
    rtt_ms: float | None = None
    loss_pct: float | None = None
    bandwidth_kbps: float | None = None


class SyncDebt(_Object, frozen=True):
    seconds_behind: float | None = None
    backlog: int | None = None
    replay_required: bool = False


class Connectivity(_Object, frozen=True):
    mode: Mode | None = None  # None: never heard
    last_seen_ns: int | None = None
    link: LinkQuality = LinkQuality()
    debt: SyncDebt = SyncDebt()


class Constraints(_Object, frozen=True):
    maintenance_window: str | None = None
    requires_online: bool = False
    min_battery_pct: float | None = None


class Desired(_Object, frozen=True):
    policy_bundle_id: str | None = None
    target_version: str | None = None
    constraints: Constraints = Constraints()


class Inventory(_Object, frozen=True):
    cpu: str | None = None
    ram_gb: float | None = None
    storage_gb: float | None = None
    gpus: int | None = None


class Actual(_Object, frozen=True):
    reported_version: str | None = None
    health: Health = Health.UNKNOWN
    last_heartbeat_ns: int | None = None
    uptime_s: float | None = None
    inventory: Inventory = Inventory()


class Hardware(_Object, frozen=True):
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    bom: str | None = None


class Firmware(_Object, frozen=True):
    version: str | None = None
    signature: str | None = None
    provenance: str | None = None


class Software(_Object, frozen=True):
    artifact: str | None = None
    sbom: str | None = None
    attestations: tuple[str, ...] = ()
    signature: str | None = None


class SupplyChain(_Object, frozen=True):
    hardware: Hardware = Hardware()
    firmware: Firmware = Firmware()
    software: Software = Software()


class Lifecycle(_Object, frozen=True):
    phase: Phase = Phase.PROVISIONING
    state: State | None = None
    last_transition_ns: int | None = None
    reason: str | None = None


class Endpoint(_Object, frozen=True):
    """An address that the site can ping, and what it is for: primary, fts, …"""

    address: str
    role: str = "primary"


class Node(_Object, frozen=True):
    """Anything the fleet keeps an eye on. `id` is a ULID and never changes; drift is not here: it is computed."""

    id: str
    name: str
    kind: Kind = Kind.EDGE
    tags: tuple[str, ...] = ()
    domain_id: str | None = None
    tenant: str = "default"
    authority: Authority = Authority()
    connectivity: Connectivity = Connectivity()
    desired: Desired = Desired()
    actual: Actual = Actual()
    supply_chain: SupplyChain = SupplyChain()
    lifecycle: Lifecycle = Lifecycle()
    endpoints: tuple[Endpoint, ...] = ()


class Relay(_Object, frozen=True):
    """A node that carries others' traffic, and whose path is whose."""

    id: str
    node_id: str
    carries: tuple[str, ...] = ()
    upstream: str | None = None
    link: LinkQuality = LinkQuality()


class Domain(_Object, frozen=True):
    """Nodes that are decided on together."""

    id: str
    name: str
    tenant: str = "default"
    parent_id: str | None = None
    authority: Authority = Authority()


class PolicyBundle(_Object, frozen=True):
    """What a set of nodes should look like, as one versioned whole."""

    id: str
    name: str
    version: str
    content: dict[str, Any] = msgspec.field(default_factory=dict)
    signature: str | None = None


class Observation(_Object, frozen=True):
    """A number seen at a node: when, what, and from which record."""

    node_id: str
    at_ns: int
    metric: str
    value: float
    source: str
    record: int = 0


class Command(_Object, frozen=True):
    """A wish for a node to act, with its deadlines. Expiry is the default."""

    id: str
    node_id: str
    verb: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    deliver_by_ns: int | None = None
    execute_by_ns: int | None = None
    idempotency_key: str | None = None


class Artifact(_Object, frozen=True):
    """Bytes that a node may run, named by their hash."""

    sha256: str
    name: str
    version: str
    size_bytes: int
    signature: str | None = None


class Moment(_Object, frozen=True):
    """One entry of a timeline: an event in the words of a page."""

    at_ns: int
    kind: str
    words: str
    position: int = 0


class Timeline(_Object, frozen=True):
    """What happened to one subject, newest first, up to `before` (a journal position) when there is more."""

    subject: str
    moments: tuple[Moment, ...] = ()
    before: int | None = None
