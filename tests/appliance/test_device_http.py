"""ThingsBoard's HTTP device API through the real server: a device with nothing but a token in its paths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from appliance.compose import Appliance
from appliance.intake.device_http import DeviceHttp
from fleet import limits
from fleet.devices import CodeWish, EnrolWish
from fleet.people import Identity, Refused, Role
from store.devices import Who
from tests.appliance.plain_door import OpenDoor
from tests.cast import eventually_async
from tests.conftest import ALDER
from web.policy import Entry, Table
from web.routes import TABLE

ALICE = Identity(name="alice", role=Role.OPERATOR)
WHO = Who("alice", "10.0.0.2")
COUNTED = b'{"ts":1795253400123,"values":{"temperature":21.5,"fw":"1.4"}}'


class Drone(NamedTuple):
    """Device kestrel, enrolled at alder, and its line."""

    alder: Appliance
    node_id: str
    token: str
    credential: str
    line: httpx2.AsyncClient

    def url(self, path: str) -> str:
        return f"/api/v1/{self.token}/{path}"

    async def post(self, path: str, body: bytes = b"{}") -> httpx2.Response:
        return await self.line.post(self.url(path), content=body)

    async def get(self, path: str) -> httpx2.Response:
        return await self.line.get(self.url(path))


@pytest.fixture
async def kestrel(alder: Appliance) -> AsyncIterator[Drone]:
    enrolled = await alder.devices.enrol(WHO, EnrolWish(name="kestrel"), "a test")
    await alder.box.entered(enrolled.node, enrolled.fresh)
    url = f"http://{alder.addresses['http']}"
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as line:
        yield Drone(alder, enrolled.node.id, enrolled.issued.secret, enrolled.issued.credential, line)


def kept(alder: Appliance) -> list[tuple[str, bytes]]:
    return [(record.source, record.content) for record in alder.history.after(0, 100_000).records]


async def test_telemetry_is_on_the_disk_when_it_is_answered(kestrel: Drone) -> None:
    answer = await kestrel.post("telemetry", COUNTED)
    assert (answer.status_code, answer.content) == (200, b"")
    assert kept(kestrel.alder) == [(f"http/@{kestrel.node_id}/", COUNTED)]
    world = kestrel.alder.world.nodes[kestrel.node_id]
    await eventually_async(lambda: _soon(world.snapshot.values), lambda values: "temp_c" in values)
    assert world.snapshot.version == "1.4"


async def _soon(value: object) -> dict[str, object]:
    return dict(value)  # type: ignore[call-overload, no-any-return]


async def test_an_array_is_one_record_a_point_each_byte_for_byte(kestrel: Drone) -> None:
    points = [b'{"ts":1795253400000,"values":{"t":1}}', b'{"t": 2}']
    assert (await kestrel.post("telemetry", b"[" + b" , ".join(points) + b"]")).status_code == 200
    assert [content for _, content in kept(kestrel.alder)] == points


@pytest.mark.parametrize("body", [b"", b"{", b"42", b'"text"', b"{" * 40 + b"}" * 40, b'{"a":\xff}'])
async def test_what_is_no_telemetry_is_refused_with_its_reason_and_kept_apart(kestrel: Drone, body: bytes) -> None:
    answer = await kestrel.post("telemetry", body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    await kestrel.alder.quarantine.flush()
    (item,) = await kestrel.alder.box.quarantine(ALICE, 0, 10, False)
    assert item.source == f"http/@{kestrel.node_id}/"
    assert item.reason == answer.json()["error"]
    assert kept(kestrel.alder) == []


async def test_a_body_that_is_too_long_is_refused(kestrel: Drone) -> None:
    assert (await kestrel.post("telemetry", b'{"a":"' + b"x" * limits.record_bytes_max + b'"}')).status_code == 413


async def test_a_token_that_was_revoked_lets_nobody_in_and_is_not_told(kestrel: Drone) -> None:
    await kestrel.alder.devices.revoke(WHO, kestrel.credential, "lost")
    for path in ("telemetry", "attributes", "claim", "rpc", "rpc/1"):
        answer = await kestrel.post(path)
        assert answer.status_code == 401
        assert kestrel.token not in answer.text
    for path in ("attributes", "attributes/updates", "rpc"):
        assert (await kestrel.get(path)).status_code == 401


async def test_what_a_device_said_of_itself_is_answered_and_outlives_a_restart(kestrel: Drone) -> None:
    said = b'{"firmware":"2.4.1","model":{"name":"K","rev":[1,2]},"armed":false}'
    assert (await kestrel.post("attributes", said)).status_code == 200
    answer = await kestrel.get("attributes?clientKeys=model,armed,nothing")
    assert answer.json() == {"client": {"model": {"name": "K", "rev": [1, 2]}, "armed": False}}
    assert kept(kestrel.alder) == [(f"attributes/@{kestrel.node_id}/", said)]
    snapshot = kestrel.alder.world.nodes[kestrel.node_id].snapshot
    await eventually_async(lambda: _soon(snapshot.attributes), lambda found: len(found) == 3)
    assert snapshot.version == "2.4.1"  # what drift compares
    kestrel.alder.device_api.attributes._fresh.clear()  # as a new process would begin
    assert (await kestrel.get("attributes?clientKeys=firmware")).json() == {"client": {"firmware": "2.4.1"}}


async def test_what_people_want_is_answered(kestrel: Drone) -> None:
    await kestrel.alder.box.change(ALICE, kestrel.node_id, "target_version", "2.5")
    await kestrel.alder.box.change(ALICE, kestrel.node_id, "tags", "scout drone")
    answer = await kestrel.get("attributes?sharedKeys=target_version,tags")
    assert answer.json() == {"shared": {"target_version": "2.5", "tags": ["drone", "scout"]}}
    everything = (await kestrel.get("attributes")).json()
    assert everything["shared"]["name"] == "kestrel"


async def test_a_change_comes_to_whoever_waits_for_it_and_one_in_between_to_the_next(kestrel: Drone) -> None:
    box = kestrel.alder.box
    assert (await kestrel.get("attributes/updates?timeout=1")).status_code == 408
    waiting = asyncio.create_task(kestrel.get("attributes/updates?timeout=20000"))
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats))
    await box.change(ALICE, kestrel.node_id, "target_version", "2.5")
    assert (await waiting).json() == {"target_version": "2.5"}
    await box.change(ALICE, kestrel.node_id, "target_version", "2.6")
    assert (await kestrel.get("attributes/updates?timeout=20000")).json() == {"target_version": "2.6"}
    await box.change(ALICE, kestrel.node_id, "target_version", "")
    assert (await kestrel.get("attributes/updates?timeout=20000")).json() == {"deleted": ["target_version"]}


async def _size(thing: object) -> int:
    return len(thing)  # type: ignore[arg-type]


async def test_what_a_bundle_wants_is_wanted_of_the_device(kestrel: Drone) -> None:
    box = kestrel.alder.box
    from fleet.document import Kind

    bundle = await box.policies.create(ALICE, Kind.BUNDLE, "Autumn")
    await box.change(ALICE, kestrel.node_id, "policy_bundle_id", bundle)
    assert (await kestrel.get("attributes/updates?timeout=1")).status_code == 408
    await box.policies.write(ALICE, Kind.BUNDLE, bundle, {"target_version": "3.0", "constraints/temp_c": "..60"})
    news = (await kestrel.get("attributes/updates?timeout=20000")).json()
    assert news == {"target_version": "3.0", "constraints": {"temp_c": "..60"}}


async def test_a_device_is_called_and_answers_by_long_poll(kestrel: Drone) -> None:
    called = asyncio.create_task(_when_polled(kestrel, "setGpio", {"pin": 4}))
    request = (await kestrel.get("rpc?timeout=20000")).json()
    assert request == {"id": request["id"], "method": "setGpio", "params": {"pin": 4}}
    assert (await kestrel.post(f"rpc/{request['id']}", b'{"pin":4,"on":true}')).status_code == 200
    assert await called == {"pin": 4, "on": True}
    told = [event for event in await kestrel.alder.box.events(ALICE, 0, 1000) if event.kind.startswith("device.call")]
    assert [event.subject for event in told] == [kestrel.node_id] * 2
    assert told[0].body.params == '{"pin":4}'  # type: ignore[union-attr]
    assert (await kestrel.post(f"rpc/{request['id']}", b"1")).status_code == 404  # it is over
    assert (await kestrel.post("rpc/77", b"1")).status_code == 404  # nobody asked


async def _when_polled(kestrel: Drone, method: str, params: object) -> object:
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats))
    return await kestrel.alder.box.call_device(ALICE, kestrel.node_id, method, params, 20.0, one_way=False)


async def test_a_call_of_a_device_that_is_not_connected_is_refused_and_one_without_an_answer_ends(
    kestrel: Drone,
) -> None:
    box = kestrel.alder.box
    with pytest.raises(Refused, match="not connected") as refused:
        await box.call_device(ALICE, kestrel.node_id, "reboot", None, 5.0, one_way=False)
    assert refused.value.status == 409
    waiting = asyncio.create_task(kestrel.get("rpc?timeout=20000"))
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats))
    with pytest.raises(Refused, match="did not answer") as late:
        await box.call_device(ALICE, kestrel.node_id, "reboot", None, 0.2, one_way=False)
    assert late.value.status == 504
    assert (await waiting).json()["method"] == "reboot"


async def test_a_call_one_way_waits_for_nothing(kestrel: Drone) -> None:
    waiting = asyncio.create_task(kestrel.get("rpc?timeout=20000"))
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats))
    answer = await kestrel.alder.box.call_device(ALICE, kestrel.node_id, "blink", [1], 5.0, one_way=True)
    assert answer is None
    assert (await waiting).json()["params"] == [1]


async def test_a_device_calls_methods_of_the_site(kestrel: Drone) -> None:
    limits_ = (await kestrel.post("rpc", b'{"method":"getSessionLimits","params":{"timeout":5000}}')).json()
    assert limits_["maxPayloadSize"] == limits.record_bytes_max
    assert set(limits_["rateLimits"]) == {"messages", "telemetryMessages", "telemetryDataPoints"}
    now_ms = (await kestrel.post("rpc", b'{"method":"getCurrentTime","params":{}}')).json()
    assert abs(now_ms * 1_000_000 - kestrel.alder.clock.now_ns()) < 60 * limits.SECOND
    assert "no method" in (await kestrel.post("rpc", b'{"method":"openDoor"}')).json()["error"]
    assert (await kestrel.post("rpc", b"[]")).status_code == 400


async def test_a_claim_is_taken_once_with_its_secret_which_stands_nowhere(kestrel: Drone) -> None:
    box = kestrel.alder.box
    assert (await kestrel.post("claim", b'{"secretKey":"tern-42","durationMs":60000}')).status_code == 200
    with pytest.raises(Refused, match="not the secret"):
        await box.claim_device(ALICE, kestrel.node_id, "tern-43")
    await box.claim_device(ALICE, kestrel.node_id, "tern-42")
    with pytest.raises(Refused, match="does not offer itself"):
        await box.claim_device(ALICE, kestrel.node_id, "tern-42")
    assert (await kestrel.post("claim", b'{"secretKey":""}')).status_code == 400
    await kestrel.alder.quarantine.flush()
    assert not await box.quarantine(ALICE, 0, 10, False)
    assert b"tern-42" not in (kestrel.alder.folder.site_db).read_bytes()
    assert "device.claimed" in [event.kind for event in await box.events(ALICE, 0, 1000)]


async def test_a_new_device_trades_its_code_for_a_token_and_comes_in_with_it(kestrel: Drone) -> None:
    _, code = await kestrel.alder.devices.make_code(WHO, CodeWish(name="merlin"))
    wish = {"deviceName": "merlin", "provisionDeviceKey": "skerry", "provisionDeviceSecret": code}
    made = (await kestrel.line.post("/api/v1/provision", content=json.dumps(wish))).json()
    assert (made["status"], made["credentialsType"]) == ("SUCCESS", "ACCESS_TOKEN")
    token = made["credentialsValue"]
    assert (await kestrel.line.post(f"/api/v1/{token}/telemetry", content=b'{"a":1}')).status_code == 200
    again = await kestrel.line.post("/api/v1/provision", content=json.dumps(wish))
    assert (again.status_code, again.json()["status"]) == (400, "FAILURE")


async def test_a_new_device_trades_its_code_for_a_certificate(kestrel: Drone) -> None:
    _, code = await kestrel.alder.devices.make_code(WHO, CodeWish(name="hobby"))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hobby")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    wish = {"provisionDeviceSecret": code, "credentialsType": "X509_CERTIFICATE"}
    asked = {**wish, "csr": csr.public_bytes(Encoding.PEM).decode()}
    refused = await kestrel.line.post("/api/v1/provision", content=json.dumps(wish))  # without one
    assert (refused.status_code, refused.json()["status"]) == (400, "FAILURE")
    made = (await kestrel.line.post("/api/v1/provision", content=json.dumps(asked))).json()
    certificate = x509.load_pem_x509_certificate(made["credentialsValue"].encode())
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made["caCertificate"].encode()))


async def test_the_token_stands_in_no_event_item_count_or_answer(
    kestrel: Drone, caplog: pytest.LogCaptureFixture
) -> None:
    await kestrel.post("telemetry", b"{")
    await kestrel.post("attributes", b"[")
    await kestrel.get("rpc?timeout=x")
    await kestrel.get("nothing/here")
    texts = [(await kestrel.get("rpc?timeout=x")).text, (await kestrel.post("nothing")).text]
    await kestrel.alder.quarantine.flush()
    texts += [str(item) for item in await kestrel.alder.box.quarantine(ALICE, 0, 10, False)]
    texts += [str(event) for event in await kestrel.alder.box.events(ALICE, 0, 1000)]
    texts += [str(gauge) for gauge in await kestrel.alder.box.gauges()]
    texts += [str(kestrel.alder.gate.tally("http").refused), caplog.text]
    assert not [text for text in texts if kestrel.token in text]


async def test_who_waits_for_a_call_is_no_page_and_goes_when_its_line_does(kestrel: Drone) -> None:
    waiting = asyncio.create_task(kestrel.get("rpc?timeout=20000"))
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats))
    assert kestrel.alder.pages.none.is_set()  # the interpreter need not step aside for it
    gauges = {
        gauge.labels: gauge.value for gauge in await kestrel.alder.box.gauges() if gauge.name == "skerry_device_api"
    }
    assert gauges[(("what", "seats"),)] == 1
    waiting.cancel()
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats), lambda size: size == 0)


async def test_a_revocation_ends_what_waits_with_its_token(kestrel: Drone) -> None:
    waiting = asyncio.create_task(kestrel.get("rpc?timeout=60000"))
    await eventually_async(lambda: _size(kestrel.alder.device_api.seats))
    await kestrel.alder.devices.revoke(WHO, kestrel.credential, "lost")
    assert (await waiting).status_code == 401


async def test_who_waits_is_sent_away_when_the_box_stops(tmp_path: Path) -> None:
    box = Appliance(tmp_path / "alder", ALDER)
    await box.start()
    enrolled = await box.devices.enrol(WHO, EnrolWish(name="kestrel"), "a test")
    await box.box.entered(enrolled.node, enrolled.fresh)
    url = f"http://{box.addresses['http']}/api/v1/{enrolled.issued.secret}/rpc?timeout=60000"
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as line:
        waiting = asyncio.create_task(line.get(url))
        await eventually_async(lambda: _size(box.device_api.seats))
        await box.stop()
        assert (await waiting).status_code == 408


def test_the_rows_of_the_box_are_not_shadowed(alder_http: DeviceHttp) -> None:
    both = Table((*TABLE, *alder_http.routes()))
    for entry in TABLE:
        path = entry.path
        for name in ("id", "name", "secret", "number"):
            path = path.replace(f"{{{name}}}", "rpc")
        before: Entry | None = Table(TABLE).find(entry.method, path)[0]
        assert both.find(entry.method, path)[0] == before


@pytest.fixture
def alder_http() -> DeviceHttp:
    return DeviceHttp(None, OpenDoor(), None, lambda *item: None)  # type: ignore[arg-type]
