"""What a hub holds in memory about its sites and their nodes, for pages to read. One thread changes it (the harbor's);
readers copy a table first. All of it can be read back from the database.
"""

from __future__ import annotations

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

    @property
    def backlog(self) -> int:
        return max(self.head_seq - self.acked_seq, 0)


class FleetHere:
    def __init__(self) -> None:
        self.sites: dict[str, SiteHere] = {}
        self.nodes: dict[str, NodeHere] = {}
