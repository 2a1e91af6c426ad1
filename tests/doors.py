"""A Doorkeeper of the tests: it knows who it is told of, by token and by password, and nobody else."""

from __future__ import annotations

from collections.abc import Callable

from appliance.intake.device import Device, Provision, Provisioned, Turned


class Doors:
    def __init__(self, *, dev: bool = True) -> None:
        self.dev = dev
        self.tokens: dict[str, Device | Turned] = {}
        self.passwords: dict[tuple[str, str], Device] = {}
        self.wait_s = 0.0  # until the buckets hold enough
        self.asked: list[tuple[int, int]] = []  # messages and bytes

    async def token(self, token: str, address: str = "") -> Device | Turned:
        return self.tokens.get(token, Turned.UNKNOWN)

    async def password(self, user: str, password: str, client_id: str, address: str = "") -> Device | Turned:
        return self.passwords.get((user, password), Turned.UNKNOWN)

    async def certificate(self, der: bytes, address: str = "") -> Device | Turned:
        return Turned.UNKNOWN

    async def anonymous(self, name: str, address: str) -> Device | Turned:
        return Device("", name, address=address) if self.dev else Turned.MISSING

    def allow(self, device: Device, messages: int, size: int) -> float:
        self.asked.append((messages, size))
        return self.wait_s

    async def provision(self, wish: Provision, address: str = "") -> Provisioned | Turned:
        return Turned.UNKNOWN

    def on_revoked(self, tell: Callable[[str], None]) -> None:
        pass
