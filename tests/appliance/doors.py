"""A door for uploads: tokens of a few devices, which can be revoked."""

from __future__ import annotations

from collections.abc import Callable

from appliance.intake.device import Device, Turned
from tests.doors import Doors


class Door(Doors):
    """`token-ID` is the token of the node ID. What is in `revoked` comes in no more."""

    def __init__(self) -> None:
        super().__init__()
        self.revoked: set[str] = set()
        self._tell: list[Callable[[str], None]] = []

    async def token(self, token: str, address: str = "") -> Device | Turned:
        node_id = token.removeprefix("token-")
        if node_id == token:
            return Turned.UNKNOWN
        return Turned.REVOKED if node_id in self.revoked else Device(node_id, node_id, f"credential-{node_id}")

    def on_revoked(self, tell: Callable[[str], None]) -> None:
        self._tell.append(tell)

    def revoke(self, node_id: str) -> None:
        self.revoked.add(node_id)
        for tell in self._tell:
            tell(f"credential-{node_id}")
