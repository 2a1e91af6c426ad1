"""Who comes in, who does not, and what is remembered of it: the doorkeeper over the registry of alder."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance import doorkeeper
from appliance.doorkeeper import UNBOUNDED, Gatekeeper, Mode, Rate
from appliance.intake.device import Device, Provision, Provisioned, Turned
from fleet import events, limits
from fleet.devices import CodeWish, CredentialKind, EnrolWish
from fleet.limits import DAY, SECOND
from fleet.node import Node
from fleet.people import Refused
from store import keys
from store.commands import Commands
from store.database import Reader
from store.device_certificates import Authority
from store.devices import Devices, Found, Who, source_of
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


# -- what is remembered -------------------------------------------------------------------------------------------


async def test_an_answer_is_remembered_for_its_time_and_then_looked_up_again(gate: Gate) -> None:
    token = await gate.token_of("drone-01")
    for _ in range(5):
        assert isinstance(await gate.keeper.token(token), Device)
    assert gate.keeper.looked_up == 1
    gate.mono_ns += 60 * SECOND
    assert isinstance(await gate.keeper.token(token), Device)
    assert gate.keeper.looked_up == 2


async def test_a_refusal_is_remembered_too_until_something_new_counts(gate: Gate) -> None:
    for _ in range(5):
        await gate.keeper.token("device_not-yet")
    assert gate.keeper.looked_up == 1
    await gate.token_of("drone-01")
    await gate.keeper.token("device_not-yet")
    assert gate.keeper.looked_up == 2


async def test_a_flood_of_invented_tokens_throws_nobody_out_and_fills_no_memory(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "doorkeeper_refused_max", 50)
    token = await gate.token_of("drone-01")
    await gate.keeper.token(token)
    for number in range(200):
        await gate.keeper.token(f"guess-{number}")
    assert gate.keeper.remembered[1] <= 50
    before = gate.keeper.looked_up
    assert isinstance(await gate.keeper.token(token), Device)
    assert gate.keeper.looked_up == before


async def test_a_look_up_that_a_revocation_overtakes_lets_nobody_in(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gate.token_of("drone-01")
    find, held = gate.devices.find, asyncio.Event()
    read = asyncio.Event()

    async def slow(kind: CredentialKind, lookup: bytes) -> list[Found]:
        found = await find(kind, lookup)
        read.set()
        await held.wait()
        return found

    monkeypatch.setattr(gate.devices, "find", slow)
    asking = asyncio.create_task(gate.keeper.token(token))
    await read.wait()
    (device,) = await gate.devices.devices("", "", 10)
    await gate.devices.revoke(ALICE, device.node_id, "lost")
    held.set()
    assert await asking is Turned.REVOKED


async def test_a_credential_ends_by_itself_and_whoever_is_connected_hears_of_it(gate: Gate) -> None:
    told: list[str] = []
    gate.keeper.on_revoked(told.append)
    wish = EnrolWish(name="drone-01", days=1.0)
    issued = (await gate.devices.enrol(ALICE, wish, "a test")).issued
    assert isinstance(await gate.keeper.token(issued.secret), Device)
    gate.now_ns += DAY
    assert await gate.keeper.token(issued.secret) is Turned.EXPIRED
    await gate.keeper.tell_expired(START_NS)
    assert told == [issued.credential]


# -- passwords ----------------------------------------------------------------------------------------------------


async def test_a_password_that_a_person_chose_is_proved_once_and_not_again_until_it_changes(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []
    slow = doorkeeper.proves
    monkeypatch.setattr(doorkeeper, "proves", lambda proof, password: (held.append(proof), slow(proof, password))[1])
    wish = EnrolWish(name="meter", credential=CredentialKind.PASSWORD, user="meter", password="tide table 7")
    issued = (await gate.devices.enrol(ALICE, wish, "a test")).issued
    for _ in range(3):
        gate.mono_ns += 61 * SECOND
        assert isinstance(await gate.keeper.password("meter", "tide table 7", "c"), Device)
    assert len(held) == 1
    assert held[0].startswith("$argon2id$")
    fresh = await gate.devices.rotate(ALICE, issued.credential, "it was time", password="tide table 8")
    assert fresh.secret == ""
    for password in ("tide table 7", "tide table 8"):
        assert isinstance(await gate.keeper.password("meter", password, "c"), Device)


async def test_a_password_that_was_made_up_needs_no_slow_hash(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "password_matches", None)
    wish = EnrolWish(name="meter", credential=CredentialKind.PASSWORD)
    issued = (await gate.devices.enrol(ALICE, wish, "a test")).issued
    assert issued.user == "meter"
    assert isinstance(await gate.keeper.password("meter", issued.secret, "c"), Device)


async def test_guesses_at_a_user_end_after_twenty_from_one_address_and_nowhere_else(gate: Gate) -> None:
    wish = EnrolWish(name="meter", credential=CredentialKind.PASSWORD)
    secret = (await gate.devices.enrol(ALICE, wish, "a test")).issued.secret
    for number in range(20):
        assert await gate.keeper.password("meter", f"guess {number}", "c", "10.0.0.99") is Turned.UNKNOWN
    assert await gate.keeper.password("meter", "guess again", "c", "10.0.0.99") is Turned.FLOOD
    assert isinstance(await gate.keeper.password("meter", secret, "c", "10.0.0.7"), Device)
    gate.mono_ns += 16 * 60 * SECOND
    assert await gate.keeper.password("meter", "guess again", "c", "10.0.0.99") is Turned.UNKNOWN


# -- how much -----------------------------------------------------------------------------------------------------


async def test_a_bucket_gives_its_burst_then_its_rate_and_never_another_devices(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "alder", device=Rate(10, 0, 2.0))
    one, other = Device("01A", "one"), Device("01B", "other")
    assert [gate.keeper.allow(one, 1, 100) for _ in range(20)] == [0.0] * 20
    assert gate.keeper.allow(one, 1, 100) == pytest.approx(0.1)
    assert gate.keeper.allow(other, 20, 100) == 0.0
    gate.mono_ns += SECOND
    assert [gate.keeper.allow(one, 1, 100) for _ in range(10)] == [0.0] * 10
    assert gate.keeper.allow(one, 5, 100) == pytest.approx(0.5)
    await gate.close()


async def test_an_offer_larger_than_the_bucket_is_taken_when_it_is_full_and_owed(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "alder", device=Rate(0, 1_000, 1.0))
    one = Device("01A", "one")
    assert gate.keeper.allow(one, 1, 5_000) == 0.0
    assert gate.keeper.allow(one, 1, 500) == pytest.approx(4.5)
    gate.mono_ns += 5 * SECOND
    assert gate.keeper.allow(one, 1, 1_000) == 0.0
    await gate.close()


async def test_all_devices_share_what_the_tenant_may_send(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "alder", tenant=Rate(10, 0, 1.0))
    assert gate.keeper.allow(Device("01A", "one"), 6, 1) == 0.0
    assert gate.keeper.allow(Device("01B", "other"), 6, 1) == pytest.approx(0.2)
    assert gate.keeper.allow(Device("01B", "other"), 4, 1) == 0.0
    await gate.close()


async def test_the_buckets_of_a_crowd_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "buckets_max", 10)
    gate = Gate(tmp_path / "alder", device=Rate(10, 0, 1.0))
    for number in range(100):
        gate.keeper.allow(Device(f"01{number}", "one"), 1, 1)
    assert gate.keeper.remembered[2] == 10
    await gate.close()


# -- codes --------------------------------------------------------------------------------------------------------


async def test_a_code_for_several_is_good_so_often_and_no_more(gate: Gate) -> None:
    _, code = await gate.devices.make_code(ALICE, CodeWish(uses=3))
    got = await asyncio.gather(*(gate.keeper.provision(Provision(code, f"drone-{number}")) for number in range(6)))
    assert sum(isinstance(one, Provisioned) for one in got) == 3
    assert len({one.node_id for one in got if isinstance(one, Provisioned)}) == 3


async def test_a_code_ends_with_its_time_or_when_it_is_withdrawn(gate: Gate) -> None:
    _, late = await gate.devices.make_code(ALICE, CodeWish(hours=1))
    made, gone = await gate.devices.make_code(ALICE, CodeWish())
    await gate.devices.withdraw_code(ALICE, made.id, "not needed")
    gate.now_ns += 3_600 * SECOND
    for code in (late, gone):
        assert await gate.keeper.provision(Provision(code, "drone-01")) is Turned.UNKNOWN
    assert await gate.devices.codes() == []
    with pytest.raises(Refused, match="withdrawn already"):
        await gate.devices.withdraw_code(ALICE, made.id, "again")


async def test_a_code_for_a_named_node_brings_that_node_back_with_a_new_device(gate: Gate) -> None:
    token = await gate.token_of("drone-01")
    first = await gate.keeper.token(token)
    assert isinstance(first, Device)
    _, code = await gate.devices.make_code(ALICE, CodeWish(name="drone-01", gateway=True))
    got = await gate.keeper.provision(Provision(code, "whatever"))
    assert isinstance(got, Provisioned)
    device = await gate.keeper.token(got.token)
    assert isinstance(device, Device)
    assert (device.node_id, device.gateway) == (first.node_id, True)
    assert device.source("mqtt", "drone-07") == f"mqtt/@{first.node_id}/drone-07"
    assert gate.entered == [("drone-01", False)]


async def test_a_code_for_anybody_takes_nobodys_name_and_is_not_used_by_trying(gate: Gate) -> None:
    await gate.token_of("drone-01")
    _, code = await gate.devices.make_code(ALICE, CodeWish())
    assert await gate.keeper.provision(Provision(code, "drone-01")) is Turned.FOREIGN
    assert await gate.keeper.provision(Provision(code, "two\nlines")) is Turned.FOREIGN
    assert isinstance(await gate.keeper.provision(Provision(code, "drone-02")), Provisioned)


async def test_guesses_at_codes_end_after_twenty(gate: Gate) -> None:
    _, code = await gate.devices.make_code(ALICE, CodeWish())
    for number in range(20):
        assert await gate.keeper.provision(Provision(f"GUESS-{number}"), "10.0.0.99") is Turned.UNKNOWN
    assert await gate.keeper.provision(Provision(code), "10.0.0.99") is Turned.FLOOD
    assert isinstance(await gate.keeper.provision(Provision(code), "10.0.0.8"), Provisioned)


# -- rotation, bounds ---------------------------------------------------------------------------------------------


async def test_a_device_whose_answer_was_lost_asks_again_and_what_it_never_got_counts_no_more(gate: Gate) -> None:
    token = await gate.token_of("drone-01")
    device = await gate.keeper.token(token)
    assert isinstance(device, Device)
    lost = [(await gate.keeper.renew(device, "renewed")).token for _ in range(12)]
    assert isinstance(await gate.keeper.token(lost[-1]), Device)
    assert {await gate.keeper.token(one) for one in lost[:-1]} <= {Turned.REVOKED, Turned.UNKNOWN} | {
        Device("", "", tenant=TENANT, address="unknown")
    }
    (shown,) = await gate.devices.devices("", "", 10)
    assert sum(one.revoked_ns is None for one in shown.credentials) == 2


async def test_a_device_has_so_many_credentials_and_no_more(gate: Gate) -> None:
    for _ in range(limits.credentials_per_device_max):
        await gate.token_of("drone-01")
    with pytest.raises(Refused, match="revoke one first"):
        await gate.token_of("drone-01")


async def test_when_and_from_where_it_came_is_told_and_kept(gate: Gate) -> None:
    token = await gate.token_of("drone-01")
    await gate.keeper.token(token, "10.0.0.7")
    await gate.keeper.tell_uses()
    (device,) = await gate.devices.devices("", "", 10)
    assert (device.credentials[0].used_ns, device.credentials[0].used_from) == (START_NS, "10.0.0.7")


async def test_a_restart_keeps_everything(gate: Gate, tmp_path: Path) -> None:
    token, gone = await gate.token_of("drone-01"), await gate.token_of("drone-02")
    _, code = await gate.devices.make_code(ALICE, CodeWish())
    device = await gate.keeper.token(gone)
    assert isinstance(device, Device)
    await gate.devices.revoke(ALICE, device.credential, "lost")
    await gate.reader.close()
    gate.alder.stop()
    again = Gate(tmp_path / "alder")
    assert isinstance(await again.keeper.token(token), Device)
    assert await again.keeper.token(gone) is Turned.REVOKED
    assert isinstance(await again.keeper.provision(Provision(code, "drone-03")), Provisioned)
    gate.alder, gate.reader = again.alder, again.reader


async def test_every_step_is_an_event_with_who_where_and_why_and_none_holds_a_secret(gate: Gate) -> None:
    secrets: list[str] = []
    token = await gate.token_of("drone-01")
    made, code = await gate.devices.make_code(ALICE, CodeWish())
    got = await gate.keeper.provision(Provision(code, "drone-02"), "10.0.0.8")
    assert isinstance(got, Provisioned)
    device = await gate.keeper.token(token, "10.0.0.7")
    assert isinstance(device, Device)
    fresh = await gate.keeper.renew(device, "it was time")
    await gate.devices.revoke(ALICE, device.node_id, "lost in the sea")
    secrets += [token, code, got.token, fresh.token]
    blocks = gate.alder.blocks()
    whole = b"".join(raw for block in blocks for raw in block.events)
    for secret in secrets:
        assert secret.encode() not in whole
        assert keys.secret_hash(secret) not in whole
    told = [events.decode(raw, writer="w", epoch=1) for block in blocks for raw in block.events]
    of_devices = [one for one in told if one.kind.partition(".")[0] in ("device", "credential", "code")]
    assert Counter(one.kind for one in of_devices) == {
        "device.enrolled": 2,
        "credential.issued": 3,
        "credential.rotated": 1,
        "credential.revoked": 2,
        "code.made": 1,
    }
    by = {(getattr(one.body, "actor", ""), getattr(one.body, "address", "")) for one in of_devices}
    assert by == {("alice", "10.0.0.2"), (f"activation code {made.id}", "10.0.0.8"), ("device drone-01", "10.0.0.7")}
    for raw in gate.alder.folder.root.rglob("*"):
        held = raw.read_bytes() if raw.is_file() else b""
        assert not [secret for secret in secrets if secret.encode() in held], raw
