"""What a hub holds in memory about its sites and their nodes, for pages to read. One thread changes it (the harbor's);
readers copy a table first. All of it can be read back from the database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from fleet.connectivity import Mode
from fleet.present import Present


class NodeHere(NamedTuple):
    """A node as its site last told it; `told_ns` is when that was true, by the site's clock, `received_ns` by ours."""

    site: str  # the site's writer
    present: Present
    told_ns: int
    received_ns: int


class Certificate(NamedTuple):
    """The newest completeness receipt of a site, in numbers (`sync.receipt`)."""

    number: int
    at_ns: int
    events: int
    segments: int
    drops: int
    gaps: int
    root: bytes
    countersigned: bool


class SiteHere(msgspec.Struct, kw_only=True):
    """A site, whether it is connected or not. `since_ns` is when the mode began."""

    writer: str
    name: str
    public_key: bytes
    mode: Mode = Mode.DISCONNECTED
    since_ns: int = 0
    heard_ns: int | None = None
    epoch: int = 0
    head_seq: int = 0  # the end of its newest log as the site says
    acked_seq: int = 0  # and as it is here
    oldest_missing_ns: int | None = None  # since when events are missing here: the site was alone since then
    present_ns: int | None = None  # when the newest snapshot was true
    rtt_ms: float | None = None
    events: int = 0  # of all its logs, stored here
    events_per_s: float = 0.0
    bytes_received: int = 0
    bytes_sent: int = 0
    parcels_received: int = 0
    segments_here: int = 0
    segments_missing: int = 0
    segment_bytes_missing: int = 0
    fence: int = 0
    quarantine: tuple[str, ...] = ()  # reasons; empty when it is not in quarantine
    forks: tuple[str, ...] = ()  # sentences
    certificate: Certificate | None = None
    via: str = ""  # wire or stick
    program: str = ""
    glass_ns: int = 0  # when its sealed account was used, by its clock; 0 while one lies there, or none ever did
    glass_address: str = ""

    @property
    def backlog(self) -> int:
        return max(self.head_seq - self.acked_seq, 0)


class FleetHere:
    def __init__(self) -> None:
        self.sites: dict[str, SiteHere] = {}
        self.nodes: dict[str, NodeHere] = {}
        self.nodes_of: dict[str, set[str]] = {}  # by the site's writer; `put` keeps both in step
        self.changed: set[str] = set()  # nodes that were put since pages last looked (`hub.roll`)
        self.unjudged: set[str] = set()  # and since they were last judged (`store.drifting`)
        self.told: Callable[[str], None] = lambda node_id: None  # this node was put

    def put(self, node_id: str, here: NodeHere | None) -> None:
        """A node as it is told now; None: it is gone."""
        former = self.nodes.get(node_id)
        self.changed.add(node_id)
        self.unjudged.add(node_id)
        self.told(node_id)
        if former is not None and (here is None or former.site != here.site):
            self.nodes_of.get(former.site, set()).discard(node_id)
        if here is None:
            self.nodes.pop(node_id, None)
        else:
            self.nodes[node_id] = here
            self.nodes_of.setdefault(here.site, set()).add(node_id)
