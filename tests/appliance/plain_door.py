"""A door that stands open: everybody is let in as unknown, as the mode DEV does without a registry of devices."""

from __future__ import annotations

from collections.abc import Callable

from appliance.intake.device import Device, Provision, Provisioned, Turned


class OpenDoor:
    """Nobody is known, so nobody is asked for a credential; a name is believed as syslog's is."""

    async def token(self, token: str, address: str = "") -> Device | Turned:
        return await self.anonymous("", address)  # a token is a secret, and no name

    async def password(self, user: str, password: str, client_id: str, address: str = "") -> Device | Turned:
        return await self.anonymous(client_id or user, address)

    async def certificate(self, der: bytes, address: str = "") -> Device | Turned:
        return await self.anonymous("", address)

    async def anonymous(self, name: str, address: str) -> Device | Turned:
        return Device("", name, address=address)

    def allow(self, device: Device, messages: int, size: int) -> float:
        return 0.0

    async def provision(self, wish: Provision, address: str = "") -> Provisioned | Turned:
        return Turned.UNKNOWN

    def on_revoked(self, tell: Callable[[str], None]) -> None:
        """There is nothing to revoke."""
