"""Who comes in, who does not, and what is remembered of it: the doorkeeper over the registry of alder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.doorkeeper import UNBOUNDED, Gatekeeper, Mode, Rate
from appliance.intake.device import Device, Provision, Provisioned, Turned
from fleet.devices import CodeWish, CredentialKind, EnrolWish
from fleet.limits import DAY, SECOND
from fleet.node import Node
from store.commands import Commands
from store.database import Reader
from store.device_certificates import Authority
from store.devices import Devices, Who, source_of
from tests.store.alder import TENANT, Alder

ALICE = Who("alice", "10.0.0.2")
START_NS = 1_800_000_000 * SECOND


class Gate:
    """alder's registry and doorkeeper, with clocks that the test moves."""

    def __init__(self, root: Path, mode: Mode = Mode.DEV, device: Rate = UNBOUNDED, tenant: Rate = UNBOUNDED) -> None:
        self.alder = Alder(root)
        self.now_ns, self.mono_ns = START_NS, 0
        self.reader = Reader(self.alder.folder.site_db)
        self.entered: list[tuple[str, bool]] = []
        commands = Commands(self.alder.journal, self.alder.site, TENANT, self.alder.shared)
        self.authority = Authority(root / "tls", "site alder")
        self.devices = Devices(
            self.alder.journal,
            self.alder.site,
            self.reader,
            commands,
            tenant=TENANT,
            now_ns=lambda: self.now_ns,
            authority=self.authority,
        )
        self.keeper = Gatekeeper(
            self.devices,
            tenant=TENANT,
            now_ns=lambda: self.now_ns,
            monotonic_ns=lambda: self.mono_ns,
            entered=self._enter,
            mode=mode,
            device_rate=device,
            tenant_rate=tenant,
        )

    async def _enter(self, node: Node, fresh: bool) -> None:
        self.entered.append((node.name, fresh))

    async def token_of(self, name: str, *, gateway: bool = False) -> str:
        wish = EnrolWish(name=name, gateway=gateway)
        return (await self.devices.enrol(ALICE, wish, "a test")).issued.secret

    async def close(self) -> None:
        await self.reader.close()
        self.alder.stop()


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    made = Gate(tmp_path / "alder")
    yield made
    await made.close()


async def test_a_token_tells_who_it_is_whichever_way_in_it_uses(gate: Gate) -> None:
    token = await gate.token_of("drone-01")
    device = await gate.keeper.token(token, "10.0.0.7")
    assert isinstance(device, Device)
    assert (device.name, device.gateway, device.tenant) == ("drone-01", False, TENANT)
    assert device.source("mqtt") == f"mqtt/@{device.node_id}/"
    assert source_of(device.node_id) == f"device/@{device.node_id}/"


async def test_a_code_is_traded_once_for_a_token_and_a_node(gate: Gate) -> None:
    _, code = await gate.devices.make_code(ALICE, CodeWish())
    got = await gate.keeper.provision(Provision(code.lower().replace("-", " "), "drone-02"), "10.0.0.8")
    assert isinstance(got, Provisioned)
    device = await gate.keeper.token(got.token, "10.0.0.8")
    assert isinstance(device, Device)
    assert device.node_id == got.node_id
    assert gate.entered == [("drone-02", True)]
    assert await gate.keeper.provision(Provision(code, "drone-03")) is Turned.UNKNOWN


async def test_a_revoked_token_is_refused_at_once_and_whoever_holds_a_connection_hears_of_it(gate: Gate) -> None:
    told: list[str] = []
    gate.keeper.on_revoked(told.append)
    token = await gate.token_of("drone-01")
    device = await gate.keeper.token(token)
    assert isinstance(device, Device)
    await gate.devices.revoke(ALICE, device.credential, "lost in the sea")
    assert told == [device.credential]
    assert await gate.keeper.token(token) is Turned.REVOKED


async def test_what_was_replaced_counts_until_its_grace_is_over(gate: Gate) -> None:
    token = await gate.token_of("drone-01")
    device = await gate.keeper.token(token)
    assert isinstance(device, Device)
    fresh = (await gate.keeper.renew(device, "it was time")).token
    assert isinstance(await gate.keeper.token(token), Device)
    assert isinstance(await gate.keeper.token(fresh), Device)
    gate.now_ns += DAY
    assert await gate.keeper.token(token) is Turned.EXPIRED
    assert isinstance(await gate.keeper.token(fresh), Device)


async def test_one_that_nobody_knows_comes_in_unclaimed_in_dev_and_not_at_all_in_prod(
    gate: Gate, tmp_path: Path
) -> None:
    assert await gate.keeper.token("guess", "10.0.0.9") == Device("", "", tenant=TENANT, address="10.0.0.9")
    prod = Gate(tmp_path / "birch", Mode.PROD)
    assert await prod.keeper.token("guess", "10.0.0.9") is Turned.UNKNOWN
    assert await prod.keeper.anonymous("drone", "10.0.0.9") is Turned.MISSING
    await prod.close()


async def test_a_known_user_with_a_wrong_password_is_refused_in_dev_too(gate: Gate) -> None:
    wish = EnrolWish(name="meter", credential=CredentialKind.PASSWORD, user="meter", password="tide table 7")
    await gate.devices.enrol(ALICE, wish, "a test")
    assert isinstance(await gate.keeper.password("meter", "tide table 7", "c1"), Device)
    assert await gate.keeper.password("meter", "tide table 8", "c1") is Turned.UNKNOWN
    unknown = await gate.keeper.password("lamp", "x", "c2", "10.0.0.9")
    assert isinstance(unknown, Device)
    assert unknown.source("mqtt") == "mqtt/10.0.0.9/lamp"
