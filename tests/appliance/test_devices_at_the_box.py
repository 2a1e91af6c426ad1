"""Devices in the whole box: what an enrolment changes in its world, what a gateway brings, who is held back, who is out."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx2
import msgspec
import pytest

from appliance.config import Config, Intake, Syslog
from fleet.devices import CredentialKind, EnrolWish, Issued
from fleet.node import Kind
from fleet.people import Identity, Role
from tests.cast import eventually_async
from tests.conftest import ALDER

if TYPE_CHECKING:
    from appliance.compose import Appliance

ALICE = Identity(name="alice", role=Role.ADMIN, address="10.0.0.2")


class Start(Protocol):
    async def __call__(self, **sections: msgspec.Struct) -> Appliance: ...


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """A box with another configuration on the same folder; the one before it is stopped."""
    from appliance.compose import Appliance

    running: list[Appliance] = []

    async def begin(**sections: msgspec.Struct) -> Appliance:
        if running:
            await running.pop().stop()
        config: Config = msgspec.structs.replace(ALDER, **sections)
        box = Appliance(tmp_path / "alder", config)
        await box.start()
        running.append(box)
        return box

    yield begin
    if running:
        await running.pop().stop()


async def enrol(box: Appliance, name: str, *, gateway: bool = False, pem: str = "") -> Issued:
    assert box.box.devices is not None
    kind = CredentialKind.CERTIFICATE if pem else CredentialKind.TOKEN
    return await box.box.devices.enrol(ALICE, EnrolWish(name=name, gateway=gateway, credential=kind, pem=pem), "a test")


async def post(box: Appliance, issued: Issued, body: str) -> httpx2.Response:
    headers = {"content-type": "application/x-ndjson", "authorization": f"Bearer {issued.secret}"}
    async with httpx2.AsyncClient(base_url=f"http://{box.addresses['http']}", trust_env=False) as client:
        return await client.post("/v1/ingest", content=body, headers=headers)


async def sources(box: Appliance, text: str, count: int = 1) -> set[str]:
    async def look() -> set[str]:
        page = await box.box.records_after(ALICE, 0, 1_000, None)
        return {one.source for one in page.records if text in one.text}

    return await eventually_async(look, lambda found: len(found) >= count)


async def test_an_enrolled_device_is_a_node_at_once_and_after_a_restart(start: Start) -> None:
    box = await start()
    issued = await enrol(box, "drone-01")
    assert (await box.box.node(ALICE, issued.node_id)) is not None
    box = await start()
    assert (await post(box, issued, '{"battery_pct": 63, "device": "somebody else"}')).status_code == 200
    assert await sources(box, "battery_pct") == {f"http/@{issued.node_id}/"}

    async def battery() -> float | None:
        view = await box.box.node(ALICE, issued.node_id)
        return view.row.battery.value if view is not None and view.row.battery is not None else None

    assert await eventually_async(battery) == 63.0


async def test_a_node_that_is_there_becomes_a_device_and_keeps_what_it_was(start: Start) -> None:
    box = await start()
    node_id = await box.box.adopt(ALICE, "syslog/10.0.0.7/drone-01", "drone-01", Kind.EDGE, ("quay",))
    issued = await enrol(box, "drone-01")
    assert issued.node_id == node_id
    assert (await post(box, issued, '{"battery_pct": 63}')).status_code == 200
    view = await box.box.node(ALICE, node_id)
    assert view is not None
    assert view.row.tags == ("quay",)
    assert {one.key for one in view.sources} >= {"syslog/10.0.0.7/drone-01", f"device/@{node_id}/"}


async def test_a_gateway_brings_each_under_its_name_and_another_device_does_not(start: Start) -> None:
    box = await start()
    gateway, plain = await enrol(box, "mast", gateway=True), await enrol(box, "drone-01")
    body = '{"device": "buoy-1", "temp_c": 9}\n{"device": "buoy-2", "temp_c": 8}\n'
    assert (await post(box, gateway, body)).status_code == 200
    assert (await post(box, plain, body)).status_code == 200
    assert await sources(box, "temp_c", 3) == {
        f"http/@{gateway.node_id}/buoy-1",
        f"http/@{gateway.node_id}/buoy-2",
        f"http/@{plain.node_id}/",
    }


async def test_a_device_that_floods_is_told_to_wait_and_another_is_not(start: Start) -> None:
    box = await start(intake=Intake(device_rate=10, burst_s=1.0))
    one, other = await enrol(box, "drone-01"), await enrol(box, "drone-02")
    many = '{"n": 1}\n' * 200
    assert (await post(box, one, many)).status_code == 200  # larger than the bucket: taken when it is full, and owed
    refused = await post(box, one, '{"n": 2}')
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert (await post(box, other, '{"n": 3}')).status_code == 200
    lines = (await box.box.intake(ALICE)).lines
    assert next(line.refused for line in lines if line.intake == "http")["too much at once"] == 1


async def test_a_node_that_is_retired_shows_nothing_any_more(start: Start) -> None:
    box = await start(intake=Intake(mode="prod"))
    issued = await enrol(box, "drone-01")
    assert (await post(box, issued, '{"n": 1}')).status_code == 200

    async def active() -> str:
        view = await box.box.node(ALICE, issued.node_id)
        return view.row.phase if view is not None else ""

    await eventually_async(active, lambda phase: phase.startswith("ACTIVE"))
    for place in ("DECOMMISSIONING", "RETIRED"):
        await box.box.move(ALICE, issued.node_id, place, "worn out")
    assert (await post(box, issued, '{"n": 2}')).status_code == 401


async def test_a_relay_over_tls_brings_each_under_its_name(start: Start, tmp_path: Path) -> None:
    box = await start(syslog=Syslog(udp="", tcp="", tls="127.0.0.1:0"))
    key, csr = tmp_path / "mast.key", tmp_path / "mast.csr"
    new = ["openssl", "req", "-new", "-newkey", "ed25519", "-nodes", "-subj", "/CN=mast"]
    await asyncio.to_thread(
        subprocess.run, [*new, "-keyout", str(key), "-out", str(csr)], capture_output=True, check=True
    )
    issued = await enrol(box, "mast", gateway=True, pem=csr.read_text())
    (tmp_path / "mast.pem").write_text(issued.certificate_pem)
    context = ssl.create_default_context(cadata=issued.ca_pem)
    context.load_cert_chain(tmp_path / "mast.pem", key)
    port = int(box.addresses["syslog-tls"].rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    for name in ("buoy-1", "buoy-2"):
        raw = f"<13>1 2026-11-29T12:00:00Z {name} app - - - a relayed word".encode()
        writer.write(b"%d %s" % (len(raw), raw))
    writer.write(b"<13>Nov 29 12:00:00 buoy-3 app: a relayed word by the line\n")
    await writer.drain()
    assert await sources(box, "a relayed word", 3) == {
        f"syslog/@{issued.node_id}/{name}" for name in ("buoy-1", "buoy-2", "buoy-3")
    }
    writer.close()
