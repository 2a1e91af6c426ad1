"""Devices on pretended lines, for tests of what topics mean: what they subscribe to they hear, as with any real way in."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from appliance.intake.device import PROVISION, Device, Provision, Provisioned, Turned
from appliance.intake.device_api import Api
from appliance.intake.device_attributes import Nodes

KESTREL = Device("01KESTREL", "kestrel", "c1")
MAST = Device("01MAST", "mast-1", "c2", gateway=True)
STRANGER = Device("", "10.0.0.9", address="10.0.0.9")
NEW = Device("", PROVISION, PROVISION, address="10.0.0.9")


class Wire:
    """A line that keeps what was said to it. Filters are whole topics, or end in + or #."""

    def __init__(self, device: Device, *filters: str) -> None:
        self.device = device
        self.filters = list(filters)
        self.heard: list[tuple[str, Any]] = []
        self.raw = False  # whether what it hears is no JSON

    def send(self, topic: str, payload: bytes) -> bool:
        matches = any(topic == one or (one[-1] in "+#" and topic.startswith(one[:-1])) for one in self.filters)
        if matches:
            self.heard.append((topic, payload if self.raw else json.loads(payload)))
        return matches


class Session:
    """Of one that is away."""

    def __init__(self, device: Device, *topics: str) -> None:
        self.device, self.topics = device, topics

    def takes(self, topic: str) -> bool:
        return topic.startswith(self.topics)


class Site:
    """What the API is told of the site: claims, what nodes said, what is wanted of them."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.claims = {"@01KESTREL/": "01KESTREL", "@01MAST/": "01MAST", "@01MAST/buoy": "01BUOY"}
        self.said: dict[str, dict[str, str]] = {}
        self.wanted: dict[str, dict[str, bytes]] = {"01KESTREL": {"target_version": b'"2.5"', "name": b'"kestrel"'}}
        self.ready = True
        self.coming: set[str] = set()
        self.code = "GOOD-CODE"
        nodes = Nodes(
            lambda who: self.claims.get(who, ""),
            self._senders,
            lambda node: self.said.get(node, {}),
            self._wants,
            lambda: self.ready,
            self.coming.__contains__,
        )
        self.api = Api(nodes, self._provision, now_ns=lambda: 1_795_253_400 * 10**9, now_s=lambda: self.now_s)

    def _senders(self, node_id: str) -> Collection[str]:
        return frozenset(who for who, claimed in self.claims.items() if claimed == node_id)

    def _wants(self, node_ids: Sequence[str]) -> Mapping[str, Mapping[str, bytes]]:
        return {node_id: dict(self.wanted[node_id]) for node_id in node_ids if node_id in self.wanted}

    async def _provision(self, wish: Provision, address: str) -> Provisioned | Turned:
        if wish.code != self.code:
            return Turned.UNKNOWN
        return Provisioned("01NEW", "" if wish.csr_pem else "token", wish.csr_pem and "CERT", wish.csr_pem and "CA")

    async def settle(self) -> None:
        """Until every question is answered and every change told."""
        attributes = self.api.attributes
        while attributes._dirty or attributes._opened or attributes._asks or attributes._back:
            await attributes._some()
