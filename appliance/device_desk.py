"""The devices of a site as its pages see them (`web.ports.Devices`): the registry read, wishes passed on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fleet.devices import CodeView, CodeWish, DevicesView, EnrolWish, Issued
from fleet.node import Node
from fleet.people import Identity
from store.certificates import CertificateProblem
from store.devices import Devices, Who


class Desk:
    """`entered(node, fresh)` brings the node of a device into the world; `flush` writes down who came in lately."""

    def __init__(
        self,
        devices: Devices,
        mode: str,
        now_ns: Callable[[], int],
        entered: Callable[[Node, bool], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self._devices, self._mode, self._now_ns = devices, mode, now_ns
        self._entered, self._flush = entered, flush

    async def look(self, who: Identity, text: str, after: str, limit: int) -> DevicesView:
        await self._flush()
        now_ns, authority = self._now_ns(), self._devices.authority
        found = await self._devices.devices(text, after, limit + 1)
        try:
            ca_pem, ca_sha256 = authority.ca_pem(now_ns), authority.ca_sha256(now_ns)
        except CertificateProblem as problem:
            ca_pem, ca_sha256 = "", str(problem)
        return DevicesView(
            now_ns=now_ns,
            mode=self._mode,
            enrolled=await self._devices.count(),
            devices=tuple(found[:limit]),
            next=found[limit - 1].name if len(found) > limit else "",
            codes=tuple(await self._devices.codes()),
            ca_pem=ca_pem,
            ca_sha256=ca_sha256,
        )

    async def make_code(self, who: Identity, wish: CodeWish) -> tuple[CodeView, str]:
        return await self._devices.make_code(_of(who), wish)

    async def withdraw_code(self, who: Identity, code: str, why: str) -> None:
        await self._devices.withdraw_code(_of(who), code, why)

    async def enrol(self, who: Identity, wish: EnrolWish, why: str) -> Issued:
        enrolled = await self._devices.enrol(_of(who), wish, why)
        await self._entered(enrolled.node, enrolled.fresh)
        return enrolled.issued

    async def rotate(self, who: Identity, credential: str, why: str, pem: str, password: str) -> Issued:
        await self._flush()
        return await self._devices.rotate(_of(who), credential, why, pem, password)

    async def revoke(self, who: Identity, credential: str, why: str) -> None:
        await self._devices.revoke(_of(who), credential, why)


def _of(who: Identity) -> Who:
    return Who(who.name, who.address or who.via)
